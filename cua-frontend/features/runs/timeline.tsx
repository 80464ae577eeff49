"use client";

import { Check, Hourglass, ListVideo, LoaderCircle, RotateCcw, TriangleAlert, X } from "lucide-react";
import { type KeyboardEvent, memo, useCallback, useEffect, useMemo, useRef } from "react";

import { CopyButton } from "@/components/copy-button";
import { DataView, JsonText } from "@/components/data-view";
import { LongText } from "@/components/long-text";
import { useNow } from "@/components/time";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { Screenshot } from "@/features/recording/screenshot";
import type { ApprovalStatus, StepRead } from "@/lib/api";
import { cn } from "@/lib/cn";
import { duration } from "@/lib/format";
import { isObject } from "@/lib/json";

import { useRun, useRunApprovals, useSteps } from "./queries";
import { elementNames, stepDepth, type StepLabel, stepLabel } from "./step-label";

/** What the run is at, as far as its steps show it. */
type RunState = "running" | "waiting" | "ended";

interface TimelineProps {
  runId: string;
  state: RunState;
  selected: number | null;
  /** The step in which the recording is. */
  current: number | null;
  onSelect: (step: number | null) => void;
}

const NEAR_PIXELS = 200;
const INDENT_REM = 0.875;
const DEEPEST_SHOWN = 5;

/** What the run does, step by step, while it does it. */
export function Timeline({ runId, state, selected, current, onSelect }: TimelineProps) {
  const steps = useSteps(runId);
  const run = useRun(runId);
  const names = useMemo(() => elementNames(steps.data ?? []), [steps.data]);
  const list = useRef<HTMLOListElement>(null);
  useFollow(list, steps.data?.length ?? 0, selected === null && state === "running");

  const latest = useRef({ selected, onSelect });
  useEffect(() => {
    latest.current = { selected, onSelect };
  });
  const toggle = useCallback((step: number) => {
    latest.current.onSelect(step === latest.current.selected ? null : step);
  }, []);

  const move = (event: KeyboardEvent) => {
    const by = { ArrowDown: 1, ArrowUp: -1, Home: -Infinity, End: Infinity }[event.key];
    if (by === undefined || !(event.target instanceof HTMLButtonElement) || !steps.data?.length) return;
    const rows = [...(list.current?.querySelectorAll<HTMLButtonElement>("button[data-step]") ?? [])];
    const at = rows.indexOf(event.target);
    if (at < 0) return;
    event.preventDefault();
    const next = rows[Math.min(Math.max(at + by, 0), rows.length - 1)];
    next?.focus();
    const number = Number(next?.dataset.step);
    if (number) onSelect(number);
  };

  if (steps.isPending) return <Skeletons count={6} className="h-10" />;
  if (steps.isError) return <Failure title="The steps could not be read" error={steps.error} retry={() => void steps.refetch()} />;
  if (steps.data.length === 0) {
    return (
      <Empty icon={<ListVideo />} title="No steps yet">
        {state === "ended" ? "The run ended before its first step." : "Each step appears here as it happens."}
      </Empty>
    );
  }
  return (
    <ol ref={list} aria-label="Steps; the arrow keys move through them" className="flex flex-col" onKeyDown={move}>
      {steps.data.map((step) => (
        <li key={step.id} className="[contain-intrinsic-size:auto_2.5rem] [content-visibility:auto]">
          <StepRow
            step={step}
            {...stepLabel(step, names, run.data?.params)}
            state={state}
            selected={step.number === selected}
            current={step.number === current}
            focusable={selected === null ? step === steps.data[0] : step.number === selected}
            onToggle={toggle}
          />
          {step.number === selected && <StepDetails step={step} />}
        </li>
      ))}
    </ol>
  );
}

/** Keeps the newest row in sight while it grows, as long as its reader is at its end. */
function useFollow(list: React.RefObject<HTMLElement | null>, count: number, follow: boolean) {
  const begun = useRef(false);
  useEffect(() => {
    const pane = list.current?.closest("[data-pane]");
    if (!follow || !(pane instanceof HTMLElement) || pane.scrollHeight <= pane.clientHeight) return;
    const first = !begun.current;
    begun.current = true;
    if (first || pane.scrollHeight - pane.scrollTop - pane.clientHeight < NEAR_PIXELS) pane.scrollTop = pane.scrollHeight;
  }, [list, count, follow]);
}

interface StepRowProps extends StepLabel {
  step: StepRead;
  state: RunState;
  selected: boolean;
  current: boolean;
  focusable: boolean;
  onToggle: (step: number) => void;
}

/** Remembered, since a run may have thousands of them. */
const StepRow = memo(function StepRow({ step, icon: Icon, verb, what, state, selected, current, focusable, onToggle }: StepRowProps) {
  const depth = Math.min(stepDepth(step.pointer), DEEPEST_SHOWN);
  const code = step.error && typeof step.error.code === "string" ? step.error.code : null;
  return (
    <button
      type="button"
      data-step={step.number}
      tabIndex={focusable ? 0 : -1}
      aria-expanded={selected}
      aria-current={current ? "step" : undefined}
      onClick={() => onToggle(step.number)}
      style={{ paddingLeft: `${0.5 + depth * INDENT_REM}rem` }}
      className={cn(
        "flex min-h-10 w-full items-center gap-2.5 rounded-md py-1.5 pr-2 text-left text-sm focus-visible:-outline-offset-2",
        selected ? "bg-accent-soft" : current ? "bg-sunken shadow-[inset_2px_0_0_var(--accent)]" : "hover:bg-sunken",
      )}
    >
      <span className="w-6 shrink-0 text-right text-2xs text-ink-3 tabular-nums">{step.number}</span>
      <Icon className="size-4 shrink-0 text-ink-3" aria-hidden />
      <span className="min-w-0 flex-1 truncate">
        <span className="font-medium">{verb}</span>
        {what && <span className="text-ink-2"> {what}</span>}
      </span>
      {code && <span className="hidden max-w-40 truncate text-2xs text-bad sm:inline">{code}</span>}
      <Took step={step} state={state} />
      <StatusIcon step={step} state={state} />
    </button>
  );
});

