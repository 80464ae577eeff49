"use client";

import { Check, Copy } from "lucide-react";
import { useEffect, useState } from "react";

import { Button, type ButtonProps } from "./ui/button";
import { toast } from "./ui/toast";

const SHOWN_MS = 2000;

/** Puts a text on the clipboard; false, and a word about it, where the browser does not allow that. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    toast.failed("Not copied", "The browser does not allow it here; select the text and copy it.");
    return false;
  }
}

interface CopyButtonProps extends Pick<ButtonProps, "size" | "look"> {
  /** A function where the text takes work to make. */
  text: string | (() => string);
  label?: string;
}

/** Puts a text on the clipboard; `label` says which, and is shown unless the button is only a picture. */
export function CopyButton({ text, label = "Copy", size = "sm", look = "secondary" }: CopyButtonProps) {
  const [copied, setCopied] = useState(false);
  useEffect(() => {
    if (!copied) return;
    const timer = setTimeout(() => setCopied(false), SHOWN_MS);
    return () => clearTimeout(timer);
  }, [copied]);
  return (
    <Button size={size} look={look} aria-label={size === "icon" ? label : undefined} title={size === "icon" ? label : undefined} onClick={() => void copy(typeof text === "string" ? text : text()).then(setCopied)}>
      {copied ? <Check aria-hidden /> : <Copy aria-hidden />}
      {size !== "icon" && (copied ? "Copied" : label)}
      <span role="status" className="sr-only">
        {copied && size === "icon" ? "Copied" : ""}
      </span>
    </Button>
  );
}
