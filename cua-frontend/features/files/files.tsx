"use client";

import { useMutation, useQueryClient } from "@tanstack/react-query";
import { Camera, Download, FileUp, Film, FolderOpen, type LucideIcon, Pencil, Trash2, Upload as UploadIcon } from "lucide-react";
import { useRef, useState } from "react";

import { DropAnywhere } from "@/components/drop-anywhere";
import { Choice, SearchField } from "@/components/filter-bar";
import { NameDialog } from "@/components/form-dialog";
import { List, useList } from "@/components/list";
import { MoreMenu } from "@/components/more-menu";
import { Ago } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Confirm } from "@/components/ui/dialog";
import { Page } from "@/components/ui/page";
import { Empty } from "@/components/ui/states";
import { TextLink } from "@/components/ui/text-link";
import { toast } from "@/components/ui/toast";
import { deleteFile, type FileRead, listFiles, updateFile } from "@/lib/api";
import { useConfig } from "@/lib/auth/provider";
import { put } from "@/lib/cache";
import { call, page } from "@/lib/client";
import { downloadFile } from "@/lib/download";
import { bytes } from "@/lib/format";
import { keys } from "@/lib/keys";

import { FilePreview } from "./preview";
import { UploadList } from "./upload-list";
import { useUploads } from "./uploads";

const KINDS = [
  ["all", "All"],
  ["upload", "Uploads"],
  ["download", "Downloads"],
  ["screenshot", "Screenshots"],
  ["recording", "Recordings"],
] as const;
const ICONS: Record<FileRead["kind"], LucideIcon> = { upload: FileUp, download: Download, screenshot: Camera, recording: Film };
const NAMES: Record<FileRead["kind"], string> = { upload: "Upload", download: "Download", screenshot: "Screenshot", recording: "Recording" };

/** Everything that was uploaded, and what runs have left. */
export function Files() {
  const cache = useQueryClient();
  const most = useConfig()?.max_upload_mb;
  const [kind, setKind] = useState<(typeof KINDS)[number][0]>("all");
  const [q, setQ] = useState("");
  const [open, setOpen] = useState<{ file: FileRead; as: "preview" | "rename" | "delete" } | null>(null);
  const chooser = useRef<HTMLInputElement>(null);
  const { uploads, add, dismiss, dismissEnded } = useUploads();
  const filters = { ...(kind !== "all" && { kind }), ...(q && { q }) };
  const files = useList(keys.list("file", filters), (cursor) => page(listFiles({ query: { ...filters, cursor } })));
  const removal = useMutation({
    mutationFn: (file: FileRead) => call(deleteFile({ path: { id: file.id } })),
    onSuccess: () => {
      setOpen(null);
      return cache.invalidateQueries({ queryKey: keys.lists("file") });
    },
    onError: (error) => toast.failed("The file was not deleted", error),
  });
  const get = (file: FileRead) => void downloadFile(file).catch((error: unknown) => toast.failed("The download did not begin", error));
  const close = () => setOpen(null);
  const choose = () => chooser.current?.click();
  return (
    <>
      <DropAnywhere label="Drop to upload" onFiles={add} />
      <Page
        title="Files"
        description="What you have uploaded, and what runs have downloaded and pictured."
        actions={
          <>
            <input
              ref={chooser}
              type="file"
              multiple
              hidden
              aria-label="Files to upload"
              onChange={(event) => {
                add(event.target.files ?? []);
                event.target.value = "";
              }}
            />
            <Button look="primary" onClick={choose}>
              <UploadIcon /> Upload
            </Button>
          </>
        }
      >
        <div className="flex flex-col gap-4">
          <div className="flex flex-wrap items-center gap-3">
            <SearchField label="Search by name" onChange={setQ} />
            <Choice label="Kind" options={KINDS} value={kind} onChange={setKind} />
          </div>
          <UploadList uploads={uploads} onDismiss={dismiss} onDismissEnded={dismissEnded} />
          <List
            query={files}
            label="Files"
            failed="The files could not be read"
            empty={
              kind === "all" && !q ? (
                <Empty icon={<FolderOpen />} title="No files yet" action={<Button onClick={choose}>Upload a file</Button>}>
                  Drop files here, or choose some{most ? `, of at most ${most} MiB each` : ""}. What runs download and picture comes here by itself.
                </Empty>
              ) : (
                <Empty icon={<FolderOpen />} title="No such files">
                  No file fits this choice. Choose another kind or other words.
                </Empty>
              )
            }
          >
            {(file) => <FileRow file={file} onOpen={(as) => setOpen({ file, as })} onDownload={() => get(file)} />}
          </List>
        </div>
      </Page>
      {open?.as === "preview" && <FilePreview file={open.file} onClose={close} onDownload={() => get(open.file)} />}
      {open?.as === "rename" && (
        <NameDialog
          title="Rename the file"
          action="Rename"
          name={open.file.name}
          save={async (name) => put(cache, "file", await call(updateFile({ path: { id: open.file.id }, body: { name } })))}
          onClose={close}
        />
      )}
      <Confirm
        open={open?.as === "delete"}
        onOpenChange={close}
        title="Delete the file?"
        description={`“${open?.file.name ?? ""}” is gone for good then${open?.file.kind === "recording" ? ", and its part of the run's recording" : ""}.`}
        action="Delete"
        busy={removal.isPending}
        onConfirm={() => open && removal.mutate(open.file)}
      />
    </>
  );
}

interface FileRowProps {
  file: FileRead;
  onOpen: (as: "preview" | "rename" | "delete") => void;
  onDownload: () => void;
}

function FileRow({ file, onOpen, onDownload }: FileRowProps) {
  const Icon = ICONS[file.kind];
  return (
    <div className="flex h-16 items-center gap-3 px-4">
      <Icon aria-hidden className="size-4 shrink-0 text-ink-3" />
      <div className="min-w-0 flex-1">
        <button
          type="button"
          onClick={() => onOpen("preview")}
          className="block max-w-full truncate text-left font-medium underline-offset-2 hover:underline"
        >
          {file.name}
        </button>
        <p className="truncate text-xs text-ink-3">
          {NAMES[file.kind]} · {bytes(file.size)} · <Ago at={file.created_at} />
          {file.run_id && (
            <>
              {" · "}
              <TextLink href={`/runs/${file.run_id}`}>
                its run
              </TextLink>
            </>
          )}
        </p>
      </div>
      <Button look="ghost" size="icon" aria-label={`Download ${file.name}`} onClick={onDownload}>
        <Download />
      </Button>
      <MoreMenu
        of={file.name}
        items={[
          { label: "Rename", icon: <Pencil />, onSelect: () => onOpen("rename") },
          null,
          { label: "Delete", icon: <Trash2 />, danger: true, onSelect: () => onOpen("delete") },
        ]}
      />
    </div>
  );
}
