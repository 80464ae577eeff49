import type { Metadata } from "next";
import { Suspense } from "react";

import { VerifyNotice } from "@/features/sign-in/mail-forms";

export const metadata: Metadata = { title: "Your address" };

export default function VerifyNoticePage() {
  return (
    <Suspense>
      <VerifyNotice />
    </Suspense>
  );
}
