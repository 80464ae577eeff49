"use client";

import { useQuery } from "@tanstack/react-query";

import { listApprovals } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

/** What waits for this person's yes or no, the oldest first. */
export function usePendingApprovals() {
  return useQuery({
    queryKey: keys.list("approval", { status: "pending" }),
    queryFn: () => page(listApprovals({ query: { status: "pending", limit: 100 } })),
    select: ({ data }) => data.filter((approval) => approval.status === "pending"),
  });
}
