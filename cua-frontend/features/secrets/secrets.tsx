"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Copy, KeyRound, Pencil, Plus, Trash2 } from "lucide-react";
import { useState } from "react";

import { copy, CopyButton } from "@/components/copy-button";
import { List, useList } from "@/components/list";
import { MoreMenu } from "@/components/more-menu";
import { ResourceRow } from "@/components/resource-row";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { deleteSecret, listSecrets, type SecretRead } from "@/lib/api";
import { call, page } from "@/lib/client";
import { keys } from "@/lib/keys";

import { KINDS, SecretForm } from "./secret-form";

/** Sign-ins and other values that runs fill in and nobody reads. */
export function Secrets() {
  const cache = useQueryClient();
  const [open, setOpen] = useState<"new" | { secret: SecretRead; as: "edit" | "delete" } | null>(null);
  const secrets = useList(keys.list("secret"), (cursor) => page(listSecrets({ query: { cursor } })));
  const removal = useMutation({
    mutationFn: (secret: SecretRead) => call(deleteSecret({ path: { id: secret.id } })),
    onSuccess: () => {
      setOpen(null);
      return cache.invalidateQueries({ queryKey: keys.lists("secret") });
    },
    onError: (error) => toast.failed("The secret was not deleted", error),
  });
  const chosen = open === "new" ? null : open;
  const close = () => setOpen(null);
  const make = (
    <Button look="primary" onClick={() => setOpen("new")}>
      <Plus /> New secret
    </Button>
  );
  return (
    <Page title="Secrets" description="Filled into pages by runs, at their origins only. They are kept encrypted and shown to nobody, models included." actions={make}>
      <List
        query={secrets}
        label="Secrets"
        failed="The secrets could not be read"
        empty={
          <Empty icon={<KeyRound />} title="No secrets yet" action={make}>
            Keep a sign-in here, and a step or an agent fills it in without ever showing it.
          </Empty>
        }
      >
        {(secret) => (
          <ResourceRow
            icon={<KeyRound />}
            title={secret.name}
            badges={<Badge>{KINDS[secret.kind].label}</Badge>}
            detail={
              <>
                {secret.origins.length > 0 ? secret.origins.map((origin) => origin.replace(/^https:\/\//, "")).join(", ") : "No origin yet, so it is filled in nowhere"}
                {" · "}
                {secret.used_at ? (
                  <>
                    used <Ago at={secret.used_at} />
                  </>
                ) : (
                  "never used"
                )}
              </>
            }
            actions={
              <>
                <span className="hidden gap-1 sm:flex">
                  {secret.fields.map((field) => (
                    <CopyButton key={field} look="ghost" label={field} text={placeholder(secret.name, field)} />
                  ))}
                </span>
                <MoreMenu
                  of={secret.name}
                  items={[
                    ...secret.fields.map((field) => ({
                      label: `Copy ${placeholder(secret.name, field)}`,
                      icon: <Copy />,
                      onSelect: () => void copy(placeholder(secret.name, field)),
                    })),
                    null,
                    { label: "Edit", icon: <Pencil />, onSelect: () => setOpen({ secret, as: "edit" }) },
                    null,
                    { label: "Delete", icon: <Trash2 />, danger: true, onSelect: () => setOpen({ secret, as: "delete" }) },
                  ]}
                />
              </>
            }
          />
        )}
      </List>
      <p className="rounded-xl bg-sunken px-4 py-3 text-sm text-ink-2">
        Where a step of a workflow takes a value, write <Placeholder name="name" field="password" />. The buttons of each secret copy what to
        write. An agent is told the names and fields of your secrets, never their values.
      </p>
      {open === "new" && <SecretForm onClose={close} />}
      {chosen?.as === "edit" && <SecretForm secret={chosen.secret} onClose={close} />}
      <Confirm
        open={chosen?.as === "delete"}
        onOpenChange={close}
        title="Delete the secret?"
        description={`Workflows that name “${chosen?.secret.name ?? ""}” fail from then on.`}
        action="Delete"
        busy={removal.isPending}
        onConfirm={() => chosen && removal.mutate(chosen.secret)}
      />
    </Page>
  );
}

function placeholder(name: string, field: string): string {
  return `{{ secrets.${name}.${field} }}`;
}

function Placeholder({ name, field }: { name: string; field: string }) {
  return <code className="rounded bg-surface px-1 whitespace-nowrap py-0.5 font-mono text-xs">{placeholder(name, field)}</code>;
}
