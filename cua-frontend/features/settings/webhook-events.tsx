"use client";

import { useState } from "react";

import { Field, Input } from "@/components/ui/field";

/** What most people want to hear of; a beginning that ends in a dot stands for all that begin so. */
const COMMON: [kind: string, words: string][] = [
  ["run.succeeded", "A run succeeded"],
  ["run.failed", "A run failed"],
  ["run.waiting", "A run waits for its user"],
  ["run.cancelled", "A run was cancelled"],
  ["run.queued", "A run was queued"],
  ["run.started", "A run started"],
  ["run.step.finished", "A step of a run ended"],
  ["approval.requested", "An approval is wanted"],
  ["approval.", "Everything about approvals"],
  ["schedule.", "Everything about schedules"],
  ["file.created", "A file was stored"],
  ["computer.", "Everything about computers"],
  ["auth.", "Everything about sign-ins"],
];
const KNOWN = new Set(COMMON.map(([kind]) => kind));

export function eventsInWords(events: string[]): string {
  if (events.includes("*")) return "every event";
  const [known] = COMMON.filter(([kind]) => kind === events[0]);
  if (events.length === 1 && known) return known[1].toLowerCase();
  return events.length <= 3 ? events.join(", ") : `${events.length} kinds of event`;
}

/** Chooses the events that a webhook hears of. */
export function EventChoice({ events, onChange, error }: { events: string[]; onChange: (events: string[]) => void; error?: string }) {
  const all = events.includes("*");
  const [other, setOther] = useState(() => events.filter((kind) => kind !== "*" && !KNOWN.has(kind)).join(", "));
  const chosen = events.filter((kind) => KNOWN.has(kind));
  const others = other.split(/[\s,]+/).filter(Boolean);
  return (
    <fieldset className="flex flex-col gap-2">
      <legend className="mb-1.5 text-xs font-medium text-ink-2">It hears of</legend>
      <label className="flex items-center gap-2.5 text-sm">
        <input type="radio" name="events" className="accent-accent" checked={all} onChange={() => onChange(["*"])} />
        Everything
      </label>
      <label className="flex items-center gap-2.5 text-sm">
        <input
          type="radio"
          name="events"
          className="accent-accent"
          checked={!all}
          onChange={() => onChange(others.length > 0 ? others : ["run.succeeded", "run.failed", "approval.requested"])}
        />
        Only some events
      </label>
      {!all && (
        <div className="flex flex-col gap-3 rounded-lg bg-sunken p-3">
          <div className="grid gap-x-4 gap-y-2 sm:grid-cols-2">
            {COMMON.map(([kind, words]) => (
              <label key={kind} className="flex items-start gap-2.5 text-sm">
                <input
                  type="checkbox"
                  className="mt-1 accent-accent"
                  checked={chosen.includes(kind)}
                  onChange={(event) => {
                    const next = COMMON.map(([each]) => each).filter((each) => (each === kind ? event.target.checked : chosen.includes(each)));
                    onChange([...next, ...others]);
                  }}
                />
                <span>
                  {words}
                  <span className="block font-mono text-2xs text-ink-3">{kind}</span>
                </span>
              </label>
            ))}
          </div>
          <Field label="Other kinds (optional)" hint="Separated by commas. One that ends in a dot stands for all that begin so.">
            {(wired) => (
              <Input
                {...wired}
                spellCheck={false}
                className="font-mono"
                placeholder="workflow., profile.updated"
                value={other}
                onChange={(event) => {
                  setOther(event.target.value);
                  onChange([...chosen, ...event.target.value.split(/[\s,]+/).filter(Boolean)]);
                }}
              />
            )}
          </Field>
        </div>
      )}
      {(error || events.length === 0) && (
        <p role="alert" className="text-xs text-bad">
          {error ?? "Choose at least one."}
        </p>
      )}
    </fieldset>
  );
}
