"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";

import { type FrameRead, listFrames, type StepRead } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

const MOST = 200;

export function framePath(runId: string, number: number): string {
  return `/api/runs/${runId}/frames/${number}`;
}

export interface FrameIndex {
  /** Oldest first. Until it is whole, the frames from the beginning and then the newest one. */
  frames: FrameRead[];
  whole: boolean;
}

/** The index of a run's recording: its beginning and its newest frame at once, what is between behind. What is known is not read again when it grows. */
export function useFrames(runId: string) {
  const cache = useQueryClient();
  const queryKey = keys.of("run", runId, "frames");
  return useQuery({
    queryKey,
    queryFn: async ({ signal }): Promise<FrameIndex> => {
      const known = cache.getQueryData<FrameIndex>(queryKey);
      const read = (query: { limit: number; after?: number; order?: "desc" }) => page(listFrames({ path: { id: runId }, query }));
      let frames = known?.frames.slice(0, known.whole ? undefined : -1) ?? [];
      let newest: FrameRead[] | undefined;
      for (;;) {
        const { data, next_cursor } = await read({ limit: MOST, after: frames.at(-1)?.number ?? 0 });
        frames = [...frames, ...data];
        if (!next_cursor) return { frames, whole: true };
        newest ??= (await read({ limit: 1, order: "desc" })).data;
        signal.throwIfAborted(); // somebody else reads on
        cache.setQueryData<FrameIndex>(queryKey, { frames: [...frames, ...newest], whole: false });
      }
    },
  });
}

/** Within this time what was captured is listed: a segment is stored every ten seconds. */
const STORED_MS = 15_000;

/** Where in the index the page is as the step left it: its last own frame, else the newest one before its end. */
export function frameOfStep({ frames, whole }: FrameIndex, step: StepRead, complete: boolean, now: number): FrameRead | undefined {
  const own = frames.findLast((frame) => frame.step === step.number);
  if (own || !whole || !step.finished_at) return own;
  const end = Date.parse(step.finished_at);
  const newest = frames.at(-1);
  // What has not been stored yet may be nearer; later than that the page has stood still.
  const stored = complete || now - end > STORED_MS || (newest && Date.parse(newest.captured_at) >= end);
  if (!stored) return undefined;
  return frames.findLast((frame) => Date.parse(frame.captured_at) <= end) ?? frames[0];
}

/** Longer than this nothing changes on the screen before playing goes on. */
const IDLE_MS = 1000;

/** When each frame comes in playing, in milliseconds from the first; idle gaps are cut. */
export function playTimes(frames: FrameRead[]): number[] {
  const times: number[] = [];
  let at = 0;
  for (const [place, frame] of frames.entries()) {
    const before = frames[place - 1];
    if (before) at += Math.min(Math.max(Date.parse(frame.captured_at) - Date.parse(before.captured_at), 0), IDLE_MS);
    times.push(at);
  }
  return times;
}
