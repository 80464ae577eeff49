"use client";

import { keepPreviousData, useQuery } from "@tanstack/react-query";

import { validateWorkflow } from "@/lib/api";
import { call } from "@/lib/client";
import type { Json } from "@/lib/json";
import { keys } from "@/lib/keys";
import { useLate } from "@/lib/use-late";

import { NO_PROBLEMS, type Wrong } from "./definition";

/** What the server says is wrong, asked once nobody has typed for a moment. */
export function useVerdict(definition: Json | null, parameters: Json | null): Wrong[] {
  const asked = useLate(definition && parameters ? JSON.stringify([definition, parameters]) : null);
  const verdict = useQuery({
    queryKey: keys.about("verdict", asked),
    queryFn: () => {
      const [known, schema] = JSON.parse(asked ?? "[{},{}]") as [Json, Json];
      return call(validateWorkflow({ body: { definition: known, parameters: schema } }));
    },
    enabled: asked !== null,
    placeholderData: keepPreviousData,
    staleTime: Infinity,
    gcTime: 60_000,
  });
  return verdict.data?.problems ?? NO_PROBLEMS;
}
