"""uvicorn's HTTP protocol for clients that do not mean well: a request's head is short and comes soon."""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES = 64 * 1024  # beyond what came with its end
HEAD_SECONDS = 30.0
LINGER_SECONDS = 30.0
TOO_LONG = b"\r\n".join(
    (
        b"HTTP/1.1 431 Request Header Fields Too Large",
        b"content-type: text/plain",
        b"content-length: 27",
        b"connection: close",
        b"",
        b"The headers are too long.",
        b"",
    )
)


class LingeringTransport:
    """What a response is written to after which the connection ends (RFC 9112 §9.6).

    Closing it while a body is still on its way would reset it, and the client might never read its answer.
    """

    def __init__(self, transport: asyncio.Transport, cycle: RequestResponseCycle) -> None:
        self._transport = transport
        self._cycle = cycle
        self.write, self.is_closing = transport.write, transport.is_closing

    def close(self) -> None:
        if self._cycle.more_body and not self._transport.is_closing():
            if self._transport.can_write_eof():
                self._transport.write_eof()
            asyncio.get_running_loop().call_later(LINGER_SECONDS, self._transport.close)
        else:
            self._transport.close()


class BoundedHttp(HttpToolsProtocol):
    """The parser collects headers without end, and each read copies what it has of them.

    A head over `HEAD_BYTES` is answered with 431, and one that is not whole after `HEAD_SECONDS` is cut off.
    What comes of a body after its answer is read and thrown away, for `LINGER_SECONDS` where the connection
    ends then.
    """

    _in_head = True
    _heads = 0  # that are whole
    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        was_in_head, heads = self._in_head, self._heads
        super().data_received(data)
        if was_in_head and self._in_head and heads == self._heads and not self.transport.is_closing():
            self._expect_head()
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self.transport.write(TOO_LONG)
                self.transport.close()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_timer()
        self._in_head, self._head_bytes = False, 0
        self._heads += 1
        super().on_headers_complete()
        if self.cycle is not None and not self.cycle.keep_alive:
            self.cycle.transport = LingeringTransport(self.transport, self.cycle)  # type: ignore[assignment]

    def on_message_complete(self) -> None:
        self._in_head = True
        super().on_message_complete()
        if self.cycle is not None and self.cycle.response_complete and not self.cycle.keep_alive:
            self.transport.close()

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._cut_off)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _cut_off(self) -> None:
        self._head_timer = None
        self.transport.abort()
