import type { RunStatus } from "@/lib/api";

import { Badge, type Look } from "./ui/badge";

const SHOWN: Record<RunStatus, { label: string; look: Look; pulse?: boolean }> = {
  queued: { label: "Queued", look: "plain" },
  running: { label: "Running", look: "accent", pulse: true },
  paused: { label: "Paused", look: "warn" },
  waiting_approval: { label: "Needs approval", look: "warn", pulse: true },
  waiting_user: { label: "Needs you", look: "warn", pulse: true },
  succeeded: { label: "Succeeded", look: "good" },
  failed: { label: "Failed", look: "bad" },
  cancelled: { label: "Cancelled", look: "plain" },
};

export const ENDED: ReadonlySet<RunStatus> = new Set<RunStatus>(["succeeded", "failed", "cancelled"]);
export const WAITING: ReadonlySet<RunStatus> = new Set<RunStatus>(["waiting_approval", "waiting_user"]);

export function RunStatusBadge({ status }: { status: RunStatus }) {
  const { label, look, pulse } = SHOWN[status];
  return (
    <Badge look={look} pulse={pulse}>
      {label}
    </Badge>
  );
}
