"use client";

import { FileUp } from "lucide-react";
import { useEffect, useEffectEvent, useState } from "react";

/** Takes files that are dropped anywhere on the screen, and says so while some are held over it. */
export function DropAnywhere({ label, onFiles }: { label: string; onFiles: (files: File[]) => void }) {
  const [over, setOver] = useState(false);
  const take = useEffectEvent(onFiles);
  useEffect(() => {
    const gone = new AbortController();
    let depth = 0; // entering an element comes before leaving the one around it
    const hear = (name: "dragenter" | "dragleave" | "dragover" | "drop", act: (event: DragEvent) => void) => {
      const ofFiles = (event: DragEvent) => event.dataTransfer?.types.includes("Files") && act(event);
      addEventListener(name, ofFiles, { signal: gone.signal });
    };
    const count = (next: number) => {
      depth = Math.max(0, next);
      setOver(depth > 0);
    };
    hear("dragenter", () => count(depth + 1));
    hear("dragleave", () => count(depth - 1));
    hear("dragover", (event) => event.preventDefault());
    hear("drop", (event) => {
      event.preventDefault();
      count(0);
      take([...(event.dataTransfer?.files ?? [])]);
    });
    return () => gone.abort();
  }, []);
  if (!over) return null;
  return (
    <div className="pointer-events-none fixed inset-3 z-50 flex items-center justify-center rounded-xl border-2 border-dashed border-accent bg-canvas/85">
      <p className="flex items-center gap-3 text-base font-medium">
        <FileUp className="size-5 text-accent" aria-hidden />
        {label}
      </p>
    </div>
  );
}
