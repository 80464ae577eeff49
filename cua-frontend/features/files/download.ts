import { type FileRead, linkFile } from "@/lib/api";
import { call } from "@/lib/client";

/** An address of a file's content that needs no sign-in for five minutes, of the host that this page is from. */
export async function signedLink(id: string): Promise<string> {
  const { url } = await call(linkFile({ path: { id } }));
  const { pathname, search } = new URL(url, location.origin);
  return pathname + search;
}

/** Saves a file; the browser shows how far it is. */
export async function download(file: Pick<FileRead, "id" | "name">): Promise<void> {
  save(await signedLink(file.id), file.name);
}

/** Saves bytes that are here already. */
export function saveBlob(blob: Blob, name: string): void {
  const url = URL.createObjectURL(blob);
  save(url, name);
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}

function save(url: string, name: string): void {
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
}
