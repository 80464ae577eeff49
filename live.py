"""Events, frames and control over `/ws`, and events over SSE: one hub follows each connected user's log.

Events are pulled: a subscription is a cursor, and all cursors of a user read one ring of its newest events,
or the database where the ring no longer reaches. A slow client therefore costs no more than its cursor.
"""

import asyncio
import signal
import struct
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from socket import AF_INET, AF_INET6, IPPROTO_TCP, SO_SNDBUF, SOL_SOCKET
from types import FrameType
from typing import Any, Protocol, cast
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import orjson
import structlog
from pydantic import BaseModel, TypeAdapter, ValidationError
from sqlalchemy.exc import NoResultFound
from starlette.datastructures import Headers
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

import clerk_auth
import db
from browser.actions import ActionFailed, InputEvent
from browser.chromium import ComputerClosed
from browser.screencast import Frame, Watch
from clerk_auth import Caller
from infra.bus import Bus
from models import Computer, ControlState
from runs import computers
from schemas import (
    AckRequest,
    AuthExpiringMessage,
    AuthRequest,
    ComputerSettings,
    ControlledMessage,
    ControlRead,
    ControlRequest,
    ErrorMessage,
    HelloMessage,
    InputRequest,
    PositionMessage,
    ReadyMessage,
    RequestId,
    SocketLimits,
    SocketRequest,
    SubscribedMessage,
    SubscribeRequest,
    UnsubscribedMessage,
    UnsubscribeRequest,
    UnwatchedMessage,
    UnwatchRequest,
    ViewMessage,
    WatchingMessage,
    WatchRequest,
)
from settings import settings

log = structlog.get_logger()

SUBPROTOCOL = "cua.v1"
MESSAGE_BYTES = 64 * 1024
MESSAGES_PER_SECOND = 600  # and twice as many at once
CONNECTIONS_PER_USER = 20
UNAUTHENTICATED = 500  # connections of this process
SUBSCRIPTIONS = 64
STREAMS = 16
REQUESTS = 32  # requests of one connection under way
INPUTS = 256  # input events of one connection that wait
UNACKNOWLEDGED = 2  # frames of one stream

QUEUED_BYTES = 2**20
QUEUED_EVENTS = 4096
READ_EVENTS = 500  # events of one read of the log that all viewers share
PAGE_EVENTS = 200  # events of one read for one subscription that catches up
BATCH_BYTES = 64 * 1024  # of one `events` message, after its first event

TICK_SECONDS = 1.0
AUTH_SECONDS = 10.0
WARNING_SECONDS = 15.0  # from `auth_expiring` to the token's end
GRACE_SECONDS = 25.0  # from the token's end to 4401
POSITION_SECONDS = 25.0
HEARTBEAT_SECONDS = 15.0
SLOW_SECONDS = 1.0  # a client that cannot keep up is one whose messages wait this long
WRITE_SECONDS = 10.0  # without any progress
TEXT_CHARS = 2048  # of an address or a title that a page chose
SEND_BUFFER = 128 * 1024  # bytes; what a connection has under way is stale before it arrives
TCP_NOTSENT_LOWAT = 25  # Linux, <linux/tcp.h>

AWAY = (db.Unavailable, OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError)


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the server closes a connection: the close code, and the `error` message before it."""

    code: int
    name: str
    detail: str
    retryable: bool = False
    retry_after_ms: int | None = None


REFUSED = Ending(4401, "unauthorized", "The token is not valid. Get a new one and connect again.", True)
EXPIRED = Ending(4401, "expired", "The token has expired. Get a new one and connect again.", True)
SLOW = Ending(4008, "slow_consumer", "Messages wait too long. Connect again and resume from `upto`.", True)
STOPPING = Ending(
    4009, "shutting_down", "The server stops. Connect again and resume from `upto`.", True, 1000
)
LOST = Ending(4010, "position_lost", "The log no longer reaches back to here. Read state anew.", True)
FLOOD = Ending(4013, "rate_limited", "Too many messages. Send fewer.", True, 1000)
CROWDED = Ending(4013, "rate_limited", "Too many connections wait for their sign-in.", True, 5000)
FOREIGN_ORIGIN = Ending(4403, "forbidden", "Pages of this origin may not connect.")
OTHER_USER = Ending(4403, "forbidden", "A connection belongs to one user. Open another one.")
REVOKED = Ending(4403, "forbidden", "The sign-in has ended.")
SILENT = Ending(4408, "auth_timeout", "No `auth` message came in time.")
TOO_MANY = Ending(4429, "too_many_connections", f"At most {CONNECTIONS_PER_USER} connections per user.")
TOO_BIG = Ending(1009, "too_big", f"Messages are at most {MESSAGE_BYTES} bytes.")
UNAVAILABLE = Ending(1013, "unavailable", "The server cannot reach its database. Try again.", True, 2000)
FAULT = Ending(1011, "internal", "The server made a mistake. Connect again and resume from `upto`.", True)


def _bad_message(detail: str) -> Ending:
    return Ending(4400, "bad_message", detail)


class Ended(Exception):
    """The connection is to be closed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.detail)
        self.ending = ending


