"use client";

import { Hand, Keyboard, LoaderCircle, Maximize, Minimize, MonitorOff, Unplug } from "lucide-react";
import { type ReactNode, useCallback, useEffect, useRef } from "react";

import { useNow } from "@/components/time";
import { Button } from "@/components/ui/button";
import { Tooltip } from "@/components/ui/tooltip";
import { cn } from "@/lib/cn";
import { useSilentShortcuts } from "@/lib/shortcuts";

import { BarButton, BrowserBar } from "./browser-bar";
import { LEAVE_KEYS } from "./keys";
import { Steering } from "./steering";
import { TabStrip } from "./tab-strip";
import { type Control, useControl } from "./use-control";
import { useFullscreen } from "./use-fullscreen";
import { type Live, useLive } from "./use-live";

/** A picture that is shown in place of what happens now. */
export interface Instead {
  picture: string | null;
  url: string;
  /** What picture it is. */
  title: string;
  width: number;
  height: number;
}

interface LiveViewProps {
  /** Null while there is no browser. */
  computerId: string | null;
  /** What is said when there is none. */
  absent?: { title: string; detail: string; busy?: boolean };
  instead?: Instead | null;
  /** What is seen behind the word that there is no browser: the last picture of it. */
  last?: { picture: string | null; url: string };
  children?: ReactNode;
}

/** A computer's screen as it is now, and a person's hands on it. */
export function LiveView({ computerId, absent, instead, last, children }: LiveViewProps) {
  const canvas = useRef<HTMLCanvasElement>(null);
  const keyboard = useRef<HTMLTextAreaElement>(null);
  const handBack = useRef<HTMLButtonElement>(null);
  const live = useLive(computerId, canvas);
  const control = useControl(live.phase === "closed" ? null : computerId);
  const mine = control.state === "mine";
  const steers = mine && !instead;
  const fullscreen = useFullscreen();
  useSilentShortcuts(mine);
  const leave = useCallback(() => handBack.current?.focus(), []);
  useEffect(() => {
    // A finger that steers brings up a keyboard by the button for it.
    if (steers && matchMedia("(pointer: fine)").matches) keyboard.current?.focus({ preventScroll: true });
  }, [steers]);
  const url = instead ? instead.url : (live.view?.url ?? last?.url ?? "");
  const title = instead ? instead.title : (live.view?.title ?? (last?.picture ? "The last picture" : ""));
  const size = instead ?? live.size;
  return (
    <section
      aria-label="Browser"
      className={cn(
        "flex flex-col overflow-hidden bg-surface",
        fullscreen.on ? "fixed inset-0 z-40" : "rounded-xl border",
        mine ? "border-accent ring-2 ring-accent" : "border-line",
      )}
    >
      {/* Always there, so that the picture stays where it is when control is taken. */}
      <div className={cn("flex h-10 shrink-0 items-center gap-1.5 pr-1.5", mine ? "bg-accent-soft" : "bg-sunken")}>
        <TabStrip computerId={steers ? computerId : null} view={live.view} title={title} send={control.send} />
        {mine ? <Holding control={control} handBack={handBack} /> : !instead && <Liveness live={live} control={control} />}
      </div>
      <BrowserBar url={url} steers={steers} send={control.send}>
        {steers && (
          <span className="hidden pointer-coarse:block">
            <BarButton label="Keyboard" onClick={() => keyboard.current?.focus()}>
              <Keyboard />
            </BarButton>
          </span>
        )}
        {fullscreen.supported && (
          <BarButton label={fullscreen.on ? "Leave the full screen" : "Full screen"} onClick={fullscreen.toggle}>
            {fullscreen.on ? <Minimize /> : <Maximize />}
          </BarButton>
        )}
      </BrowserBar>
      <div className={cn("bg-sunken", fullscreen.on && "grid min-h-0 flex-1 place-items-center [container-type:size]")}>
        <div
          className="relative"
          style={{
            aspectRatio: `${size.width} / ${size.height}`,
            width: fullscreen.on ? `min(100cqw, 100cqh * ${size.width / size.height})` : undefined,
          }}
        >
          <canvas
            ref={canvas}
            role="img"
            aria-label={title ? `The browser's screen: ${title}` : "The browser's screen"}
            className={cn("absolute inset-0 size-full", (instead || !live.drawn || live.phase === "starting") && "invisible")}
          />
          {instead?.picture && (
            <img src={instead.picture} alt={`The browser's screen: ${title}`} className="absolute inset-0 size-full object-contain" />
          )}
          {instead && !instead.picture && <div className="skeleton absolute inset-0 rounded-none" />}
          {!instead && last?.picture && live.phase === "closed" && !live.drawn && (
            <img src={last.picture} alt="The last picture of the browser" className="absolute inset-0 size-full object-contain opacity-50" />
          )}
          {!instead && live.phase !== "live" && <Notice live={live} absent={absent} />}
          {steers && live.phase === "live" && <Steering page={live.size} send={control.send} keyboard={keyboard} onLeave={leave} />}
        </div>
      </div>
      {children}
    </section>
  );
}

