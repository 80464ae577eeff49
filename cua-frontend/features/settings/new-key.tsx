"use client";

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { Field, Input, Select } from "@/components/ui/field";
import { createKey, type KeyCreated } from "@/lib/api";
import { call } from "@/lib/client";
import { wrongWith } from "@/lib/problem";

type Scope = KeyCreated["scopes"][number];

const SCOPES: [Scope, string][] = [
  ["read", "Read everything: runs, files, events, live pictures"],
  ["run", "Start, steer, answer and delete runs; use computers; upload"],
  ["write", "Change all the rest: workflows, schedules, secrets, webhooks"],
];
const DAYS = [7, 30, 90, 365] as const;
const DAY_MS = 86_400_000;

export function NewKey({ onClose, onMade }: { onClose: () => void; onMade: (key: KeyCreated) => void }) {
  const [name, setName] = useState("");
  const [scopes, setScopes] = useState<Scope[]>(["read"]);
  const [days, setDays] = useState("90");
  const make = useMutation({
    mutationFn: () => {
      const expires_at = days ? new Date(Date.now() + Number(days) * DAY_MS).toISOString() : null;
      return call(createKey({ body: { name: name.trim(), scopes, expires_at } }));
    },
    onSuccess: onMade,
  });
  const wrongScopes = wrongWith(make.error, "scopes");
  return (
    <FormDialog
      onClose={onClose}
      title="New API key"
      action="Make the key"
      ready={scopes.length > 0}
      busy={make.isPending}
      error={make.error}
      fields={["name", "scopes", "expires_at"]}
      onSubmit={() => make.mutate()}
    >
      <Field label="Name" error={wrongWith(make.error, "name")}>
        {(wired) => (
          <Input {...wired} required autoFocus maxLength={200} value={name} placeholder="Nightly bot" onChange={(event) => setName(event.target.value)} />
        )}
      </Field>
      <fieldset className="flex flex-col gap-2">
        <legend className="mb-1.5 text-xs font-medium text-ink-2">What it may do</legend>
        {SCOPES.map(([scope, words]) => (
          <label key={scope} className="flex items-start gap-2.5 text-sm">
            <input
              type="checkbox"
              className="mt-1 accent-accent"
              checked={scopes.includes(scope)}
              onChange={(event) => setScopes(SCOPES.map(([each]) => each).filter((each) => (each === scope ? event.target.checked : scopes.includes(each))))}
            />
            <span>
              <span className="font-medium">{scope}</span>
              <span className="block text-xs text-ink-3">{words}</span>
            </span>
          </label>
        ))}
        {(wrongScopes || scopes.length === 0) && (
          <p role="alert" className="text-xs text-bad">
            {wrongScopes ?? "Choose at least one."}
          </p>
        )}
      </fieldset>
      <Field label="It ends" error={wrongWith(make.error, "expires_at")}>
        {(wired) => (
          <Select {...wired} value={days} onChange={(event) => setDays(event.target.value)}>
            {DAYS.map((each) => (
              <option key={each} value={each}>
                {each === 365 ? "After a year" : `After ${each} days`}
              </option>
            ))}
            <option value="">Never</option>
          </Select>
        )}
      </Field>
    </FormDialog>
  );
}
