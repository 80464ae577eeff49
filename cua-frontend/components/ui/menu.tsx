"use client";

import { DropdownMenu } from "radix-ui";
import { type ReactNode, useRef } from "react";

import { cn } from "@/lib/cn";

export interface MenuItem {
  label: string;
  icon?: ReactNode;
  danger?: boolean;
  disabled?: boolean;
  onSelect: () => void;
}

/** A menu below its trigger; `null` draws a line. */
export function Menu({ trigger, items, align = "end" }: { trigger: ReactNode; items: (MenuItem | null)[]; align?: "start" | "end" }) {
  const chosen = useRef<() => void>(null);
  return (
    <DropdownMenu.Root>
      <DropdownMenu.Trigger asChild>{trigger}</DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content
          align={align}
          sideOffset={4}
          onCloseAutoFocus={() => {
            // Once the focus is back: a dialog that is opened takes it from there, and gives it back.
            if (chosen.current) setTimeout(chosen.current);
            chosen.current = null;
          }}
          className="z-50 min-w-44 rounded-lg border border-line bg-raised p-1 shadow-raised"
        >
          {items.map((item, place) =>
            item === null ? (
              <DropdownMenu.Separator key={place} className="my-1 h-px bg-line" />
            ) : (
              <DropdownMenu.Item
                key={item.label}
                disabled={item.disabled}
                onSelect={() => (chosen.current = item.onSelect)}
                className={cn(
                  "flex cursor-default items-center gap-2 rounded-md px-2.5 py-1.5 text-sm outline-none select-none",
                  "data-[disabled]:opacity-50 data-[highlighted]:bg-sunken [&_svg]:size-4",
                  item.danger ? "text-bad" : "text-ink",
                )}
              >
                {item.icon}
                {item.label}
              </DropdownMenu.Item>
            ),
          )}
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}
