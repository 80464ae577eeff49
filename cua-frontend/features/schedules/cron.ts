/** Ways to say when, which write the five fields of cron. */
export type Rhythm = "hourly" | "daily" | "weekdays" | "weekly" | "monthly" | "cron";

export const RHYTHMS: { id: Rhythm; label: string }[] = [
  { id: "hourly", label: "Every hour" },
  { id: "daily", label: "Every day" },
  { id: "weekdays", label: "Monday to Friday" },
  { id: "weekly", label: "Every week" },
  { id: "monthly", label: "Every month" },
  { id: "cron", label: "Own cron expression" },
];

export const WEEKDAYS = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

export interface When {
  rhythm: Rhythm;
  /** Of the hour, where it fires every hour. */
  minute: number;
  time: string; // HH:MM
  weekday: number; // 0 is Sunday
  day: number; // of the month
}

const DEFAULTS: When = { rhythm: "daily", minute: 0, time: "08:00", weekday: 1, day: 1 };

export function cronOf({ rhythm, minute, time, weekday, day }: When, own: string): string {
  const [hour, past] = time.split(":").map(Number);
  const at = `${past || 0} ${hour || 0}`;
  switch (rhythm) {
    case "hourly":
      return `${minute} * * * *`;
    case "daily":
      return `${at} * * *`;
    case "weekdays":
      return `${at} * * 1-5`;
    case "weekly":
      return `${at} * * ${weekday}`;
    case "monthly":
      return `${at} ${day} * *`;
    case "cron":
      return own;
  }
}

/** The rhythm that a cron expression is, or `cron` where it is none of ours. */
export function whenOf(cron: string): When {
  const fields = cron.trim().split(/\s+/);
  const [minute, hour, day, month, weekday] = fields;
  const own: When = { ...DEFAULTS, rhythm: "cron" };
  if (fields.length !== 5 || month !== "*" || !isNumber(minute, 59)) return own;
  if (hour === "*") return day === "*" && weekday === "*" ? { ...DEFAULTS, rhythm: "hourly", minute: Number(minute) } : own;
  if (!isNumber(hour, 23)) return own;
  const at = { ...DEFAULTS, time: `${hour.padStart(2, "0")}:${minute.padStart(2, "0")}` };
  if (day === "*" && weekday === "*") return { ...at, rhythm: "daily" };
  if (day === "*" && weekday === "1-5") return { ...at, rhythm: "weekdays" };
  if (day === "*" && isNumber(weekday, 6)) return { ...at, rhythm: "weekly", weekday: Number(weekday) };
  if (weekday === "*" && isNumber(day, 31) && Number(day) > 0) return { ...at, rhythm: "monthly", day: Number(day) };
  return own;
}

function isNumber(text: string | undefined, most: number): text is string {
  return text !== undefined && /^\d{1,2}$/.test(text) && Number(text) <= most;
}
