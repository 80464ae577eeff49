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

/** The browser's tabs, for whoever steers. */
export function TabStrip({ computerId, view, send }: { computerId: string; view: View | null; send: (event: InputEvent) => void }) {
  const cache = useQueryClient();
  const tabs = useQuery({
    queryKey: keys.of("computer", computerId, "tabs"),
    queryFn: () => call(listTabs({ path: { id: computerId } })),
    staleTime: 0,
  });
  const again = useCallback(
    () => void cache.invalidateQueries({ queryKey: keys.of("computer", computerId, "tabs") }),
    [cache, computerId],
  );
  useEffect(again, [again, view?.tab, view?.url, view?.title]);
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (event.resource.id === computerId) again();
      },
      [computerId, again],
    ),
  );
  const change = (event: InputEvent) => {
    send(event);
    setTimeout(again, SETTLE_MS);
  };
  return (
    <div role="group" aria-label="Tabs of the browser" className="flex items-end gap-1 overflow-x-auto bg-sunken px-2 pt-1.5">
      {tabs.data?.map((tab) => {
        const active = view ? tab.id === view.tab : tab.active;
        const name = tab.title || tab.url || "Empty page";
        return (
          <div
            key={tab.id}
            className={cn(
              "flex h-7 max-w-48 min-w-0 items-center rounded-t-md border border-b-0 text-xs",
              active ? "border-line bg-surface text-ink" : "border-transparent text-ink-3",
            )}
          >
            <button
              type="button"
              aria-pressed={active}
              title={name}
              onClick={() => change({ type: "tab", event: "switch", tab: tab.id })}
              className="h-full min-w-16 truncate px-2.5 text-left hover:text-ink"
            >
              {name}
            </button>
            <button
              type="button"
              aria-label={`Close ${name}`}
              onClick={() => change({ type: "tab", event: "close", tab: tab.id })}
              className="mr-1 rounded p-0.5 hover:bg-sunken hover:text-ink"
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
        className="mb-0.5 rounded-md p-1 text-ink-3 hover:bg-line hover:text-ink"
      >
        <Plus className="size-4" aria-hidden />
      </button>
    </div>
  );
}
