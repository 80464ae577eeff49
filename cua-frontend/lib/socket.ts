import type { EventRead } from "./api";
import { getToken } from "./auth/session";

export type ConnectionState = "connecting" | "online" | "reconnecting" | "offline" | "refused";

export interface Frame {
  number: bigint;
  capturedAt: number; // milliseconds since 1970
  width: number; // CSS pixels of the page
  height: number;
  jpeg: Blob;
}

export interface View {
  tab: string;
  url: string;
  title: string;
}

export interface Controlled {
  state: "pending" | "granted" | "released";
  holder: string | null;
  generation: number;
  expires_at: string | null;
}

export interface Delta {
  run_id: string;
  message_id: string;
  offset: number;
  text: string;
}

export type InputEvent =
  | { type: "mouse"; event: "down" | "up" | "move"; x: number; y: number; button?: string; count?: number; modifiers?: number }
  | { type: "wheel"; x: number; y: number; dx: number; dy: number; modifiers?: number }
  | { type: "key"; event: "down" | "up"; key: string; code: string; modifiers?: number }
  | { type: "text"; text: string }
  | { type: "touch"; event: "start" | "move" | "end" | "cancel"; points: { x: number; y: number; id: number }[] }
  | { type: "navigate"; event: "go" | "back" | "forward" | "reload"; url?: string }
  | { type: "tab"; event: "new" | "switch" | "close"; tab?: string };

interface Watcher {
  onFrame: (frame: Frame, drawn: () => void) => void;
  onView: (view: View) => void;
  onEnd: (reason: string) => void;
}

/** Who hears what comes. */
interface Hearing {
  events: (events: EventRead[]) => void;
  delta: (delta: Delta) => void;
  /** Events may be missing: what was read before must be read anew. */
  lost: () => void;
}

/** What the server says no to on the socket. */
class SocketError extends Error {
  constructor(
    readonly code: string,
    detail: string,
    readonly retryable: boolean,
  ) {
    super(detail);
    this.name = "SocketError";
  }
}

interface Pending {
  resolve: (message: Message) => void;
  reject: (error: SocketError) => void;
}

type Message = Record<string, unknown> & { type: string; id?: number };

const HEADER_BYTES = 32;
const DEAD_MS = 35_000;
const FIRST_WAIT_MS = 300;
const LONGEST_WAIT_MS = 15_000;
/** Codes after which coming again is of no use. */
const FINAL = new Set([4400, 4403]);

/**
 * The tab's one connection to `/ws`: events from where it left off, live views, input.
 *
 * Whoever watches goes on watching over reconnects; requests that were on their way when it broke are refused.
 */
export class Socket {
  private hearing: Hearing = { events: () => undefined, delta: () => undefined, lost: () => undefined };
  private socket: WebSocket | null = null;
  private state: ConnectionState = "connecting";
  private readonly listeners = new Set<() => void>();
  private upto: number | null = null;
  private nextId = 1;
  private failures = 0;
  private wanted = false;
  private retryTimer: ReturnType<typeof setTimeout> | undefined;
  private deadTimer: ReturnType<typeof setTimeout> | undefined;
  private readonly pending = new Map<number, Pending>();
  private readonly held = new Map<number, (message: Controlled) => void>(); // by id of their request
  private readonly watchers = new Map<Watcher, { computerId: string; maxFps: number; stream: number | null }>();

  readonly subscribe = (listener: () => void): (() => void) => {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  };

  readonly snapshot = (): ConnectionState => this.state;

  open(hearing: Hearing): void {
    this.hearing = hearing;
    if (this.wanted) return;
    this.wanted = true;
    addEventListener("online", this.again);
    addEventListener("offline", this.offline);
    void this.connect();
  }

  close(): void {
    this.wanted = false;
    removeEventListener("online", this.again);
    removeEventListener("offline", this.offline);
    clearTimeout(this.retryTimer);
    this.socket?.close(1000);
    this.gone();
    this.upto = null;
    this.become("connecting");
  }

