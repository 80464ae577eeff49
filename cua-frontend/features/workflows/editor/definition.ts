import { type Json, isObject } from "@/lib/json";

import { stepType } from "./catalog";

/** Where a step stands: `/steps/0/then/1`, as the server's JSON pointers say it. */
export type Pointer = string;

export function stepsAt(definition: Json, list: Pointer): Json[] {
  const found = valueAt(definition, list);
  return Array.isArray(found) ? found.filter(isObject) : [];
}

export function stepAt(definition: Json, at: Pointer): Json | null {
  const found = valueAt(definition, at);
  return isObject(found) ? found : null;
}

function valueAt(root: unknown, pointer: Pointer): unknown {
  return parts(pointer).reduce<unknown>((value, part) => {
    if (Array.isArray(value)) return value[Number(part)];
    return isObject(value) ? value[part] : undefined;
  }, root);
}

function parts(pointer: Pointer): string[] {
  return pointer.split("/").slice(1);
}

/** The list that a step stands in, and its place in it. */
export function placeOf(at: Pointer): { list: Pointer; index: number } {
  const cut = at.lastIndexOf("/");
  return { list: at.slice(0, cut), index: Number(at.slice(cut + 1)) };
}

function changed(root: unknown, path: string[], change: (value: unknown) => unknown): unknown {
  const [first, ...rest] = path;
  if (first === undefined) return change(root);
  if (Array.isArray(root)) return root.map((item: unknown, place) => (place === Number(first) ? changed(item, rest, change) : item));
  const old = isObject(root) ? root : {};
  return { ...old, [first]: changed(old[first], rest, change) };
}

function changeList(definition: Json, list: Pointer, change: (steps: unknown[]) => unknown[]): Json {
  return changed(definition, parts(list), (value) => change(Array.isArray(value) ? value : [])) as Json;
}

export function replaceStep(definition: Json, at: Pointer, step: Json): Json {
  return changed(definition, parts(at), () => step) as Json;
}

export function insertStep(definition: Json, list: Pointer, index: number, step: Json): Json {
  return changeList(definition, list, (steps) => steps.toSpliced(index, 0, step));
}

export function removeStep(definition: Json, at: Pointer): Json {
  const { list, index } = placeOf(at);
  return changeList(definition, list, (steps) => steps.toSpliced(index, 1));
}

/** Moves a step to before the `index`th of a list; answers with where it stands then, or null where it cannot go. */
export function moveStep(definition: Json, from: Pointer, list: Pointer, index: number): { definition: Json; at: Pointer } | null {
  const step = stepAt(definition, from);
  if (!step || list.startsWith(`${from}/`)) return null;
  const was = placeOf(from);
  const target = was.list === list && was.index < index ? index - 1 : index;
  const without = removeStep(definition, from);
  // A list further down the same list has moved up with what was taken out before it.
  const shifted = list.startsWith(`${was.list}/`) ? shift(list, was) : list;
  return { definition: insertStep(without, shifted, target, step), at: `${shifted}/${target}` };
}

function shift(list: Pointer, was: { list: Pointer; index: number }): Pointer {
  const rest = list.slice(was.list.length + 1).split("/");
  const place = Number(rest[0]);
  return place > was.index ? [was.list, String(place - 1), ...rest.slice(1)].join("/") : list;
}

/** A step with a field set, or without it where the value is undefined; the other fields stay in their order. */
export function withField(step: Json, name: string, value: unknown): Json {
  if (value !== undefined) return { ...step, [name]: value };
  return Object.fromEntries(Object.entries(step).filter(([key]) => key !== name));
}

export function countSteps(steps: unknown): number {
  if (!Array.isArray(steps)) return 0;
  return steps.reduce((count: number, step: unknown) => {
    if (!isObject(step)) return count;
    const inner = stepType(step.type)?.inner ?? [];
    return count + 1 + inner.reduce((sum, { name }) => sum + countSteps(step[name]), 0);
  }, 0);
}

/** What a step does, in one line. */
export function summary(step: Json): string {
  const said = (name: string): string => (typeof step[name] === "string" || typeof step[name] === "number" ? String(step[name]) : "");
  switch (step.type) {
    case "navigate":
      return said("url");
    case "setViewport":
      return `${said("width")} × ${said("height")}`;
    case "emulateNetworkConditions":
      return `${said("latency")} ms`;
    case "change":
      return [element(step), said("value") && `“${said("value")}”`].filter(Boolean).join(" ← ");
    case "keyDown":
    case "keyUp":
      return said("key");
    case "scroll":
      return `to ${said("x") || 0}, ${said("y") || 0}`;
    case "waitForExpression":
      return said("expression");
    case "close":
      return said("target");
    case "extract":
      return `${said("name")}: ${Object.keys(isObject(step.fields) ? step.fields : {}).join(", ")}`;
    case "screenshot":
    case "customStep":
      return said("name");
    case "download":
      return [said("name"), element(step) || said("url")].filter(Boolean).join(": ");
    case "approve":
    case "pause":
      return said("title");
    case "agent":
      return said("task");
    case "forEach":
      return `${typeof step.items === "string" ? step.items : "list"} as ${said("as") || "item"}`;
    case "if":
      if (step.expression !== undefined) return said("expression");
      if (step.value !== undefined) return [asShort(step.value), said("operator"), asShort(step.than)].filter(Boolean).join(" ");
      return element(step);
    default:
      return element(step);
  }
}

function asShort(value: unknown): string {
  return value === undefined ? "" : typeof value === "string" ? value : JSON.stringify(value);
}

/** The first of the selectors, without the prefix that says how it is looked up. */
function element(step: Json): string {
  const first: unknown = Array.isArray(step.selectors) ? step.selectors[0] : undefined;
  const told = Array.isArray(first) ? first.join(" › ") : typeof first === "string" ? first : "";
  return told.replace(/^(aria|text)\//, "").replace(/\[role="[^"]*"\]/g, "");
}

/** `/steps/2/then/0/url` as “Step 3, then 1: url”. */
export function inWords(pointer: Pointer): string {
  const [root, ...rest] = parts(pointer);
  if (root !== "steps" || rest.length === 0) return pointer === "" ? "The whole" : parts(pointer).join(" › ");
  const words = [`Step ${Number(rest.shift()) + 1}`];
  while (rest.length > 1 && ["then", "else", "steps"].includes(rest[0] ?? "") && /^\d+$/.test(rest[1] ?? "")) {
    const [name, index] = rest.splice(0, 2);
    words.push(`${name === "steps" ? "step" : name} ${Number(index) + 1}`);
  }
  return words.join(", ") + (rest.length > 0 ? `: ${rest.join(" › ")}` : "");
}

// What the server says is wrong -------------------------------------------------------------------

export interface Wrong {
  pointer: string;
  message: string;
}

export const NO_PROBLEMS: Wrong[] = [];

/** What is wrong at a place or below it. */
export function wrongBelow(problems: Wrong[], pointer: Pointer): Wrong[] {
  return problems.filter((problem) => problem.pointer === pointer || problem.pointer.startsWith(`${pointer}/`));
}

/** What is wrong with a step itself: not with the steps that it holds. */
export function wrongWithStep(problems: Wrong[], at: Pointer, step: Json): Wrong[] {
  const inner = stepType(step.type)?.inner ?? [];
  return wrongBelow(problems, at).filter(({ pointer }) => !inner.some(({ name }) => pointer.startsWith(`${at}/${name}/`)));
}
