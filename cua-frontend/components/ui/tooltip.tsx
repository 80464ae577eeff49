"use client";

import { Tooltip as Radix } from "radix-ui";
import type { ReactNode } from "react";

export function Tooltip({ text, children }: { text: ReactNode; children: ReactNode }) {
  return (
    <Radix.Root>
      <Radix.Trigger asChild>{children}</Radix.Trigger>
      <Radix.Portal>
        <Radix.Content sideOffset={6} className="z-50 max-w-72 rounded-md bg-ink px-2 py-1 text-xs text-canvas shadow-raised">
          {text}
        </Radix.Content>
      </Radix.Portal>
    </Radix.Root>
  );
}
