import type { Metadata } from "next";

import { Sessions } from "@/features/settings/sessions";

export const metadata: Metadata = { title: "Sign-ins" };

export default function SessionsPage() {
  return <Sessions />;
}
