"use client";

import { ChartNoAxesColumn } from "lucide-react";
import Link from "next/link";
import { type ReactNode, useState } from "react";

import { Choice } from "@/components/filter-bar";
import { Table } from "@/components/table";
import { Card, Page, Section } from "@/components/ui/page";
import { Empty, Failure, Skeletons } from "@/components/ui/states";
import type { AnalyticsSummary, TimelinePoint, UsageDay, WorkflowCounts } from "@/lib/api";
import { duration, money, number } from "@/lib/format";

import { ChartCard } from "./chart-card";
import { Limits } from "./limits";
import { everyDay, MONTH_DAYS, useFreshCounts, useGoingOn, useSummary, useTimeline, useUsage, useWorkflowCounts } from "./queries";

const RANGES = [
  ["7", "7 days"],
  ["30", "30 days"],
  ["90", "90 days"],
] as const;
const shortDay = new Intl.DateTimeFormat("en", { month: "short", day: "numeric", timeZone: "UTC" });
const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });

function dayName(day: string): string {
  return shortDay.format(Date.parse(day));
}

function percent(rate: number | null): string {
  return rate === null ? "–" : `${Math.round(rate * 100)} %`;
}

function time(ms: number | null): string {
  return ms === null ? "–" : duration(ms);
}

/** How runs went, what they used, and what may be used. */
export function Usage() {
  const [range, setRange] = useState<(typeof RANGES)[number][0]>("30");
  const days = Number(range);
  useFreshCounts();
  return (
    <Page
      title="Usage"
      description="How your runs went, and what they used."
      actions={<Choice label="Range" options={RANGES} value={range} onChange={setRange} />}
    >
      <Counts days={days} />
    </Page>
  );
}

/** All of it at once: parts that came one after the other would push each other about. */
function Counts({ days }: { days: number }) {
  const parts = [
    useSummary(days),
    useTimeline(days),
    useUsage(days),
    useUsage(MONTH_DAYS),
    useWorkflowCounts(days),
    useGoingOn(),
  ];
  if (parts.some((part) => part.isPending)) return <Skeletons count={4} className="h-44" />;
  return (
    <>
      <Outcomes days={days} />
      <Consumption days={days} />
      <Limits />
      <Workflows days={days} />
    </>
  );
}

function Outcomes({ days }: { days: number }) {
  const summary = useSummary(days);
  const timeline = useTimeline(days);
  const error = summary.error ?? timeline.error;
  if (error) {
    const retry = () => void Promise.all([summary.refetch(), timeline.refetch()]);
    return <Failure title="The runs could not be counted" error={error} retry={retry} />;
  }
  if (!summary.data || !timeline.data) return <Skeletons count={2} className="h-44" />;
  const unit = days > 31 ? "week" : "day";
  return (
    <Section title="Runs">
      <Tiles summary={summary.data} />
      <ChartCard
        title={`Runs by ${unit}`}
        words={outcomesInWords(summary.data, timeline.data, unit)}
        data={timeline.data.map((point) => ({ name: dayName(point.start), succeeded: point.succeeded, failed: point.failed, cancelled: point.cancelled }))}
        series={[
          { key: "succeeded", label: "Succeeded", colour: "var(--good)" },
          { key: "failed", label: "Failed", colour: "var(--bad)" },
          { key: "cancelled", label: "Cancelled", colour: "var(--line-strong)" },
        ]}
        format={compact.format}
      />
      <AsTable>
        <Table<TimelinePoint>
          caption={`Runs by ${unit}`}
          rows={timeline.data.toReversed()}
          rowKey={(point) => point.start}
          columns={[
            { label: unit === "week" ? "Week of" : "Day", cell: (point) => dayName(point.start) },
            { label: "Runs", number: true, cell: (point) => number(point.runs) },
            { label: "Succeeded", number: true, cell: (point) => number(point.succeeded) },
            { label: "Failed", number: true, cell: (point) => number(point.failed) },
            { label: "Cancelled", number: true, cell: (point) => number(point.cancelled) },
            { label: "Median time", number: true, cell: (point) => time(point.p50_ms) },
          ]}
        />
      </AsTable>
    </Section>
  );
}

function outcomesInWords(summary: AnalyticsSummary, points: TimelinePoint[], unit: string): string {
  if (summary.runs === summary.live) return "No run has ended in this time.";
  const ended = ({ succeeded, failed, cancelled }: TimelinePoint) => succeeded + failed + cancelled;
  const [busiest] = points.toSorted((a, b) => ended(b) - ended(a));
  const most = busiest ? ` The busiest ${unit} was ${unit === "week" ? "that of " : ""}${dayName(busiest.start)} with ${number(ended(busiest))}.` : "";
  return `${number(summary.succeeded)} succeeded, ${number(summary.failed)} failed, ${number(summary.cancelled)} were cancelled.${most}`;
}

function Tiles({ summary }: { summary: AnalyticsSummary }) {
  const tiles = [
    ["Runs", number(summary.runs)],
    ["In progress", number(summary.live)],
    ["Succeeded", percent(summary.success_rate)],
    ["Median time", time(summary.p50_ms)],
    ["95th percentile", time(summary.p95_ms)],
  ] as const;
  return (
    <Card className="overflow-hidden">
      <dl className="-mr-px -mb-px grid grid-cols-2 sm:grid-cols-5">
        {tiles.map(([label, value]) => (
          <div key={label} className="flex flex-col-reverse border-r border-b border-line px-4 py-3">
            <dt className="text-xs text-ink-3">{label}</dt>
            <dd className="text-lg font-semibold tracking-tight tabular-nums">{value}</dd>
          </div>
        ))}
      </dl>
    </Card>
  );
}

