"use client";

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { toast } from "@/components/ui/toast";
import { useMe } from "@/features/me";
import { changePassword } from "@/lib/api";
import { call } from "@/lib/client";
import { Problem } from "@/lib/problem";

import { Panel } from "./panel";

const EMPTY = { old: "", new: "", again: "" };

export function PasswordForm() {
  const email = useMe().data?.email ?? "";
  const [values, setValues] = useState(EMPTY);
  const [differs, setDiffers] = useState(false);
  const save = useMutation({
    mutationFn: () => call(changePassword({ body: { old: values.old, new: values.new } })),
    onSuccess: () => {
      setValues(EMPTY);
      toast.done("The password is changed", "Every other sign-in has ended.");
    },
  });
  const wrong = save.error instanceof Problem ? save.error : null;
  const isOld = wrong?.code === "wrong_credentials";
  const input = (name: keyof typeof values, autoComplete: string) => ({
    type: "password",
    required: true,
    autoComplete,
    value: values[name],
    onChange: (event: { target: { value: string } }) => {
      setDiffers(false);
      setValues({ ...values, [name]: event.target.value });
    },
  });
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        if (values.new === values.again) save.mutate();
        else setDiffers(true);
      }}
    >
      <Panel
        title="Password"
        description="A new password ends your sign-ins on all other devices."
        footer={
          <Button type="submit" busy={save.isPending}>
            Change the password
          </Button>
        }
      >
        {save.error && !isOld && !wrong?.of("new") && !wrong?.of("old") && <FormError error={save.error} />}
        <input type="text" autoComplete="username" value={email} readOnly hidden aria-hidden />
        <div className="grid gap-4 sm:grid-cols-3">
          <Field label="Current password" error={isOld ? "That is not your password." : wrong?.of("old")}>
            {(wired) => <Input {...wired} {...input("old", "current-password")} />}
          </Field>
          <Field label="New password" hint="At least ten characters; a few words are best." error={wrong?.of("new")}>
            {(wired) => <Input {...wired} minLength={10} {...input("new", "new-password")} />}
          </Field>
          <Field label="Repeat the new password" error={differs ? "The two differ." : undefined}>
            {(wired) => <Input {...wired} {...input("again", "new-password")} />}
          </Field>
        </div>
      </Panel>
    </form>
  );
}
