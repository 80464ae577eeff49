"use client";

import { useQuery } from "@tanstack/react-query";
import { Plus } from "lucide-react";
import Link from "next/link";

import { ENDED, WAITING } from "@/components/run-status";
import { useShell } from "@/components/shell/shell";
import { Button } from "@/components/ui/button";
import { Page, Rows, Section } from "@/components/ui/page";
import { Failure, Skeletons } from "@/components/ui/states";
import { TextLink } from "@/components/ui/text-link";
import { usePendingApprovals } from "@/features/approvals/queries";
import { useMe } from "@/features/me";
import { useRecentRuns } from "@/features/runs/queries";
import { RunRow } from "@/features/runs/run-row";
import { listWorkflows } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

import { FirstRun, SampleUnreachable } from "./first-run";
import { NeedsYou } from "./needs-you";
import { Running } from "./running";

const RECENT = 8;

/** What goes on, what waits for this person, and what has come of the rest. */
export function Home() {
  const { startTask } = useShell();
  const me = useMe();
  const runs = useRecentRuns();
  const approvals = usePendingApprovals();
  const workflows = useQuery({
    queryKey: keys.list("workflow", { limit: 1 }),
    queryFn: () => page(listWorkflows({ query: { limit: 1 } })),
    enabled: runs.data?.length === 0,
  });
  const all = runs.data ?? [];
  const going = all.filter(({ status }) => !ENDED.has(status));
  const ended = all.filter(({ status }) => ENDED.has(status)).slice(0, RECENT);
  const waiting = going.filter(({ status }) => status === "waiting_user" || status === "paused");
  const asking = runs.isPending || (runs.data?.length === 0 && workflows.isPending);
  const isNew = runs.data?.length === 0 && workflows.data?.data.length === 0;
  const name = me.data?.name;
  return (
    <Page
      title={name ? `Hello, ${name}` : "Home"}
      description={isNew ? "Three ways to begin." : undefined}
      actions={
        !isNew && !asking && (
          <Button look="primary" onClick={startTask}>
            <Plus aria-hidden />
            Start a task
          </Button>
        )
      }
    >
      {asking && !runs.error && <Skeletons count={5} className="h-14" />}
      {runs.error && <Failure title="The runs could not be read" error={runs.error} retry={() => void runs.refetch()} />}
      {isNew && <FirstRun />}
      <SampleUnreachable run={all[0]} />
      <NeedsYou approvals={approvals.data ?? []} waiting={waiting} />
      <Running runs={going.filter(({ status }) => !WAITING.has(status) && status !== "paused")} />
      {ended.length > 0 && (
        <Section
          title="Recent results"
          actions={
            <Link href="/runs" className="text-xs text-ink-3 hover:text-ink hover:underline">
              All runs
            </Link>
          }
        >
          <Rows label="Recent results">
            {ended.map((run) => (
              <li key={run.id}>
                <RunRow run={run} />
              </li>
            ))}
          </Rows>
        </Section>
      )}
      {runs.data && !isNew && !asking && all.length === 0 && (
        <p className="py-8 text-center text-sm text-ink-3">
          Nothing has run yet. Start a task, or run one of your{" "}
          <TextLink href="/workflows">
            workflows
          </TextLink>
          .
        </p>
      )}
    </Page>
  );
}
