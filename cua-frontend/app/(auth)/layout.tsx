import type { ReactNode } from "react";

import { Logo } from "@/components/shell/logo";

export default function AuthLayout({ children }: { children: ReactNode }) {
  return (
    <main className="flex min-h-dvh flex-col items-center justify-center gap-6 px-4 py-10">
      <div className="flex items-center gap-2 text-lg font-semibold">
        <Logo className="size-7" />
        CUA
      </div>
      <div className="w-full max-w-sm rounded-xl border border-line bg-surface p-6 shadow-raised">{children}</div>
    </main>
  );
}
