"use client";

import { useQueryClient } from "@tanstack/react-query";
import { Activity, Plus } from "lucide-react";
import { useRouter, useSearchParams } from "next/navigation";
import { useCallback, useState } from "react";

import { Choice, SearchField } from "@/components/filter-bar";
import { List, useList } from "@/components/list";
import { useShell } from "@/components/shell/shell";
import { Button } from "@/components/ui/button";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { TextLink } from "@/components/ui/text-link";
import { type EventRead, listRuns, type RunStatus } from "@/lib/api";
import { page } from "@/lib/client";
import { useEventListener } from "@/lib/events";
import { keys } from "@/lib/keys";

import { RUN_ROW, RunRow } from "./run-row";

const STATUSES = [
  ["all", "All"],
  ["running", "Running"],
  ["waiting_approval", "Needs approval"],
  ["waiting_user", "Needs you"],
  ["queued", "Queued"],
  ["paused", "Paused"],
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
  ["cancelled", "Cancelled"],
] as const satisfies [RunStatus | "all", string][];
type Status = (typeof STATUSES)[number][0];

/** All runs, the newest first, as they are now. */
export function RunList() {
  const { startTask } = useShell();
  const router = useRouter();
  const asked = useSearchParams();
  const scheduleId = asked.get("schedule_id");
  const status = STATUSES.find(([each]) => each === asked.get("status"))?.[0] ?? "all";
  const [q, setQ] = useState("");
  const runs = useRuns(status, q, scheduleId);
  return (
    <Page
      title="Runs"
      description={
        scheduleId ? (
          <>
            Those of one schedule.{" "}
            <TextLink href="/runs">
              Show all
            </TextLink>
          </>
        ) : (
          "What your browsers do and have done."
        )
      }
      actions={
        <Button look="primary" onClick={startTask}>
          <Plus />
          Start a task
        </Button>
      }
    >
      <div className="flex flex-col gap-4">
        <div className="flex flex-wrap items-center gap-3">
          <SearchField label="Search runs by title" placeholder="Search by title" onChange={setQ} />
          <Choice label="Filter by status" options={STATUSES} value={status} onChange={(next) => router.replace(pathOf(next, scheduleId), { scroll: false })} />
        </div>
        <List
          query={runs}
          label="Runs"
          failed="The runs could not be read"
          row={RUN_ROW}
          empty={<Nothing filtered={status !== "all" || q !== "" || scheduleId !== null} onStart={startTask} />}
        >
          {(run) => <RunRow run={run} />}
        </List>
      </div>
    </Page>
  );
}

function pathOf(status: Status, scheduleId: string | null): string {
  const only = new URLSearchParams();
  if (status !== "all") only.set("status", status);
  if (scheduleId) only.set("schedule_id", scheduleId);
  return only.size > 0 ? `/runs?${only}` : "/runs";
}

function useRuns(status: Status, q: string, scheduleId: string | null) {
  const cache = useQueryClient();
  useEventListener(
    useCallback(
      (event: EventRead) => {
        // A run that becomes what is filtered for may be in other lists only.
        if (event.resource.type !== "run" || event.data.status !== status) return;
        void cache.invalidateQueries({ queryKey: keys.list("run", { status, q, scheduleId }) });
      },
      [cache, status, q, scheduleId],
    ),
  );
  const only = { status: status === "all" ? undefined : status, q: q || undefined, schedule_id: scheduleId ?? undefined };
  return useList(keys.list("run", { status, q, scheduleId }), (cursor) => page(listRuns({ query: { ...only, cursor } })), {
    where: (run) => status === "all" || run.status === status,
  });
}

function Nothing({ filtered, onStart }: { filtered: boolean; onStart: () => void }) {
  if (filtered) {
    return (
      <Empty icon={<Activity />} title="No such runs">
        Choose another status or other words.
      </Empty>
    );
  }
  return (
    <Empty
      icon={<Activity />}
      title="No runs yet"
      action={
        <Button look="primary" onClick={onStart}>
          <Plus />
          Start a task
        </Button>
      }
    >
      Say what is to be done, and watch a browser do it here. Workflows and schedules leave their runs here, too.
    </Empty>
  );
}
