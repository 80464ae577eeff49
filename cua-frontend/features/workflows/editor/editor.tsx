"use client";

import { CircleAlert, Settings2 } from "lucide-react";
import { type ReactNode, useState, useSyncExternalStore } from "react";

import { Choice } from "@/components/filter-bar";
import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { cn } from "@/lib/cn";
import { counted } from "@/lib/format";
import { Problem } from "@/lib/problem";

import { countSteps, inWords, type Pointer, replaceStep, stepAt, type Wrong, wrongWithStep } from "./definition";
import { FlowPanel } from "./flow-panel";
import { JsonEditor } from "./json-editor";
import { StepPanel } from "./step-panel";
import { StepTree } from "./step-tree";
import type { WorkflowDraft } from "./use-draft";

const VIEWS = [
  ["form", "Form"],
  ["json", "JSON"],
] as const;

/** A workflow as a form and as JSON, two views of the same text. */
export function Editor({ work, problems }: { work: WorkflowDraft; problems: Wrong[] }) {
  const { draft, map, change } = work;
  const [view, setView] = useState<(typeof VIEWS)[number][0]>("form");
  const [selected, setSelected] = useState<Pointer | null>(null);
  const ours = problems.filter(({ pointer }) => !pointer.startsWith("/parameters"));
  return (
    <div className="flex flex-col gap-4 pt-4">
      <div className="flex flex-wrap items-end gap-3">
        <Field label="Name" className="min-w-0 flex-1 basis-60" error={draft.name.trim() === "" ? "A workflow needs a name" : null}>
          {(wired) => <Input {...wired} value={draft.name} maxLength={200} onChange={(event) => change({ name: event.target.value })} />}
        </Field>
        <Choice label="View" options={VIEWS} value={view} onChange={setView} />
      </div>
      <Notices work={work} />
      {view === "json" ? (
        <JsonEditor
          label="The definition as JSON"
          className="h-[max(26rem,calc(100dvh-22rem))]"
          text={draft.text}
          map={map}
          problems={ours}
          onChange={(text) => change({ text })}
        />
      ) : (
        <Form work={work} problems={problems} selected={selected} onSelect={setSelected} onJson={() => setView("json")} />
      )}
    </div>
  );
}

/** The deepest step that a pointer leads into. */
function nearestStep(definition: NonNullable<WorkflowDraft["definition"]>, pointer: Pointer): Pointer | null {
  for (let at = pointer; at !== ""; at = at.slice(0, at.lastIndexOf("/"))) {
    const step = stepAt(definition, at);
    if (step && typeof step.type === "string" && /^\/steps\/(.*\/)?\d+$/.test(at) && wrongWithStep([{ pointer, message: "" }], at, step).length > 0) return at;
  }
  return null;
}

function Notices({ work }: { work: WorkflowDraft }) {
  const { save, outdated, resumed, discard } = work;
  const stale = outdated || (save.error instanceof Problem && save.error.status === 412);
  return (
    <div aria-live="polite" className="flex flex-col gap-2 empty:hidden">
      {stale ? (
        <Notice
          text="This workflow was saved elsewhere while you changed it."
          actions={
            <>
              <Button size="sm" onClick={discard}>
                Take theirs
              </Button>
              <Button size="sm" onClick={() => save.run(true)} busy={save.busy}>
                Save mine over it
              </Button>
            </>
          }
        />
      ) : (
        save.error && <Notice bad text={`It was not saved: ${save.error.message}`} />
      )}
      {resumed && !stale && (
        <Notice
          text="You left these changes unsaved; here they are again."
          actions={
            <Button size="sm" onClick={discard}>
              Discard them
            </Button>
          }
        />
      )}
    </div>
  );
}

function Notice({ text, bad, actions }: { text: string; bad?: boolean; actions?: ReactNode }) {
  return (
    <div className={cn("flex flex-wrap items-center gap-2 rounded-lg px-3 py-2 text-sm", bad ? "bg-bad-soft text-bad" : "bg-warn-soft text-warn")}>
      <CircleAlert className="size-4 shrink-0" aria-hidden />
      <p className="min-w-0 flex-1 basis-48 break-words">{text}</p>
      {actions}
    </div>
  );
}

interface FormProps {
  work: WorkflowDraft;
  problems: Wrong[];
  selected: Pointer | null;
  onSelect: (at: Pointer | null) => void;
  onJson: () => void;
}

function Form({ work, problems, selected, onSelect, onJson }: FormProps) {
  const { definition, map, setDefinition } = work;
  const wide = useIsWide();
  if (!definition) {
    return (
      <Notice
        bad
        text={map.error ? `The JSON cannot be read: line ${map.error.line}, ${map.error.message}.` : "The JSON is not an object."}
        actions={
          <Button size="sm" onClick={onJson}>
            Mend it
          </Button>
        }
      />
    );
  }
  const [first] = problems;
  const step = selected === null ? null : stepAt(definition, selected);
  const panel = step && selected !== null && (
    <StepPanel key={selected} at={selected} step={step} problems={problems} onChange={(next) => setDefinition(replaceStep(definition, selected, next))} />
  );
  const flow = <FlowPanel work={work} definition={definition} problems={problems} />;
  const count = countSteps(definition.steps);
  return (
    <div className="grid items-start gap-6 lg:grid-cols-[minmax(0,1fr)_minmax(0,26rem)]">
      <section aria-labelledby="steps-heading" className="min-w-0">
        <div className="mb-2 flex min-h-7 items-center gap-2">
          <h2 id="steps-heading" className="flex-1 text-sm font-semibold text-ink-2">
            {counted(count, "step")}
          </h2>
          <span aria-live="polite">
            {first && (
              <Button size="sm" look="danger" title={first.message} onClick={() => onSelect(nearestStep(definition, first.pointer))}>
                <CircleAlert aria-hidden />
                {problems.length === 1 ? "One problem" : `${problems.length} problems`}
              </Button>
            )}
          </span>
          {wide && step && (
            <Button size="sm" look="ghost" onClick={() => onSelect(null)}>
              <Settings2 aria-hidden />
              Workflow settings
            </Button>
          )}
        </div>
        <StepTree
          definition={definition}
          problems={problems}
          selected={selected}
          onSelect={onSelect}
          onChange={setDefinition}
          inline={wide ? null : <div className="mt-1 mb-2 rounded-lg border border-line bg-surface p-4">{panel}</div>}
        />
      </section>
      <section aria-labelledby="panel-heading" className="min-w-0 rounded-xl border border-line bg-surface lg:sticky lg:top-4 lg:max-h-[calc(100dvh-2rem)] lg:overflow-y-auto">
        <h2 id="panel-heading" className="border-b border-line px-4 py-3 text-sm font-semibold">
          {wide && step ? inWords(selected ?? "") : "Workflow settings"}
        </h2>
        <div className="p-4">{wide && step ? panel : flow}</div>
      </section>
    </div>
  );
}

const WIDE = "(min-width: 64rem)";

function useIsWide(): boolean {
  return useSyncExternalStore(
    (listener) => {
      const query = matchMedia(WIDE);
      query.addEventListener("change", listener);
      return () => query.removeEventListener("change", listener);
    },
    () => matchMedia(WIDE).matches,
    () => true,
  );
}
