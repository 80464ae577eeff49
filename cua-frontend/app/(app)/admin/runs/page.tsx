import type { Metadata } from "next";

import { AllRuns } from "@/features/admin/all-runs";

export const metadata: Metadata = { title: "All runs" };

export default function AllRunsPage() {
  return <AllRuns />;
}
