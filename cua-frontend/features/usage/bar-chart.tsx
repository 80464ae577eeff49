"use client";

import { Bar, BarChart as Chart, CartesianGrid, ResponsiveContainer, Tooltip, XAxis, YAxis } from "recharts";

import { cn } from "@/lib/cn";

interface Series {
  key: string;
  label: string;
  /** A token of globals.css, as `var(--good)`. */
  colour: string;
}

export interface BarChartProps {
  /** One bar each: its name, and a number for each series. */
  data: { name: string; [key: string]: string | number }[];
  series: Series[];
  format: (value: number) => string;
  className?: string;
}

/** Stacked bars over time; what they show is also said in words and in a table beside it. */
export default function BarChart({ data, series, format, className = "h-56" }: BarChartProps) {
  return (
    <div aria-hidden className={cn("w-full", className)}>
      <ResponsiveContainer>
        <Chart data={data} margin={{ top: 4, right: 0, bottom: 0, left: 0 }} barCategoryGap="20%" accessibilityLayer={false}>
          <CartesianGrid vertical={false} stroke="var(--line)" />
          <XAxis dataKey="name" tickLine={false} axisLine={false} tick={TICK} interval="equidistantPreserveStart" minTickGap={24} />
          <YAxis width={44} tickLine={false} axisLine={false} tick={TICK} tickCount={4} allowDecimals={false} tickFormatter={format} />
          <Tooltip
            cursor={{ fill: "var(--sunken)" }}
            isAnimationActive={false}
            formatter={(value, name) => [format(Number(value)), name]}
            contentStyle={{
              background: "var(--raised)",
              border: "1px solid var(--line)",
              borderRadius: 8,
              fontSize: 12,
              boxShadow: "var(--shadow)",
              padding: "6px 10px",
            }}
            labelStyle={{ color: "var(--ink)", fontWeight: 500 }}
            itemStyle={{ color: "var(--ink-2)", padding: 0 }}
          />
          {series.map(({ key, label, colour }) => (
            <Bar key={key} dataKey={key} name={label} fill={colour} stackId="all" maxBarSize={36} isAnimationActive={false} />
          ))}
        </Chart>
      </ResponsiveContainer>
    </div>
  );
}

const TICK = { fill: "var(--ink-3)", fontSize: 11 };
