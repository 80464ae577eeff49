"use client";

import type { ComponentProps } from "react";

import { Select } from "@/components/ui/field";

import { useProfiles } from "./queries";

interface ProfileSelectProps extends Omit<ComponentProps<typeof Select>, "onChange"> {
  /** What it says where none is chosen; without it one has to be. */
  none?: string;
  onChange: (profileId: string) => void;
}

export function ProfileSelect({ none, onChange, ...rest }: ProfileSelectProps) {
  const profiles = useProfiles();
  return (
    <Select {...rest} required={none === undefined} onChange={(event) => onChange(event.target.value)}>
      {none !== undefined && <option value="">{none}</option>}
      {profiles.data?.map((profile) => (
        <option key={profile.id} value={profile.id}>
          {profile.name}
        </option>
      ))}
    </Select>
  );
}
