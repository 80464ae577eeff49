/** What the API says when something fails (RFC 9457), as an error that can be thrown. */
export class Problem extends Error {
  readonly status: number;
  readonly code: string;
  readonly title: string;
  readonly errors: { loc: (string | number)[]; msg: string }[];
  readonly retryAfter: number | null;

  constructor(told: {
    status: number;
    code: string;
    title: string;
    detail?: string;
    errors?: { loc: (string | number)[]; msg: string }[];
    retryAfter?: number | null;
  }) {
    super(told.detail ?? told.title);
    this.name = "Problem";
    this.status = told.status;
    this.code = told.code;
    this.title = told.title;
    this.errors = told.errors ?? [];
    this.retryAfter = told.retryAfter ?? null;
  }

  /** What is wrong with a field of the body, or undefined. */
  of(field: string): string | undefined {
    return this.errors.find(({ loc }) => (loc[0] === "body" ? loc[1] : loc[0]) === field)?.msg;
  }
}

/** What is wrong with a field, where it is the API that says so. */
export function wrongWith(error: Error | null, field: string): string | undefined {
  return error instanceof Problem ? error.of(field) : undefined;
}

/** The problem in a reply that is not `ok`; also where something between here and the API has answered. */
export async function problemOf(reply: Response, body?: unknown): Promise<Problem> {
  const told = body ?? (await reply.json().catch(() => null));
  const wait = Number(reply.headers.get("retry-after"));
  const retryAfter = Number.isFinite(wait) && wait > 0 ? wait : null;
  if (isProblem(told)) return new Problem({ ...told, status: reply.status, retryAfter });
  const title = reply.status >= 500 ? "The server cannot be reached" : `The server answered ${reply.status}`;
  return new Problem({ status: reply.status, code: "unreachable", title, retryAfter });
}

function isProblem(told: unknown): told is { code: string; title: string } {
  return typeof told === "object" && told !== null && "code" in told && "title" in told;
}
