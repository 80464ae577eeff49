"use client";

import { Monitor } from "lucide-react";
import { useCallback, useEffect, useRef, useState } from "react";

import type { EventRead } from "@/lib/api";
import { fetchBlob } from "@/lib/client";
import { useEventListener } from "@/lib/events";

const LEAST_MS = 3000;
const SETTLE_MS = 200;
const PATIENCE_MS = 10_000;

interface StillProps {
  runId: string;
  computerId: string | null;
  /** Whether a step is done; a browser that just opens has nothing to show, and asking it holds up its first page. */
  begun: boolean;
}

/** What a run's browser shows: taken anew when something has happened in the run, every three seconds at most. */
export function Still({ runId, computerId, begun }: StillProps) {
  const [url, setUrl] = useState<string | null>(null);
  const due = useRef<() => void>(() => undefined);
  const atOnce = useRef(begun);
  useEffect(() => {
    if (computerId === null) return;
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let busy = false;
    let last = 0;
    let shown: string | null = null;
    const take = async () => {
      timer = undefined;
      if (busy) return;
      busy = true;
      last = Date.now();
      try {
        const signal = AbortSignal.any([ended.signal, AbortSignal.timeout(PATIENCE_MS)]);
        const picture = await fetchBlob(`/api/computers/${computerId}/screenshot`, signal);
        if (ended.signal.aborted) return;
        const next = URL.createObjectURL(picture);
        if (shown) URL.revokeObjectURL(shown);
        shown = next;
        setUrl(next);
      } catch {
        // It has closed, or is between two pages: the picture before stays, and the next step asks again.
      } finally {
        busy = false;
      }
    };
    due.current = () => {
      timer ??= setTimeout(() => void take(), Math.max(SETTLE_MS, last + LEAST_MS - Date.now()));
    };
    if (atOnce.current) due.current();
    return () => {
      ended.abort();
      clearTimeout(timer);
      due.current = () => undefined;
      if (shown) URL.revokeObjectURL(shown);
      setUrl(null);
    };
  }, [computerId]);
  useEventListener(
    useCallback(
      ({ run_id, kind }: EventRead) => {
        if (run_id !== runId || (kind !== "run.step.finished" && kind !== "computer.navigated")) return;
        atOnce.current = true;
        due.current();
      },
      [runId],
    ),
  );
  return (
    <div className="flex aspect-video items-center justify-center overflow-hidden border-b border-line bg-sunken">
      {url ? <img src={url} alt="" className="size-full object-cover object-top" /> : <Monitor className="size-6 text-ink-3" aria-hidden />}
    </div>
  );
}
