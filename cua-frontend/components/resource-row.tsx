import type { ReactNode } from "react";

/** A row of a list: what it is, a line about it, and what can be done. */
export function ResourceRow({ icon, title, badges, detail, actions }: {
  icon?: ReactNode;
  title: ReactNode;
  badges?: ReactNode;
  detail: ReactNode;
  actions?: ReactNode;
}) {
  return (
    <div className="flex min-h-16 items-center gap-3 px-4 py-2.5">
      {icon && (
        <span aria-hidden className="text-ink-3 [&_svg]:size-4">
          {icon}
        </span>
      )}
      <div className="min-w-0 flex-1">
        <div className="flex flex-wrap items-center gap-x-2 gap-y-1">
          <span className="max-w-full truncate font-medium">{title}</span>
          {badges}
        </div>
        <p className="text-xs break-words text-ink-3">{detail}</p>
      </div>
      {actions && <div className="flex items-center gap-1">{actions}</div>}
    </div>
  );
}
