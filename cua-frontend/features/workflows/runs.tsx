"use client";

import { Activity, Play } from "lucide-react";

import { List, useList } from "@/components/list";
import { Button } from "@/components/ui/button";
import { Empty } from "@/components/ui/states";
import { RUN_ROW, RunRow } from "@/features/runs/run-row";
import { listRuns } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

export function WorkflowRuns({ workflowId, onRun }: { workflowId: string; onRun: () => void }) {
  const filters = { workflow_id: workflowId };
  const runs = useList(keys.list("run", filters), (cursor) => page(listRuns({ query: { ...filters, cursor } })));
  return (
    <div className="pt-4">
      <List
        query={runs}
        label="Runs"
        failed="The runs could not be read"
        row={RUN_ROW}
        empty={
          <Empty
            icon={<Activity />}
            title="It has not run yet"
            action={
              <Button look="primary" onClick={onRun}>
                <Play aria-hidden />
                Run
              </Button>
            }
          >
            Each run keeps its steps, pictures, files and results.
          </Empty>
        }
      >
        {(run) => <RunRow run={run} ofOneWorkflow />}
      </List>
    </div>
  );
}
