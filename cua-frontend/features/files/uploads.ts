"use client";

import { useQueryClient } from "@tanstack/react-query";
import { useCallback, useEffect, useRef, useState } from "react";

import type { FileRead } from "@/lib/api";
import { getToken } from "@/lib/auth/session";
import { useConfig } from "@/lib/auth/provider";
import { keys } from "@/lib/keys";
import { Problem, problemOf } from "@/lib/problem";

export interface Upload {
  id: number;
  name: string;
  size: number;
  sent: number;
  state: "waiting" | "sending" | "done" | "failed";
  error?: string;
}

/** The API takes eight at once of one user; other tabs may want some. */
const AT_ONCE = 3;
const MIB = 1024 * 1024;

/** Sends files, a few at a time, and says how far they are. */
export function useUploads() {
  const cache = useQueryClient();
  const most = useConfig()?.max_upload_mb;
  const [uploads, setUploads] = useState<Upload[]>([]);
  const queue = useRef<{ id: number; file: File }[]>([]);
  const sending = useRef(new Map<number, XMLHttpRequest>());
  const nextId = useRef(1);

  const change = useCallback((id: number, to: Partial<Upload>) => {
    setUploads((old) => old.map((upload) => (upload.id === id ? { ...upload, ...to } : upload)));
  }, []);

  const work = useCallback(() => {
    const next = () => {
      while (sending.current.size < AT_ONCE) {
        const wanted = queue.current.shift();
        if (!wanted) return;
        const request = new XMLHttpRequest();
        sending.current.set(wanted.id, request);
        change(wanted.id, { state: "sending" });
        void send(request, wanted.file, (sent) => change(wanted.id, { sent }))
          .then(
            () => {
              change(wanted.id, { state: "done", sent: wanted.file.size });
              void cache.invalidateQueries({ queryKey: keys.lists("file") });
            },
            (error: unknown) => change(wanted.id, { state: "failed", error: error instanceof Error ? error.message : String(error) }),
          )
          .finally(() => {
            sending.current.delete(wanted.id);
            next();
          });
      }
    };
    next();
  }, [cache, change]);

  const add = useCallback(
    (files: Iterable<File>) => {
      const added: Upload[] = [];
      for (const file of files) {
        const id = nextId.current++;
        const tooLarge = most !== undefined && file.size > most * MIB;
        added.push({
          id,
          name: file.name,
          size: file.size,
          sent: 0,
          state: tooLarge ? "failed" : "waiting",
          error: tooLarge ? `It is larger than ${most} MiB, the most that this server takes.` : undefined,
        });
        if (!tooLarge) queue.current.push({ id, file });
      }
      setUploads((old) => [...added, ...old]);
      work();
    },
    [most, work],
  );

  /** Stops one that is on its way, and takes it off the list. */
  const dismiss = useCallback((id: number) => {
    queue.current = queue.current.filter((wanted) => wanted.id !== id);
    sending.current.get(id)?.abort();
    setUploads((old) => old.filter((upload) => upload.id !== id));
  }, []);

  const dismissEnded = useCallback(() => {
    setUploads((old) => old.filter((upload) => upload.state === "waiting" || upload.state === "sending"));
  }, []);

  const busy = uploads.some((upload) => upload.state === "waiting" || upload.state === "sending");
  useEffect(() => {
    if (!busy) return;
    const ask = (event: BeforeUnloadEvent) => event.preventDefault();
    addEventListener("beforeunload", ask);
    return () => removeEventListener("beforeunload", ask);
  }, [busy]);
  useEffect(() => {
    const { current } = sending;
    return () => {
      queue.current = [];
      for (const request of current.values()) request.abort();
    };
  }, []);

  return { uploads, add, dismiss, dismissEnded, busy };
}

/** `fetch` does not say how much has been sent; XMLHttpRequest does. */
async function send(request: XMLHttpRequest, file: File, onProgress: (sent: number) => void): Promise<FileRead> {
  const token = await getToken();
  return new Promise((resolve, reject) => {
    request.open("POST", "/api/files");
    if (token) request.setRequestHeader("authorization", `Bearer ${token}`);
    request.upload.onprogress = (event) => onProgress(Math.min(event.loaded, file.size));
    request.onabort = () => reject(new Error("It was cancelled."));
    request.onerror = () => reject(new Problem({ status: 0, code: "offline", title: "The server cannot be reached" }));
    request.onload = () => {
      const reply = new Response(request.responseText, { status: request.status });
      if (reply.ok) reply.json().then((body: { data: FileRead }) => resolve(body.data), reject);
      else problemOf(reply).then(reject, reject);
    };
    const form = new FormData();
    form.append("file", file);
    request.send(form);
  });
}
