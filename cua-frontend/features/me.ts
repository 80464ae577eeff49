"use client";

import { useQuery } from "@tanstack/react-query";

import { readMe } from "@/lib/api";
import { useSession } from "@/lib/auth/session";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

export function useMe() {
  const { status } = useSession();
  return useQuery({ queryKey: keys.one("user", "me"), queryFn: () => call(readMe()), enabled: status === "signed-in" });
}
