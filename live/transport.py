"""The connection behind a server's `send`: without compression, and cut when its peer reads nothing."""

import asyncio
import sys
import time
from contextlib import suppress
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_SNDBUF, SOL_SOCKET
from typing import cast

import structlog
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from live import limits

log = structlog.get_logger()

TCP_NOTSENT_LOWAT = 25 if sys.platform == "linux" else 0x201  # <linux/tcp.h>, and <netinet/tcp.h> of macOS
SEND_BUFFER = 128 * 1024  # bytes; what a connection has under way is stale before it arrives


class TransportAccess:
    """The outermost ASGI layer: lets `live` reach the connection behind uvicorn's `send`.

    Elsewhere nothing is reached, and connections have the limits of that server.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = getattr(send, "__self__", None)
        transport = getattr(server, "transport", None)
        if transport is not None and scope["type"] in ("http", "websocket"):
            scope.setdefault("extensions", {})["cua.transport"] = transport
        if isinstance(server, WebSocketsSansIOProtocol):
            _refuse_compression(server)
        await self.app(scope, receive, send)


def _refuse_compression(server: WebSocketsSansIOProtocol) -> None:
    """Unsay permessage-deflate before the handshake is answered, and bound messages.

    Deflating one frame of 60 KB costs more than a millisecond, and each connection 40 KiB.
    """
    server.conn.max_message_size = limits.MESSAGE_BYTES
    server.conn.extensions.clear()
    server.response.headers.pop("Sec-WebSocket-Extensions", None)


class Peer:
    """One client's transport; it is aborted when nothing has left for it in `WRITE_SECONDS`.

    Closing is not enough: a transport flushes first, and a peer that reads nothing lets it flush for ever.
    """

    def __init__(self, scope: Scope) -> None:
        self.sent = 0
        self.left = False
        self._transport = cast("asyncio.Transport | None", scope.get("extensions", {}).get("cua.transport"))
        self._seen = (0, 0)
        self._moved_at = time.monotonic()
        if self._transport is not None and scope["type"] == "websocket":
            self._bound_kernel_buffer(self._transport)

    def _bound_kernel_buffer(self, transport: asyncio.Transport) -> None:
        sock = transport.get_extra_info("socket")
        if sock is not None and sock.family in (AF_INET, AF_INET6):
            with suppress(OSError):  # the client may have gone, and not every system has the second one
                sock.setsockopt(SOL_SOCKET, SO_SNDBUF, SEND_BUFFER)
                sock.setsockopt(IPPROTO_TCP, TCP_NOTSENT_LOWAT, SEND_BUFFER)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def check(self, now: float) -> bool:
        """Abort a stalled transport; whether there is still something to look after."""
        waiting = self._transport.get_write_buffer_size() if self._transport is not None else 0
        sent, before = self._seen
        self._seen = (self.sent, waiting)
        if not waiting or self.sent != sent or waiting < before:
            self._moved_at = now
        elif now - self._moved_at >= limits.WRITE_SECONDS:
            log.info("stalled_peer_cut", waiting=waiting)
            self.abort()
        return not self.left or waiting > 0
