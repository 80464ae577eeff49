import type { Metadata } from "next";
import { Suspense } from "react";

import { Entrance } from "@/features/sign-in/entrance";

export const metadata: Metadata = { title: "Sign in" };

export default function EntrancePage() {
  return (
    <Suspense>
      <Entrance action="login" />
    </Suspense>
  );
}
