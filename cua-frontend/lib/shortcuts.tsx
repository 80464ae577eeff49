"use client";

import { useEffect } from "react";

/** Shortcuts of the whole app: single keys, or two after each other as "g r". */
export const SHORTCUTS: { keys: string; label: string }[] = [
  { keys: "mod+k", label: "Search and commands" },
  { keys: "?", label: "This list" },
  { keys: "c", label: "Start a task" },
  { keys: "g h", label: "Go home" },
  { keys: "g r", label: "Go to runs" },
  { keys: "g a", label: "Go to approvals" },
  { keys: "g w", label: "Go to workflows" },
  { keys: "g s", label: "Go to schedules" },
  { keys: "g f", label: "Go to files" },
  { keys: "g u", label: "Go to usage" },
  { keys: "g p", label: "Go to settings" },
  { keys: "ctrl+alt+escape", label: "Leave a browser that you steer" },
];

const SEQUENCE_MS = 800;

function isTyping(target: EventTarget | null): boolean {
  return (
    target instanceof HTMLElement &&
    (target.isContentEditable || target.closest("input, textarea, select, [role=dialog]") !== null)
  );
}

let silencers = 0;

/** Switches all shortcuts off while `silent`: what is pressed is meant for another browser. */
export function useSilentShortcuts(silent: boolean): void {
  useEffect(() => {
    if (!silent) return;
    silencers += 1;
    return () => void (silencers -= 1);
  }, [silent]);
}

/** Calls `run` with the keys of each shortcut; never while somebody types or steers a browser. */
export function useShortcuts(run: (keys: string) => void): void {
  useEffect(() => {
    let first = "";
    let timer: ReturnType<typeof setTimeout> | undefined;
    const hear = (event: KeyboardEvent) => {
      if (silencers > 0) return;
      if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") {
        event.preventDefault();
        run("mod+k");
        return;
      }
      if (event.metaKey || event.ctrlKey || event.altKey || isTyping(event.target)) return;
      const keys = first ? `${first} ${event.key}` : event.key;
      clearTimeout(timer);
      first = "";
      if (SHORTCUTS.some((shortcut) => shortcut.keys === keys)) {
        event.preventDefault();
        run(keys);
      } else if (SHORTCUTS.some((shortcut) => shortcut.keys.startsWith(`${event.key} `))) {
        first = event.key;
        timer = setTimeout(() => (first = ""), SEQUENCE_MS);
      }
    };
    addEventListener("keydown", hear);
    return () => {
      clearTimeout(timer);
      removeEventListener("keydown", hear);
    };
  }, [run]);
}
