import type { ReactNode } from "react";

import { cn } from "@/lib/cn";

interface Column<T> {
  label: string;
  /** Numbers stand at the right. */
  number?: boolean;
  cell: (row: T) => ReactNode;
}

interface TableProps<T> {
  caption: string;
  columns: Column<T>[];
  rows: T[];
  rowKey: (row: T, place: number) => string | number;
  /** Small, for data within something else. */
  dense?: boolean;
}

/** Rows and columns; where there is no room it scrolls in itself. The first column names the row. */
export function Table<T>({ caption, columns, rows, rowKey, dense }: TableProps<T>) {
  const padding = dense ? "px-2.5 py-1.5" : "px-4 py-2";
  const width = dense ? "max-w-64" : "min-w-32";
  return (
    <div tabIndex={0} role="region" aria-label={caption} className={cn("max-h-112 overflow-auto border border-line bg-surface", dense ? "rounded-md" : "rounded-xl")}>
      <table className={cn("w-full border-collapse", dense ? "text-xs" : "text-sm")}>
        <caption className="sr-only">{caption}</caption>
        <thead className={cn("sticky top-0 text-xs text-ink-3", dense ? "bg-sunken" : "bg-surface")}>
          <tr>
            {columns.map(({ label, number }) => (
              <th key={label} scope="col" className={cn("border-b border-line font-medium whitespace-nowrap", padding, number ? "text-right" : "text-left")}>
                {label}
              </th>
            ))}
          </tr>
        </thead>
        <tbody className="divide-y divide-line">
          {rows.map((row, at) => (
            <tr key={rowKey(row, at)}>
              {columns.map(({ label, number, cell }, place) =>
                place === 0 ? (
                  <th key={label} scope="row" className={cn("align-top font-normal", padding, width, number ? "text-right tabular-nums" : "text-left")}>
                    {cell(row)}
                  </th>
                ) : (
                  <td key={label} className={cn("align-top", padding, number ? "text-right whitespace-nowrap tabular-nums" : width)}>
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
