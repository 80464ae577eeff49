// Next leaves the static files out of its standalone server; they belong beside it, and so does what starts it.
import { cpSync } from "node:fs";

for (const [from, to = from] of [
  [".next/static"],
  ["public"],
  ["lib/origin.mjs"],
  ["node_modules/httpxy"],
  ["scripts/start.mjs", "start.mjs"],
]) {
  cpSync(from, `.next/standalone/${to}`, { recursive: true, dereference: true });
}
