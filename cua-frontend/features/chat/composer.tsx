"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { ArrowUp } from "lucide-react";
import { useId, useState } from "react";

import { Button } from "@/components/ui/button";
import { toast } from "@/components/ui/toast";
import { guideRun, type MessageRead } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

let sent = 0;

/** Tells a run something; an answer where it has asked. */
export function Composer({ runId, answers, autoFocus }: { runId: string; answers: boolean; autoFocus?: boolean }) {
  const id = useId();
  const cache = useQueryClient();
  const [text, setText] = useState("");
  const queryKey = keys.of("run", runId, "messages");
  const send = useMutation({
    mutationFn: (said: string) => call(guideRun({ path: { id: runId }, body: { text: said } })),
    onMutate: (said) => {
      const shown: MessageRead = {
        id: `sending-${++sent}`,
        thread_id: null,
        run_id: runId,
        role: "user",
        text: said,
        data: null,
        taken_at: null,
        created_at: new Date().toISOString(),
        updated_at: "",
      };
      cache.setQueryData<MessageRead[]>(queryKey, (old) => old && [...old, shown]);
      setText("");
      return shown.id;
    },
    onSuccess: (message, _said, place) => {
      cache.setQueryData<MessageRead[]>(queryKey, (old) => {
        const rest = old?.filter((each) => each.id !== place);
        // The socket may have brought it before the reply did.
        return rest?.some((each) => each.id === message.id) ? rest : rest && [...rest, message];
      });
    },
    onError: (error, said, place) => {
      cache.setQueryData<MessageRead[]>(queryKey, (old) => old?.filter((each) => each.id !== place));
      setText((now) => now || said);
      toast.failed("It was not told", error);
    },
  });
  const submit = () => {
    if (text.trim()) send.mutate(text.trim());
  };
  const label = answers ? "Your answer" : "Tell it something";
  return (
    <form
      className="flex items-end gap-2 rounded-xl border border-line-strong bg-surface p-1.5 focus-within:border-accent"
      onSubmit={(event) => {
        event.preventDefault();
        submit();
      }}
    >
      <label htmlFor={id} className="sr-only">
        {label}
      </label>
      <textarea
        id={id}
        value={text}
        rows={Math.min(text.split("\n").length, 6)}
        maxLength={20_000}
        autoFocus={autoFocus}
        placeholder={answers ? "Your answer…" : "Tell it something…"}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={(event) => {
          if (event.key !== "Enter" || event.shiftKey || event.nativeEvent.isComposing) return;
          event.preventDefault();
          submit();
        }}
        className="min-h-8 min-w-0 flex-1 resize-none bg-transparent px-2 py-1.5 text-sm outline-none placeholder:text-ink-3"
      />
      <Button type="submit" look="primary" size="icon" aria-label={answers ? "Answer" : "Send"} title="Enter sends, Shift+Enter is a new line" disabled={!text.trim()}>
        <ArrowUp />
      </Button>
    </form>
  );
}
