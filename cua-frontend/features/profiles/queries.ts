"use client";

import { useQuery } from "@tanstack/react-query";

import { listProfiles } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

/** Profiles to choose from. */
export function useProfiles() {
  return useQuery({
    queryKey: keys.list("profile", { limit: 200 }),
    queryFn: () => page(listProfiles({ query: { limit: 200 } })),
    select: ({ data }) => data,
  });
}
