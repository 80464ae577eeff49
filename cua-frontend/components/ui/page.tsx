import type { ReactNode } from "react";

import { cn } from "@/lib/cn";

/** A screen: its title, what can be done, and its content. */
export function Page({ title, description, actions, wide, children }: {
  title: string;
  description?: ReactNode;
  actions?: ReactNode;
  wide?: boolean;
  children: ReactNode;
}) {
  return (
    <div className={cn("mx-auto flex w-full flex-col gap-6 px-4 py-6 sm:px-8", wide ? "max-w-[100rem]" : "max-w-5xl")}>
      <header className="flex flex-wrap items-center gap-x-4 gap-y-3">
        <div className={cn("min-w-0 flex-1", description ? "basis-64" : "basis-48")}>
          <h1 className="truncate text-xl font-semibold tracking-tight">{title}</h1>
          {description && <div className="mt-0.5 text-sm text-pretty text-ink-3">{description}</div>}
        </div>
        {actions && <div className="flex flex-wrap items-center gap-2">{actions}</div>}
      </header>
      {children}
    </div>
  );
}

export function Section({ title, actions, children }: { title: string; actions?: ReactNode; children: ReactNode }) {
  return (
    <section className="flex flex-col gap-3">
      <div className="flex min-h-7 items-center gap-3">
        <h2 className="flex-1 text-sm font-semibold text-ink-2">{title}</h2>
        {actions}
      </div>
      {children}
    </section>
  );
}

export function Card({ className, children }: { className?: string; children: ReactNode }) {
  return <div className={cn("rounded-xl border border-line bg-surface", className)}>{children}</div>;
}

/** Rows in one frame. */
export function Rows({ label, children }: { label: string; children: ReactNode }) {
  return (
    <ul aria-label={label} className="divide-y divide-line overflow-hidden rounded-xl border border-line bg-surface">
      {children}
    </ul>
  );
}
