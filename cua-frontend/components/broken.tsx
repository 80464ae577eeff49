import Link from "next/link";

import { Button } from "./ui/button";

/** What is shown in place of a screen that failed. */
export function Broken({ error, retry }: { error: Error & { digest?: string }; retry: () => void }) {
  return (
    <div role="alert" className="flex min-h-[60dvh] flex-1 flex-col items-center justify-center gap-3 px-4 text-center">
      <h1 className="text-lg font-semibold">This page stumbled</h1>
      <p className="max-w-md text-sm text-ink-3">
        Something in it went wrong. Your runs go on all the same, and nothing that was saved is lost. Try again, or reload the page.
      </p>
      <p className="max-w-md font-mono text-xs break-words text-ink-3">{error.digest ?? error.message}</p>
      <div className="mt-2 flex gap-2">
        <Button look="primary" onClick={retry}>
          Try again
        </Button>
        <Button asChild>
          <Link href="/">Go home</Link>
        </Button>
      </div>
    </div>
  );
}
