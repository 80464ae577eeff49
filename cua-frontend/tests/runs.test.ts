import { expect, test } from "vitest";

import { frameOfStep, playTimes } from "@/features/recording/frames";
import { elementNames, stepDepth, stepLabel } from "@/features/runs/step-label";
import type { FrameRead, StepRead } from "@/lib/api";
import { ago, bytes, duration, money } from "@/lib/format";

const at = (seconds: number) => new Date(1_800_000_000_000 + seconds * 1000).toISOString();
const now = (seconds: number) => Date.parse(at(seconds));
const frame = (number: number, seconds: number, step: number | null = null) => ({ number, captured_at: at(seconds), step }) as FrameRead;
const step = (more: Partial<StepRead>) => ({ number: 2, type: "click", title: "click", pointer: "/steps/1", url: null, output: null, ...more }) as StepRead;

test("a step's frame is its own last one, else the page as it stood at its end", () => {
  const index = { frames: [frame(1, 0, 1), frame(2, 5, 2), frame(3, 6, 2), frame(4, 9, 4)], whole: true };
  expect(frameOfStep(index, step({ number: 2 }), true, 0)?.number).toBe(3);
  expect(frameOfStep(index, step({ number: 3, finished_at: at(8) }), false, 0)?.number).toBe(3);
  expect(frameOfStep(index, step({ number: 5 }), true, 0)).toBeUndefined();
});

test("what is not stored yet is waited for, but not for ever", () => {
  const index = { frames: [frame(1, 0, 1)], whole: true };
  const late = step({ number: 3, finished_at: at(8) });
  expect(frameOfStep(index, late, false, now(9))).toBeUndefined();
  expect(frameOfStep(index, late, false, now(30))?.number).toBe(1);
  expect(frameOfStep(index, late, true, now(9))?.number).toBe(1);
  expect(frameOfStep({ ...index, whole: false }, late, true, now(9))).toBeUndefined();
});

test("in playing nothing stands still for more than a second", () => {
  expect(playTimes([frame(1, 0), frame(2, 0.4), frame(3, 60), frame(4, 59)])).toEqual([0, 400, 1400, 1400]);
});

test("steps are told as a person says them", () => {
  const names = elementNames([step({ output: '- button "Add \\"x\\"" [ref=ref_7]' }), step({ output: { matches: [{ element: 'link "Home" [ref=ref_8]' }] } })]);
  const told = (more: Partial<StepRead>) => {
    const { verb, what } = stepLabel(step(more), names, { product: "Tea", list: { a: 1 } });
    return `${verb} ${what}`.trim();
  };
  expect(told({ type: "left_click", title: "left click ref_8" })).toBe("Click “Home”");
  expect(told({ type: "click", title: "click aria/Buy now" })).toBe("Click Buy now");
  expect(told({ type: "navigate", title: "navigate {{ params.url }}", url: "http://x/" })).toBe("Open http://x/");
  expect(told({ type: "click", title: "click {{ params.product }} of {{params.list}} {{ params.none }}" })).toBe("Click Tea of {{params.list}} {{ params.none }}");
  expect(told({ type: "if", title: "if", output: { met: true } })).toBe("If yes");
  expect(told({ type: "someNew_step", title: "someNew step" })).toBe("Some new step");
  expect(["/steps/1", "/steps/1/steps/0", "/steps/1/then/0/calls/2"].map(stepDepth)).toEqual([0, 1, 2]);
});

test("times, sizes and money are short", () => {
  const times = [0, 999, 999.9, 1500, 9990, 59_000, 59_900, 119_900, 7_500_000];
  expect(times.map(duration)).toEqual(["0 ms", "999 ms", "1.0 s", "1.5 s", "10 s", "59 s", "1 min 0 s", "2 min 0 s", "2 h 5 min"]);
  expect([0, 999, 1000, 12_345, 1_500_000].map(bytes)).toEqual(["0 B", "999 B", "1.0 kB", "12 kB", "1.5 MB"]);
  expect([0, 0.001, 0.5, 12].map(money)).toEqual(["$0.00", "< $0.01", "$0.50", "$12.00"]);
  expect([at(0), at(-86_400), at(30)].map((iso) => ago(iso, now(0)))).toEqual(["just now", "yesterday", "in a moment"]);
});
