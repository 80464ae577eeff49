"use client";

import { ArrowDown, ArrowUp, CircleAlert, Copy, Ellipsis, GripVertical, Plus, Puzzle, Trash2 } from "lucide-react";
import { type DragEvent, type ReactNode, useState } from "react";

import { Button } from "@/components/ui/button";
import { Menu } from "@/components/ui/menu";
import { cn } from "@/lib/cn";
import type { Json } from "@/lib/json";

import { AddStepMenu } from "./add-step";
import { stepType } from "./catalog";
import { insertStep, moveStep, placeOf, type Pointer, removeStep, stepAt, stepsAt, summary, type Wrong, wrongWithStep } from "./definition";

interface Held {
  from: Pointer;
  /** Where it would go: before this place of this list. */
  to: { list: Pointer; index: number } | null;
}

interface TreeProps {
  definition: Json;
  problems: Wrong[];
  selected: Pointer | null;
  onSelect: (at: Pointer | null) => void;
  onChange: (definition: Json) => void;
  /** What is shown below the selected step, where there is no room beside. */
  inline?: ReactNode;
}

interface BranchProps extends TreeProps {
  list: Pointer;
  label: string;
  held: Held | null;
  setHeld: (held: Held | null) => void;
}

/** The steps of a workflow, and those inside of them, to choose, order, add and delete. */
export function StepTree(props: TreeProps) {
  const [held, setHeld] = useState<Held | null>(null);
  return <Branch {...props} list="/steps" label="Steps" held={held} setHeld={setHeld} />;
}

function Branch(props: BranchProps) {
  const { definition, list, label, selected, held, setHeld, onSelect, onChange } = props;
  const steps = stepsAt(definition, list);
  const chosen = selected === null ? null : placeOf(selected);
  const next = chosen?.list === list ? chosen.index + 1 : steps.length;
  const drop = () => {
    if (!held?.to) return setHeld(null);
    const moved = moveStep(definition, held.from, held.to.list, held.to.index);
    setHeld(null);
    if (!moved) return;
    onChange(moved.definition);
    onSelect(moved.at);
  };
  const marked = (index: number) => held?.to?.list === list && held.to.index === index;
  return (
    <div className="flex flex-col gap-1">
      <ol aria-label={label} className="flex flex-col">
        {steps.map((step, index) => (
          <li key={index} className={cn("border-y-2 border-transparent", marked(index) && "border-t-accent", marked(index + 1) && index === steps.length - 1 && "border-b-accent")}>
            <StepRow {...props} step={step} index={index} last={index === steps.length - 1} onDrop={drop} />
          </li>
        ))}
      </ol>
      <div
        className={cn("rounded-md", held && "outline-1 outline-dashed outline-line-strong", marked(steps.length) && steps.length === 0 && "outline-accent!")}
        onDragOver={(event) => {
          if (!held || list.startsWith(`${held.from}/`)) return;
          event.preventDefault();
          event.stopPropagation();
          setHeld({ ...held, to: { list, index: steps.length } });
        }}
        onDrop={(event) => {
          event.preventDefault();
          event.stopPropagation();
          drop();
        }}
      >
        <AddStepMenu
          trigger={
            <Button look="ghost" size="sm">
              <Plus aria-hidden />
              {next < steps.length ? `Add after step ${next}` : list === "/steps" ? "Add a step" : `Add to “${label}”`}
            </Button>
          }
          onAdd={(type) => {
            onChange(insertStep(definition, list, next, structuredClone(type.template)));
            onSelect(`${list}/${next}`);
          }}
        />
      </div>
    </div>
  );
}