  /** Watch a computer until the returned function is called. */
  watch(computerId: string, watcher: Watcher, maxFps = 30): () => void {
    this.watchers.set(watcher, { computerId, maxFps, stream: null });
    if (this.state === "online") void this.beginWatch(watcher);
    return () => {
      const stream = this.watchers.get(watcher)?.stream;
      this.watchers.delete(watcher);
      if (stream != null && this.state === "online") this.send({ type: "unwatch", stream });
    };
  }

  /** Take or release control; `onChange` hears of what comes later: the grant after `pending`, and its end. */
  async control(
    computerId: string,
    action: "take" | "release",
    onChange: (message: Controlled) => void = () => undefined,
  ): Promise<Controlled> {
    const { id, reply } = this.request({ type: "control", computer_id: computerId, action });
    const answer = controlled(await reply);
    if (action === "take") this.held.set(id, onChange);
    return answer;
  }

  input(computerId: string, generation: number, event: InputEvent): void {
    if (this.state === "online") this.send({ type: "input", computer_id: computerId, generation, event });
  }

  private readonly again = (): void => {
    this.failures = 0;
    clearTimeout(this.retryTimer);
    if (this.wanted && !this.socket) void this.connect();
  };

  private readonly offline = (): void => {
    this.become("offline");
    this.socket?.close();
  };

  private async connect(): Promise<void> {
    let token: string | null;
    try {
      token = await getToken();
    } catch {
      return this.retry();
    }
    if (!this.wanted || this.socket) return;
    if (!token) return;
    const scheme = location.protocol === "https:" ? "wss" : "ws";
    const socket = new WebSocket(`${scheme}://${location.host}/ws`, ["cua.v1"]);
    socket.binaryType = "arraybuffer";
    this.socket = socket;
    socket.onopen = () => {
      this.send({ type: "auth", token });
      this.alive();
    };
    socket.onmessage = (event: MessageEvent<string | ArrayBuffer>) => {
      this.alive();
      if (typeof event.data === "string") this.hear(JSON.parse(event.data) as Message);
      else this.show(event.data);
    };
    socket.onclose = (event) => {
      if (this.socket !== socket) return;
      this.gone();
      if (!this.wanted) return;
      if (!FINAL.has(event.code)) return this.retry();
      this.become("refused");
      void getToken(true).catch(() => undefined); // a sign-in that was ended elsewhere ends here, too
    };
  }

  private retry(): void {
    this.become(navigator.onLine ? (this.upto === null ? "connecting" : "reconnecting") : "offline");
    const wait = Math.min(FIRST_WAIT_MS * 2 ** this.failures, LONGEST_WAIT_MS);
    this.failures += 1;
    clearTimeout(this.retryTimer);
    // Many clients of a server that restarts do not all come at once.
    this.retryTimer = setTimeout(() => void this.connect(), wait * (0.5 + Math.random() / 2));
  }

  private gone(): void {
    clearTimeout(this.deadTimer);
    this.socket = null;
    const refused = new SocketError("disconnected", "The connection was lost", true);
    for (const { reject } of this.pending.values()) reject(refused);
    this.pending.clear();
    for (const tell of this.held.values()) tell({ state: "released", holder: null, generation: 0, expires_at: null });
    this.held.clear();
    for (const watched of this.watchers.values()) watched.stream = null;
  }

  private alive(): void {
    clearTimeout(this.deadTimer);
    this.deadTimer = setTimeout(() => this.socket?.close(4000), DEAD_MS);
  }

