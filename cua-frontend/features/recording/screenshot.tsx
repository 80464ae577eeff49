"use client";

import { useState } from "react";

import { Dialog } from "@/components/ui/dialog";
import { cn } from "@/lib/cn";

import { usePicture } from "./pictures";

/** A picture of a page, larger when it is clicked; nothing where it is gone. */
export function Screenshot({ id, small }: { id: string; small?: boolean }) {
  const { address, failed } = usePicture(`/api/files/${id}/content`);
  const [open, setOpen] = useState(false);
  if (failed) return null;
  return (
    <>
      <button
        type="button"
        aria-label="Enlarge the picture of the page"
        disabled={!address}
        onClick={() => setOpen(true)}
        className={cn("relative block w-full overflow-hidden rounded-md border border-line bg-sunken", small ? "h-32" : "aspect-video")}
      >
        {address ? (
          <img src={address} alt="" className={cn("absolute inset-0 size-full object-top", small ? "object-cover" : "object-contain")} />
        ) : (
          <span className="skeleton absolute inset-0" />
        )}
      </button>
      <Dialog open={open} onOpenChange={setOpen} title="The page at that moment" wide>
        {address && <img src={address} alt="The page at that moment" className="w-full rounded-md border border-line" />}
      </Dialog>
    </>
  );
}
