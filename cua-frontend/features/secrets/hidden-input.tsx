"use client";

import { Eye, EyeOff } from "lucide-react";
import { type ComponentProps, useState } from "react";

import { Button } from "@/components/ui/button";
import { Input } from "@/components/ui/field";

interface HiddenInputProps extends ComponentProps<"input"> {
  /** What is hidden, for the button that shows it. */
  label: string;
  /** Nothing to hide. */
  open?: boolean;
}

/** A value that is hidden while it is typed, unless its writer wants to see it. */
export function HiddenInput({ label, open = false, ...rest }: HiddenInputProps) {
  const [shown, setShown] = useState(open);
  return (
    <div className="flex gap-2">
      {/* `new-password`: browsers neither fill in nor offer to keep it. */}
      <Input {...rest} type={shown ? "text" : "password"} autoComplete={open ? "off" : "new-password"} spellCheck={false} className="font-mono" />
      {!open && (
        <Button
          look="ghost"
          size="icon"
          className="mt-0.5"
          aria-pressed={shown}
          aria-label={`Show ${label.toLowerCase()}`}
          onClick={() => setShown(!shown)}
        >
          {shown ? <EyeOff /> : <Eye />}
        </Button>
      )}
    </div>
  );
}
