"use client";

import type { ReactNode } from "react";

import { NothingHere } from "@/components/nothing-here";
import { PageTabs } from "@/components/page-tabs";
import { Page } from "@/components/ui/page";
import { Failure, Skeletons } from "@/components/ui/states";
import { useMe } from "@/features/me";

const TABS = [
  ["/admin", "Overview"],
  ["/admin/users", "Users"],
  ["/admin/runs", "Runs"],
] as const;

/** What only administrators see; for others there is nothing. The API refuses them all the same. */
export function AdminOnly({ children }: { children: ReactNode }) {
  const me = useMe();
  if (me.data && me.data.role !== "admin") return <NothingHere />;
  return (
    <Page title="Admin" description="Whose and how much, never what.">
      {me.data ? (
        <>
          <PageTabs label="Admin" tabs={TABS} />
          {children}
        </>
      ) : me.error ? (
        <Failure title="Your account could not be read" error={me.error} retry={() => void me.refetch()} />
      ) : (
        <Skeletons />
      )}
    </Page>
  );
}
