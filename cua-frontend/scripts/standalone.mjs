// Next leaves the static files out of its standalone server; they belong beside it, and so does what starts it.
import { cpSync } from "node:fs";

cpSync(".next/static", ".next/standalone/.next/static", { recursive: true });
cpSync("public", ".next/standalone/public", { recursive: true });
cpSync("scripts/start.cjs", ".next/standalone/start.cjs");
