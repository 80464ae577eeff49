"use client";

import { CircleAlert, CircleHelp, Pause, Play, RotateCcw } from "lucide-react";
import { type FormEvent, type ReactNode, useState } from "react";

import { LongText } from "@/components/long-text";
import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { ApprovalCard } from "@/features/approvals/approval-card";
import { Composer } from "@/features/chat/composer";
import type { RunRead, RunUpdate } from "@/lib/api";
import { cn } from "@/lib/cn";
import { wrongWith } from "@/lib/problem";

import type { RunActions } from "./actions";
import { useRunApprovals } from "./queries";
import { failedStep, hintFor, standstill } from "./reasons";

interface AttentionProps {
  run: RunRead;
  question: string | null;
  /** The chat beside this asks it already. */
  inChat: boolean;
  actions: RunActions;
  onStep: (step: number) => void;
}

/** What a person has to do for the run to go on, or should know now that it has failed. */
export function Attention({ run, question, inChat, actions, onStep }: AttentionProps) {
  const approvals = useRunApprovals(run.id);
  const pending = approvals.data?.filter((approval) => approval.status === "pending") ?? [];
  if (run.status === "failed") return <Failed run={run} actions={actions} onStep={onStep} />;
  if (pending.length > 0) return pending.map((approval) => <ApprovalCard key={approval.id} approval={approval} />);
  if (question !== null) return inChat ? null : <Question run={run} question={question} />;
  if (run.status === "paused" && run.reason?.startsWith("budget_") && !run.reason.startsWith("budget_month_")) {
    return <Budget key={run.reason} run={run} actions={actions} />;
  }
  if (run.status === "paused" || run.status === "waiting_user") {
    const { title, detail } = standstill(run);
    return (
      <Box look="warn" icon={<Pause />} title={title}>
        <p className="text-sm text-ink-2">{detail}</p>
        {run.reason !== "control" && (
          <Button size="sm" look="primary" className="self-start" busy={actions.resume.isPending} onClick={() => actions.resume.mutate()}>
            <Play />
            Resume
          </Button>
        )}
      </Box>
    );
  }
  return null;
}

function Box({ look, icon, title, children }: { look: "warn" | "bad"; icon: ReactNode; title: string; children: ReactNode }) {
  return (
    <section
      className={cn("flex gap-3 rounded-xl border px-4 py-3", look === "warn" ? "border-warn bg-warn-soft" : "border-bad bg-bad-soft")}
    >
      <span aria-hidden className={cn("mt-0.5 [&_svg]:size-4", look === "warn" ? "text-warn" : "text-bad")}>
        {icon}
      </span>
      <div className="flex min-w-0 flex-1 flex-col gap-2">
        <h2 className="font-semibold break-words">{title}</h2>
        {children}
      </div>
    </section>
  );
}

function Question({ run, question }: { run: RunRead; question: string }) {
  return (
    <Box look="warn" icon={<CircleHelp />} title={question}>
      <Composer runId={run.id} answers />
    </Box>
  );
}

function Failed({ run, actions, onStep }: Omit<AttentionProps, "question" | "inChat">) {
  const code = typeof run.error?.code === "string" ? run.error.code : "failed";
  const detail = typeof run.error?.detail === "string" ? run.error.detail : "The run has failed.";
  const step = typeof run.error?.step === "number" ? run.error.step : null;
  const outermost = failedStep(run);
  return (
    <Box look="bad" icon={<CircleAlert />} title={step === null ? "The run failed" : `The run failed in step ${step}`}>
      <p className="font-mono text-xs text-bad">{code}</p>
      <LongText className="text-ink-2">{detail}</LongText>
      <p className="text-xs text-ink-2">{hintFor(code)}</p>
      <div className="flex flex-wrap gap-2">
        {outermost !== null && outermost > 1 && (
          <Button
            size="sm"
            look="primary"
            busy={actions.retry.isPending && actions.retry.variables === outermost}
            onClick={() => actions.retry.mutate(outermost)}
          >
            <RotateCcw />
            Retry from step {outermost}
          </Button>
        )}
        {step !== null && (
          <Button size="sm" look="ghost" onClick={() => onStep(step)}>
            Show the step
          </Button>
        )}
      </div>
    </Box>
  );
}

const BUDGETS: Record<string, { field: keyof RunUpdate; label: string; used: (run: RunRead) => number; usual: number }> = {
  budget_steps: { field: "max_steps", label: "Steps it may take", used: (run) => run.step_count, usual: 200 },
  budget_tokens: { field: "max_tokens", label: "Tokens it may use", used: (run) => run.input_tokens + run.output_tokens, usual: 100_000 },
  budget_cost_usd: { field: "max_cost_usd", label: "Dollars it may cost", used: (run) => run.cost_usd, usual: 1 },
  budget_seconds: { field: "max_seconds", label: "Seconds it may work", used: (run) => Math.round(run.active_ms / 1000), usual: 600 },
};

function Budget({ run, actions }: { run: RunRead; actions: RunActions }) {
  const budget = BUDGETS[run.reason ?? ""];
  const limit = budget ? (run.budget[budget.field] ?? budget.usual) : 0;
  const [text, setText] = useState(String(Math.max(limit * 2, Math.ceil((budget?.used(run) ?? 0) * 2))));
  const { title, detail } = standstill(run);
  if (!budget) return null;
  const { raise } = actions;
  const wrong = wrongWith(raise.error, budget.field) ?? raise.error?.message;
  return (
    <Box look="warn" icon={<Pause />} title={title}>
      <p className="text-sm text-ink-2">{detail}</p>
      <form
        className="flex flex-wrap items-end gap-2"
        onSubmit={(event: FormEvent) => {
          event.preventDefault();
          raise.mutate({ [budget.field]: Number(text) });
        }}
      >
        <Field label={`${budget.label} (now ${limit})`} error={wrong} className="w-48">
          {(wired) => (
            <Input
              {...wired}
              type="number"
              required
              min={limit}
              step={budget.field === "max_cost_usd" ? "any" : 1}
              value={text}
              onChange={(event) => setText(event.target.value)}
            />
          )}
        </Field>
        <Button type="submit" look="primary" busy={raise.isPending}>
          Allow more
        </Button>
      </form>
    </Box>
  );
}
