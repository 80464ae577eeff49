"use client";

import { useQueryClient } from "@tanstack/react-query";
import { Plus, Webhook as WebhookIcon } from "lucide-react";
import Link from "next/link";
import { useState } from "react";

import { List, useList } from "@/components/list";
import { ResourceRow } from "@/components/resource-row";
import { ShownOnce } from "@/components/shown-once";
import { Ago } from "@/components/time";
import { Badge } from "@/components/ui/badge";
import { Button } from "@/components/ui/button";
import { Section } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { listWebhooks, type WebhookCreated, type WebhookRead } from "@/lib/api";
import { page } from "@/lib/client";
import { keys } from "@/lib/keys";

import { eventsInWords } from "./webhook-events";
import { WebhookForm } from "./webhook-form";

/** Servers that are told what happens. */
export function Webhooks() {
  const cache = useQueryClient();
  const [open, setOpen] = useState<"new" | WebhookCreated | null>(null);
  const webhooks = useList(keys.list("webhook"), (cursor) => page(listWebhooks({ query: { cursor } })));
  const make = (
    <Button size="sm" look="primary" onClick={() => setOpen("new")}>
      <Plus /> New webhook
    </Button>
  );
  return (
    <Section title="Webhooks" actions={make}>
      <p className="-mt-2 max-w-prose text-sm text-pretty text-ink-3">
        What happens is sent to a server of yours as it happens, signed as Standard Webhooks says, and tried for a day.
      </p>
      <List
        query={webhooks}
        label="Webhooks"
        failed="The webhooks could not be read"
        empty={
          <Empty icon={<WebhookIcon />} title="No webhooks yet" action={make}>
            Have your chat, your build or your own program told when a run fails or wants an approval.
          </Empty>
        }
      >
        {(webhook) => (
          <ResourceRow
            icon={<WebhookIcon />}
            title={
              <Link href={`/settings/webhooks/${webhook.id}`} className="underline-offset-2 hover:underline">
                {webhook.name}
              </Link>
            }
            badges={<WebhookBadge webhook={webhook} />}
            detail={
              <>
                <span className="font-mono break-all">{webhook.url}</span> · {eventsInWords(webhook.events)} · made <Ago at={webhook.created_at} />
              </>
            }
          />
        )}
      </List>
      {open === "new" && (
        <WebhookForm
          onClose={() => setOpen(null)}
          onMade={(made) => {
            setOpen(made);
            void cache.invalidateQueries({ queryKey: keys.lists("webhook") });
          }}
        />
      )}
      {open && open !== "new" && (
        <ShownOnce
          title="The signing secret"
          description={`Your server verifies with it that a request is from “${open.name}”. It is shown this once.`}
          value={open.secret}
          onClose={() => setOpen(null)}
        />
      )}
    </Section>
  );
}

const REASONS: Record<NonNullable<WebhookRead["disabled_reason"]>, string> = {
  requested: "Disabled",
  gone: "Disabled: it answered 410",
  failing: "Disabled: nothing but failures for a day",
};

export function WebhookBadge({ webhook }: { webhook: WebhookRead }) {
  if (!webhook.enabled) return <Badge look={webhook.disabled_reason === "requested" ? "plain" : "bad"}>{REASONS[webhook.disabled_reason ?? "requested"]}</Badge>;
  if (webhook.failing_since) return <Badge look="warn">Failing</Badge>;
  return <Badge look="good">Enabled</Badge>;
}
