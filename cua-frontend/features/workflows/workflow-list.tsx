"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { ChevronDown, Ellipsis, FileDown, Play, Search, Trash2, Workflow } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { useDeferredValue, useMemo, useState } from "react";

import { LoadMore } from "@/components/list";
import { RunStatusBadge } from "@/components/run-status";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Input } from "@/components/ui/field";
import { Menu } from "@/components/ui/menu";
import { Page, Rows } from "@/components/ui/page";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { createWorkflow, deleteWorkflow, type RunRead, type WorkflowCreate, type WorkflowRead } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

import { downloadRecording } from "./export";
import { DropAnywhere, ImportButton, ImportRefused, useImport } from "./import";
import { useRecentRuns, useWorkflowPages } from "./queries";
import { RunDialog } from "./run-dialog";
import { ASK_FIRST, EMPTY_WORKFLOW, READ_A_PAGE, sampleShop } from "./samples";

export function WorkflowList() {
  const [text, setText] = useState("");
  const q = useDeferredValue(text.trim());
  const pages = useWorkflowPages(q);
  const runs = useRecentRuns();
  const { importFile, isImporting, refused, dismiss } = useImport();
  const [running, setRunning] = useState<WorkflowRead | null>(null);
  const [deleting, setDeleting] = useState<WorkflowRead | null>(null);
  const lastRuns = useMemo(() => newestByWorkflow(runs.data ?? []), [runs.data]);
  const workflows = pages.data?.pages.flatMap((page) => page.data) ?? [];
  return (
    <Page
      title="Workflows"
      description="Steps that replay the same way each time, without a model."
      actions={
        <>
          <ImportButton busy={isImporting} onFile={importFile} />
          <NewWorkflow />
        </>
      }
    >
      <DropAnywhere onFile={importFile} />
      {refused && <ImportRefused refused={refused} onDismiss={dismiss} />}
      {(workflows.length > 0 || text !== "") && (
        <label className="relative block max-w-sm">
          <span className="sr-only">Search workflows</span>
          <Search className="absolute top-2.5 left-3 size-4 text-ink-3" aria-hidden />
          <Input type="search" value={text} placeholder="Search by name" className="pl-9" onChange={(event) => setText(event.target.value)} />
        </label>
      )}
      {pages.isPending && <Skeletons count={6} className="h-[3.75rem]" />}
      {pages.error && <Failure title="The workflows cannot be shown" error={pages.error} retry={() => void pages.refetch()} />}
      {pages.data && workflows.length === 0 && (q === "" ? <NoWorkflows /> : <p className="py-8 text-center text-sm text-ink-3">No workflow has “{q}” in its name.</p>)}
      {workflows.length > 0 && (
        <Rows label="Workflows">
          {workflows.map((workflow) => (
            <WorkflowRow
              key={workflow.id}
              workflow={workflow}
              last={lastRuns.get(workflow.id)}
              onRun={() => setRunning(workflow)}
              onDelete={() => setDeleting(workflow)}
            />
          ))}
        </Rows>
      )}
      <LoadMore query={pages} />
      <RunDialog workflow={running} onClose={() => setRunning(null)} />
      <DeleteWorkflow workflow={deleting} onClose={() => setDeleting(null)} />
    </Page>
  );
}

function newestByWorkflow(runs: RunRead[]): Map<string, RunRead> {
  const newest = new Map<string, RunRead>();
  for (const run of runs) if (run.workflow_id && !newest.has(run.workflow_id)) newest.set(run.workflow_id, run);
  return newest;
}

