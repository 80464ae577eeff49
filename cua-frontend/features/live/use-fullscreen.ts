"use client";

import { useCallback, useEffect, useSyncExternalStore } from "react";

interface Fullscreen {
  supported: boolean;
  on: boolean;
  toggle: () => void;
}

/** The app on the whole screen, and the way back, which is also Escape; it ends with what has asked for it. */
export function useFullscreen(): Fullscreen {
  const on = useSyncExternalStore(subscribe, isOn, () => false);
  const supported = useSyncExternalStore(subscribe, () => document.fullscreenEnabled, () => false);
  const toggle = useCallback(() => {
    // A browser may refuse, and then everything stays as it is.
    (isOn() ? document.exitFullscreen() : document.documentElement.requestFullscreen()).catch(() => undefined);
  }, []);
  useEffect(() => {
    if (!on) return;
    // Most browsers keep the key to themselves; it never goes to the browser that is steered.
    const hear = (event: KeyboardEvent) => {
      if (event.key !== "Escape" || event.ctrlKey || event.altKey || event.metaKey) return;
      event.preventDefault();
      event.stopPropagation();
      toggle();
    };
    addEventListener("keydown", hear, { capture: true });
    return () => removeEventListener("keydown", hear, { capture: true });
  }, [on, toggle]);
  useEffect(
    () => () => {
      if (isOn()) document.exitFullscreen().catch(() => undefined);
    },
    [],
  );
  return { supported, on, toggle };
}

function subscribe(listener: () => void): () => void {
  document.addEventListener("fullscreenchange", listener);
  return () => document.removeEventListener("fullscreenchange", listener);
}

function isOn(): boolean {
  return document.fullscreenElement !== null;
}
