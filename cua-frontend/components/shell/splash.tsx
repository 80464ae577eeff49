import { Button } from "@/components/ui/button";

import { Logo } from "./logo";

/** While nobody knows yet who is there, or why that cannot be told. */
export function Splash({ failure }: { failure?: string }) {
  return (
    <main className="flex min-h-dvh flex-col items-center justify-center gap-4 p-6 text-center">
      <Logo className="size-10" />
      {failure ? (
        <div role="alert" className="flex flex-col items-center gap-3">
          <h1 className="text-lg font-semibold">The app cannot start</h1>
          <p className="max-w-md text-sm text-ink-2">{failure}</p>
          <Button onClick={() => location.reload()}>Try again</Button>
        </div>
      ) : (
        <p className="sr-only" role="status">
          Loading
        </p>
      )}
    </main>
  );
}
