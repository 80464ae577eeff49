"use client";

import { DropdownMenu } from "radix-ui";
import type { ReactNode } from "react";

import { STEP_GROUPS, STEP_TYPES, type StepType } from "./catalog";

/** All kinds of steps, by what they are for. */
export function AddStepMenu({ trigger, onAdd }: { trigger: ReactNode; onAdd: (type: StepType) => void }) {
  return (
    <DropdownMenu.Root>
      <DropdownMenu.Trigger asChild>{trigger}</DropdownMenu.Trigger>
      <DropdownMenu.Portal>
        <DropdownMenu.Content
          align="start"
          sideOffset={4}
          collisionPadding={8}
          className="z-50 max-h-[min(70dvh,var(--radix-dropdown-menu-content-available-height))] w-[min(34rem,calc(100vw-1rem))] gap-x-2 overflow-y-auto rounded-lg border border-line bg-raised p-2 shadow-raised sm:columns-2"
        >
          {STEP_GROUPS.map((group) => (
            <DropdownMenu.Group key={group} className="mb-2 break-inside-avoid">
              <DropdownMenu.Label className="px-2 py-1 text-2xs font-medium text-ink-3">{group}</DropdownMenu.Label>
              {STEP_TYPES.filter((each) => each.group === group).map((each) => (
                <DropdownMenu.Item
                  key={each.type}
                  onSelect={() => onAdd(each)}
                  className="flex cursor-default items-center gap-2 rounded-md px-2 py-1.5 text-sm outline-none select-none data-[highlighted]:bg-sunken"
                >
                  <each.icon className="size-4 text-ink-3" aria-hidden />
                  {each.label}
                </DropdownMenu.Item>
              ))}
            </DropdownMenu.Group>
          ))}
        </DropdownMenu.Content>
      </DropdownMenu.Portal>
    </DropdownMenu.Root>
  );
}
