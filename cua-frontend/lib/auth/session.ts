"use client";

import { createContext, useContext } from "react";

/** Who is signed in, whichever way people sign in here. */
export interface Session {
  status: "loading" | "signed-out" | "signed-in" | "failed";
  /** What went wrong where `status` is `failed`. */
  failure?: string;
  /** Whether it has ended without its person's doing. */
  ended?: boolean;
  signOut: () => Promise<void>;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("useSession needs an AuthProvider above it");
  return session;
}

type TokenSource = (fresh: boolean) => Promise<string | null>;

let source: TokenSource = () => Promise.resolve(null);

/** Says where access tokens come from; the provider that is mounted calls it. */
export function setTokenSource(next: TokenSource): void {
  source = next;
}

/** An access token that is good for some seconds more, or a `fresh` one where the last will not do; null when nobody is signed in. */
export function getToken(fresh = false): Promise<string | null> {
  return source(fresh);
}
