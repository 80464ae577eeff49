"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { useMemo, useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { TimeZoneSelect } from "@/components/time-zone-select";
import { Dialog } from "@/components/ui/dialog";
import { Field, Input, Select } from "@/components/ui/field";
import { Failure, Skeletons } from "@/components/ui/states";
import { TextLink } from "@/components/ui/text-link";
import { toast } from "@/components/ui/toast";
import { wrongParams } from "@/features/workflows/parameters";
import { useWorkflowChoices } from "@/features/workflows/queries";
import { type RunBody, readRunSettings, RUN_FIELDS, runSettings, RunSettingsForm } from "@/features/workflows/run-settings";
import { createSchedule, type Missed, type Overlap, type ScheduleRead, updateSchedule, type WorkflowRead } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";
import { Problem, wrongWith } from "@/lib/problem";
import { useLate } from "@/lib/use-late";

import { cronOf, RHYTHMS, type Rhythm, WEEKDAYS, type When, whenOf } from "./cron";
import { useCronPreview } from "./queries";

const MISSED: Record<Missed, string> = {
  once: "Run once as soon as the server is back",
  skip: "Let them go",
  all: "Make up for each of them, at most the newest hundred",
};
const OVERLAP: Record<Overlap, string> = {
  skip: "Let the new one go",
  queue: "Queue the new one behind it",
};

/** Those that say themselves what is wrong with them. */
const FIELDS = ["workflow_id", "name", "cron", "time_zone", "missed", "overlap", ...RUN_FIELDS];

interface ScheduleDialogProps {
  schedule: ScheduleRead | null;
  /** What a new one is to run. */
  workflowId: string | null;
  onClose: () => void;
}

export function ScheduleDialog({ schedule, workflowId, onClose }: ScheduleDialogProps) {
  const workflows = useWorkflowChoices();
  const title = schedule ? "Edit the schedule" : "New schedule";
  if (workflows.data && workflows.data.length > 0) {
    return <ScheduleForm title={title} workflows={workflows.data} schedule={schedule} workflowId={workflowId} onClose={onClose} />;
  }
  return (
    <Dialog open onOpenChange={(open) => open || onClose()} title={title}>
      {workflows.error ? (
        <Failure title="The workflows could not be read" error={workflows.error} retry={() => void workflows.refetch()} />
      ) : workflows.data ? (
        <p className="text-sm text-ink-2">
          There is nothing to schedule yet. <TextLink href="/workflows">Make or import a workflow</TextLink> first.
        </p>
      ) : (
        <Skeletons count={5} className="h-9" />
      )}
    </Dialog>
  );
}

function ScheduleForm({ title, workflows, schedule, workflowId, onClose }: ScheduleDialogProps & { title: string; workflows: WorkflowRead[] }) {
  const cache = useQueryClient();
  const first = workflows.find(({ id }) => id === (schedule?.workflow_id ?? workflowId)) ?? workflows[0];
  const [workflow, setWorkflow] = useState(first);
  const [name, setName] = useState(schedule?.name ?? "");
  const [when, setWhen] = useState<When>(() => whenOf(schedule?.cron ?? "0 8 * * *"));
  const [own, setOwn] = useState(schedule?.cron ?? "0 8 * * *");
  const [zone, setZone] = useState(schedule?.time_zone ?? Intl.DateTimeFormat().resolvedOptions().timeZone);
  const [missed, setMissed] = useState<Missed>(schedule?.missed ?? "once");
  const [overlap, setOverlap] = useState<Overlap>(schedule?.overlap ?? "skip");
  const [settings, setSettings] = useState(() => runSettings(first?.parameters ?? {}, schedule?.run));
  const [wrong, setWrong] = useState<Record<string, string>>({});
  const cron = cronOf(when, own);
  const schema = workflow?.parameters ?? {};
  const save = useMutation({
    mutationFn: (run: RunBody) => {
      const body = { name: name.trim() || workflow?.name || "Schedule", cron, time_zone: zone, missed, overlap, run: { ...schedule?.run, ...run } };
      return call(
        schedule
          ? updateSchedule({ path: { id: schedule.id }, body })
          : createSchedule({ body: { ...body, workflow_id: workflow?.id ?? "" } }),
      );
    },
    onSuccess: (stored) => {
      if (!put(cache, "schedule", { ...stored })) void cache.invalidateQueries({ queryKey: keys.lists("schedule") });
      toast.done(schedule ? "The schedule is saved" : `${stored.name} is scheduled`);
      onClose();
    },
  });
  const said = (field: string) => wrongWith(save.error, field);
  return (
    <FormDialog
      onClose={onClose}
      title={title}
      action={schedule ? "Save" : "Make the schedule"}
      busy={save.isPending}
      error={save.error}
      fields={FIELDS}
      isShown={Object.keys(wrongParams(save.error, schema)).length > 0}
      noValidate
      onSubmit={() => {
        const read = readRunSettings(schema, settings);
        setWrong(read.wrong);
        if (Object.keys(read.wrong).length === 0) save.mutate(read.body);
      }}
    >
      <Field label="Workflow" hint={schedule ? "Of a schedule that is there it cannot be changed." : undefined} error={said("workflow_id")}>
        {(wired) => (
          <Select
            {...wired}
            disabled={schedule !== null}
            value={workflow?.id}
            onChange={(event) => {
              const chosen = workflows.find(({ id }) => id === event.target.value);
              setWorkflow(chosen);
              setSettings(runSettings(chosen?.parameters ?? {}));
              setWrong({});
            }}
          >
            {workflows.map((each) => (
              <option key={each.id} value={each.id}>
                {each.name}
              </option>
            ))}
          </Select>
        )}
      </Field>
      <Field label="Name" error={said("name")}>
        {(wired) => <Input {...wired} value={name} maxLength={200} placeholder={workflow?.name} onChange={(event) => setName(event.target.value)} />}
      </Field>
      <WhenFields when={when} own={own} onWhen={setWhen} onOwn={setOwn} cron={cron} error={said("cron")} />
      <Field label="Time zone" error={said("time_zone")}>
        {(wired) => <TimeZoneSelect {...wired} value={zone} onChange={setZone} />}
      </Field>
      <Preview cron={cron} zone={zone} />
      <RunSettingsForm
        key={workflow?.id}
        schema={schema}
        value={settings}
        wrong={wrong}
        error={save.error}
        onChange={(value) => {
          setSettings(value);
          setWrong({});
        }}
      />
      <details open={missed !== "once" || overlap !== "skip" || undefined}>
        <summary className="cursor-pointer text-xs text-ink-3 hover:text-ink">When it cannot run in time</summary>
        <div className="mt-3 flex flex-col gap-4">
          <Field label="Times that no server was there for" error={said("missed")}>
            {(wired) => <Policies {...wired} options={MISSED} value={missed} onValue={setMissed} />}
          </Field>
          <Field label="While the run before still goes on" error={said("overlap")}>
            {(wired) => <Policies {...wired} options={OVERLAP} value={overlap} onValue={setOverlap} />}
          </Field>
        </div>
      </details>
    </FormDialog>
  );
}

