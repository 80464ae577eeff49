"use client";

import { MessageSquare } from "lucide-react";
import { useEffect, useRef } from "react";

import { LongText } from "@/components/long-text";
import { Ago } from "@/components/time";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import { useMessages } from "@/features/runs/queries";
import type { MessageRead } from "@/lib/api";
import { cn } from "@/lib/cn";

import { Composer } from "./composer";
import type { Draft } from "./drafts";

interface ChatProps {
  runId: string;
  /** An agent listens, so something may be said to it. */
  listens: boolean;
  /** What it waits to be told. */
  question: string | null;
  drafts: Draft[];
}

/** What was said in a run: its task, what the model says while it says it, and what its user tells it. */
export function Chat({ runId, listens, question, drafts }: ChatProps) {
  const messages = useMessages(runId);
  const known = messages.data;
  const end = useRef<HTMLDivElement>(null);
  const read = useRef(false);
  const length = drafts.reduce((sum, draft) => sum + draft.text.length, 0);
  useEffect(() => {
    const pane = end.current?.closest("[data-pane]");
    if (!(pane instanceof HTMLElement) || !known) return;
    const first = !read.current;
    read.current = true;
    if (first || pane.scrollHeight - pane.scrollTop - pane.clientHeight < 300) pane.scrollTop = pane.scrollHeight;
  }, [known, length]);

  if (messages.isPending) return <Skeletons count={4} className="h-16" />;
  if (messages.isError) return <Failure title="The messages could not be read" error={messages.error} retry={() => void messages.refetch()} />;
  const last = messages.data.findLast((message) => message.role === "assistant");
  return (
    <div className="flex flex-col gap-4">
      {messages.data.length === 0 && drafts.length === 0 && (
        <Empty icon={<MessageSquare />} title="Nothing was said">
          {listens ? "What the model says appears here, and you may tell it something at any time." : "Only runs with an agent talk."}
        </Empty>
      )}
      <ol aria-label="Messages" aria-live="polite" className="flex flex-col gap-3">
        {messages.data.map((message) => (
          <Message key={message.id} message={message} asks={question !== null && message === last && message.text === question} />
        ))}
        {drafts.map((draft) => (
          <li key={draft.id} aria-busy className="mr-8 self-start rounded-xl bg-sunken px-3.5 py-2.5 text-sm break-words whitespace-pre-wrap">
            {draft.text}
            {draft.gap && <span className="text-ink-3"> …</span>}
            <span aria-hidden className="ml-0.5 inline-block h-3.5 w-1.5 translate-y-0.5 animate-pulse bg-ink-3" />
          </li>
        ))}
      </ol>
      <div ref={end} />
      {listens && (
        <div className="sticky bottom-0 -mx-1 bg-canvas px-1 pt-1 pb-1">
          <Composer runId={runId} answers={question !== null} />
        </div>
      )}
    </div>
  );
}

/** A task may be a page long, and its user knows it. */
const LONG_TASK = 400;

function Message({ message, asks }: { message: MessageRead; asks: boolean }) {
  const own = message.role === "user";
  const sending = message.id.startsWith("sending");
  return (
    <li className={cn("flex max-w-full flex-col gap-0.5", own ? "ml-8 items-end self-end" : "mr-8 items-start self-start")}>
      <span className="sr-only">{own ? "You:" : message.role === "assistant" ? "The model:" : "Note:"}</span>
      <div
        className={cn(
          "max-w-full rounded-xl px-3.5 py-2.5 text-sm break-words whitespace-pre-wrap",
          asks ? "border border-warn bg-warn-soft font-medium" : own ? "bg-accent-soft" : "bg-sunken",
          sending && "opacity-60",
        )}
      >
        {own ? <LongText limit={LONG_TASK}>{message.text}</LongText> : message.text}
      </div>
      <p className="px-1 text-2xs text-ink-3">
        {sending ? "Sending" : <Ago at={message.created_at} />}
        {own && !sending && !message.taken_at && " · not heard yet"}
      </p>
    </li>
  );
}
