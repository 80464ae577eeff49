"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback } from "react";

import { useList } from "@/components/list";
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
  return useList(keys.list("schedule"), (cursor) => page(listSchedules({ query: { cursor } })));
}

/** What a cron expression means, and when it fires next. */
export function useCronPreview(cron: string, timeZone: string, count = 5) {
  return useQuery({
    queryKey: keys.about("cron", cron, timeZone, count),
    queryFn: () => call(previewCron({ body: { cron, time_zone: timeZone, count } })),
    enabled: cron.trim() !== "",
    retry: false,
  });
}
