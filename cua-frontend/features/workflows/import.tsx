"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { FileUp, X } from "lucide-react";
import { useRouter } from "next/navigation";
import { useRef, useState } from "react";

import { DropAnywhere } from "@/components/drop-anywhere";
import { Button } from "@/components/ui/button";
import { toast } from "@/components/ui/toast";
import { importWorkflow } from "@/lib/api";
import { call } from "@/lib/client";
import { isObject } from "@/lib/json";
import { keys } from "@/lib/keys";
import { Problem } from "@/lib/problem";

import { inWords } from "./editor/definition";
import { parametersNamedIn } from "./parameters";

const MOST_BYTES = 1_000_000;
const SHOWN_PROBLEMS = 12;

interface Refused {
  file: string;
  title: string;
  problems: { pointer: string; message: string }[];
}

/** Takes a file of Chrome DevTools' Recorder and opens the workflow that it becomes. */
export function useImport() {
  const router = useRouter();
  const cache = useQueryClient();
  const [refused, setRefused] = useState<Refused | null>(null);
  const { mutate, isPending } = useMutation({
    mutationFn: async (file: File) => {
      if (file.size > MOST_BYTES) throw new Error("The file is larger than 1 MB, so it is no recording");
      const recording: unknown = JSON.parse(await file.text());
      if (!isObject(recording)) throw new Error("The file holds no recording: it is not a JSON object");
      const parameters = parametersNamedIn(recording) ?? {};
      return call(importWorkflow({ body: { recording, parameters } }));
    },
    onMutate: () => setRefused(null),
    onSuccess: (workflow) => {
      void cache.invalidateQueries({ queryKey: keys.lists("workflow") });
      toast.done(`${workflow.name} is imported`);
      router.push(`/workflows/${workflow.id}`);
    },
    onError: (error, file) => setRefused(refusal(file.name, error)),
  });
  return { importFile: mutate, isImporting: isPending, refused, dismiss: () => setRefused(null) };
}

function refusal(file: string, error: Error): Refused {
  if (error instanceof SyntaxError) return { file, title: "It is not JSON. Export the recording as a JSON file.", problems: [] };
  if (error instanceof Problem && error.errors.length > 0) {
    const problems = error.errors.map(({ loc, msg }) => ({ pointer: `/${loc.join("/")}`, message: msg }));
    return { file, title: error.title, problems };
  }
  return { file, title: error.message, problems: [] };
}

/** What is wrong with the file, place by place. */
export function ImportRefused({ refused, onDismiss }: { refused: Refused; onDismiss: () => void }) {
  const { file, title, problems } = refused;
  return (
    <div role="alert" className="flex items-start gap-3 rounded-xl border border-line bg-bad-soft px-4 py-3">
      <div className="min-w-0 flex-1">
        <p className="font-medium break-words text-bad">{file} was not imported</p>
        <p className="text-sm text-ink-2">{title}</p>
        {problems.length > 0 && (
          <ul className="mt-2 flex flex-col gap-1 text-sm">
            {problems.slice(0, SHOWN_PROBLEMS).map(({ pointer, message }, place) => (
              <li key={place} className="break-words">
                <span className="mr-2 font-medium">{inWords(pointer)}</span>
                {message}
              </li>
            ))}
            {problems.length > SHOWN_PROBLEMS && <li className="text-ink-3">and {problems.length - SHOWN_PROBLEMS} more</li>}
          </ul>
        )}
      </div>
      <Button look="ghost" size="icon" aria-label="Dismiss" onClick={onDismiss}>
        <X />
      </Button>
    </div>
  );
}

export function ImportButton({ busy, onFile, label = "Import" }: { busy: boolean; onFile: (file: File) => void; label?: string }) {
  const input = useRef<HTMLInputElement>(null);
  return (
    <>
      <Button busy={busy} onClick={() => input.current?.click()}>
        <FileUp aria-hidden />
        {label}
      </Button>
      <input
        ref={input}
        type="file"
        accept="application/json,.json"
        className="hidden"
        aria-hidden
        tabIndex={-1}
        onChange={(event) => {
          const file = event.target.files?.[0];
          event.target.value = "";
          if (file) onFile(file);
        }}
      />
    </>
  );
}

/** Takes a file that is dropped anywhere on the screen. */
export function DropRecording({ onFile }: { onFile: (file: File) => void }) {
  return <DropAnywhere label="Drop the recording to import it" onFiles={([file]) => file && onFile(file)} />;
}
