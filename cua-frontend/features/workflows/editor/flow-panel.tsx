"use client";

import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { type Json, isObject } from "@/lib/json";

import { parametersNamedIn } from "../parameters";
import { type Wrong, withField, wrongBelow } from "./definition";
import { StepFieldEditor } from "./fields";
import { JsonEditor } from "./json-editor";
import { formatJson } from "./json-text";
import type { WorkflowDraft } from "./use-draft";

/** What belongs to the workflow as a whole: its title, the time of its steps, its parameters. */
export function FlowPanel({ work, definition, problems }: { work: WorkflowDraft; definition: Json; problems: Wrong[] }) {
  const { draft, parameters, parametersMap, change, setDefinition } = work;
  const missing = undeclared(definition, parameters);
  const title = typeof definition.title === "string" ? definition.title : "";
  return (
    <div className="flex flex-col gap-4">
      <Field label="Title in the recording" hint="What DevTools calls it." error={messages(problems, "/title")}>
        {(wired) => <Input {...wired} value={title} onChange={(event) => setDefinition(withField(definition, "title", event.target.value))} />}
      </Field>
      <StepFieldEditor
        field={{ name: "timeout", label: "Timeout of each step in ms", kind: { as: "number" }, hint: "Empty is 5000. A step's own comes first." }}
        at=""
        step={definition}
        problems={problems}
        onChange={setDefinition}
      />
      <div className="flex flex-col gap-1.5">
        <p className="text-xs font-medium text-ink-2">Parameters</p>
        <p className="text-xs text-ink-3">
          A JSON Schema of what a run is given. The form of a run is made from it, and steps name its values as{" "}
          <code className="font-mono">{"{{ params.name }}"}</code>.
        </p>
        <JsonEditor
          label="Parameters, a JSON Schema"
          className="h-72"
          text={draft.parametersText}
          map={parametersMap}
          problems={problems
            .filter(({ pointer }) => pointer.startsWith("/parameters"))
            .map(({ pointer, message }) => ({ pointer: pointer.slice("/parameters".length), message }))}
          onChange={(parametersText) => change({ parametersText })}
        />
        {missing.length > 0 && parameters && (
          <Button
            size="sm"
            className="self-start"
            onClick={() => change({ parametersText: formatJson(declare(parameters, missing)) })}
          >
            Declare {missing.join(", ")}
          </Button>
        )}
      </div>
    </div>
  );
}

function messages(problems: Wrong[], pointer: string): string {
  return wrongBelow(problems, pointer)
    .map(({ message }) => message)
    .join(". ");
}

/** What the steps name and the schema does not declare. */
function undeclared(definition: Json, parameters: Json | null): string[] {
  const named = parametersNamedIn(definition)?.required;
  const known = isObject(parameters?.properties) ? parameters.properties : {};
  return Array.isArray(named) ? named.filter((name): name is string => typeof name === "string" && !(name in known)) : [];
}

function declare(parameters: Json, names: string[]): Json {
  const properties = isObject(parameters.properties) ? parameters.properties : {};
  const required = Array.isArray(parameters.required) ? (parameters.required as unknown[]) : [];
  return {
    ...parameters,
    type: "object",
    properties: { ...properties, ...Object.fromEntries(names.map((name) => [name, { type: "string" }])) },
    required: [...required, ...names],
  };
}
