"use client";

import { useQuery } from "@tanstack/react-query";

import { Badge } from "@/components/ui/badge";
import { Card, Section } from "@/components/ui/page";
import { Failure, Skeletons } from "@/components/ui/states";
import { type Readiness, readReadiness } from "@/lib/api";
import { useConfig } from "@/lib/auth/provider";
import { keys } from "@/lib/keys";

const EVERY_MS = 10_000;
const PARTS: [keyof Readiness, label: string, otherwise: string][] = [
  ["database", "Database", "It does not answer. Nothing is read or saved until it does."],
  ["migrations", "Schema", "The database lacks what this version needs. Run the migrations."],
  ["bus", "Word between processes", "Events come a second later than usual."],
  ["storage", "File store", "Files can neither be stored nor fetched."],
  ["browser", "Chromium", "It is missing where this process works."],
  ["worker", "Worker", "No run is carried out by this process."],
];

/** Whether the parts of the process that has answered are well. */
export function Parts() {
  const version = useConfig()?.version;
  const parts = useQuery({
    queryKey: keys.about("admin", "readiness"),
    queryFn: async () => {
      const { data, error } = await readReadiness();
      const reply = data ?? error; // what is not ready answers 503 with the same body
      if (reply && "data" in reply) return reply.data;
      throw new Error("The server does not say how it is.");
    },
    refetchInterval: EVERY_MS,
  });
  return (
    <Section title="This server" actions={version && <span className="text-xs text-ink-3">Version {version}</span>}>
      {parts.data ? (
        <Card>
          <ul className="divide-y divide-line">
            {PARTS.map(([part, label, otherwise]) => (
              <li key={part} className="flex min-h-10 items-center gap-3 px-4 py-1.5">
                <span className="flex-1">
                  {label}
                  {!parts.data[part] && <span className="block text-xs text-ink-3">{otherwise}</span>}
                </span>
                <Badge look={parts.data[part] ? "good" : "bad"}>{parts.data[part] ? "Working" : "Not working"}</Badge>
              </li>
            ))}
          </ul>
        </Card>
      ) : parts.error ? (
        <Failure title="Its parts could not be asked" error={parts.error} retry={() => void parts.refetch()} />
      ) : (
        <Skeletons className="h-10" count={6} />
      )}
    </Section>
  );
}
