"use client";

import { useState } from "react";

import { useNow } from "@/components/time";
import { TimeZoneSelect } from "@/components/time-zone-select";
import { Button } from "@/components/ui/button";
import { Field, Select } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { Failure, Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { type Preferences, useChangePreferences, usePreferences } from "@/features/preferences";
import { setRegion } from "@/lib/format";

import { Panel } from "./panel";

const LOCALES = ["en-US", "en-GB", "de-DE", "es-ES", "fr-FR", "it-IT", "nl-NL", "pl-PL", "pt-BR", "sv-SE", "ja-JP", "ko-KR", "zh-CN"];

export function RegionForm() {
  const preferences = usePreferences();
  if (preferences.error) {
    return <Failure title="Your preferences could not be read" error={preferences.error} retry={() => void preferences.refetch()} />;
  }
  if (!preferences.data) return <Skeletons count={1} className="h-44" />;
  return <Form preferences={preferences.data} />;
}

function Form({ preferences }: { preferences: Preferences }) {
  const now = useNow();
  const [zone, setZone] = useState(preferences.time_zone ?? "");
  const [locale, setLocale] = useState(preferences.locale ?? "");
  const change = useChangePreferences();
  const here = Intl.DateTimeFormat().resolvedOptions().timeZone;
  const languages = new Intl.DisplayNames("en", { type: "language" });
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        change.mutate(
          { time_zone: zone || undefined, locale: locale || undefined },
          {
            onSuccess: () => {
              setRegion({ locale, timeZone: zone });
              toast.done("Saved");
            },
          },
        );
      }}
    >
      <Panel
        title="Dates and times"
        description="How this app writes them, and where its days begin."
        footer={
          <>
            <p className="flex-1 text-sm text-ink-3" suppressHydrationWarning>
              Now is{" "}
              {new Intl.DateTimeFormat(locale || "en", { dateStyle: "medium", timeStyle: "short", timeZone: zone || undefined }).format(now)}
            </p>
            <Button
              type="submit"
              busy={change.isPending}
              disabled={zone === (preferences.time_zone ?? "") && locale === (preferences.locale ?? "")}
            >
              Save
            </Button>
          </>
        }
      >
        {change.error && <FormError error={change.error} />}
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="Time zone">
            {(wired) => (
              <TimeZoneSelect {...wired} none={`As this device, ${here}`} value={zone} onChange={setZone} />
            )}
          </Field>
          <Field label="Format">
            {(wired) => (
              <Select {...wired} value={locale} onChange={(event) => setLocale(event.target.value)}>
                <option value="">As the app is</option>
                {LOCALES.map((each) => (
                  <option key={each} value={each}>
                    {languages.of(each)}
                  </option>
                ))}
              </Select>
            )}
          </Field>
        </div>
      </Panel>
    </form>
  );
}
