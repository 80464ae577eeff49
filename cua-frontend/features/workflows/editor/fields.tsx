"use client";

import { ArrowDown, ArrowUp, Plus, Trash2 } from "lucide-react";
import { type ReactNode, useId, useState } from "react";

import { Button } from "@/components/ui/button";
import { Field, Input, Select, Textarea } from "@/components/ui/field";
import { type Json, isObject } from "@/lib/json";

import type { StepField } from "./catalog";
import { type Pointer, withField, type Wrong, wrongBelow } from "./definition";

interface EditProps<T = unknown> {
  value: T;
  onChange: (value: unknown) => void;
}

/** One field of a step, with what is wrong with it. */
export function StepFieldEditor({ field, at, step, problems, onChange }: {
  field: StepField;
  at: Pointer;
  step: Json;
  problems: Wrong[];
  onChange: (step: Json) => void;
}) {
  const { name, label, kind, hint, required } = field;
  const value = step[name];
  const change = (next: unknown) => onChange(withField(step, name, next));
  const found = wrongBelow(problems, `${at}/${name}`);
  const error = found.map(({ message }) => message).join(". ");
  if (kind.as === "selectors") {
    return (
      <Group label={label} hint={hint} error={error}>
        <SelectorsEditor label={label} value={value} onChange={change} required={required} />
      </Group>
    );
  }
  if (kind.as === "extract") {
    const own = found.filter(({ pointer }) => pointer === `${at}/${name}`);
    return (
      <Group label={label} hint={hint} error={own.map(({ message }) => message).join(". ")}>
        <ExtractEditor at={`${at}/${name}`} problems={found} value={value} onChange={change} />
      </Group>
    );
  }
  return (
    <Field label={label} hint={hint} error={error}>
      {(wired) => {
        switch (kind.as) {
          case "number":
            return <NumberInput {...wired} value={value} onChange={change} />;
          case "boolean":
          case "choice":
            return <ChoiceInput {...wired} kind={kind} value={value} onChange={change} />;
          case "value":
            return <ValueInput {...wired} value={value} onChange={change} />;
          case "json":
            return <JsonInput {...wired} placeholder={kind.placeholder} value={value} onChange={change} />;
          case "texts":
            return <TextsInput {...wired} value={value} onChange={change} />;
          case "indexes":
            return <IndexesInput {...wired} value={value} onChange={change} />;
          case "long":
            return (
              <Textarea
                {...wired}
                rows={2}
                spellCheck={!kind.mono}
                className={kind.mono ? "font-mono text-xs!" : undefined}
                placeholder={kind.placeholder}
                value={asText(value)}
                onChange={(event) => change(orNothing(event.target.value, required))}
              />
            );
          case "text":
            return (
              <Input
                {...wired}
                spellCheck={!kind.mono}
                className={kind.mono ? "font-mono text-xs!" : undefined}
                placeholder={kind.placeholder}
                value={asText(value)}
                onChange={(event) => change(orNothing(event.target.value, required))}
              />
            );
        }
      }}
    </Field>
  );
}

function orNothing(text: string, required?: boolean): string | undefined {
  return text === "" && !required ? undefined : text;
}

function asText(value: unknown): string {
  return value === undefined || value === null ? "" : typeof value === "string" ? value : JSON.stringify(value);
}

/** A label over several inputs. */
function Group({ label, hint, error, children }: { label: string; hint?: string; error?: string; children: ReactNode }) {
  const id = useId();
  return (
    <div role="group" aria-labelledby={id} className="flex flex-col gap-1.5">
      <p id={id} className="text-xs font-medium text-ink-2">
        {label}
      </p>
      {children}
      {hint && <p className="text-xs text-ink-3">{hint}</p>}
      {error && (
        <p role="alert" className="text-xs text-bad">
          {error}
        </p>
      )}
    </div>
  );
}

type Wired = { id: string; "aria-describedby"?: string; "aria-invalid"?: true };

/** A number, or a placeholder that stands for one. */
function NumberInput({ value, onChange, ...wired }: Wired & EditProps) {
  return (
    <Input
      {...wired}
      inputMode="decimal"
      spellCheck={false}
      className="font-mono text-xs!"
      value={asText(value)}
      onChange={(event) => {
        const text = event.target.value;
        if (text === "") onChange(undefined);
        else onChange(String(Number(text)) === text ? Number(text) : text);
      }}
      onBlur={(event) => {
        const text = event.target.value.trim();
        if (typeof value === "string" && text !== "" && Number.isFinite(Number(text))) onChange(Number(text));
      }}
    />
  );
}

