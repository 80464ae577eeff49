"use client";

import Link from "next/link";

import { ENDED, RunStatusBadge } from "@/components/run-status";
import { Ago, useNow } from "@/components/time";
import type { RunRead } from "@/lib/api";
import { cn } from "@/lib/cn";
import { duration } from "@/lib/format";

import { waitsFor } from "./reasons";

/** The height of a row while it comes. */
export const RUN_ROW = "h-15";

/** A run in a list: what it is, what is to be known of it, and how it goes. Among runs of one workflow its params tell it from others. */
export function RunRow({ run, ofOneWorkflow }: { run: RunRead; ofOneWorkflow?: boolean }) {
  const waits = waitsFor(run);
  const params = Object.entries(run.params)
    .map(([name, value]) => `${name}: ${typeof value === "string" ? value : JSON.stringify(value)}`)
    .join(", ");
  const detail = waits ?? (ofOneWorkflow ? null : params);
  return (
    <Link href={`/runs/${run.id}`} className="flex min-h-15 items-center gap-4 px-4 py-2.5 hover:bg-sunken focus-visible:-outline-offset-2">
      <span className="w-28 shrink-0 max-sm:hidden">
        <RunStatusBadge status={run.status} />
      </span>
      <span className="flex min-w-0 flex-1 flex-col">
        <span className="truncate font-medium">{ofOneWorkflow ? params || "Without params" : run.title}</span>
        {detail && <span className={cn("truncate text-xs", run.status === "failed" ? "text-bad" : "text-ink-3")}>{detail}</span>}
        <span className="mt-1 flex items-center gap-2 text-xs text-ink-3 sm:hidden">
          <RunStatusBadge status={run.status} />
          <Ago at={run.created_at} />
          <Took run={run} />
        </span>
      </span>
      <span className="w-20 shrink-0 text-right text-xs max-sm:hidden">
        <Took run={run} />
      </span>
      <Ago at={run.created_at} className="w-24 shrink-0 text-right text-xs text-ink-3 max-sm:hidden" />
    </Link>
  );
}

function Took({ run }: { run: RunRead }) {
  const now = useNow();
  if (!run.started_at) return null;
  const end = run.finished_at ? Date.parse(run.finished_at) : ENDED.has(run.status) ? Date.parse(run.updated_at) : now;
  return <span className="text-xs text-ink-3 tabular-nums">{duration(Math.max(end - Date.parse(run.started_at), 0))}</span>;
}
