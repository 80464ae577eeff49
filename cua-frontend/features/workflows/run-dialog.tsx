"use client";

import { useMutation } from "@tanstack/react-query";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { createRun, type WorkflowRead } from "@/lib/api";
import { call } from "@/lib/client";

import { wrongParams } from "./parameters";
import { type RunBody, readRunSettings, RUN_FIELDS, runSettings, RunSettingsForm } from "./run-settings";

interface RunDialogProps {
  workflow: Pick<WorkflowRead, "id" | "name" | "parameters" | "version">;
  /** There are changes that are not saved. */
  dirty?: boolean;
  onClose: () => void;
}

/** Asks for a workflow's params and starts a run of its newest version. */
export function RunDialog({ workflow, dirty, onClose }: RunDialogProps) {
  const router = useRouter();
  const [settings, setSettings] = useState(() => runSettings(workflow.parameters));
  const [wrong, setWrong] = useState<Record<string, string>>({});
  const start = useMutation({
    mutationFn: (body: RunBody) => call(createRun({ body: { workflow_id: workflow.id, ...body } })),
    onSuccess: (run) => {
      onClose();
      router.push(`/runs/${run.id}`);
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title={`Run ${workflow.name}`}
      description={dirty ? `Version ${workflow.version}, as it was saved: without your changes since.` : `Version ${workflow.version}, in a browser of its own.`}
      action="Run"
      busy={start.isPending}
      error={start.error}
      fields={RUN_FIELDS}
      isShown={Object.keys(wrongParams(start.error, workflow.parameters)).length > 0}
      noValidate
      onSubmit={() => {
        const read = readRunSettings(workflow.parameters, settings);
        setWrong(read.wrong);
        if (Object.keys(read.wrong).length === 0) start.mutate(read.body);
      }}
    >
      <RunSettingsForm
        schema={workflow.parameters}
        value={settings}
        wrong={wrong}
        error={start.error}
        onChange={(value) => {
          setSettings(value);
          setWrong({});
        }}
      />
    </FormDialog>
  );
}