class Refused(Exception):
    """A request cannot be done; the connection goes on."""

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code, self.detail, self.retryable = code, detail, retryable


class TooManyConnections(Exception):
    """The user has as many sockets and streams as one may have."""


# The transport ------------------------------------------------------------------------------------


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
    server.conn.max_message_size = MESSAGE_BYTES
    server.conn.extensions.clear()
    server.response.headers.pop("Sec-WebSocket-Extensions", None)


class _Peer:
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
        elif now - self._moved_at >= WRITE_SECONDS:
            log.info("stalled_peer_cut", waiting=waiting)
            self.abort()
        return not self.left or waiting > 0


# The hub ------------------------------------------------------------------------------------------


class _Follower(Protocol):
    """A connection that follows a user's log."""

    def notice(self, events: list[db.LoggedEvent]) -> None:
        """These were added to the ring."""

    def end(self, ending: Ending) -> None:
        """Close the connection."""


class _Log:
    """One user's log as this process follows it: the newest events without a hole, shared by all viewers."""

    def __init__(self, user_id: str, hub: "_Hub") -> None:
        self.user_id = user_id
        self.head = 0
        self.followers: set[_Follower] = set()
        self._hub = hub
        self._ring: list[db.LoggedEvent] = []
        self._ring_bytes = 0
        self._news = asyncio.Event()
        self._unsubscribe = hub.bus.subscribe(f"user:{user_id}", lambda _: self._news.set())
        self.opened = asyncio.create_task(self._open())
        self._reader = asyncio.create_task(self._follow())

    @property
    def start(self) -> int:
        """The `seq` after which the ring holds every event."""
        return self.head - len(self._ring)

    def after(self, seq: int) -> list[db.LoggedEvent]:
        """What the ring holds beyond `seq`, which must not be before its start."""
        return self._ring[seq - self.start :]

    def look(self) -> None:
        """Read the log soon: there may be more of it."""
        self._news.set()

    def close(self) -> None:
        self._unsubscribe()
        self.opened.cancel()
        self._reader.cancel()

    async def _open(self) -> None:
        self.head = (await db.log_bounds(self.user_id))[1]

    async def _follow(self) -> None:
        await asyncio.wait([self.opened])
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                async with self._hub.reads:
                    more = await self._read()
            except AWAY as error:
                log.warning("log_not_read", user=self.user_id, error=repr(error))
            else:
                if more:
                    self._news.set()

    async def _read(self) -> bool:
        events = await db.events(self.user_id, self.head, READ_EVENTS)
        if events and events[0].seq != self.head + 1:
            self.lose_position()
        elif events:
            self._append(events)
        return len(events) == READ_EVENTS

    def _append(self, events: list[db.LoggedEvent]) -> None:
        self.head = events[-1].seq
        self._ring += events
        self._ring_bytes += sum(len(event.text) for event in events)
        dropped = 0
        while self._ring_bytes > QUEUED_BYTES or len(self._ring) - dropped > QUEUED_EVENTS:
            self._ring_bytes -= len(self._ring[dropped].text)
            dropped += 1
        del self._ring[:dropped]
        for follower in self.followers:
            follower.notice(events)

    def lose_position(self) -> None:
        """The database no longer holds what follows our head: everyone begins anew."""
        log.warning("position_lost", user=self.user_id, head=self.head)
        self._hub.forget(self)
        for follower in list(self.followers):
            follower.end(LOST)


