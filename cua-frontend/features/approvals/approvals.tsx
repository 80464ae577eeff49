"use client";

import { Hand } from "lucide-react";
import Link from "next/link";

import { List, useList } from "@/components/list";
import { Ago } from "@/components/time";
import { Badge, type Look } from "@/components/ui/badge";
import { Page, Section } from "@/components/ui/page";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { type ApprovalRead, type ApprovalStatus, listApprovals } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

import { ApprovalCard, titleOf } from "./approval-card";
import { usePendingApprovals } from "./queries";

/** Every question that waits for a yes or no, and what was answered before. */
export function Approvals() {
  return (
    <Page title="Approvals" description="Runs ask here before they do what matters. No answer in time is a no.">
      <Pending />
      <Decided />
    </Page>
  );
}

function Pending() {
  const pending = usePendingApprovals();
  return (
    <Section title="Waiting for you">
      <div aria-live="polite" className="flex flex-col gap-4">
        {pending.isPending ? (
          <Skeletons count={1} className="h-72" />
        ) : pending.isError ? (
          <Failure title="The approvals could not be read" error={pending.error} retry={() => void pending.refetch()} />
        ) : pending.data.length === 0 ? (
          <Empty icon={<Hand />} title="Nothing waits for you">
            When a run is about to pay, send, delete or sign in, its question appears here and in the run.
          </Empty>
        ) : (
          <div className="grid items-start gap-4 xl:grid-cols-2">
            {pending.data.map((approval) => (
              <ApprovalCard key={approval.id} approval={approval} linked />
            ))}
          </div>
        )}
      </div>
    </Section>
  );
}

/** Below what waits, and therefore not before it. */
function Decided() {
  const pending = usePendingApprovals();
  const decided = useList(keys.list("approval"), (cursor) => page(listApprovals({ query: { cursor } })), {
    where: (approval) => approval.status !== "pending",
  });
  if (pending.isPending || decided.isPending || (decided.data?.length === 0 && !decided.hasNextPage)) return null;
  return (
    <Section title="Decided">
      <List query={decided} label="Decided approvals" failed="Earlier approvals could not be read" empty={null}>
        {(approval) => <DecidedRow approval={approval} />}
      </List>
    </Section>
  );
}

const SHOWN: Record<ApprovalStatus, { label: string; look: Look }> = {
  pending: { label: "Waiting", look: "warn" },
  approved: { label: "Approved", look: "good" },
  denied: { label: "Denied", look: "bad" },
  expired: { label: "Expired", look: "plain" },
  cancelled: { label: "Withdrawn", look: "plain" },
};

function DecidedRow({ approval }: { approval: ApprovalRead }) {
  const { label, look } = SHOWN[approval.status];
  const changed = Object.keys(approval.arguments ?? {});
  const said = [approval.note, changed.length > 0 && `changed ${changed.join(", ")}`].filter(Boolean).join(" · ");
  return (
    <Link href={`/runs/${approval.run_id}`} className="flex min-h-14 items-center gap-4 px-4 py-2.5 hover:bg-sunken focus-visible:-outline-offset-2">
      <span className="w-20 shrink-0">
        <Badge look={look}>{label}</Badge>
      </span>
      <span className="flex min-w-0 flex-1 flex-col">
        <span className="truncate">{titleOf(approval)}</span>
        {said && <span className="truncate text-xs text-ink-3">{said}</span>}
      </span>
      <Ago at={approval.decided_at ?? approval.updated_at} className="shrink-0 text-xs text-ink-3" />
    </Link>
  );
}
