import type { NextConfig } from "next";

const config: NextConfig = {
  output: "standalone",
  compress: false, // what is proxied may be a stream
  poweredByHeader: false,
  reactStrictMode: true,
  turbopack: { root: import.meta.dirname },
  experimental: {
    // Kept in memory. `next dev` hands uploads on itself, and there the API's own limit is the one that counts.
    proxyClientMaxBodySize: process.env.NODE_ENV === "development" ? "2gb" : "1mb",
    proxyTimeout: 3_600_000, // quiet streams
  },
};

export default config;
