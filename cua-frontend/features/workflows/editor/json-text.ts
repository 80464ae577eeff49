/** Where things stand in a JSON text, and the first thing that is wrong with it. */
export interface JsonMap {
  /** Lines, from 1, by JSON pointer. */
  lines: Map<string, number>;
  /** What of the text was read, where it is JSON. */
  value: unknown;
  error: { line: number; message: string } | null;
}

class Broken extends Error {
  constructor(
    readonly offset: number,
    message: string,
  ) {
    super(message);
  }
}

const SPACE = /[\t\n\r ]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"/y;
const PLAIN = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

/** Reads a JSON text (RFC 8259) and keeps where each value begins. */
export function mapJson(text: string): JsonMap {
  const starts = lineStarts(text);
  const lines = new Map<string, number>();
  let at = 0;

  const take = (pattern: RegExp): string | null => {
    pattern.lastIndex = at;
    const found = pattern.exec(text)?.[0];
    if (found === undefined) return null;
    at += found.length;
    return found;
  };
  const expected = (what: string): Broken => {
    const seen = at < text.length ? `“${text[at]}”` : "the end";
    return new Broken(at, `${what} is expected here, not ${seen}`);
  };
  const name = (): string => {
    const found = take(STRING);
    if (found === null) throw text[at] === '"' ? new Broken(at, "The text is not closed") : expected('A name in "…"');
    return JSON.parse(found) as string;
  };
  const value = (pointer: string): void => {
    take(SPACE);
    lines.set(pointer, lineOf(starts, at));
    const first = text[at];
    if (first === "{") return members(pointer);
    if (first === "[") return items(pointer);
    if (first === '"') return void name();
    if (!take(PLAIN)) throw expected("A value");
  };
  const members = (pointer: string): void => {
    at += 1;
    take(SPACE);
    if (text[at] === "}") return void (at += 1);
    for (;;) {
      take(SPACE);
      const key = name();
      take(SPACE);
      if (text[at] !== ":") throw expected("A colon");
      at += 1;
      value(`${pointer}/${key.replaceAll("~", "~0").replaceAll("/", "~1")}`);
      take(SPACE);
      if (text[at] === "}") return void (at += 1);
      if (text[at] !== ",") throw expected("A comma or }");
      at += 1;
    }
  };
  const items = (pointer: string): void => {
    at += 1;
    take(SPACE);
    if (text[at] === "]") return void (at += 1);
    for (let index = 0; ; index += 1) {
      value(`${pointer}/${index}`);
      take(SPACE);
      if (text[at] === "]") return void (at += 1);
      if (text[at] !== ",") throw expected("A comma or ]");
      at += 1;
    }
  };

  try {
    value("");
    take(SPACE);
    if (at < text.length) throw expected("The end");
    return { lines, value: JSON.parse(text), error: null };
  } catch (error) {
    if (error instanceof Broken) return { lines, value: undefined, error: { line: lineOf(starts, error.offset), message: error.message } };
    return { lines, value: undefined, error: { line: 1, message: error instanceof Error ? error.message : String(error) } };
  }
}

function lineStarts(text: string): number[] {
  const starts = [0];
  for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1)) starts.push(at + 1);
  return starts;
}

function lineOf(starts: number[], offset: number): number {
  let [low, high] = [0, starts.length];
  while (low + 1 < high) {
    const middle = (low + high) >> 1;
    if ((starts[middle] ?? 0) <= offset) low = middle;
    else high = middle;
  }
  return low + 1;
}

/** The line of a pointer, or of the nearest thing around it that is there. */
export function lineOfPointer({ lines }: JsonMap, pointer: string): number {
  for (let at = pointer; ; at = at.slice(0, at.lastIndexOf("/"))) {
    const line = lines.get(at);
    if (line !== undefined) return line;
    if (at === "") return 1;
  }
}

/** As the Recorder writes it. */
export function formatJson(value: unknown): string {
  return JSON.stringify(value, null, 2);
}
