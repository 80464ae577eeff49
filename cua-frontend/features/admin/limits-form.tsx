"use client";

import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { toast } from "@/components/ui/toast";
import { Panel } from "@/features/settings/panel";
import type { UserRead, UserUpdate } from "@/lib/api";
import { wrongWith } from "@/lib/problem";

import { useUpdateUser } from "./queries";

type Limit = Exclude<keyof UserUpdate, "role" | "disabled">;

const GB = 1_000_000_000;
const HOUR = 3600;

/** Each number as people write it: `unit` of what the API counts. */
const LIMITS: { name: Limit; label: string; unit?: number; step?: string }[] = [
  { name: "max_runs", label: "Runs at once" },
  { name: "max_computers", label: "Computers at once" },
  { name: "max_storage_bytes", label: "Storage in GB", unit: GB, step: "any" },
  { name: "requests_per_minute", label: "Requests a minute" },
  { name: "max_month_steps", label: "Steps of agents a month" },
  { name: "max_month_tokens", label: "Tokens a month" },
  { name: "max_month_cost_usd", label: "Cost a month in $", step: "any" },
  { name: "max_month_seconds", label: "Active hours a month", unit: HOUR, step: "any" },
];

function shown(user: UserRead): Record<Limit, string> {
  const values = LIMITS.map(({ name, unit = 1 }) => [name, user[name] === null ? "" : String(user[name] / unit)] as const);
  return Object.fromEntries(values) as Record<Limit, string>;
}

/** What a user may use at once and in a month. */
export function LimitsForm({ user }: { user: UserRead }) {
  const before = shown(user);
  const [values, setValues] = useState(before);
  const update = useUpdateUser(user.id);
  const changed = LIMITS.filter(({ name }) => values[name].trim() !== before[name]);
  const isNamed = LIMITS.some(({ name }) => wrongWith(update.error, name));
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        const body: UserUpdate = {};
        for (const { name, unit } of changed) {
          const text = values[name].trim();
          const amount = Number(text) * (unit ?? 1);
          body[name] = text === "" ? null : unit ? Math.round(amount) : amount;
        }
        update.mutate(body, { onSuccess: () => toast.done("The limits are changed") });
      }}
    >
      <Panel
        title="Limits"
        description="An empty field is the server's own limit. Months are counted in UTC."
        footer={
          <>
            {changed.length > 0 && (
              <Button look="ghost" onClick={() => setValues(before)}>
                Undo
              </Button>
            )}
            <Button type="submit" busy={update.isPending} disabled={changed.length === 0}>
              Save
            </Button>
          </>
        }
      >
        {update.error && !isNamed && <FormError error={update.error} />}
        <div className="grid grid-cols-2 gap-4 sm:grid-cols-4">
          {LIMITS.map(({ name, label, step = "1" }) => (
            <Field key={name} label={label} error={wrongWith(update.error, name)}>
              {(wired) => (
                <Input
                  {...wired}
                  type="number"
                  inputMode="decimal"
                  min={0}
                  step={step}
                  placeholder="Server's own"
                  value={values[name]}
                  onChange={(event) => setValues({ ...values, [name]: event.target.value })}
                />
              )}
            </Field>
          ))}
        </div>
      </Panel>
    </form>
  );
}
