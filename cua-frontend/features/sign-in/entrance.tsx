"use client";

import dynamic from "next/dynamic";
import { useRouter, useSearchParams } from "next/navigation";
import { useEffect } from "react";

import { Failure } from "@/components/ui/states";
import { useConfig } from "@/lib/auth/provider";
import { useSession } from "@/lib/auth/session";

import { EmbeddedForm } from "./embedded-form";

const ClerkForm = dynamic(() => import("./clerk-form").then((form) => form.ClerkForm), { ssr: false });

/** Where people come in, whichever way that is here; goes on to where they wanted to be. */
export function Entrance({ action }: { action: "login" | "register" }) {
  const config = useConfig();
  const { status, failure } = useSession();
  const router = useRouter();
  const next = useSearchParams().get("next");
  useEffect(() => {
    if (status === "signed-in") router.replace(isOwnPath(next) ? next : "/");
  }, [status, router, next]);
  if (status === "failed") {
    return <Failure title="Nobody can sign in" error={new Error(failure)} retry={() => location.reload()} />;
  }
  if (!config) return <div className="skeleton h-64" aria-busy />;
  return config.auth.mode === "clerk" ? <ClerkForm action={action} /> : <EmbeddedForm action={action} />;
}

/** A link that somebody else made must not lead away from here. */
function isOwnPath(path: string | null): path is string {
  return path !== null && /^\/(?![/\\])/.test(path);
}
