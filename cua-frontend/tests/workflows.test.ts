import { expect, test } from "vitest";

import { cronOf, RHYTHMS, whenOf } from "@/features/schedules/cron";
import { diffLines, diffLists, diffSteps } from "@/features/workflows/diff";
import { lineOfPointer, mapJson } from "@/features/workflows/editor/json-text";
import { parametersNamedIn, parametersOf, rawParams, readParams } from "@/features/workflows/parameters";

test("values are found at their lines by JSON pointer", () => {
  const map = mapJson('{\n  "a": [\n    1,\n    {"b/c~": "x\\n"}\n  ]\n}');
  expect(map.error).toBeNull();
  expect(map.value).toEqual({ a: [1, { "b/c~": "x\n" }] });
  expect(["", "/a", "/a/0", "/a/1/b~1c~0", "/a/7/nothing"].map((pointer) => lineOfPointer(map, pointer))).toEqual([1, 2, 3, 4, 2]);
});

test.each([
  ["", 1, "A value is expected here, not the end"],
  ['{\n"a": 1,\n}', 3, 'A name in "…" is expected here, not “}”'],
  ['{"a" 1}', 1, "A colon is expected here, not “1”"],
  ['[1\n2]', 2, "A comma or ] is expected here, not “2”"],
  ['{"a": "x', 1, "A value is expected here"],
  ["[01]", 1, "A comma or ] is expected here, not “1”"],
  ["[1] x", 1, "The end is expected here, not “x”"],
  ['["\u0001"]', 1, "The text is not closed"],
])("%j is told to be wrong at its line", (text, line, message) => {
  const { error } = mapJson(text);
  expect(error?.line).toBe(line);
  if (text !== '{"a": "x') expect(error?.message).toBe(message);
  expect(() => JSON.parse(text) as unknown).toThrow();
});

test("the way from one list to another keeps all that both have", () => {
  const [before, after] = [[..."the quick fox"], [..."a quiet fox!"]];
  const changes = diffLists(before, after);
  expect(changes.filter(({ mark }) => mark !== "added").map((change) => before[change.before]).join("")).toBe("the quick fox");
  expect(changes.filter(({ mark }) => mark !== "removed").map((change) => after[change.after]).join("")).toBe("a quiet fox!");
  expect(changes.filter(({ mark }) => mark === "same").map((change) => before[change.before]).join("")).toBe(" qui fox");
  const large = Array.from({ length: 3000 }, (_, place) => String(place));
  expect(diffLists(large, large.map((line) => `${line}x`))).toHaveLength(6000);
});

test("lines far from any change are left out", () => {
  const lines = Array.from({ length: 30 }, (_, place) => `line ${place}`);
  const rows = diffLines(lines.join("\n"), lines.with(15, "other").join("\n"));
  expect(rows.map((row) => row && `${row.mark[0]} ${row.text}`)).toEqual([
    null, "s line 12", "s line 13", "s line 14", "r line 15", "a other", "s line 16", "s line 17", "s line 18", null,
  ]);
});

test("steps of one type in one place are one step that changed", () => {
  const before = [{ type: "navigate", url: "a" }, { type: "click", selectors: ["x"] }, { type: "close" }];
  const after = [{ type: "navigate", url: "b" }, { type: "click", selectors: ["x"] }, { type: "pause" }];
  expect(diffSteps(before, after).map(({ mark, number, fields }) => [mark, number, fields])).toEqual([
    ["changed", 1, [{ name: "url", before: "a", after: "b" }]],
    ["added", 3, []],
    ["removed", 3, []],
  ]);
  const loop = (url: string) => [{ type: "forEach", steps: [{ type: "navigate", url }] }];
  const [change] = diffSteps(loop("a"), loop("b"));
  expect(change?.inner.map(({ changes }) => changes.map(({ mark, fields }) => [mark, fields[0]?.name]))).toEqual([[["changed", "url"]]]);
});

test("a form's texts become the params that the schema declares", () => {
  const parameters = parametersOf({
    properties: {
      city: { type: "string", default: "Bern" }, count: { type: "integer" }, price: { type: "number" }, sure: { type: "boolean" },
      size: { enum: ["s", 7] }, tags: { type: "array" }, when: { type: "string", format: "date" },
    },
    required: ["city", "count"],
  });
  expect(parameters.map(({ name, kind, required }) => [name, kind, required])).toEqual([
    ["city", "text", false], ["count", "integer", true], ["price", "number", false], ["sure", "boolean", false],
    ["size", "choice", false], ["tags", "json", false], ["when", "text", false],
  ]);
  const raw = rawParams(parameters, { count: 2, tags: ["a"] });
  expect(readParams(parameters, raw)).toEqual({ params: { city: "Bern", count: 2, tags: ["a"] }, wrong: {} });
  const all = { ...raw, city: "", price: "1.5", sure: "true", size: "7", when: "2026-01-31" };
  expect(readParams(parameters, all).params).toEqual({ city: "", count: 2, price: 1.5, sure: true, size: 7, tags: ["a"], when: "2026-01-31" });
  const wrong = { count: "1.5", price: "x", tags: "[" };
  expect(readParams(parameters, wrong).wrong).toEqual({
    count: "Give a whole number", price: "Give a number", tags: 'Write a JSON list, as ["a", "b"]',
  });
  expect(readParams(parameters, {}).wrong).toEqual({ count: "This is needed" });
});

test("a recording's own placeholders are its parameters", () => {
  const named = parametersNamedIn({ steps: [{ url: "{{ params.city }}/{{params.n}}" }, { url: "{{ params.city }}{{ secrets.x.y }}" }] });
  expect(named).toEqual({ type: "object", properties: { city: { type: "string" }, n: { type: "string" } }, required: ["city", "n"] });
  expect(parametersNamedIn({ steps: [] })).toBeNull();
});

test("what was chosen as a rhythm is one again", () => {
  const when = { minute: 5, time: "07:30", weekday: 3, day: 28 };
  const crons = RHYTHMS.map(({ id }) => cronOf({ ...when, rhythm: id }, "*/5 * * * *"));
  expect(crons).toEqual(["5 * * * *", "30 7 * * *", "30 7 * * 1-5", "30 7 * * 3", "30 7 28 * *", "*/5 * * * *"]);
  expect(crons.map((cron) => whenOf(cron).rhythm)).toEqual(RHYTHMS.map(({ id }) => id));
  expect(crons.map((cron) => cronOf(whenOf(cron), cron))).toEqual(crons);
  for (const own of ["", "0 8 * *", "60 8 * * *", "0 24 * * *", "0 8 0 * *", "0 8 1 2 *", "0 8 1 * 1", "0 * 1 * *"]) {
    expect(whenOf(own).rhythm).toBe("cron");
  }
});
