"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback, useRef } from "react";

import {
  type ApprovalRead,
  type EventRead,
  type FileRead,
  listApprovals,
  listFiles,
  listRunMessages,
  listRuns,
  listSteps,
  type MessageRead,
  readRun,
  type RunRead,
  type StepRead,
} from "@/lib/api";
import { call, page, type Page } from "@/lib/client";
import { useEventListener } from "@/lib/events";
import { keys, type ResourceType } from "@/lib/keys";

const MOST = 200;

/** A list to its end. */
export async function all<T>(read: (query: { limit: number; cursor?: string }) => Promise<Page<T>>): Promise<T[]> {
  const found: T[] = [];
  let cursor: string | undefined;
  do {
    const { data, next_cursor } = await read({ limit: MOST, cursor });
    found.push(...data);
    cursor = next_cursor ?? undefined;
  } while (cursor);
  return found;
}

/** What events bring while a list is being read, which the reply may not know yet. */
function useHeard<T extends { id: string }>(runId: string, type: ResourceType) {
  const heard = useRef<T[] | null>(null);
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (heard.current && event.run_id === runId && event.resource.type === type && event.data.id === event.resource.id) {
          heard.current.push(event.data as unknown as T);
        }
      },
      [runId, type],
    ),
  );
  return useCallback(async (read: () => Promise<T[]>): Promise<T[]> => {
    heard.current = [];
    try {
      const found = await read();
      for (const thing of heard.current) {
        const at = found.findIndex((item) => item.id === thing.id);
        if (at < 0) found.push(thing);
        else found[at] = { ...found[at], ...thing };
      }
      return found;
    } finally {
      heard.current = null;
    }
  }, []);
}

function useBelow<T extends { id: string }>(
  runId: string,
  what: string,
  type: ResourceType,
  read: (query: { limit: number; cursor?: string }) => Promise<Page<T>>,
) {
  const withHeard = useHeard<T>(runId, type);
  return useQuery({ queryKey: keys.of("run", runId, what), queryFn: () => withHeard(() => all(read)) });
}

export function useRun(id: string) {
  const cache = useQueryClient();
  const withHeard = useHeard<RunRead>(id, "run");
  // A run's browser is no event of the run, so the computer's own tells of it.
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (event.run_id !== id || event.kind !== "computer.opened") return;
        cache.setQueryData<RunRead>(keys.one("run", id), (run) => run && { ...run, computer_id: event.resource.id });
      },
      [cache, id],
    ),
  );
  return useQuery({
    queryKey: keys.one("run", id),
    queryFn: async () => {
      const [run] = await withHeard(async () => [await call(readRun({ path: { id } }))]);
      if (!run) throw new Error("The run is not there");
      return run;
    },
  });
}

/** The newest runs; the socket keeps them so. */
export function useRecentRuns() {
  return useQuery({
    queryKey: keys.list("run", { limit: 100 }),
    queryFn: () => page(listRuns({ query: { limit: 100 } })),
    select: ({ data }) => data,
  });
}

export function useSteps(id: string) {
  return useBelow<StepRead>(id, "steps", "step", (query) => page(listSteps({ path: { id }, query })));
}

export function useMessages(id: string) {
  return useBelow<MessageRead>(id, "messages", "message", (query) => page(listRunMessages({ path: { id }, query })));
}

export function useRunApprovals(id: string) {
  return useBelow<ApprovalRead>(id, "approvals", "approval", (query) => page(listApprovals({ query: { ...query, run_id: id, order: "asc" } })));
}

export function useRunFiles(id: string) {
  return useBelow<FileRead>(id, "files", "file", (query) => page(listFiles({ query: { ...query, run_id: id, order: "asc" } })));
}
