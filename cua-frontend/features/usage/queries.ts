"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback } from "react";

import {
  type EventRead,
  listComputers,
  listRuns,
  readSummary,
  readTimeline,
  readUsage,
  readWorkflowCounts,
  type UsageDay,
} from "@/lib/api";
import { call } from "@/lib/client";
import { useEventListener } from "@/lib/events";
import { timeZone } from "@/lib/format";
import { keys } from "@/lib/keys";

const DAY_MS = 86_400_000;
/** Counts change with every run, and nobody watches them by the second. */
const OLD_MS = 30_000;

function since(days: number): string {
  const start = new Date(Date.now() - (days - 1) * DAY_MS);
  start.setHours(0, 0, 0, 0);
  return start.toISOString();
}

/** What limits by the month are shown against. */
export const MONTH_DAYS = 31;

export function useUsage(days: number) {
  return useQuery({ queryKey: keys.about("usage", days), queryFn: () => call(readUsage({ query: { days } })), staleTime: OLD_MS });
}

export function useSummary(days: number) {
  return useQuery({ queryKey: keys.about("analytics", "summary", days), queryFn: () => call(readSummary({ query: { since: since(days) } })), staleTime: OLD_MS });
}

/** Days, or weeks where there would be too many of them. */
export function useTimeline(days: number) {
  const by = days > 31 ? "week" : "day";
  return useQuery({
    queryKey: keys.about("analytics", "timeline", days),
    queryFn: () => call(readTimeline({ query: { since: since(days), by, time_zone: timeZone() } })),
    staleTime: OLD_MS,
  });
}

export function useWorkflowCounts(days: number) {
  return useQuery({
    queryKey: keys.about("analytics", "workflows", days),
    queryFn: () => call(readWorkflowCounts({ query: { since: since(days) } })),
    staleTime: OLD_MS,
  });
}

/** How many runs and computers go on now. */
export function useGoingOn() {
  return useQuery({
    queryKey: keys.about("usage", "now"),
    queryFn: async () => {
      const [running, paused, approval, user, computers] = await Promise.all([
        call(listRuns({ query: { status: "running", limit: 200 } })),
        call(listRuns({ query: { status: "paused", limit: 200 } })),
        call(listRuns({ query: { status: "waiting_approval", limit: 200 } })),
        call(listRuns({ query: { status: "waiting_user", limit: 200 } })),
        call(listComputers({ query: { state: "open", limit: 200 } })),
      ]);
      return { runs: running.length + paused.length + approval.length + user.length, computers: computers.length };
    },
    staleTime: OLD_MS,
  });
}

const COUNTED = new Set(["run.queued", "run.succeeded", "run.failed", "run.cancelled", "computer.opened", "computer.closed"]);

/** Counts anew when a run or computer has come or gone. */
export function useFreshCounts(): void {
  const cache = useQueryClient();
  const hear = useCallback(
    ({ kind }: EventRead) => {
      if (!COUNTED.has(kind)) return;
      void cache.invalidateQueries({ queryKey: keys.about("usage") });
      void cache.invalidateQueries({ queryKey: keys.about("analytics") });
    },
    [cache],
  );
  useEventListener(hear);
}

/** Every day of the range, oldest first, those without any use as well. */
export function everyDay(used: UsageDay[], days: number): UsageDay[] {
  const known = new Map(used.map((day) => [day.day, day]));
  return Array.from({ length: days }, (_, place) => {
    const day = new Date(Date.now() - (days - 1 - place) * DAY_MS).toISOString().slice(0, 10);
    return known.get(day) ?? { day, runs: 0, active_ms: 0, steps: 0, frames: 0, input_tokens: 0, output_tokens: 0, cost_usd: 0 };
  });
}

/** What was used in this month, which is counted in UTC as limits are. */
export function thisMonth(used: UsageDay[]): { steps: number; tokens: number; cost: number; seconds: number } {
  const month = new Date().toISOString().slice(0, 7);
  const sum = { steps: 0, tokens: 0, cost: 0, seconds: 0 };
  for (const day of used) {
    if (!day.day.startsWith(month)) continue;
    sum.steps += day.steps;
    sum.tokens += day.input_tokens + day.output_tokens;
    sum.cost += day.cost_usd;
    sum.seconds += day.active_ms / 1000;
  }
  return sum;
}
