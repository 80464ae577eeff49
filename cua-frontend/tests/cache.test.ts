import { QueryClient } from "@tanstack/react-query";
import { beforeEach, expect, test } from "vitest";

import type { EventRead } from "@/lib/api";
import { applyEvents, put } from "@/lib/cache";
import { keys, type ResourceType } from "@/lib/keys";

let cache: QueryClient;
let seq = 0;

beforeEach(() => {
  cache = new QueryClient();
});

function event(kind: string, type: ResourceType, id: string, data: Record<string, unknown>, runId: string | null = null): EventRead {
  return { seq: ++seq, kind, resource: { type, id }, data, run_id: runId } as unknown as EventRead;
}

const page = (...data: object[]) => ({ data, next_cursor: null });
const isStale = (key: readonly unknown[]) => cache.getQueryState(key)?.isInvalidated;

test("an event changes the thing wherever it is shown", () => {
  cache.setQueryData(keys.one("run", "r1"), { id: "r1", status: "queued", title: "Shop" });
  cache.setQueryData(keys.list("run"), page({ id: "r2" }, { id: "r1", status: "queued" }));
  cache.setQueryData(keys.list("run", { q: "s" }), { pages: [page({ id: "r1", status: "queued" })], pageParams: [null] });
  applyEvents(cache, [event("run.started", "run", "r1", { id: "r1", status: "running" })]);
  expect(cache.getQueryData(keys.one("run", "r1"))).toEqual({ id: "r1", status: "running", title: "Shop" });
  expect(cache.getQueryData(keys.list("run"))).toEqual(page({ id: "r2" }, { id: "r1", status: "running" }));
  expect(cache.getQueryData(keys.list("run", { q: "s" }))).toEqual({ pages: [page({ id: "r1", status: "running" })], pageParams: [null] });
  expect(isStale(keys.list("run"))).toBe(false);
});

test("what no list knows makes the lists of its kind stale, and no others", () => {
  cache.setQueryData(keys.list("run"), page({ id: "r1" }));
  cache.setQueryData(keys.list("file"), page({ id: "f1" }));
  applyEvents(cache, [event("run.created", "run", "r9", { id: "r9" })]);
  expect([isStale(keys.list("run")), isStale(keys.list("file"))]).toEqual([true, false]);
  expect(cache.getQueryData(keys.one("run", "r9"))).toBeUndefined();
});

test("what was deleted is nowhere", () => {
  cache.setQueryData(keys.one("workflow", "w1"), { id: "w1" });
  cache.setQueryData(keys.list("workflow"), page({ id: "w1" }, { id: "w2" }));
  applyEvents(cache, [event("workflow.deleted", "workflow", "w1", {})]);
  expect(cache.getQueryData(keys.one("workflow", "w1"))).toBeUndefined();
  expect(cache.getQueryData(keys.list("workflow"))).toEqual(page({ id: "w2" }));
});

test("an event that came late changes nothing", () => {
  const now = { id: "r1", status: "succeeded", updated_at: "2026-01-01T00:00:02Z" };
  cache.setQueryData(keys.one("run", "r1"), now);
  put(cache, "run", { id: "r1", status: "running", updated_at: "2026-01-01T00:00:01Z" });
  expect(cache.getQueryData(keys.one("run", "r1"))).toEqual(now);
});

test("steps of a run are put into its list once, in the order of their making", () => {
  const steps = keys.of("run", "r1", "steps");
  cache.setQueryData(steps, [{ id: "s1", status: "running" }]);
  applyEvents(cache, [
    event("step.finished", "step", "s1", { id: "s1", status: "succeeded" }, "r1"),
    event("step.started", "step", "s2", { id: "s2", status: "running" }, "r1"),
    event("step.started", "step", "s2", { id: "s2", status: "running" }, "r1"),
    event("step.started", "step", "s3", { id: "s3", status: "running" }, "r2"),
  ]);
  expect(cache.getQueryData(steps)).toEqual([{ id: "s1", status: "succeeded" }, { id: "s2", status: "running" }]);
  expect(cache.getQueryData(keys.of("run", "r2", "steps"))).toBeUndefined(); // not half a list
});

test("an event that was too large for its thing makes it be read", () => {
  const steps = keys.of("run", "r1", "steps");
  cache.setQueryData(keys.one("step", "s1"), { id: "s1" });
  cache.setQueryData(steps, [{ id: "s1" }]);
  applyEvents(cache, [event("step.finished", "step", "s1", { truncated: true }, "r1")]);
  expect([isStale(keys.one("step", "s1")), isStale(steps)]).toEqual([true, true]);
});

test("a run learns of its computer, and a computer of its page", () => {
  cache.setQueryData(keys.one("run", "r1"), { id: "r1", computer_id: null });
  cache.setQueryData(keys.one("computer", "c1"), { id: "c1", url: "about:blank", title: "" });
  applyEvents(cache, [
    event("computer.opened", "computer", "c1", { id: "c1", url: "about:blank" }, "r1"),
    event("computer.navigated", "computer", "c1", { tab: "t1", url: "http://x/", title: "X" }, "r1"),
  ]);
  expect(cache.getQueryData(keys.one("run", "r1"))).toEqual({ id: "r1", computer_id: "c1" });
  expect(cache.getQueryData(keys.one("computer", "c1"))).toEqual({ id: "c1", url: "http://x/", title: "X" });
});
