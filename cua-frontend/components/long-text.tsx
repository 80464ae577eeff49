"use client";

import { useState } from "react";

import { cn } from "@/lib/cn";

const LONG = 280;

/** Text of others, of whatever length: its beginning, and the rest when it is asked for. */
export function LongText({ children, limit = LONG, className }: { children: string; limit?: number; className?: string }) {
  const [whole, setWhole] = useState(false);
  const long = children.length > limit;
  return (
    <div className={cn("flex flex-col items-start gap-1 text-sm", className)}>
      <p className="max-w-full break-words whitespace-pre-wrap">{long && !whole ? `${children.slice(0, limit).trimEnd()}…` : children}</p>
      {long && (
        <button type="button" aria-expanded={whole} className="text-xs underline underline-offset-2" onClick={() => setWhole(!whole)}>
          {whole ? "Show less" : "Show all"}
        </button>
      )}
    </div>
  );
}