class _Hub:
    """Everything of this process that is connected, and the two clocks that look after it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.sessions: set[_Session] = set()
        self.strangers: set[_Session] = set()  # those who have not said who they are
        self.streams: set[_EventStream] = set()
        self.peers: set[_Peer] = set()
        self.reads = asyncio.Semaphore(max(1, settings.database_pool // 2))
        self.loads = asyncio.Semaphore(max(1, settings.database_pool // 4))
        self.stopping = False
        self._logs: dict[str, _Log] = {}
        self._subscribed = ExitStack()
        self._subscribed.callback(bus.on_gap(self._look))
        self._subscribed.callback(bus.subscribe("revoked", self._revoked))
        self._subscribed.callback(_before_signals(self.end_all))
        self._clocks = [asyncio.create_task(self._tick()), asyncio.create_task(self._poll())]

    async def join(self, user_id: str, follower: _Follower) -> _Log:
        """Follow the user's log. Raises TooManyConnections, db.Unavailable."""
        joined = self._logs.get(user_id)
        if joined is None:
            joined = self._logs[user_id] = _Log(user_id, self)
        if len(joined.followers) >= CONNECTIONS_PER_USER:
            raise TooManyConnections(TOO_MANY.detail)
        joined.followers.add(follower)
        try:
            await asyncio.shield(joined.opened)
        except BaseException:
            self.leave(joined, follower)
            raise
        return joined

    def followers(self, user_id: str) -> int:
        return len(self._logs[user_id].followers) if user_id in self._logs else 0

    def leave(self, joined: _Log, follower: _Follower) -> None:
        joined.followers.discard(follower)
        if not joined.followers:
            self.forget(joined)

    def forget(self, forgotten: _Log) -> None:
        """Whoever joins the user's log next begins with the log of that moment."""
        if self._logs.get(forgotten.user_id) is forgotten:
            del self._logs[forgotten.user_id]
        forgotten.close()

    def end_all(self) -> None:
        """Begin to close every connection with 4009, those to come too."""
        self.stopping = True
        for connection in self._connections():
            connection.end(STOPPING)

    async def stop(self) -> None:
        """Close every connection with 4009 and wait until they are gone."""
        self.end_all()
        try:
            async with asyncio.timeout(2 * WRITE_SECONDS):
                for connection in self._connections():
                    await connection.gone.wait()
        except TimeoutError:
            log.warning("connections_left_open", count=len(self._connections()))
        self._subscribed.close()
        for clock in self._clocks:
            clock.cancel()
        await asyncio.gather(*self._clocks, return_exceptions=True)

    def _connections(self) -> "list[_Session | _EventStream]":
        return [*self.sessions, *self.streams]

    def _look(self) -> None:
        for followed in self._logs.values():
            followed.look()

    def _revoked(self, payload: bytes) -> None:
        ended = payload.decode()
        for connection in self._connections():
            if (caller := connection.caller) and ended in (caller.session_id, f"user:{caller.user_id}"):
                connection.end(REVOKED)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            now = time.monotonic()
            for connection in self._connections():
                connection.tick(now)
            self.peers = {peer for peer in self.peers if peer.check(now)}

    async def _poll(self) -> None:
        """Repairs lost hints: asks for the heads of all users at once."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            known = {user_id: it.head for user_id, it in self._logs.items() if it.opened.done()}
            try:
                heads = await db.heads(known) if known else {}
            except AWAY as error:
                log.warning("heads_not_read", error=repr(error))
                continue
            for user_id, head in heads.items():
                followed = self._logs.get(user_id)
                if followed is None or head == known[user_id]:
                    continue
                if head < known[user_id] <= followed.head:
                    followed.lose_position()
                followed.look()


def _before_signals(act: Callable[[], None]) -> Callable[[], None]:
    """Call `act` before a signal stops the server, until the returned function is called.

    uvicorn closes sockets with 1012 and waits for streams to end before it tells the application anything.
    """
    undo = ExitStack()
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):

                def handle(
                    number: int,
                    frame: FrameType | None,
                    then: Callable[[int, FrameType | None], Any] = before,
                ) -> None:
                    loop.call_soon_threadsafe(act)
                    then(number, frame)

                signal.signal(number, handle)
                undo.callback(signal.signal, number, before)
    return undo.close


# Subscriptions ------------------------------------------------------------------------------------


class _Subscription:
    """A cursor in a user's log and a filter: `take` what is at hand, `load` when the ring is past it."""

    def __init__(self, followed: _Log, upto: int, run_id: UUID | None, kinds: Iterable[str] | None) -> None:
        self.upto = upto
        self.caught_up = False
        self.loading = False
        self._log = followed
        self._run_id = run_id
        self._kinds = frozenset(kinds) if kinds is not None else None
        self._beginnings = tuple(kind for kind in self._kinds or () if kind.endswith("."))
        self._page: list[db.LoggedEvent] = []

    @property
    def behind(self) -> bool:
        """Whether the next event is in the database only."""
        return not self._page and self.upto < self._log.start

    def take(self) -> list[db.LoggedEvent]:
        """The next matching events, about `BATCH_BYTES` of them; `upto` moves past them."""
        events: list[db.LoggedEvent] = []
        while not events and not self.behind and (waiting := self._page or self._log.after(self.upto)):
            taken = self._choose(waiting, events)
            del self._page[:taken]
        self.caught_up = self.caught_up or self.upto >= self._log.head
        return events

    def _choose(self, waiting: list[db.LoggedEvent], events: list[db.LoggedEvent]) -> int:
        size = 0
        for taken, event in enumerate(waiting):
            if self._wants(event):
                size += len(event.text)
                if events and size > BATCH_BYTES:
                    return taken
                events.append(event)
            self.upto = event.seq
        return len(waiting)

    async def load(self) -> None:
        """Read the next page from the database. Raises Ended(LOST), db.Unavailable."""
        head = self._log.head
        page = await db.events(self._log.user_id, self.upto, PAGE_EVENTS, run_id=self._run_id)
        if self._run_id is None and (not page or page[0].seq != self.upto + 1):
            raise Ended(LOST)
        self._page = page
        if not page:
            self.upto = head

    def _wants(self, event: db.LoggedEvent) -> bool:
        return (self._run_id is None or event.run_id == self._run_id) and (
            self._kinds is None or event.kind in self._kinds or event.kind.startswith(self._beginnings)
        )


