"use client";

import { useEffect, useRef, useState } from "react";

import { LoadFailure } from "@/components/load-failure";
import { ENDED } from "@/components/run-status";
import { Page } from "@/components/ui/page";
import { Skeletons } from "@/components/ui/states";
import { Tabs } from "@/components/ui/tabs";
import { Chat } from "@/features/chat/chat";
import { useDrafts } from "@/features/chat/drafts";
import { useFrames } from "@/features/recording/frames";
import type { RunRead, RunStatus, StepRead } from "@/lib/api";

import { useRunActions } from "./actions";
import { Attention } from "./attention";
import { Events } from "./events";
import { useMessages, useRun, useSteps } from "./queries";
import { questionOf } from "./reasons";
import { Result } from "./result";
import { RunButtons, RunFacts } from "./run-header";
import { RunView } from "./run-view";
import { useSelection } from "./selection";
import { Timeline } from "./timeline";

/** When there is something to do or to know above the tabs. */
const CALLS = new Set<RunStatus>(["failed", "paused", "waiting_approval", "waiting_user"]);

const NO_STEPS: StepRead[] = [];

/** One run: its browser, what it does, and everything a person can do about it. */
export function RunScreen({ id }: { id: string }) {
  const run = useRun(id);
  if (run.isPending) {
    return (
      <Page title="Run" wide>
        <div className="grid gap-4 lg:grid-cols-[minmax(0,1.75fr)_minmax(21rem,1fr)] lg:gap-6">
          <div className="skeleton aspect-video w-full" />
          <Skeletons count={7} className="h-10" />
        </div>
      </Page>
    );
  }
  if (run.isError) {
    return (
      <Page title="Run" wide>
        <LoadFailure title="The run could not be read" error={run.error} retry={() => void run.refetch()} />
      </Page>
    );
  }
  return <Loaded key={id} run={run.data} />;
}

function Loaded({ run }: { run: RunRead }) {
  const steps = useSteps(run.id);
  const frames = useFrames(run.id);
  const messages = useMessages(run.id);
  const drafts = useDrafts(run.id, messages.data);
  const actions = useRunActions(run.id);
  const [selection, select] = useSelection();
  const [tab, setTab] = useState("timeline");
  const ended = ENDED.has(run.status);
  const known = steps.data ?? NO_STEPS;
  const agent = known.some((step) => step.type === "agent") || (messages.data?.length ?? 0) > 0;
  const question = questionOf(run, steps.data);
  const current = selection.frame === null ? null : (frames.data?.frames.find((frame) => frame.number === selection.frame)?.step ?? null);
  const pane = useRef<HTMLDivElement>(null);
  // What a person has to see now stands at the top.
  const calls = CALLS.has(run.status) && !(tab === "chat" && question !== null);
  useEffect(() => {
    if (calls) pane.current?.scrollTo({ top: 0 });
  }, [calls]);
  const showStep = (step: number) => {
    setTab("timeline");
    select({ step });
  };
  return (
    <Page
      title={run.title}
      description={<RunFacts run={run} ended={ended} />}
      actions={<RunButtons run={run} ended={ended} agent={agent} actions={actions} />}
      wide
    >
      <div className="grid items-start gap-4 lg:grid-cols-[minmax(0,1.75fr)_minmax(21rem,1fr)] lg:gap-6">
        <div className="min-w-0">
          <RunView run={run} steps={known} ended={ended} selection={selection} onSelect={select} />
        </div>
        <div ref={pane} data-pane className="flex min-w-0 flex-col gap-4 lg:h-[calc(100dvh-7.75rem)] lg:-mx-1 lg:min-h-96 lg:overflow-y-auto lg:px-1 [&>*]:shrink-0">
          <Attention run={run} question={question} inChat={tab === "chat"} actions={actions} onStep={showStep} />
          <Tabs
            label="About the run"
            className="[&>[role=tablist]]:sticky [&>[role=tablist]]:top-12 [&>[role=tablist]]:z-10 [&>[role=tablist]]:bg-canvas lg:[&>[role=tablist]]:top-0 [&>[role=tabpanel]]:pt-3"
            value={tab}
            onChange={setTab}
            tabs={[
              {
                id: "timeline",
                label: "Timeline",
                content: (
                  <Timeline runId={run.id} state={ended ? "ended" : run.status === "running" ? "running" : "waiting"} selected={selection.step} current={current} onSelect={(step) => select({ step })} />
                ),
              },
              {
                id: "chat",
                label: (
                  <>
                    Chat
                    {question !== null && <span className="size-1.5 rounded-full bg-warn" role="img" aria-label="It asks you something" />}
                  </>
                ),
                content: <Chat runId={run.id} listens={agent && !ended} question={question} drafts={ended ? [] : drafts} />,
              },
              { id: "result", label: "Result", content: <Result run={run} ended={ended} agent={agent} actions={actions} /> },
              { id: "events", label: "Events", content: <Events runId={run.id} /> },
            ]}
          />
        </div>
      </div>
    </Page>
  );
}
