"use client";

import { Ban, Copy, Pause, RotateCcw, Trash2, Workflow } from "lucide-react";
import Link from "next/link";
import { useState } from "react";

import { copy } from "@/components/copy-button";
import { MoreMenu } from "@/components/more-menu";
import { RunStatusBadge } from "@/components/run-status";
import { Ago, useNow } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { toast } from "@/components/ui/toast";
import type { RunRead } from "@/lib/api";
import { duration } from "@/lib/format";

import type { RunActions } from "./actions";

/** What a run is at, in a line. */
export function RunFacts({ run, ended }: { run: RunRead; ended: boolean }) {
  return (
    <span className="flex flex-wrap items-center gap-x-3 gap-y-1">
      <RunStatusBadge status={run.status} />
      <span>
        {run.started_at ? "Started " : "Made "}
        <Ago at={run.started_at ?? run.created_at} />
      </span>
      {run.started_at && <Elapsed run={run} ended={ended} />}
      {run.workflow_id && (
        <Link href={`/workflows/${run.workflow_id}`} className="text-ink-2 underline-offset-2 hover:underline">
          Its workflow
        </Link>
      )}
      {run.retry_of && (
        <Link href={`/runs/${run.retry_of}`} className="text-ink-2 underline-offset-2 hover:underline">
          Retry of another run
        </Link>
      )}
    </span>
  );
}

function Elapsed({ run, ended }: { run: RunRead; ended: boolean }) {
  const now = useNow(ended ? 0 : 1000);
  if (!run.started_at) return null;
  const until = run.finished_at ? Date.parse(run.finished_at) : now;
  return <span className="tabular-nums">{duration(Math.max(Math.round((until - Date.parse(run.started_at)) / 100) * 100, 0))}</span>;
}

interface RunButtonsProps {
  run: RunRead;
  ended: boolean;
  agent: boolean;
  actions: RunActions;
}

export function RunButtons({ run, ended, agent, actions }: RunButtonsProps) {
  const [asked, setAsked] = useState<"cancel" | "delete" | null>(null);
  const close = () => setAsked(null);
  const pausing = run.control === "pause" && (run.status === "running" || run.status === "queued");
  const cancelling = run.control === "cancel" && !ended;
  return (
    <>
      {(run.status === "running" || run.status === "queued") && (
        <Button busy={actions.pause.isPending || pausing} disabled={cancelling} onClick={() => actions.pause.mutate()}>
          <Pause />
          {pausing ? "Pausing" : "Pause"}
        </Button>
      )}
      {!ended && (
        <Button look="danger" busy={actions.cancel.isPending || cancelling} onClick={() => setAsked("cancel")}>
          <Ban />
          {cancelling ? "Cancelling" : "Cancel"}
        </Button>
      )}
      {ended && (
        <Button busy={actions.retry.isPending && actions.retry.variables === undefined} onClick={() => actions.retry.mutate(undefined)}>
          <RotateCcw />
          Run again
        </Button>
      )}
      <MoreMenu
        items={[
          ...(agent
            ? [{ label: "Save as workflow", icon: <Workflow />, disabled: !ended, onSelect: () => actions.saveAsWorkflow.mutate() }]
            : []),
          {
            label: "Copy its id",
            icon: <Copy />,
            onSelect: () => void copy(run.id).then((copied) => copied && toast.done("Copied", run.id)),
          },
          null,
          { label: "Delete", icon: <Trash2 />, danger: true, disabled: !ended, onSelect: () => setAsked("delete") },
        ]}
      />
      <Confirm
        open={asked === "cancel"}
        onOpenChange={close}
        title="Cancel the run?"
        description="It stops within a second and its browser is closed. What it has done stays done."
        action="Cancel the run"
        busy={actions.cancel.isPending}
        onConfirm={() => actions.cancel.mutate(undefined, { onSettled: close })}
      />
      <Confirm
        open={asked === "delete"}
        onOpenChange={close}
        title="Delete the run?"
        description="Its steps, recording, messages and files go with it."
        action="Delete"
        busy={actions.remove.isPending}
        onConfirm={() => actions.remove.mutate(undefined, { onSettled: close })}
      />
    </>
  );
}
