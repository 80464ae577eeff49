// Starts the standalone server and says who asks, as every proxy should and Next's own does not:
// the API limits sign-ins by address, and a client may have written anything into the header itself.
const http = require("node:http");

const emit = http.Server.prototype.emit;
http.Server.prototype.emit = function (event, request, ...rest) {
  if (event === "request" || event === "upgrade") {
    const before = request.headers["x-forwarded-for"];
    const address = request.socket.remoteAddress?.replace(/^::ffff:/, "");
    request.headers["x-forwarded-for"] = before ? `${before}, ${address}` : address;
  }
  return emit.call(this, event, request, ...rest);
};

require("./server.js");
