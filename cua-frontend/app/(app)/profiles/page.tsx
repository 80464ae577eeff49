import type { Metadata } from "next";

import { Profiles } from "@/features/profiles/profiles";

export const metadata: Metadata = { title: "Profiles" };

export default function ProfilesPage() {
  return <Profiles />;
}