async def _position(user_id: str, after: int | None, followed: _Log | None = None) -> tuple[int, int, bool]:
    """Where to begin, the head, and whether nothing is missing, for a client that has all up to `after`."""
    if after is not None and followed is not None and followed.start <= after <= followed.head:
        return after, followed.head, True
    oldest, head = await db.log_bounds(user_id)
    if after is None:
        return head, head, True
    if after > head:
        return head, head, False
    return max(after, oldest - 1), head, after >= oldest - 1


# One socket ---------------------------------------------------------------------------------------

_REQUEST: TypeAdapter[Any] = TypeAdapter(SocketRequest)
_INPUT: TypeAdapter[InputEvent] = TypeAdapter(InputEvent)
_REFUSALS: dict[type[Exception], tuple[str, bool]] = {
    NoResultFound: ("not_found", False),
    ComputerClosed: ("computer_closed", False),
    computers.NeedsRedis: ("needs_redis", False),
    computers.NotReady: ("not_ready", True),
    computers.StaleControl: ("stale_control", False),
}
_FRAME_HEADER = struct.Struct(">BBHIQQHHHH")
_JPEG = 1
_COMPUTER_KINDS = frozenset({"computer.closed", "control.taken", "control.released"})
_NO_SUCH_TYPE = (
    "union_tag_invalid",
    "union_tag_not_found",
    "json_invalid",
    "model_attributes_type",
    "dict_type",
)


class _Allowance:
    """A token bucket: `MESSAGES_PER_SECOND`, and twice as many at once."""

    def __init__(self) -> None:
        self._left = 2.0 * MESSAGES_PER_SECOND
        self._at = time.monotonic()

    def take(self) -> bool:
        now = time.monotonic()
        self._left = min(2.0 * MESSAGES_PER_SECOND, self._left + (now - self._at) * MESSAGES_PER_SECOND) - 1
        self._at = now
        return self._left >= 0


@dataclass(eq=False, slots=True)
class _Stream:
    """The live view of one computer: the newest frame and view not yet sent, and the frames that travel."""

    computer_id: UUID
    watch: Watch | None = None
    frame: Frame | None = None
    view: dict[str, Any] | None = None
    travelling: deque[int] = field(default_factory=deque)

    @property
    def sendable(self) -> bool:
        return self.watch is not None and self.frame is not None and len(self.travelling) < UNACKNOWLEDGED

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()


@dataclass(slots=True)
class _Hold:
    """Control that this connection asked for, as it was last told."""

    request_id: RequestId
    control: ControlRead


