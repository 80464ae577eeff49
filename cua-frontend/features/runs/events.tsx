"use client";

import { type InfiniteData, useQueryClient } from "@tanstack/react-query";
import { ChevronRight, ScrollText } from "lucide-react";
import { useCallback, useState } from "react";

import { CopyButton } from "@/components/copy-button";
import { JsonText } from "@/components/data-view";
import { LoadMore, useList } from "@/components/list";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { type EventRead, listRunEvents } from "@/lib/api";
import { page, type Page } from "@/lib/client";
import { cn } from "@/lib/cn";
import { useEventListener } from "@/lib/events";
import { timeOfDay } from "@/lib/format";
import { keys } from "@/lib/keys";

const AT_ONCE = 100;

/** Everything that happened in a run, the newest first. */
export function Events({ runId }: { runId: string }) {
  const cache = useQueryClient();
  const events = useList(
    keys.of("run", runId, "events"),
    (cursor) => page(listRunEvents({ path: { id: runId }, query: { order: "desc", limit: AT_ONCE, cursor } })),
    { staleTime: 0 },
  );
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (event.run_id !== runId) return;
        cache.setQueryData<InfiniteData<Page<EventRead>>>(keys.of("run", runId, "events"), (old) => {
          const [first, ...rest] = old?.pages ?? [];
          if (!old || !first || (first.data[0]?.seq ?? 0) >= event.seq) return old;
          return { ...old, pages: [{ ...first, data: [event, ...first.data] }, ...rest] };
        });
      },
      [cache, runId],
    ),
  );
  if (events.isPending) return <Skeletons count={10} className="h-8" />;
  if (events.isError) return <Failure title="The events could not be read" error={events.error} retry={() => void events.refetch()} />;
  if (events.data.length === 0) {
    return (
      <Empty icon={<ScrollText />} title="No events">
        They are kept for a time and then removed; the run itself stays.
      </Empty>
    );
  }
  return (
    <div className="flex flex-col gap-3">
      <ol aria-label="Events, the newest first" className="flex flex-col">
        {events.data.map((event) => (
          <EventRow key={event.seq} event={event} />
        ))}
      </ol>
      <LoadMore query={events} />
    </div>
  );
}

function EventRow({ event }: { event: EventRead }) {
  const [open, setOpen] = useState(false);
  const text = messageOf(event);
  return (
    <li className="[contain-intrinsic-size:auto_2rem] [content-visibility:auto]">
      <button
        type="button"
        aria-expanded={open}
        onClick={() => setOpen(!open)}
        className="flex min-h-8 w-full items-center gap-2 rounded-md px-1.5 py-1 text-left text-xs hover:bg-sunken"
      >
        <ChevronRight className={cn("size-3.5 shrink-0 text-ink-3 transition-transform", open && "rotate-90")} aria-hidden />
        <time dateTime={event.at} className="shrink-0 font-mono text-ink-3">
          {timeOfDay(event.at)}
        </time>
        <span className={cn("shrink-0 font-mono", lookOf(event))}>{event.kind}</span>
        <span className="min-w-0 flex-1 truncate text-ink-2">{text}</span>
      </button>
      {open && (
        <div className="mb-2 ml-6 flex flex-col items-start gap-1">
          <p className="flex w-full items-center gap-3 text-2xs text-ink-3">
            <span className="tabular-nums">#{event.seq}</span>
            <span className="min-w-0 flex-1 truncate">by {event.actor}</span>
            <CopyButton text={() => JSON.stringify(event, null, 2)} />
          </p>
          <JsonText value={event.data} className="w-full" />
        </div>
      )}
    </li>
  );
}

function lookOf({ kind, data }: EventRead): string {
  if (/\.(failed|crashed)$/.test(kind) || data.status === "failed") return "text-bad";
  if (/^(approval\.requested|run\.(waiting|paused)|control\.)/.test(kind)) return "text-warn";
  return "text-ink";
}

/** What an event says in a line. */
function messageOf({ kind, data }: EventRead): string {
  const text = (name: string) => (typeof data[name] === "string" ? (data[name] as string) : "");
  if (kind.startsWith("run.step.")) {
    const took = typeof data.duration_ms === "number" ? ` (${data.duration_ms} ms)` : "";
    return `${String(data.number ?? "")} ${text("title")}${took}`;
  }
  if (kind === "run.log") return text("message");
  if (kind.startsWith("run.")) return text("reason") || text("status");
  if (kind.startsWith("message.")) return text("text");
  if (kind.startsWith("file.")) return text("name");
  if (kind.startsWith("approval.")) return text("title");
  return text("message") || text("title") || text("url") || text("state");
}
