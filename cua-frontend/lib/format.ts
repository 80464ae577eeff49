const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto", style: "narrow" });

interface Region {
  /** BCP 47; English where it is empty. */
  locale?: string;
  /** IANA name; the machine's own where it is empty. */
  timeZone?: string;
}

const REGION_KEY = "region";

/** How dates are written here; English where nobody has said otherwise. */
function storedRegion(): Region {
  try {
    return JSON.parse(localStorage.getItem(REGION_KEY) ?? "{}") as Region;
  } catch {
    return {}; // also on the web server
  }
}

function formatsOf({ locale, timeZone }: Region) {
  const language = locale || "en";
  const zone = timeZone || undefined;
  return {
    moment: new Intl.DateTimeFormat(language, { dateStyle: "medium", timeStyle: "short", timeZone: zone }),
    clock: new Intl.DateTimeFormat(language, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false, timeZone: zone }),
  };
}

function safeFormats(region: Region) {
  try {
    return formatsOf(region);
  } catch {
    return formatsOf({});
  }
}

let formats = safeFormats(storedRegion());

/** Writes dates in another way from now on; kept in this browser. Raises RangeError for what is no locale or zone. */
export function setRegion(region: Region): void {
  formats = formatsOf(region);
  localStorage.setItem(REGION_KEY, JSON.stringify(region));
}

/** The time zone in which dates are shown. */
export function timeZone(): string {
  return formats.moment.resolvedOptions().timeZone;
}

const SPANS: [Intl.RelativeTimeFormatUnit, number][] = [
  ["day", 86_400],
  ["hour", 3600],
  ["minute", 60],
];

/** “3m ago”, “in 2d”, “yesterday”; a date where it is more than a month away. */
export function ago(iso: string, now: number): string {
  const seconds = (Date.parse(iso) - now) / 1000;
  if (Math.abs(seconds) > 30 * 86_400) return formats.moment.format(Date.parse(iso));
  for (const [unit, length] of SPANS) {
    if (Math.abs(seconds) >= length) return relative.format(Math.trunc(seconds / length), unit);
  }
  return seconds > 0 ? "in a moment" : "just now";
}

export function dateTime(iso: string): string {
  return formats.moment.format(Date.parse(iso));
}

export function timeOfDay(iso: string): string {
  return formats.clock.format(Date.parse(iso));
}

/** “240 ms”, “12 s”, “3 min 20 s”, “2 h 5 min”. */
export function duration(milliseconds: number): string {
  if (milliseconds < 999.5) return `${Math.round(milliseconds)} ms`;
  if (milliseconds < 9950) return `${(milliseconds / 1000).toFixed(1)} s`;
  const seconds = Math.round(milliseconds / 1000);
  if (seconds < 60) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${seconds % 60} s`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function bytes(count: number): string {
  if (count < 1000) return `${count} B`;
  const units = ["kB", "MB", "GB", "TB"];
  let size = count;
  let unit = "B";
  for (const next of units) {
    if (size < 1000) break;
    size /= 1000;
    unit = next;
  }
  return `${size.toFixed(size < 10 ? 1 : 0)} ${unit}`;
}

export function number(count: number): string {
  return count.toLocaleString("en");
}

/** “1 step”, “12 steps”. */
export function counted(count: number, one: string, many = `${one}s`): string {
  return `${number(count)} ${count === 1 ? one : many}`;
}

export function money(dollars: number): string {
  return dollars > 0 && dollars < 0.01 ? "< $0.01" : `$${dollars.toFixed(2)}`;
}
