import type { Metadata } from "next";
import { Suspense } from "react";

import { ForgotForm } from "@/features/sign-in/mail-forms";

export const metadata: Metadata = { title: "Forgot the password" };

export default function ForgotFormPage() {
  return (
    <Suspense>
      <ForgotForm />
    </Suspense>
  );
}
