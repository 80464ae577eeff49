"""One hub follows the log of each connected user and looks after all connections of this process."""

import asyncio
import signal
import threading
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack
from functools import partial
from types import FrameType
from typing import Any, Protocol

import asyncpg
import structlog

import clerk_auth
import db
import identity
import metrics
from clerk_auth import Caller
from infra.bus import Bus
from live import endings, limits
from live.endings import Ending
from live.transport import Peer
from runs import deltas
from schemas import DeltaMessage
from settings import settings

log = structlog.get_logger()


class TooManyConnections(Exception):
    """The user has as many sockets and streams as one may have."""


class Connection(Protocol):
    """A socket or an event stream that follows a user's log; it has no `caller` before its sign-in."""

    gone: asyncio.Event

    @property
    def subscriptions(self) -> int:
        """How many cursors it has in the log."""

    @property
    def caller(self) -> Caller | None:
        """Whose log it follows."""

    def admit(self, caller: Caller, /) -> None:
        """Its caller, as the database knows it by now."""

    def notice(self, events: list[db.LoggedEvent]) -> None:
        """These were added to the ring."""

    def hear(self, delta: DeltaMessage, /) -> None:
        """A model of the user's goes on to speak."""

    def tick(self, now: float, /) -> None:
        """A second has passed; `now` is monotonic."""

    def end(self, ending: Ending, /) -> None:
        """Close the connection."""


class Log:
    """One user's log as this process follows it: the newest events without a hole, shared by all viewers."""

    def __init__(self, user_id: str, hub: "Hub") -> None:
        self.user_id = user_id
        self.head = 0
        self.followers: set[Connection] = set()
        self._hub = hub
        self._ring: list[db.LoggedEvent] = []
        self._ring_bytes = 0
        self._news = asyncio.Event()
        self._subscribed = ExitStack()
        self._subscribed.callback(hub.bus.subscribe(f"user:{user_id}", lambda _: self._news.set()))
        self._subscribed.callback(hub.bus.subscribe(deltas.topic(user_id), self._hear))
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
        self._subscribed.close()
        self.opened.cancel()
        self._reader.cancel()

    def _hear(self, payload: bytes) -> None:
        delta = DeltaMessage.model_validate_json(payload)
        for follower in self.followers:
            follower.hear(delta)

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
            except (*db.AWAY, asyncpg.PostgresError) as error:
                log.warning("log_not_read", user=self.user_id, error=repr(error))
            else:
                if more:
                    self._news.set()

    async def _read(self) -> bool:
        events = await db.events(self.user_id, self.head, limits.READ_EVENTS)
        if events and events[0].seq != self.head + 1:
            self.lose_position()
        elif events:
            self._append(events)
        return len(events) == limits.READ_EVENTS

    def _append(self, events: list[db.LoggedEvent]) -> None:
        self.head = events[-1].seq
        self._ring += events
        self._ring_bytes += sum(len(event.text) for event in events)
        dropped = 0
        while self._ring_bytes > limits.QUEUED_BYTES or len(self._ring) - dropped > limits.QUEUED_EVENTS:
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
            follower.end(endings.LOST)


