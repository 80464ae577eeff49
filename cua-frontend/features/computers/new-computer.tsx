"use client";

import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { FormDialog, wrongWith } from "@/components/form-dialog";
import { Field, Input, Select } from "@/components/ui/field";
import { type ComputerCreate, createComputer, listProfiles } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

const SCREENS = ["1280 × 720", "1440 × 900", "1920 × 1080", "820 × 1180", "390 × 844"] as const;
const NAMES: Partial<Record<(typeof SCREENS)[number], string>> = { "820 × 1180": "tablet", "390 × 844": "phone" };

/** Opens a browser to use by hand. */
export function NewComputer({ onClose }: { onClose: () => void }) {
  const cache = useQueryClient();
  const router = useRouter();
  const [name, setName] = useState("");
  const [profileId, setProfileId] = useState("");
  const [screen, setScreen] = useState<string>(SCREENS[0]);
  const [locale, setLocale] = useState("");
  const [zone, setZone] = useState("");
  const profiles = useProfileChoice();
  const open = useMutation({
    mutationFn: () => {
      const [width, height] = screen.split(" × ").map(Number);
      const body: ComputerCreate = { settings: { viewport: { width, height } } };
      if (name.trim()) body.name = name.trim();
      if (profileId) body.profile_id = profileId;
      if (locale.trim()) body.settings = { ...body.settings, locale: locale.trim() };
      if (zone) body.settings = { ...body.settings, time_zone: zone };
      return call(createComputer({ body }));
    },
    onSuccess: (computer) => {
      cache.setQueryData(keys.one("computer", computer.id), computer);
      onClose();
      router.push(`/computers/${computer.id}`);
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title="Open a computer"
      action="Open"
      busy={open.isPending}
      error={open.error}
      fields={["name", "profile_id"]}
      onSubmit={() => open.mutate()}
    >
      <Field label="Name (optional)" error={wrongWith(open.error, "name")}>
        {(wired) => <Input {...wired} autoFocus value={name} placeholder="Desk" onChange={(event) => setName(event.target.value)} />}
      </Field>
      <Field label="Profile" hint="Whose cookies and storage it begins with." error={wrongWith(open.error, "profile_id")}>
        {(wired) => (
          <Select {...wired} value={profileId} onChange={(event) => setProfileId(event.target.value)}>
            <option value="">None: signed in nowhere</option>
            {profiles.map((profile) => (
              <option key={profile.id} value={profile.id}>
                {profile.name}
              </option>
            ))}
          </Select>
        )}
      </Field>
      <Field label="Screen">
        {(wired) => (
          <Select {...wired} value={screen} onChange={(event) => setScreen(event.target.value)}>
            {SCREENS.map((each) => (
              <option key={each} value={each}>
                {each}
                {NAMES[each] && `, ${NAMES[each]}`}
              </option>
            ))}
          </Select>
        )}
      </Field>
      <div className="grid gap-4 sm:grid-cols-2">
        <Field label="Language (optional)" hint="As de-DE">
          {(wired) => (
            <Input
              {...wired}
              spellCheck={false}
              pattern="[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*"
              title="A language, as de or de-DE"
              value={locale}
              onChange={(event) => setLocale(event.target.value)}
            />
          )}
        </Field>
        <Field label="Time zone">
          {(wired) => (
            <Select {...wired} value={zone} onChange={(event) => setZone(event.target.value)}>
              <option value="">The server&apos;s own</option>
              {Intl.supportedValuesOf("timeZone").map((each) => (
                <option key={each} value={each}>
                  {each.replaceAll("_", " ")}
                </option>
              ))}
            </Select>
          )}
        </Field>
      </div>
    </FormDialog>
  );
}

/** Profiles to choose from. */
export function useProfileChoice() {
  const profiles = useQuery({
    queryKey: keys.list("profile", { choice: true }),
    queryFn: async () => ({ data: await call(listProfiles({ query: { limit: 200 } })), next_cursor: null }),
  });
  return profiles.data?.data ?? [];
}
