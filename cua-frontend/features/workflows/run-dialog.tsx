"use client";

import { useMutation } from "@tanstack/react-query";
import { useRouter } from "next/navigation";
import { useRef, useState } from "react";

import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { createRun, type WorkflowRead } from "@/lib/api";
import { call } from "@/lib/client";
import { Problem } from "@/lib/problem";

import { wrongParams } from "./parameters";
import { readRunSettings, runSettings, RunSettingsForm } from "./run-settings";
import { showError } from "./show-error";

type Runnable = Pick<WorkflowRead, "id" | "name" | "parameters" | "version">;

/** Asks for a workflow's params and starts a run of its newest version. */
export function RunDialog({ workflow, dirty, onClose }: { workflow: Runnable | null; dirty?: boolean; onClose: () => void }) {
  return (
    <Dialog
      open={workflow !== null}
      onOpenChange={(open) => !open && onClose()}
      title={`Run ${workflow?.name ?? ""}`}
      description={workflow ? (dirty ? `Version ${workflow.version}, as it was saved: without your changes since.` : `Version ${workflow.version}, in a browser of its own.`) : undefined}
    >
      {workflow && <RunForm key={workflow.id} workflow={workflow} onClose={onClose} />}
    </Dialog>
  );
}

function RunForm({ workflow, onClose }: { workflow: Runnable; onClose: () => void }) {
  const router = useRouter();
  const [settings, setSettings] = useState(() => runSettings(workflow.parameters));
  const form = useRef<HTMLFormElement>(null);
  const [wrong, setWrong] = useState<Record<string, string>>({});
  const start = useMutation({
    mutationFn: (body: ReturnType<typeof readRunSettings>["body"]) => call(createRun({ body: { workflow_id: workflow.id, ...body } })),
    onSuccess: (run) => {
      onClose();
      router.push(`/runs/${run.id}`);
    },
    onError: () => showError(form.current),
  });
  const problem = start.error instanceof Problem ? start.error : null;
  return (
    <form
      ref={form}
      noValidate
      className="flex flex-col gap-4"
      onSubmit={(event) => {
        event.preventDefault();
        const read = readRunSettings(workflow.parameters, settings);
        setWrong(read.wrong);
        if (Object.keys(read.wrong).length === 0) start.mutate(read.body);
        else showError(form.current);
      }}
    >
      {start.error && Object.keys(wrongParams(problem)).length === 0 && (
        <p role="alert" className="rounded-md bg-bad-soft px-3 py-2 text-sm break-words text-bad">
          {start.error.message}
        </p>
      )}
      <RunSettingsForm
        schema={workflow.parameters}
        value={settings}
        wrong={wrong}
        problem={problem}
        onChange={(value) => {
          setSettings(value);
          setWrong({});
        }}
      />
      <div className="flex justify-end gap-2">
        <Button onClick={onClose}>Cancel</Button>
        <Button type="submit" look="primary" busy={start.isPending}>
          Run
        </Button>
      </div>
    </form>
  );
}