class _Session:
    """One socket from its acceptance to its close: a reader, a writer, and a task for each request."""

    def __init__(self, hub: _Hub, socket: WebSocket) -> None:
        self.id = uuid4()
        self.caller: Caller | None = None
        self.gone = asyncio.Event()
        self._hub, self._socket, self._peer = hub, socket, _Peer(socket.scope)
        self._log: _Log | None = None
        self._ended: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._opened_at = self._positioned_at = time.monotonic()
        self._authenticating = self._warned = False
        self._news = asyncio.Event()
        self._control: deque[str] = deque()
        self._subscriptions: dict[int, _Subscription] = {}
        self._streams: dict[int, _Stream] = {}
        self._holds: dict[UUID, _Hold] = {}
        self._steered: set[UUID] = set()
        self._inputs: asyncio.Queue[InputRequest] = asyncio.Queue(INPUTS)
        self._last_number = 0
        self._sending_since: float | None = None

    # Life

    async def run(self) -> None:
        """Serve until either side ends it; raises nothing but cancellation."""
        self._hub.sessions.add(self)
        self._hub.strangers.add(self)
        self._hub.peers.add(self._peer)
        try:
            refusal = self._refusal()
            if refusal is None:
                self._say(_hello(self.id))
                self._spawn(self._write())
                self._spawn(self._receive())
                self._spawn(self._steer())
            ending = refusal or await self._ended
            await self._drop()
            if ending is not None:
                await self._close(ending)
        finally:
            await self._drop()
            self._hub.sessions.discard(self)
            self._hub.strangers.discard(self)
            self._peer.left = True
            self.gone.set()

    def end(self, ending: Ending | None) -> None:
        """Close the connection; None when the client has left already."""
        if not self._ended.done():
            self._ended.set_result(ending)

    def notice(self, events: list[db.LoggedEvent]) -> None:
        self._news.set()
        if self._streams or self._holds:
            for event in events:
                if event.kind in _COMPUTER_KINDS:
                    self._notice_computer(event.kind, orjson.loads(event.text))

    def tick(self, now: float) -> None:
        """Once a second: deadlines, signs of life, and whether the client keeps up."""
        if self.caller is None:
            if not self._authenticating and now - self._opened_at >= AUTH_SECONDS:
                self.end(SILENT)
            return
        left = self.caller.expires_at - time.time()
        if left <= -GRACE_SECONDS:
            self.end(EXPIRED)
        elif left <= WARNING_SECONDS and not self._warned:
            self._warned = True
            self._say(AuthExpiringMessage(expires_at=_instant(self.caller.expires_at)))
        if now - self._positioned_at >= POSITION_SECONDS:
            self._positioned_at = now
            self._say_positions()
        waiting = self._sending_since is not None and now - self._sending_since >= SLOW_SECONDS
        if waiting and any(it.caught_up and it.behind for it in self._subscriptions.values()):
            self.end(SLOW)

    def _refusal(self) -> Ending | None:
        if self._hub.stopping:
            return STOPPING
        if not _own_origin(self._socket.headers):
            return FOREIGN_ORIGIN
        if len(self._hub.strangers) > UNAUTHENTICATED:
            return CROWDED
        return None

    async def _drop(self) -> None:
        """Let go of everything but the transport."""
        tasks, self._tasks = self._tasks, set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for stream in self._streams.values():
            stream.close()
        self._streams.clear()
        if self.caller is not None:
            for computer_id in self._steered:
                computers.release_keys(self.caller.user_id, computer_id)
        self._steered.clear()
        if self._log is not None:
            self._hub.leave(self._log, self)
            self._log = None

    async def _close(self, ending: Ending) -> None:
        log.info("socket_closed", connection=str(self.id), code=ending.code, reason=ending.name)
        error = ErrorMessage(
            code=ending.name,
            detail=ending.detail,
            retryable=ending.retryable,
            retry_after_ms=ending.retry_after_ms,
        )
        self._say(error)
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                while self._control:
                    await self._send({"type": "websocket.send", "text": self._control.popleft()})
                await self._socket.close(ending.code, ending.name)
        except TimeoutError:
            self._peer.abort()
        except (WebSocketDisconnect, RuntimeError) as gone:
            log.debug("socket_gone_before_close", reason=repr(gone))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._finished)

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        problem = None if task.cancelled() else task.exception()
        if isinstance(problem, Ended):
            self.end(problem.ending)
        elif isinstance(problem, clerk_auth.NotSignedIn):
            self.end(REFUSED)
        elif isinstance(problem, WebSocketDisconnect):
            self.end(None)
        elif isinstance(problem, AWAY):
            log.warning("socket_without_database", connection=str(self.id), error=repr(problem))
            self.end(UNAVAILABLE)
        elif problem is not None:
            log.error("socket_failed", connection=str(self.id), exc_info=problem)
            self.end(FAULT)

    # Writing

    def _say(self, message: BaseModel) -> None:
        """Queue a message of the server; these come before events and frames."""
        self._control.append(message.model_dump_json(by_alias=True))
        self._news.set()
        if len(self._control) > QUEUED_EVENTS:
            self.end(SLOW)

    def _say_positions(self) -> None:
        head = self._log.head if self._log else 0
        for number, subscription in self._subscriptions.items():
            upto = subscription.upto
            self._say(PositionMessage(subscription=number, upto=upto, head=max(head, upto)))
        if not self._subscriptions:
            self._say(PositionMessage(subscription=None, upto=None, head=head))

    async def _write(self) -> None:
        while True:
            self._news.clear()
            while (message := self._next_message()) is not None:
                await self._send(message)
            await self._news.wait()

    def _next_message(self) -> Message | None:
        if self._control:
            return {"type": "websocket.send", "text": self._control.popleft()}
        if (text := self._next_view() or self._next_events()) is not None:
            return {"type": "websocket.send", "text": text}
        if (frame := self._next_frame()) is not None:
            return {"type": "websocket.send", "bytes": frame}
        return None

    def _next_view(self) -> str | None:
        for number, stream in self._streams.items():
            if stream.watch is not None and stream.view is not None:
                view, stream.view = computers.clean(stream.view), None
                shown = {name: str(view[name])[:TEXT_CHARS] for name in ("tab", "url", "title")}
                return ViewMessage(stream=number, **shown).model_dump_json()
        return None

    def _next_events(self) -> str | None:
        for number, subscription in list(self._subscriptions.items()):
            if events := subscription.take():
                self._subscriptions[number] = self._subscriptions.pop(number)  # the others' turn is next
                return (
                    f'{{"type":"events","subscription":{number},"upto":{subscription.upto},'
                    f'"events":[{",".join([event.text for event in events])}]}}'
                )
            if subscription.behind and not subscription.loading:
                subscription.loading = True
                self._spawn(self._load(subscription))
        return None

    def _next_frame(self) -> bytes | None:
        for number, stream in self._streams.items():
            frame = stream.frame
            if frame is not None and stream.sendable:
                stream.frame = None
                stream.travelling.append(frame.number)
                self._streams[number] = self._streams.pop(number)  # the others' turn is next
                return (
                    _FRAME_HEADER.pack(
                        1, _JPEG, 0, number, frame.number, frame.capture_us, *frame.image, *frame.css
                    )
                    + frame.jpeg
                )
        return None

    async def _load(self, subscription: _Subscription) -> None:
        async with self._hub.loads:
            await subscription.load()
        subscription.loading = False
        self._news.set()

    async def _send(self, message: Message) -> None:
        self._sending_since = time.monotonic()
        await self._socket.send(message)
        self._sending_since = None
        self._peer.sent += 1

    # Reading

    async def _receive(self) -> None:
        if "authorization" in self._socket.headers:
            await self._authenticate(clerk_auth.strict_bearer(self._socket.headers), None)
        allowance = _Allowance()
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            if not allowance.take():
                raise Ended(FLOOD)
            request = self._parse(message)
            if isinstance(request, AuthRequest):
                await self._authenticate(request.token, request.id)
            elif self.caller is None:
                raise Ended(_bad_message("The first message must be `auth`."))
            elif request is not None:
                self._begin(request)

    def _parse(self, message: Message) -> Any:
        """The request, or None for one with wrong fields, which has been answered."""
        text = message.get("text")
        if text is None:
            raise Ended(_bad_message("Messages are JSON in text frames."))
        if len(text) > MESSAGE_BYTES or (not text.isascii() and len(text.encode()) > MESSAGE_BYTES):
            raise Ended(TOO_BIG)
        try:
            return _REQUEST.validate_json(text, strict=True)
        except ValidationError as problem:
            if self.caller is None or problem.errors()[0]["type"] in _NO_SUCH_TYPE:
                raise Ended(_bad_message(_first_error(problem))) from None
            self._refuse(_request_id(text), Refused("invalid", _first_error(problem)))
            return None

    def _begin(self, request: Any) -> None:
        """Start what is asked for; nothing here waits, so that the reader always reads."""
        if isinstance(request, AckRequest):
            self._acknowledge(request)
            return
        if isinstance(request, InputRequest) and not self._inputs.full():
            self._inputs.put_nowait(request)
            return
        if isinstance(request, InputRequest) or self._requests >= REQUESTS:
            refused = Refused("busy", f"At most {REQUESTS} requests at a time.", retryable=True)
            self._refuse(request.id, refused)
            return
        self._requests += 1
        self._spawn(self._answer(request))

    async def _steer(self) -> None:
        """Input is passed on in the order in which it came."""
        while True:
            request = await self._inputs.get()
            self._requests += 1
            await self._answer(request)

    async def _do(self, request: Any) -> None:
        match request:
            case SubscribeRequest():
                await self._subscribe(request)
            case UnsubscribeRequest():
                self._unsubscribe(request)
            case WatchRequest():
                await self._watch(request)
            case UnwatchRequest():
                self._unwatch(request)
            case ControlRequest():
                await self._take_or_release(request)
            case InputRequest():
                await self._pass_on(request)

    async def _answer(self, request: Any) -> None:
        try:
            await self._do(request)
        except Refused as refused:
            self._refuse(request.id, refused)
        except ActionFailed as failed:
            self._refuse(request.id, Refused(failed.code, failed.detail))
        except tuple(_REFUSALS) as problem:
            code, retryable = _REFUSALS[type(problem)]
            detail = str(problem) or "No such computer, or not yours."
            self._refuse(request.id, Refused(code, detail, retryable=retryable))
        except AWAY as error:
            log.warning("request_without_database", connection=str(self.id), error=repr(error))
            self._refuse(request.id, Refused("unavailable", "Try again in a moment.", retryable=True))
        finally:
            self._requests -= 1

    def _refuse(self, request_id: RequestId | None, refused: Refused) -> None:
        self._say(
            ErrorMessage(id=request_id, code=refused.code, detail=refused.detail, retryable=refused.retryable)
        )

    # Requests

    async def _authenticate(self, token: str, request_id: RequestId | None) -> None:
        self._authenticating = True
        try:
            caller = await clerk_auth.verify(token)
        except clerk_auth.KeysUnavailable as away:
            if self.caller is None:
                retry_after_ms = round(away.retry_after * 1000)
                raise Ended(Ending(1013, "unavailable", str(away), True, retry_after_ms)) from None
            self._refuse(request_id, Refused("unavailable", str(away), retryable=True))
            return
        if self._log is None:
            await db.ensure_user(
                caller.user_id, email=caller.email, name=caller.name, image_url=caller.image_url
            )
            try:
                self._log = await self._hub.join(caller.user_id, self)
            except TooManyConnections:
                raise Ended(TOO_MANY) from None
        elif self.caller is not None and caller.user_id != self.caller.user_id:
            raise Ended(OTHER_USER)
        if clerk_auth.revoked(caller):  # while we waited for the database
            raise Ended(REVOKED)
        self.caller, self._warned = caller, False
        self._hub.strangers.discard(self)
        self._say(
            ReadyMessage(
                id=request_id,
                user_id=caller.user_id,
                head=self._log.head,
                expires_at=_instant(caller.expires_at),
            )
        )

    async def _subscribe(self, request: SubscribeRequest) -> None:
        if self._log is None or len(self._subscriptions) >= SUBSCRIPTIONS:
            raise Refused("too_many", f"At most {SUBSCRIPTIONS} subscriptions per connection.")
        begin, head, recovered = await _position(self._log.user_id, request.after, self._log)
        self._last_number += 1
        self._say(
            SubscribedMessage(
                id=request.id, subscription=self._last_number, from_=begin, head=head, recovered=recovered
            )
        )
        self._subscriptions[self._last_number] = _Subscription(
            self._log, begin, request.run_id, request.kinds
        )

    def _unsubscribe(self, request: UnsubscribeRequest) -> None:
        subscription = self._subscriptions.pop(request.subscription, None)
        if subscription is None:
            raise Refused("not_found", "No such subscription.")
        self._say(
            UnsubscribedMessage(id=request.id, subscription=request.subscription, upto=subscription.upto)
        )

    # Computers

    @property
    def _user_id(self) -> str:
        if self.caller is None:
            raise Ended(REFUSED)
        return self.caller.user_id

    async def _watch(self, request: WatchRequest) -> None:
        if len(self._streams) >= STREAMS:
            raise Refused("too_many", f"At most {STREAMS} streams per connection.")
        async with db.as_user(self._user_id) as tx:
            row = await tx.one(Computer, id=request.computer_id)
        size = ComputerSettings.model_validate(row.settings).viewport
        self._last_number += 1
        number, stream = self._last_number, _Stream(request.computer_id)
        self._streams[number] = stream
        try:
            watch = await computers.watch(
                self._user_id,
                request.computer_id,
                partial(self._show, stream),
                partial(self._show_view, stream),
                request.max_fps,
            )
        except BaseException:
            self._streams.pop(number, None)
            raise
        if number not in self._streams:
            watch.close()
            raise Refused("computer_closed", "The computer has closed.")
        self._say(WatchingMessage(id=request.id, stream=number, width=size.width, height=size.height))
        stream.watch = watch

    def _show(self, stream: _Stream, frame: Frame) -> None:
        stream.frame = frame
        if stream.sendable:
            self._news.set()

    def _show_view(self, stream: _Stream, view: dict[str, Any]) -> None:
        stream.view = view
        self._news.set()

    def _acknowledge(self, request: AckRequest) -> None:
        stream = self._streams.get(request.stream)
        if stream is not None:
            while stream.travelling and stream.travelling[0] <= request.frame:
                stream.travelling.popleft()
            self._news.set()

    def _unwatch(self, request: UnwatchRequest) -> None:
        stream = self._streams.pop(request.stream, None)
        if stream is None:
            raise Refused("not_found", "No such stream.")
        stream.close()
        self._say(UnwatchedMessage(id=request.id, stream=request.stream))

    async def _take_or_release(self, request: ControlRequest) -> None:
        if request.action == "take":
            control = await computers.take_control(self._user_id, request.computer_id, str(self.id))
            self._holds[request.computer_id] = _Hold(request.id, control)
            self._steered.add(request.computer_id)
        else:
            hold = self._holds.pop(request.computer_id, None)
            generation = hold.control.generation if hold else None
            control = await computers.release_control(self._user_id, request.computer_id, generation)
        self._say(ControlledMessage(id=request.id, **control.model_dump()))

    async def _pass_on(self, request: InputRequest) -> None:
        try:
            event = _INPUT.validate_python(request.event)
        except ValidationError as problem:
            raise Refused("invalid", _first_error(problem)) from None
        self._steered.add(request.computer_id)
        await computers.send_input(self._user_id, request.computer_id, request.generation, event)

    def _notice_computer(self, kind: str, event: dict[str, Any]) -> None:
        """Tell what became of the streams and of the control that this connection has."""
        computer_id = UUID(event["resource"]["id"])
        if kind == "computer.closed":
            for number, stream in list(self._streams.items()):
                if stream.computer_id == computer_id:
                    stream.close()
                    del self._streams[number]
                    if stream.watch is not None:
                        self._say(UnwatchedMessage(stream=number, reason="computer_closed"))
            self._holds.pop(computer_id, None)
        elif (hold := self._holds.get(computer_id)) is not None:
            control = ControlRead.model_validate(event["data"])
            known = hold.control
            same = (control.generation, control.state) == (known.generation, known.state)
            if control.generation < known.generation or same:
                return
            hold.control = control
            if control.generation > known.generation or control.state is ControlState.released:
                del self._holds[computer_id]
            self._say(ControlledMessage(id=hold.request_id, **control.model_dump()))


