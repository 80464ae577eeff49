"use client";

import { CircleAlert, CircleCheck, X } from "lucide-react";
import { useSyncExternalStore } from "react";

import { cn } from "@/lib/cn";

interface Toast {
  id: number;
  look: "good" | "bad";
  title: string;
  detail?: string;
}

const SHOWN_MS = 6000;
let toasts: Toast[] = [];
let nextId = 1;
const listeners = new Set<() => void>();

function change(next: Toast[]): void {
  toasts = next;
  for (const listener of listeners) listener();
}

function show(look: Toast["look"], title: string, detail?: string): void {
  const id = nextId++;
  change([...toasts.slice(-3), { id, look, title, detail }]);
  setTimeout(() => change(toasts.filter((toast) => toast.id !== id)), SHOWN_MS);
}

/** A line at the edge of the page about what has just happened. */
export const toast = {
  done: (title: string, detail?: string) => show("good", title, detail),
  /** What went wrong, and what the server says about it. */
  failed: (title: string, error: unknown) => show("bad", title, error instanceof Error ? error.message : String(error)),
};

const NONE: Toast[] = [];

export function Toaster() {
  const shown = useSyncExternalStore(
    (listener) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    () => toasts,
    () => NONE,
  );
  return (
    <div aria-live="polite" className="pointer-events-none fixed right-4 bottom-4 left-4 z-[60] flex flex-col items-end gap-2">
      {shown.map((toast) => (
        <div
          key={toast.id}
          className="pointer-events-auto flex w-full max-w-sm items-start gap-3 rounded-lg border border-line bg-raised px-4 py-3 shadow-raised"
        >
          {toast.look === "good" ? (
            <CircleCheck className="mt-0.5 size-4 shrink-0 text-good" aria-hidden />
          ) : (
            <CircleAlert className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden />
          )}
          <div className="min-w-0 flex-1">
            <p className="text-sm font-medium">{toast.title}</p>
            {toast.detail && <p className={cn("text-xs break-words text-ink-3")}>{toast.detail}</p>}
          </div>
          <button
            type="button"
            aria-label="Dismiss"
            className="text-ink-3 hover:text-ink"
            onClick={() => change(toasts.filter((each) => each.id !== toast.id))}
          >
            <X className="size-4" />
          </button>
        </div>
      ))}
    </div>
  );
}
