"use client";

import { Card, Section } from "@/components/ui/page";
import { Failure, Skeletons } from "@/components/ui/states";
import { cn } from "@/lib/cn";
import { bytes, duration, money, number } from "@/lib/format";

import { MONTH_DAYS, thisMonth, useGoingOn, useUsage } from "./queries";

/** A month has at most 31 days. */

const ALMOST = 0.8;

/** What may be used, and how much of it is. */
export function Limits() {
  const usage = useUsage(MONTH_DAYS);
  const now = useGoingOn();
  if (usage.error) return <Failure title="Your limits could not be read" error={usage.error} retry={() => void usage.refetch()} />;
  if (!usage.data) return <Skeletons count={1} className="h-48" />;
  const { limits, days, stored_bytes } = usage.data;
  const month = thisMonth(days);
  const ms = (seconds: number) => duration(seconds * 1000);
  return (
    <Section title="Limits">
      <Card className="grid gap-x-8 gap-y-5 p-4 sm:grid-cols-2">
        <Limit label="Storage" used={stored_bytes} most={limits.max_storage_bytes} format={bytes} />
        <Limit label="Runs at once" used={now.data?.runs} most={limits.max_runs} format={number} />
        <Limit label="Computers at once" used={now.data?.computers} most={limits.max_computers} format={number} />
        <Limit label="Steps of agents this month" used={month.steps} most={limits.max_month_steps} format={number} />
        <Limit label="Tokens this month" used={month.tokens} most={limits.max_month_tokens} format={number} />
        <Limit label="Cost this month" used={month.cost} most={limits.max_month_cost_usd} format={money} />
        <Limit label="Active time this month" used={month.seconds} most={limits.max_month_seconds} format={ms} />
        <div className="text-sm">
          <p className="font-medium">Requests a minute</p>
          <p className="text-xs text-ink-3">{limits.requests_per_minute === null ? "As many as the server takes of everybody" : number(limits.requests_per_minute)}</p>
        </div>
      </Card>
      <p className="text-xs text-ink-3">Months are counted in UTC, and a run counts when it has ended. An administrator may change these numbers.</p>
    </Section>
  );
}

interface LimitProps {
  label: string;
  used: number | undefined;
  most: number | null;
  format: (value: number) => string;
}

function Limit({ label, used, most, format }: LimitProps) {
  const part = used === undefined || most === null ? null : most === 0 ? 1 : Math.min(used / most, 1);
  return (
    <div className="flex flex-col gap-1.5 text-sm">
      <div className="flex items-baseline gap-3">
        <span className="flex-1 font-medium">{label}</span>
        <span className="text-xs text-ink-3 tabular-nums">
          {used === undefined ? "…" : format(used)} {most === null ? "· no limit" : `of ${format(most)}`}
          {part !== null && part >= ALMOST && <span className="font-medium text-warn"> · {part >= 1 ? "used up" : "almost used up"}</span>}
        </span>
      </div>
      <div
        {...(part === null ? { "aria-hidden": true } : { role: "meter", "aria-label": label, "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.round(part * 100) })}
        className="h-1.5 overflow-hidden rounded-full bg-sunken"
      >
        <div className={cn("h-full rounded-full", part !== null && part >= ALMOST ? "bg-warn" : "bg-accent")} style={{ width: `${(part ?? 0) * 100}%` }} />
      </div>
    </div>
  );
}
