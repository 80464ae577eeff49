"use client";

import { useMutation } from "@tanstack/react-query";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Field, Input, Select, Textarea } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { createRun, type RunCreate } from "@/lib/api";
import { call } from "@/lib/client";
import { wrongWith } from "@/lib/problem";

const MODELS_KEY = "last-model";
const APPROVALS = {
  sensitive: "Before what matters: paying, sending, deleting, signing in",
  always: "Before everything it does",
  never: "Never",
} as const;

/** State a task and have a model do it. */
export function NewTask({ open, onOpenChange }: { open: boolean; onOpenChange: (open: boolean) => void }) {
  return (
    <Dialog
      open={open}
      onOpenChange={onOpenChange}
      title="Start a task"
      description="Say what is to be done. A browser opens, and you watch, answer and take over at any time."
    >
      <TaskForm onStarted={() => onOpenChange(false)} />
    </Dialog>
  );
}

export function TaskForm({ onStarted }: { onStarted?: () => void }) {
  const router = useRouter();
  const [task, setTask] = useState("");
  const [model, setModel] = useState(() => localStorage.getItem(MODELS_KEY) ?? "");
  const [approval, setApproval] = useState<keyof typeof APPROVALS>("sensitive");
  const [domains, setDomains] = useState("");
  const [advanced, setAdvanced] = useState(false);
  const start = useMutation({
    mutationFn: () => {
      const body: RunCreate = { task, approval };
      if (model.trim()) body.model = model.trim();
      const allowed = domains.split(/[\s,]+/).filter(Boolean);
      if (allowed.length > 0) body.allowed_domains = allowed;
      return call(createRun({ body }));
    },
    onSuccess: (run) => {
      localStorage.setItem(MODELS_KEY, model.trim());
      onStarted?.();
      router.push(`/runs/${run.id}`);
    },
  });
  const wrong = (field: string) => wrongWith(start.error, field);
  const isNamed = ["task", "model", "allowed_domains"].some(wrong);
  return (
    <form
      className="flex flex-col gap-4"
      onSubmit={(event) => {
        event.preventDefault();
        start.mutate();
      }}
    >
      <Field label="Task" error={wrong("task")}>
        {(wired) => (
          <Textarea
            {...wired}
            required
            autoFocus
            rows={4}
            value={task}
            placeholder="Open news.example.com and tell me the three top headlines"
            onChange={(event) => setTask(event.target.value)}
            onKeyDown={(event) => {
              if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) event.currentTarget.form?.requestSubmit();
            }}
          />
        )}
      </Field>
      <Field label="Ask me" error={wrong("approval")}>
        {(wired) => (
          <Select {...wired} value={approval} onChange={(event) => setApproval(event.target.value as keyof typeof APPROVALS)}>
            {Object.entries(APPROVALS).map(([value, label]) => (
              <option key={value} value={value}>
                {label}
              </option>
            ))}
          </Select>
        )}
      </Field>
      {advanced ? (
        <>
          <Field
            label="Model"
            hint="As anthropic:claude-sonnet-5, openai:gpt-5.5, or demo, which works without a key. Empty is the server's own."
            error={wrong("model")}
          >
            {(wired) => <Input {...wired} value={model} onChange={(event) => setModel(event.target.value)} spellCheck={false} />}
          </Field>
          <Field label="Allowed domains" hint="The browser reaches nothing else. Empty allows all." error={wrong("allowed_domains")}>
            {(wired) => (
              <Input {...wired} value={domains} placeholder="example.com, *.example.org" onChange={(event) => setDomains(event.target.value)} spellCheck={false} />
            )}
          </Field>
        </>
      ) : (
        <button type="button" className="self-start text-xs text-ink-3 underline-offset-2 hover:underline" onClick={() => setAdvanced(true)}>
          Model and domains
        </button>
      )}
      {start.error && !isNamed && <FormError error={start.error} />}
      <Button type="submit" look="primary" busy={start.isPending} className="self-end">
        Start
      </Button>
    </form>
  );
}
