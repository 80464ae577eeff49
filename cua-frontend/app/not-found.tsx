import Link from "next/link";

import { Logo } from "@/components/shell/logo";
import { Button } from "@/components/ui/button";

export default function NotFound() {
  return (
    <main className="flex min-h-dvh flex-col items-center justify-center gap-3 px-4 text-center">
      <Logo className="size-10" />
      <h1 className="mt-2 text-lg font-semibold">There is nothing here</h1>
      <p className="max-w-sm text-sm text-ink-3">The address leads nowhere, or what was here has been deleted. Perhaps a letter is missing at its end.</p>
      <Button asChild className="mt-3">
        <Link href="/">Go home</Link>
      </Button>
    </main>
  );
}
