"use client";

import { createContext, useContext } from "react";

/** Who is signed in, whichever way people sign in here. */
export interface Session {
  status: "loading" | "signed-out" | "signed-in" | "failed";
  /** What went wrong where `status` is `failed`. */
  failure?: string;
  signOut: () => Promise<void>;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  const session = useContext(SessionContext);
  if (!session) throw new Error("useSession needs an AuthProvider above it");
  return session;
}

type TokenSource = (anew: boolean) => Promise<string | null>;

let source: TokenSource = () => Promise.resolve(null);

/** Says where access tokens come from; the provider that is mounted calls it. */
export function setTokenSource(next: TokenSource): void {
  source = next;
}

/** An access token that is good for some seconds more, or one made `anew`; null when nobody is signed in. */
export function getToken(anew = false): Promise<string | null> {
  return source(anew);
}
