"use client";

import { SignIn, SignUp } from "@clerk/react";

export function ClerkForm({ action }: { action: "login" | "register" }) {
  return action === "login" ? <SignIn routing="path" path="/sign-in" signUpUrl="/register" /> : <SignUp routing="path" path="/register" signInUrl="/sign-in" />;
}
