import type { ReactNode } from "react";

/** What is known of a thing, name by name; null leaves one out. */
export function Facts({ facts }: { facts: ([label: string, value: ReactNode] | null)[] }) {
  return (
    <dl className="grid gap-y-2 text-sm sm:grid-cols-[auto_1fr] sm:gap-x-6 sm:gap-y-1">
      {facts.map(
        (fact) =>
          fact && (
            <div key={fact[0]} className="sm:contents">
              <dt className="text-xs leading-5 text-ink-3 sm:text-sm sm:leading-6">{fact[0]}</dt>
              <dd className="min-w-0 leading-6 wrap-anywhere">{fact[1]}</dd>
            </div>
          ),
      )}
    </dl>
  );
}
