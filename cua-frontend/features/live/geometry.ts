/** From pixels of the screen to CSS pixels of the page that is shown, and from gestures to what the socket takes. */

export interface Size {
  width: number;
  height: number;
}

interface Point {
  x: number;
  y: number;
}

interface Box extends Size {
  left: number;
  top: number;
}

/** Where on the page a point of the screen is; a point beside the picture is moved to its edge. */
export function toPage(clientX: number, clientY: number, box: Box, page: Size): Point {
  const along = (at: number, start: number, shown: number, real: number) =>
    shown > 0 ? Math.min(Math.max(((at - start) / shown) * real, 0), real - 1) : 0;
  return {
    x: round(along(clientX, box.left, box.width, page.width)),
    y: round(along(clientY, box.top, box.height, page.height)),
  };
}

function round(pixels: number): number {
  return Math.round(pixels * 10) / 10;
}

const BUTTONS = ["left", "middle", "right"] as const;

/** The button's name, or null for those that the socket does not know. */
export function buttonName(button: number): (typeof BUTTONS)[number] | null {
  return BUTTONS[button] ?? null;
}

const LINE_PIXELS = 33;

/** How far the wheel turned in CSS pixels, whatever unit the browser told it in. */
export function wheelPixels(delta: number, mode: number, page: number): number {
  if (mode === WheelMode.line) return round(delta * LINE_PIXELS);
  if (mode === WheelMode.page) return round(delta * page);
  return round(delta);
}

const WheelMode = { line: 1, page: 2 } as const;

export interface Click extends Point {
  at: number; // milliseconds
  button: number;
  count: number;
}

const MULTIPLE_MS = 450;
const MULTIPLE_PIXELS = 5;
const MOST_CLICKS = 3;

/** Whether a press is the first, second or third of its kind: 2 is a double click. */
export function clickCount(last: Click | null, press: Omit<Click, "count">): number {
  if (!last || last.button !== press.button || press.at - last.at > MULTIPLE_MS) return 1;
  if (Math.hypot(press.x - last.x, press.y - last.y) > MULTIPLE_PIXELS) return 1;
  return last.count >= MOST_CLICKS ? 1 : last.count + 1;
}
