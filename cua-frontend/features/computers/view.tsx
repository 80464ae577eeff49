"use client";

import { useQuery, useQueryClient } from "@tanstack/react-query";
import { useCallback } from "react";

import { BlobImage } from "@/components/blob-image";
import { Failure } from "@/components/ui/states";
import type { EventRead } from "@/lib/api";
import { fetchBlob } from "@/lib/client";
import { useEventListener } from "@/lib/events";
import { keys } from "@/lib/keys";

import { AddressBar } from "./address-bar";

/** What a computer shows, as a picture that is taken anew when something happens on it. */
export function ComputerView({ computerId }: { computerId: string }) {
  const cache = useQueryClient();
  const picture = useQuery({
    queryKey: keys.of("computer", computerId, "screenshot"),
    queryFn: ({ signal }) => fetchBlob(`/api/computers/${computerId}/screenshot`, signal),
  });
  const hear = useCallback(
    ({ resource }: EventRead) => {
      if (resource.id === computerId) void cache.invalidateQueries({ queryKey: keys.of("computer", computerId, "screenshot") });
    },
    [cache, computerId],
  );
  useEventListener(hear);
  return (
    <div className="flex flex-col gap-3">
      <AddressBar computerId={computerId} />
      {picture.data ? (
        <BlobImage blob={picture.data} alt="The page that is open" className="block w-full rounded-xl border border-line" />
      ) : picture.error ? (
        <Failure title="There is no picture" error={picture.error} retry={() => void picture.refetch()} />
      ) : (
        <div aria-busy className="skeleton aspect-video w-full" />
      )}
    </div>
  );
}
