"use client";

import { useQuery } from "@tanstack/react-query";

import { listComputers } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

const MOST = 200;

/** The computers that are not closed, the newest first. */
export function useOpenComputers() {
  return useQuery({
    queryKey: keys.list("computer", { closed: false }),
    queryFn: async () => {
      const [opening, open] = await Promise.all([
        call(listComputers({ query: { state: "opening", limit: MOST } })),
        call(listComputers({ query: { state: "open", limit: MOST } })),
      ]);
      return { data: [...opening, ...open], next_cursor: null };
    },
    select: ({ data }) => data.filter((computer) => computer.state !== "closed"),
  });
}
