import type { Metadata } from "next";
import { Suspense } from "react";

import { ResetForm } from "@/features/sign-in/mail-forms";

export const metadata: Metadata = { title: "New password" };

export default function ResetFormPage() {
  return (
    <Suspense>
      <ResetForm />
    </Suspense>
  );
}
