import { type Json, isObject } from "@/lib/json";

import { stepType } from "./editor/catalog";

type Mark = "same" | "added" | "removed" | "changed";

export interface StepChange {
  mark: Exclude<Mark, "same">;
  /** Its number among its siblings, from 1: in the newer version, or in the older one if it was removed. */
  number: number;
  step: Json;
  fields: FieldChange[];
  inner: { label: string; changes: StepChange[] }[];
}

export interface FieldChange {
  name: string;
  before: unknown;
  after: unknown;
}

/** What lies between two lists of steps: those that came, went, or have other fields. */
export function diffSteps(before: unknown, after: unknown): StepChange[] {
  const [old, now] = [asSteps(before), asSteps(after)];
  const [oldTexts, nowTexts] = [old.map((step) => JSON.stringify(step)), now.map((step) => JSON.stringify(step))];
  const changes: StepChange[] = [];
  let [gone, come]: [number[], number[]] = [[], []];
  const settle = () => {
    // Within a gap, steps of one type are the same step with other fields.
    for (const index of come) {
      const match = gone.findIndex((place) => old[place]?.type === now[index]?.type);
      const [was] = match >= 0 ? gone.splice(match, 1) : [];
      const step = now[index] ?? {};
      changes.push(was === undefined ? plain("added", index, step) : changed(index, old[was] ?? {}, step));
    }
    for (const index of gone) changes.push(plain("removed", index, old[index] ?? {}));
    [gone, come] = [[], []];
  };
  for (const { mark, before: was, after: is } of diffLists(oldTexts, nowTexts)) {
    if (mark === "same") settle();
    else if (mark === "removed") gone.push(was);
    else come.push(is);
  }
  settle();
  return changes;
}

function asSteps(value: unknown): Json[] {
  return Array.isArray(value) ? value.filter(isObject) : [];
}

function plain(mark: "added" | "removed", index: number, step: Json): StepChange {
  return { mark, number: index + 1, step, fields: [], inner: [] };
}

function changed(index: number, before: Json, after: Json): StepChange {
  const holds = stepType(after.type)?.inner ?? [];
  const inner = holds
    .map(({ name, label }) => ({ label, changes: diffSteps(before[name], after[name]) }))
    .filter(({ changes }) => changes.length > 0);
  const fields = diffFields(before, after, holds.map(({ name }) => name));
  return { mark: "changed", number: index + 1, step: after, fields, inner };
}

/** The fields of two objects that differ; inside of objects, by the path to what does. */
export function diffFields(before: Json, after: Json, except: string[] = []): FieldChange[] {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])].filter((name) => !except.includes(name));
  return names.flatMap((name) => diffValues(name, before[name], after[name]));
}

function diffValues(name: string, before: unknown, after: unknown): FieldChange[] {
  if (JSON.stringify(before) === JSON.stringify(after)) return [];
  if (isObject(before) && isObject(after)) return diffFields(before, after).map((field) => ({ ...field, name: `${name}.${field.name}` }));
  if (Array.isArray(before) && Array.isArray(after) && before.length === after.length && after.every(isObject)) {
    return after.flatMap((item, place) => diffValues(`${name}[${place}]`, before[place], item));
  }
  return [{ name, before, after }];
}

export interface ListChange {
  mark: "same" | "added" | "removed";
  /** Place in the older list; -1 where it was added. */
  before: number;
  after: number;
}

const MOST_CELLS = 4_000_000;

/** The shortest way from one list of texts to another, by their longest common subsequence. */
export function diffLists(before: string[], after: string[]): ListChange[] {
  let head = 0;
  while (head < before.length && head < after.length && before[head] === after[head]) head += 1;
  let tail = 0;
  while (tail < before.length - head && tail < after.length - head && before.at(-1 - tail) === after.at(-1 - tail)) tail += 1;
  const [rows, columns] = [before.length - head - tail, after.length - head - tail];
  const changes: ListChange[] = Array.from({ length: head }, (_, place) => ({ mark: "same", before: place, after: place }));
  if (rows * columns > MOST_CELLS) {
    for (let row = 0; row < rows; row += 1) changes.push({ mark: "removed", before: head + row, after: -1 });
    for (let column = 0; column < columns; column += 1) changes.push({ mark: "added", before: -1, after: head + column });
  } else {
    const width = columns + 1;
    const lengths = new Uint32Array((rows + 1) * width);
    const length = (row: number, column: number) => lengths[row * width + column] ?? 0;
    for (let row = rows - 1; row >= 0; row -= 1) {
      for (let column = columns - 1; column >= 0; column -= 1) {
        const same = before[head + row] === after[head + column];
        lengths[row * width + column] = same ? length(row + 1, column + 1) + 1 : Math.max(length(row + 1, column), length(row, column + 1));
      }
    }
    let [row, column] = [0, 0];
    while (row < rows || column < columns) {
      if (row < rows && column < columns && before[head + row] === after[head + column]) {
        changes.push({ mark: "same", before: head + row++, after: head + column++ });
      } else if (row < rows && (column >= columns || length(row + 1, column) >= length(row, column + 1))) {
        changes.push({ mark: "removed", before: head + row++, after: -1 });
      } else {
        changes.push({ mark: "added", before: -1, after: head + column++ });
      }
    }
  }
  for (let place = tail; place > 0; place -= 1) {
    changes.push({ mark: "same", before: before.length - place, after: after.length - place });
  }
  return changes;
}

interface LineRow extends ListChange {
  text: string;
}

const AROUND = 3;

/** Two texts line by line; what is the same far from any change is left out, as a null. */
export function diffLines(before: string, after: string): (LineRow | null)[] {
  const [old, now] = [before.split("\n"), after.split("\n")];
  const rows = diffLists(old, now).map((change) => ({ ...change, text: (change.after >= 0 ? now[change.after] : old[change.before]) ?? "" }));
  const near = new Set<number>();
  rows.forEach(({ mark }, place) => {
    if (mark !== "same") for (let at = place - AROUND; at <= place + AROUND; at += 1) near.add(at);
  });
  const shown: (LineRow | null)[] = [];
  rows.forEach((row, place) => {
    if (near.has(place)) shown.push(row);
    else if (shown.at(-1) !== null) shown.push(null);
  });
  return shown;
}
