"use client";

import { Monitor } from "lucide-react";
import { useCallback, useEffect, useRef, useState } from "react";

import type { EventRead } from "@/lib/api";
import { fetchBlob } from "@/lib/client";
import { useEventListener } from "@/lib/events";

const LEAST_MS = 3000;
const MOST_FAILURES = 5; // in a row; a browser that opens takes a moment

/** What a run's browser shows: taken anew when something happens in the run, every three seconds at most. */
export function Still({ runId, computerId }: { runId: string; computerId: string | null }) {
  const [url, setUrl] = useState<string | null>(null);
  const due = useRef<() => void>(() => undefined);
  useEffect(() => {
    if (computerId === null) return;
    const ended = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    let last = 0;
    let failures = 0;
    let shown: string | null = null;
    const take = async () => {
      timer = undefined;
      last = Date.now();
      try {
        const picture = await fetchBlob(`/api/computers/${computerId}/screenshot`, ended.signal);
        if (ended.signal.aborted) return;
        failures = 0;
        const next = URL.createObjectURL(picture);
        if (shown) URL.revokeObjectURL(shown);
        shown = next;
        setUrl(next);
      } catch {
        // It has closed, or is not open yet: the picture before stays.
        failures += 1;
        if (!ended.signal.aborted && failures < MOST_FAILURES) due.current();
      }
    };
    due.current = () => {
      timer ??= setTimeout(() => void take(), Math.max(200, last + LEAST_MS - Date.now()));
    };
    due.current();
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
        if (run_id === runId && (kind.startsWith("step.") || kind.startsWith("run.") || kind.startsWith("computer."))) due.current();
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
