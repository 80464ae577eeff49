"use client";

import { useQuery } from "@tanstack/react-query";
import { RotateCw } from "lucide-react";

import { CopyButton } from "@/components/copy-button";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Failure, Skeletons } from "@/components/ui/states";
import { type AttemptRead, readDelivery } from "@/lib/api";
import { call } from "@/lib/client";
import { counted, dateTime, duration } from "@/lib/format";
import { keys } from "@/lib/keys";

import { DeliveryBadge } from "./delivery-badge";

interface DeliveryDialogProps {
  id: string;
  onClose: () => void;
  onAgain: () => void;
}

/** One delivery: what was sent, and what each try came to. */
export function DeliveryDialog({ id, onClose, onAgain }: DeliveryDialogProps) {
  const delivery = useQuery({
    queryKey: keys.one("delivery", id),
    queryFn: () => call(readDelivery({ path: { id } })),
    staleTime: 0,
    refetchInterval: ({ state }) => state.data?.status === "pending" && 3000,
  });
  const { data } = delivery;
  const body = data && pretty(data.payload);
  return (
    <Dialog
      open
      wide
      onOpenChange={(open) => open || onClose()}
      title={data?.kind ?? "Delivery"}
      description={data ? `${dateTime(data.created_at)} · webhook-id ${data.event_id}` : undefined}
      footer={
        data &&
        data.status !== "pending" && (
          <Button
            onClick={() => {
              onAgain();
              onClose();
            }}
          >
            <RotateCw /> Send again
          </Button>
        )
      }
    >
      {delivery.error ? (
        <Failure title="The delivery could not be read" error={delivery.error} retry={() => void delivery.refetch()} />
      ) : !data ? (
        <Skeletons className="h-24" count={2} />
      ) : (
        <div className="flex flex-col gap-5">
          <div className="flex items-center gap-3 text-sm">
            <DeliveryBadge status={data.status} />
            <span className="text-ink-3">
              {counted(data.attempt, "try", "tries")}
              {data.next_at && `, the next at ${dateTime(data.next_at)}`}
            </span>
          </div>
          <section className="flex flex-col gap-2">
            <div className="flex items-center">
              <h3 className="flex-1 text-xs font-medium text-ink-2">Request body</h3>
              <CopyButton look="ghost" label="Copy" text={data.payload} />
            </div>
            <pre tabIndex={0} aria-label="Request body" className={CODE}>
              {body}
            </pre>
          </section>
          <section className="flex flex-col gap-2">
            <h3 className="text-xs font-medium text-ink-2">Tries, the newest first</h3>
            {data.attempts.length === 0 && <p className="text-sm text-ink-3">It was not tried yet.</p>}
            {data.attempts.toReversed().map((attempt, place) => (
              <Attempt key={attempt.at} attempt={attempt} open={place === 0} />
            ))}
          </section>
        </div>
      )}
    </Dialog>
  );
}

const CODE = "max-h-72 overflow-auto rounded-md bg-sunken p-3 font-mono text-xs leading-5 break-words whitespace-pre-wrap";

function Attempt({ attempt, open }: { attempt: AttemptRead; open: boolean }) {
  const good = attempt.status !== null && attempt.status >= 200 && attempt.status < 300;
  return (
    <details open={open} className="rounded-lg border border-line">
      <summary className="flex cursor-pointer flex-wrap items-center gap-x-3 gap-y-1 px-3 py-2 text-sm">
        <Badge look={good ? "good" : "bad"}>{attempt.status ?? "No answer"}</Badge>
        <span className="flex-1">{dateTime(attempt.at)}</span>
        <span className="text-xs text-ink-3 tabular-nums">{duration(attempt.duration_ms)}</span>
      </summary>
      <div className="flex flex-col gap-3 border-t border-line px-3 py-3">
        {attempt.error && <p className="text-sm break-words text-bad">{attempt.error}</p>}
        <Headers title="Request headers" headers={attempt.request_headers} />
        {attempt.status !== null && <Headers title="Response headers" headers={attempt.response_headers} />}
        {attempt.status !== null && <p className="text-xs text-ink-3">Bodies of answers are not kept.</p>}
      </div>
    </details>
  );
}

function Headers({ title, headers }: { title: string; headers: Record<string, string> }) {
  const lines = Object.entries(headers);
  return (
    <div>
      <h4 className="mb-1 text-xs font-medium text-ink-2">{title}</h4>
      <pre className={CODE}>{lines.length > 0 ? lines.map(([name, value]) => `${name}: ${value}`).join("\n") : "none"}</pre>
    </div>
  );
}

function pretty(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 2);
  } catch {
    return json;
  }
}
