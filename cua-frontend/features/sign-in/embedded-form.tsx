"use client";

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { TextLink } from "@/components/ui/text-link";
import { embedded } from "@/lib/auth/embedded";
import { useConfig } from "@/lib/auth/provider";
import { useSession } from "@/lib/auth/session";
import { wrongWith } from "@/lib/problem";

/** Signs in, or makes an account, at the server itself. */
export function EmbeddedForm({ action }: { action: "login" | "register" }) {
  const [values, setValues] = useState({ name: "", email: "", password: "" });
  const open = useConfig()?.auth.registration ?? false;
  const { ended } = useSession();
  const isNew = action === "register";
  const enter = useMutation({
    mutationFn: () => {
      const { name, email, password } = values;
      return embedded.enter(action, isNew && name ? { name, email, password } : { email, password });
    },
  });
  const wrong = (name: keyof typeof values) => wrongWith(enter.error, name);
  const field = (name: keyof typeof values) => ({
    value: values[name],
    onChange: (event: { target: { value: string } }) => setValues({ ...values, [name]: event.target.value }),
  });
  return (
    <form
      className="flex flex-col gap-4"
      onSubmit={(event) => {
        event.preventDefault();
        enter.mutate();
      }}
    >
      <h1 className="text-lg font-semibold">{isNew ? "Make an account" : "Sign in"}</h1>
      {ended && (
        <p role="status" className="rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">
          Your sign-in has ended. Sign in again to go on where you were.
        </p>
      )}
      {enter.error && <FormError error={enter.error} />}
      {isNew && (
        <Field label="Name" hint="Optional" error={wrong("name")}>
          {(wired) => <Input autoComplete="name" {...wired} {...field("name")} />}
        </Field>
      )}
      <Field label="Email" error={wrong("email")}>
        {(wired) => <Input type="email" autoComplete="username" required autoFocus {...wired} {...field("email")} />}
      </Field>
      <Field label="Password" hint={isNew ? "At least ten characters; a few words are best." : undefined} error={wrong("password")}>
        {(wired) => (
          <Input
            type="password"
            autoComplete={isNew ? "new-password" : "current-password"}
            required
            {...wired}
            {...field("password")}
          />
        )}
      </Field>
      <Button type="submit" look="primary" busy={enter.isPending}>
        {isNew ? "Make the account" : "Sign in"}
      </Button>
      <p className="flex justify-between text-xs text-ink-3">
        {isNew ? (
          <TextLink href="/sign-in">I have an account</TextLink>
        ) : (
          <>
            {open ? <TextLink href="/register">Make an account</TextLink> : <span />}
            <TextLink href="/forgot">Forgot the password?</TextLink>
          </>
        )}
      </p>
    </form>
  );
}
