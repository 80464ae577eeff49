"use client";

import { X } from "lucide-react";
import { AlertDialog as RadixAlert, Dialog as RadixDialog } from "radix-ui";
import { type ReactNode, type RefObject, useLayoutEffect, useRef } from "react";

import { cn } from "@/lib/cn";

import { Button } from "./button";

const OVERLAY = "fixed inset-0 z-40 bg-black/45 backdrop-blur-[1px]";
const PANEL = cn(
  "fixed z-50 flex max-h-[88dvh] flex-col overflow-hidden border border-line bg-raised shadow-raised",
  "inset-x-0 bottom-0 rounded-t-xl sm:inset-auto sm:top-[10dvh] sm:left-1/2 sm:w-full sm:-translate-x-1/2 sm:rounded-xl",
);

/** Radix gives the focus back to a trigger of its own; ours are opened by anything, so what had it is remembered. */
function useFocusBack() {
  const before = useRef<HTMLElement>(null);
  const onCloseAutoFocus = (event: Event) => {
    event.preventDefault();
    before.current?.focus();
    before.current = null;
  };
  return { before, onCloseAutoFocus };
}

/** Stands first in a panel, so that it looks before a field takes the focus. */
function Remember({ before }: { before: RefObject<HTMLElement | null> }): null {
  useLayoutEffect(() => {
    if (document.activeElement instanceof HTMLElement) before.current ??= document.activeElement;
  }, [before]);
  return null;
}

interface DialogProps {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  title: string;
  description?: string;
  wide?: boolean;
  children: ReactNode;
  footer?: ReactNode;
}

/** A panel over the page; at phone width a sheet from below. */
export function Dialog({ open, onOpenChange, title, description, wide, children, footer }: DialogProps) {
  const { before, onCloseAutoFocus } = useFocusBack();
  return (
    <RadixDialog.Root open={open} onOpenChange={onOpenChange}>
      <RadixDialog.Portal>
        <RadixDialog.Overlay className={OVERLAY} />
        <RadixDialog.Content
          className={cn(PANEL, wide ? "sm:max-w-3xl" : "sm:max-w-lg")}
          onCloseAutoFocus={onCloseAutoFocus}
          {...(description ? {} : { "aria-describedby": undefined })}
        >
          <Remember before={before} />
          <header className="flex items-start gap-4 border-b border-line px-5 py-4">
            <div className="min-w-0 flex-1">
              <RadixDialog.Title className="text-base font-semibold">{title}</RadixDialog.Title>
              {description && (
                <RadixDialog.Description className="mt-0.5 text-sm text-ink-3">{description}</RadixDialog.Description>
              )}
            </div>
            <RadixDialog.Close asChild>
              <Button look="ghost" size="icon" aria-label="Close" className="-mt-1 -mr-2">
                <X />
              </Button>
            </RadixDialog.Close>
          </header>
          <div className="min-h-0 flex-1 overflow-y-auto px-5 py-4">{children}</div>
          {footer && <footer className="flex justify-end gap-2 border-t border-line px-5 py-3">{footer}</footer>}
        </RadixDialog.Content>
      </RadixDialog.Portal>
    </RadixDialog.Root>
  );
}

interface ConfirmProps {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  title: string;
  description: ReactNode;
  action: string;
  busy?: boolean;
  onConfirm: () => void;
}

/** Asks before what cannot be undone. */
export function Confirm({ open, onOpenChange, title, description, action, busy, onConfirm }: ConfirmProps) {
  const { before, onCloseAutoFocus } = useFocusBack();
  return (
    <RadixAlert.Root open={open} onOpenChange={onOpenChange}>
      <RadixAlert.Portal>
        <RadixAlert.Overlay className={OVERLAY} />
        <RadixAlert.Content className={cn(PANEL, "gap-2 p-5 sm:max-w-md")} onCloseAutoFocus={onCloseAutoFocus}>
          <Remember before={before} />
          <RadixAlert.Title className="text-base font-semibold">{title}</RadixAlert.Title>
          <RadixAlert.Description className="text-sm text-ink-2">{description}</RadixAlert.Description>
          <div className="mt-3 flex justify-end gap-2">
            <RadixAlert.Cancel asChild>
              <Button>Cancel</Button>
            </RadixAlert.Cancel>
            <Button look="danger" busy={busy} onClick={onConfirm}>
              {action}
            </Button>
          </div>
        </RadixAlert.Content>
      </RadixAlert.Portal>
    </RadixAlert.Root>
  );
}
