"use client";

import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Activity } from "lucide-react";
import { useState } from "react";

import { List, useList } from "@/components/list";
import { ENDED, RunStatusBadge } from "@/components/run-status";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Select } from "@/components/ui/field";
import { Section } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { TextLink } from "@/components/ui/text-link";
import { toast } from "@/components/ui/toast";
import { type AdminRunRead, cancelAnyRun, listAllRuns, readUser, type RunStatus } from "@/lib/api";
import { call, page } from "@/lib/client";
import { counted, duration } from "@/lib/format";
import { keys } from "@/lib/keys";

const STATUSES: [RunStatus, string][] = [
  ["queued", "Queued"],
  ["running", "Running"],
  ["paused", "Paused"],
  ["waiting_approval", "Needs approval"],
  ["waiting_user", "Needs its user"],
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
];
const KEY = keys.about("admin", "runs");
/** Other people's events do not come over the socket. */
const EVERY_MS = 10_000;

/** Everybody's runs, or one user's; not what they are about. */
export function AllRuns({ owner }: { owner?: string }) {
  const cache = useQueryClient();
  const [status, setStatus] = useState<RunStatus | "">("");
  const [ending, setEnding] = useState<AdminRunRead | null>(null);
  const filters = { ...(status && { status }), ...(owner && { owner }) };
  const runs = useList([...KEY, filters], (cursor) => page(listAllRuns({ query: { ...filters, cursor } })), { refetchInterval: EVERY_MS });
  const cancel = useMutation({
    mutationFn: (run: AdminRunRead) => call(cancelAnyRun({ path: { run: run.id } })),
    onSuccess: () => {
      setEnding(null);
      return cache.invalidateQueries({ queryKey: KEY });
    },
    onError: (error) => toast.failed("The run was not cancelled", error),
  });
  return (
    <Section
      title={owner ? "Runs" : "Runs of everybody"}
      actions={
        <div className="w-44">
          <Select aria-label="Status" value={status} onChange={(event) => setStatus(event.target.value as RunStatus | "")}>
            <option value="">Every status</option>
            {STATUSES.map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </Select>
        </div>
      }
    >
      <List
        query={runs}
        label="Runs"
        failed="The runs could not be read"
        row="h-14"
        empty={
          <Empty icon={<Activity />} title="No such runs">
            {status ? "No run has this status now." : owner ? "This user has started none." : "Nobody has started one yet."}
          </Empty>
        }
      >
        {(run) => (
          <div className="flex min-h-14 flex-wrap items-center gap-x-3 gap-y-1 px-4 py-2">
            <RunStatusBadge status={run.status} />
            <span className="min-w-0 flex-1 max-sm:order-first max-sm:basis-full">
              <span className="block truncate font-mono text-xs">{run.id}</span>
              <span className="block truncate text-xs text-ink-3">
                {!owner && (
                  <>
                    of{" "}
                    <Owner id={run.owner} />
                    {" · "}
                  </>
                )}
                {counted(run.step_count, "step")} · {duration(run.active_ms)}
                {run.error_code && ` · ${run.error_code}`}
              </span>
            </span>
            <Ago at={run.created_at} className="text-xs text-ink-3 max-sm:flex-1" />
            {!ENDED.has(run.status) && (
              <Button size="sm" look="danger" disabled={run.control === "cancel"} onClick={() => setEnding(run)}>
                {run.control === "cancel" ? "Ending…" : "Cancel"}
              </Button>
            )}
          </div>
        )}
      </List>
      <Confirm
        open={ending !== null}
        onOpenChange={() => setEnding(null)}
        title="Cancel the run?"
        description="It ends within a second, whatever it is about. Its user sees that it was cancelled and may start it anew."
        action="Cancel the run"
        busy={cancel.isPending}
        onConfirm={() => ending && cancel.mutate(ending)}
      />
    </Section>
  );
}

function Owner({ id }: { id: string }) {
  const { data } = useQuery({ queryKey: keys.one("user", id), queryFn: () => call(readUser({ path: { user: id } })) });
  return (
    <TextLink href={`/admin/users/${encodeURIComponent(id)}`}>
      {data?.name || data?.email || id}
    </TextLink>
  );
}
