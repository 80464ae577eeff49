"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { KeySquare, Pencil, Plus, Trash2 } from "lucide-react";
import { useState } from "react";

import { NameDialog } from "@/components/form-dialog";
import { List, useList } from "@/components/list";
import { MoreMenu } from "@/components/more-menu";
import { ResourceRow } from "@/components/resource-row";
import { ShownOnce } from "@/components/shown-once";
import { Ago, useNow } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Section } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { toast } from "@/components/ui/toast";
import { deleteKey, type KeyCreated, type KeyRead, listKeys, updateKey } from "@/lib/api";
import { put } from "@/lib/cache";
import { call, page } from "@/lib/client";
import { dateTime } from "@/lib/format";
import { keys } from "@/lib/keys";

import { NewKey } from "./new-key";

type Open = { as: "new" } | { as: "made"; key: KeyCreated } | { as: "rename" | "delete"; key: KeyRead };

/** What programs sign in with. */
export function Keys() {
  const cache = useQueryClient();
  const [open, setOpen] = useState<Open | null>(null);
  const list = useList(keys.list("key"), (cursor) => page(listKeys({ query: { cursor } })));
  const removal = useMutation({
    mutationFn: (key: KeyRead) => call(deleteKey({ path: { id: key.id } })),
    onSuccess: () => {
      setOpen(null);
      return cache.invalidateQueries({ queryKey: keys.lists("key") });
    },
    onError: (error) => toast.failed("The key was not deleted", error),
  });
  const close = () => setOpen(null);
  const make = (
    <Button size="sm" look="primary" onClick={() => setOpen({ as: "new" })}>
      <Plus /> New key
    </Button>
  );
  return (
    <Section title="API keys" actions={make}>
      <p className="-mt-2 max-w-prose text-sm text-pretty text-ink-3">
        Programs send one as <code className="font-mono text-xs">Authorization: Bearer …</code> or <code className="font-mono text-xs">X-API-Key</code>. Delete a key that
        you do not know.
      </p>
      <List
        query={list}
        label="API keys"
        failed="The keys could not be read"
        empty={
          <Empty icon={<KeySquare />} title="No keys yet" action={make}>
            Make one for each program, with no more scopes than it needs.
          </Empty>
        }
      >
        {(key) => (
          <ResourceRow
            icon={<KeySquare />}
            title={key.name}
            badges={
              <>
                {key.scopes.map((scope) => (
                  <Badge key={scope}>{scope}</Badge>
                ))}
                <Expiry at={key.expires_at} />
              </>
            }
            detail={
              <>
                <span className="font-mono">{key.start}…</span> · made <Ago at={key.created_at} /> ·{" "}
                {key.last_used_at ? (
                  <>
                    used <Ago at={key.last_used_at} />
                  </>
                ) : (
                  "never used"
                )}
              </>
            }
            actions={
              <MoreMenu
                of={key.name}
                items={[
                  { label: "Rename", icon: <Pencil />, onSelect: () => setOpen({ as: "rename", key }) },
                  null,
                  { label: "Delete", icon: <Trash2 />, danger: true, onSelect: () => setOpen({ as: "delete", key }) },
                ]}
              />
            }
          />
        )}
      </List>
      {open?.as === "new" && (
        <NewKey
          onClose={close}
          onMade={(key) => {
            setOpen({ as: "made", key });
            void cache.invalidateQueries({ queryKey: keys.lists("key") });
          }}
        />
      )}
      {open?.as === "made" && (
        <ShownOnce title={open.key.name} description="Copy the key now. Only its beginning is shown from now on." value={open.key.key} onClose={close} />
      )}
      {open?.as === "rename" && (
        <NameDialog
          title="Rename the key"
          action="Rename"
          name={open.key.name}
          save={async (name) => put(cache, "key", await call(updateKey({ path: { id: open.key.id }, body: { name } })))}
          onClose={close}
        />
      )}
      <Confirm
        open={open?.as === "delete"}
        onOpenChange={close}
        title="Delete the key?"
        description={`Whatever uses “${open?.as === "delete" ? open.key.name : ""}” is refused at once.`}
        action="Delete"
        busy={removal.isPending}
        onConfirm={() => open?.as === "delete" && removal.mutate(open.key)}
      />
    </Section>
  );
}

function Expiry({ at }: { at: string | null }) {
  const now = useNow();
  if (!at) return null;
  return Date.parse(at) <= now ? <Badge look="bad">Expired</Badge> : <Badge look="plain">until {dateTime(at)}</Badge>;
}
