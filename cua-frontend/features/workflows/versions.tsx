"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { History, Minus, PenLine, Plus, RotateCcw } from "lucide-react";
import { type ReactNode, useMemo, useState } from "react";

import { LoadMore, useList } from "@/components/list";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Select } from "@/components/ui/field";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { listWorkflowVersions, restoreWorkflow, type VersionRead } from "@/lib/api";
import { call, page } from "@/lib/client";
import { cn } from "@/lib/cn";
import { counted } from "@/lib/format";
import { keys } from "@/lib/keys";

import { diffFields, diffLines, diffSteps, type FieldChange, type StepChange } from "./diff";
import { stepType } from "./editor/catalog";
import { countSteps, summary } from "./editor/definition";
import { formatJson } from "./editor/json-text";
import { type TaggedWorkflow, workflowKey } from "./queries";

/** What was saved, what each save changed, and the way back. */
export function Versions({ workflow, dirty }: { workflow: TaggedWorkflow; dirty: boolean }) {
  const list = useList(keys.of("workflow", workflow.id, "versions"), (cursor) =>
    page(listWorkflowVersions({ path: { id: workflow.id }, query: { cursor, order: "desc" } })),
  );
  const [chosen, setChosen] = useState<number | null>(null);
  const [against, setAgainst] = useState<number | null>(null);
  const versions = list.data ?? [];
  if (list.isPending) return <div className="pt-4"><Skeletons count={5} className="h-12" /></div>;
  if (list.error) {
    return <div className="pt-4"><Failure title="The versions could not be read" error={list.error} retry={() => void list.refetch()} /></div>;
  }
  const version = versions.find((each) => each.version === chosen) ?? versions[0];
  const place = version ? versions.indexOf(version) : -1;
  const before = versions.find((each) => each.version === against) ?? versions[place + 1];
  return (
    <div className="grid items-start gap-6 pt-4 lg:grid-cols-[15rem_minmax(0,1fr)]">
      <nav aria-label="Versions" className="flex flex-col gap-2">
        <ol className="flex max-h-64 flex-col gap-0.5 overflow-y-auto lg:max-h-[70dvh]">
          {versions.map((each) => (
            <li key={each.id}>
              <button
                type="button"
                aria-current={each === version || undefined}
                className={cn("flex w-full items-center gap-2 rounded-md px-2.5 py-1.5 text-left text-sm", each === version ? "bg-sunken font-medium" : "text-ink-2 hover:bg-sunken")}
                onClick={() => {
                  setChosen(each.version);
                  setAgainst(null);
                }}
              >
                <span className="flex-1">Version {each.version}</span>
                {each.version === workflow.version && <Badge look="accent">Now</Badge>}
                <Ago at={each.created_at} className="text-xs font-normal text-ink-3" />
              </button>
            </li>
          ))}
        </ol>
        <LoadMore query={list} />
      </nav>
      {version && (
        <Comparison
          key={`${version.id}-${before?.id}`}
          version={version}
          before={before}
          versions={versions}
          onAgainst={setAgainst}
          restore={version.version === workflow.version ? null : <Restore workflow={workflow} version={version.version} dirty={dirty} />}
        />
      )}
    </div>
  );
}

