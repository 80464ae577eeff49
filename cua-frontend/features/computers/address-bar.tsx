"use client";

import { useMutation } from "@tanstack/react-query";
import { ArrowLeft, ArrowRight, RotateCw } from "lucide-react";
import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Input } from "@/components/ui/field";
import { toast } from "@/components/ui/toast";
import { type ActOnComputerData, actOnComputer, type ComputerRead } from "@/lib/api";
import { call } from "@/lib/client";

/** Where a computer is, and where it shall go. */
export function AddressBar({ computer }: { computer: ComputerRead }) {
  const [typed, setTyped] = useState<string | null>(null);
  const act = useMutation({
    mutationFn: (body: ActOnComputerData["body"]) => call(actOnComputer({ path: { id: computer.id }, body })),
    onSuccess: () => setTyped(null),
    onError: (error) => toast.failed("The browser did not go there", error),
  });
  const go = (text: string) => {
    const url = /^[a-z][a-z0-9+.-]*:/i.test(text) && !/^[^/]+:\d+/.test(text) ? text : `https://${text}`;
    act.mutate({ action: "navigate", url });
  };
  return (
    <form
      aria-label="Address"
      className="flex items-center gap-1"
      onSubmit={(event) => {
        event.preventDefault();
        const text = (typed ?? computer.url ?? "").trim();
        if (text) go(text);
      }}
    >
      <Button look="ghost" size="icon" aria-label="Back" disabled={act.isPending} onClick={() => act.mutate({ action: "back" })}>
        <ArrowLeft />
      </Button>
      <Button look="ghost" size="icon" aria-label="Forward" disabled={act.isPending} onClick={() => act.mutate({ action: "forward" })}>
        <ArrowRight />
      </Button>
      <Button look="ghost" size="icon" aria-label="Reload" disabled={act.isPending} onClick={() => act.mutate({ action: "reload" })}>
        <RotateCw />
      </Button>
      <Input
        aria-label="Address of the page"
        className="min-w-0 flex-1"
        inputMode="url"
        autoComplete="off"
        spellCheck={false}
        placeholder="shop.example"
        value={typed ?? (computer.url === "about:blank" ? "" : (computer.url ?? ""))}
        onFocus={(event) => event.target.select()}
        onChange={(event) => setTyped(event.target.value)}
      />
      <Button type="submit" busy={act.isPending}>
        Go
      </Button>
    </form>
  );
}
