import { cookies, headers } from "next/headers";

import { API_ORIGIN } from "@/lib/origin.mjs";

const COOKIE = "cua_session";
const DAYS_90 = 90 * 86_400;

interface Tokens {
  access_token: string;
  refresh_token: string;
  expires_in: number;
}

/**
 * The embedded sign-in: `POST /session/{login,register,refresh,logout}`.
 *
 * The refresh token stays in a cookie that no script can read; the page gets the short-lived access token only.
 */
export async function POST(request: Request, { params }: { params: Promise<{ action: string }> }): Promise<Response> {
  // A form of another site can send anything but this, so nobody is signed in as somebody else from there.
  if (!request.headers.get("content-type")?.startsWith("application/json")) return new Response(null, { status: 415 });
  const { action } = await params;
  const kept = (await cookies()).get(COOKIE)?.value;
  switch (action) {
    case "login":
    case "register":
      return signedIn(await ask(request, action, await request.text()));
    case "refresh":
      if (!kept) return new Response(null, { status: 204 });
      return refreshed(await ask(request, "refresh", JSON.stringify({ refresh_token: kept })));
    case "logout": {
      const reply = await ask(request, "logout", undefined);
      (await cookies()).delete({ name: COOKIE, path: "/session" });
      return reply;
    }
    default:
      return new Response(null, { status: 404 });
  }
}

async function ask(request: Request, action: string, body: string | undefined): Promise<Response> {
  const sent = new Headers();
  for (const name of ["authorization", "content-type", "user-agent", "x-forwarded-for"]) {
    const value = request.headers.get(name);
    if (value) sent.set(name, value);
  }
  if (body !== undefined) sent.set("content-type", "application/json");
  try {
    return await fetch(`${API_ORIGIN}/api/auth/${action}`, { method: "POST", headers: sent, body, cache: "no-store" });
  } catch {
    const problem = { success: false, code: "unavailable", title: "The server cannot be reached", status: 503 };
    return Response.json(problem, { status: 503 });
  }
}

/** A session that has ended is forgotten. */
async function refreshed(reply: Response): Promise<Response> {
  if (reply.status === 401) (await cookies()).delete({ name: COOKIE, path: "/session" });
  return signedIn(reply);
}

/** Keeps the refresh token in the cookie and passes the rest on. */
async function signedIn(reply: Response): Promise<Response> {
  if (!reply.ok) return new Response(await reply.text(), { status: reply.status, headers: passedOn(reply) });
  const { data } = (await reply.json()) as { data: Tokens };
  const secure = (await headers()).get("x-forwarded-proto") === "https";
  (await cookies()).set(COOKIE, data.refresh_token, {
    httpOnly: true,
    sameSite: "strict",
    secure,
    path: "/session",
    maxAge: DAYS_90,
  });
  return Response.json(
    { access_token: data.access_token, expires_in: data.expires_in },
    { headers: { "cache-control": "no-store" } },
  );
}

function passedOn(reply: Response): Headers {
  const headers = new Headers({ "content-type": "application/problem+json" });
  const wait = reply.headers.get("retry-after");
  if (wait) headers.set("retry-after", wait);
  return headers;
}
