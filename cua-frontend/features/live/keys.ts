/** From a KeyboardEvent to what the socket takes; the browser that is steered runs on Linux. */

const ALT = 1;
const CONTROL = 2;
const META = 4;
const SHIFT = 8;

export interface Pressed {
  key: string;
  code: string;
  altKey: boolean;
  ctrlKey: boolean;
  metaKey: boolean;
  shiftKey: boolean;
  isComposing?: boolean;
  getModifierState?(key: "AltGraph"): boolean;
}

interface KeyInput {
  key: string;
  code: string;
  modifiers: number;
}

const NAMED = new Set([
  "Backspace", "Tab", "Enter", "Shift", "Control", "Alt", "Pause", "CapsLock", "Escape", "PageUp", "PageDown", "End", "Home",
  "ArrowLeft", "ArrowUp", "ArrowRight", "ArrowDown", "Insert", "Delete", "Meta", "ContextMenu", "AltGraph",
  ...Array.from({ length: 24 }, (_, place) => `F${place + 1}`),
]);

/** Command on a Mac does what Control does elsewhere, and Option writes signs. */
export function keyInput(event: Pressed, mac: boolean): KeyInput | null {
  if (event.isComposing || !isKey(event.key)) return null;
  if (mac && event.key === "Meta") return { key: "Control", code: event.code.replace("Meta", "Control"), modifiers: modifiers(event, mac) };
  return { key: event.key, code: event.code, modifiers: modifiers(event, mac) };
}

/** One sign that can be printed, or a key with a name: dead keys and input methods write text instead. */
function isKey(key: string): boolean {
  return NAMED.has(key) || ([...key].length === 1 && !/\p{C}/u.test(key));
}

export function modifiers(event: Omit<Pressed, "key" | "code">, mac: boolean): number {
  const shift = event.shiftKey ? SHIFT : 0;
  if (mac) return shift | (event.ctrlKey || event.metaKey ? CONTROL : 0);
  // AltGr, which some systems tell as Control and Alt, has chosen the sign already.
  if (event.getModifierState?.("AltGraph")) return shift;
  return shift | (event.altKey ? ALT : 0) | (event.ctrlKey ? CONTROL : 0) | (event.metaKey ? META : 0);
}

/** What the machine of whoever steers does itself: a paste comes as text. */
export function isPaste(event: Pressed, mac: boolean): boolean {
  const held = mac ? event.metaKey : event.ctrlKey;
  return (held && !event.altKey && event.key.toLowerCase() === "v") || (event.shiftKey && event.key === "Insert");
}

/** Gives the keyboard back to the app, since Tab and Escape go to the page. */
export function isLeave(event: Pressed): boolean {
  return event.ctrlKey && event.altKey && event.key === "Escape";
}

export const LEAVE_KEYS = "Ctrl+Alt+Escape";

export function isMac(): boolean {
  return /mac|iphone|ipad/i.test(navigator.platform);
}

const LONGEST_TEXT = 10_000;

/** Pieces that the socket takes: one message holds 10,000 characters. */
export function pieces(text: string): string[] {
  const signs = [...text.replace(/\r\n?/g, "\n")];
  const found: string[] = [];
  for (let at = 0; at < signs.length; at += LONGEST_TEXT) found.push(signs.slice(at, at + LONGEST_TEXT).join(""));
  return found;
}
