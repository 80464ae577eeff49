import {
  AppWindow, ArrowDownToLine, ArrowUpFromLine, Bot, Braces, Camera, CircleHelp, CircleStop, Clock, Flag, Globe, Hand, Keyboard, ListTree,
  type LucideIcon, MousePointer2, MousePointerClick, Move, Pause, Pencil, Repeat, Search, Split, Table2, TextCursorInput,
} from "lucide-react";

import type { StepRead } from "@/lib/api";
import { isObject, type Json } from "@/lib/json";

const KINDS: Record<string, [LucideIcon, string]> = {
  agent: [Bot, "Agent"],
  approve: [Hand, "Ask for approval"],
  ask_user: [CircleHelp, "Ask you"],
  change: [TextCursorInput, "Fill in"],
  click: [MousePointerClick, "Click"],
  close: [CircleStop, "Close tab"],
  doubleClick: [MousePointerClick, "Double click"],
  double_click: [MousePointerClick, "Double click"],
  download: [ArrowDownToLine, "Download"],
  drag: [Move, "Drag"],
  extract: [Table2, "Extract"],
  find: [Search, "Find"],
  finish: [Flag, "Finish"],
  forEach: [Repeat, "For each"],
  form_input: [TextCursorInput, "Fill in"],
  get_page_text: [ListTree, "Read the text"],
  hover: [MousePointer2, "Hover"],
  if: [Split, "If"],
  key: [Keyboard, "Press"],
  keyDown: [Keyboard, "Press"],
  keyUp: [Keyboard, "Let go"],
  left_click: [MousePointerClick, "Click"],
  left_click_drag: [Move, "Drag"],
  navigate: [Globe, "Open"],
  pause: [Pause, "Wait for you"],
  read_page: [ListTree, "Read the page"],
  request_approval: [Hand, "Ask for approval"],
  right_click: [MousePointerClick, "Right click"],
  screenshot: [Camera, "Screenshot"],
  scroll: [MousePointer2, "Scroll"],
  setViewport: [AppWindow, "Set size"],
  type: [Keyboard, "Type"],
  upload: [ArrowUpFromLine, "Upload"],
  wait: [Clock, "Wait"],
  waitForElement: [Clock, "Wait for element"],
  waitForExpression: [Braces, "Wait for expression"],
};

export interface StepLabel {
  icon: LucideIcon;
  verb: string;
  /** What it is done to. */
  what: string;
}

/** What is done, as a person says it. */
export function stepVerb(type: string): string {
  return KINDS[type]?.[1] ?? sentence(type);
}

const PARAM = /\{\{\s*params\.([\w-]+)\s*\}\}/g;

/** A step as a person says it, with the run's params; `names` are those of the elements that models call by refs. */
export function stepLabel(step: StepRead, names: Map<string, string>, params: Json = {}): StepLabel {
  const [icon, verb] = KINDS[step.type] ?? [Pencil, sentence(step.type)];
  const typed = step.type.replaceAll("_", " ");
  let what = step.title.startsWith(typed) ? step.title.slice(typed.length).trim() : step.title;
  if (step.type === "agent" && what === "result") what = "";
  // A link is told by the step's own address where the title only has its placeholder.
  if (step.type === "navigate" && what.includes("{{") && step.url) what = step.url;
  if (step.type === "if" && isObject(step.output)) what = step.output.met === true ? "yes" : "no";
  what = what.replace(PARAM, (placeholder, name: string) => (isObject(params[name]) ? placeholder : String(params[name] ?? placeholder)));
  what = what.replace(/\bref_\w+/g, (ref) => names.get(ref) ?? "").replace(/\baria\/(?=\S)/g, "").replace(/\[role="[^"]*"\]/g, "");
  return { icon, verb, what: what.trim() };
}

function sentence(type: string): string {
  const words = type.replaceAll("_", " ").replace(/([a-z])([A-Z])/g, "$1 $2").toLowerCase();
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** How deep a step stands in loops, branches and agents. */
export function stepDepth(pointer: string): number {
  return Math.max(pointer.split("/").filter((part) => /^(steps|then|else|calls)$/.test(part)).length - 1, 0);
}

const ELEMENT = /"((?:[^"\\]|\\.)+)"[^\n]*?\[ref=(ref_\w+)\]/g;

/** The names of elements that the steps have met, by their refs. */
export function elementNames(steps: StepRead[]): Map<string, string> {
  const found = new Map<string, string>();
  const read = (text: string) => {
    for (const [, name, ref] of text.matchAll(ELEMENT)) if (name && ref) found.set(ref, `“${name}”`);
  };
  for (const { output } of steps) {
    if (typeof output === "string") read(output);
    else if (isObject(output) && Array.isArray(output.matches)) {
      for (const match of output.matches) if (isObject(match) && typeof match.element === "string") read(match.element);
    }
  }
  return found;
}
