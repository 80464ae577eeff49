"use client";

import Link from "next/link";
import { usePathname } from "next/navigation";

import { cn } from "@/lib/cn";

/** The pages of a place, as tabs that are links. */
export function PageTabs({ label, tabs }: { label: string; tabs: readonly (readonly [href: string, label: string])[] }) {
  const path = usePathname();
  // The longest that fits: `/admin` is also the beginning of `/admin/users`.
  const [here] = tabs.map(([href]) => href).filter((href) => path === href || path.startsWith(`${href}/`)).sort((a, b) => b.length - a.length);
  return (
    <nav aria-label={label} className="-mt-2 overflow-x-auto border-b border-line">
      <ul className="flex gap-1">
        {tabs.map(([href, name]) => (
          <li key={href}>
            <Link
              href={href}
              // At phone width the row may be longer than the page.
              ref={href === here ? show : undefined}
              aria-current={href === here ? "page" : undefined}
              className={cn(
                "flex h-9 items-center border-b-2 px-3 text-sm whitespace-nowrap -outline-offset-2",
                href === here ? "border-accent font-medium text-ink" : "border-transparent text-ink-3 hover:text-ink",
              )}
            >
              {name}
            </Link>
          </li>
        ))}
      </ul>
    </nav>
  );
}

function show(link: HTMLElement | null): void {
  link?.scrollIntoView({ block: "nearest", inline: "nearest" });
}
