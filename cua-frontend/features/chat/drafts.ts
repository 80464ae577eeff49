"use client";

import { useCallback, useState } from "react";

import type { MessageRead } from "@/lib/api";
import { useDeltaListener } from "@/lib/events";
import type { Delta } from "@/lib/socket";

export interface Draft {
  id: string;
  text: string;
  /** Characters so far, as the server counts them. */
  length: number;
  /** A piece was lost; the whole comes with the message. */
  gap: boolean;
}

/** One more piece of a message that is being said: offset 0 begins anew, one further on than we are is a loss. */
function withDelta(draft: Draft | undefined, { message_id: id, offset, text }: Delta): Draft {
  const signs = [...text].length; // the server counts characters, not UTF-16's units
  const before = draft && offset > 0 ? draft : { id, text: "", length: 0, gap: false };
  if (before.gap || offset > before.length) return { ...before, gap: true };
  const kept = offset === before.length ? before.text : [...before.text].slice(0, offset).join("");
  return { id, text: kept + text, length: offset + signs, gap: false };
}

/** What is being said in a run and is not a message yet. */
export function useDrafts(runId: string, messages: MessageRead[] | undefined): Draft[] {
  const [drafts, setDrafts] = useState<Draft[]>([]);
  useDeltaListener(
    useCallback(
      (delta: Delta) => {
        if (delta.run_id !== runId) return;
        setDrafts((old) => {
          const others = old.filter((draft) => draft.id !== delta.message_id);
          return [...others, withDelta(old.find((draft) => draft.id === delta.message_id), delta)];
        });
      },
      [runId],
    ),
  );
  return drafts.filter((draft) => draft.text && !messages?.some((message) => message.id === draft.id));
}
