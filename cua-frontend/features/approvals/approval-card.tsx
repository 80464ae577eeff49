"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Check, Hand, X } from "lucide-react";
import Link from "next/link";
import { type FormEvent, type ReactNode, useState } from "react";

import { useNow } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { toast } from "@/components/ui/toast";
import { Screenshot } from "@/features/recording/screenshot";
import { stepVerb } from "@/features/runs/step-label";
import { type ApprovalRead, decideApproval } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { duration } from "@/lib/format";
import { isObject } from "@/lib/json";
import { keys } from "@/lib/keys";
import { Problem } from "@/lib/problem";

import { ArgumentsForm, changesOf, draftOf } from "./arguments-form";

/** A question that waits for a yes or no, with what it is about. */
export function ApprovalCard({ approval, linked }: { approval: ApprovalRead; linked?: boolean }) {
  const asked = isObject(approval.action.arguments) ? approval.action.arguments : {};
  const [draft, setDraft] = useState(() => draftOf(asked));
  const [note, setNote] = useState("");
  const [wrong, setWrong] = useState<Record<string, string>>({});
  const decide = useDecision(approval);
  const problem = decide.error instanceof Problem ? decide.error : null;
  const told = { ...argumentErrors(problem), ...wrong };
  const answer = (decision: "approve" | "deny") => {
    const found = changesOf(asked, draft);
    setWrong(decision === "approve" ? found.wrong : {});
    if (decision === "approve" && Object.keys(found.wrong).length > 0) return;
    const changed = decision === "approve" && Object.keys(found.changed).length > 0 ? found.changed : null;
    decide.mutate({ decision, digest: approval.digest, note: note.trim() || null, ...(changed && { arguments: changed }) });
  };
  const Heading = linked ? "h3" : "h2";
  const hasArguments = Object.keys(asked).length > 0;
  const edited = hasArguments && Object.keys(changesOf(asked, draft).changed).length > 0;
  const reasons = Array.isArray(approval.action.reasons) ? approval.action.reasons.map(String) : [];
  return (
    <form
      aria-label={`Approval: ${titleOf(approval)}`}
      className="overflow-hidden rounded-xl border border-warn bg-surface"
      onSubmit={(event: FormEvent) => event.preventDefault()} // Enter in a field is no yes
    >
      <div className="flex items-start gap-3 border-b border-line bg-warn-soft px-4 py-3">
        <Hand className="mt-0.5 size-4 shrink-0 text-warn" aria-hidden />
        <div className="min-w-0 flex-1">
          <p className="text-2xs font-medium text-warn">Needs your approval</p>
          <Heading className="font-semibold break-words">{titleOf(approval)}</Heading>
          {approval.url && approval.url !== "about:blank" && <p className="truncate text-xs text-ink-3">on {approval.url}</p>}
        </div>
        <Countdown until={approval.expires_at} />
      </div>
      <div className="flex flex-col gap-4 p-4">
        {approval.screenshot_id && <Screenshot id={approval.screenshot_id} small={!linked} />}
        {reasons.length > 0 && (
          <ul aria-label="Why it asks" className="flex flex-wrap items-center gap-1.5">
            {reasons.map((reason) => (
              <li key={reason}>
                <Badge look="warn">{REASONS[reason] ?? reason.replaceAll("_", " ")}</Badge>
              </li>
            ))}
          </ul>
        )}
        {hasArguments && (
          <Folded when={Object.values(asked).every((value) => typeof value === "object") && Object.keys(told).length === 0}>
            <ArgumentsForm values={asked} draft={draft} wrong={told} disabled={decide.isPending} onChange={setDraft} />
          </Folded>
        )}
        <Field label="Note (optional)">
          {(wired) => (
            <Input
              {...wired}
              value={note}
              maxLength={2000}
              placeholder="Why, or what to do otherwise"
              disabled={decide.isPending}
              onChange={(event) => setNote(event.target.value)}
            />
          )}
        </Field>
        {decide.error && Object.keys(told).length === 0 && <FormError error={decide.error} />}
        <div className="flex flex-wrap items-center gap-2">
          <Button
            look="primary"
            busy={decide.isPending && decide.variables.decision === "approve"}
            disabled={decide.isPending}
            onClick={() => answer("approve")}
          >
            <Check />
            {edited ? "Approve with changes" : "Approve"}
          </Button>
          <Button look="danger" busy={decide.isPending && decide.variables.decision === "deny"} disabled={decide.isPending} onClick={() => answer("deny")}>
            <X />
            Deny
          </Button>
          {linked && (
            <Link href={`/runs/${approval.run_id}`} className="ml-auto text-sm text-ink-3 underline-offset-2 hover:text-ink hover:underline">
              Watch the run
            </Link>
          )}
        </div>
      </div>
    </form>
  );
}

