"use client";

import { Pause, Play, Radio, SkipBack, SkipForward } from "lucide-react";
import { useEffect, useMemo, useRef, useState } from "react";

import { Button } from "@/components/ui/button";
import type { FrameRead, StepRead } from "@/lib/api";

import { framePath, playTimes } from "./frames";
import { loadPicture } from "./pictures";

const AHEAD = 4;
const BEHIND = 2;

interface PlayerProps {
  runId: string;
  frames: FrameRead[];
  steps: StepRead[];
  /** The frame that is shown; null is what happens now. */
  current: number | null;
  onSeek: (number: number) => void;
  /** Where there is something live to go back to. */
  onLive?: () => void;
}

/** Goes through a recording by hand or at its own pace. */
export function Player({ runId, frames, steps, current, onSeek, onLive }: PlayerProps) {
  const [playing, setPlaying] = useState(false);
  const times = useMemo(() => playTimes(frames), [frames]);
  const last = frames.length - 1;
  const place = current === null ? last : Math.min(Math.max(frames.findIndex((frame) => frame.number >= current), 0), last);
  const frame = frames[place];
  const total = times[last] ?? 0;
  const seek = (to: number) => {
    const found = frames[Math.min(Math.max(to, 0), last)];
    if (found) onSeek(found.number);
  };

  const step = useRef(seek);
  useEffect(() => {
    step.current = seek;
  });
  const atEnd = place >= last;
  const active = playing && !atEnd;
  const wait = (times[place + 1] ?? 0) - (times[place] ?? 0);
  useEffect(() => {
    if (!active) return;
    const timer = setTimeout(() => step.current(place + 1), Math.max(wait, 40));
    return () => clearTimeout(timer);
  }, [active, place, wait]);

  useEffect(() => {
    if (current === null) return;
    for (const near of frames.slice(Math.max(place - BEHIND, 0), place + AHEAD + 1)) {
      void loadPicture(framePath(runId, near.number)).catch(() => undefined);
    }
  }, [runId, frames, place, current]);

  const marks = useMemo(() => stepMarks(frames, times), [frames, times]);
  if (!frame) return null;
  const elapsed = Date.parse(frame.captured_at) - Date.parse(frames[0]?.captured_at ?? frame.captured_at);
  const title = steps.find((each) => each.number === frame.step)?.title;
  const where = frame.step === null ? "between steps" : `step ${frame.step}`;
  return (
    <div className="flex items-center gap-1 border-t border-line px-2 py-1.5">
      <Button look="ghost" size="icon" aria-label="Previous picture" title="Previous picture" disabled={place <= 0} onClick={() => seek(place - 1)}>
        <SkipBack />
      </Button>
      <Button
        look="ghost"
        size="icon"
        aria-label={active ? "Pause the recording" : "Play the recording"}
        title={active ? "Pause" : "Play"}
        onClick={() => {
          setPlaying(!active);
          if (!active && (atEnd || current === null)) seek(0);
        }}
      >
        {active ? <Pause /> : <Play />}
      </Button>
      <Button look="ghost" size="icon" aria-label="Next picture" title="Next picture" disabled={current === null || atEnd} onClick={() => seek(place + 1)}>
        <SkipForward />
      </Button>
      <Track
        position={current === null ? 1 : total > 0 ? (times[place] ?? 0) / total : 1}
        marks={marks.map(({ at, number }) => ({ at: total > 0 ? at / total : 0, number }))}
        text={`${clock(elapsed)}, ${where}`}
        onMove={(fraction) => {
          setPlaying(false);
          seek(nearest(times, fraction * total));
        }}
        onStep={(by) => {
          setPlaying(false);
          seek(by === Infinity ? last : by === -Infinity ? 0 : place + by);
        }}
      />
      <p className="hidden w-28 shrink-0 truncate text-right text-2xs text-ink-3 tabular-nums sm:block" title={title}>
        {clock(elapsed)} · {where}
      </p>
      {onLive && (
        <Button
          size="sm"
          disabled={current === null}
          onClick={() => {
            setPlaying(false);
            onLive();
          }}
        >
          <Radio />
          <span className="max-sm:sr-only">Back to live</span>
        </Button>
      )}
    </div>
  );
}

interface TrackProps {
  position: number;
  marks: { at: number; number: number }[];
  text: string;
  onMove: (fraction: number) => void;
  onStep: (by: number) => void;
}

const PARTS = 10_000;
const BY_KEY: Record<string, number> = {
  ArrowLeft: -1,
  ArrowDown: -1,
  ArrowRight: 1,
  ArrowUp: 1,
  PageDown: -10,
  PageUp: 10,
  Home: -Infinity,
  End: Infinity,
};

function Track({ position, marks, text, onMove, onStep }: TrackProps) {
  const percent = `${position * 100}%`;
  return (
    <div className="relative h-8 min-w-0 flex-1 rounded-md has-[:focus-visible]:outline-2 has-[:focus-visible]:outline-accent">
      <div aria-hidden className="pointer-events-none absolute inset-x-2 inset-y-0">
        <div className="absolute inset-x-0 top-1/2 h-1 -translate-y-1/2 rounded-full bg-line-strong" />
        <div className="absolute top-1/2 left-0 h-1 -translate-y-1/2 rounded-full bg-accent" style={{ width: percent }} />
        {marks.map((mark) => (
          <span key={mark.number} className="absolute top-1.5 h-1.5 w-px bg-ink-3" style={{ left: `${mark.at * 100}%` }} />
        ))}
        <div className="absolute top-1/2 size-3.5 -translate-1/2 rounded-full border-2 border-surface bg-accent shadow" style={{ left: percent }} />
      </div>
      <input
        type="range"
        aria-label="Place in the recording"
        aria-valuetext={text}
        min={0}
        max={PARTS}
        value={Math.round(position * PARTS)}
        onChange={(event) => onMove(Number(event.target.value) / PARTS)}
        onKeyDown={(event) => {
          const by = BY_KEY[event.key];
          if (by === undefined) return;
          event.preventDefault();
          onStep(by);
        }}
        className="absolute inset-0 size-full cursor-pointer opacity-0"
      />
    </div>
  );
}

/** Where each step begins. */
function stepMarks(frames: FrameRead[], times: number[]): { at: number; number: number }[] {
  const found: { at: number; number: number }[] = [];
  for (const [place, frame] of frames.entries()) {
    if (frame.step !== null && frame.step !== found.at(-1)?.number) found.push({ at: times[place] ?? 0, number: frame.step });
  }
  return found;
}

function nearest(times: number[], at: number): number {
  let best = 0;
  for (const [place, time] of times.entries()) {
    if (Math.abs(time - at) < Math.abs((times[best] ?? 0) - at)) best = place;
  }
  return best;
}

/** “1:05”, “1:02:09”. */
function clock(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  const two = (value: number) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return hours > 0 ? `${hours}:${two(minutes)}:${two(seconds % 60)}` : `${minutes}:${two(seconds % 60)}`;
}
