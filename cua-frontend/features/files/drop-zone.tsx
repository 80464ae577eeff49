"use client";

import { FileUp } from "lucide-react";
import { type DragEvent, type ReactNode, useRef, useState } from "react";

/** Takes files that are dropped anywhere on what it is around. */
export function DropZone({ onFiles, children }: { onFiles: (files: Iterable<File>) => void; children: ReactNode }) {
  const [over, setOver] = useState(false);
  const depth = useRef(0); // entering a child comes before leaving its parent
  const bears = (event: DragEvent) => event.dataTransfer.types.includes("Files");
  const left = () => {
    depth.current = 0;
    setOver(false);
  };
  return (
    <div
      className="relative flex-1"
      onDragEnter={(event) => {
        if (!bears(event)) return;
        depth.current += 1;
        setOver(true);
      }}
      onDragLeave={() => {
        depth.current -= 1;
        if (depth.current <= 0) left();
      }}
      onDragOver={(event) => {
        if (bears(event)) event.preventDefault();
      }}
      onDrop={(event) => {
        if (!bears(event)) return;
        event.preventDefault();
        left();
        onFiles(event.dataTransfer.files);
      }}
    >
      {children}
      {over && (
        <div className="pointer-events-none absolute inset-2 z-20 flex items-start justify-center rounded-xl border-2 border-dashed border-accent bg-accent-soft/80 pt-40">
          <p className="flex items-center gap-2 rounded-lg bg-raised px-4 py-3 font-medium shadow-raised">
            <FileUp className="size-5 text-accent" aria-hidden /> Drop to upload
          </p>
        </div>
      )}
    </div>
  );
}