function ChoiceInput({ kind, value, onChange, ...wired }: Wired & EditProps & { kind: Extract<StepField["kind"], { as: "boolean" | "choice" }> }) {
  const options = kind.as === "boolean" ? ["true", "false"] : kind.options;
  const isFlag = options[0] === "true";
  const text = value === undefined ? "" : asText(value);
  const initial = kind.as === "boolean" ? (kind.initial ? "Yes" : "No") : kind.initial;
  const label = (option: string) => (isFlag ? (option === "true" ? "Yes" : "No") : option);
  return (
    <Select
      {...wired}
      value={text}
      onChange={(event) => {
        const chosen = event.target.value;
        onChange(chosen === "" ? undefined : isFlag && (chosen === "true" || chosen === "false") ? chosen === "true" : chosen);
      }}
    >
      <option value="">{initial ? `${initial} (default)` : "Not given"}</option>
      {options.map((option) => (
        <option key={option} value={option}>
          {label(option)}
        </option>
      ))}
      {text !== "" && !options.includes(text) && <option value={text}>{text}</option>}
    </Select>
  );
}

function looksLikeJson(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/** A text, or any JSON; a text that would be read as JSON stands in quotation marks. */
function ValueInput({ value, onChange, ...wired }: Wired & EditProps) {
  const shown = value === undefined ? "" : typeof value === "string" && !looksLikeJson(value) ? value : JSON.stringify(value);
  const [typed, setTyped] = useState({ text: shown, value });
  const text = JSON.stringify(typed.value) === JSON.stringify(value) ? typed.text : shown;
  return (
    <Textarea
      {...wired}
      rows={1}
      spellCheck={false}
      className="min-h-9! font-mono text-xs!"
      value={text}
      onChange={(event) => {
        const next = event.target.value;
        const read: unknown = next === "" ? undefined : looksLikeJson(next) ? JSON.parse(next) : next;
        setTyped({ text: next, value: read });
        onChange(read);
      }}
    />
  );
}

/** JSON that is taken over as soon as it can be read. */
export function JsonInput({ value, placeholder, onChange, ...wired }: Wired & EditProps & { placeholder?: string }) {
  const shown = value === undefined ? "" : JSON.stringify(value, null, 2);
  const [typed, setTyped] = useState({ text: shown, value });
  const own = JSON.stringify(typed.value) === JSON.stringify(value);
  const text = own ? typed.text : shown;
  const broken = own && text.trim() !== "" && !looksLikeJson(text);
  return (
    <>
      <Textarea
        {...wired}
        {...(broken ? { "aria-invalid": true } : {})}
        rows={Math.min(12, Math.max(2, text.split("\n").length))}
        spellCheck={false}
        placeholder={placeholder}
        className="font-mono text-xs!"
        value={text}
        onChange={(event) => {
          const next = event.target.value;
          const readable = next.trim() === "" || looksLikeJson(next);
          const read: unknown = readable ? (next.trim() === "" ? undefined : JSON.parse(next)) : value;
          setTyped({ text: next, value: read });
          if (readable) onChange(read);
        }}
      />
      {broken && <p className="text-xs text-bad">This is no JSON yet, so it is not taken over.</p>}
    </>
  );
}

function TextsInput({ value, onChange, ...wired }: Wired & EditProps) {
  const text = Array.isArray(value) ? value.map(asText).join("\n") : asText(value);
  return (
    <Textarea
      {...wired}
      rows={2}
      spellCheck={false}
      placeholder="One on each line"
      className="font-mono text-xs!"
      value={text}
      onChange={(event) => onChange(event.target.value.split("\n"))}
    />
  );
}

function IndexesInput({ value, onChange, ...wired }: Wired & EditProps) {
  const shown = Array.isArray(value) ? value.join(", ") : asText(value);
  const [typed, setTyped] = useState({ text: shown, value });
  const text = JSON.stringify(typed.value) === JSON.stringify(value) ? typed.text : shown;
  return (
    <Input
      {...wired}
      inputMode="numeric"
      className="font-mono text-xs!"
      value={text}
      onChange={(event) => {
        const next = event.target.value;
        const numbers = next.split(/[\s,]+/).filter(Boolean).map(Number);
        const read = numbers.length > 0 && numbers.every(Number.isInteger) ? numbers : undefined;
        setTyped({ text: next, value: read });
        onChange(read);
      }}
    />
  );
}

// Selectors ----------------------------------------------------------------------------------------

const INSIDE = " >>> ";

/** Alternatives in their order; each may lead through shadow roots with `>>>`. */
function SelectorsEditor({ label, value, required, onChange }: EditProps & { label: string; required?: boolean }) {
  const alternatives: unknown[] = Array.isArray(value) ? value : [];
  const put = (next: unknown[]) => onChange(next.length === 0 && !required ? undefined : next);
  const set = (place: number, text: string) => {
    const parts = text.split(INSIDE);
    const whole = typeof alternatives[place] === "string" && parts.length === 1 ? text : parts;
    put(alternatives.with(place, whole));
  };
  const swap = (place: number, other: number) => put(alternatives.with(place, alternatives[other]).with(other, alternatives[place]));
  return (
    <div className="flex flex-col gap-1.5">
      {alternatives.length > 0 && (
        <ol className="flex flex-col gap-1.5">
          {alternatives.map((alternative, place) => (
            <li key={place} className="flex items-center gap-1">
              <Input
                aria-label={`${label}, alternative ${place + 1}`}
                spellCheck={false}
                className="h-8! min-w-0 font-mono text-xs!"
                placeholder="aria/Name, #id, text/…, xpath/…"
                value={Array.isArray(alternative) ? alternative.map(asText).join(INSIDE) : asText(alternative)}
                onChange={(event) => set(place, event.target.value)}
              />
              <Small label={`Move alternative ${place + 1} up`} disabled={place === 0} onClick={() => swap(place, place - 1)}>
                <ArrowUp />
              </Small>
              <Small label={`Move alternative ${place + 1} down`} disabled={place === alternatives.length - 1} onClick={() => swap(place, place + 1)}>
                <ArrowDown />
              </Small>
              <Small label={`Delete alternative ${place + 1}`} onClick={() => put(alternatives.toSpliced(place, 1))}>
                <Trash2 />
              </Small>
            </li>
          ))}
        </ol>
      )}
      <Button size="sm" look="ghost" className="self-start" onClick={() => put([...alternatives, [""]])}>
        <Plus aria-hidden />
        Add a selector
      </Button>
    </div>
  );
}

function Small({ label, disabled, onClick, children }: { label: string; disabled?: boolean; onClick: () => void; children: ReactNode }) {
  return (
    <Button look="ghost" size="icon" className="size-7! [&_svg]:size-3.5!" aria-label={label} disabled={disabled} onClick={onClick}>
      {children}
    </Button>
  );
}

// What extract reads -------------------------------------------------------------------------------

const READS = ["text", "number", "boolean", "html", "url"];

/** The fields of `extract`, each with where it stands and what it is. */
function ExtractEditor({ at, problems, value, onChange }: EditProps & { at: Pointer; problems: Wrong[] }) {
  const fields = isObject(value) ? value : {};
  const names = Object.keys(fields);
  const rename = (name: string, next: string) => {
    if (next !== name && next in fields) return;
    onChange(Object.fromEntries(Object.entries(fields).map(([key, field]) => [key === name ? next : key, field])));
  };
  const fresh = () => {
    let count = names.length + 1;
    while (`field${count}` in fields) count += 1;
    onChange({ ...fields, [`field${count}`]: { selectors: [[""]] } });
  };
  return (
    <div className="flex flex-col gap-2">
      {names.map((name, place) => {
        const field = isObject(fields[name]) ? fields[name] : {};
        const wrong = wrongBelow(problems, `${at}/${name}`);
        const set = (key: string, next: unknown) => onChange({ ...fields, [name]: withField(field, key, next) });
        const nested = isObject(field.fields);
        return (
          <div key={place} className="flex flex-col gap-2 rounded-lg border border-line bg-canvas p-2.5">
            <div className="flex items-center gap-1.5">
              <Input
                aria-label={`Name of field ${place + 1}`}
                className="h-8! min-w-0 flex-1 font-mono text-xs!"
                spellCheck={false}
                value={name}
                onChange={(event) => rename(name, event.target.value)}
              />
              {!nested && (
                <Select
                  aria-label={`What ${name} is`}
                  className="h-8! w-24! shrink-0 text-xs!"
                  value={asText(field.type) || "text"}
                  onChange={(event) => set("type", event.target.value === "text" ? undefined : event.target.value)}
                >
                  {READS.map((kind) => (
                    <option key={kind}>{kind}</option>
                  ))}
                </Select>
              )}
              <Small label={`Delete ${name}`} onClick={() => onChange(withField(fields, name, undefined))}>
                <Trash2 />
              </Small>
            </div>
            <SelectorsEditor label={`Selectors of ${name}`} value={field.selectors} onChange={(next) => set("selectors", next)} />
            <div className="flex flex-wrap items-center gap-x-4 gap-y-2 text-xs text-ink-2">
              <label className="flex items-center gap-1.5">
                <input type="checkbox" className="accent-accent" checked={field.many === true} onChange={(event) => set("many", event.target.checked || undefined)} />
                Every match
              </label>
              {!nested && (
                <label className="flex min-w-0 items-center gap-1.5">
                  Attribute
                  <Input
                    className="h-7! w-28! font-mono text-xs!"
                    spellCheck={false}
                    placeholder="href"
                    value={asText(field.attribute)}
                    onChange={(event) => set("attribute", event.target.value || undefined)}
                  />
                </label>
              )}
              {!nested && (
                <button
                  type="button"
                  className="text-ink-3 hover:text-ink hover:underline"
                  onClick={() => onChange({ ...fields, [name]: { ...withField(withField(field, "type", undefined), "attribute", undefined), fields: { name: {} } } })}
                >
                  Make it an object
                </button>
              )}
            </div>
            {nested && <ExtractEditor at={`${at}/${name}/fields`} problems={problems} value={field.fields} onChange={(next) => set("fields", next)} />}
            {!nested && wrong.length > 0 && (
              <p role="alert" className="text-xs text-bad">
                {wrong.map(({ message }) => message).join(". ")}
              </p>
            )}
          </div>
        );
      })}
      <Button size="sm" look="ghost" className="self-start" onClick={fresh}>
        <Plus aria-hidden />
        Add a field
      </Button>
    </div>
  );
}
