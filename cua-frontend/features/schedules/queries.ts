"use client";

import { useInfiniteQuery, useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback } from "react";

import { type EventRead, listSchedules, previewCron } from "@/lib/api";
import { call, page } from "@/lib/client";
import { useEventListener } from "@/lib/events";
import { keys } from "@/lib/keys";

/** All schedules. That one has fired is told without its new times, so the list is read anew then. */
export function useSchedules() {
  const cache = useQueryClient();
  useEventListener(
    useCallback(
      ({ kind }: EventRead) => {
        if (kind === "schedule.fired" || kind === "schedule.missed") void cache.invalidateQueries({ queryKey: keys.lists("schedule") });
      },
      [cache],
    ),
  );
  return useInfiniteQuery({
    queryKey: keys.list("schedule"),
    queryFn: ({ pageParam }) => page(listSchedules({ query: { cursor: pageParam, limit: 50 } })),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last) => last.next_cursor ?? undefined,
  });
}

/** What a cron expression means, and when it fires next. */
export function useCronPreview(cron: string, timeZone: string, count = 5) {
  return useQuery({
    queryKey: ["cron", cron, timeZone, count],
    queryFn: () => call(previewCron({ body: { cron, time_zone: timeZone, count } })),
    enabled: cron.trim() !== "",
    retry: false,
  });
}
