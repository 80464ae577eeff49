"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Check, CircleHelp, Hand, X } from "lucide-react";
import Link from "next/link";
import type { ReactNode } from "react";

import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Rows, Section } from "@/components/ui/page";
import { toast } from "@/components/ui/toast";
import { standstill } from "@/features/runs/reasons";
import { type ApprovalRead, decideApproval, resumeRun, type RunRead } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";

/** What goes on only when this person has said or done something. */
export function NeedsYou({ approvals, waiting }: { approvals: ApprovalRead[]; waiting: RunRead[] }) {
  if (approvals.length + waiting.length === 0) return null;
  return (
    <Section title="Needs you">
      <Rows label="Needs you">
        {approvals.map((approval) => (
          <Question key={approval.id} approval={approval} />
        ))}
        {waiting.map((run) => (
          <Waiting key={run.id} run={run} />
        ))}
      </Rows>
    </Section>
  );
}

function Line({ icon, href, title, children, actions }: { icon: ReactNode; href: string; title: string; children: ReactNode; actions: ReactNode }) {
  return (
    <li className="flex flex-wrap items-center gap-x-3 gap-y-2 px-4 py-3">
      <span className="text-warn [&_svg]:size-4" aria-hidden>
        {icon}
      </span>
      <div className="min-w-0 flex-1 basis-52">
        <Link href={href} className="line-clamp-2 font-medium break-words hover:underline">
          {title}
        </Link>
        <p className="truncate text-xs text-ink-3">{children}</p>
      </div>
      <div className="flex gap-2 max-sm:w-full max-sm:pl-7">{actions}</div>
    </li>
  );
}

function Question({ approval }: { approval: ApprovalRead }) {
  const cache = useQueryClient();
  const decide = useMutation({
    mutationFn: (decision: "approve" | "deny") =>
      call(decideApproval({ path: { id: approval.id }, body: { decision, digest: approval.digest } })),
    onSuccess: (decided) => void put(cache, "approval", { ...decided }),
    onError: (error) => toast.failed("Your answer was not taken", error),
  });
  return (
    <Line
      icon={<Hand />}
      href={`/runs/${approval.run_id}`}
      title={approval.title}
      actions={
        <>
          <Button size="sm" disabled={decide.isPending} onClick={() => decide.mutate("deny")} aria-label={`Deny: ${approval.title}`}>
            <X aria-hidden />
            Deny
          </Button>
          <Button size="sm" look="primary" busy={decide.isPending} onClick={() => decide.mutate("approve")} aria-label={`Approve: ${approval.title}`}>
            <Check aria-hidden />
            Approve
          </Button>
        </>
      }
    >
      {approval.url && <span className="font-mono">{approval.url} · </span>}
      expires <Ago at={approval.expires_at} />
    </Line>
  );
}

function Waiting({ run }: { run: RunRead }) {
  const cache = useQueryClient();
  const resume = useMutation({
    mutationFn: () => call(resumeRun({ path: { id: run.id } })),
    onSuccess: (resumed) => void put(cache, "run", { ...resumed }),
    onError: (error) => toast.failed("The run was not resumed", error),
  });
  const { title } = standstill(run);
  const isQuestion = title === run.reason;
  return (
    <Line
      icon={<CircleHelp />}
      href={`/runs/${run.id}`}
      title={isQuestion ? title : run.title}
      actions={
        <>
          <Button size="sm" busy={resume.isPending} onClick={() => resume.mutate()} aria-label={`Resume ${run.title}`}>
            Resume
          </Button>
          <Button size="sm" look="primary" asChild>
            <Link href={`/runs/${run.id}`} aria-label={`Open ${run.title}`}>
              Open
            </Link>
          </Button>
        </>
      }
    >
      {isQuestion ? run.title : title} · <Ago at={run.updated_at} />
    </Line>
  );
}
