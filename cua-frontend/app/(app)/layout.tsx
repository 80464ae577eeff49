"use client";

import { usePathname, useRouter } from "next/navigation";
import { type ReactNode, useEffect } from "react";

import { Shell } from "@/components/shell/shell";
import { Splash } from "@/components/shell/splash";
import { Region } from "@/features/preferences";
import { useSession } from "@/lib/auth/session";

/** Everything behind sign-in. */
export default function AppLayout({ children }: { children: ReactNode }) {
  const { status, failure } = useSession();
  const router = useRouter();
  const path = usePathname();
  useEffect(() => {
    if (status === "signed-out") router.replace(path === "/" ? "/sign-in" : `/sign-in?next=${encodeURIComponent(path + location.search)}`);
  }, [status, router, path]);
  if (status !== "signed-in") return <Splash failure={status === "failed" ? failure : undefined} />;
  return (
    <Shell>
      <Region />
      {children}
    </Shell>
  );
}
