"use client";

import { QueryClient, QueryClientProvider } from "@tanstack/react-query";
import { Tooltip } from "radix-ui";
import { type ReactNode, useState } from "react";

import { Toaster } from "@/components/ui/toast";
import { AuthProvider } from "@/lib/auth/provider";
import { EventsProvider } from "@/lib/events";
import { Problem } from "@/lib/problem";
import { ThemeProvider } from "@/lib/theme";

/** What is worth asking again: a server that was away, not one that said no. */
function worthRetrying(failures: number, error: Error): boolean {
  if (failures >= 3) return false;
  return !(error instanceof Problem) || error.status === 0 || error.status >= 500 || error.status === 429;
}

export function Providers({ children }: { children: ReactNode }) {
  const [cache] = useState(
    () =>
      new QueryClient({
        defaultOptions: {
          // The socket keeps what is cached up to date.
          queries: { staleTime: 60_000, retry: worthRetrying, refetchOnWindowFocus: false },
        },
      }),
  );
  return (
    <QueryClientProvider client={cache}>
      <ThemeProvider>
        <Tooltip.Provider delayDuration={300}>
          <AuthProvider>
            <EventsProvider>{children}</EventsProvider>
          </AuthProvider>
          <Toaster />
        </Tooltip.Provider>
      </ThemeProvider>
    </QueryClientProvider>
  );
}
