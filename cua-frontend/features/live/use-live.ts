"use client";

import { type RefObject, useEffect, useRef, useState } from "react";

import { useConnection, useSocket } from "@/lib/events";
import type { Frame, View } from "@/lib/socket";

import type { Size } from "./geometry";

type Phase = "starting" | "live" | "reconnecting" | "closed";

export interface Live {
  phase: Phase;
  /** There is a picture on the canvas, be it the last one. */
  drawn: boolean;
  view: View | null;
  /** CSS pixels of the page. */
  size: Size;
  fps: number;
  /** Milliseconds from the browser's screen to this one. */
  delay: number | null;
}

const USUAL: Size = { width: 1280, height: 720 };
const STATS_MS = 500;
const AGAIN_MS = 1000;
/** Older than this is the picture of a page that has stood still since, which says nothing of the way. */
const STILL_MS = 5000;

/**
 * Draws a computer's screen on the canvas: the newest picture wins, and each is acknowledged once it is drawn.
 *
 * A tab that is not looked at draws nothing, so the server sends it nothing.
 */
export function useLive(computerId: string | null, canvas: RefObject<HTMLCanvasElement | null>): Live {
  const socket = useSocket();
  const connection = useConnection();
  const [view, setView] = useState<View | null>(null);
  const [size, setSize] = useState(USUAL);
  const [shown, setShown] = useState<string | null>(null); // the computer of the picture
  const [closed, setClosed] = useState<string | null>(null);
  const [stats, setStats] = useState<{ fps: number; delay: number | null }>({ fps: 0, delay: null });
  const drawnAt = useRef<number[]>([]);
  const delay = useRef<number | null>(null);

  useEffect(() => {
    if (!computerId) return;
    let over = false;
    let next: { frame: Frame; drawn: () => void } | null = null;
    let busy = false;
    let again: ReturnType<typeof setTimeout> | undefined;
    let stop = () => {};

    const drawNext = async () => {
      if (busy) return;
      busy = true;
      while (next && !over) {
        const { frame, drawn } = next;
        next = null;
        try {
          const picture = await createImageBitmap(frame.jpeg);
          await nextPaint();
          if (!over && canvas.current) draw(canvas.current, picture);
          picture.close();
        } catch {
          // A picture that cannot be read is passed over; the next one will do.
        }
        drawn();
        if (over) break;
        const now = Date.now();
        drawnAt.current.push(now);
        const age = Math.max(0, now - frame.capturedAt);
        delay.current = age < STILL_MS ? age : null;
        setShown(computerId);
        setSize((old) => (old.width === frame.width && old.height === frame.height ? old : { width: frame.width, height: frame.height }));
      }
      busy = false;
    };

    const begin = () => {
      stop = socket.watch(computerId, {
        onFrame: (frame, drawn) => {
          next = { frame, drawn };
          void drawNext();
        },
        onView: setView,
        onEnd: (reason) => {
          if (over) return;
          if (reason === "computer_closed" || reason === "not_found") setClosed(computerId);
          else again = setTimeout(begin, AGAIN_MS);
        },
      });
    };
    begin();
    return () => {
      over = true;
      clearTimeout(again);
      stop();
    };
  }, [computerId, socket, canvas]);

  useEffect(() => {
    const timer = setInterval(() => {
      const now = Date.now();
      drawnAt.current = drawnAt.current.filter((at) => now - at < 1000);
      const fps = drawnAt.current.length;
      setStats((old) => (old.fps === fps && old.delay === delay.current ? old : { fps, delay: delay.current }));
    }, STATS_MS);
    return () => clearInterval(timer);
  }, []);

  let phase: Phase = "starting";
  if (!computerId || closed === computerId) phase = "closed";
  else if (shown === computerId) phase = connection === "online" ? "live" : "reconnecting";
  return { phase, drawn: shown !== null, view, size, ...stats };
}

function draw(canvas: HTMLCanvasElement, picture: ImageBitmap): void {
  if (canvas.width !== picture.width || canvas.height !== picture.height) {
    canvas.width = picture.width;
    canvas.height = picture.height;
  }
  canvas.getContext("2d", { alpha: false })?.drawImage(picture, 0, 0);
}

function nextPaint(): Promise<void> {
  return new Promise((resolve) => requestAnimationFrame(() => resolve()));
}
