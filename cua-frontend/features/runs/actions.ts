"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "next/navigation";

import { toast } from "@/components/ui/toast";
import { cancelRun, deleteRun, pauseRun, resumeRun, retryRun, type RunRead, type RunUpdate, saveRunAsWorkflow, updateRun } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

/** What may be done to a run as a whole. */
export function useRunActions(id: string) {
  const cache = useQueryClient();
  const router = useRouter();
  const path = { id };
  const known = (run: RunRead) => void put(cache, "run", { ...run });
  const pause = useMutation({
    mutationFn: () => call(pauseRun({ path })),
    onSuccess: known,
    onError: (error) => toast.failed("The run was not paused", error),
  });
  const resume = useMutation({
    mutationFn: () => call(resumeRun({ path })),
    onSuccess: known,
    onError: (error) => toast.failed("The run does not go on", error),
  });
  const cancel = useMutation({
    mutationFn: () => call(cancelRun({ path })),
    onSuccess: known,
    onError: (error) => toast.failed("The run was not cancelled", error),
  });
  const retry = useMutation({
    mutationFn: (fromStep?: number) => call(retryRun({ path, body: fromStep ? { from_step: fromStep } : null })),
    onSuccess: (run) => {
      void cache.invalidateQueries({ queryKey: keys.lists("run") });
      router.push(`/runs/${run.id}`);
    },
    onError: (error) => toast.failed("The run was not started again", error),
  });
  const raise = useMutation({
    mutationFn: (body: RunUpdate) => call(updateRun({ path, body })),
    onSuccess: known,
  });
  const saveAsWorkflow = useMutation({
    mutationFn: () => call(saveRunAsWorkflow({ path, body: null })),
    onSuccess: (workflow) => {
      void cache.invalidateQueries({ queryKey: keys.lists("workflow") });
      toast.done("Saved as a workflow", workflow.name);
      router.push(`/workflows/${workflow.id}`);
    },
    onError: (error) => toast.failed("It was not saved as a workflow", error),
  });
  const remove = useMutation({
    mutationFn: async () => {
      await deleteRun({ path, throwOnError: true });
    },
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: keys.lists("run") });
      router.push("/runs");
    },
    onError: (error) => toast.failed("The run was not deleted", error),
  });
  return { pause, resume, cancel, retry, raise, saveAsWorkflow, remove };
}

export type RunActions = ReturnType<typeof useRunActions>;
