import type { InfiniteData, QueryClient } from "@tanstack/react-query";

import type { EventRead } from "./api";
import type { Page } from "./client";
import { keys, type ResourceType } from "./keys";

interface Thing {
  id: string;
  [name: string]: unknown;
}

/** An event of the log brings what it is about as the API shows it, so the cache takes it without asking again. */
export function applyEvents(cache: QueryClient, events: EventRead[]): void {
  const stale = new Map<string, readonly unknown[]>();
  const refresh = (key: readonly unknown[]) => stale.set(key.join(), key);
  for (const event of events) {
    const type = event.resource.type as ResourceType;
    const { data } = event;
    if (event.kind.endsWith(".deleted")) {
      cache.removeQueries({ queryKey: keys.one(type, event.resource.id) });
      changeLists(cache, type, (items) => items.filter((item) => item.id !== event.resource.id));
      continue;
    }
    // A run learns of its computer by the computer alone.
    if (type === "computer" && event.run_id) put(cache, "run", { id: event.run_id, computer_id: event.resource.id });
    const below = event.run_id && BELOW_RUNS[type];
    if (data.id === event.resource.id) {
      const thing = data as Thing;
      if (!put(cache, type, thing)) refresh(keys.lists(type));
      if (below) putBelow(cache, keys.of("run", event.run_id ?? "", below), thing);
    } else if (data.truncated === true) {
      refresh(keys.one(type, event.resource.id));
      refresh(keys.lists(type));
      if (below) refresh(keys.of("run", event.run_id ?? "", below));
    }
    if (event.kind === "computer.navigated") put(cache, "computer", { id: event.resource.id, url: data.url, title: data.title });
    if (event.run_id && data.kind === "recording") refresh(keys.of("run", event.run_id, "frames"));
  }
  for (const queryKey of stale.values()) void cache.invalidateQueries({ queryKey });
}

/** What is read as a list of one run: `keys.of("run", id, …)`, an array in the order of its making. */
const BELOW_RUNS: Partial<Record<ResourceType, string>> = {
  step: "steps",
  message: "messages",
  approval: "approvals",
  file: "files",
};

function putBelow(cache: QueryClient, key: readonly unknown[], thing: Thing): void {
  cache.setQueryData<Thing[]>(key, (old) => {
    if (!old) return old;
    const at = old.findIndex((item) => item.id === thing.id);
    return at < 0 ? [...old, thing] : old.map((item, place) => (place === at ? newer(item, thing) : item));
  });
}

/** Put a thing where it is shown; false when some list may lack it. */
export function put(cache: QueryClient, type: ResourceType, thing: Thing): boolean {
  cache.setQueryData<Thing>(keys.one(type, thing.id), (old) => (old ? newer(old, thing) : undefined));
  let known = false;
  changeLists(cache, type, (items) =>
    items.map((item) => {
      if (item.id !== thing.id) return item;
      known = true;
      return newer(item, thing);
    }),
  );
  return known;
}

/** Fields that events leave out stay as they were; an event that came late changes nothing. */
function newer(old: Thing, thing: Thing): Thing {
  const [was, is] = [old.updated_at, thing.updated_at];
  return typeof was === "string" && typeof is === "string" && is < was ? old : { ...old, ...thing };
}

function changeLists(cache: QueryClient, type: ResourceType, change: (items: Thing[]) => Thing[]): void {
  cache.setQueriesData<InfiniteData<Page<Thing>> | Page<Thing>>({ queryKey: keys.lists(type) }, (old) => {
    if (!old) return old;
    if ("pages" in old) return { ...old, pages: old.pages.map((page) => ({ ...page, data: change(page.data) })) };
    return { ...old, data: change(old.data) };
  });
}
