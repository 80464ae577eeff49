"use client";

import { CalendarClock, FileDown, Play, Trash2 } from "lucide-react";
import { useRouter, useSearchParams } from "next/navigation";
import { useEffect, useEffectEvent, useState } from "react";

import { LoadFailure } from "@/components/load-failure";
import { MoreMenu } from "@/components/more-menu";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Page } from "@/components/ui/page";
import { Skeletons } from "@/components/ui/states";
import { Tabs } from "@/components/ui/tabs";
import { toast } from "@/components/ui/toast";

import { Editor } from "./editor/editor";
import { LeaveGuard } from "./editor/leave-guard";
import { useDraft } from "./editor/use-draft";
import { useVerdict } from "./editor/use-verdict";
import { downloadRecording } from "./export";
import { type TaggedWorkflow, useWorkflow } from "./queries";
import { RunDialog } from "./run-dialog";
import { WorkflowRuns } from "./runs";
import { Versions } from "./versions";
import { DeleteWorkflow } from "./workflow-list";

export function WorkflowScreen({ id }: { id: string }) {
  const workflow = useWorkflow(id);
  if (workflow.data) return <Loaded key={id} workflow={workflow.data} />;
  return (
    <Page title="Workflow" wide>
      {workflow.error ? (
        <LoadFailure title="The workflow cannot be shown" error={workflow.error} retry={() => void workflow.refetch()} />
      ) : (
        <Skeletons count={8} className="h-10" />
      )}
    </Page>
  );
}

function Loaded({ workflow }: { workflow: TaggedWorkflow }) {
  const router = useRouter();
  const tab = useSearchParams().get("tab") ?? "editor";
  const work = useDraft(workflow);
  const problems = useVerdict(work.definition, work.parameters);
  const [running, setRunning] = useState(false);
  const [deleting, setDeleting] = useState(false);
  const [discarding, setDiscarding] = useState(false);
  const { dirty, save } = work;
  const readable = work.definition !== null && work.parameters !== null && work.draft.name.trim() !== "";

  const trySave = useEffectEvent(() => {
    if (!dirty || save.busy) return;
    if (!readable) return toast.failed("It was not saved", new Error("What is written is not JSON yet, or the name is missing"));
    save.run();
  });
  useEffect(() => {
    const hear = (event: KeyboardEvent) => {
      if (event.key.toLowerCase() !== "s" || !(event.metaKey || event.ctrlKey) || event.shiftKey || event.altKey) return;
      event.preventDefault();
      trySave();
    };
    addEventListener("keydown", hear);
    return () => removeEventListener("keydown", hear);
  }, []);

  const showTab = (next: string) => {
    window.history.replaceState(null, "", next === "editor" ? location.pathname : `?tab=${next}`);
  };
  return (
    <Page
      wide
      title={workflow.name}
      description={
        <span aria-live="polite">
          Version {workflow.version} · {dirty ? <span className="font-medium text-warn">Unsaved changes</span> : <>saved <Ago at={workflow.updated_at} /></>}
        </span>
      }
      actions={
        <>
          {dirty && (
            <Button look="ghost" onClick={() => setDiscarding(true)}>
              Discard
            </Button>
          )}
          <Button look={dirty ? "primary" : "secondary"} disabled={!dirty || !readable} busy={save.busy} onClick={() => save.run()}>
            Save
          </Button>
          <Button look={dirty ? "secondary" : "primary"} onClick={() => setRunning(true)}>
            <Play aria-hidden />
            Run
          </Button>
          <MoreMenu
            items={[
              { label: "Export for DevTools", icon: <FileDown />, onSelect: () => void downloadRecording(workflow) },
              { label: "Schedule…", icon: <CalendarClock />, onSelect: () => router.push(`/schedules?new=1&workflow=${workflow.id}`) },
              null,
              { label: "Delete…", icon: <Trash2 />, danger: true, onSelect: () => setDeleting(true) },
            ]}
          />
        </>
      }
    >
      <LeaveGuard active={dirty} onLeave={work.discard} />
      <Tabs
        label="Workflow"
        value={tab}
        onChange={showTab}
        tabs={[
          { id: "editor", label: "Editor", content: <Editor work={work} problems={problems} /> },
          { id: "runs", label: "Runs", content: <WorkflowRuns workflowId={workflow.id} onRun={() => setRunning(true)} /> },
          { id: "versions", label: "Versions", content: <Versions workflow={workflow} dirty={dirty} /> },
        ]}
      />
      {running && <RunDialog dirty={dirty} workflow={workflow} onClose={() => setRunning(false)} />}
      <Confirm
        open={discarding}
        onOpenChange={setDiscarding}
        title="Discard your changes?"
        description={`The workflow is again as it was saved, version ${workflow.version}.`}
        action="Discard"
        onConfirm={() => {
          work.discard();
          setDiscarding(false);
        }}
      />
      <DeleteWorkflow
        workflow={deleting ? workflow : null}
        onClose={() => setDeleting(false)}
        onDeleted={() => {
          work.discard();
          router.push("/workflows");
        }}
      />
    </Page>
  );
}
