"use client";

import Link from "next/link";
import { usePathname } from "next/navigation";

import { useMe } from "@/features/me";
import { usePendingApprovals } from "@/features/approvals/queries";
import { cn } from "@/lib/cn";

import { AccountMenu } from "./account-menu";
import { Logo } from "./logo";
import { PLACES } from "./navigation";

export function Sidebar({ onNavigate }: { onNavigate?: () => void }) {
  const path = usePathname();
  const me = useMe();
  const pending = usePendingApprovals();
  const waiting = pending.data?.length ?? 0;
  return (
    <div className="flex h-full flex-col gap-4 p-3">
      <Link href="/" onClick={onNavigate} className="flex items-center gap-2 rounded-md px-2 py-1.5 font-semibold">
        <Logo className="size-5" />
        CUA
      </Link>
      <nav aria-label="Main" className="min-h-0 flex-1 overflow-y-auto">
        <ul className="flex flex-col gap-0.5">
          {PLACES.filter((place) => !place.admin || me.data?.role === "admin").map(({ href, label, icon: Icon }) => {
            const here = href === "/" ? path === "/" : path.startsWith(href);
            return (
              <li key={href}>
                <Link
                  href={href}
                  onClick={onNavigate}
                  aria-current={here ? "page" : undefined}
                  className={cn(
                    "flex h-8 items-center gap-2.5 rounded-md px-2 text-sm transition-colors",
                    here ? "bg-sunken font-medium text-ink" : "text-ink-2 hover:bg-sunken hover:text-ink",
                  )}
                >
                  <Icon className="size-4 text-ink-3" aria-hidden />
                  <span className="flex-1">{label}</span>
                  {href === "/approvals" && waiting > 0 && (
                    <span className="rounded-full bg-warn-soft px-1.5 text-2xs font-semibold text-warn">
                      {waiting}
                      <span className="sr-only"> waiting</span>
                    </span>
                  )}
                </Link>
              </li>
            );
          })}
        </ul>
      </nav>
      <AccountMenu />
    </div>
  );
}
