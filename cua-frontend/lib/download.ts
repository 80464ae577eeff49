import { linkFile } from "./api";
import { call } from "./client";

const KEPT_MS = 60_000;

/** Saves a stored file; the browser shows how far it is. */
export async function downloadFile({ id, name }: { id: string; name: string }): Promise<void> {
  const { url } = await call(linkFile({ path: { id } })); // needs no sign-in for five minutes
  const { pathname, search } = new URL(url, location.href);
  save(pathname + search, name); // by way of our own address, whatever the server's is
}

/** Saves bytes that are here already. */
export function downloadBlob(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), KEPT_MS);
}

function save(url: string, name: string): void {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}
