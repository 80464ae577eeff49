import type { RunRead, StepRead } from "@/lib/api";

interface Standstill {
  title: string;
  detail: string;
}

const REASONS: Record<string, Standstill> = {
  requested: { title: "Paused", detail: "It goes on when you resume it." },
  control: { title: "A person has control", detail: "The run goes on when control is handed back." },
  control_expired: {
    title: "Control has ended",
    detail: "Nobody touched the browser for a while. Resume the run when the page is as it should be, or take control again.",
  },
  page_changed: { title: "The page is another one now", detail: "Your approval was for another page. Look at the browser, then resume the run." },
  may_have_landed: {
    title: "Look before it goes on",
    detail: "The run was cut off in a step that may have been done already. See in the browser whether it was, then resume.",
  },
  page_not_restored: {
    title: "Bring it to its page",
    detail: "The page that the run left could not be opened again. Take control, open it, then resume.",
  },
  budget_steps: { title: "The steps are used up", detail: "Allow more for the run to go on." },
  budget_tokens: { title: "The tokens are used up", detail: "Allow more for the run to go on." },
  budget_cost_usd: { title: "The money is used up", detail: "Allow more for the run to go on." },
  budget_seconds: { title: "The time is used up", detail: "Allow more for the run to go on." },
};

/** Why a run does not go on, and what to do about it. */
export function standstill(run: RunRead): Standstill {
  const reason = run.reason ?? "";
  if (reason.startsWith("budget_month_")) {
    return { title: "This month's budget is used up", detail: "An administrator can allow more; then resume the run." };
  }
  const known = REASONS[reason];
  if (known) return known;
  if (run.status === "waiting_user") return { title: reason || "It waits for you", detail: "Do it in the browser, then resume the run." };
  return { title: "Paused", detail: reason || "It goes on when you resume it." };
}

/** In a list: what a run waits for, in a few words. */
export function waitsFor(run: RunRead): string | null {
  if (run.status === "queued") return run.position ? `Place ${run.position} in the queue` : null;
  if (run.status === "waiting_approval") return run.reason?.replace(/ ref_\w+: /, ": ").replace(/[\s:]+$/, "") ?? null;
  if (run.status === "waiting_user" || run.status === "paused") return standstill(run).title;
  if (run.status === "failed" && typeof run.error?.detail === "string") return run.error.detail;
  return null;
}

/** What an agent has asked and waits to be told. */
export function questionOf(run: RunRead, steps: StepRead[] | undefined): string | null {
  if (run.status !== "waiting_user" || !run.reason) return null;
  const step = steps?.findLast((each) => each.status === "started");
  return step?.type === "ask_user" ? run.reason : null;
}

const HINTS: Record<string, string> = {
  element_not_found: "The page may have changed. Look at the screenshot of the step, mend the selector, or record the step anew.",
  element_not_ready: "Something may cover the element or it appears later. A step that waits for it helps, or more time.",
  timeout: "The page was slower than the step allows. Try again, or give the step more time.",
  unreachable: "The address does not answer. Check it and try again.",
  navigation_missing: "The page did not open what was expected. See in the recording what it did instead.",
  approval_denied: "The answer was no. Try again if that was a mistake.",
  approval_expired: "Nobody answered in time. Try again and answer while it waits.",
  placeholder_missing: "A value that a step names is not there. Check the params and the outputs of earlier steps.",
  secret_refused: "The page is not one of the secret's origins. Add it to the secret if you trust it.",
  page_crashed: "The page used more than it may. Try again.",
  page_closed: "The page closed itself. See in the recording when.",
  computer_closed: "The browser was closed from outside. Try again.",
  run_timeout: "The run took longer than it may. Allow it more time.",
};

export function hintFor(code: string): string {
  return HINTS[code] ?? "Look at the step and its picture, then try again.";
}

/** The outermost step of the definition that a run failed in, counted from 1. */
export function failedStep(run: RunRead): number | null {
  const pointer = run.error?.pointer;
  const found = typeof pointer === "string" ? /^\/steps\/(\d+)/.exec(pointer)?.[1] : undefined;
  return found === undefined ? null : Number(found) + 1;
}
