import type { Metadata } from "next";
import { Suspense } from "react";

import { Entrance } from "@/features/sign-in/entrance";

export const metadata: Metadata = { title: "Make an account" };

export default function EntrancePage() {
  return (
    <Suspense>
      <Entrance action="register" />
    </Suspense>
  );
}
