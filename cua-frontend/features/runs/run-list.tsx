"use client";

import { useInfiniteQuery, useQueryClient } from "@tanstack/react-query";
import { Activity, Plus, Search } from "lucide-react";
import Link from "next/link";
import { useRouter, useSearchParams } from "next/navigation";
import { useCallback, useDeferredValue, useState } from "react";

import { LoadMore } from "@/components/list";
import { ENDED, RunStatusBadge } from "@/components/run-status";
import { useShell } from "@/components/shell/shell";
import { Ago, useNow } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Page, Rows } from "@/components/ui/page";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { type EventRead, listRuns, type RunRead, type RunStatus } from "@/lib/api";
import { page } from "@/lib/client";
import { cn } from "@/lib/cn";
import { useEventListener } from "@/lib/events";
import { duration } from "@/lib/format";
import { keys } from "@/lib/keys";

import { waitsFor } from "./reasons";

const FILTERS: { status: RunStatus | null; label: string }[] = [
  { status: null, label: "All" },
  { status: "running", label: "Running" },
  { status: "waiting_approval", label: "Needs approval" },
  { status: "waiting_user", label: "Needs you" },
  { status: "queued", label: "Queued" },
  { status: "paused", label: "Paused" },
  { status: "succeeded", label: "Succeeded" },
  { status: "failed", label: "Failed" },
  { status: "cancelled", label: "Cancelled" },
];

/** All runs, the newest first, as they are now. */
export function RunList() {
  const { startTask } = useShell();
  const router = useRouter();
  const asked = useSearchParams();
  const scheduleId = asked.get("schedule_id");
  const status = FILTERS.find((filter) => filter.status === asked.get("status"))?.status ?? null;
  const [text, setText] = useState("");
  const q = useDeferredValue(text.trim());
  const runs = useRuns(status, q, scheduleId);
  const shown = runs.data?.pages.flatMap((each) => each.data).filter((run) => !status || run.status === status) ?? [];
  return (
    <Page
      title="Runs"
      description={
        scheduleId ? (
          <>
            Those of one schedule.{" "}
            <Link href="/runs" className="text-accent-strong underline underline-offset-2">
              Show all
            </Link>
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
      <div className="flex flex-col gap-3">
        <div className="relative">
          <Search className="pointer-events-none absolute top-2.5 left-3 size-4 text-ink-3" aria-hidden />
          <input
            type="search"
            aria-label="Search runs by title"
            placeholder="Search by title"
            value={text}
            onChange={(event) => setText(event.target.value)}
            className="h-9 w-full rounded-md border border-line-strong bg-surface pr-3 pl-9 text-sm placeholder:text-ink-3"
          />
        </div>
        <div role="group" aria-label="Filter by status" className="-mx-4 flex gap-1 overflow-x-auto px-4 pb-1 sm:mx-0 sm:flex-wrap sm:px-0">
          {FILTERS.map((filter) => (
            <button
              key={filter.label}
              type="button"
              aria-pressed={filter.status === status}
              onClick={() => router.replace(pathOf(filter.status, scheduleId), { scroll: false })}
              className={cn(
                "h-7 shrink-0 rounded-full border px-3 text-xs",
                filter.status === status ? "border-accent bg-accent-soft font-medium text-accent-strong" : "border-line text-ink-2 hover:bg-sunken",
              )}
            >
              {filter.label}
            </button>
          ))}
        </div>
        {runs.isPending ? (
          <Skeletons count={8} className="h-15" />
        ) : runs.isError ? (
          <Failure title="The runs could not be read" error={runs.error} retry={() => void runs.refetch()} />
        ) : shown.length === 0 ? (
          <Nothing filtered={status !== null || q !== "" || scheduleId !== null} onStart={startTask} />
        ) : (
          <Rows label="Runs">
            {shown.map((run) => (
              <RunRow key={run.id} run={run} />
            ))}
          </Rows>
        )}
        <LoadMore query={runs} />
      </div>
    </Page>
  );
}

function pathOf(status: RunStatus | null, scheduleId: string | null): string {
  const only = new URLSearchParams();
  if (status) only.set("status", status);
  if (scheduleId) only.set("schedule_id", scheduleId);
  return only.size > 0 ? `/runs?${only}` : "/runs";
}

function useRuns(status: RunStatus | null, q: string, scheduleId: string | null) {
  const cache = useQueryClient();
  useEventListener(
    useCallback(
      (event: EventRead) => {
        // A run that becomes what is filtered for may be in other lists only.
        if (!status || event.resource.type !== "run" || event.data.status !== status) return;
        void cache.invalidateQueries({ queryKey: keys.list("run", { status, q, scheduleId }) });
      },
      [cache, status, q, scheduleId],
    ),
  );
  return useInfiniteQuery({
    queryKey: keys.list("run", { status, q, scheduleId }),
    queryFn: ({ pageParam }) => {
      const only = { status: status ?? undefined, q: q || undefined, schedule_id: scheduleId ?? undefined };
      return page(listRuns({ query: { ...only, cursor: pageParam || undefined } }));
    },
    initialPageParam: "",
    getNextPageParam: (last) => last.next_cursor,
    placeholderData: (before) => before,
  });
}

function RunRow({ run }: { run: RunRead }) {
  const waits = waitsFor(run);
  return (
    <li>
      <Link href={`/runs/${run.id}`} className="flex min-h-15 items-center gap-4 px-4 py-2.5 hover:bg-sunken focus-visible:-outline-offset-2">
        <span className="w-28 shrink-0 max-sm:hidden">
          <RunStatusBadge status={run.status} />
        </span>
        <span className="flex min-w-0 flex-1 flex-col">
          <span className="truncate font-medium">{run.title}</span>
          {waits && <span className={cn("truncate text-xs", run.status === "failed" ? "text-bad" : "text-ink-3")}>{waits}</span>}
          <span className="mt-1 flex items-center gap-2 text-xs text-ink-3 sm:hidden">
            <RunStatusBadge status={run.status} />
            <Ago at={run.created_at} />
            <Took run={run} />
          </span>
        </span>
        <span className="w-20 shrink-0 text-right max-sm:hidden">
          <Took run={run} />
        </span>
        <Ago at={run.created_at} className="w-24 shrink-0 text-right text-xs text-ink-3 max-sm:hidden" />
      </Link>
    </li>
  );
}

function Took({ run }: { run: RunRead }) {
  const now = useNow();
  if (!run.started_at) return null;
  const end = run.finished_at ? Date.parse(run.finished_at) : ENDED.has(run.status) ? Date.parse(run.updated_at) : now;
  return (
    <span className="text-xs text-ink-3 tabular-nums" suppressHydrationWarning>
      {duration(Math.max(end - Date.parse(run.started_at), 0))}
    </span>
  );
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
