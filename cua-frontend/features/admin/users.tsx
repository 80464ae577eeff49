"use client";

import { CircleUserRound } from "lucide-react";
import Link from "next/link";
import { useState } from "react";

import { Choice, SearchField } from "@/components/filter-bar";
import { List, useList } from "@/components/list";
import { ResourceRow } from "@/components/resource-row";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Empty } from "@/components/ui/states";
import { listUsers, type UserRead } from "@/lib/api";
import { page } from "@/lib/client";
import { bytes } from "@/lib/format";
import { keys } from "@/lib/keys";

const CHOICES = [
  ["all", "All"],
  ["admin", "Administrators"],
  ["disabled", "Disabled"],
] as const;
const FILTERS = { all: {}, admin: { role: "admin" }, disabled: { disabled: true } } as const;

export function Users() {
  const [choice, setChoice] = useState<keyof typeof FILTERS>("all");
  const [q, setQ] = useState("");
  const filters = { ...FILTERS[choice], ...(q && { q }) };
  const users = useList(keys.list("user", filters), (cursor) => page(listUsers({ query: { ...filters, cursor } })));
  return (
    <div className="flex flex-col gap-4">
      <h2 className="sr-only">Users</h2>
      <div className="flex flex-wrap items-center gap-3">
        <SearchField label="Name, email or id" onChange={setQ} />
        <Choice label="Which users" options={CHOICES} value={choice} onChange={setChoice} />
      </div>
      <List
        query={users}
        label="Users"
        failed="The users could not be read"
        empty={
          <Empty icon={<CircleUserRound />} title="No such users">
            Nobody fits. Look for other words, or choose “All”.
          </Empty>
        }
      >
        {(user) => (
          <ResourceRow
            icon={<CircleUserRound />}
            title={
              <Link href={`/admin/users/${encodeURIComponent(user.id)}`} className="underline-offset-2 hover:underline">
                {user.name || user.email || user.id}
              </Link>
            }
            badges={<UserBadges user={user} />}
            detail={
              <>
                {user.name && user.email ? `${user.email} · ` : ""}
                {bytes(user.stored_bytes)} of files · since <Ago at={user.created_at} />
              </>
            }
          />
        )}
      </List>
    </div>
  );
}

export function UserBadges({ user }: { user: UserRead }) {
  return (
    <>
      {user.role === "admin" && <Badge look="accent">Administrator</Badge>}
      {user.disabled_at && <Badge look="bad">Disabled</Badge>}
    </>
  );
}
