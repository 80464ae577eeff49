"use client";

import { useEffect, useState } from "react";

/** The value once it has stayed the same for a while. */
export function useLate<T>(value: T, quietMs = 400): T {
  const [late, setLate] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setLate(value), quietMs);
    return () => clearTimeout(timer);
  }, [value, quietMs]);
  return late;
}
