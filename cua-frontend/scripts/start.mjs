// Starts the standalone server. What is the API's is handed on before Next sees it: Next would keep a whole upload in
// memory. And it says who asks, and where, as every proxy should: the API limits sign-ins by address, and a client may
// have written anything into the header itself.
import http from "node:http";

import { createProxyServer } from "httpxy";

import { API_ORIGIN, isApiPath } from "./lib/origin.mjs";

const IDLE_MS = 60_000; // shorter than the API keeps an idle connection, so that no request meets one that is closing

const { Agent } = API_ORIGIN.startsWith("https:") ? await import("node:https") : http;
const proxy = createProxyServer({
  target: API_ORIGIN,
  agent: new Agent({ keepAlive: true, timeout: IDLE_MS }),
  changeOrigin: true,
  xfwd: true,
});

proxy.on("error", (error, request, response) => {
  console.error(`${request?.method} ${request?.url}: ${error.message}`);
  if (response instanceof http.ServerResponse && !response.headersSent) {
    const body = { type: "about:blank", title: "The server cannot be reached", status: 502, code: "unreachable" };
    response.writeHead(502, { "content-type": "application/problem+json" }).end(JSON.stringify(body));
  } else {
    response?.destroy();
  }
});

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, ...rest) {
  if (event === "request" || event === "upgrade") {
    const before = request.headers["x-forwarded-for"];
    const address = request.socket.remoteAddress?.replace(/^::ffff:/, "");
    request.headers["x-forwarded-for"] = before ? `${before}, ${address}` : address;
    request.headers["x-forwarded-host"] ??= request.headers.host;
    if (isApiPath(request.url.split("?", 1)[0])) {
      if (event === "request") proxy.web(request, ...rest);
      else proxy.ws(request, rest[0], {}, rest[1]);
      return true;
    }
  }
  return emit.call(this, event, request, ...rest);
};

await import("./server.js");
