"use client";

import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useEffect } from "react";

import { readPreferences, replacePreferences } from "@/lib/api";
import { call } from "@/lib/client";
import { setRegion } from "@/lib/format";
import { keys } from "@/lib/keys";

/** What this app remembers of its user on the server; other clients may keep more there. */
export interface Preferences {
  time_zone?: string;
  locale?: string;
  [name: string]: unknown;
}

const KEY = keys.of("user", "me", "preferences");

export function usePreferences() {
  return useQuery({ queryKey: KEY, queryFn: async () => (await call(readPreferences())) as Preferences });
}

/** Changes some and keeps the rest; they are replaced as a whole, so they are read first. */
export function useChangePreferences() {
  const cache = useQueryClient();
  return useMutation({
    mutationFn: async (changes: Preferences) => {
      const before = await call(readPreferences());
      return (await call(replacePreferences({ body: { ...before, ...changes } }))) as Preferences;
    },
    onSuccess: (preferences) => cache.setQueryData(KEY, preferences),
  });
}

/** Writes dates as their reader wants them, also in a browser that does not know it yet. */
export function Region(): null {
  const { data } = usePreferences();
  useEffect(() => {
    if (!data) return;
    try {
      setRegion({ locale: data.locale, timeZone: data.time_zone });
    } catch {
      // Another client has kept something there that is no locale or time zone.
    }
  }, [data]);
  return null;
}
