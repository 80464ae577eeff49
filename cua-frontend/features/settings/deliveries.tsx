"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { RotateCw, Send } from "lucide-react";
import { useState } from "react";

import { Choice } from "@/components/filter-bar";
import { List, useList } from "@/components/list";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Section } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { type DeliveryRead, listDeliveries, redeliver } from "@/lib/api";
import { put } from "@/lib/cache";
import { call, page } from "@/lib/client";
import { counted } from "@/lib/format";
import { keys } from "@/lib/keys";

import { DeliveryDialog } from "./delivery";
import { DeliveryBadge } from "./delivery-badge";

const STATUSES = [
  ["all", "All"],
  ["pending", "Pending"],
  ["succeeded", "Succeeded"],
  ["failed", "Failed"],
] as const;
/** Single tries are no events, so those that are on their way are asked for. */
const PENDING_MS = 3000;

/** What was sent to a webhook, the newest first. */
export function Deliveries({ webhookId }: { webhookId: string }) {
  const cache = useQueryClient();
  const [status, setStatus] = useState<(typeof STATUSES)[number][0]>("all");
  const [open, setOpen] = useState<string | null>(null);
  const filters = status === "all" ? {} : { status };
  const deliveries = useList<DeliveryRead>(
    keys.list("delivery", { webhook_id: webhookId, ...filters }),
    (cursor) => page(listDeliveries({ path: { id: webhookId }, query: { ...filters, cursor } })),
    { refetchInterval: (items) => items.some((each) => each.status === "pending") && PENDING_MS },
  );
  const again = useMutation({
    mutationFn: (id: string) => call(redeliver({ path: { id } })),
    onSuccess: (delivery) => {
      put(cache, "delivery", { ...delivery });
      return cache.invalidateQueries({ queryKey: keys.lists("delivery") });
    },
    onError: (error) => toast.failed("It was not sent again", error),
  });
  return (
    <Section title="Deliveries" actions={<Choice label="Status" options={STATUSES} value={status} onChange={setStatus} />}>
      <List
        query={deliveries}
        label="Deliveries"
        failed="The deliveries could not be read"
        row="h-14"
        empty={
          <Empty icon={<Send />} title={status === "all" ? "Nothing was sent yet" : "None of these"}>
            {status === "all" ? "Send a test to see whether your server hears it." : "No delivery has this status."}
          </Empty>
        }
      >
        {(delivery) => (
          <div className="flex min-h-14 flex-wrap items-center gap-x-3 gap-y-1 px-4 py-2">
            <DeliveryBadge status={delivery.status} />
            <button type="button" onClick={() => setOpen(delivery.id)} className="min-w-0 flex-1 truncate text-left font-mono max-sm:order-first max-sm:basis-full text-xs underline-offset-2 hover:underline">
              {delivery.kind}
            </button>
            <span className="text-xs text-ink-3 max-sm:flex-1">
              {counted(delivery.attempt, "try", "tries")}
              {delivery.next_at && delivery.attempt > 0 && (
                <>
                  , next <Ago at={delivery.next_at} />
                </>
              )}
              {" · "}
              <Ago at={delivery.created_at} />
            </span>
            {delivery.status !== "pending" && (
              <Button
                size="icon"
                look="ghost"
                aria-label={`Send ${delivery.kind} again`}
                title="Send again"
                disabled={again.isPending && again.variables === delivery.id}
                onClick={() => again.mutate(delivery.id)}
              >
                <RotateCw />
              </Button>
            )}
          </div>
        )}
      </List>
      {open && <DeliveryDialog id={open} onClose={() => setOpen(null)} onAgain={() => again.mutate(open)} />}
    </Section>
  );
}
