"use client";

import { CircleAlert } from "lucide-react";

import { Field, Select } from "@/components/ui/field";
import type { Json } from "@/lib/json";

import { STEP_TYPES, type StepField, stepType } from "./catalog";
import { type Pointer, type Wrong, wrongWithStep } from "./definition";
import { JsonInput, StepFieldEditor } from "./fields";

interface StepPanelProps {
  at: Pointer;
  step: Json;
  problems: Wrong[];
  onChange: (step: Json) => void;
}

/** The fields of one step. What it holds beyond those that we know stays as it is. */
export function StepPanel({ at, step, problems, onChange }: StepPanelProps) {
  const type = stepType(step.type);
  const wrong = wrongWithStep(problems, at, step);
  const fields = type?.fields ?? [];
  const known = new Set(["type", ...fields.map(({ name }) => name), ...(type?.inner ?? []).map(({ name }) => name)]);
  const others = Object.fromEntries(Object.entries(step).filter(([name]) => !known.has(name)));
  const elsewhere = wrong.filter(({ pointer }) => !fields.some(({ name }) => pointer === `${at}/${name}` || pointer.startsWith(`${at}/${name}/`)));
  const plain = fields.filter((field) => !field.advanced);
  const advanced = fields.filter((field) => field.advanced);
  const isWrong = ({ name }: StepField) => wrong.some(({ pointer }) => pointer === `${at}/${name}` || pointer.startsWith(`${at}/${name}/`));
  const used = advanced.some((field) => step[field.name] !== undefined && field.name !== "target" && field.name !== "offsetX" && field.name !== "offsetY");
  const edit = (field: StepField) => (
    <StepFieldEditor key={field.name} field={field} at={at} step={step} problems={wrong} onChange={onChange} />
  );
  return (
    <div className="flex flex-col gap-4" key={at}>
      <Field label="What it does">
        {(wired) => (
          <Select {...wired} value={type?.type ?? ""} onChange={(event) => onChange(ofOtherType(step, event.target.value))}>
            {!type && <option value="">{String(step.type)}</option>}
            {STEP_TYPES.map((each) => (
              <option key={each.type} value={each.type}>
                {each.label}
              </option>
            ))}
          </Select>
        )}
      </Field>
      {elsewhere.length > 0 && (
        <ul role="alert" className="flex flex-col gap-1 rounded-md bg-bad-soft px-3 py-2 text-xs text-bad">
          {elsewhere.map(({ pointer, message }, place) => (
            <li key={place} className="flex gap-2">
              <CircleAlert className="mt-0.5 size-3.5 shrink-0" aria-hidden />
              <span className="min-w-0 break-words">
                {pointer !== at && <code className="mr-1.5 font-mono">{pointer.slice(at.length + 1)}</code>}
                {message}
              </span>
            </li>
          ))}
        </ul>
      )}
      {plain.map(edit)}
      {(advanced.length > 0 || Object.keys(others).length > 0) && (
        <details open={used || advanced.some(isWrong) || undefined}>
          <summary className="cursor-pointer text-xs text-ink-3 hover:text-ink">Advanced</summary>
          <div className="mt-3 flex flex-col gap-4">
            {advanced.map(edit)}
            {Object.keys(others).length > 0 && (
              <Field label="Other fields" hint="Kept as they are. Change them here or in JSON.">
                {(wired) => <JsonInput {...wired} value={others} onChange={(next) => onChange(withOthers(step, known, next))} />}
              </Field>
            )}
          </div>
        </details>
      )}
    </div>
  );
}

/** Fields that both kinds of step have are kept; those that the new one needs are added. */
function ofOtherType(step: Json, type: string): Json {
  const next = stepType(type);
  if (!next) return step;
  const names = new Set([...next.fields.map(({ name }) => name), ...next.inner.map(({ name }) => name)]);
  const same = Object.entries(step).filter(([name]) => names.has(name));
  return { ...structuredClone(next.template), ...Object.fromEntries(same), type };
}

function withOthers(step: Json, known: Set<string>, others: unknown): Json {
  const ours = Object.entries(step).filter(([name]) => known.has(name));
  return { ...Object.fromEntries(ours), ...(typeof others === "object" ? others : {}) };
}
