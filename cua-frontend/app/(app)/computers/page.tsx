import type { Metadata } from "next";

import { Computers } from "@/features/computers/computers";

export const metadata: Metadata = { title: "Computers" };

export default function ComputersPage() {
  return <Computers />;
}
