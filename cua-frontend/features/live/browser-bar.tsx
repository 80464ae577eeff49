"use client";

import { ArrowLeft, ArrowRight, Globe, Lock, RotateCw } from "lucide-react";
import { type ReactNode, useState } from "react";

import { Button } from "@/components/ui/button";
import type { InputEvent } from "@/lib/socket";

interface BrowserBarProps {
  url: string;
  steers: boolean;
  send: (event: InputEvent) => void;
  children?: ReactNode;
}

/** Where the browser is; whoever steers goes elsewhere with it. */
export function BrowserBar({ url, steers, send, children }: BrowserBarProps) {
  return (
    <div className="flex h-10 shrink-0 items-center gap-1 border-b border-line px-1.5">
      {steers && (
        <>
          <BarButton label="Back" onClick={() => send({ type: "navigate", event: "back" })}>
            <ArrowLeft />
          </BarButton>
          <BarButton label="Forward" onClick={() => send({ type: "navigate", event: "forward" })}>
            <ArrowRight />
          </BarButton>
          <BarButton label="Reload" onClick={() => send({ type: "navigate", event: "reload" })}>
            <RotateCw />
          </BarButton>
        </>
      )}
      {steers ? <Address key={url} url={url} send={send} /> : <Where url={url} />}
      {children}
    </div>
  );
}

export function BarButton({ label, onClick, children }: { label: string; onClick: () => void; children: ReactNode }) {
  return (
    <Button look="ghost" size="icon" aria-label={label} title={label} onClick={onClick}>
      {children}
    </Button>
  );
}

function Where({ url }: { url: string }) {
  const Icon = url.startsWith("https:") ? Lock : Globe;
  return (
    <p className="flex min-w-0 flex-1 items-center gap-2 px-2 text-xs" title={url || undefined}>
      <Icon className="size-3.5 shrink-0 text-ink-3" aria-hidden />
      <span className="truncate text-ink-2">{shown(url)}</span>
    </p>
  );
}

function shown(url: string): string {
  if (!url) return "No page yet";
  if (url === "about:blank") return "An empty page";
  return url.replace(/^https?:\/\//, "").replace(/\/$/, "");
}

function Address({ url, send }: { url: string; send: (event: InputEvent) => void }) {
  const [text, setText] = useState(url === "about:blank" ? "" : url);
  return (
    <form
      className="min-w-0 flex-1"
      onSubmit={(event) => {
        event.preventDefault();
        if (text.trim()) send({ type: "navigate", event: "go", url: withScheme(text.trim()) });
      }}
    >
      <input
        aria-label="Address"
        value={text}
        inputMode="url"
        spellCheck={false}
        autoComplete="off"
        autoCapitalize="off"
        placeholder="Address"
        onFocus={(event) => event.target.select()}
        onChange={(event) => setText(event.target.value)}
        className="h-8 w-full rounded-md border border-line-strong bg-surface px-2.5 text-xs placeholder:text-ink-3"
      />
    </form>
  );
}

/** As people type addresses: this machine's without TLS, all others with it. */
function withScheme(text: string): string {
  if (/^[a-z][a-z0-9+.-]*:\/\//i.test(text) || text.startsWith("about:")) return text;
  return /^(localhost|127\.|\[::1\])/.test(text) ? `http://${text}` : `https://${text}`;
}