function WorkflowRow({ workflow, last, onRun, onDelete }: { workflow: WorkflowRead; last?: RunRead; onRun: () => void; onDelete: () => void }) {
  const params = Object.keys((workflow.parameters.properties as object | undefined) ?? {}).length;
  return (
    <li className="relative flex min-h-[3.75rem] items-center gap-3 px-4 py-2 hover:bg-sunken/60">
      <div className="min-w-0 flex-1">
        <Link href={`/workflows/${workflow.id}`} className="block truncate font-medium after:absolute after:inset-0">
          {workflow.name}
        </Link>
        <p className="truncate text-xs text-ink-3">
          Version {workflow.version} · changed <Ago at={workflow.updated_at} />
          {params > 0 && ` · ${params} ${params === 1 ? "parameter" : "parameters"}`}
        </p>
      </div>
      {last && (
        <Link
          href={`/runs/${last.id}`}
          className="relative z-10 hidden items-center gap-2 text-xs text-ink-3 hover:text-ink sm:flex"
        >
          <span className="sr-only">Last run of {workflow.name}: </span>
          <RunStatusBadge status={last.status} />
          <Ago at={last.created_at} className="w-20 text-right" />
        </Link>
      )}
      <div className="relative z-10 flex items-center gap-1">
        <Button size="sm" onClick={onRun} aria-label={`Run ${workflow.name}`}>
          <Play aria-hidden />
          Run
        </Button>
        <Menu
          trigger={
            <Button look="ghost" size="icon" aria-label={`More for ${workflow.name}`}>
              <Ellipsis />
            </Button>
          }
          items={[
            { label: "Export for DevTools", icon: <FileDown />, onSelect: () => void downloadRecording(workflow) },
            null,
            { label: "Delete…", icon: <Trash2 />, danger: true, onSelect: onDelete },
          ]}
        />
      </div>
    </li>
  );
}

function NoWorkflows() {
  return (
    <Empty icon={<Workflow />} title="No workflows yet" action={<NewWorkflow />}>
      Record one in Chrome DevTools (the Recorder panel), export it as JSON and drop the file anywhere here. Or begin with an empty one or a
      sample.
    </Empty>
  );
}

function NewWorkflow() {
  const router = useRouter();
  const cache = useQueryClient();
  const create = useMutation({
    mutationFn: (body: WorkflowCreate) => call(createWorkflow({ body })),
    onSuccess: (workflow) => {
      void cache.invalidateQueries({ queryKey: keys.lists("workflow") });
      router.push(`/workflows/${workflow.id}`);
    },
    onError: (error) => toast.failed("The workflow was not made", error),
  });
  const { mutate } = create;
  return (
    <Menu
      trigger={
        <Button look="primary" busy={create.isPending}>
          New workflow
          <ChevronDown aria-hidden />
        </Button>
      }
      items={[
        { label: "Empty", onSelect: () => mutate(EMPTY_WORKFLOW) },
        null,
        { label: "Sample: read a page", onSelect: () => mutate(READ_A_PAGE) },
        { label: "Sample: ask before going on", onSelect: () => mutate(ASK_FIRST) },
        { label: "Sample: buy tea in the sample shop", onSelect: () => mutate(sampleShop(location.origin)) },
      ]}
    />
  );
}

export function DeleteWorkflow({ workflow, onClose, onDeleted }: {
  workflow: Pick<WorkflowRead, "id" | "name"> | null;
  onClose: () => void;
  onDeleted?: () => void;
}) {
  const cache = useQueryClient();
  const remove = useMutation({
    mutationFn: (id: string) => call(deleteWorkflow({ path: { id } })),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: keys.lists("workflow") });
      void cache.invalidateQueries({ queryKey: keys.lists("schedule") });
      toast.done("The workflow is deleted");
      onClose();
      onDeleted?.();
    },
    onError: (error) => toast.failed("The workflow was not deleted", error),
  });
  return (
    <Confirm
      open={workflow !== null}
      onOpenChange={(open) => !open && onClose()}
      title={`Delete ${workflow?.name ?? "the workflow"}?`}
      description="Its versions and schedules go with it. Its runs and their recordings stay."
      action="Delete"
      busy={remove.isPending}
      onConfirm={() => workflow && remove.mutate(workflow.id)}
    />
  );
}
