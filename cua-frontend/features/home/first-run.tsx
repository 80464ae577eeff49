"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { FileUp, Sparkles, Store } from "lucide-react";
import { useRouter } from "next/navigation";
import type { ReactNode } from "react";

import { Button } from "@/components/ui/button";
import { FormError } from "@/components/ui/form-error";
import { Card } from "@/components/ui/page";
import { TaskForm } from "@/features/runs/new-task";
import { DropRecording, ImportButton, ImportRefused, useImport } from "@/features/workflows/import";
import { isPrivate, SAMPLE_NAME, sampleShop } from "@/features/workflows/samples";
import { createRun, createWorkflow, type RunRead } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

/** Three ways to begin, for an account that has done nothing yet. */
export function FirstRun() {
  const { importFile, isImporting, refused, dismiss } = useImport();
  return (
    <>
      <DropRecording onFile={importFile} />
      {refused && <ImportRefused refused={refused} onDismiss={dismiss} />}
      <div className="grid gap-4 lg:grid-cols-[minmax(0,3fr)_minmax(0,2fr)]">
        <Card className="p-5">
          <Heading icon={<Sparkles />} title="State a task">
            A model does it in a real browser. You watch, answer and take over at any time.
          </Heading>
          <TaskForm />
        </Card>
        <div className="flex flex-col gap-4">
          <Card className="p-5">
            <Heading icon={<Store />} title="Try the sample">
              A workflow that buys tea in the little shop of this server, without any model. It takes a few seconds.
            </Heading>
            <TrySample />
          </Card>
          <Card className="p-5">
            <Heading icon={<FileUp />} title="Import a workflow">
              Record something in Chrome DevTools (the Recorder panel), export it as JSON, and drop the file here.
            </Heading>
            <ImportButton busy={isImporting} onFile={importFile} label="Choose a file" />
          </Card>
        </div>
      </div>
    </>
  );
}

function Heading({ icon, title, children }: { icon: ReactNode; title: string; children: ReactNode }) {
  return (
    <div className="mb-4 flex gap-3">
      <span className="mt-0.5 text-accent [&_svg]:size-5" aria-hidden>
        {icon}
      </span>
      <div>
        <h2 className="font-semibold">{title}</h2>
        <p className="text-sm text-ink-3">{children}</p>
      </div>
    </div>
  );
}

/** Why the sample could not be tried, where the newest run is one that did not reach this page. */
export function SampleUnreachable({ run }: { run?: RunRead }) {
  if (run?.title !== SAMPLE_NAME || run.error?.code !== "unreachable" || !isPrivate(location.hostname)) return null;
  return (
    <p role="status" className="rounded-xl bg-warn-soft px-4 py-3 text-sm text-warn">
      The sample could not be opened: <span className="font-mono">{location.host}</span> is a private address, and of those the browsers
      of runs reach only the one that is the server’s <code className="font-mono">PUBLIC_URL</code>. Open the app there, or set it to this address.
    </p>
  );
}

/** Makes the sample workflow and runs it at once. */
function TrySample() {
  const router = useRouter();
  const cache = useQueryClient();
  const begin = useMutation({
    mutationFn: async () => {
      const workflow = await call(createWorkflow({ body: sampleShop(location.origin) }));
      void cache.invalidateQueries({ queryKey: keys.lists("workflow") });
      return call(createRun({ body: { workflow_id: workflow.id } }));
    },
    onSuccess: (run) => router.push(`/runs/${run.id}`),
  });
  return (
    <div className="flex flex-col items-start gap-2">
      <Button look="primary" busy={begin.isPending} onClick={() => begin.mutate()}>
        Try the sample
      </Button>
      {begin.error && <FormError error={begin.error} />}
    </div>
  );
}