class Hub:
    """Everything of this process that is connected, and the clocks that look after it."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.sessions: set[Connection] = set()
        self.strangers: set[Connection] = set()  # those who have not said who they are
        self.streams: set[Connection] = set()
        self.peers: set[Peer] = set()
        self.reads = asyncio.Semaphore(max(1, settings.database_pool // 2))
        self.loads = asyncio.Semaphore(max(1, settings.database_pool // 4))
        self.stopping = False
        self._logs: dict[str, Log] = {}
        self._subscribed = ExitStack()
        self._subscribed.callback(bus.on_gap(self._look))
        self._subscribed.callback(bus.subscribe("revoked", self._revoked))
        self._subscribed.callback(_before_signals(partial(self.end_all, limits.LEAVE_SECONDS)))
        metrics.SOCKETS.set_function(lambda: len(self.sessions))
        metrics.STREAMS.set_function(lambda: len(self.streams))
        metrics.SUBSCRIPTIONS.set_function(lambda: sum(it.subscriptions for it in self._connections()))
        self._clocks = [asyncio.create_task(clock()) for clock in (self._tick, self._poll, self._readmit)]

    async def join(self, user_id: str, follower: Connection) -> Log:
        """Follow the user's log. Raises TooManyConnections, db.Unavailable."""
        joined = self._logs.get(user_id)
        if joined is None:
            joined = self._logs[user_id] = Log(user_id, self)
        if len(joined.followers) >= limits.CONNECTIONS_PER_USER:
            raise TooManyConnections(endings.TOO_MANY.detail)
        joined.followers.add(follower)
        try:
            await asyncio.shield(joined.opened)
        except BaseException:
            self.leave(joined, follower)
            raise
        return joined

    def followers(self, user_id: str) -> int:
        return len(self._logs[user_id].followers) if user_id in self._logs else 0

    def leave(self, joined: Log, follower: Connection) -> None:
        joined.followers.discard(follower)
        if not joined.followers:
            self.forget(joined)

    def forget(self, forgotten: Log) -> None:
        """Whoever joins the user's log next begins with the log of that moment."""
        if self._logs.get(forgotten.user_id) is forgotten:
            del self._logs[forgotten.user_id]
        forgotten.close()

    async def end_all(self, seconds: float) -> None:
        """Close every connection with 4009, those to come too, and wait so long until they are gone."""
        self.stopping = True
        for connection in self._connections():
            connection.end(endings.STOPPING)
        try:
            async with asyncio.timeout(seconds):
                for connection in self._connections():
                    await connection.gone.wait()
        except TimeoutError:
            log.warning("connections_left_open", count=len(self._connections()))

    async def stop(self) -> None:
        """Close every connection with 4009 and wait until they are gone."""
        await self.end_all(2 * limits.WRITE_SECONDS)
        self._subscribed.close()
        for clock in self._clocks:
            clock.cancel()
        await asyncio.gather(*self._clocks, return_exceptions=True)

    def _connections(self) -> list[Connection]:
        return [*self.sessions, *self.streams]

    def _look(self) -> None:
        for followed in self._logs.values():
            followed.look()

    def _revoked(self, payload: bytes) -> None:
        ended = payload.decode()
        for connection in self._connections():
            caller = connection.caller
            if caller and ended in (caller.session_id, caller.actor, f"user:{caller.user_id}"):
                connection.end(endings.REVOKED)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(limits.TICK_SECONDS)
            now = time.monotonic()
            for connection in self._connections():
                connection.tick(now)
            self.peers = {peer for peer in self.peers if peer.check(now)}

    async def _readmit(self) -> None:
        """Repairs lost revocations: asks again who may be connected, when the answer is old."""
        while True:
            await asyncio.sleep(limits.TICK_SECONDS)
            try:
                for connection in self._connections():
                    if (caller := connection.caller) and clerk_auth.is_stale(caller):
                        await self._readmit_one(connection, caller)
            except (*db.AWAY, asyncpg.PostgresError) as error:
                log.warning("callers_not_checked", error=repr(error))

    async def _readmit_one(self, connection: Connection, caller: Caller) -> None:
        ending: Ending | None
        try:
            checked = await clerk_auth.readmit(caller)
        except clerk_auth.NotSignedIn:
            ending = endings.REVOKED
        except identity.AccountDisabled:
            ending = endings.DISABLED
        else:
            ending = None if caller.scopes <= checked.scopes else endings.REVOKED
        if connection.caller is not caller:  # it has signed in anew meanwhile
            return
        if ending is None:
            connection.admit(checked)
        else:
            connection.end(ending)

    async def _poll(self) -> None:
        """Repairs lost hints: asks for the heads of all users at once."""
        while True:
            await asyncio.sleep(limits.TICK_SECONDS)
            known = {user_id: it.head for user_id, it in self._logs.items() if it.opened.done()}
            try:
                heads = await db.heads(known) if known else {}
            except (*db.AWAY, asyncpg.PostgresError) as error:
                log.warning("heads_not_read", error=repr(error))
                continue
            for user_id, head in heads.items():
                followed = self._logs.get(user_id)
                if followed is None or head == known[user_id]:
                    continue
                if head < known[user_id] <= followed.head:
                    followed.lose_position()
                followed.look()


def _before_signals(work: Callable[[], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    """Have a signal stop the server once `work` is done, until the returned function is called.

    uvicorn closes sockets with 1012 and waits for streams to end before it tells the application anything.
    A second signal does not wait.
    """
    undo = ExitStack()
    loop = asyncio.get_running_loop()
    working: list[asyncio.Task[None]] = []

    def begin(then: Callable[[], Any]) -> None:
        working.append(asyncio.ensure_future(work()))
        working[-1].add_done_callback(lambda _: then())

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            before = signal.getsignal(number)
            if callable(before):

                def handle(
                    number: int,
                    frame: FrameType | None,
                    then: Callable[[int, FrameType | None], Any] = before,
                ) -> None:
                    if working:
                        then(number, frame)
                    else:
                        loop.call_soon_threadsafe(begin, partial(then, number, frame))

                signal.signal(number, handle)
                undo.callback(signal.signal, number, before)
    return undo.close


_hub: Hub | None = None


async def start(bus: Bus) -> None:
    """Begin to follow the logs of whoever connects; `bus` carries the hints that there is more to read."""
    global _hub  # noqa: PLW0603 - one hub a process
    _hub = Hub(bus)


async def stop() -> None:
    """Close every connection with 4009 and wait until they are gone; later ones are refused the same way."""
    if _hub is not None:
        await _hub.stop()


def running() -> Hub:
    if _hub is None:
        raise RuntimeError("live.start() comes first")
    return _hub
