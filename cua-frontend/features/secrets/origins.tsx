"use client";

import { Plus, X } from "lucide-react";
import { useId } from "react";

import { Button } from "@/components/ui/button";
import { Input } from "@/components/ui/field";

/** Scheme, host and port of what somebody has typed or pasted; null where it is no such address. */
export function asOrigin(text: string): string | null {
  const address = /^[a-z]+:\/\//i.test(text) ? text : `https://${text}`;
  try {
    const { protocol, origin, username, hostname } = new URL(address);
    if ((protocol !== "https:" && protocol !== "http:") || username) return null;
    return /^[a-z0-9_-]+(\.[a-z0-9_-]+)*$/.test(hostname) ? origin : null;
  } catch {
    return null;
  }
}

interface OriginsProps {
  origins: string[];
  onChange: (origins: string[]) => void;
  /** Whether saving was tried, so that what is wrong is said. */
  asked: boolean;
  error?: string;
}

/** The sites at which a secret is filled in. */
export function Origins({ origins, onChange, asked, error }: OriginsProps) {
  const id = useId();
  return (
    <fieldset className="flex flex-col gap-1.5" aria-describedby={`${id}-hint`}>
      <legend className="mb-1.5 text-xs font-medium text-ink-2">Origins</legend>
      {origins.map((origin, place) => {
        const wrong = origin.trim() !== "" && asOrigin(origin.trim()) === null;
        return (
          <div key={place}>
            <div className="flex gap-2">
              <Input
                aria-label={`Origin ${place + 1}`}
                aria-invalid={(wrong && asked) || undefined}
                aria-describedby={wrong && asked ? `${id}-${place}` : undefined}
                autoComplete="off"
                spellCheck={false}
                inputMode="url"
                placeholder="https://shop.example"
                value={origin}
                onChange={(event) => onChange(origins.map((old, at) => (at === place ? event.target.value : old)))}
                onBlur={() => {
                  const tidy = origin.trim() && asOrigin(origin.trim());
                  if (tidy && tidy !== origin) onChange(origins.map((old, at) => (at === place ? tidy : old)));
                }}
              />
              <Button
                look="ghost"
                size="icon"
                className="mt-0.5"
                aria-label={`Remove origin ${place + 1}`}
                onClick={() => onChange(origins.filter((_, at) => at !== place))}
              >
                <X />
              </Button>
            </div>
            {wrong && asked && (
              <p id={`${id}-${place}`} role="alert" className="mt-1 text-xs text-bad">
                That is no address of a site, as https://shop.example is.
              </p>
            )}
          </div>
        );
      })}
      <Button size="sm" className="self-start" onClick={() => onChange([...origins, ""])}>
        <Plus /> Add an origin
      </Button>
      <p id={`${id}-hint`} className="text-xs text-ink-3">
        It is filled into fields of these sites and no others: scheme, host and port must be the same.
      </p>
      {error && (
        <p role="alert" className="text-xs text-bad">
          {error}
        </p>
      )}
    </fieldset>
  );
}
