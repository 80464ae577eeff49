"use client";

import { useMutation, useQuery, useQueryClient } from "@tanstack/react-query";
import { ArrowLeft, Pencil, RotateCcwKey, Send, Trash2 } from "lucide-react";
import Link from "next/link";
import { useRouter } from "next/navigation";
import { useState } from "react";

import { Facts } from "@/components/facts";
import { LoadFailure } from "@/components/load-failure";
import { MoreMenu } from "@/components/more-menu";
import { ShownOnce } from "@/components/shown-once";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Skeletons } from "@/components/ui/states";
import { Switch } from "@/components/ui/switch";
import { toast } from "@/components/ui/toast";
import { deleteWebhook, readWebhook, rotateWebhookSecret, testWebhook, updateWebhook, type WebhookCreated, type WebhookRead } from "@/lib/api";
import { put } from "@/lib/cache";
import { call } from "@/lib/client";
import { dateTime } from "@/lib/format";
import { keys } from "@/lib/keys";

import { Deliveries } from "./deliveries";
import { eventsInWords } from "./webhook-events";
import { WebhookForm } from "./webhook-form";
import { WebhookBadge } from "./webhooks";

export function Webhook({ id }: { id: string }) {
  const webhook = useQuery({ queryKey: keys.one("webhook", id), queryFn: () => call(readWebhook({ path: { id } })) });
  return (
    <div className="flex flex-col gap-5">
      <Link href="/settings/webhooks" className="flex items-center gap-1.5 self-start text-sm text-ink-3 hover:text-ink">
        <ArrowLeft className="size-4" aria-hidden /> All webhooks
      </Link>
      {webhook.data ? (
        <Shown webhook={webhook.data} />
      ) : webhook.error ? (
        <LoadFailure title="The webhook could not be read" error={webhook.error} retry={() => void webhook.refetch()} />
      ) : (
        <Skeletons count={2} className="h-28" />
      )}
    </div>
  );
}

function Shown({ webhook }: { webhook: WebhookRead }) {
  const cache = useQueryClient();
  const router = useRouter();
  const path = { id: webhook.id };
  const [open, setOpen] = useState<"edit" | "rotate" | "delete" | WebhookCreated | null>(null);
  const close = () => setOpen(null);
  const keep = (changed: WebhookRead) => put(cache, "webhook", { ...changed });
  const refreshDeliveries = () => cache.invalidateQueries({ queryKey: keys.lists("delivery") });
  const enable = useMutation({
    mutationFn: (enabled: boolean) => call(updateWebhook({ path, body: { enabled } })),
    onMutate: (enabled) => {
      put(cache, "webhook", { ...webhook, enabled, disabled_reason: enabled ? null : "requested" });
      return webhook; // by the time of an error `webhook` is the changed one
    },
    onSuccess: (changed) => {
      keep(changed);
      return refreshDeliveries();
    },
    onError: (error, _, before) => {
      if (before) keep(before);
      toast.failed("Not changed", error);
    },
  });
  const test = useMutation({
    mutationFn: () => call(testWebhook({ path })),
    onSuccess: refreshDeliveries,
    onError: (error) => toast.failed("No test was sent", error),
  });
  const rotate = useMutation({
    mutationFn: () => call(rotateWebhookSecret({ path })),
    onSuccess: ({ secret, ...changed }) => {
      keep(changed);
      setOpen({ ...changed, secret });
    },
    onError: (error) => toast.failed("The secret is as before", error),
  });
  const removal = useMutation({
    mutationFn: () => call(deleteWebhook({ path })),
    onSuccess: () => {
      void cache.invalidateQueries({ queryKey: keys.lists("webhook") });
      router.push("/settings/webhooks");
    },
    onError: (error) => toast.failed("The webhook was not deleted", error),
  });
  return (
    <>
      <section className="flex flex-col gap-3 rounded-xl border border-line bg-surface px-5 py-4">
        <div className="flex flex-wrap items-center gap-3">
          <h2 className="min-w-0 truncate text-base font-semibold">{webhook.name}</h2>
          <WebhookBadge webhook={webhook} />
          <span className="flex-1" />
          <label className="flex items-center gap-2 text-sm text-ink-2">
            Enabled
            <Switch checked={webhook.enabled} disabled={enable.isPending} onCheckedChange={(enabled) => enable.mutate(enabled)} />
          </label>
          <Button size="sm" busy={test.isPending} disabled={!webhook.enabled} onClick={() => test.mutate()}>
            <Send /> Send a test
          </Button>
          <MoreMenu
            of={webhook.name}
            items={[
              { label: "Edit", icon: <Pencil />, onSelect: () => setOpen("edit") },
              { label: "New signing secret", icon: <RotateCcwKey />, onSelect: () => setOpen("rotate") },
              null,
              { label: "Delete", icon: <Trash2 />, danger: true, onSelect: () => setOpen("delete") },
            ]}
          />
        </div>
        <Facts
          facts={[
            [
              "Address",
              <span key="url" className="font-mono text-xs break-all">
                {webhook.url}
              </span>,
            ],
            ["Hears of", webhook.events.length > 3 ? webhook.events.join(", ") : eventsInWords(webhook.events)],
            webhook.failing_since ? ["Failing since", dateTime(webhook.failing_since)] : null,
            webhook.old_secret_until ? ["Old secret signs until", dateTime(webhook.old_secret_until)] : null,
          ]}
        />
      </section>
      <Deliveries webhookId={webhook.id} />
      {open === "edit" && (
        <WebhookForm
          webhook={webhook}
          onClose={close}
          onSaved={(changed) => {
            keep(changed);
            close();
          }}
        />
      )}
      <Confirm
        open={open === "rotate"}
        onOpenChange={close}
        title="Make a new signing secret?"
        description="For a day each request is signed with the new one and the one before, so your server can change over at any moment."
        action="Make it"
        busy={rotate.isPending}
        onConfirm={() => rotate.mutate()}
      />
      <Confirm
        open={open === "delete"}
        onOpenChange={close}
        title="Delete the webhook?"
        description={`“${webhook.name}” hears of nothing any more, and its deliveries are gone.`}
        action="Delete"
        busy={removal.isPending}
        onConfirm={() => removal.mutate()}
      />
      {open !== null && typeof open === "object" && (
        <ShownOnce title="The new signing secret" description="It is shown this once. The one before signs for a day more." value={open.secret} onClose={close} />
      )}
    </>
  );
}
