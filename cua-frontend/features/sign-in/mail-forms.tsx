"use client";

import { useMutation } from "@tanstack/react-query";
import { useSearchParams } from "next/navigation";
import { useEffect, useRef, useState } from "react";

import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { TextLink } from "@/components/ui/text-link";
import { forgotPassword, resetPassword, verifyEmail } from "@/lib/api";
import { call } from "@/lib/client";
import { wrongWith } from "@/lib/problem";


export function ForgotForm() {
  const [email, setEmail] = useState("");
  const ask = useMutation({ mutationFn: () => call(forgotPassword({ body: { email } })) });
  if (ask.isSuccess) {
    return (
      <div role="status" className="flex flex-col gap-3">
        <h1 className="text-lg font-semibold">Look into your mail</h1>
        <p className="text-sm text-ink-2">If {email} has an account here, a link that sets a new password is on its way. It works for an hour.</p>
        <TextLink href="/sign-in">Back to sign-in</TextLink>
      </div>
    );
  }
  return (
    <form
      className="flex flex-col gap-4"
      onSubmit={(event) => {
        event.preventDefault();
        ask.mutate();
      }}
    >
      <h1 className="text-lg font-semibold">Forgot the password?</h1>
      {ask.error && <FormError error={ask.error} />}
      <Field label="Email">
        {(wired) => (
          <Input type="email" autoComplete="username" required autoFocus {...wired} value={email} onChange={(event) => setEmail(event.target.value)} />
        )}
      </Field>
      <Button type="submit" look="primary" busy={ask.isPending}>
        Send a link
      </Button>
      <TextLink href="/sign-in">Back to sign-in</TextLink>
    </form>
  );
}

export function ResetForm() {
  const code = useSearchParams().get("code") ?? "";
  const [password, setPassword] = useState("");
  const set = useMutation({ mutationFn: () => call(resetPassword({ body: { code, password } })) });
  if (set.isSuccess) {
    return (
      <div role="status" className="flex flex-col gap-3">
        <h1 className="text-lg font-semibold">The password is set</h1>
        <p className="text-sm text-ink-2">Every other sign-in has ended.</p>
        <TextLink href="/sign-in">Sign in</TextLink>
      </div>
    );
  }
  const wrong = wrongWith(set.error, "password");
  return (
    <form
      className="flex flex-col gap-4"
      onSubmit={(event) => {
        event.preventDefault();
        set.mutate();
      }}
    >
      <h1 className="text-lg font-semibold">Choose a new password</h1>
      {set.error && !wrong && <FormError error={set.error} />}
      <Field label="New password" hint="At least ten characters; a few words are best." error={wrong}>
        {(wired) => (
          <Input
            type="password"
            autoComplete="new-password"
            required
            autoFocus
            {...wired}
            value={password}
            onChange={(event) => setPassword(event.target.value)}
          />
        )}
      </Field>
      <Button type="submit" look="primary" busy={set.isPending}>
        Set the password
      </Button>
    </form>
  );
}

export function VerifyNotice() {
  const code = useSearchParams().get("code") ?? "";
  const { mutate, error, isSuccess } = useMutation({ mutationFn: () => call(verifyEmail({ body: { code } })) });
  const asked = useRef(false);
  useEffect(() => {
    if (asked.current) return; // a code serves once
    asked.current = true;
    mutate();
  }, [mutate]);
  return (
    <div role="status" className="flex flex-col gap-3">
      <h1 className="text-lg font-semibold">{isSuccess ? "The address is proven" : error ? "The link does not work" : "One moment…"}</h1>
      {error && <p className="text-sm text-ink-2">{error.message}</p>}
      <TextLink href="/">Go on</TextLink>
    </div>
  );
}
