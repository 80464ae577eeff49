"use client";

import { useSyncExternalStore } from "react";

import { ago, dateTime } from "@/lib/format";

/** The time for all who want it equally often, from one timer. */
class Clock {
  private now = 0;
  private timer: ReturnType<typeof setInterval> | undefined;
  private readonly listeners = new Set<() => void>();

  constructor(private readonly everyMs: number) {}

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    this.now = Date.now();
    if (this.everyMs > 0) this.timer ??= setInterval(this.tick, this.everyMs);
    return () => {
      this.listeners.delete(listener);
      if (this.listeners.size > 0) return;
      clearInterval(this.timer);
      this.timer = undefined;
    };
  };

  readonly read = (): number => (this.now ||= Date.now());

  private readonly tick = (): void => {
    this.now = Date.now();
    for (const listener of this.listeners) listener();
  };
}

const clocks = new Map<number, Clock>();

function clockOf(everyMs: number): Clock {
  const clock = clocks.get(everyMs) ?? new Clock(everyMs);
  clocks.set(everyMs, clock);
  return clock;
}

/** The time, as often as asked; 0 stands still. */
export function useNow(everyMs = 15_000): number {
  const { subscribe, read } = clockOf(everyMs);
  return useSyncExternalStore(subscribe, read, () => 0);
}

export function Ago({ at, className }: { at: string; className?: string }) {
  const now = useNow();
  return (
    <time dateTime={at} title={dateTime(at)} className={className} suppressHydrationWarning>
      {ago(at, now)}
    </time>
  );
}
