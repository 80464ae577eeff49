"use client";

import Link from "next/link";
import { useCallback, useState } from "react";

import { RunStatusBadge } from "@/components/run-status";
import { Ago } from "@/components/time";
import { Rows, Section } from "@/components/ui/page";
import { RunRow } from "@/features/runs/run-row";
import type { EventRead, RunRead } from "@/lib/api";
import { useEventListener } from "@/lib/events";
import { counted } from "@/lib/format";

import { Still } from "./still";

const SHOWN = 6;

export function Running({ runs }: { runs: RunRead[] }) {
  if (runs.length === 0) return null;
  const open = runs.filter(({ status }) => status !== "queued");
  const queued = runs.filter(({ status }) => status === "queued");
  return (
    <Section
      title="Running now"
      actions={
        (open.length > SHOWN || queued.length > SHOWN) && (
          <Link href="/runs" className="text-xs text-ink-3 hover:text-ink hover:underline">
            All {runs.length}
          </Link>
        )
      }
    >
      {open.length > 0 && (
        <ul aria-label="Running now" className="grid grid-cols-1 gap-4 sm:grid-cols-2 lg:grid-cols-3">
          {open.slice(0, SHOWN).map((run) => (
            <RunCard key={run.id} run={run} />
          ))}
        </ul>
      )}
      {queued.length > 0 && (
        <Rows label="Queued">
          {queued.slice(0, SHOWN).map((run) => (
            <li key={run.id}>
              <RunRow run={run} />
            </li>
          ))}
        </Rows>
      )}
    </Section>
  );
}

/** A run, what its browser shows, and what it does at the moment. */
function RunCard({ run }: { run: RunRead }) {
  const [step, setStep] = useState<string | null>(null);
  useEventListener(
    useCallback(
      ({ run_id, kind, data }: EventRead) => {
        if (run_id === run.id && kind === "run.step.started") setStep(`Step ${String(data.number)} · ${String(data.title)}`);
      },
      [run.id],
    ),
  );
  return (
    <li>
      <Link href={`/runs/${run.id}`} className="block overflow-hidden rounded-xl border border-line bg-surface transition-colors hover:border-line-strong">
        <Still runId={run.id} computerId={run.computer_id} begun={run.step_count > 0} />
        <div className="flex flex-col gap-1 p-3">
          <div className="flex items-start gap-2">
            <p className="line-clamp-2 min-w-0 flex-1 text-sm font-medium break-words">{run.title}</p>
            <RunStatusBadge status={run.status} />
          </div>
          <p className="flex gap-2 text-xs text-ink-3">
            <span className="min-w-0 flex-1 truncate">{step ?? `${counted(run.step_count, "step")} done`}</span>
            <Ago at={run.started_at ?? run.created_at} />
          </p>
        </div>
      </Link>
    </li>
  );
}
