import { Badge, type Look } from "@/components/ui/badge";
import type { DeliveryStatus } from "@/lib/api";

const SHOWN: Record<DeliveryStatus, { label: string; look: Look }> = {
  pending: { label: "Pending", look: "accent" },
  succeeded: { label: "Succeeded", look: "good" },
  failed: { label: "Failed", look: "bad" },
};

export function DeliveryBadge({ status }: { status: DeliveryStatus }) {
  const { label, look } = SHOWN[status];
  return (
    <Badge look={look} pulse={status === "pending"}>
      {label}
    </Badge>
  );
}
