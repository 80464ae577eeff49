"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Download } from "lucide-react";
import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { FormError } from "@/components/ui/form-error";
import { Failure, Skeletons } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { useMe } from "@/features/me";
import { type MeRead, sendVerification, updateMe } from "@/lib/api";
import { useConfig } from "@/lib/auth/provider";
import { call, fetchBlob } from "@/lib/client";
import { downloadBlob } from "@/lib/download";
import { keys } from "@/lib/keys";
import { wrongWith } from "@/lib/problem";

import { DeleteAccount } from "./delete-account";
import { Panel } from "./panel";
import { PasswordForm } from "./password-form";
import { RegionForm } from "./region-form";

export function Account() {
  const me = useMe();
  const embedded = useConfig()?.auth.mode === "embedded";
  if (me.error) return <Failure title="Your account could not be read" error={me.error} retry={() => void me.refetch()} />;
  if (!me.data) return <Skeletons count={3} className="h-44" />;
  return (
    <div className="flex flex-col gap-4">
      <PersonForm me={me.data} />
      {embedded && me.data.email && !me.data.email_verified && <EmailPanel email={me.data.email} />}
      {embedded && <PasswordForm />}
      <RegionForm />
      <ExportPanel />
      <DeleteAccount me={me.data} />
    </div>
  );
}

function PersonForm({ me }: { me: MeRead }) {
  const cache = useQueryClient();
  const [name, setName] = useState(me.name ?? "");
  const save = useMutation({
    mutationFn: () => call(updateMe({ body: { name: name.trim() || null } })),
    onSuccess: (changed) => {
      cache.setQueryData(keys.one("user", "me"), changed);
      toast.done("Saved");
    },
  });
  const wrong = wrongWith(save.error, "name");
  return (
    <form
      onSubmit={(event) => {
        event.preventDefault();
        save.mutate();
      }}
    >
      <Panel
        title="Profile"
        footer={
          <Button type="submit" busy={save.isPending} disabled={name.trim() === (me.name ?? "")}>
            Save
          </Button>
        }
      >
        {save.error && !wrong && <FormError error={save.error} />}
        <div className="grid gap-4 sm:grid-cols-2">
          <Field label="Name" error={wrong}>
            {(wired) => <Input {...wired} autoComplete="name" maxLength={200} value={name} onChange={(event) => setName(event.target.value)} />}
          </Field>
          <Field label="Email" hint={me.email_verified ? "The address of your sign-in, which is verified." : "The address of your sign-in."}>
            {(wired) => <Input {...wired} readOnly value={me.email ?? ""} className="text-ink-3" />}
          </Field>
        </div>
      </Panel>
    </form>
  );
}

function EmailPanel({ email }: { email: string }) {
  const send = useMutation({
    mutationFn: () => call(sendVerification()),
    onError: (error) => toast.failed("No mail was sent", error),
  });
  return (
    <Panel
      title="Your address is not verified yet"
      description={`A link in a mail to ${email} verifies that it is yours.`}
      footer={
        <>
          <p role="status" className="flex-1 text-sm text-ink-3">
            {send.isSuccess && "The link is on its way. It works for a day."}
          </p>
          <Button busy={send.isPending} disabled={send.isSuccess} onClick={() => send.mutate()}>
            Send the link again
          </Button>
        </>
      }
    />
  );
}

function ExportPanel() {
  const get = useMutation({
    mutationFn: () => fetchBlob("/api/me/export"),
    onSuccess: (zip) => downloadBlob(zip, "cua-export.zip"),
    onError: (error) => toast.failed("Your data could not be exported", error),
  });
  return (
    <Panel
      title="Your data"
      description="Everything that is kept of you as one zip: your things as JSON lines, and your files. Values of secrets and profiles stay here."
      footer={
        <>
          <p role="status" className="flex-1 text-sm text-ink-3">
            {get.isPending && "It is put together. With many recordings this takes a while."}
          </p>
          <Button busy={get.isPending} onClick={() => get.mutate()}>
            <Download /> Export
          </Button>
        </>
      }
    />
  );
}
