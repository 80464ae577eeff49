"use client";

import { type ReactNode, useEffect, useMemo, useSyncExternalStore } from "react";

import { Problem, problemOf } from "@/lib/problem";

import { SessionContext, setTokenSource } from "./session";

/** An access token is renewed this long before it ends. */
const EARLY_MS = 20_000;

interface State {
  status: "loading" | "signed-out" | "signed-in" | "failed";
  failure?: string;
  ended?: boolean;
}

/** The server's own sign-in: the refresh token is in a cookie of `/session`, the access token only in memory. */
class EmbeddedSession {
  private state: State = { status: "loading" };
  private token: string | null = null;
  private endsAt = 0;
  private renewing: Promise<string | null> | null = null;
  private readonly listeners = new Set<() => void>();
  private readonly tabs = typeof BroadcastChannel === "undefined" ? null : new BroadcastChannel("cua-session");

  constructor() {
    // Signing in or out in one tab does so in all.
    this.tabs?.addEventListener("message", () => location.reload());
  }

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly snapshot = (): State => this.state;

  readonly getToken = (fresh: boolean): Promise<string | null> => {
    if (!fresh && this.token && Date.now() < this.endsAt - EARLY_MS) return Promise.resolve(this.token);
    this.renewing ??= this.renew().finally(() => (this.renewing = null));
    return this.renewing;
  };

  async enter(action: "login" | "register", body: Record<string, string>): Promise<void> {
    const reply = await send(action, body);
    this.take((await reply.json()) as { access_token: string; expires_in: number });
    this.tabs?.postMessage("in");
  }

  async leave(): Promise<void> {
    const token = await this.getToken(false);
    if (token) await send("logout", undefined, token);
    this.drop();
    this.tabs?.postMessage("out");
  }

  private async renew(): Promise<string | null> {
    try {
      const reply = await send("refresh");
      if (reply.status === 204) this.drop(this.state.status === "signed-in");
      else this.take((await reply.json()) as { access_token: string; expires_in: number });
    } catch (error) {
      if (error instanceof Problem && error.status === 401) this.drop(this.state.status === "signed-in");
      else if (this.state.status === "loading") {
        this.become({ status: "failed", failure: error instanceof Error ? error.message : String(error) });
      } else throw error; // signed in still, only not reached
    }
    return this.token;
  }

  private take(tokens: { access_token: string; expires_in: number }): void {
    this.token = tokens.access_token;
    this.endsAt = Date.now() + tokens.expires_in * 1000;
    this.become({ status: "signed-in" });
  }

  private drop(ended = false): void {
    this.token = null;
    this.become({ status: "signed-out", ended });
  }

  private become(state: State): void {
    this.state = state;
    for (const listener of this.listeners) listener();
  }
}

async function send(action: string, body?: Record<string, string>, token?: string): Promise<Response> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  if (token) headers.authorization = `Bearer ${token}`;
  let reply: Response;
  try {
    reply = await fetch(`/session/${action}`, { method: "POST", headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Problem({ status: 0, code: "offline", title: "The server cannot be reached" });
  }
  if (!reply.ok) throw await problemOf(reply);
  return reply;
}

export const embedded = new EmbeddedSession();

const waiting: State = { status: "loading" };

export function EmbeddedProvider({ children }: { children: ReactNode }) {
  const state = useSyncExternalStore(embedded.subscribe, embedded.snapshot, () => waiting);
  useEffect(() => {
    setTokenSource(embedded.getToken);
    void embedded.getToken(false);
  }, []);
  const session = useMemo(() => ({ ...state, signOut: () => embedded.leave() }), [state]);
  return <SessionContext value={session}>{children}</SessionContext>;
}
