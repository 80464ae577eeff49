"use client";

import { useSearchParams } from "next/navigation";
import { useCallback, useEffect, useState } from "react";

/** What is looked at: a frame of the recording, a step, or (with neither) what happens now. */
export interface Selection {
  frame: number | null;
  step: number | null;
}

const SETTLE_MS = 300;

/** Kept in the address, so that a link leads to the same moment. */
export function useSelection(): [Selection, (next: Partial<Selection>) => void] {
  const params = useSearchParams();
  const [selection, setSelection] = useState<Selection>(() => ({ frame: whole(params.get("frame")), step: whole(params.get("step")) }));
  useEffect(() => {
    const timer = setTimeout(() => {
      const address = new URL(location.href);
      for (const name of ["frame", "step"] as const) {
        const value = selection[name];
        if (value === null) address.searchParams.delete(name);
        else address.searchParams.set(name, String(value));
      }
      if (address.href !== location.href) history.replaceState(null, "", address);
    }, SETTLE_MS);
    return () => clearTimeout(timer);
  }, [selection]);
  const select = useCallback((next: Partial<Selection>) => setSelection({ frame: null, step: null, ...next }), []);
  return [selection, select];
}

function whole(text: string | null): number | null {
  const value = Number(text);
  return text && Number.isInteger(value) && value > 0 ? value : null;
}
