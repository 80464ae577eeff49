"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { Plus, X } from "lucide-react";
import { useCallback, useEffect } from "react";

import { type EventRead, listTabs } from "@/lib/api";
import { call } from "@/lib/client";
import { cn } from "@/lib/cn";
import { useEventListener } from "@/lib/events";
import { keys } from "@/lib/keys";
import type { InputEvent, View } from "@/lib/socket";

const SETTLE_MS = 400;

interface TabStripProps {
  /** Null while nobody steers: then only the page's title is known. */
  computerId: string | null;
  view: View | null;
  title: string;
  send: (event: InputEvent) => void;
}

/** The browser's tabs: the one that is seen, and all of them for whoever steers. */
export function TabStrip({ computerId, view, title, send }: TabStripProps) {
  const tabs = useTabs(computerId, view);
  if (!tabs.data) {
    return (
      <div className="h-full min-w-0 flex-1 pt-1.5 pl-2">
        <p className={cn(TAB, ACTIVE, "w-fit max-w-64 truncate px-2.5 leading-8.5")}>{title || "Empty page"}</p>
      </div>
    );
  }
  const change = (event: InputEvent) => {
    send(event);
    setTimeout(tabs.readAgain, SETTLE_MS);
  };
  return (
    <div role="group" aria-label="Tabs of the browser" className="flex h-full min-w-0 flex-1 items-end gap-1 overflow-x-auto pl-2">
      {tabs.data.map((tab) => {
        const active = view ? tab.id === view.tab : tab.active;
        const name = tab.title || tab.url || "Empty page";
        return (
          <div key={tab.id} className={cn(TAB, "flex max-w-48 min-w-0 shrink-0 items-center", active ? ACTIVE : "text-ink-3 hover:text-ink")}>
            <button
              type="button"
              aria-pressed={active}
              title={name}
              onClick={() => change({ type: "tab", event: "switch", tab: tab.id })}
              className="h-full min-w-16 truncate px-2.5 text-left -outline-offset-2"
            >
              {name}
            </button>
            <button
              type="button"
              aria-label={`Close ${name}`}
              onClick={() => change({ type: "tab", event: "close", tab: tab.id })}
              className="mr-1 rounded p-1 -outline-offset-2 hover:bg-sunken"
            >
              <X className="size-3" aria-hidden />
            </button>
          </div>
        );
      })}
      <button
        type="button"
        aria-label="New tab"
        title="New tab"
        onClick={() => change({ type: "tab", event: "new" })}
        className="mb-1 shrink-0 rounded-md p-1.5 text-ink-3 -outline-offset-2 hover:bg-line hover:text-ink"
      >
        <Plus className="size-4" aria-hidden />
      </button>
    </div>
  );
}

const TAB = "h-8.5 rounded-t-md text-xs";
const ACTIVE = "bg-surface text-ink";

function useTabs(computerId: string | null, view: View | null) {
  const cache = useQueryClient();
  const tabs = useQuery({
    queryKey: keys.of("computer", computerId ?? "", "tabs"),
    queryFn: () => call(listTabs({ path: { id: computerId ?? "" } })),
    enabled: computerId !== null,
    staleTime: 0,
  });
  const readAgain = useCallback(() => {
    if (computerId) void cache.invalidateQueries({ queryKey: keys.of("computer", computerId, "tabs") });
  }, [cache, computerId]);
  useEffect(readAgain, [readAgain, view?.tab, view?.url, view?.title]);
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (event.resource.id === computerId) readAgain();
      },
      [computerId, readAgain],
    ),
  );
  return { data: computerId ? tabs.data : undefined, readAgain };
}
