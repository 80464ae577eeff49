import type { ReactNode } from "react";

import { cn } from "@/lib/cn";

const LOOKS = {
  plain: "bg-sunken text-ink-2",
  accent: "bg-accent-soft text-accent-strong",
  good: "bg-good-soft text-good",
  warn: "bg-warn-soft text-warn",
  bad: "bg-bad-soft text-bad",
} as const;

export type Look = keyof typeof LOOKS;

export function Badge({ look = "plain", pulse, children }: { look?: Look; pulse?: boolean; children: ReactNode }) {
  return (
    <span className={cn("inline-flex h-5 shrink-0 items-center gap-1.5 rounded-full px-2 text-2xs font-medium whitespace-nowrap", LOOKS[look])}>
      {pulse && <span aria-hidden className="size-1.5 animate-pulse rounded-full bg-current" />}
      {children}
    </span>
  );
}