  private hear(message: Message): void {
    const waiting = message.id == null ? undefined : this.pending.get(message.id);
    switch (message.type) {
      case "ready":
        if (this.state !== "online") void this.ready();
        break;
      case "auth_expiring":
        // Without a new one the server ends the connection, and the next begins with one.
        getToken(true).then((token) => token && this.send({ type: "auth", token }), () => undefined);
        break;
      case "events":
        this.upto = message.upto as number;
        this.hearing.events(message.events as EventRead[]);
        break;
      case "position":
        this.upto = Math.max(this.upto ?? 0, (message.upto as number | null) ?? 0);
        break;
      case "delta":
        this.hearing.delta(message as unknown as Delta);
        break;
      case "view":
        this.watcherOf(message.stream as number)?.onView(message as unknown as View);
        break;
      case "unwatched": {
        const watcher = this.watcherOf(message.stream as number);
        if (watcher && message.id == null) {
          this.watchers.delete(watcher);
          watcher.onEnd((message.reason as string | undefined) ?? "ended");
        }
        break;
      }
      case "controlled":
        if (waiting === undefined && message.id != null) this.held.get(message.id)?.(controlled(message));
        break;
      case "error":
        if (message.id == null) break;
        this.pending.delete(message.id);
        waiting?.reject(new SocketError(String(message.code), String(message.detail), message.retryable === true));
        return;
    }
    if (waiting && message.id != null) {
      this.pending.delete(message.id);
      waiting.resolve(message);
    }
  }

  private async ready(): Promise<void> {
    try {
      const after = this.upto;
      const reply = await this.request({ type: "subscribe", after }).reply;
      this.failures = 0;
      this.upto ??= reply.from as number;
      this.become("online");
      // What was read before the first subscription may be older than it.
      if (after === null || reply.recovered === false) this.hearing.lost();
      if (reply.recovered === false) this.upto = reply.from as number;
      for (const watcher of this.watchers.keys()) void this.beginWatch(watcher);
    } catch {
      this.socket?.close();
    }
  }

  private async beginWatch(watcher: Watcher): Promise<void> {
    const watched = this.watchers.get(watcher);
    if (!watched) return;
    const wish = { type: "watch", computer_id: watched.computerId, max_fps: watched.maxFps };
    try {
      const stream = (await this.request(wish).reply).stream as number;
      if (this.watchers.get(watcher) === watched) watched.stream = stream;
      else this.send({ type: "unwatch", stream });
    } catch (error) {
      if (error instanceof SocketError && error.code !== "disconnected") {
        this.watchers.delete(watcher);
        watcher.onEnd(error.code);
      }
    }
  }

  private watcherOf(stream: number): Watcher | undefined {
    for (const [watcher, watched] of this.watchers) if (watched.stream === stream) return watcher;
    return undefined;
  }

  private show(data: ArrayBuffer): void {
    const header = new DataView(data, 0, HEADER_BYTES);
    if (header.getUint8(0) !== 1 || header.getUint8(1) !== 1) return;
    const stream = header.getUint32(4);
    const number = header.getBigUint64(8);
    const drawn = () => {
      // Beyond 2**53 frames JSON could not carry the number; at 30 a second that is in nine million years.
      if (this.state === "online") this.send({ type: "ack", stream, frame: Number(number) });
    };
    const watcher = this.watcherOf(stream);
    if (!watcher) return drawn();
    watcher.onFrame(
      {
        number,
        capturedAt: Number(header.getBigUint64(16)) / 1000,
        width: header.getUint16(28),
        height: header.getUint16(30),
        jpeg: new Blob([new Uint8Array(data, HEADER_BYTES)], { type: "image/jpeg" }),
      },
      drawn,
    );
  }

  private request(message: Record<string, unknown>): { id: number; reply: Promise<Message> } {
    const id = this.nextId++;
    const reply = new Promise<Message>((resolve, reject) => {
      if (this.socket?.readyState !== WebSocket.OPEN) {
        reject(new SocketError("disconnected", "There is no connection", true));
        return;
      }
      this.pending.set(id, { resolve, reject });
      this.send({ ...message, id });
    });
    return { id, reply };
  }

  private send(message: Record<string, unknown>): void {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(message));
  }

  private become(state: ConnectionState): void {
    if (state === this.state) return;
    this.state = state;
    for (const listener of this.listeners) listener();
  }
}

function controlled(message: Message): Controlled {
  return message as unknown as Controlled;
}

