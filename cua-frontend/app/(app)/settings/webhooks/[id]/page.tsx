import type { Metadata } from "next";

import { Webhook } from "@/features/settings/webhook";

export const metadata: Metadata = { title: "Webhook" };

export default async function WebhookPage({ params }: { params: Promise<{ id: string }> }) {
  return <Webhook id={(await params).id} />;
}
