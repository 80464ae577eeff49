import Link from "next/link";
import type { ComponentProps } from "react";

import { cn } from "@/lib/cn";

/** A link in a sentence. */
export function TextLink({ className, ...rest }: ComponentProps<typeof Link>) {
  return <Link className={cn("text-accent-strong underline decoration-1 underline-offset-2", className)} {...rest} />;
}