function Comparison({ version, before, versions, onAgainst, restore }: {
  version: VersionRead;
  before?: VersionRead;
  versions: VersionRead[];
  onAgainst: (version: number) => void;
  restore: ReactNode;
}) {
  const [view, setView] = useState<"steps" | "lines">("steps");
  return (
    <section aria-labelledby="version-heading" className="flex min-w-0 flex-col gap-4">
      <header className="flex flex-wrap items-center gap-x-3 gap-y-2">
        <div className="min-w-0 flex-1 basis-48">
          <h2 id="version-heading" className="font-semibold">
            Version {version.version}
          </h2>
          <p className="text-xs text-ink-3">
            {counted(countSteps(version.definition.steps), "step")}, saved <Ago at={version.created_at} /> by {version.actor === "user" ? "you" : version.actor.startsWith("key:") ? "an API key" : version.actor}
          </p>
        </div>
        {before && (
          <label className="flex items-center gap-2 text-xs text-ink-3">
            Compared with
            <Select className="h-8! w-auto! text-xs!" value={before.version} onChange={(event) => onAgainst(Number(event.target.value))}>
              {versions
                .filter((each) => each !== version)
                .map((each) => (
                  <option key={each.id} value={each.version}>
                    version {each.version}
                  </option>
                ))}
            </Select>
          </label>
        )}
        {before && (
          <Button size="sm" look="ghost" aria-pressed={view === "lines"} onClick={() => setView(view === "steps" ? "lines" : "steps")}>
            {view === "steps" ? "Show JSON lines" : "Show steps"}
          </Button>
        )}
        {restore}
      </header>
      {!before ? (
        <Empty icon={<History />} title="This is the first version">
          Every save of the steps or the parameters makes another one, and what it changed is shown here.
        </Empty>
      ) : view === "steps" ? (
        <StepsView before={before} after={version} />
      ) : (
        <LinesView before={before} after={version} />
      )}
    </section>
  );
}

function Restore({ workflow, version, dirty }: { workflow: TaggedWorkflow; version: number; dirty: boolean }) {
  const cache = useQueryClient();
  const [asking, setAsking] = useState(false);
  const restore = useMutation({
    mutationFn: () => call(restoreWorkflow({ path: { id: workflow.id }, body: { version } })),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: workflowKey(workflow.id) });
      void cache.invalidateQueries({ queryKey: keys.of("workflow", workflow.id, "versions") });
      void cache.invalidateQueries({ queryKey: keys.lists("workflow") });
      toast.done(`Version ${version} is back, as the newest one`);
      setAsking(false);
    },
    onError: (error) => toast.failed("The version was not restored", error),
  });
  return (
    <>
      <Button size="sm" onClick={() => setAsking(true)}>
        <RotateCcw aria-hidden />
        Restore
      </Button>
      <Confirm
        open={asking}
        onOpenChange={setAsking}
        title={`Restore version ${version}?`}
        description={`What it was becomes the newest version, so nothing in between is lost.${dirty ? " Your unsaved changes stay in the editor." : ""}`}
        action="Restore"
        busy={restore.isPending}
        onConfirm={() => restore.mutate()}
      />
    </>
  );
}

// Step by step -------------------------------------------------------------------------------------

function StepsView({ before, after }: { before: VersionRead; after: VersionRead }) {
  const changes = useMemo(() => diffSteps(before.definition.steps, after.definition.steps), [before, after]);
  const header = useMemo(() => diffFields(before.definition, after.definition, ["steps"]), [before, after]);
  const parameters = useMemo(() => diffFields(before.parameters, after.parameters), [before, after]);
  if (changes.length + header.length + parameters.length === 0) return <p className="text-sm text-ink-3">Both are the same.</p>;
  return (
    <div className="flex flex-col gap-4">
      {header.length > 0 && <FieldsCard title="Workflow" fields={header} />}
      {parameters.length > 0 && <FieldsCard title="Parameters" fields={parameters} />}
      {changes.length > 0 && <StepChanges changes={changes} />}
    </div>
  );
}

function FieldsCard({ title, fields }: { title: string; fields: FieldChange[] }) {
  return (
    <div className="rounded-lg border border-line bg-surface">
      <h3 className="px-3 py-2 text-sm font-medium">{title}</h3>
      <Fields fields={fields} />
    </div>
  );
}

const MARKS = {
  added: { label: "Added", icon: Plus, look: "text-good bg-good-soft" },
  removed: { label: "Removed", icon: Minus, look: "text-bad bg-bad-soft" },
  changed: { label: "Changed", icon: PenLine, look: "text-warn bg-warn-soft" },
} as const;

