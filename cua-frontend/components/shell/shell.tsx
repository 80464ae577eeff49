"use client";

import { Menu as MenuIcon, Plus, Search } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { Dialog as Radix, VisuallyHidden } from "radix-ui";
import { createContext, type ReactNode, useCallback, useContext, useMemo, useState } from "react";

import { Button } from "@/components/ui/button";
import { NewTask } from "@/features/runs/new-task";
import { useShortcuts } from "@/lib/shortcuts";

import { Commands } from "./commands";
import { ConnectionNotice } from "./connection";
import { Logo } from "./logo";
import { PLACES } from "./navigation";
import { ShortcutSheet } from "./shortcut-sheet";
import { Sidebar } from "./sidebar";

interface ShellActions {
  startTask: () => void;
}

const ShellContext = createContext<ShellActions>({ startTask: () => undefined });

/** What every screen may ask of the frame around it. */
export function useShell(): ShellActions {
  return useContext(ShellContext);
}

/** The frame around all screens: navigation, search, shortcuts, and word of the connection. */
export function Shell({ children }: { children: ReactNode }) {
  const router = useRouter();
  const [open, setOpen] = useState<"commands" | "shortcuts" | "task" | "menu" | null>(null);
  const toggle = (name: typeof open) => (shown: boolean) => setOpen(shown ? name : null);
  const actions = useMemo(() => ({ startTask: () => setOpen("task") }), []);
  useShortcuts(
    useCallback(
      (keys: string) => {
        const place = PLACES.find((each) => each.keys === keys);
        if (place) router.push(place.href);
        else if (keys === "mod+k") setOpen("commands");
        else if (keys === "?") setOpen("shortcuts");
        else if (keys === "c") setOpen("task");
      },
      [router],
    ),
  );
  return (
    <ShellContext value={actions}>
      <a href="#content" className="sr-only focus:not-sr-only focus:fixed focus:top-2 focus:left-2 focus:z-50 focus:rounded-md focus:bg-raised focus:px-3 focus:py-2">
        Skip to content
      </a>
      <div className="flex min-h-dvh">
        <aside className="sticky top-0 hidden h-dvh w-56 shrink-0 border-r border-line bg-surface lg:block">
          <Sidebar />
        </aside>
        <div className="flex min-w-0 flex-1 flex-col">
          <div className="sticky top-0 z-30">
            <header className="flex h-12 items-center gap-2 border-b border-line bg-surface px-3 lg:hidden">
              <Button look="ghost" size="icon" aria-label="Menu" onClick={() => setOpen("menu")}>
                <MenuIcon />
              </Button>
              <Link href="/" className="flex items-center gap-2 font-semibold">
                <Logo className="size-5" />
                CUA
              </Link>
              <span className="flex-1" />
              <Button look="ghost" size="icon" aria-label="Search" onClick={() => setOpen("commands")}>
                <Search />
              </Button>
              <Button look="primary" size="icon" aria-label="Start a task" onClick={() => setOpen("task")}>
                <Plus />
              </Button>
            </header>
            <ConnectionNotice />
          </div>
          <main id="content" tabIndex={-1} className="flex min-w-0 flex-1 flex-col outline-none">
            {children}
          </main>
        </div>
      </div>
      <Radix.Root open={open === "menu"} onOpenChange={toggle("menu")}>
        <Radix.Portal>
          <Radix.Overlay className="fixed inset-0 z-40 bg-black/45" />
          <Radix.Content aria-describedby={undefined} className="fixed inset-y-0 left-0 z-50 w-64 border-r border-line bg-surface">
            <VisuallyHidden.Root>
              <Radix.Title>Menu</Radix.Title>
            </VisuallyHidden.Root>
            <Sidebar onNavigate={() => setOpen(null)} />
          </Radix.Content>
        </Radix.Portal>
      </Radix.Root>
      <Commands open={open === "commands"} onOpenChange={toggle("commands")} onNewTask={() => setOpen("task")} />
      <ShortcutSheet open={open === "shortcuts"} onOpenChange={toggle("shortcuts")} />
      <NewTask open={open === "task"} onOpenChange={toggle("task")} />
    </ShellContext>
  );
}