function StepRow(props: BranchProps & { step: Json; index: number; last: boolean; onDrop: () => void }) {
  const { definition, problems, list, step, index, last, selected, held, setHeld, onSelect, onChange, onDrop, inline } = props;
  const at = `${list}/${index}`;
  const type = stepType(step.type);
  const Icon = type?.icon ?? Puzzle;
  const wrong = wrongWithStep(problems, at, step);
  const isSelected = selected === at;
  const move = (to: number) => {
    const moved = moveStep(definition, at, list, to);
    if (!moved) return;
    onChange(moved.definition);
    onSelect(moved.at);
    focusStep(moved.at);
  };
  const up = () => index > 0 && move(index - 1);
  const down = () => !last && move(index + 2);
  const duplicate = () => {
    const copied = stepAt(definition, at);
    if (!copied) return;
    onChange(insertStep(definition, list, index + 1, structuredClone(copied)));
    onSelect(`${list}/${index + 1}`);
  };
  const remove = () => {
    onChange(removeStep(definition, at));
    onSelect(null);
    focusStep(last ? `${list}/${index - 1}` : at);
  };
  const hold = (event: DragEvent) => {
    if (!held || held.from === at || at.startsWith(`${held.from}/`)) return;
    event.preventDefault();
    event.stopPropagation();
    const box = event.currentTarget.getBoundingClientRect();
    const below = event.clientY > box.top + box.height / 2;
    const to = { list, index: below ? index + 1 : index };
    if (held.to?.list !== to.list || held.to.index !== to.index) setHeld({ ...held, to });
  };
  return (
    <>
      <div
        draggable
        onDragStart={(event) => {
          event.stopPropagation();
          event.dataTransfer.effectAllowed = "move";
          event.dataTransfer.setData("application/x-step", at);
          setHeld({ from: at, to: null });
        }}
        onDragOver={hold}
        onDrop={(event) => {
          event.preventDefault();
          event.stopPropagation();
          onDrop();
        }}
        onDragEnd={() => setHeld(null)}
        className={cn(
          "group relative flex min-h-10 items-center gap-1 rounded-lg border pr-1",
          isSelected ? "border-accent bg-accent-soft" : "border-line bg-surface hover:border-line-strong",
          held?.from === at && "opacity-40",
        )}
      >
        <span aria-hidden className="flex h-10 w-6 shrink-0 cursor-grab items-center justify-center text-ink-3">
          <GripVertical className="size-3.5" />
        </span>
        <button
          type="button"
          data-step={at}
          aria-pressed={isSelected}
          className="flex min-w-0 flex-1 items-center gap-2.5 py-2 text-left after:absolute after:inset-0 after:rounded-lg"
          onClick={() => onSelect(isSelected ? null : at)}
          onKeyDown={(event) => {
            if (event.altKey && event.key === "ArrowUp") up();
            else if (event.altKey && event.key === "ArrowDown") down();
            else return;
            event.preventDefault();
          }}
        >
          <span className="w-4 shrink-0 text-right font-mono text-2xs text-ink-3">{index + 1}</span>
          <Icon className="size-4 shrink-0 text-ink-3" aria-hidden />
          <span className="shrink-0 text-sm font-medium">{type?.label ?? String(step.type)}</span>
          <span className="min-w-0 flex-1 truncate font-mono text-xs text-ink-3">{summary(step)}</span>
          {wrong.length > 0 && (
            <span className="flex shrink-0 items-center gap-1 text-xs font-medium text-bad">
              <CircleAlert className="size-4" aria-hidden />
              {wrong.length}
              <span className="sr-only">{wrong.length === 1 ? " problem" : " problems"}</span>
            </span>
          )}
        </button>
        <div className="relative z-10 flex shrink-0 items-center">
          <span className="hidden group-focus-within:flex group-hover:flex">
            <RowButton label={`Move step ${index + 1} up`} disabled={index === 0} onClick={up}>
              <ArrowUp />
            </RowButton>
            <RowButton label={`Move step ${index + 1} down`} disabled={last} onClick={down}>
              <ArrowDown />
            </RowButton>
          </span>
          <Menu
            trigger={
              <Button look="ghost" size="icon" className="size-7!" aria-label={`More for step ${index + 1}`}>
                <Ellipsis />
              </Button>
            }
            items={[
              { label: "Duplicate", icon: <Copy />, onSelect: duplicate },
              { label: "Move up", icon: <ArrowUp />, disabled: index === 0, onSelect: up },
              { label: "Move down", icon: <ArrowDown />, disabled: last, onSelect: down },
              null,
              { label: "Delete", icon: <Trash2 />, danger: true, onSelect: remove },
            ]}
          />
        </div>
      </div>
      {isSelected && inline}
      {type?.inner.map(({ name, label }) => (
        <div key={name} className="mt-1 ml-4 border-l-2 border-line pl-3">
          <p className="py-0.5 text-2xs font-medium text-ink-3">{label}</p>
          <Branch {...props} list={`${at}/${name}`} label={label} />
        </div>
      ))}
    </>
  );
}

/** Lets the focus go along with a step, once it is drawn where it stands now. */
function focusStep(at: Pointer): void {
  setTimeout(() => document.querySelector<HTMLElement>(`[data-step="${at}"]`)?.focus());
}

function RowButton({ label, disabled, onClick, children }: { label: string; disabled?: boolean; onClick: () => void; children: ReactNode }) {
  return (
    <Button look="ghost" size="icon" className="size-7! [&_svg]:size-3.5!" aria-label={label} disabled={disabled} onClick={onClick}>
      {children}
    </Button>
  );
}
