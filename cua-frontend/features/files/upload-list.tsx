import { CircleAlert, CircleCheck, X } from "lucide-react";

import { Button } from "@/components/ui/button";
import { Card } from "@/components/ui/page";
import { bytes } from "@/lib/format";

import type { Upload } from "./uploads";

interface UploadListProps {
  uploads: Upload[];
  onDismiss: (id: number) => void;
  onDismissEnded: () => void;
}

/** What is being sent, and what became of it. */
export function UploadList({ uploads, onDismiss, onDismissEnded }: UploadListProps) {
  if (uploads.length === 0) return null;
  const left = uploads.filter((upload) => upload.state === "waiting" || upload.state === "sending").length;
  return (
    <Card>
      <section aria-label="Uploads">
        <div className="flex h-11 items-center gap-3 border-b border-line px-4">
          <p role="status" className="flex-1 text-sm font-medium">
            {left > 0 ? `${left} on the way` : "Uploads"}
          </p>
          {left < uploads.length && (
            <Button size="sm" look="ghost" onClick={onDismissEnded}>
              Clear
            </Button>
          )}
        </div>
        <ul className="max-h-64 divide-y divide-line overflow-y-auto">
          {uploads.map((upload) => (
            <li key={upload.id} className="flex items-center gap-3 px-4 py-2">
              <div className="min-w-0 flex-1">
                <div className="flex items-baseline gap-3">
                  <span className="min-w-0 flex-1 truncate">{upload.name}</span>
                  <span className="text-xs text-ink-3 tabular-nums">
                    {upload.state === "sending" ? `${bytes(upload.sent)} of ${bytes(upload.size)}` : bytes(upload.size)}
                  </span>
                </div>
                <State upload={upload} />
              </div>
              <Button
                look="ghost"
                size="icon"
                aria-label={upload.state === "sending" || upload.state === "waiting" ? `Cancel ${upload.name}` : `Dismiss ${upload.name}`}
                onClick={() => onDismiss(upload.id)}
              >
                <X />
              </Button>
            </li>
          ))}
        </ul>
      </section>
    </Card>
  );
}

function State({ upload }: { upload: Upload }) {
  switch (upload.state) {
    case "waiting":
      return <p className="text-xs text-ink-3">Waits for its turn</p>;
    case "sending":
      return (
        <progress
          aria-label={`Sending ${upload.name}`}
          max={Math.max(upload.size, 1)}
          value={upload.sent}
          className="mt-1 block h-1 w-full appearance-none overflow-hidden rounded-full bg-sunken [&::-moz-progress-bar]:bg-accent [&::-webkit-progress-bar]:bg-sunken [&::-webkit-progress-value]:bg-accent"
        />
      );
    case "done":
      return (
        <p className="flex items-center gap-1.5 text-xs text-good">
          <CircleCheck className="size-3.5" aria-hidden /> Stored
        </p>
      );
    case "failed":
      return (
        <p className="flex items-center gap-1.5 text-xs text-bad">
          <CircleAlert className="size-3.5 shrink-0" aria-hidden /> {upload.error}
        </p>
      );
  }
}
