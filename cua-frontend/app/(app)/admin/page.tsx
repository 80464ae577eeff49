import type { Metadata } from "next";

import { Stats } from "@/features/admin/stats";

export const metadata: Metadata = { title: "Admin" };

export default function AdminPage() {
  return <Stats />;
}
