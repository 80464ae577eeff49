import type { Metadata } from "next";

import { Computer } from "@/features/computers/computer";

export const metadata: Metadata = { title: "Computer" };

export default async function ComputerPage({ params }: { params: Promise<{ id: string }> }) {
  return <Computer id={(await params).id} />;
}
