import type { NextConfig } from "next";

const config: NextConfig = {
  output: "standalone",
  compress: false, // what is proxied may be a stream
  poweredByHeader: false,
  reactStrictMode: true,
  turbopack: { root: import.meta.dirname },
  experimental: {
    proxyClientMaxBodySize: "2gb", // the API's own limit is the one that counts
    proxyTimeout: 3_600_000, // quiet streams
  },
};

export default config;
