import type { ComponentProps } from "react";

import { Select } from "./ui/field";

interface TimeZoneSelectProps extends Omit<ComponentProps<typeof Select>, "onChange"> {
  value: string;
  /** What it says where none is chosen; without it one has to be. */
  none?: string;
  onChange: (zone: string) => void;
}

export function TimeZoneSelect({ value, none, onChange, ...rest }: TimeZoneSelectProps) {
  const zones = new Set(["UTC", ...Intl.supportedValuesOf("timeZone"), ...(value ? [value] : [])]);
  return (
    <Select {...rest} value={value} onChange={(event) => onChange(event.target.value)}>
      {none !== undefined && <option value="">{none}</option>}
      {[...zones].map((zone) => (
        <option key={zone} value={zone}>
          {zone.replaceAll("_", " ")}
        </option>
      ))}
    </Select>
  );
}
