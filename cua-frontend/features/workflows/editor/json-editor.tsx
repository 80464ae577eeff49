"use client";

import { useMemo, useRef } from "react";

import { Button } from "@/components/ui/button";
import { cn } from "@/lib/cn";

import type { Wrong } from "./definition";
import { formatJson, type JsonMap, lineOfPointer } from "./json-text";

const INDENT = "  ";
const LINE_PX = 20;
const PADDING_PX = 12;

interface JsonEditorProps {
  label: string;
  text: string;
  map: JsonMap;
  problems: Wrong[];
  onChange: (text: string) => void;
  className?: string;
}

/** A text area for JSON with line numbers; what is wrong is marked at its line and listed below. */
export function JsonEditor({ label, text, map, problems, onChange, className }: JsonEditorProps) {
  const area = useRef<HTMLTextAreaElement>(null);
  const gutter = useRef<HTMLDivElement>(null);
  const wrong = useMemo(() => {
    const found = problems.map(({ pointer, message }) => ({ line: lineOfPointer(map, pointer), message }));
    return map.error ? [map.error] : found.sort((one, other) => one.line - other.line);
  }, [map, problems]);
  const marked = new Set(wrong.map(({ line }) => line));
  const count = text.split("\n").length;

  const goTo = (line: number) => {
    const { current } = area;
    if (!current) return;
    const lines = text.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, each) => sum + each.length + 1, 0);
    current.focus();
    current.setSelectionRange(start, start + (lines[line - 1]?.length ?? 0));
    current.scrollTop = Math.max(0, (line - 4) * LINE_PX);
  };
  return (
    <div className={cn("flex min-w-0 flex-col gap-2", className)}>
      <div className="flex items-center gap-3">
        <p className="flex-1 text-xs text-ink-3">Tab indents; press Escape and then Tab to leave.</p>
        <Button size="sm" disabled={map.error !== null} onClick={() => onChange(formatJson(map.value))}>
          Format
        </Button>
      </div>
      <div className="flex min-h-0 flex-1 overflow-hidden rounded-lg border border-line-strong bg-surface font-mono text-xs focus-within:border-accent">
        <div ref={gutter} aria-hidden className="w-12 shrink-0 overflow-hidden border-r border-line bg-sunken text-right text-ink-3 select-none" style={{ paddingBlock: PADDING_PX }}>
          {Array.from({ length: count }, (_, place) => (
            <div key={place} className={cn("pr-2", marked.has(place + 1) && "bg-bad-soft font-semibold text-bad")} style={{ height: LINE_PX, lineHeight: `${LINE_PX}px` }}>
              {marked.has(place + 1) && "● "}
              {place + 1}
            </div>
          ))}
          <div style={{ height: LINE_PX * 2 }} />
        </div>
        <textarea
          ref={area}
          aria-label={label}
          aria-invalid={wrong.length > 0 || undefined}
          value={text}
          spellCheck={false}
          autoCapitalize="off"
          autoComplete="off"
          wrap="off"
          className="min-w-0 flex-1 resize-none overflow-auto bg-transparent px-3 whitespace-pre outline-none"
          style={{ lineHeight: `${LINE_PX}px`, paddingBlock: PADDING_PX, tabSize: 2 }}
          onChange={(event) => onChange(event.target.value)}
          onScroll={(event) => {
            if (gutter.current) gutter.current.scrollTop = event.currentTarget.scrollTop;
          }}
          onKeyDown={(event) => {
            const { currentTarget } = event;
            if (event.key === "Escape") currentTarget.dataset.leaving = "yes";
            else if (event.key === "Tab" && !event.shiftKey && currentTarget.dataset.leaving !== "yes") {
              event.preventDefault();
              document.execCommand("insertText", false, INDENT); // the only way that undo knows of
            } else if (event.key !== "Tab" && event.key !== "Shift") currentTarget.dataset.leaving = "no";
          }}
          onBlur={(event) => (event.currentTarget.dataset.leaving = "no")}
        />
      </div>
      <div aria-live="polite">
        {wrong.length > 0 && (
          <ul className="flex flex-col gap-1 rounded-lg bg-bad-soft px-3 py-2 text-xs">
            {wrong.slice(0, 20).map(({ line, message }, place) => (
              <li key={place}>
                <button type="button" className="text-left hover:underline" onClick={() => goTo(line)}>
                  <span className="mr-2 font-mono font-semibold text-bad">Line {line}</span>
                  {message}
                </button>
              </li>
            ))}
          </ul>
        )}
      </div>
    </div>
  );
}