function Consumption({ days }: { days: number }) {
  const usage = useUsage(days);
  if (usage.error) return <Failure title="What was used could not be read" error={usage.error} retry={() => void usage.refetch()} />;
  if (!usage.data) return <Skeletons count={2} className="h-48" />;
  const { total } = usage.data;
  const used = everyDay(usage.data.days, days);
  const bars = (values: (day: UsageDay) => Record<string, number>) => used.map((day) => ({ name: dayName(day.day), ...values(day) }));
  const one = (label: string) => [{ key: "value", label, colour: "var(--accent)" }];
  return (
    <Section title="Use">
      <div className="grid gap-3 sm:grid-cols-2">
        <ChartCard
          title="Steps"
          words={`${number(total?.steps ?? 0)} in all.`}
          height="h-36"
          data={bars((day) => ({ value: day.steps }))}
          series={one("Steps")}
          format={compact.format}
        />
        <ChartCard
          title="Active time"
          words={`${duration(total?.active_ms ?? 0)} in all; waiting for people is not counted.`}
          height="h-36"
          data={bars((day) => ({ value: day.active_ms / 1000 }))}
          series={one("Active time")}
          format={(seconds) => shortTime(seconds)}
        />
        <ChartCard
          title="Tokens"
          words={`${number(total?.input_tokens ?? 0)} read and ${number(total?.output_tokens ?? 0)} written by models.`}
          height="h-36"
          data={bars((day) => ({ input: day.input_tokens, output: day.output_tokens }))}
          series={[
            { key: "input", label: "Read", colour: "var(--accent)" },
            { key: "output", label: "Written", colour: "var(--warn)" },
          ]}
          format={compact.format}
        />
        <ChartCard
          title="Cost"
          words={`${money(total?.cost_usd ?? 0)} for models in all.`}
          height="h-36"
          data={bars((day) => ({ value: day.cost_usd }))}
          series={one("Cost")}
          format={(dollars) => (dollars === 0 ? "$0" : money(dollars))}
        />
      </div>
      <AsTable>
        <Table<UsageDay>
          caption="Use by day"
          rows={used.toReversed()}
          rowKey={(day) => day.day}
          columns={[
            { label: "Day (UTC)", cell: (day) => dayName(day.day) },
            { label: "Runs", number: true, cell: (day) => number(day.runs) },
            { label: "Steps", number: true, cell: (day) => number(day.steps) },
            { label: "Active time", number: true, cell: (day) => duration(day.active_ms) },
            { label: "Tokens read", number: true, cell: (day) => number(day.input_tokens) },
            { label: "Tokens written", number: true, cell: (day) => number(day.output_tokens) },
            { label: "Cost", number: true, cell: (day) => money(day.cost_usd) },
          ]}
        />
      </AsTable>
    </Section>
  );
}

function shortTime(seconds: number): string {
  if (seconds < 120) return `${Math.round(seconds)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${Math.round(seconds / 3600)} h`;
}

function Workflows({ days }: { days: number }) {
  const workflows = useWorkflowCounts(days);
  return (
    <Section title="Workflows">
      {workflows.error ? (
        <Failure title="The workflows could not be counted" error={workflows.error} retry={() => void workflows.refetch()} />
      ) : !workflows.data ? (
        <Skeletons className="h-10" />
      ) : workflows.data.length === 0 ? (
        <Empty icon={<ChartNoAxesColumn />} title="No runs in this time">
          Start a task or a workflow, or look at a longer time.
        </Empty>
      ) : (
        <Table<WorkflowCounts>
          caption="Runs by workflow"
          rows={workflows.data}
          rowKey={(row) => row.workflow_id ?? "none"}
          columns={[
            {
              label: "Workflow",
              cell: (row) =>
                row.workflow_id ? (
                  <Link href={`/workflows/${row.workflow_id}`} className="font-medium underline-offset-2 hover:underline">
                    {row.name ?? "Deleted workflow"}
                  </Link>
                ) : (
                  <span className="text-ink-2">Tasks and single runs</span>
                ),
            },
            { label: "Runs", number: true, cell: (row) => number(row.runs) },
            { label: "Succeeded", number: true, cell: (row) => percent(row.success_rate) },
            { label: "Median time", number: true, cell: (row) => time(row.p50_ms) },
            { label: "95th percentile", number: true, cell: (row) => time(row.p95_ms) },
            {
              label: "Fails most at",
              cell: (row) => (row.failing_step === null ? "–" : `Step ${row.failing_step}${row.failing_step_title ? `: ${row.failing_step_title}` : ""}`),
            },
          ]}
        />
      )}
    </Section>
  );
}

function AsTable({ children }: { children: ReactNode }) {
  return (
    <details className="group text-sm">
      <summary className="inline-flex cursor-pointer rounded text-xs text-ink-3 underline-offset-2 hover:underline">Show as a table</summary>
      <div className="mt-2">{children}</div>
    </details>
  );
}
