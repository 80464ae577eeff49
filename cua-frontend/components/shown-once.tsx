"use client";

import { useState } from "react";

import { CopyButton } from "./copy-button";
import { Button } from "./ui/button";
import { Dialog } from "./ui/dialog";

/** A value that the server tells once: it is copied now or never. */
export function ShownOnce({ title, description, value, onClose }: { title: string; description: string; value: string; onClose: () => void }) {
  const [asked, setAsked] = useState(false);
  return (
    <Dialog
      open
      // A click beside it must not lose the value.
      onOpenChange={(open) => open || (asked ? onClose() : setAsked(true))}
      title={title}
      description={description}
      footer={
        <Button look="primary" onClick={onClose}>
          I have kept it
        </Button>
      }
    >
      <div className="flex flex-col gap-3">
        <code className="block rounded-md border border-line bg-sunken px-3 py-2 font-mono text-xs leading-5 break-all select-all">{value}</code>
        <div className="flex items-center gap-3">
          <CopyButton label="Copy" text={value} />
          <p role="status" className="text-xs text-warn">
            {asked && "It is not shown again. Close once more to go on without it."}
          </p>
        </div>
      </div>
    </Dialog>
  );
}
