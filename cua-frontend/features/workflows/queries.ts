"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback } from "react";

import { type EventRead, listWorkflows, readWorkflow, type WorkflowDetail } from "@/lib/api";
import { call, page } from "@/lib/client";
import { useEventListener } from "@/lib/events";
import { keys } from "@/lib/keys";

export interface TaggedWorkflow extends WorkflowDetail {
  /** Makes a change conditional: it is refused when somebody was faster. */
  etag: string | null;
}

export const workflowKey = (id: string) => keys.of("workflow", id, "detail");

async function fetchWorkflow(id: string): Promise<TaggedWorkflow> {
  const asked = readWorkflow({ path: { id } });
  const workflow = await call(asked);
  return { ...workflow, etag: (await asked).response?.headers.get("etag") ?? null };
}

/** A workflow with its definition, which events leave out: so it is read anew when one tells of it. */
export function useWorkflow(id: string) {
  const cache = useQueryClient();
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (event.resource.type !== "workflow" || event.resource.id !== id || event.kind.endsWith(".deleted")) return;
        void cache.invalidateQueries({ queryKey: workflowKey(id) });
        void cache.invalidateQueries({ queryKey: keys.of("workflow", id, "versions") });
      },
      [cache, id],
    ),
  );
  return useQuery({ queryKey: workflowKey(id), queryFn: () => fetchWorkflow(id) });
}

/** The newest workflows, as a list to choose from. */
export function useWorkflowChoices() {
  return useQuery({
    queryKey: keys.list("workflow", { limit: 200 }),
    queryFn: () => page(listWorkflows({ query: { limit: 200 } })),
    select: ({ data }) => data,
  });
}
