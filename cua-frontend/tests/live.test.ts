import { expect, test } from "vitest";

import { buttonName, type Click, clickCount, toPage, wheelPixels } from "@/features/live/geometry";
import { isLeave, isPaste, keyInput, modifiers, pieces, type Pressed } from "@/features/live/keys";

const pressed = (key: string, code: string, more: Partial<Pressed> = {}): Pressed => ({
  key, code, altKey: false, ctrlKey: false, metaKey: false, shiftKey: false, ...more,
});

test("a point of the screen is one of the page, whatever the picture's size and place", () => {
  const box = { left: 100, top: 50, width: 640, height: 360 };
  const page = { width: 1280, height: 720 };
  expect(toPage(100, 50, box, page)).toEqual({ x: 0, y: 0 });
  expect(toPage(420, 230, box, page)).toEqual({ x: 640, y: 360 });
  expect(toPage(739.9, 409.9, box, page)).toEqual({ x: 1279, y: 719 });
  expect(toPage(-5000, 9000, box, page)).toEqual({ x: 0, y: 719 });
  expect(toPage(100.3, 50.3, { ...box, width: 1280, height: 720 }, page)).toEqual({ x: 0.3, y: 0.3 });
  expect(toPage(300, 300, { ...box, width: 0, height: 0 }, page)).toEqual({ x: 0, y: 0 });
});

test("the wheel is told in pixels", () => {
  expect([wheelPixels(12.34, 0, 720), wheelPixels(3, 1, 720), wheelPixels(-1, 2, 720)]).toEqual([12.3, 99, -720]);
});

test("buttons that the socket does not know are none", () => {
  expect([0, 1, 2, 3, 4].map(buttonName)).toEqual(["left", "middle", "right", null, null]);
});

test("presses near each other in time and place are double and triple clicks, the fourth begins anew", () => {
  let last: Click | null = null;
  const counts = [0, 100, 200, 300, 900, 1000].map((at) => {
    const press = { x: 5 + at / 1000, y: 5, at, button: 0 };
    const count = clickCount(last, press);
    last = { ...press, count };
    return count;
  });
  expect(counts).toEqual([1, 2, 3, 1, 1, 2]);
  const first: Click = { x: 5, y: 5, at: 0, button: 0, count: 1 };
  expect(clickCount(first, { x: 11, y: 5, at: 10, button: 0 })).toBe(1);
  expect(clickCount(first, { x: 5, y: 5, at: 10, button: 2 })).toBe(1);
});

test("keys go as the page shall hear them", () => {
  expect(keyInput(pressed("a", "KeyA"), false)).toEqual({ key: "a", code: "KeyA", modifiers: 0 });
  expect(keyInput(pressed("A", "KeyA", { shiftKey: true }), false)?.modifiers).toBe(8);
  expect(keyInput(pressed("👍", ""), false)?.key).toBe("👍");
  expect(keyInput(pressed("F24", "F24"), false)?.key).toBe("F24");
  for (const none of ["Dead", "Process", "Unidentified", "AudioVolumeUp", "\u0007", ""]) expect(keyInput(pressed(none, "X"), false)).toBeNull();
  expect(keyInput(pressed("a", "KeyA", { isComposing: true }), false)).toBeNull();
});

test("Command on a Mac is Control, and Option writes signs", () => {
  expect(keyInput(pressed("Meta", "MetaLeft", { metaKey: true }), true)).toEqual({ key: "Control", code: "ControlLeft", modifiers: 2 });
  expect(keyInput(pressed("c", "KeyC", { metaKey: true }), true)?.modifiers).toBe(2);
  expect(keyInput(pressed("@", "KeyL", { altKey: true }), true)?.modifiers).toBe(0);
  expect(keyInput(pressed("c", "KeyC", { metaKey: true }), false)?.modifiers).toBe(4);
});

test("AltGr has chosen its sign already", () => {
  const held = { ctrlKey: true, altKey: true, getModifierState: () => true };
  expect(modifiers(pressed("@", "KeyQ", held), false)).toBe(0);
  expect(modifiers(pressed("q", "KeyQ", { ...held, getModifierState: () => false }), false)).toBe(3);
});

test("a paste comes as text, and one press gives the keyboard back", () => {
  expect(isPaste(pressed("v", "KeyV", { ctrlKey: true }), false)).toBe(true);
  expect(isPaste(pressed("V", "KeyV", { metaKey: true }), true)).toBe(true);
  expect(isPaste(pressed("Insert", "Insert", { shiftKey: true }), false)).toBe(true);
  expect(isPaste(pressed("v", "KeyV", { ctrlKey: true }), true)).toBe(false);
  expect(isPaste(pressed("v", "KeyV", { ctrlKey: true, altKey: true }), false)).toBe(false);
  expect(isLeave(pressed("Escape", "Escape", { ctrlKey: true, altKey: true }))).toBe(true);
  expect(isLeave(pressed("Escape", "Escape"))).toBe(false);
});

test("a long text goes in pieces that no sign is cut by", () => {
  const text = `${"x".repeat(9999)}👍\r\ny`;
  expect(pieces(text)).toEqual([`${"x".repeat(9999)}👍`, "\ny"]);
  expect(pieces("")).toEqual([]);
});
