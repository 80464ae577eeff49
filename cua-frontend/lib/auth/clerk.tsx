"use client";

import { ClerkFailed, ClerkLoading, ClerkProvider, useAuth } from "@clerk/react";
import { type ReactNode, useEffect, useMemo } from "react";

import { type Session, SessionContext, setTokenSource } from "./session";

const FAILED: Session = {
  status: "failed",
  failure: "Clerk could not be loaded. Check your connection, or whether something blocks it.",
  signOut: () => Promise.resolve(),
};

/** Sign-in at Clerk; its script comes from Clerk, so that without a way to it the session is `failed`. */
export function ClerkSessionProvider({ publishableKey, children }: { publishableKey: string; children: ReactNode }) {
  return (
    <ClerkProvider publishableKey={publishableKey} signInUrl="/sign-in" signUpUrl="/register" afterSignOutUrl="/sign-in">
      <ClerkFailed>
        <SessionContext value={FAILED}>{children}</SessionContext>
      </ClerkFailed>
      <ClerkLoading>
        <FromClerk>{children}</FromClerk>
      </ClerkLoading>
      <Loaded>{children}</Loaded>
    </ClerkProvider>
  );
}

function Loaded({ children }: { children: ReactNode }) {
  const { isLoaded } = useAuth();
  return isLoaded ? <FromClerk>{children}</FromClerk> : null;
}

function FromClerk({ children }: { children: ReactNode }) {
  const { isLoaded, isSignedIn, getToken, signOut } = useAuth();
  useEffect(() => setTokenSource((fresh) => getToken({ skipCache: fresh })), [getToken]);
  const session = useMemo<Session>(
    () => ({
      status: !isLoaded ? "loading" : isSignedIn ? "signed-in" : "signed-out",
      signOut: () => signOut(),
    }),
    [isLoaded, isSignedIn, signOut],
  );
  return <SessionContext value={session}>{children}</SessionContext>;
}
