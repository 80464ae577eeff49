"use client";

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { Button } from "@/components/ui/button";
import { Field, Input } from "@/components/ui/field";
import { eraseMe, type MeRead } from "@/lib/api";
import { useSession } from "@/lib/auth/session";
import { call } from "@/lib/client";

import { Panel } from "./panel";

/** Ends the account, after its address has been typed. */
export function DeleteAccount({ me }: { me: MeRead }) {
  const session = useSession();
  const [open, setOpen] = useState(false);
  const [typed, setTyped] = useState("");
  const word = me.email ?? "delete";
  const erase = useMutation({
    mutationFn: () => call(eraseMe()),
    onSuccess: async () => {
      await session.signOut().catch(() => undefined); // its sign-ins are gone already
      location.reload(); // nothing of what is in memory exists any more
    },
  });
  return (
    <Panel
      title="Delete the account"
      description="Erases you and everything that is yours for good: runs, recordings, files, workflows, secrets, keys. Runs that go on are ended."
      footer={
        <Button look="danger" onClick={() => setOpen(true)}>
          Delete the account
        </Button>
      }
    >
      {open && (
        <FormDialog
          onClose={() => {
            setOpen(false);
            setTyped("");
          }}
          title="Delete the account?"
          description="Nobody can bring it back. Export your data first if you may want it."
          action="Delete everything"
          danger
          ready={typed.trim().toLowerCase() === word.toLowerCase()}
          busy={erase.isPending}
          error={erase.error}
          onSubmit={() => erase.mutate()}
        >
          <Field label={`Type ${word} to go on`}>
            {(wired) => (
              <Input {...wired} autoFocus autoComplete="off" spellCheck={false} value={typed} onChange={(event) => setTyped(event.target.value)} />
            )}
          </Field>
        </FormDialog>
      )}
    </Panel>
  );
}
