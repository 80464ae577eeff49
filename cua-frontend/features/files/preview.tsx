"use client";

import { useQuery } from "@tanstack/react-query";
import { Download } from "lucide-react";

import { BlobImage } from "@/components/blob-image";
import { Button } from "@/components/ui/button";
import { Dialog } from "@/components/ui/dialog";
import { Failure } from "@/components/ui/states";
import type { FileRead } from "@/lib/api";
import { fetchBlob } from "@/lib/client";
import { bytes, dateTime } from "@/lib/format";
import { keys } from "@/lib/keys";

const PICTURES = new Set(["image/jpeg", "image/png", "image/gif", "image/webp"]);
const MOST_TEXT = 1_000_000;
const MOST_PICTURE = 50_000_000;

function shownAs(file: FileRead): "picture" | "text" | null {
  if (file.kind === "recording") return null;
  if (PICTURES.has(file.content_type)) return file.size <= MOST_PICTURE ? "picture" : null;
  const isText = file.content_type.startsWith("text/") || /[/+](json|xml|yaml|javascript)$/.test(file.content_type);
  return isText && file.size <= MOST_TEXT ? "text" : null;
}

/** Looks into a file without leaving the list. */
export function FilePreview({ file, onClose, onDownload }: { file: FileRead; onClose: () => void; onDownload: () => void }) {
  const shown = shownAs(file);
  const content = useQuery({
    queryKey: keys.of("file", file.id, "content"),
    queryFn: async ({ signal }) => {
      const blob = await fetchBlob(`/api/files/${file.id}/content`, signal);
      return shown === "text" ? blob.text() : blob;
    },
    enabled: shown !== null,
    staleTime: Infinity, // what is stored never changes
    gcTime: 60_000,
  });
  return (
    <Dialog
      open
      wide
      onOpenChange={(open) => open || onClose()}
      title={file.name}
      description={`${file.content_type} · ${bytes(file.size)} · ${dateTime(file.created_at)}`}
      footer={
        <Button look="primary" onClick={onDownload}>
          <Download /> Download
        </Button>
      }
    >
      {shown === null ? (
        <p className="py-10 text-center text-ink-3">
          {file.kind === "recording"
            ? "A piece of a run's recording. The run's page plays it."
            : "There is no preview of such a file. Download it to look into it."}
        </p>
      ) : content.error ? (
        <Failure title="The file could not be read" error={content.error} retry={() => void content.refetch()} />
      ) : content.data instanceof Blob ? (
        <BlobImage blob={content.data} alt={file.name} className="mx-auto block max-h-[62dvh] min-h-24 rounded-md border border-line" />
      ) : typeof content.data === "string" ? (
        <pre tabIndex={0} aria-label="Content" className="max-h-[62dvh] overflow-auto rounded-md bg-sunken p-3 font-mono text-xs leading-5 break-words whitespace-pre-wrap">
          {content.data || "The file is empty."}
        </pre>
      ) : (
        <div aria-busy className="skeleton h-64">
          <span className="sr-only">Loading</span>
        </div>
      )}
    </Dialog>
  );
}