def _first_error(problem: ValidationError) -> str:
    error = problem.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in error["loc"][1:])
    return f"{where}: {error['msg']}" if where else error["msg"]


def _request_id(text: str) -> RequestId | None:
    """The `id` of a request with other faults."""
    found = orjson.loads(text).get("id")
    try:
        return TypeAdapter[RequestId](RequestId).validate_python(found, strict=True)
    except ValidationError:
        return None


def _hello(connection_id: UUID) -> HelloMessage:
    return HelloMessage(
        connection_id=connection_id,
        ping_seconds=POSITION_SECONDS,
        limits=SocketLimits(
            message_bytes=MESSAGE_BYTES,
            messages_per_second=MESSAGES_PER_SECOND,
            subscriptions=SUBSCRIPTIONS,
            streams=STREAMS,
            queued_bytes=QUEUED_BYTES,
            queued_events=QUEUED_EVENTS,
            unacknowledged_frames=UNACKNOWLEDGED,
        ),
        server_time=datetime.now(UTC),
    )


def _instant(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _own_origin(headers: Headers) -> bool:
    """Whether a page may connect: none at all, one from where we are served, or an allowed origin.

    A page cannot set `X-Forwarded-Host` on a handshake, so a proxy's word about our address is safe here.
    """
    origin = headers.get("origin", "").lower()
    allowed = {*settings.cors_origins, settings.public_url.rstrip("/")}
    own = {headers.get("host", ""), headers.get("x-forwarded-host", "")}
    return not origin or origin in allowed or (urlsplit(origin).netloc in own - {""})


# The module ---------------------------------------------------------------------------------------

_hub: _Hub | None = None


async def start(bus: Bus) -> None:
    """Begin to follow the logs of whoever connects; `bus` carries the hints that there is more to read."""
    global _hub  # noqa: PLW0603 - one hub a process
    _hub = _Hub(bus)


async def stop() -> None:
    """Close every connection with 4009 and wait until they are gone; later ones are refused the same way."""
    if _hub is not None:
        await _hub.stop()


def _running() -> _Hub:
    if _hub is None:
        raise RuntimeError("live.start() comes first")
    return _hub


async def serve(socket: WebSocket) -> None:
    """The body of the route `/ws`: one connection, whose protocol is in docs/socket.md."""
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    await _Session(_running(), socket).run()


# Server-sent events -------------------------------------------------------------------------------


class _EventStream(StreamingResponse):
    """The log as `text/event-stream`; ends with its sign-in, its server or its place in the log."""

    media_type = "text/event-stream"

    def __init__(self, hub: _Hub, caller: Caller, begin: int, opening: str, **filters: Any) -> None:
        super().__init__(self._chunks(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.caller = caller
        self.gone = asyncio.Event()
        self._hub, self._begin, self._opening, self._filters = hub, begin, opening, filters
        self._log: _Log | None = None
        self._news = asyncio.Event()
        self._over = hub.stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = _Peer(scope)

        async def counted(message: Message) -> None:
            await send(message)
            peer.sent += 1

        self._hub.streams.add(self)
        self._hub.peers.add(peer)
        try:
            self._log = await self._hub.join(self.caller.user_id, self)
            if clerk_auth.revoked(self.caller):  # before the hub knew of this stream
                self.end(REVOKED)
            await super().__call__(scope, receive, counted)
        finally:
            if self._log is not None:
                self._hub.leave(self._log, self)
            self._hub.streams.discard(self)
            peer.left = True
            self.gone.set()

    def notice(self, events: list[db.LoggedEvent]) -> None:  # noqa: ARG002
        self._news.set()

    def tick(self, _now: float) -> None:
        """Once a second: whether the token's time is up."""
        if time.time() - self.caller.expires_at >= GRACE_SECONDS:
            self.end(EXPIRED)

    def end(self, ending: Ending) -> None:
        log.info("event_stream_ended", reason=ending.name)
        self._over = True
        self._news.set()

    async def _chunks(self) -> AsyncIterator[str]:
        if self._log is None:
            return
        subscription = _Subscription(self._log, self._begin, **self._filters)
        yield self._opening
        while not self._over:
            self._news.clear()
            if events := subscription.take():
                yield "".join(f"id: {it.seq}\nevent: {it.kind}\ndata: {it.text}\n\n" for it in events)
            elif subscription.behind:
                await self._load(subscription)
            else:
                try:
                    async with asyncio.timeout(HEARTBEAT_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    yield f": alive\nid: {subscription.upto}\n\n"

    async def _load(self, subscription: _Subscription) -> None:
        try:
            async with self._hub.loads:
                await subscription.load()
        except Ended as ended:
            self.end(ended.ending)
        except AWAY as error:
            log.warning("event_stream_without_database", error=repr(error))
            self.end(UNAVAILABLE)


async def event_stream(
    caller: Caller, after: int | None, run_id: UUID | None = None, kinds: Iterable[str] | None = None
) -> StreamingResponse:
    """The caller's events beyond `after` (None: from now on) as server-sent events (WHATWG HTML, 9.2).

    Each has `id:` seq, `event:` kind and `data:` the event. Every 15 s of silence an empty event moves the
    client's `Last-Event-ID` past what the filters left out. An `after` that the log no longer reaches begins
    with the event `reset`. Raises TooManyConnections, db.Unavailable.
    """
    hub = _running()
    if hub.followers(caller.user_id) >= CONNECTIONS_PER_USER:
        raise TooManyConnections(TOO_MANY.detail)
    begin, head, recovered = await _position(caller.user_id, after)
    gap = f'event: reset\ndata: {{"from":{begin},"head":{head}}}\n\n'
    opening = ": stream\n\n" if recovered else gap
    return _EventStream(hub, caller, begin, opening, run_id=run_id, kinds=kinds)
