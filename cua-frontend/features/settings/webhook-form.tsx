"use client";

import { useMutation } from "@tanstack/react-query";
import { useState } from "react";

import { FormDialog } from "@/components/form-dialog";
import { Field, Input } from "@/components/ui/field";
import { createWebhook, updateWebhook, type WebhookCreated, type WebhookRead } from "@/lib/api";
import { call } from "@/lib/client";
import { wrongWith } from "@/lib/problem";

import { EventChoice } from "./webhook-events";

type WebhookFormProps = { onClose: () => void } & (
  | { webhook?: undefined; onMade: (webhook: WebhookCreated) => void }
  | { webhook: WebhookRead; onSaved: (webhook: WebhookRead) => void }
);

export function WebhookForm(props: WebhookFormProps) {
  const { webhook, onClose } = props;
  const [name, setName] = useState(webhook?.name ?? "");
  const [url, setUrl] = useState(webhook?.url ?? "");
  const [events, setEvents] = useState(webhook?.events ?? ["run.succeeded", "run.failed", "approval.requested"]);
  const save = useMutation({
    mutationFn: async () => {
      const body = { name: name.trim() || "Webhook", url: url.trim(), events };
      if (props.webhook) props.onSaved(await call(updateWebhook({ path: { id: props.webhook.id }, body })));
      else props.onMade(await call(createWebhook({ body })));
    },
  });
  return (
    <FormDialog
      onClose={onClose}
      title={webhook ? "Edit the webhook" : "New webhook"}
      action={webhook ? "Save" : "Make the webhook"}
      ready={events.length > 0}
      busy={save.isPending}
      error={save.error}
      fields={["name", "url", "events"]}
      onSubmit={() => save.mutate()}
    >
      <Field label="Name" error={wrongWith(save.error, "name")}>
        {(wired) => <Input {...wired} autoFocus maxLength={200} value={name} placeholder="Ops channel" onChange={(event) => setName(event.target.value)} />}
      </Field>
      <Field label="Address" hint="A public https address that answers with 2xx within 15 seconds." error={wrongWith(save.error, "url")}>
        {(wired) => (
          <Input
            {...wired}
            type="url"
            required
            pattern="https?://.+"
            title="An address that begins with https://"
            spellCheck={false}
            value={url}
            placeholder="https://hooks.example.com/cua"
            onChange={(event) => setUrl(event.target.value)}
          />
        )}
      </Field>
      <EventChoice events={events} onChange={setEvents} error={wrongWith(save.error, "events")} />
    </FormDialog>
  );
}
