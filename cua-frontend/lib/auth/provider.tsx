"use client";

import { useQuery } from "@tanstack/react-query";
import dynamic from "next/dynamic";
import { createContext, type ReactNode, useContext } from "react";

import { readConfig } from "@/lib/api";
import type { PublicConfig } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

import { EmbeddedProvider } from "./embedded";
import { type Session, SessionContext } from "./session";

const ClerkSessionProvider = dynamic(() => import("./clerk").then((clerk) => clerk.ClerkSessionProvider), { ssr: false });

const ConfigContext = createContext<PublicConfig | null>(null);

/** What the server says of itself, or null while it has not. */
export function useConfig(): PublicConfig | null {
  return useContext(ConfigContext);
}

const LOADING: Session = { status: "loading", signOut: () => Promise.resolve() };

/** Signs people in the way the server says in `GET /api/config`. */
export function AuthProvider({ children }: { children: ReactNode }) {
  const config = useQuery({ queryKey: keys.about("config"), queryFn: () => call(readConfig()), staleTime: Infinity, retry: 2 });
  if (config.error) {
    const failed = { ...LOADING, status: "failed" as const, failure: config.error.message };
    return <SessionContext value={failed}>{children}</SessionContext>;
  }
  if (!config.data) return <SessionContext value={LOADING}>{children}</SessionContext>;
  const { auth } = config.data;
  return (
    <ConfigContext value={config.data}>
      {auth.mode === "clerk" && auth.publishable_key ? (
        <ClerkSessionProvider publishableKey={auth.publishable_key}>{children}</ClerkSessionProvider>
      ) : auth.mode === "embedded" ? (
        <EmbeddedProvider>{children}</EmbeddedProvider>
      ) : (
        <SessionContext value={{ ...LOADING, status: "failed", failure: `This web app has no sign-in for “${auth.mode}”; use the API.` }}>
          {children}
        </SessionContext>
      )}
    </ConfigContext>
  );
}
