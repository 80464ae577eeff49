"use client";

import { CloudOff, LoaderCircle } from "lucide-react";
import { useEffect, useState } from "react";

import { useConnection } from "@/lib/events";

/** A line that says when what is shown may be old; not for a break that nobody notices. */
const PATIENCE_MS = 1500;

export function ConnectionNotice() {
  const state = useConnection();
  const away = state === "reconnecting" || state === "offline" || state === "refused";
  const [late, setLate] = useState(false);
  useEffect(() => {
    if (!away) return;
    const timer = setTimeout(() => setLate(true), PATIENCE_MS);
    return () => {
      clearTimeout(timer);
      setLate(false);
    };
  }, [away]);
  return (
    <div role="status" aria-live="polite">
      {away && late && (
        <p className="flex items-center justify-center gap-2 bg-warn-soft px-4 py-1.5 text-xs font-medium text-warn">
          {state === "reconnecting" ? (
            <LoaderCircle className="size-3.5 animate-spin" aria-hidden />
          ) : (
            <CloudOff className="size-3.5" aria-hidden />
          )}
          {state === "offline" && "You are offline. What is shown may be old; it goes on when the connection is back."}
          {state === "reconnecting" && "Connecting again. What is shown may be a moment old."}
          {state === "refused" && "The server ended the connection. Reload the page to go on."}
        </p>
      )}
    </div>
  );
}
