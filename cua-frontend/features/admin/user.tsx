"use client";

import { useQuery } from "@tanstack/react-query";
import { ArrowLeft } from "lucide-react";
import Link from "next/link";
import { useState } from "react";

import { CopyButton } from "@/components/copy-button";
import { Facts } from "@/components/facts";
import { LoadFailure } from "@/components/load-failure";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { useMe } from "@/features/me";
import { readUser, type UserRead, type UserUpdate } from "@/lib/api";
import { call } from "@/lib/client";
import { bytes, dateTime } from "@/lib/format";
import { keys } from "@/lib/keys";

import { AllRuns } from "./all-runs";
import { LimitsForm } from "./limits-form";
import { useUpdateUser } from "./queries";
import { UserBadges } from "./users";

export function User({ id }: { id: string }) {
  const user = useQuery({ queryKey: keys.one("user", id), queryFn: () => call(readUser({ path: { user: id } })) });
  return (
    <div className="flex flex-col gap-5">
      <Link href="/admin/users" className="flex items-center gap-1.5 self-start text-sm text-ink-3 hover:text-ink">
        <ArrowLeft className="size-4" aria-hidden /> All users
      </Link>
      {user.data ? (
        <Shown user={user.data} />
      ) : user.error ? (
        <LoadFailure title="The user could not be read" error={user.error} retry={() => void user.refetch()} />
      ) : (
        <Skeletons count={3} className="h-28" />
      )}
    </div>
  );
}

function Shown({ user }: { user: UserRead }) {
  const isMe = useMe().data?.id === user.id;
  const [asked, setAsked] = useState<"disable" | "role" | null>(null);
  const update = useUpdateUser(user.id);
  const name = user.name || user.email || user.id;
  const isAdmin = user.role === "admin";
  const change = (body: UserUpdate, done: string) =>
    update.mutate(body, {
      onSuccess: () => {
        setAsked(null);
        toast.done(done);
      },
      onError: (error) => toast.failed("Not changed", error),
    });
  return (
    <>
      <section className="flex flex-col gap-3 rounded-xl border border-line bg-surface px-5 py-4">
        <div className="flex flex-wrap items-center gap-x-3 gap-y-2">
          <h2 className="min-w-0 truncate text-base font-semibold">{name}</h2>
          <UserBadges user={user} />
          <span className="flex-1" />
          {isMe ? (
            <p className="text-xs text-ink-3">This is you; others change your role, or disable you.</p>
          ) : (
            <div className="flex gap-2">
              <Button size="sm" onClick={() => setAsked("role")}>
                {isAdmin ? "Take the role away" : "Make an administrator"}
              </Button>
              {user.disabled_at ? (
                <Button size="sm" busy={update.isPending} onClick={() => change({ disabled: false }, `${name} may sign in again`)}>
                  Enable
                </Button>
              ) : (
                <Button size="sm" look="danger" onClick={() => setAsked("disable")}>
                  Disable
                </Button>
              )}
            </div>
          )}
        </div>
        <Facts
          facts={[
            [
              "Id",
              <span key="id" className="flex min-w-0 items-center gap-1 font-mono text-xs">
                <span className="break-all">{user.id}</span>
                <CopyButton size="icon" look="ghost" label="Copy the id" text={user.id} />
              </span>,
            ],
            ["Email", user.email ?? "–"],
            ["Files", bytes(user.stored_bytes)],
            ["Here since", dateTime(user.created_at)],
            user.disabled_at ? ["Disabled since", dateTime(user.disabled_at)] : null,
          ]}
        />
      </section>
      <LimitsForm user={user} />
      <AllRuns owner={user.id} />
      <Confirm
        open={asked === "disable"}
        onOpenChange={() => setAsked(null)}
        title={`Disable ${name}?`}
        description="Every sign-in and key is refused at once, and what runs is ended. Nothing is deleted."
        action="Disable"
        busy={update.isPending}
        onConfirm={() => change({ disabled: true }, `${name} is disabled`)}
      />
      <Confirm
        open={asked === "role"}
        onOpenChange={() => setAsked(null)}
        title={isAdmin ? `Take the role of ${name} away?` : `Make ${name} an administrator?`}
        description={
          isAdmin
            ? "They see and change nobody else's limits and runs any more."
            : "They see all users and how runs go, change limits, disable users and cancel runs."
        }
        action={isAdmin ? "Take it away" : "Make an administrator"}
        busy={update.isPending}
        onConfirm={() => change({ role: isAdmin ? "user" : "admin" }, isAdmin ? `${name} is a user` : `${name} is an administrator`)}
      />
    </>
  );
}
