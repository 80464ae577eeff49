"use client";

import { Dialog } from "@/components/ui/dialog";
import { SHORTCUTS } from "@/lib/shortcuts";

export function ShortcutSheet({ open, onOpenChange }: { open: boolean; onOpenChange: (open: boolean) => void }) {
  return (
    <Dialog open={open} onOpenChange={onOpenChange} title="Keyboard shortcuts">
      <dl className="flex flex-col gap-2">
        {SHORTCUTS.map(({ keys, label }) => (
          <div key={keys} className="flex items-center justify-between gap-3">
            <dt className="text-sm text-ink-2">{label}</dt>
            <dd className="flex gap-1">
              {keys.split(/[ +]/).map((key, place) => (
                <kbd key={place} className="rounded border border-line-strong bg-sunken px-1.5 font-mono text-xs text-ink-2">
                  {key === "mod" ? "⌘/Ctrl" : key}
                </kbd>
              ))}
            </dd>
          </div>
        ))}
      </dl>
    </Dialog>
  );
}
