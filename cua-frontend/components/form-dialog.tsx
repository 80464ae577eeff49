"use client";

import { useMutation } from "@tanstack/react-query";
import { type ReactNode, useEffect, useId, useRef, useState } from "react";

import { wrongWith } from "@/lib/problem";

import { Button } from "./ui/button";
import { Dialog } from "./ui/dialog";
import { Field, Input } from "./ui/field";
import { FormError } from "./ui/form-error";

interface FormDialogProps {
  onClose: () => void;
  title: string;
  description?: string;
  wide?: boolean;
  /** What the button that saves says. */
  action: string;
  /** It takes something away. */
  danger?: boolean;
  /** Whether it may be sent. */
  ready?: boolean;
  busy: boolean;
  error: Error | null;
  /** Fields that show what is wrong with them; what is wrong with others is said above all. */
  fields?: string[];
  /** The form shows in another way what is wrong. */
  isShown?: boolean;
  /** The form finds itself what is wrong, not the browser. */
  noValidate?: boolean;
  onSubmit: () => void;
  children: ReactNode;
}

/** A form in a panel. It is open as long as it is there, so that each opening begins anew. */
export function FormDialog({ onClose, title, description, wide, action, danger, ready = true, busy, error, fields = [], isShown, noValidate, onSubmit, children }: FormDialogProps) {
  const id = useId();
  const form = useRef<HTMLFormElement>(null);
  const shown = isShown || fields.some((field) => wrongWith(error, field));
  useEffect(() => {
    if (error) showWrong(form.current);
  }, [error]);
  return (
    <Dialog
      open
      onOpenChange={(open) => open || onClose()}
      title={title}
      description={description}
      wide={wide}
      footer={
        <>
          <Button onClick={onClose}>Cancel</Button>
          <Button type="submit" form={id} look={danger ? "danger" : "primary"} busy={busy} disabled={!ready}>
            {action}
          </Button>
        </>
      }
    >
      <form
        ref={form}
        id={id}
        noValidate={noValidate}
        className="flex flex-col gap-4"
        onSubmit={(event) => {
          event.preventDefault();
          if (!ready || busy) return;
          onSubmit();
          setTimeout(() => showWrong(form.current)); // once it is drawn
        }}
      >
        {error && !shown && <FormError error={error} />}
        {children}
      </form>
    </Dialog>
  );
}

/** Brings what is wrong with a form into view: the first wrong field, else what is said above. */
function showWrong(form: HTMLFormElement | null): void {
  const wrong = form?.querySelector<HTMLElement>("[aria-invalid=true]") ?? form?.querySelector<HTMLElement>("[role=alert]");
  wrong?.scrollIntoView({ block: "center" });
  wrong?.focus();
}

interface NameDialogProps {
  title: string;
  description?: string;
  action: string;
  name?: string;
  placeholder?: string;
  save: (name: string) => Promise<unknown>;
  onClose: () => void;
}

/** Asks for a name. */
export function NameDialog({ title, description, action, name: old = "", placeholder, save, onClose }: NameDialogProps) {
  const [name, setName] = useState(old);
  const saving = useMutation({ mutationFn: () => save(name.trim()), onSuccess: onClose });
  return (
    <FormDialog
      onClose={onClose}
      title={title}
      description={description}
      action={action}
      busy={saving.isPending}
      error={saving.error}
      fields={["name"]}
      onSubmit={() => saving.mutate()}
    >
      <Field label="Name" error={wrongWith(saving.error, "name")}>
        {(wired) => (
          <Input
            {...wired}
            required
            autoFocus
            maxLength={200}
            value={name}
            placeholder={placeholder}
            onFocus={(event) => event.target.select()}
            onChange={(event) => setName(event.target.value)}
          />
        )}
      </Field>
    </FormDialog>
  );
}
