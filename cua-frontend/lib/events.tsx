"use client";

import { useQueryClient } from "@tanstack/react-query";
import { createContext, type ReactNode, useContext, useEffect, useState, useSyncExternalStore } from "react";

import { useSession } from "./auth/session";
import { applyEvents } from "./cache";
import { type ConnectionState, type Delta, Socket } from "./socket";
import type { EventRead } from "./api";

type Listener<T> = (told: T) => void;

class Events {
  readonly socket = new Socket();
  readonly eventListeners = new Set<Listener<EventRead>>();
  readonly deltaListeners = new Set<Listener<Delta>>();
}

const EventsContext = createContext<Events | null>(null);

/** Keeps one socket open while somebody is signed in, and lets what it tells into the query cache. */
export function EventsProvider({ children }: { children: ReactNode }) {
  const cache = useQueryClient();
  const { status } = useSession();
  const [events] = useState(() => new Events());
  useEffect(() => {
    if (status !== "signed-in") return;
    const { socket } = events;
    socket.open({
      events: (told) => {
        applyEvents(cache, told);
        for (const event of told) for (const listener of events.eventListeners) listener(event);
      },
      delta: (delta) => {
        for (const listener of events.deltaListeners) listener(delta);
      },
      lost: () => void cache.invalidateQueries(),
    });
    return () => socket.close();
  }, [status, cache, events]);
  return <EventsContext value={events}>{children}</EventsContext>;
}

function useEvents(): Events {
  const events = useContext(EventsContext);
  if (!events) throw new Error("There is no EventsProvider above");
  return events;
}

/** The tab's socket: live views, control, input. */
export function useSocket(): Socket {
  return useEvents().socket;
}

export function useConnection(): ConnectionState {
  const { socket } = useEvents();
  return useSyncExternalStore(socket.subscribe, socket.snapshot, () => "connecting");
}

/** Hear every event of the user's log; `listener` must be stable (useCallback). */
export function useEventListener(listener: Listener<EventRead>): void {
  const { eventListeners } = useEvents();
  useEffect(() => {
    eventListeners.add(listener);
    return () => void eventListeners.delete(listener);
  }, [eventListeners, listener]);
}

/** Hear what models say while they say it; `listener` must be stable. */
export function useDeltaListener(listener: Listener<Delta>): void {
  const { deltaListeners } = useEvents();
  useEffect(() => {
    deltaListeners.add(listener);
    return () => void deltaListeners.delete(listener);
  }, [deltaListeners, listener]);
}
