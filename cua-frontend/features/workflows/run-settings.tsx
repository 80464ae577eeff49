"use client";


import { Field, Input, Select, Textarea } from "@/components/ui/field";
import { TextLink } from "@/components/ui/text-link";
import { ProfileSelect } from "@/features/profiles/profile-select";
import { useProfiles } from "@/features/profiles/queries";
import { type Json } from "@/lib/json";
import { wrongWith } from "@/lib/problem";

import { type Parameter, parametersOf, rawParams, readParams, wrongParams } from "./parameters";

/** What a run is made of beside its workflow, as the form holds it. */
interface RunSettings {
  raw: Record<string, string>;
  profileId: string;
  saveProfile: boolean;
  domains: string;
}

export function runSettings(schema: Json, given: Json = {}): RunSettings {
  const params = typeof given.params === "object" && given.params !== null ? (given.params as Json) : {};
  const domains = Array.isArray(given.allowed_domains) ? given.allowed_domains : [];
  return {
    raw: rawParams(parametersOf(schema), params),
    profileId: typeof given.profile_id === "string" ? given.profile_id : "",
    saveProfile: given.save_profile === true,
    domains: domains.join(", "),
  };
}

/** The same as the API takes it; `wrong` names params that cannot be right. */
export function readRunSettings(schema: Json, { raw, profileId, saveProfile, domains }: RunSettings) {
  const { params, wrong } = readParams(parametersOf(schema), raw);
  return {
    wrong,
    body: {
      params,
      profile_id: profileId || null,
      save_profile: profileId !== "" && saveProfile,
      allowed_domains: domains.split(/[\s,]+/).filter(Boolean),
    },
  };
}

export type RunBody = ReturnType<typeof readRunSettings>["body"];

/** Those beside the params that say themselves what is wrong with them. */
export const RUN_FIELDS = ["profile_id", "allowed_domains"];

interface RunSettingsFormProps {
  schema: Json;
  value: RunSettings;
  onChange: (value: RunSettings) => void;
  wrong: Record<string, string>;
  /** What the server says. */
  error: Error | null;
}

export function RunSettingsForm({ schema, value, onChange, wrong, error }: RunSettingsFormProps) {
  const parameters = parametersOf(schema);
  const profiles = useProfiles();
  const said = { ...wrongParams(error, schema), ...wrong };
  return (
    <>
      {parameters.map((parameter) => (
        <ParameterField
          key={parameter.name}
          parameter={parameter}
          value={value.raw[parameter.name] ?? ""}
          error={said[parameter.name]}
          onChange={(text) => onChange({ ...value, raw: { ...value.raw, [parameter.name]: text } })}
        />
      ))}
      <details className="group flex flex-col" open={value.profileId !== "" || value.domains !== "" || undefined}>
        <summary className="cursor-pointer text-xs text-ink-3 hover:text-ink">Profile and domains</summary>
        <div className="mt-3 flex flex-col gap-4">
          <Field
            label="Profile"
            hint={
              profiles.data?.length === 0 ? (
                <>
                  A profile holds sign-ins for the browser to begin with. <TextLink href="/profiles">Make one</TextLink>
                </>
              ) : (
                "The cookies and storage that the browser begins with."
              )
            }
            error={wrongWith(error, "profile_id")}
          >
            {(wired) => (
              <ProfileSelect {...wired} none="None: a fresh browser" value={value.profileId} onChange={(profileId) => onChange({ ...value, profileId })} />
            )}
          </Field>
          {value.profileId !== "" && (
            <label className="flex items-center gap-2 text-sm">
              <input
                type="checkbox"
                className="size-4 accent-accent"
                checked={value.saveProfile}
                onChange={(event) => onChange({ ...value, saveProfile: event.target.checked })}
              />
              Save the profile again when the run ends well
            </label>
          )}
          <Field label="Allowed domains" hint="The browser reaches nothing else. Empty allows all." error={wrongWith(error, "allowed_domains")}>
            {(wired) => (
              <Input
                {...wired}
                value={value.domains}
                placeholder="example.com, *.example.org"
                spellCheck={false}
                onChange={(event) => onChange({ ...value, domains: event.target.value })}
              />
            )}
          </Field>
        </div>
      </details>
    </>
  );
}

function ParameterField({ parameter, value, error, onChange }: {
  parameter: Parameter;
  value: string;
  error?: string;
  onChange: (text: string) => void;
}) {
  const { label, description, kind, required, options, schema, inputType } = parameter;
  const change = (event: { target: { value: string } }) => onChange(event.target.value);
  const number = kind === "integer" || kind === "number";
  return (
    <Field label={required ? `${label} (needed)` : label} hint={description} error={error}>
      {(wired) => {
        const common = { ...wired, value, onChange: change, "aria-required": required || undefined };
        if (kind === "choice" || kind === "boolean") {
          const choices = kind === "boolean" ? [{ value: "true", label: "Yes" }, { value: "false", label: "No" }] : options;
          return (
            <Select {...common}>
              {!(choices.some((choice) => choice.value === value) && required) && <option value="">{required ? "Choose…" : parameter.initial ? "As by default" : "Not given"}</option>}
              {choices.map((choice) => (
                <option key={choice.value} value={choice.value}>
                  {choice.label}
                </option>
              ))}
            </Select>
          );
        }
        if (kind === "json") return <Textarea {...common} rows={4} spellCheck={false} className="font-mono text-xs!" />;
        if (kind === "long") return <Textarea {...common} rows={3} />;
        return (
          <Input
            {...common}
            type={number ? "number" : inputType}
            step={kind === "integer" ? 1 : number ? "any" : undefined}
            min={limit(schema.minimum)}
            max={limit(schema.maximum)}
            placeholder={number && parameter.initial ? parameter.initial : example(schema)}
          />
        );
      }}
    </Field>
  );
}

function limit(value: unknown): number | undefined {
  return typeof value === "number" ? value : undefined;
}

function example(schema: Json): string | undefined {
  const first: unknown = Array.isArray(schema.examples) ? schema.examples[0] : undefined;
  return typeof first === "string" || typeof first === "number" ? String(first) : undefined;
}