function Notice({ live, absent }: { live: Live; absent: LiveViewProps["absent"] }) {
  if (live.phase === "reconnecting") {
    return (
      <div role="status" className="absolute inset-x-0 top-0 flex items-center justify-center gap-2 bg-warn-soft px-3 py-1.5 text-xs text-warn">
        <Unplug className="size-3.5" aria-hidden />
        The connection is away; this is the last picture.
      </div>
    );
  }
  const { title, detail, busy } =
    live.phase === "starting"
      ? { title: "The browser starts", detail: "Its screen appears here in a moment.", busy: true }
      : (absent ?? { title: "The browser is closed", detail: "There is nothing to watch any more.", busy: false });
  const Icon = busy ? LoaderCircle : MonitorOff;
  return (
    <div className="absolute inset-0 flex items-center justify-center p-4">
      <div role="status" className="flex flex-col items-center gap-1 rounded-xl bg-surface px-5 py-4 text-center shadow-raised">
        <Icon className={cn("mb-1 size-6 text-ink-3", busy && "animate-spin")} aria-hidden />
        <p className="font-medium">{title}</p>
        <p className="text-xs text-ink-3">{detail}</p>
      </div>
    </div>
  );
}

function Liveness({ live, control }: { live: Live; control: Control }) {
  if (live.phase !== "live") return null;
  return (
    <>
      <Tooltip
        text={
          live.delay === null
            ? "Pictures come when the page changes."
            : `${live.fps} pictures in the last second; they come when the page changes. The last one took ${Math.round(live.delay)} ms from the browser to here.`
        }
      >
        <button type="button" className="flex shrink-0 cursor-default items-center gap-1.5 rounded-md px-1.5 text-2xs text-ink-3 tabular-nums">
          <span aria-hidden className="size-1.5 rounded-full bg-good" />
          <span className="font-medium text-good">Live</span>
          <span className="hidden sm:inline">
            {live.fps} fps{live.delay !== null && ` · ${Math.round(live.delay)} ms`}
          </span>
        </button>
      </Tooltip>
      {control.state === "free" && (
        <Button size="sm" onClick={control.take}>
          <Hand />
          Take control
        </Button>
      )}
      {control.state === "pending" && (
        <Button size="sm" busy>
          Waiting for a halt
        </Button>
      )}
      {control.state === "other" && (
        <Button size="sm" onClick={control.take} title="Somebody else, or another tab of yours, has control">
          <Hand />
          Take over here
        </Button>
      )}
    </>
  );
}

const SHORT_S = 15;

function Holding({ control, handBack }: { control: Control; handBack: React.RefObject<HTMLButtonElement | null> }) {
  const now = useNow(1000);
  const seconds = Math.max(0, Math.floor((control.endsAt() - now) / 1000));
  return (
    <>
      <p className="flex shrink-0 items-center gap-1.5 px-1 text-xs text-accent-strong" title={`Without input, control ends by itself. ${LEAVE_KEYS} frees the keyboard.`}>
        <Hand className="size-4" aria-hidden />
        <span role="status" className="font-semibold max-sm:sr-only">
          You have control
        </span>
        <span className={cn("tabular-nums", seconds <= SHORT_S && "font-semibold")}>{seconds} s left</span>
      </p>
      <Button ref={handBack} size="sm" look="primary" onClick={control.release}>
        Hand back
      </Button>
    </>
  );
}
