"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { ChevronDown, FileDown, Play, Trash2, Workflow } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { useMemo, useState } from "react";

import { SearchField } from "@/components/filter-bar";
import { List, useList } from "@/components/list";
import { MoreMenu } from "@/components/more-menu";
import { RunStatusBadge } from "@/components/run-status";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Menu } from "@/components/ui/menu";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { useRecentRuns } from "@/features/runs/queries";
import { createWorkflow, deleteWorkflow, listWorkflows, type RunRead, type WorkflowCreate, type WorkflowRead } from "@/lib/api";
import { call, page } from "@/lib/client";
import { counted } from "@/lib/format";
import { keys } from "@/lib/keys";

import { downloadRecording } from "./export";
import { DropRecording, ImportButton, ImportRefused, useImport } from "./import";
import { RunDialog } from "./run-dialog";
import { ASK_FIRST, EMPTY_WORKFLOW, READ_A_PAGE, sampleShop } from "./samples";

export function WorkflowList() {
  const [q, setQ] = useState("");
  const workflows = useList(keys.list("workflow", { q }), (cursor) => page(listWorkflows({ query: { q: q || undefined, cursor } })));
  const isEmpty = q === "" && workflows.data?.length === 0 && !workflows.isPlaceholderData;
  const runs = useRecentRuns();
  const { importFile, isImporting, refused, dismiss } = useImport();
  const [running, setRunning] = useState<WorkflowRead | null>(null);
  const [deleting, setDeleting] = useState<WorkflowRead | null>(null);
  const lastRuns = useMemo(() => newestByWorkflow(runs.data ?? []), [runs.data]);
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
      <DropRecording onFile={importFile} />
      {refused && <ImportRefused refused={refused} onDismiss={dismiss} />}
      <div className="flex flex-col gap-4">
        {workflows.data && !isEmpty && <SearchField label="Search workflows" placeholder="Search by name" onChange={setQ} />}
        <List
          query={workflows}
          label="Workflows"
          failed="The workflows could not be read"
          row="h-15"
          empty={
            isEmpty ? (
              <NoWorkflows />
            ) : (
              <Empty icon={<Workflow />} title="No such workflows">
                None has “{q}” in its name.
              </Empty>
            )
          }
        >
          {(workflow) => (
            <WorkflowRow
              workflow={workflow}
              last={lastRuns.get(workflow.id)}
              onRun={() => setRunning(workflow)}
              onDelete={() => setDeleting(workflow)}
            />
          )}
        </List>
      </div>
      {running && <RunDialog workflow={running} onClose={() => setRunning(null)} />}
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
    <div className="relative flex min-h-15 items-center gap-3 px-4 py-2 hover:bg-sunken">
      <div className="min-w-0 flex-1">
        <Link href={`/workflows/${workflow.id}`} className="block truncate font-medium after:absolute after:inset-0">
          {workflow.name}
        </Link>
        <p className="truncate text-xs text-ink-3">
          Version {workflow.version} · changed <Ago at={workflow.updated_at} />
          {params > 0 && ` · ${counted(params, "parameter")}`}
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
        <MoreMenu
          of={workflow.name}
          items={[
            { label: "Export for DevTools", icon: <FileDown />, onSelect: () => void downloadRecording(workflow) },
            null,
            { label: "Delete…", icon: <Trash2 />, danger: true, onSelect: onDelete },
          ]}
        />
      </div>
    </div>
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
