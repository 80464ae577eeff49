"use client";

import { useQuery } from "@tanstack/react-query";
import type { ReactNode } from "react";

import { RunStatusBadge } from "@/components/run-status";
import { Card, Section } from "@/components/ui/page";
import { Failure, Skeletons } from "@/components/ui/states";
import { readStats, type RunStatus } from "@/lib/api";
import { call } from "@/lib/client";
import { bytes, duration, number } from "@/lib/format";
import { keys } from "@/lib/keys";

import { Parts } from "./parts";

/** Other people's events do not come over the socket, so these are asked for. */
const EVERY_MS = 5000;
const STATUSES: RunStatus[] = ["queued", "running", "waiting_approval", "waiting_user", "paused", "succeeded", "failed", "cancelled"];
const LONG_QUEUE_SECONDS = 60;

/** The whole system in numbers. */
export function Stats() {
  const stats = useQuery({ queryKey: keys.about("admin", "stats"), queryFn: () => call(readStats()), refetchInterval: EVERY_MS });
  if (stats.error && !stats.data) return <Failure title="The numbers could not be read" error={stats.error} retry={() => void stats.refetch()} />;
  if (!stats.data) return <Skeletons className="h-28" count={3} />;
  const { users, disabled_users, runs, oldest_queued_seconds, computers, stored_bytes, pending_deliveries } = stats.data;
  const isLong = (oldest_queued_seconds ?? 0) > LONG_QUEUE_SECONDS;
  return (
    <div className="flex flex-col gap-6">
      <Section title="Now">
        <Card className="overflow-hidden">
          <dl className="-mr-px -mb-px grid grid-cols-2 sm:grid-cols-3">
            <Figure label="Users" value={number(users)} note={disabled_users > 0 && `${number(disabled_users)} disabled`} />
            <Figure label="Open browsers" value={number(computers)} />
            <Figure
              label="Longest wait in the queue"
              value={oldest_queued_seconds === null ? "None waits" : duration(oldest_queued_seconds * 1000)}
              note={isLong && "Workers do not keep up, or none runs"}
            />
            <Figure label="Runs going on" value={number(runs.running ?? 0)} note={(runs.queued ?? 0) > 0 && `${number(runs.queued ?? 0)} queued`} />
            <Figure label="Stored files" value={bytes(stored_bytes)} />
            <Figure label="Webhook deliveries waiting" value={number(pending_deliveries)} />
          </dl>
        </Card>
      </Section>
      <Section title="Runs by status">
        <Card>
          <ul className="divide-y divide-line">
            {STATUSES.map((status) => (
              <li key={status} className="flex h-10 items-center gap-3 px-4">
                <span className="flex-1">
                  <RunStatusBadge status={status} />
                </span>
                <span className="tabular-nums">{number(runs[status] ?? 0)}</span>
              </li>
            ))}
          </ul>
        </Card>
      </Section>
      <Parts />
    </div>
  );
}

function Figure({ label, value, note }: { label: string; value: string; note?: ReactNode }) {
  return (
    <div className="flex flex-col-reverse justify-end border-r border-b border-line px-4 py-3">
      {note && <dd className="text-xs text-warn">{note}</dd>}
      <dt className="text-xs text-ink-3">{label}</dt>
      <dd className="text-lg font-semibold tracking-tight tabular-nums">{value}</dd>
    </div>
  );
}
