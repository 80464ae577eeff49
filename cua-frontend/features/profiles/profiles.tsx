"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { LogIn, Pencil, Plus, Trash2, UserRoundCog } from "lucide-react";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { NameDialog } from "@/components/form-dialog";
import { List, useList } from "@/components/list";
import { MoreMenu } from "@/components/more-menu";
import { ResourceRow } from "@/components/resource-row";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { createComputer, createProfile, deleteProfile, listProfiles, type ProfileRead, updateProfile } from "@/lib/api";
import { put } from "@/lib/cache";
import { call, page } from "@/lib/client";
import { counted } from "@/lib/format";
import { keys } from "@/lib/keys";

const MOST_DOMAINS = 4;

/** Where browsers are signed in already when they open. */
export function Profiles() {
  const cache = useQueryClient();
  const router = useRouter();
  const [open, setOpen] = useState<"new" | { profile: ProfileRead; as: "rename" | "delete" } | null>(null);
  const profiles = useList(keys.list("profile"), (cursor) => page(listProfiles({ query: { cursor } })));
  const removal = useMutation({
    mutationFn: (profile: ProfileRead) => call(deleteProfile({ path: { id: profile.id } })),
    onSuccess: () => {
      setOpen(null);
      return cache.invalidateQueries({ queryKey: keys.lists("profile") });
    },
    onError: (error) => toast.failed("The profile was not deleted", error),
  });
  const signIn = useMutation({
    mutationFn: (profile: ProfileRead) => call(createComputer({ body: { name: profile.name, profile_id: profile.id } })),
    onSuccess: (computer) => {
      cache.setQueryData(keys.one("computer", computer.id), computer);
      router.push(`/computers/${computer.id}`);
    },
    onError: (error) => toast.failed("No browser could be opened", error),
  });
  const chosen = open === "new" ? null : open;
  const close = () => setOpen(null);
  const make = (
    <Button look="primary" onClick={() => setOpen("new")}>
      <Plus /> New profile
    </Button>
  );
  return (
    <Page title="Profiles" description="Cookies and storage with which a browser begins, so that it is signed in already." actions={make}>
      <List
        query={profiles}
        label="Profiles"
        failed="The profiles could not be read"
        empty={
          <Empty icon={<UserRoundCog />} title="No profiles yet" action={make}>
            Make one, sign in by hand once, and runs that use it begin where you left off.
          </Empty>
        }
      >
        {(profile) => (
          <ResourceRow
            icon={<UserRoundCog />}
            title={profile.name}
            detail={
              profile.saved_at ? (
                <>
                  {domains(profile)} · {counted(profile.cookie_count, "cookie")} · saved <Ago at={profile.saved_at} />
                </>
              ) : (
                "Empty. Sign in by hand and save what the browser keeps."
              )
            }
            actions={
              <>
                <Button
                  size="sm"
                  busy={signIn.isPending && signIn.variables.id === profile.id}
                  disabled={signIn.isPending}
                  onClick={() => signIn.mutate(profile)}
                >
                  <LogIn />
                  <span className="sm:hidden">Sign in</span>
                  <span className="hidden sm:inline">Sign in by hand</span>
                </Button>
                <MoreMenu
                  of={profile.name}
                  items={[
                    { label: "Rename", icon: <Pencil />, onSelect: () => setOpen({ profile, as: "rename" }) },
                    null,
                    { label: "Delete", icon: <Trash2 />, danger: true, onSelect: () => setOpen({ profile, as: "delete" }) },
                  ]}
                />
              </>
            }
          />
        )}
      </List>
      {open === "new" && (
        <NameDialog
          title="New profile"
          description="It begins empty. Sign in by hand afterwards, as often as its sites want it."
          action="Make it"
          placeholder="Ann at the shop"
          save={async (name) => {
            await call(createProfile({ body: { name } }));
            await cache.invalidateQueries({ queryKey: keys.lists("profile") });
          }}
          onClose={close}
        />
      )}
      {chosen?.as === "rename" && (
        <NameDialog
          title="Rename the profile"
          action="Rename"
          name={chosen.profile.name}
          save={async (name) => put(cache, "profile", await call(updateProfile({ path: { id: chosen.profile.id }, body: { name } })))}
          onClose={close}
        />
      )}
      <Confirm
        open={chosen?.as === "delete"}
        onOpenChange={close}
        title="Delete the profile?"
        description={`What “${chosen?.profile.name ?? ""}” keeps is gone for good, and runs that use it begin signed out.`}
        action="Delete"
        busy={removal.isPending}
        onConfirm={() => chosen && removal.mutate(chosen.profile)}
      />
    </Page>
  );
}

function domains(profile: ProfileRead): string {
  const { domains: all } = profile;
  if (all.length === 0) return "No domains";
  const more = all.length - MOST_DOMAINS;
  return all.slice(0, MOST_DOMAINS).join(", ") + (more > 0 ? ` and ${more} more` : "");
}
