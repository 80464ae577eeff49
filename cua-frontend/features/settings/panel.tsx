import type { ReactNode } from "react";

import { Card } from "@/components/ui/page";

/** One matter of the settings: what it is, and its form. */
export function Panel({ title, description, children, footer }: { title: string; description?: ReactNode; children?: ReactNode; footer?: ReactNode }) {
  return (
    <Card>
      <section className="flex flex-col">
        <div className="flex flex-col gap-4 px-5 py-4">
          <div>
            <h2 className="font-semibold">{title}</h2>
            {description && <p className="mt-0.5 max-w-prose text-sm text-pretty text-ink-3 wrap-anywhere">{description}</p>}
          </div>
          {children}
        </div>
        {footer && <div className="flex flex-wrap items-center justify-end gap-3 border-t border-line px-5 py-3">{footer}</div>}
      </section>
    </Card>
  );
}
