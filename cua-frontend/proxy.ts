import { type NextRequest, NextResponse } from "next/server";

import { API_ORIGIN, isApiPath } from "@/lib/origin.mjs";

export const config = { matcher: "/((?!_next/static|_next/image|icon.svg).*)" };

/**
 * Gives pages their content security policy, and hands the API's paths on where `scripts/start.mjs` has not done so
 * already: under `next dev`, or on a host that runs Next its own way.
 */
export function proxy(request: NextRequest): NextResponse {
  const { pathname, search } = request.nextUrl;
  if (isApiPath(pathname)) return NextResponse.rewrite(new URL(pathname + search, API_ORIGIN));

  if (pathname.startsWith("/sample-shop/")) return guarded(NextResponse.next(), "default-src 'self'; frame-ancestors 'none'");

  const nonce = btoa(crypto.randomUUID());
  const policy = contentSecurityPolicy(nonce);
  const headers = new Headers(request.headers);
  headers.set("x-nonce", nonce);
  headers.set("content-security-policy", policy);
  return guarded(NextResponse.next({ request: { headers } }), policy);
}

function guarded(response: NextResponse, policy: string): NextResponse {
  response.headers.set("content-security-policy", policy);
  response.headers.set("referrer-policy", "same-origin");
  response.headers.set("x-content-type-options", "nosniff");
  return response;
}

/** Pages run our own scripts alone and, where Clerk signs people in, its own from its own address. */
function contentSecurityPolicy(nonce: string): string {
  const clerk = clerkOrigin(process.env.CLERK_PUBLISHABLE_KEY);
  const evaluated = process.env.NODE_ENV === "development" ? " 'unsafe-eval'" : "";
  return [
    "default-src 'self'",
    `script-src 'self' 'nonce-${nonce}' 'strict-dynamic'${evaluated}`,
    "style-src 'self' 'unsafe-inline'",
    `img-src 'self' blob: data:${clerk && " https://img.clerk.com"}`,
    "font-src 'self'",
    `connect-src 'self'${clerk && ` ${clerk}`}`,
    "worker-src 'self' blob:",
    `frame-src 'self'${clerk && ` ${clerk} https://challenges.cloudflare.com`}`,
    "object-src 'none'",
    "base-uri 'self'",
    "form-action 'self'",
    "frame-ancestors 'none'",
  ].join("; ");
}

/** A publishable key holds the address of its Clerk instance: `pk_test_` + base64 of the host and a `$`. */
function clerkOrigin(key: string | undefined): string {
  const encoded = key?.split("_")[2];
  return encoded ? `https://${atob(encoded).replace(/\$$/, "")}` : "";
}
