"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef, useState } from "react";

import { toast } from "@/components/ui/toast";
import { type ComputerRead, type EventRead, readComputer, releaseControl } from "@/lib/api";
import { useConfig } from "@/lib/auth/provider";
import { call } from "@/lib/client";
import { useEventListener, useSocket } from "@/lib/events";
import { keys } from "@/lib/keys";
import type { Controlled, InputEvent } from "@/lib/socket";

type ControlState = "free" | "pending" | "mine" | "other";

export interface Control {
  state: ControlState;
  /** When it ends without further input, by this machine's clock. */
  endsAt: () => number;
  take: () => void;
  release: () => void;
  send: (event: InputEvent) => void;
}

/** How long control lasts without input, where the server has not said so yet. */
const USUAL_SECONDS = 60;

/** A person's hands on a computer: who has control, and a way to take it, use it and give it back. */
export function useControl(computerId: string | null): Control {
  const socket = useSocket();
  const cache = useQueryClient();
  const [mine, setMine] = useState<{ computerId: string; generation: number } | null>(null);
  const [asking, setAsking] = useState(false);
  const ends = useRef(0);
  const lasts = (useConfig()?.control_seconds ?? USUAL_SECONDS) * 1000;
  const computer = useQuery({
    queryKey: keys.one("computer", computerId ?? ""),
    queryFn: () => call(readComputer({ path: { id: computerId ?? "" } })),
    enabled: computerId !== null,
  });

  const hear = useCallback(
    (told: Controlled) => {
      if (!computerId || told.generation === 0) return; // the connection broke; control stays for its time
      if (told.state === "granted") ends.current = Date.now() + lasts; // the end that is told is by the server's clock
      cache.setQueryData<ComputerRead>(keys.one("computer", computerId), (old) => {
        if (!old || told.generation < old.control_generation) return old;
        return {
          ...old,
          control_state: told.state,
          control_holder: told.holder,
          control_generation: told.generation,
          control_expires_at: told.expires_at,
        };
      });
    },
    [cache, computerId, lasts],
  );
  useEventListener(
    useCallback(
      (event: EventRead) => {
        if (event.kind.startsWith("control.") && event.resource.id === computerId) hear(event.data as unknown as Controlled);
      },
      [computerId, hear],
    ),
  );

  const shown = useRef<string | null>(null); // the computer that this is about, while somebody looks
  const take = useCallback(() => {
    if (!computerId) return;
    setAsking(true);
    socket
      .control(computerId, "take", hear)
      .then((told) => {
        if (shown.current !== computerId) return leave(computerId, told.generation);
        setMine({ computerId, generation: told.generation });
        hear(told);
      })
      .catch((error: unknown) => toast.failed("You could not take control", error))
      .finally(() => setAsking(false));
  }, [computerId, socket, hear]);

  const release = useCallback(() => {
    if (!computerId) return;
    socket
      .control(computerId, "release")
      .then((told) => {
        setMine(null);
        hear(told);
      })
      .catch((error: unknown) => toast.failed("Control was not given back", error));
  }, [computerId, socket, hear]);

  const generation = mine?.computerId === computerId ? mine?.generation : undefined;
  const send = useCallback(
    (event: InputEvent) => {
      if (!computerId || generation === undefined) return;
      ends.current = Date.now() + lasts;
      socket.input(computerId, generation, event);
    },
    [computerId, generation, socket, lasts],
  );
  const endsAt = useCallback(() => ends.current, []);
  const state = stateOf(computer.data, generation, asking);

  const held = useRef<number | undefined>(undefined); // the generation of the control that is to be given back
  useEffect(() => {
    held.current = state === "mine" || state === "pending" ? generation : undefined;
  });
  useEffect(() => {
    if (!computerId) return;
    shown.current = computerId;
    const away = () => {
      if (held.current !== undefined) leave(computerId, held.current);
      held.current = undefined;
    };
    addEventListener("pagehide", away); // the tab closes, or goes elsewhere
    return () => {
      shown.current = null;
      removeEventListener("pagehide", away);
      away();
    };
  }, [computerId]);

  return { state, endsAt, take, release, send };
}

/** Whoever goes away steers no more: `keepalive` is carried out though the page is gone. Where word of it is lost, control runs out. */
function leave(computerId: string, generation: number): void {
  call(releaseControl({ path: { id: computerId }, query: { generation }, keepalive: true })).catch(() => undefined);
}

function stateOf(computer: ComputerRead | undefined, generation: number | undefined, asking: boolean): ControlState {
  if (asking) return "pending";
  if (!computer || computer.control_state === "released") return "free";
  if (computer.control_generation !== generation) return computer.control_state === "granted" ? "other" : "free";
  return computer.control_state === "granted" ? "mine" : "pending";
}
