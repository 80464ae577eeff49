"use client";

import { keepPreviousData, type QueryKey, useInfiniteQuery, type UseInfiniteQueryResult } from "@tanstack/react-query";
import type { ReactNode } from "react";

import type { Page } from "@/lib/client";

import { Button } from "./ui/button";
import { Rows } from "./ui/page";
import { Failure, Skeletons } from "./ui/states";

type ListQuery<T> = UseInfiniteQueryResult<T[]>;

interface ListOptions<T> {
  enabled?: boolean;
  staleTime?: number;
  refetchInterval?: number | ((items: T[]) => number | false);
  /** Which of the items belong to it: what an event has changed may do so no more. */
  where?: (item: T) => boolean;
}

/** A list of the API, page by page; `read` gets the cursor of the page that is wanted. With other filters the items before stay until theirs come. */
export function useList<T>(
  queryKey: QueryKey,
  read: (cursor: string | undefined) => Promise<Page<T>>,
  { enabled, staleTime, refetchInterval: every, where = () => true }: ListOptions<T> = {},
): ListQuery<T> {
  return useInfiniteQuery({
    queryKey,
    queryFn: ({ pageParam }) => read(pageParam),
    initialPageParam: undefined as string | undefined,
    getNextPageParam: (last: Page<T>) => last.next_cursor ?? undefined,
    select: ({ pages }) => pages.flatMap((page) => page.data.filter(where)),
    placeholderData: keepPreviousData,
    enabled,
    staleTime,
    refetchInterval:
      typeof every === "function"
        ? ({ state }) => every(state.data?.pages.flatMap((page) => page.data) ?? [])
        : every,
  });
}

interface ListProps<T> {
  query: ListQuery<T>;
  /** What the rows are, for those who do not see the heading. */
  label: string;
  /** What it says when they cannot be read. */
  failed: string;
  empty: ReactNode;
  /** The height of a row, so that nothing jumps. */
  row?: string;
  children: (item: T) => ReactNode;
}

/** Rows, or what stands in their place while they come, when there are none, and when something went wrong. */
export function List<T extends { id: string }>({ query, label, failed, empty, row = "h-16", children }: ListProps<T>) {
  if (query.isPending) return <Skeletons className={row} />;
  if (!query.data) {
    return <Failure title={failed} error={query.error ?? new Error("Nothing came back.")} retry={() => void query.refetch()} />;
  }
  if (query.data.length === 0 && query.isPlaceholderData) return <Skeletons className={row} />;
  if (query.data.length === 0 && !query.hasNextPage) return empty;
  return (
    <div className="flex flex-col gap-3">
      {query.data.length > 0 && <Rows label={label}>{query.data.map((item) => <li key={item.id}>{children(item)}</li>)}</Rows>}
      <LoadMore query={query} />
    </div>
  );
}

export function LoadMore({ query }: { query: Pick<UseInfiniteQueryResult, "hasNextPage" | "isFetchingNextPage" | "fetchNextPage"> }) {
  if (!query.hasNextPage) return null;
  return (
    <Button className="self-center" busy={query.isFetchingNextPage} onClick={() => void query.fetchNextPage()}>
      Load more
    </Button>
  );
}
