"use client";

import { type PointerEvent as ReactPointerEvent, type RefObject, useEffect, useRef } from "react";

import type { InputEvent as Input } from "@/lib/socket";

import { buttonName, type Click, clickCount, type Size, toPage, wheelPixels } from "./geometry";
import { isLeave, isMac, isPaste, keyInput, LEAVE_KEYS, modifiers, pieces } from "./keys";

/** Stays in the text field, so that phones tell of a Backspace. */
const SENTINEL = "\u200b";

interface SteeringProps {
  page: Size;
  send: (event: Input) => void;
  keyboard: RefObject<HTMLTextAreaElement | null>;
  /** The keyboard is to go back to the app. */
  onLeave: () => void;
}

/** Lies over the picture and passes on mouse, wheel, fingers and keys. */
export function Steering({ page, send, keyboard, onLeave }: SteeringProps) {
  const surface = useRef<HTMLDivElement>(null);
  useKeyboard(keyboard, send, onLeave);
  const pointers = usePointers(surface, keyboard, page, send);
  return (
    <div
      ref={surface}
      className="absolute inset-0 touch-none select-none has-[:focus-visible]:outline-2 has-[:focus-visible]:-outline-offset-2 has-[:focus-visible]:outline-accent"
      onContextMenu={(event) => event.preventDefault()}
      {...pointers}
    >
      <textarea
        ref={keyboard}
        aria-label={`Keyboard of the browser; ${LEAVE_KEYS} leaves it`}
        defaultValue={SENTINEL}
        autoCapitalize="off"
        autoComplete="off"
        autoCorrect="off"
        spellCheck={false}
        className="absolute top-0 left-0 size-px resize-none overflow-hidden opacity-0"
      />
    </div>
  );
}

function usePointers(
  surface: RefObject<HTMLDivElement | null>,
  keyboard: RefObject<HTMLTextAreaElement | null>,
  page: Size,
  send: (event: Input) => void,
) {
  const lastClick = useRef<Click | null>(null);
  const fingers = useRef(new Map<number, { x: number; y: number; id: number }>());
  const waiting = useRef(new Map<string, Input>()); // moves and wheel turns until the next frame
  const timer = useRef(0);

  const flush = () => {
    cancelAnimationFrame(timer.current);
    timer.current = 0;
    for (const event of waiting.current.values()) send(event);
    waiting.current.clear();
  };
  const later = (name: string, event: Input) => {
    waiting.current.set(name, event);
    timer.current ||= requestAnimationFrame(flush);
  };
  const at = (event: { clientX: number; clientY: number }) => {
    const box = surface.current?.getBoundingClientRect() ?? new DOMRect();
    return toPage(event.clientX, event.clientY, box, page);
  };

  const turned = useRef<(event: WheelEvent) => void>(() => undefined);
  useEffect(() => {
    turned.current = (event) => {
      event.preventDefault();
      const before = waiting.current.get("wheel");
      const [dx, dy] = before?.type === "wheel" ? [before.dx, before.dy] : [0, 0];
      const sideways = event.shiftKey && event.deltaX === 0;
      later("wheel", {
        type: "wheel",
        ...at(event),
        dx: dx + wheelPixels(sideways ? event.deltaY : event.deltaX, event.deltaMode, page.width),
        dy: dy + (sideways ? 0 : wheelPixels(event.deltaY, event.deltaMode, page.height)),
        modifiers: modifiers(event, isMac()),
      });
    };
  });
  useEffect(() => {
    const element = surface.current;
    if (!element) return;
    const hear = (event: WheelEvent) => turned.current(event);
    element.addEventListener("wheel", hear, { passive: false }); // React's own cannot hold the page still
    return () => element.removeEventListener("wheel", hear);
  }, [surface]);
  useEffect(() => () => cancelAnimationFrame(timer.current), []);

  const isFinger = (event: ReactPointerEvent) => event.pointerType === "touch";
  const touched = (event: ReactPointerEvent, kind: "start" | "move" | "end" | "cancel") => {
    const held = fingers.current;
    if (kind === "end" || kind === "cancel") held.delete(event.pointerId);
    else {
      const known = held.get(event.pointerId);
      if (!known && kind === "move") return;
      const free = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9].find((id) => ![...held.values()].some((finger) => finger.id === id));
      const id = known?.id ?? free;
      if (id === undefined) return;
      held.set(event.pointerId, { ...at(event), id });
    }
    const told: Input = { type: "touch", event: kind, points: kind === "cancel" ? [] : [...held.values()] };
    if (kind === "cancel") held.clear();
    if (kind === "move") return later("touch", told);
    flush();
    send(told);
  };

  return {
    onPointerDown: (event: ReactPointerEvent<HTMLDivElement>) => {
      event.preventDefault();
      if (!isFinger(event)) keyboard.current?.focus({ preventScroll: true });
      event.currentTarget.setPointerCapture(event.pointerId);
      if (isFinger(event)) return touched(event, "start");
      const button = buttonName(event.button);
      if (!button) return;
      flush();
      const point = at(event);
      const press = { ...point, at: event.timeStamp, button: event.button };
      const count = clickCount(lastClick.current, press);
      lastClick.current = { ...press, count };
      send({ type: "mouse", event: "down", ...point, button, count, modifiers: modifiers(event, isMac()) });
    },
    onPointerMove: (event: ReactPointerEvent) => {
      if (isFinger(event)) return touched(event, "move");
      // A second button that goes down or up while one is held comes as a move.
      const button = event.button >= 0 ? buttonName(event.button) : null;
      const told = { ...at(event), modifiers: modifiers(event, isMac()) };
      if (!button) return later("mouse", { type: "mouse", event: "move", ...told });
      flush();
      const down = (event.buttons & HELD[button]) !== 0;
      send({ type: "mouse", event: down ? "down" : "up", ...told, button, count: 1 });
    },
    onPointerUp: (event: ReactPointerEvent) => {
      if (isFinger(event)) return touched(event, "end");
      const button = buttonName(event.button);
      if (!button) return;
      flush();
      const count = lastClick.current?.button === event.button ? lastClick.current.count : 1;
      send({ type: "mouse", event: "up", ...at(event), button, count, modifiers: modifiers(event, isMac()) });
    },
    onPointerCancel: (event: ReactPointerEvent) => {
      if (isFinger(event)) touched(event, "cancel");
    },
  };
}

