import type { ReactNode } from "react";

import { cn } from "@/lib/cn";

interface Column<T> {
  label: string;
  /** Numbers stand at the right. */
  number?: boolean;
  cell: (row: T) => ReactNode;
}

/** Rows and columns; at phone width it scrolls in itself. The first column names the row. */
export function Table<T>({ caption, columns, rows, rowKey }: { caption: string; columns: Column<T>[]; rows: T[]; rowKey: (row: T) => string }) {
  return (
    <div tabIndex={0} role="region" aria-label={caption} className="max-h-[28rem] overflow-auto rounded-xl border border-line bg-surface">
      <table className="w-full border-collapse text-sm">
        <caption className="sr-only">{caption}</caption>
        <thead className="sticky top-0 bg-surface text-xs text-ink-3">
          <tr>
            {columns.map(({ label, number }) => (
              <th key={label} scope="col" className={cn("border-b border-line px-4 py-2 font-medium whitespace-nowrap", number ? "text-right" : "text-left")}>
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {rows.map((row) => (
            <tr key={rowKey(row)}>
              {columns.map(({ label, number, cell }, place) =>
                place === 0 ? (
                  <th key={label} scope="row" className="min-w-32 px-4 py-2 text-left font-normal">
                    {cell(row)}
                  </th>
                ) : (
                  <td key={label} className={cn("px-4 py-2", !number && "min-w-40", number && "text-right whitespace-nowrap tabular-nums")}>
                    {cell(row)}
                  </td>
                ),
              )}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}
