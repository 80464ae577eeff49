import type { Metadata } from "next";

import { Webhooks } from "@/features/settings/webhooks";

export const metadata: Metadata = { title: "Webhooks" };

export default function WebhooksPage() {
  return <Webhooks />;
}
