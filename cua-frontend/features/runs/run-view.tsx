"use client";

import { useNow } from "@/components/time";
import { LiveView, type Instead } from "@/features/live/live-view";
import { type FrameIndex, frameOfStep, framePath, useFrames } from "@/features/recording/frames";
import { usePicture } from "@/features/recording/pictures";
import { Player } from "@/features/recording/player";
import type { FrameRead, RunRead, StepRead } from "@/lib/api";

import type { Selection } from "./selection";

interface RunViewProps {
  run: RunRead;
  steps: StepRead[];
  ended: boolean;
  selection: Selection;
  onSelect: (selection: Partial<Selection>) => void;
}

const NOTHING: FrameIndex = { frames: [], whole: false };

/** The browser as it is now, or as it was: the live view, and the recording below it. */
export function RunView({ run, steps, ended, selection, onSelect }: RunViewProps) {
  const index = useFrames(run.id);
  const known = index.data ?? NOTHING;
  const { frames, whole } = known;
  const step = selection.step === null ? undefined : steps.find((each) => each.number === selection.step);
  const newest = frames.at(-1);
  const now = useNow();
  const complete = ended && isComplete(run, newest, now);
  let frame = complete ? newest : undefined;
  if (selection.frame !== null) frame = frames.find((each) => each.number === selection.frame) ?? (whole ? newest : undefined);
  else if (step) frame = frameOfStep(known, step, ended, now);
  // The last seconds are not in the recording yet, but a step that has ended has its own picture.
  const screenshot = !frame && step?.screenshot_id ? `/api/files/${step.screenshot_id}/content` : null;
  // What is shown has a picture before the index reaches it.
  const number = frame?.number ?? (whole ? null : selection.frame);
  const path = number === null ? screenshot : framePath(run.id, number);
  const picture = usePicture(path);
  const last = usePicture(newest && run.status !== "running" ? framePath(run.id, newest.number) : null);

  const pageOf = frame && frame.step !== null ? steps.find((each) => each.number === frame.step) : step;
  const shown = pageOf ?? (frame && steps.findLast((each) => each.started_at <= frame.captured_at));
  const chosen = selection.frame !== null || selection.step !== null;
  const looking = !whole && (index.isPending || (chosen && !path));
  const awaited = chosen && !path && !ended && !looking;
  const instead: Instead | null = path && !picture.failed
    ? {
        picture: picture.address,
        url: shown?.url ?? "",
        title: screenshot ? "Screenshot" : ended && !chosen ? "The last picture" : `Recording, picture ${number ?? ""}`,
        width: frame?.width ?? 1280,
        height: frame?.height ?? 720,
      }
    : null;

  return (
    <LiveView computerId={ended ? null : run.computer_id} absent={absent(run, ended, looking)} instead={instead} last={{ picture: last.address, url: steps.findLast((each) => each.url)?.url ?? "" }}>
      {awaited && (
        <p role="status" className="border-t border-line px-3 py-3 text-xs text-ink-3">
          The picture of this step comes with the next seconds of the recording; this is the browser now.
        </p>
      )}
      {frames.length > 0 ? (
        <Player
          runId={run.id}
          frames={frames}
          steps={steps}
          current={number}
          onSeek={(number) => onSelect({ frame: number })}
          onLive={ended ? undefined : () => onSelect({})}
        />
      ) : awaited ? null : (
        <p className="border-t border-line px-3 py-3 text-xs text-ink-3">
          {index.isPending
            ? "The recording is looked for."
            : ended && isStored(run, now)
              ? "There is no recording of this run."
              : "The recording appears here once its first seconds are stored."}
        </p>
      )}
    </LiveView>
  );
}

const LAST_MS = 3000;
const PATIENCE_MS = 10_000;

/** Whether the recording has come to its end: its last seconds are stored a moment after the run's own. */
function isComplete(run: RunRead, newest: FrameRead | undefined, now: number): boolean {
  if (!run.finished_at || !newest) return false;
  return Date.parse(run.finished_at) - Date.parse(newest.captured_at) < LAST_MS || isStored(run, now);
}

/** Whether nothing more of the recording will come. */
function isStored(run: RunRead, now: number): boolean {
  return run.finished_at !== null && now - Date.parse(run.finished_at) > PATIENCE_MS;
}

function absent(run: RunRead, ended: boolean, looking: boolean) {
  if (ended) {
    return looking
      ? { title: "The recording is looked for", detail: "Its last picture appears here.", busy: true }
      : { title: "The browser is closed", detail: "The run has ended." };
  }
  if (run.status === "queued") {
    const place = run.position ? `It has place ${run.position} in the queue.` : "It starts as soon as there is room.";
    return { title: "The run waits for a browser", detail: place, busy: true };
  }
  if (run.status === "running") return { title: "The browser starts", detail: "Its screen appears here in a moment.", busy: true };
  return { title: "The browser is put away", detail: "The run waits; its page opens again when it goes on." };
}