const REASONS: Record<string, string> = {
  confirm: "confirms something",
  credentials: "touches a sign-in",
  delete: "deletes something",
  download: "downloads a file",
  leave_site: "goes to another site",
  payment: "touches a payment",
  post: "publishes something",
  script: "runs a script",
  send: "sends something",
  submit: "sends a form",
  unknown: "cannot be judged",
  upload: "uploads a file",
};

/** What only says to a machine which element is meant is folded away. */
function Folded({ when, children }: { when: boolean; children: ReactNode }) {
  if (!when) return children;
  return (
    <details className="text-sm">
      <summary className="cursor-pointer text-xs text-ink-3 hover:text-ink">Arguments</summary>
      <div className="pt-3">{children}</div>
    </details>
  );
}

/** The question in a person's words: what an agent is about to do is told by what it does it to. */
export function titleOf({ title, action, url }: ApprovalRead): string {
  const { type, subject } = action;
  const said = title.replace(/[\s:]+$/, "");
  if (typeof type !== "string" || typeof subject !== "string") return said;
  const typed = `${type.replaceAll("_", " ")} `;
  if (!subject) return said.startsWith(typed) ? `${stepVerb(type)} ${said.slice(typed.length)}` : said;
  const place = ` on ${url ?? ""}`;
  const what = subject.endsWith(place) ? subject.slice(0, -place.length) : subject;
  return `${stepVerb(type)}: ${what}`;
}

function useDecision(approval: ApprovalRead) {
  const cache = useQueryClient();
  return useMutation({
    mutationFn: (body: Parameters<typeof decideApproval>[0]["body"]) => call(decideApproval({ path: { id: approval.id }, body })),
    onSuccess: (decided) => {
      put(cache, "approval", { ...decided });
      cache.setQueryData<ApprovalRead[]>(keys.of("run", decided.run_id, "approvals"), (old) =>
        old?.map((item) => (item.id === decided.id ? decided : item)),
      );
      toast.done(decided.status === "approved" ? "Approved" : "Denied", titleOf(decided));
    },
    onError: (error) => {
      // It has its answer, or its time is over: what is shown is old.
      if (error instanceof Problem && error.status === 409) {
        void cache.invalidateQueries({ queryKey: keys.lists("approval") });
        void cache.invalidateQueries({ queryKey: keys.of("run", approval.run_id, "approvals") });
      }
    },
  });
}

/** What the server found wrong with changed arguments, by their names. */
function argumentErrors(problem: Problem | null): Record<string, string> {
  const found: Record<string, string> = {};
  for (const error of problem?.errors ?? []) {
    const pointer = "pointer" in error && typeof error.pointer === "string" ? error.pointer.split("/") : error.loc.map(String);
    const name = pointer[pointer.indexOf("arguments") + 1];
    if (name && pointer.includes("arguments")) found[name] = error.msg;
  }
  return found;
}

const SOON_MS = 60_000;

function Countdown({ until }: { until: string }) {
  const now = useNow(1000);
  const left = Date.parse(until) - now;
  return (
    <span className="shrink-0 text-xs text-ink-3 tabular-nums" title="No answer in time counts as a no">
      {left <= 0 ? "Time is over" : left < SOON_MS ? `${Math.ceil(left / 1000)} s left` : `${duration(Math.floor(left / SOON_MS) * SOON_MS).replace(/ 0 s$/, "")} left`}
    </span>
  );
}
