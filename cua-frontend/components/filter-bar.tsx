"use client";

import { Search } from "lucide-react";
import { useEffect, useState } from "react";

import { cn } from "@/lib/cn";

import { Input } from "./ui/field";

const TYPING_MS = 250;

/** One of a few, as a row of buttons. */
export function Choice<T extends string>({ label, options, value, onChange }: {
  label: string;
  options: readonly (readonly [value: T, label: string])[];
  value: T;
  onChange: (value: T) => void;
}) {
  return (
    <div role="group" aria-label={label} className="flex max-w-full gap-0.5 overflow-x-auto rounded-lg border border-line bg-sunken p-0.5">
      {options.map(([each, name]) => (
        <button
          key={each}
          type="button"
          aria-pressed={each === value}
          onClick={() => onChange(each)}
          className={cn(
            "h-7.5 rounded-md px-2.5 text-xs font-medium whitespace-nowrap -outline-offset-2",
            each === value ? "bg-surface text-ink shadow-sm" : "text-ink-3 hover:text-ink",
          )}
        >
          {name}
        </button>
      ))}
    </div>
  );
}

/** Words to look for; told when typing pauses. */
export function SearchField({ label, placeholder = label, onChange }: { label: string; placeholder?: string; onChange: (words: string) => void }) {
  const [text, setText] = useState("");
  useEffect(() => {
    const timer = setTimeout(() => onChange(text.trim()), TYPING_MS);
    return () => clearTimeout(timer);
  }, [text, onChange]);
  return (
    <div className="relative min-w-40 flex-1 sm:max-w-64">
      <Search aria-hidden className="pointer-events-none absolute top-2.5 left-2.5 size-4 text-ink-3" />
      <Input
        type="search"
        aria-label={label}
        placeholder={placeholder}
        className="pl-8"
        value={text}
        onChange={(event) => setText(event.target.value)}
      />
    </div>
  );
}
