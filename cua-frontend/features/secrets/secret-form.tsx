"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { Field, Input, Select } from "@/components/ui/field";
import { createSecret, type SecretKind, type SecretRead, type SecretUpdate, updateSecret } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";
import { Problem, wrongWith } from "@/lib/problem";

import { HiddenInput } from "./hidden-input";
import { asOrigin, Origins } from "./origins";

type Value = "username" | "password" | "totp" | "text";

export const KINDS: Record<SecretKind, { label: string; values: Value[] }> = {
  password: { label: "Sign-in", values: ["username", "password", "totp"] },
  totp: { label: "One-time codes", values: ["totp"] },
  text: { label: "Text", values: ["text"] },
};
const VALUES: Record<Value, { label: string; hint?: string; optional?: boolean }> = {
  username: { label: "Username", optional: true },
  password: { label: "Password" },
  totp: { label: "Seed of one-time codes", hint: "The text behind the QR code, in base 32, or an otpauth:// address." },
  text: { label: "Text" },
};
const NOTHING: Record<Value, string> = { username: "", password: "", totp: "", text: "" };

/** Makes a secret, or changes one whose values nobody sees any more. */
export function SecretForm({ secret, onClose }: { secret?: SecretRead; onClose: () => void }) {
  const cache = useQueryClient();
  const [name, setName] = useState(secret?.name ?? "");
  const [kind, setKind] = useState<SecretKind>(secret?.kind ?? "password");
  const [origins, setOrigins] = useState<string[]>(secret?.origins ?? [""]);
  const [values, setValues] = useState(NOTHING);
  const [asked, setAsked] = useState(false);
  const wanted = KINDS[kind].values;
  const named = origins.map((origin) => origin.trim()).filter(Boolean);
  const isWider = secret !== undefined && named.some((origin) => !secret.origins.includes(asOrigin(origin) ?? origin));
  const save = useMutation({
    mutationFn: () => {
      const given: Pick<SecretUpdate, Value> = {};
      for (const value of wanted) if (values[value]) given[value] = values[value];
      const body = { name, origins: named.map((origin) => asOrigin(origin) ?? origin), ...given };
      return secret
        ? call(updateSecret({ path: { id: secret.id }, body }))
        : call(createSecret({ body: { kind, ...body } }));
    },
    onSuccess: () => {
      onClose();
      return cache.invalidateQueries({ queryKey: keys.lists("secret") });
    },
  });
  const isTaken = save.error instanceof Problem && save.error.code === "already_exists";
  return (
    <FormDialog
      onClose={onClose}
      title={secret ? `Edit ${secret.name}` : "New secret"}
      description={secret ? "What is kept is not shown. A value that you leave empty stays as it is." : undefined}
      action="Save"
      busy={save.isPending}
      error={save.error}
      fields={["name", "origins", ...wanted]}
      isShown={isTaken}
      onSubmit={() => {
        setAsked(true);
        if (named.every((origin) => asOrigin(origin))) save.mutate();
      }}
    >
      <Field
        label="Name"
        hint="Letters, digits, dashes and underscores; it begins with a letter or underscore. Steps call it by this name."
        error={isTaken ? "There is a secret of this name already." : wrongWith(save.error, "name")}
      >
        {(wired) => (
          <Input
            {...wired}
            required
            autoFocus
            pattern="[A-Za-z_][A-Za-z0-9_\-]{0,63}"
            title="Letters, digits, dashes and underscores, at most 64"
            autoComplete="off"
            spellCheck={false}
            placeholder="shop"
            value={name}
            onChange={(event) => setName(event.target.value)}
          />
        )}
      </Field>
      {!secret && (
        <Field label="Kind">
          {(wired) => (
            <Select {...wired} value={kind} onChange={(event) => setKind(event.target.value as SecretKind)}>
              {Object.entries(KINDS).map(([value, { label }]) => (
                <option key={value} value={value}>
                  {label}
                </option>
              ))}
            </Select>
          )}
        </Field>
      )}
      {wanted.map((value) => {
        const { label, hint, optional } = VALUES[value];
        const isOptional = optional || (value === "totp" && kind === "password");
        const kept = secret?.fields.includes(value) ?? false;
        return (
          <Field
            key={value}
            label={isOptional ? `${label} (optional)` : label}
            hint={hint}
            error={wrongWith(save.error, value)}
          >
            {(wired) => (
              <HiddenInput
                {...wired}
                open={value === "username"}
                label={label}
                required={secret ? kept && isWider : !isOptional}
                placeholder={kept ? (isWider ? "Needed again for another origin" : "Kept; type to replace it") : undefined}
                value={values[value]}
                onChange={(event) => setValues({ ...values, [value]: event.target.value })}
              />
            )}
          </Field>
        );
      })}
      <Origins origins={origins} onChange={setOrigins} asked={asked} error={wrongWith(save.error, "origins")} />
      {isWider && (
        <p role="status" className="rounded-md bg-warn-soft px-3 py-2 text-sm text-warn">
          Another origin needs every value again, so that nobody sends what is kept to a place of their own.
        </p>
      )}
    </FormDialog>
  );
}
