"use client";

import { useMutation, useQuery } from "@tanstack/react-query";
import { ArrowLeft, ArrowRight, RotateCw } from "lucide-react";
import { useState } from "react";

import { Button } from "@/components/ui/button";
import { Input } from "@/components/ui/field";
import { toast } from "@/components/ui/toast";
import { type ActOnComputerData, actOnComputer, readComputer } from "@/lib/api";
import { call } from "@/lib/client";
import { keys } from "@/lib/keys";

/** Where a computer is, and where it shall go. */
export function AddressBar({ computerId }: { computerId: string }) {
  const computer = useQuery({ queryKey: keys.one("computer", computerId), queryFn: () => call(readComputer({ path: { id: computerId } })) });
  const url = computer.data?.url === "about:blank" ? "" : (computer.data?.url ?? "");
  const [typed, setTyped] = useState<string | null>(null);
  const act = useMutation({
    mutationFn: (body: ActOnComputerData["body"]) => call(actOnComputer({ path: { id: computerId }, body })),
    onSuccess: () => setTyped(null),
    onError: (error) => toast.failed("The browser did not go there", error),
  });
  const go = (text: string) => {
    const address = /^[a-z][a-z0-9+.-]*:/i.test(text) && !/^[^/]+:\d+/.test(text) ? text : `https://${text}`;
    act.mutate({ action: "navigate", url: address });
  };
  return (
    <form
      aria-label="Address"
      className="flex items-center gap-1"
      onSubmit={(event) => {
        event.preventDefault();
        const text = (typed ?? url).trim();
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
        value={typed ?? url}
        onFocus={(event) => event.target.select()}
        onChange={(event) => setTyped(event.target.value)}
      />
      <Button type="submit" busy={act.isPending}>
        Go
      </Button>
    </form>
  );
}
