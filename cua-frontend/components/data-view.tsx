"use client";

import { Download } from "lucide-react";
import { useState } from "react";

import { cn } from "@/lib/cn";
import { downloadBlob } from "@/lib/download";
import { number } from "@/lib/format";
import { isObject, type Json } from "@/lib/json";

import { CopyButton } from "./copy-button";
import { Table } from "./table";
import { Button } from "./ui/button";

const FIRST_ROWS = 50;
const DEEPEST = 3;

/** Data as a person reads it: tables for lists of objects, names and values for objects, JSON for the rest. */
export function DataView({ value, depth = 0 }: { value: unknown; depth?: number }) {
  if (isRows(value)) return <DataTable rows={value} />;
  if (isObject(value) && depth < DEEPEST && Object.keys(value).length > 0) {
    return (
      <dl className="grid grid-cols-[minmax(5rem,auto)_minmax(0,1fr)] gap-x-4 gap-y-2 text-sm">
        {Object.entries(value).map(([name, inner]) => (
          <div key={name} className={cn("contents", isRows(inner) && "[&>*]:col-span-2")}>
            <dt className="truncate text-ink-3" title={name}>
              {name}
            </dt>
            <dd className="min-w-0">
              <DataView value={inner} depth={depth + 1} />
            </dd>
          </div>
        ))}
      </dl>
    );
  }
  if (typeof value === "object" && value !== null) return <JsonText value={value} />;
  return <Plain value={value} />;
}

function Plain({ value }: { value: unknown }) {
  if (value === null || value === undefined) return <span className="text-ink-3">none</span>;
  if (typeof value === "boolean") return <span>{value ? "yes" : "no"}</span>;
  const text = String(value);
  if (/^https?:\/\/\S+$/.test(text)) {
    return (
      <a href={text} target="_blank" rel="noreferrer noopener" className="break-all text-accent-strong underline-offset-2 hover:underline">
        {text}
      </a>
    );
  }
  return <span className="break-words whitespace-pre-wrap">{text}</span>;
}

export function JsonText({ value, className }: { value: unknown; className?: string }) {
  return (
    <pre tabIndex={0} role="region" aria-label="JSON" className={cn("max-h-96 overflow-auto rounded-md bg-sunken p-3 font-mono text-xs leading-5", className)}>
      {JSON.stringify(value, null, 2)}
    </pre>
  );
}

function DataTable({ rows: given }: { rows: Json[] }) {
  const [whole, setWhole] = useState(false);
  const rows = given.map(flat);
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const shown = whole ? rows : rows.slice(0, FIRST_ROWS);
  return (
    <div className="flex flex-col gap-2">
      <Table<Json>
        dense
        caption="Table"
        rows={shown}
        rowKey={(_, place) => place}
        columns={names.map((name) => ({ label: name, number: typeof rows[0]?.[name] === "number", cell: (row) => <Cell value={row[name]} /> }))}
      />
      {shown.length < rows.length && (
        <Button size="sm" look="ghost" className="self-start" onClick={() => setWhole(true)}>
          Show all {number(rows.length)} rows
        </Button>
      )}
    </div>
  );
}

/** Objects in a row become columns of their own. */
function flat(row: Json): Json {
  return Object.fromEntries(
    Object.entries(row).flatMap(([name, value]) =>
      isObject(value) ? Object.entries(value).map(([inner, each]) => [`${name}.${inner}`, each] as const) : [[name, value] as const],
    ),
  );
}

function Cell({ value }: { value: unknown }) {
  if (typeof value === "object" && value !== null) return <code className="break-words">{JSON.stringify(value)}</code>;
  return <Plain value={value} />;
}

/** Copy and download for what a DataView shows. */
export function DataActions({ value, name }: { value: unknown; name: string }) {
  const text = () => (typeof value === "string" ? value : JSON.stringify(value, null, 2));
  return (
    <>
      <CopyButton text={text} />
      <Button size="sm" look="ghost" onClick={() => downloadBlob(new Blob([text()], { type: "application/json" }), `${name}.json`)}>
        <Download />
        JSON
      </Button>
      {isRows(value) && (
        <Button size="sm" look="ghost" onClick={() => downloadBlob(new Blob([csv(value)], { type: "text/csv" }), `${name}.csv`)}>
          <Download />
          CSV
        </Button>
      )}
    </>
  );
}

/** RFC 4180; what a spreadsheet would take for a formula is kept a text. */
function csv(given: Json[]): string {
  const rows = given.map(flat);
  const names = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cell = (value: unknown) => {
    let text = value === null || value === undefined ? "" : typeof value === "object" ? JSON.stringify(value) : String(value);
    if (typeof value === "string" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [names, ...rows.map((row) => names.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\r\n");
}

function isRows(value: unknown): value is Json[] {
  return Array.isArray(value) && value.length > 0 && value.every(isObject);
}
