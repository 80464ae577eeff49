"use client";

import { Field, Input, Textarea } from "@/components/ui/field";
import { Switch } from "@/components/ui/switch";

/** What a person has written: text for what is typed, the value itself for flags. */
export type Draft = Record<string, string | boolean>;

const LONG = 60;
const WIDE = 24;

export function draftOf(values: Record<string, unknown>): Draft {
  return Object.fromEntries(
    Object.entries(values).map(([name, value]) => [
      name,
      typeof value === "boolean" || typeof value === "string" ? value : JSON.stringify(value, null, typeof value === "object" ? 2 : 0),
    ]),
  );
}

/** What was changed, as the API takes it, or what is wrong with it by name. */
export function changesOf(values: Record<string, unknown>, draft: Draft): { changed: Record<string, unknown>; wrong: Record<string, string> } {
  const changed: Record<string, unknown> = {};
  const wrong: Record<string, string> = {};
  const before = draftOf(values);
  for (const [name, value] of Object.entries(values)) {
    const now = draft[name];
    if (now === undefined || now === before[name]) continue;
    if (typeof value === "string" || typeof now === "boolean") changed[name] = now;
    else if (typeof value === "number") {
      const number = Number(now);
      if (now.trim() === "" || !Number.isFinite(number)) wrong[name] = "This must be a number.";
      else changed[name] = number;
    } else {
      try {
        changed[name] = JSON.parse(now);
      } catch {
        wrong[name] = "This is not valid JSON.";
      }
    }
  }
  return { changed, wrong };
}

interface ArgumentsFormProps {
  values: Record<string, unknown>;
  draft: Draft;
  wrong: Record<string, string>;
  disabled: boolean;
  onChange: (draft: Draft) => void;
}

/** An action's arguments, each to be changed in the way of its kind. */
export function ArgumentsForm({ values, draft, wrong, disabled, onChange }: ArgumentsFormProps) {
  return (
    <div className="grid gap-3 sm:grid-cols-2">
      {Object.entries(values).map(([name, value]) => {
        const now = draft[name] ?? "";
        const change = (to: string | boolean) => onChange({ ...draft, [name]: to });
        const text = String(now);
        const area = typeof value === "object" || text.length > LONG || text.includes("\n");
        return (
          <Field key={name} label={name} error={wrong[name]} className={area || text.length > WIDE ? "sm:col-span-2" : undefined}>
            {(wired) => {
              if (typeof now === "boolean") return <Switch {...wired} checked={now} disabled={disabled} onCheckedChange={change} />;
              if (area) {
                return (
                  <Textarea
                    {...wired}
                    value={text}
                    disabled={disabled}
                    spellCheck={false}
                    rows={Math.min(text.split("\n").length + 1, 8)}
                    className={typeof value === "object" ? "font-mono text-xs" : undefined}
                    onChange={(event) => change(event.target.value)}
                  />
                );
              }
              return (
                <Input
                  {...wired}
                  value={text}
                  disabled={disabled}
                  inputMode={typeof value === "number" ? "decimal" : undefined}
                  onChange={(event) => change(event.target.value)}
                />
              );
            }}
          </Field>
        );
      })}
    </div>
  );
}
