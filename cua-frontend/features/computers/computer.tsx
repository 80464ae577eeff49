"use client";

import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { Monitor, Pencil, Power, Save } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { FormDialog, NameDialog } from "@/components/form-dialog";
import { LoadFailure } from "@/components/load-failure";
import { MoreMenu } from "@/components/more-menu";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Field } from "@/components/ui/field";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { TextLink } from "@/components/ui/text-link";
import { toast } from "@/components/ui/toast";
import { LiveView } from "@/features/live/live-view";
import { ProfileSelect } from "@/features/profiles/profile-select";
import { useProfiles } from "@/features/profiles/queries";
import { captureProfile, type ComputerRead, deleteComputer, readComputer, updateComputer } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";
import { wrongWith } from "@/lib/problem";

import { CloseComputer } from "./computers";
import { ComputerStateBadge } from "./state";

/** One browser, to look at and to use by hand. */
export function Computer({ id }: { id: string }) {
  const computer = useQuery({ queryKey: keys.one("computer", id), queryFn: () => call(readComputer({ path: { id } })) });
  if (computer.data) return <Shown computer={computer.data} />;
  return (
    <Page title="Computer" wide>
      {computer.error ? (
        <LoadFailure title="The computer could not be read" error={computer.error} retry={() => void computer.refetch()} />
      ) : (
        <div aria-busy className="skeleton aspect-video w-full" />
      )}
    </Page>
  );
}

const CLOSED: Record<string, string> = {
  idle: "Nobody used it for a while, so it was closed.",
  lost: "Its browser or its server went away unexpectedly.",
  shutdown: "The server was restarted.",
};

function Shown({ computer }: { computer: ComputerRead }) {
  const cache = useQueryClient();
  const router = useRouter();
  const [open, setOpen] = useState<"rename" | "save" | "close" | null>(null);
  const profiles = useProfiles().data ?? [];
  const profile = profiles.find((each) => each.id === computer.profile_id);
  const save = useMutation({
    mutationFn: (profileId: string) => call(captureProfile({ path: { id: profileId }, body: { computer_id: computer.id } })),
    onSuccess: (saved) => {
      setOpen(null);
      toast.done(`Saved to ${saved.name}`, `${saved.cookie_count} cookies of ${saved.domains.length} domains.`);
      return cache.invalidateQueries({ queryKey: keys.lists("profile") });
    },
  });
  const close = useMutation({
    mutationFn: () => call(deleteComputer({ path: { id: computer.id } })),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: keys.lists("computer") });
      router.push(computer.profile_id ? "/profiles" : "/computers");
    },
    onError: (error) => toast.failed("The computer was not closed", error),
  });
  const isOpen = computer.state === "open";
  const saveDirectly = () =>
    computer.profile_id
      ? save.mutate(computer.profile_id, { onError: (error) => toast.failed("The profile was not saved", error) })
      : setOpen("save");
  return (
    <Page
      title={computer.name}
      wide
      description={
        <span className="flex flex-wrap items-center gap-2">
          <ComputerStateBadge state={computer.state} />
          {computer.for_run && <Badge>Of a run</Badge>}
          <span>
            opened <Ago at={computer.created_at} />
            {profile && `, with the profile ${profile.name}`}
          </span>
        </span>
      }
      actions={
        isOpen && (
          <>
            <Button look={computer.profile_id ? "primary" : "secondary"} busy={save.isPending} onClick={saveDirectly}>
              <Save /> {profile ? "Save profile" : "Save to a profile"}
            </Button>
            {!computer.for_run && (
              <Button look="danger" onClick={() => setOpen("close")}>
                <Power /> Close
              </Button>
            )}
            <MoreMenu
              of={computer.name}
              items={[
                { label: "Rename", icon: <Pencil />, onSelect: () => setOpen("rename") },
                { label: "Save to another profile", icon: <Save />, onSelect: () => setOpen("save") },
              ]}
            />
          </>
        )
      }
    >
      {computer.profile_id && isOpen && (
        <p className="rounded-xl bg-accent-soft px-4 py-3 text-sm text-ink-2">
          Sign in to the sites that {profile ? `“${profile.name}”` : "the profile"} is for, then save the profile. Nothing is kept until you do.
        </p>
      )}
      {computer.state === "closed" ? (
        <Empty
          icon={<Monitor />}
          title="The computer is closed"
          action={
            <Button asChild>
              <Link href="/computers">See those that are open</Link>
            </Button>
          }
        >
          {CLOSED[computer.closed_reason ?? ""] ?? "Somebody closed it, or its run has ended."}
        </Empty>
      ) : isOpen ? (
        <LiveView computerId={computer.id} />
      ) : (
        <div aria-busy className="skeleton flex aspect-video w-full items-center justify-center text-sm text-ink-3">
          The browser opens…
        </div>
      )}
      {open === "rename" && (
        <NameDialog
          title="Rename the computer"
          action="Rename"
          name={computer.name}
          save={async (name) => put(cache, "computer", await call(updateComputer({ path: { id: computer.id }, body: { name } })))}
          onClose={() => setOpen(null)}
        />
      )}
      {open === "save" && (
        <SaveTo
          profiles={profiles}
          busy={save.isPending}
          error={save.error}
          onSave={(id) => save.mutate(id)}
          onClose={() => setOpen(null)}
        />
      )}
      <CloseComputer computer={open === "close" ? computer : null} busy={close.isPending} onCancel={() => setOpen(null)} onConfirm={() => close.mutate()} />
    </Page>
  );
}

interface SaveToProps {
  profiles: { id: string; name: string }[];
  busy: boolean;
  error: Error | null;
  onSave: (profileId: string) => void;
  onClose: () => void;
}

function SaveTo({ profiles, busy, error, onSave, onClose }: SaveToProps) {
  const [chosen, setChosen] = useState(profiles[0]?.id ?? "");
  return (
    <FormDialog
      onClose={onClose}
      title="Save to a profile"
      description="Its cookies and storage take the place of what the profile keeps."
      action="Save"
      busy={busy}
      error={error}
      onSubmit={() => onSave(chosen)}
    >
      {profiles.length > 0 ? (
        <Field label="Profile" error={wrongWith(error, "computer_id")}>
          {(wired) => <ProfileSelect {...wired} value={chosen} onChange={setChosen} />}
        </Field>
      ) : (
        <p className="text-sm text-ink-2">
          There is no profile yet.{" "}
          <TextLink href="/profiles">
            Make one
          </TextLink>{" "}
          and come back; the computer stays open.
        </p>
      )}
    </FormDialog>
  );
}
