"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { TimeZoneSelect } from "@/components/time-zone-select";
import { Field, Input, Select } from "@/components/ui/field";
import { ProfileSelect } from "@/features/profiles/profile-select";
import { type ComputerCreate, createComputer } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";
import { wrongWith } from "@/lib/problem";

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
          <ProfileSelect {...wired} none="None: signed in nowhere" value={profileId} onChange={setProfileId} />
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
            <TimeZoneSelect {...wired} none="The server’s own" value={zone} onChange={setZone} />
          )}
        </Field>
      </div>
    </FormDialog>
  );
}