function Policies<T extends string>({ options, value, onValue, ...wired }: {
  options: Record<T, string>;
  value: T;
  onValue: (value: T) => void;
  id: string;
  "aria-describedby"?: string;
  "aria-invalid"?: true;
}) {
  return (
    <Select {...wired} value={value} onChange={(event) => onValue(event.target.value as T)}>
      {Object.entries<string>(options).map(([id, label]) => (
        <option key={id} value={id}>
          {label}
        </option>
      ))}
    </Select>
  );
}

function WhenFields({ when, own, cron, error, onWhen, onOwn }: {
  when: When;
  own: string;
  cron: string;
  error?: string;
  onWhen: (when: When) => void;
  onOwn: (cron: string) => void;
}) {
  const { rhythm } = when;
  return (
    <div className="grid gap-3 sm:grid-cols-2">
      <Field label="How often">
        {(wired) => (
          <Select
            {...wired}
            value={rhythm}
            onChange={(event) => {
              const next = event.target.value as Rhythm;
              if (next === "cron") onOwn(cron);
              onWhen({ ...when, rhythm: next });
            }}
          >
            {RHYTHMS.map(({ id, label }) => (
              <option key={id} value={id}>
                {label}
              </option>
            ))}
          </Select>
        )}
      </Field>
      {rhythm === "hourly" && (
        <Field label="Minute of the hour">
          {(wired) => (
            <Input
              {...wired}
              type="number"
              min={0}
              max={59}
              value={when.minute}
              onChange={(event) => onWhen({ ...when, minute: Math.min(59, Math.max(0, Math.trunc(event.target.valueAsNumber || 0))) })}
            />
          )}
        </Field>
      )}
      {rhythm === "weekly" && (
        <Field label="On">
          {(wired) => (
            <Select {...wired} value={when.weekday} onChange={(event) => onWhen({ ...when, weekday: Number(event.target.value) })}>
              {WEEKDAYS.map((day, number) => (
                <option key={day} value={number}>
                  {day}
                </option>
              ))}
            </Select>
          )}
        </Field>
      )}
      {rhythm === "monthly" && (
        <Field label="On day" hint={when.day > 28 ? "Months without this day are left out." : undefined}>
          {(wired) => (
            <Input
              {...wired}
              type="number"
              min={1}
              max={31}
              value={when.day}
              onChange={(event) => onWhen({ ...when, day: Math.min(31, Math.max(1, Math.trunc(event.target.valueAsNumber || 1))) })}
            />
          )}
        </Field>
      )}
      {rhythm !== "hourly" && rhythm !== "cron" && (
        <Field label="At">
          {(wired) => (
            <Input {...wired} type="time" value={when.time} onChange={(event) => event.target.value && onWhen({ ...when, time: event.target.value })} />
          )}
        </Field>
      )}
      {rhythm === "cron" && (
        <Field label="Cron" hint="minute hour day month weekday" error={error}>
          {(wired) => <Input {...wired} className="font-mono" spellCheck={false} value={own} onChange={(event) => onOwn(event.target.value)} />}
        </Field>
      )}
    </div>
  );
}

/** The sentence and the next five times, in the schedule's own zone. */
function Preview({ cron, zone }: { cron: string; zone: string }) {
  const preview = useCronPreview(useLate(cron, 250), useLate(zone, 250));
  const shown = useMemo(() => {
    try {
      return new Intl.DateTimeFormat("en", { weekday: "short", day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit", hour12: false, timeZone: zone });
    } catch {
      return null;
    }
  }, [zone]);
  return (
    <div aria-live="polite" className="min-h-[7.75rem] rounded-lg bg-sunken px-3 py-2.5 text-sm">
      {preview.error ? (
        <p className="break-words text-bad">{preview.error instanceof Problem ? (preview.error.errors[0]?.msg ?? preview.error.message) : preview.error.message}</p>
      ) : preview.data ? (
        <>
          <p className="font-medium">{preview.data.explanation}</p>
          <ol aria-label="The next times" className="mt-1 text-xs text-ink-2 tabular-nums">
            {preview.data.fires.map((fire) => (
              <li key={fire}>
                <time dateTime={fire}>{shown ? shown.format(Date.parse(fire)) : fire}</time>
              </li>
            ))}
          </ol>
        </>
      ) : (
        <p className="text-ink-3">{cron.trim() === "" ? "Write a cron expression." : "…"}</p>
      )}
    </div>
  );
}
