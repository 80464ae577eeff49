"use client";

import { Command } from "cmdk";
import { Activity, Plus, Workflow } from "lucide-react";
import { useRouter } from "next/navigation";
import { Dialog as Radix, VisuallyHidden } from "radix-ui";
import { type ReactNode, useState } from "react";

import { RunStatusBadge } from "@/components/run-status";
import { useMe } from "@/features/me";
import { useRecentRuns } from "@/features/runs/queries";
import { useWorkflowChoices } from "@/features/workflows/queries";

import { PLACES } from "./navigation";

const RECENT = 8;

interface CommandsProps {
  open: boolean;
  onOpenChange: (open: boolean) => void;
  onNewTask: () => void;
}

/** Everything by its name: places, recent runs, workflows. */
export function Commands({ open, onOpenChange, onNewTask }: CommandsProps) {
  return (
    <Radix.Root open={open} onOpenChange={onOpenChange}>
      <Radix.Portal>
        <Radix.Overlay className="fixed inset-0 z-40 bg-black/45" />
        <Radix.Content
          aria-describedby={undefined}
          className="fixed top-[12dvh] left-1/2 z-50 w-[calc(100%-2rem)] max-w-xl -translate-x-1/2 overflow-hidden rounded-xl border border-line bg-raised shadow-raised"
        >
          <VisuallyHidden.Root>
            <Radix.Title>Search and commands</Radix.Title>
          </VisuallyHidden.Root>
          <CommandList onClose={() => onOpenChange(false)} onNewTask={onNewTask} />
        </Radix.Content>
      </Radix.Portal>
    </Radix.Root>
  );
}

function CommandList({ onClose, onNewTask }: { onClose: () => void; onNewTask: () => void }) {
  const router = useRouter();
  const [text, setText] = useState("");
  const me = useMe();
  const runs = useRecentRuns().data?.slice(0, text ? undefined : RECENT) ?? [];
  const workflows = useWorkflowChoices().data ?? [];
  const go = (act: () => void) => {
    onClose();
    act();
  };
  return (
    <Command label="Search and commands">
      <Command.Input
        value={text}
        onValueChange={setText}
        placeholder="Search runs, workflows, and places…"
        className="h-12 w-full border-b border-line bg-transparent px-4 text-sm outline-none placeholder:text-ink-3"
      />
      <Command.List className="max-h-[50dvh] overflow-y-auto p-2">
        <Command.Empty className="px-3 py-6 text-center text-sm text-ink-3">Nothing by that name.</Command.Empty>
        <Item icon={<Plus />} value="start a task new run" onSelect={() => go(onNewTask)}>
          Start a task
        </Item>
        <Command.Group heading="Places" className={GROUP}>
          {PLACES.filter((place) => !place.admin || me.data?.role === "admin").map(({ href, label, icon: Icon }) => (
            <Item key={href} icon={<Icon />} value={`go ${label}`} onSelect={() => go(() => router.push(href))}>
              {label}
            </Item>
          ))}
        </Command.Group>
        {runs.length > 0 && (
          <Command.Group heading="Recent runs" className={GROUP}>
            {runs.map((run) => (
              <Item key={run.id} icon={<Activity />} value={`run ${run.title} ${run.id}`} onSelect={() => go(() => router.push(`/runs/${run.id}`))}>
                <span className="min-w-0 flex-1 truncate">{run.title}</span>
                <RunStatusBadge status={run.status} />
              </Item>
            ))}
          </Command.Group>
        )}
        {workflows.length > 0 && (
          <Command.Group heading="Workflows" className={GROUP}>
            {workflows.map(({ id, name }) => (
              <Item key={id} icon={<Workflow />} value={`workflow ${name} ${id}`} onSelect={() => go(() => router.push(`/workflows/${id}`))}>
                <span className="min-w-0 flex-1 truncate">{name}</span>
              </Item>
            ))}
          </Command.Group>
        )}
      </Command.List>
    </Command>
  );
}

const GROUP = "[&_[cmdk-group-heading]]:px-2 [&_[cmdk-group-heading]]:pt-3 [&_[cmdk-group-heading]]:pb-1 [&_[cmdk-group-heading]]:text-xs [&_[cmdk-group-heading]]:text-ink-3";

function Item({ icon, value, onSelect, children }: { icon: ReactNode; value: string; onSelect: () => void; children: ReactNode }) {
  return (
    <Command.Item
      value={value}
      onSelect={onSelect}
      className="flex h-9 items-center gap-2.5 rounded-md px-2 text-sm data-[selected=true]:bg-sunken [&>svg]:size-4 [&>svg]:shrink-0 [&>svg]:text-ink-3"
    >
      {icon}
      {children}
    </Command.Item>
  );
}
