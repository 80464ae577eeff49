"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useEffect, useMemo, useState } from "react";

import { updateWorkflow, type WorkflowUpdate } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { type Json, isObject } from "@/lib/json";
import { keys } from "@/lib/keys";

import { type TaggedWorkflow, workflowKey } from "../queries";
import { formatJson, type JsonMap, mapJson } from "./json-text";

/** What is being written. The texts are what counts; the form reads them and writes them anew. */
interface Draft {
  name: string;
  text: string;
  parametersText: string;
}

interface Kept {
  base: TaggedWorkflow;
  draft: Draft;
}

/** Drafts outlive their screen, so that no way of leaving loses one. */
const kept = new Map<string, Kept>();

function begin(base: TaggedWorkflow): Kept {
  return { base, draft: { name: base.name, text: formatJson(base.definition), parametersText: formatJson(base.parameters) } };
}

function isDirty({ base, draft }: Kept): boolean {
  const saved = begin(base).draft;
  return draft.name !== saved.name || draft.text !== saved.text || draft.parametersText !== saved.parametersText;
}

export interface WorkflowDraft {
  draft: Draft;
  /** The definition, where the text is JSON. */
  definition: Json | null;
  parameters: Json | null;
  map: JsonMap;
  parametersMap: JsonMap;
  dirty: boolean;
  /** Somebody else has saved meanwhile. */
  outdated: boolean;
  /** It was left unsaved before and is here again. */
  resumed: boolean;
  change: (part: Partial<Draft>) => void;
  setDefinition: (definition: Json) => void;
  discard: () => void;
  save: { run: (force?: boolean) => void; busy: boolean; error: Error | null };
}

export function useDraft(workflow: TaggedWorkflow): WorkflowDraft {
  const { id } = workflow;
  const cache = useQueryClient();
  const [state, setState] = useState<Kept>(() => kept.get(id) ?? begin(workflow));
  const [resumed, setResumed] = useState(() => kept.has(id));
  const dirty = useMemo(() => isDirty(state), [state]);
  if (workflow.updated_at > state.base.updated_at && !dirty) setState(begin(workflow));
  useEffect(() => {
    if (dirty) kept.set(id, state);
    else kept.delete(id);
  }, [id, dirty, state]);

  const { draft, base } = state;
  const map = useMemo(() => mapJson(draft.text), [draft.text]);
  const parametersMap = useMemo(() => mapJson(draft.parametersText), [draft.parametersText]);
  const definition = isObject(map.value) ? map.value : null;
  const parameters = isObject(parametersMap.value) ? parametersMap.value : null;
  const change = (part: Partial<Draft>) => setState((old) => ({ ...old, draft: { ...old.draft, ...part } }));

  const { mutate, isPending, error, reset } = useMutation({
    mutationFn: async (etag: string | null) => {
      const body: WorkflowUpdate = {};
      const saved = begin(base).draft;
      if (draft.name !== saved.name) body.name = draft.name;
      if (draft.text !== saved.text && definition) body.definition = definition;
      if (draft.parametersText !== saved.parametersText && parameters) body.parameters = parameters;
      const asked = updateWorkflow({ path: { id }, body, headers: etag ? { "If-Match": etag } : undefined });
      const stored = await call(asked);
      return { ...stored, etag: (await asked).response?.headers.get("etag") ?? null };
    },
    onSuccess: (stored) => {
      cache.setQueryData(workflowKey(id), stored);
      put(cache, "workflow", { ...stored });
      void cache.invalidateQueries({ queryKey: keys.of("workflow", id, "versions") });
      // What was typed while it was being saved stays, unsaved.
      setState((old) => (old.draft === draft ? begin(stored) : { base: stored, draft: old.draft }));
      setResumed(false);
    },
  });
  return {
    draft,
    definition,
    parameters,
    map,
    parametersMap,
    dirty,
    outdated: dirty && workflow.updated_at > base.updated_at,
    resumed: resumed && dirty,
    change,
    setDefinition: (next) => change({ text: formatJson(next) }),
    discard: () => {
      setState(begin(workflow));
      setResumed(false);
      reset();
    },
    save: { run: (force = false) => mutate(force ? workflow.etag : base.etag), busy: isPending, error },
  };
}
