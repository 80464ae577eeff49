import { CircleAlert } from "lucide-react";
import type { ReactNode } from "react";

import { cn } from "@/lib/cn";

import { Button } from "./button";

/** Nothing here yet, and what to do about it. */
export function Empty({ icon, title, children, action }: { icon: ReactNode; title: string; children: ReactNode; action?: ReactNode }) {
  return (
    <div className="flex flex-col items-center gap-2 rounded-xl border border-dashed border-line-strong px-6 py-12 text-center">
      <div className="text-ink-3 [&_svg]:size-6" aria-hidden>
        {icon}
      </div>
      <p className="font-medium">{title}</p>
      <p className="max-w-md text-sm text-ink-3">{children}</p>
      {action && <div className="mt-3">{action}</div>}
    </div>
  );
}

/** What went wrong and how to go on. */
export function Failure({ title, error, retry }: { title: string; error: Error; retry?: () => void }) {
  return (
    <div role="alert" className="flex items-start gap-3 rounded-xl border border-line bg-bad-soft px-4 py-3">
      <CircleAlert className="mt-0.5 size-4 shrink-0 text-bad" aria-hidden />
      <div className="min-w-0 flex-1">
        <p className="font-medium text-bad">{title}</p>
        <p className="text-sm break-words text-ink-2">{error.message}</p>
      </div>
      {retry && (
        <Button size="sm" onClick={retry}>
          Try again
        </Button>
      )}
    </div>
  );
}

/** Lines in the place of a list that is on its way; of the list's own height, so that nothing jumps. */
export function Skeletons({ count = 4, className = "h-14" }: { count?: number; className?: string }) {
  return (
    <div aria-busy className="flex flex-col gap-2">
      <span className="sr-only">Loading</span>
      {Array.from({ length: count }, (_, place) => (
        <div key={place} className={cn("skeleton", className)} />
      ))}
    </div>
  );
}
