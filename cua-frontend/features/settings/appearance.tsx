"use client";

import { Monitor, Moon, Sun } from "lucide-react";

import { cn } from "@/lib/cn";
import { type Theme, useTheme } from "@/lib/theme";

import { Panel } from "./panel";

const THEMES = [
  ["light", "Light", Sun],
  ["dark", "Dark", Moon],
  ["system", "As the system", Monitor],
] as const satisfies [Theme, string, unknown][];

export function Appearance() {
  const { theme, setTheme } = useTheme();
  return (
    <Panel title="Theme" description="For this browser. “As the system” changes with the time of day where your system does.">
      <fieldset className="grid gap-3 sm:grid-cols-3">
        <legend className="sr-only">Theme</legend>
        {THEMES.map(([value, label, Icon]) => (
          <label
            key={value}
            className={cn(
              "flex cursor-pointer items-center gap-3 rounded-lg border px-4 py-3 has-focus-visible:outline-2 has-focus-visible:outline-offset-2 has-focus-visible:outline-accent",
              theme === value ? "border-accent bg-accent-soft font-medium" : "border-line-strong hover:bg-sunken",
            )}
          >
            <input type="radio" name="theme" value={value} checked={theme === value} onChange={() => setTheme(value)} className="accent-accent" />
            <Icon className="size-4 text-ink-3" aria-hidden />
            {label}
          </label>
        ))}
      </fieldset>
    </Panel>
  );
}
