"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { CalendarClock, Pencil, Play, Plus, Trash2 } from "lucide-react";
import Link from "next/link";
import { useRouter, useSearchParams } from "next/navigation";
import { useState } from "react";

import { List } from "@/components/list";
import { MoreMenu } from "@/components/more-menu";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { Switch } from "@/components/ui/switch";
import { toast } from "@/components/ui/toast";
import { useWorkflowChoices } from "@/features/workflows/queries";
import { deleteSchedule, pauseSchedule, resumeSchedule, runSchedule, type ScheduleRead } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

import { useCronPreview, useSchedules } from "./queries";
import { ScheduleDialog } from "./schedule-dialog";

export function ScheduleList() {
  const router = useRouter();
  const asked = useSearchParams();
  const schedules = useSchedules();
  const workflows = useWorkflowChoices();
  const [making, setMaking] = useState(() => asked.get("new") !== null);
  const [editing, setEditing] = useState<ScheduleRead | null>(null);
  const [deleting, setDeleting] = useState<ScheduleRead | null>(null);
  const names = new Map(workflows.data?.map(({ id, name }) => [id, name]));
  const close = () => {
    setMaking(false);
    setEditing(null);
    if (asked.get("new") !== null) router.replace("/schedules");
  };
  const make = (
    <Button look="primary" onClick={() => setMaking(true)}>
      <Plus aria-hidden />
      New schedule
    </Button>
  );
  return (
    <Page title="Schedules" description="Workflows that run by the clock." actions={make}>
      <List
        query={schedules}
        label="Schedules"
        failed="The schedules could not be read"
        row="h-[4.75rem]"
        empty={
          <Empty icon={<CalendarClock />} title="No schedules yet" action={make}>
            A schedule runs a workflow every hour, every Monday morning, or whenever you say. You need a workflow first.
          </Empty>
        }
      >
        {(schedule) => (
          <ScheduleRow
            schedule={schedule}
            workflow={names.get(schedule.workflow_id)}
            onEdit={() => setEditing(schedule)}
            onDelete={() => setDeleting(schedule)}
          />
        )}
      </List>
      {(making || editing) && <ScheduleDialog schedule={editing} workflowId={asked.get("workflow")} onClose={close} />}
      <DeleteSchedule schedule={deleting} onClose={() => setDeleting(null)} />
    </Page>
  );
}

function ScheduleRow({ schedule, workflow, onEdit, onDelete }: {
  schedule: ScheduleRead;
  workflow?: string;
  onEdit: () => void;
  onDelete: () => void;
}) {
  const router = useRouter();
  const { id, name, enabled, cron, time_zone, next_at, last_at } = schedule;
  const preview = useCronPreview(cron, time_zone, 1);
  const toggle = useEnabled(schedule);
  const run = useMutation({
    mutationFn: () => call(runSchedule({ path: { id } })),
    onSuccess: (started) => router.push(`/runs/${started.id}`),
    onError: (error) => toast.failed(`${name} was not run`, error),
  });
  return (
    <div className="flex min-h-[4.75rem] items-center gap-3 px-4 py-3">
      <Switch aria-label={`${name} is on`} checked={enabled} onCheckedChange={toggle} />
      <div className="min-w-0 flex-1">
        <button type="button" className="block max-w-full truncate text-left font-medium hover:underline" onClick={onEdit}>
          {name}
        </button>
        <p className="truncate text-xs text-ink-2">
          {preview.data?.explanation ?? cron}
          <span className="text-ink-3"> · {time_zone}</span>
        </p>
        <p className="truncate text-xs text-ink-3">
          <span className="sm:hidden">{next_at ? <>Next <Ago at={next_at} /></> : "Paused"} · </span>
          <Link href={`/workflows/${schedule.workflow_id}`} className="hover:text-ink hover:underline">
            {workflow ?? "Workflow"}
          </Link>
        </p>
      </div>
      <dl className="hidden w-40 shrink-0 grid-cols-[3rem_1fr] gap-x-2 text-xs sm:grid">
        <dt className="text-ink-3">Next</dt>
        <dd>{next_at ? <Ago at={next_at} /> : <span className="text-ink-3">Paused</span>}</dd>
        <dt className="text-ink-3">Last</dt>
        <dd>
          {last_at ? (
            <Link href={`/runs?schedule_id=${id}`} className="hover:underline">
              <Ago at={last_at} />
            </Link>
          ) : (
            <span className="text-ink-3">Never</span>
          )}
        </dd>
      </dl>
      <Button size="sm" busy={run.isPending} onClick={() => run.mutate()} aria-label={`Run now: ${name}`}>
        <Play aria-hidden />
        <span className="max-sm:sr-only">Run now</span>
      </Button>
      <MoreMenu
        of={name}
        items={[
          { label: "Edit", icon: <Pencil />, onSelect: onEdit },
          null,
          { label: "Delete…", icon: <Trash2 />, danger: true, onSelect: onDelete },
        ]}
      />
    </div>
  );
}

/** Switches at once, and back where the server says no. */
function useEnabled(schedule: ScheduleRead): (enabled: boolean) => void {
  const cache = useQueryClient();
  const { id, name } = schedule;
  const { mutate } = useMutation({
    mutationFn: (enabled: boolean) => call(enabled ? resumeSchedule({ path: { id } }) : pauseSchedule({ path: { id } })),
    onMutate: (enabled) => {
      put(cache, "schedule", { ...schedule, enabled, next_at: enabled ? schedule.next_at : null });
      return schedule; // by the time of an error `schedule` is the changed one
    },
    onSuccess: (stored) => void put(cache, "schedule", { ...stored }),
    onError: (error, enabled, before) => {
      if (before) put(cache, "schedule", { ...before });
      toast.failed(enabled ? `${name} was not switched on` : `${name} was not paused`, error);
    },
  });
  return mutate;
}

function DeleteSchedule({ schedule, onClose }: { schedule: ScheduleRead | null; onClose: () => void }) {
  const cache = useQueryClient();
  const remove = useMutation({
    mutationFn: (id: string) => call(deleteSchedule({ path: { id } })),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: keys.lists("schedule") });
      toast.done("The schedule is deleted");
      onClose();
    },
    onError: (error) => toast.failed("The schedule was not deleted", error),
  });
  return (
    <Confirm
      open={schedule !== null}
      onOpenChange={(open) => !open && onClose()}
      title={`Delete ${schedule?.name ?? "the schedule"}?`}
      description="It fires no more. Its runs stay."
      action="Delete"
      busy={remove.isPending}
      onConfirm={() => schedule && remove.mutate(schedule.id)}
    />
  );
}