const HELD = { left: 1, right: 2, middle: 4 } as const;

function useKeyboard(field: RefObject<HTMLTextAreaElement | null>, send: (event: Input) => void, onLeave: () => void): void {
  useEffect(() => {
    const element = field.current;
    if (!element) return;
    const mac = isMac();
    const held = new Map<string, string>(); // code -> key

    const write = (text: string) => {
      for (const piece of pieces(text.replaceAll(SENTINEL, ""))) send({ type: "text", text: piece });
    };
    const type = (key: string) => {
      send({ type: "key", event: "down", key, code: key });
      send({ type: "key", event: "up", key, code: key });
    };
    const down = (event: KeyboardEvent) => {
      if (isLeave(event)) {
        event.preventDefault();
        onLeave();
        return;
      }
      if (isPaste(event, mac)) return; // comes as a paste
      const told = keyInput(event, mac);
      if (!told) return; // comes as text
      event.preventDefault();
      send({ type: "key", event: "down", ...told });
      // A Mac tells of no key that is let go while Command is held.
      if (mac && event.metaKey && event.key !== "Meta") send({ type: "key", event: "up", ...told });
      else held.set(told.code, told.key);
    };
    const up = (event: KeyboardEvent) => {
      const told = keyInput(event, mac);
      if (!told || !held.delete(told.code)) return;
      event.preventDefault();
      send({ type: "key", event: "up", ...told });
    };
    const release = () => {
      for (const [code, key] of held) send({ type: "key", event: "up", key, code });
      held.clear();
    };
    const paste = (event: ClipboardEvent) => {
      event.preventDefault();
      write(event.clipboardData?.getData("text/plain") ?? "");
    };
    const reset = () => empty(element);
    // What input methods and the keyboards of phones do without keys.
    const input = (event: Event) => {
      if (!(event instanceof InputEvent) || event.isComposing) return;
      if (event.inputType.startsWith("deleteContent")) type("Backspace");
      else if (event.inputType === "insertLineBreak" || event.inputType === "insertParagraph") type("Enter");
      else write(event.data ?? element.value);
      reset();
    };
    const composed = (event: CompositionEvent) => {
      write(event.data);
      reset();
    };
    element.addEventListener("keydown", down);
    element.addEventListener("keyup", up);
    element.addEventListener("blur", release);
    element.addEventListener("paste", paste);
    element.addEventListener("input", input);
    element.addEventListener("compositionend", composed);
    reset();
    return () => {
      release();
      element.removeEventListener("keydown", down);
      element.removeEventListener("keyup", up);
      element.removeEventListener("blur", release);
      element.removeEventListener("paste", paste);
      element.removeEventListener("input", input);
      element.removeEventListener("compositionend", composed);
    };
  }, [field, send, onLeave]);
}

/** Nothing but the sentinel, with the caret behind it. */
function empty(field: HTMLTextAreaElement): void {
  field.value = SENTINEL;
  field.setSelectionRange(SENTINEL.length, SENTINEL.length);
}
