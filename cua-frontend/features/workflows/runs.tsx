"use client";

import { Activity, Play } from "lucide-react";
import Link from "next/link";

import { LoadMore } from "@/components/list";
import { RunStatusBadge } from "@/components/run-status";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Rows } from "@/components/ui/page";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import type { RunRead, WorkflowRead } from "@/lib/api";
import { duration } from "@/lib/format";

import { useRunsOfWorkflow } from "./queries";

export function WorkflowRuns({ workflow, onRun }: { workflow: Pick<WorkflowRead, "id">; onRun: () => void }) {
  const pages = useRunsOfWorkflow(workflow.id);
  const runs = pages.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <div className="flex flex-col gap-4 pt-4">
      {pages.isPending && <Skeletons count={6} className="h-14" />}
      {pages.error && <Failure title="The runs cannot be shown" error={pages.error} retry={() => void pages.refetch()} />}
      {pages.data && runs.length === 0 && (
        <Empty
          icon={<Activity />}
          title="It has not run yet"
          action={
            <Button look="primary" onClick={onRun}>
              <Play aria-hidden />
              Run
            </Button>
          }
        >
          Each run keeps its steps, pictures, files and results.
        </Empty>
      )}
      {runs.length > 0 && (
        <Rows label="Runs">
          {runs.map((run) => (
            <RunRow key={run.id} run={run} />
          ))}
        </Rows>
      )}
      <LoadMore query={pages} />
    </div>
  );
}

function progress({ status, position, step_count, active_ms }: RunRead): string {
  if (status === "queued") return position ? `Place ${position} in the queue` : "Begins soon";
  if (step_count === 0 && active_ms === 0) return "Ended before its first step";
  return `${step_count} ${step_count === 1 ? "step" : "steps"} in ${duration(active_ms)}`;
}

/** A run, what it was given, and what became of it. */
export function RunRow({ run, titled }: { run: RunRead; titled?: boolean }) {
  const given = Object.entries(run.params)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
  const failed = run.status === "failed" && typeof run.error?.detail === "string" ? run.error.detail : null;
  return (
    <li>
      <Link href={`/runs/${run.id}`} className="flex min-h-14 items-center gap-3 px-4 py-2 hover:bg-sunken/60">
        <div className="min-w-0 flex-1">
          <p className="truncate text-sm">{titled ? <span className="font-medium">{run.title}</span> : given || "Without params"}</p>
          <p className={failed ? "truncate text-xs text-bad" : "truncate text-xs text-ink-3"}>
            {failed ?? run.reason ?? progress(run)}
            {titled && !failed && given && ` · ${given}`}
          </p>
        </div>
        <RunStatusBadge status={run.status} />
        <Ago at={run.created_at} className="w-20 shrink-0 text-right text-xs text-ink-3" />
      </Link>
    </li>
  );
}
