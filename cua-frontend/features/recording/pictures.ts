"use client";

import { useEffect, useState } from "react";

import { fetchBlob } from "@/lib/client";

const MOST = 160;
const kept = new Map<string, Promise<string>>(); // the longest unused first

/** A picture of the API as an address that an `img` takes; kept, since pictures never change. */
export function loadPicture(path: string): Promise<string> {
  const known = kept.get(path);
  if (known) {
    kept.delete(path);
    kept.set(path, known);
    return known;
  }
  const loading = fetchBlob(path).then(async (blob) => {
    const address = URL.createObjectURL(blob);
    const picture = new Image();
    picture.src = address;
    await picture.decode().catch(() => undefined); // so that it is painted at once
    return address;
  });
  kept.set(path, loading);
  loading.catch(() => kept.delete(path));
  for (const [oldest, address] of kept) {
    if (kept.size <= MOST) break;
    kept.delete(oldest);
    address.then((url) => URL.revokeObjectURL(url)).catch(() => undefined);
  }
  return loading;
}

/** The picture's address once it is there; until then the one before, so that nothing flickers. */
export function usePicture(path: string | null): { address: string | null; failed: boolean } {
  const [shown, setShown] = useState<{ path: string; address: string | null } | null>(null);
  useEffect(() => {
    if (!path) return;
    let over = false;
    loadPicture(path)
      .then((address) => !over && setShown({ path, address }))
      .catch(() => !over && setShown({ path, address: null }));
    return () => {
      over = true;
    };
  }, [path]);
  if (!path) return { address: null, failed: false };
  return { address: shown?.address ?? null, failed: shown?.path === path && shown.address === null };
}
