"use client";

import dynamic from "next/dynamic";
import type { ReactNode } from "react";

import { Card } from "@/components/ui/page";

import type { BarChartProps } from "./bar-chart";

const BarChart = dynamic(() => import("./bar-chart"), { ssr: false, loading: () => <div className="skeleton h-full w-full" /> });

interface ChartCardProps extends BarChartProps {
  title: string;
  /** What the bars show, in a sentence. */
  words: ReactNode;
  height?: string;
}

/** A chart with what it shows in words, and a legend where there is more than one colour. */
export function ChartCard({ title, words, height = "h-56", ...chart }: ChartCardProps) {
  const isEmpty = chart.data.every((bar) => chart.series.every(({ key }) => !bar[key]));
  return (
    <Card className="min-w-0 p-4">
      <figure className="flex flex-col gap-3">
        <div className="flex flex-wrap items-baseline gap-x-4 gap-y-1">
          <h3 className="flex-1 font-medium">{title}</h3>
          {chart.series.length > 1 && (
            <ul className="flex gap-3 text-xs text-ink-3">
              {chart.series.map(({ key, label, colour }) => (
                <li key={key} className="flex items-center gap-1.5">
                  <span aria-hidden className="size-2 rounded-sm" style={{ background: colour }} />
                  {label}
                </li>
              ))}
            </ul>
          )}
        </div>
        <figcaption className="text-xs text-ink-3">{words}</figcaption>
        <div className={height}>
          {isEmpty ? (
            <p aria-hidden className="flex h-full items-center justify-center rounded-md bg-sunken text-xs text-ink-3">
              Nothing in this time
            </p>
          ) : (
            <BarChart {...chart} className="h-full" />
          )}
        </div>
      </figure>
    </Card>
  );
}
