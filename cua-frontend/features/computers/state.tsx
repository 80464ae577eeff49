import { Badge, type Look } from "@/components/ui/badge";
import type { ComputerState } from "@/lib/api";

const SHOWN: Record<ComputerState, { label: string; look: Look }> = {
  opening: { label: "Opening", look: "accent" },
  open: { label: "Open", look: "good" },
  closed: { label: "Closed", look: "plain" },
};

export function ComputerStateBadge({ state }: { state: ComputerState }) {
  const { label, look } = SHOWN[state];
  return (
    <Badge look={look} pulse={state === "opening"}>
      {label}
    </Badge>
  );
}
