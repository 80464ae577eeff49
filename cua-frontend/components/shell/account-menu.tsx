"use client";

import { ChevronsUpDown, LogOut, Monitor, Moon, Sun } from "lucide-react";

import { Menu } from "@/components/ui/menu";
import { toast } from "@/components/ui/toast";
import { useMe } from "@/features/me";
import { useSession } from "@/lib/auth/session";
import { useTheme } from "@/lib/theme";

export function AccountMenu() {
  const me = useMe();
  const session = useSession();
  const { theme, setTheme } = useTheme();
  const name = me.data?.name || me.data?.email || "Account";
  return (
    <Menu
      align="start"
      trigger={
        <button
          type="button"
          className="flex h-11 items-center gap-2.5 rounded-md px-2 text-left hover:bg-sunken"
        >
          <span aria-hidden className="flex size-7 shrink-0 items-center justify-center rounded-full bg-accent-soft text-xs font-semibold text-accent-strong uppercase">
            {name.slice(0, 1)}
          </span>
          <span className="min-w-0 flex-1">
            <span className="sr-only">Account: </span>
            <span className="block truncate text-sm font-medium">{name}</span>
            {me.data?.name && <span className="block truncate text-xs text-ink-3">{me.data.email}</span>}
          </span>
          <ChevronsUpDown className="size-4 text-ink-3" aria-hidden />
        </button>
      }
      items={[
        { label: theme === "light" ? "Light ✓" : "Light", icon: <Sun />, onSelect: () => setTheme("light") },
        { label: theme === "dark" ? "Dark ✓" : "Dark", icon: <Moon />, onSelect: () => setTheme("dark") },
        { label: theme === "system" ? "As the system ✓" : "As the system", icon: <Monitor />, onSelect: () => setTheme("system") },
        null,
        {
          label: "Sign out",
          icon: <LogOut />,
          onSelect: () => void session.signOut().catch((error: unknown) => toast.failed("Not signed out", error)),
        },
      ]}
    />
  );
}