function Took({ step, state }: { step: StepRead; state: RunState }) {
  const runs = step.status === "started" && state !== "ended";
  const now = useNow(runs ? 1000 : 0);
  const took = step.duration_ms ?? (runs ? Math.max(now - Date.parse(step.started_at), 0) : null);
  if (took === null || (runs && took < 1000)) return null;
  return <span className="shrink-0 text-2xs text-ink-3 tabular-nums">{duration(took)}</span>;
}

function StatusIcon({ step, state }: { step: StepRead; state: RunState }) {
  const shown = {
    started: {
      running: { icon: LoaderCircle, look: "animate-spin text-accent", word: "In progress" },
      waiting: { icon: Hourglass, look: "text-warn", word: "Waits" },
      ended: { icon: X, look: "text-ink-3", word: "Broken off" },
    }[state],
    succeeded: { icon: Check, look: "text-good", word: "Succeeded" },
    failed: { icon: X, look: "text-bad", word: "Failed" },
    interrupted: { icon: RotateCcw, look: "text-warn", word: "Broken off; it begins anew" },
    may_have_landed: { icon: TriangleAlert, look: "text-warn", word: "May have been done" },
  }[step.status];
  const Icon = shown.icon;
  return (
    <span className="shrink-0" title={shown.word}>
      <Icon className={cn("size-4", shown.look)} aria-hidden />
      <span className="sr-only">{shown.word}</span>
    </span>
  );
}

function StepDetails({ step }: { step: StepRead }) {
  const given = isObject(step.call?.arguments) ? step.call.arguments : null;
  return (
    <div className="mt-1 mb-3 ml-4 flex flex-col gap-4 border-l-2 border-accent-soft py-2 pl-4 text-sm">
      <dl className="flex flex-wrap gap-x-6 gap-y-2 text-xs">
        {step.url && step.url !== "about:blank" && (
          <div className="min-w-0 basis-full">
            <dt className="text-ink-3">Page</dt>
            <dd className="break-all">{step.url}</dd>
          </div>
        )}
        <div>
          <dt className="text-ink-3">Type</dt>
          <dd className="font-mono">{step.type}</dd>
        </div>
        <div>
          <dt className="text-ink-3">In the definition</dt>
          <dd className="font-mono">{step.pointer}</dd>
        </div>
        {step.attempt > 1 && (
          <div>
            <dt className="text-ink-3">Attempt</dt>
            <dd>{step.attempt}</dd>
          </div>
        )}
      </dl>
      {step.error && <StepError error={step.error} />}
      {given && Object.keys(given).length > 0 && (
        <Part title="Arguments">
          <JsonText value={given} />
        </Part>
      )}
      <Answers step={step} />
      {step.output !== null && step.output !== undefined && (
        <Part title="Output" copied={step.output}>
          <DataView value={step.output} />
        </Part>
      )}
      {step.screenshot_id && (
        <Part title="Screenshot">
          <Screenshot id={step.screenshot_id} />
        </Part>
      )}
    </div>
  );
}

const ANSWERS: Partial<Record<ApprovalStatus, string>> = { approved: "Approved", denied: "Denied", expired: "Nobody answered in time", cancelled: "Withdrawn" };

/** What a person said to the step before it was done, and what they changed in it. */
function Answers({ step }: { step: StepRead }) {
  const approvals = useRunApprovals(step.run_id);
  return approvals.data?.map(({ id, step_id, status, note, arguments: changed }) => {
    const said = step_id === step.id && ANSWERS[status];
    if (!said) return null;
    return (
      <Part key={id} title="Answer">
        <p>
          {changed ? `${said} with changes` : said}
          {note && <span className="text-ink-2">: {note}</span>}
        </p>
        {changed && <JsonText value={changed} />}
      </Part>
    );
  });
}

function Part({ title, copied, children }: { title: string; copied?: unknown; children: React.ReactNode }) {
  return (
    <section className="flex min-w-0 flex-col gap-1.5">
      <div className="flex min-h-7 items-center justify-between">
        <h2 className="text-xs font-medium text-ink-3">{title}</h2>
        {copied !== undefined && <CopyButton text={() => (typeof copied === "string" ? copied : JSON.stringify(copied, null, 2))} />}
      </div>
      {children}
    </section>
  );
}

/** What went wrong in a step, and what was looked for. */
function StepError({ error }: { error: Record<string, unknown> }) {
  const tried = Array.isArray(error.tried) ? error.tried.filter(isObject) : [];
  return (
    <div className="flex flex-col gap-2 rounded-md bg-bad-soft px-3 py-2">
      {typeof error.code === "string" && (
        <p className="font-mono text-xs text-bad">{error.code}</p>
      )}
      {typeof error.detail === "string" && <LongText className="text-ink-2">{error.detail}</LongText>}
      {tried.length > 0 && (
        <ul aria-label="What was tried" className="flex flex-col gap-1 text-xs">
          {tried.map((each, place) => (
            <li key={place} className="flex flex-wrap gap-x-2">
              <code className="break-all">{String(each.selector ?? "")}</code>
              <span className="text-ink-2">{String(each.state ?? "")}</span>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}