function StepChanges({ changes }: { changes: StepChange[] }) {
  return (
    <ol className="flex flex-col gap-2">
      {changes.map(({ mark, number, step, fields, inner }, place) => {
        const { label, icon: Icon, look } = MARKS[mark];
        return (
          <li key={place} className="overflow-hidden rounded-lg border border-line bg-surface">
            <div className="flex items-center gap-2.5 px-3 py-2">
              <span className={cn("inline-flex h-5 shrink-0 items-center gap-1 rounded-full px-2 text-2xs font-medium", look)}>
                <Icon className="size-3" aria-hidden />
                {label}
              </span>
              <span className="font-mono text-2xs text-ink-3">{number}</span>
              <span className="shrink-0 text-sm font-medium">{stepType(step.type)?.label ?? String(step.type)}</span>
              <span className="min-w-0 flex-1 truncate font-mono text-xs text-ink-3">{summary(step)}</span>
            </div>
            {fields.length > 0 && <Fields fields={fields} />}
            {inner.map((each) => (
              <div key={each.label} className="border-t border-line p-3">
                <p className="mb-1.5 text-2xs font-medium text-ink-3">{each.label}</p>
                <StepChanges changes={each.changes} />
              </div>
            ))}
          </li>
        );
      })}
    </ol>
  );
}

function Fields({ fields }: { fields: FieldChange[] }) {
  return (
    <dl className="divide-y divide-line border-t border-line text-xs">
      {fields.map(({ name, before, after }) => (
        <div key={name} className="grid gap-x-3 gap-y-1 px-3 py-2 sm:grid-cols-[11rem_minmax(0,1fr)]">
          <dt className="font-mono break-words text-ink-3">{name.replaceAll(".", ".\u200b")}</dt>
          <dd className="flex min-w-0 flex-col gap-1 font-mono">
            {before !== undefined && <Value sign="−" said="Before" look="bg-bad-soft" value={before} />}
            {after !== undefined && <Value sign="+" said="After" look="bg-good-soft" value={after} />}
          </dd>
        </div>
      ))}
    </dl>
  );
}

function Value({ sign, said, look, value }: { sign: string; said: string; look: string; value: unknown }) {
  const flat = JSON.stringify(value);
  const text = typeof value === "string" ? value : flat.length > 80 ? formatJson(value) : flat;
  return (
    <div className={cn("flex gap-2 rounded px-2 py-1", look)}>
      <span aria-hidden>{sign}</span>
      <span className="sr-only">{said}: </span>
      <pre className="min-w-0 flex-1 font-mono break-words whitespace-pre-wrap">{text === "" ? "(empty)" : text}</pre>
    </div>
  );
}

// Line by line -------------------------------------------------------------------------------------

function LinesView({ before, after }: { before: VersionRead; after: VersionRead }) {
  const rows = useMemo(() => {
    const text = ({ definition, parameters }: VersionRead) => formatJson({ definition, parameters });
    return diffLines(text(before), text(after));
  }, [before, after]);
  return (
    <div tabIndex={0} role="region" aria-label="Difference in lines" className="overflow-x-auto rounded-lg border border-line bg-surface py-2 font-mono text-xs">
      <table className="min-w-full border-collapse">
        <tbody>
          {rows.map((row, place) =>
            row === null ? (
              <tr key={place}>
                <td colSpan={4} className="px-3 py-1 text-ink-3 select-none">
                  ⋯
                </td>
              </tr>
            ) : (
              <tr key={place} className={cn(row.mark === "added" && "bg-good-soft", row.mark === "removed" && "bg-bad-soft")}>
                <td className="w-10 px-2 text-right text-ink-2 select-none">{row.before >= 0 ? row.before + 1 : ""}</td>
                <td className="w-10 px-2 text-right text-ink-2 select-none">{row.after >= 0 ? row.after + 1 : ""}</td>
                <td className="w-4 select-none">{row.mark === "added" ? "+" : row.mark === "removed" ? "−" : ""}</td>
                <td className="pr-4 whitespace-pre">{row.text}</td>
              </tr>
            ),
          )}
        </tbody>
      </table>
    </div>
  );
}
