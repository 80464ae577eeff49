"use client";

import { useMutation } from "@tanstack/react-query";
import { Download, FileDown, FileImage, FileQuestion, FileUp, Film, Workflow } from "lucide-react";
import { useState } from "react";

import { DataActions, DataView } from "@/components/data-view";
import { Button } from "@/components/ui/button";
import { Section } from "@/components/ui/page";
import { Failure, Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import type { FileRead, RunRead } from "@/lib/api";
import { downloadFile } from "@/lib/download";
import { bytes, duration, money, number } from "@/lib/format";
import { isObject } from "@/lib/json";

import type { RunActions } from "./actions";
import { useRunFiles } from "./queries";

/** What a run has brought: its outputs and files, and what it used. */
export function Result({ run, ended, agent, actions }: { run: RunRead; ended: boolean; agent: boolean; actions: RunActions }) {
  return (
    <div className="flex flex-col gap-6">
      <Outputs run={run} ended={ended} />
      {agent && ended && (
        <div className="flex flex-wrap items-center gap-3 rounded-xl border border-line bg-surface px-4 py-3">
          <Workflow className="size-4 shrink-0 text-ink-3" aria-hidden />
          <p className="min-w-48 flex-1 text-sm text-ink-2">Keep what the agent did as a workflow: it runs again without a model.</p>
          <Button size="sm" busy={actions.saveAsWorkflow.isPending} onClick={() => actions.saveAsWorkflow.mutate()}>
            Save as workflow
          </Button>
        </div>
      )}
      <Files runId={run.id} />
      <Usage run={run} agent={agent} />
    </div>
  );
}

function Outputs({ run, ended }: { run: RunRead; ended: boolean }) {
  const outputs = isObject(run.result?.outputs) ? run.result.outputs : run.result;
  const names = outputs ? Object.keys(outputs) : [];
  if (!outputs || names.length === 0) {
    return (
      <Section title="Result">
        <p className="text-sm text-ink-3">{ended ? "The run brought no data." : "The result is here when the run has ended."}</p>
      </Section>
    );
  }
  return names.map((name) => (
    <Section key={name} title={name === "result" ? "Result" : name} actions={<DataActions value={outputs[name]} name={name} />}>
      <div className="rounded-xl border border-line bg-surface p-4">
        <DataView value={outputs[name]} />
      </div>
    </Section>
  ));
}

const KINDS = {
  download: { icon: FileDown, label: "Downloads" },
  upload: { icon: FileUp, label: "Uploads" },
  screenshot: { icon: FileImage, label: "Screenshots" },
  recording: { icon: Film, label: "Recording" },
} as const;

const FEW = 5;

function Files({ runId }: { runId: string }) {
  const files = useRunFiles(runId);
  const [whole, setWhole] = useState(false);
  if (files.isPending) return <Skeletons count={3} className="h-11" />;
  if (files.isError) return <Failure title="The files could not be read" error={files.error} retry={() => void files.refetch()} />;
  // What the run was asked to fetch comes before what is kept by the way.
  const order = Object.keys(KINDS);
  const sorted = [...files.data].sort((one, other) => order.indexOf(one.kind) - order.indexOf(other.kind));
  const shown = whole ? sorted : sorted.slice(0, FEW);
  return (
    <Section title={`Files${sorted.length > 0 ? ` (${number(sorted.length)})` : ""}`}>
      {sorted.length === 0 ? (
        <p className="text-sm text-ink-3">Downloads and screenshots of the run are kept here.</p>
      ) : (
        <ul aria-label="Files of the run" className="divide-y divide-line overflow-hidden rounded-xl border border-line bg-surface">
          {shown.map((file) => (
            <FileRow key={file.id} file={file} />
          ))}
        </ul>
      )}
      {shown.length < sorted.length && (
        <Button size="sm" look="ghost" className="self-start" onClick={() => setWhole(true)}>
          Show all {number(sorted.length)}
        </Button>
      )}
    </Section>
  );
}

function FileRow({ file }: { file: FileRead }) {
  const Icon = KINDS[file.kind]?.icon ?? FileQuestion;
  const download = useMutation({
    mutationFn: () => downloadFile(file),
    onError: (error) => toast.failed("The file could not be downloaded", error),
  });
  return (
    <li className="flex min-h-11 items-center gap-3 px-3 py-1.5">
      <Icon className="size-4 shrink-0 text-ink-3" aria-hidden />
      <span className="min-w-0 flex-1 truncate text-sm" title={file.name}>
        {file.name}
      </span>
      <span className="shrink-0 text-xs text-ink-3 tabular-nums">{bytes(file.size)}</span>
      <Button look="ghost" size="icon" aria-label={`Download ${file.name}`} busy={download.isPending} onClick={() => download.mutate()}>
        <Download />
      </Button>
    </li>
  );
}

function Usage({ run, agent }: { run: RunRead; agent: boolean }) {
  const facts: [string, string][] = [
    ["Active time", duration(run.active_ms)],
    ["Steps", number(run.step_count)],
  ];
  if (agent) {
    facts.push(["Tokens in", number(run.input_tokens)], ["Tokens out", number(run.output_tokens)], ["Cost", money(run.cost_usd)]);
  }
  if (run.attempt > 1) facts.push(["Attempt", String(run.attempt)]);
  for (const [name, limit] of Object.entries(run.budget)) facts.push([name.replace(/^max_/, "Limit of ").replace("cost_usd", "dollars"), number(limit)]);
  return (
    <Section title="Usage">
      <dl className="grid grid-cols-2 overflow-hidden rounded-xl border border-line bg-surface sm:grid-cols-3">
        {facts.map(([name, value]) => (
          <div key={name} className="-mr-px -mb-px border-r border-b border-line px-4 py-2.5">
            <dt className="text-xs text-ink-3">{name}</dt>
            <dd className="font-medium tabular-nums">{value}</dd>
          </div>
        ))}
      </dl>
    </Section>
  );
}
