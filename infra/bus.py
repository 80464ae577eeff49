"""Hints and ephemera between the parts of one process and between processes: in memory, NOTIFY or Redis.

A message may be lost, so nothing that must survive travels only here: the event log repairs what a lost hint
leaves out, and `on_gap` says when to look.
"""

import asyncio
import base64
import json
import secrets
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Protocol

import asyncpg
import structlog
from redis.asyncio.connection import Connection, ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

import metrics

log = structlog.get_logger()

FRAMES = "frames:"
NOTIFY_CHANNEL = "cua_bus"
NOTIFY_LIMIT = 7999  # bytes; PostgreSQL requires a payload shorter than 8000
NOTIFY_PAUSE = 0.01  # seconds; notifying commits of a whole PostgreSQL cluster queue behind one lock
OUTBOX_LIMIT = 32 * 2**20  # bytes
HEALTH_SECONDS = 15.0
ANSWER_SECONDS = 5.0

Unsubscribe = Callable[[], None]
Link = Callable[[], Awaitable[None]]


class Bus(Protocol):
    """Publish and subscribe by exact topic; every call is made on the event loop that ran `start`.

    A topic that begins with `frames:` carries pictures: a newer one replaces an older one still waiting.
    On all others the order of a topic is kept, and equal messages that wait together may be sent once, as the
    later one: number the messages that may repeat and must all count.
    """

    kind: str
    """`local`, `notify` or `redis`."""

    carries_frames: bool
    """Whether frames and messages over 8 KB reach other processes."""

    @property
    def connected(self) -> bool:
        """Whether this process hears the others at this moment."""

    async def start(self) -> None:
        """Connect; returns when this process hears the others, or after five seconds without them."""

    async def close(self) -> None:
        """Send what waits, for at most a second, and disconnect."""

    def publish(self, topic: str, payload: bytes = b"") -> None:
        """Hand a message to every subscriber; never blocks and never raises."""

    def subscribe(self, topic: str, callback: Callable[[bytes], None]) -> Unsubscribe:
        """Call `callback` with each payload of the topic until the returned function is called."""

    def on_gap(self, callback: Callable[[], None]) -> Unsubscribe:
        """Call `callback` whenever messages of other processes may have been lost."""

    async def settle(self) -> None:
        """Return when the subscriptions made so far also hear other processes."""


class _Subscription:
    def __init__(self, callback: Callable[[bytes], None]) -> None:
        self.callback: Callable[[bytes], None] | None = callback

    def deliver(self, payload: bytes) -> None:
        if self.callback is not None:
            self.callback(payload)


class LocalBus:
    """The bus of a single process: each callback runs in a turn of its own, soon after `publish`."""

    kind = "local"
    carries_frames = True

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._topics: dict[str, dict[_Subscription, None]] = {}
        self._gap_callbacks: dict[object, Callable[[], None]] = {}

    @property
    def connected(self) -> bool:
        return self._loop is not None

    async def start(self) -> None:
        self._loop = asyncio.get_running_loop()

    async def close(self) -> None:
        self._loop = None

    def publish(self, topic: str, payload: bytes = b"") -> None:
        if self._loop is not None:
            for subscription in self._topics.get(topic, ()):
                self._loop.call_soon(subscription.deliver, payload)

    def subscribe(self, topic: str, callback: Callable[[bytes], None]) -> Unsubscribe:
        subscription = _Subscription(callback)
        self._topics.setdefault(topic, {})[subscription] = None
        return partial(self._unsubscribe, topic, subscription)

    def _unsubscribe(self, topic: str, subscription: _Subscription) -> None:
        subscription.callback = None
        subscriptions = self._topics.get(topic, {})
        subscriptions.pop(subscription, None)
        if not subscriptions:
            self._topics.pop(topic, None)

    def on_gap(self, callback: Callable[[], None]) -> Unsubscribe:
        key = object()
        self._gap_callbacks[key] = callback

        def remove() -> None:
            self._gap_callbacks.pop(key, None)

        return remove

    async def settle(self) -> None:
        """Nothing to wait for: a subscription holds at once."""

    def _gap(self) -> None:
        log.info("bus_gap")
        metrics.BUS_GAPS.inc()
        if self._loop is not None:
            for callback in self._gap_callbacks.values():
                self._loop.call_soon(callback)


class _Outbox:
    """Messages on their way to other processes: equal ones once, the oldest dropped beyond 32 MiB.

    With `latest`, of each topic only the newest waits, and is sent again if it may have been lost.
    """

    def __init__(self, latest: bool = False) -> None:
        self._latest = latest
        self._messages: dict[tuple[str, bytes], bytes] = {}
        self._size = 0
        self._lossy = False
        self._closed = False
        self._wake = asyncio.Event()

    def put(self, topic: str, payload: bytes) -> None:
        key = (topic, b"" if self._latest else payload)
        if (before := self._messages.pop(key, None)) is not None:
            self._size -= _weight(topic, before)
        self._messages[key] = payload  # at the later place: the last word of a topic stays the last
        self._size += _weight(topic, payload)
        while self._size > OUTBOX_LIMIT:
            oldest = next(iter(self._messages))
            self._size -= _weight(oldest[0], self._messages.pop(oldest))
            self._lossy = True
        self._wake.set()

    def lose(self, messages: list[tuple[str, bytes]]) -> None:
        """Have the others told that these were lost, as soon as they can be reached."""
        self._lossy = True
        self._wake.set()
        if self._latest:
            for topic, payload in messages:
                if (topic, b"") not in self._messages:
                    self.put(topic, payload)

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def take(self) -> tuple[list[tuple[str, bytes]], bool] | None:
        """Wait for messages; returns them all and whether some were lost before, or None at the end."""
        while not (self._messages or self._lossy):
            if self._closed:
                return None
            self._wake.clear()
            await self._wake.wait()
        taken = [(topic, payload) for (topic, _), payload in self._messages.items()], self._lossy
        self._messages, self._size, self._lossy = {}, 0, False
        return taken


def _weight(topic: str, payload: bytes) -> int:
    return len(topic) + len(payload) + 64


class _LinkedBus(LocalBus):
    """A bus with connections to other processes: one task for each, which connects again when it breaks."""

    failures: tuple[type[Exception], ...]

    def __init__(self) -> None:
        super().__init__()
        self._origin = secrets.token_hex(8)
        self._outbox = _Outbox()
        self._unheard: set[str] = set()
        self._deaf: set[str] = set()
        self._hearing = asyncio.Event()
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def _talkers(self) -> dict[str, Link]:
        """Connections that send, by name: each ends when its outbox is closed and empty."""
        raise NotImplementedError

    def _listeners(self) -> dict[str, Link]:
        """Connections that receive, by name: each calls `_heard` when it works and ends only by failing."""
        raise NotImplementedError

    @property
    def connected(self) -> bool:
        return super().connected and not (self._unheard or self._deaf)

    async def start(self) -> None:
        await super().start()
        self._unheard = set(self._listeners())
        links = self._talkers() | self._listeners()
        self._tasks = {name: asyncio.create_task(self._keep(name, link)) for name, link in links.items()}
        hearing = asyncio.create_task(self._hearing.wait())
        waiting = [hearing, *self._tasks.values()]
        await asyncio.wait(waiting, timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        hearing.cancel()
        self._deaf |= self._unheard
        if failed := [task for task in self._tasks.values() if task.done()]:
            await self.close()
            failed[0].result()

    async def close(self) -> None:
        self._outbox.close()
        if talking := [task for name, task in self._tasks.items() if name in self._talkers()]:
            await asyncio.wait(talking, timeout=1)
        going = set(self._tasks.values())
        # A cancel that meets the end of a connection attempt is lost, so that once is not enough.
        while going:
            for task in going:
                task.cancel()
            _, going = await asyncio.wait(going, timeout=1)
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await super().close()

    def _heard(self, name: str) -> None:
        """The listening connection works, perhaps again."""
        self._unheard.discard(name)
        if not self._unheard:
            self._hearing.set()
        if name in self._deaf:
            self._deaf.discard(name)
            self._gap()

    async def _keep(self, name: str, link: Link) -> None:
        loop, pause = asyncio.get_running_loop(), 0.1
        while True:
            began = loop.time()
            try:
                return await link()
            except ValueError:
                raise  # an address that can never work
            except self.failures as error:
                log.warning("bus_disconnected", link=name, error=str(error))
            if name not in self._talkers():
                self._deaf.add(name)
            pause = 0.1 if loop.time() - began > HEALTH_SECONDS else min(2 * pause, 5.0)
            await asyncio.sleep(pause)


class NotifyBus(_LinkedBus):
    """The bus of several processes on one PostgreSQL: one channel, one talking and one listening connection.

    Messages to other processes leave together, at most every 10 ms, in transactions of their own. Frames and
    messages over 8 KB stay in this process. A pooler in front of PostgreSQL must keep sessions.
    """

    kind = "notify"
    carries_frames = False
    failures = (
        OSError,
        TimeoutError,
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
    )

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._connect = partial(asyncpg.connect, dsn, timeout=ANSWER_SECONDS, command_timeout=ANSWER_SECONDS)

    def publish(self, topic: str, payload: bytes = b"") -> None:
        super().publish(topic, payload)
        if self._loop is not None and not topic.startswith(FRAMES):
            self._outbox.put(topic, payload)

    def _talkers(self) -> dict[str, Link]:
        return {"talk": self._talk}

    def _listeners(self) -> dict[str, Link]:
        return {"listen": self._listen}

    async def _talk(self) -> None:
        connection = await self._connect()
        try:
            await connection.execute("set synchronous_commit = off")
            while taken := await self._outbox.take():
                await self._notify(connection, *taken)
                await asyncio.sleep(NOTIFY_PAUSE)
        finally:
            connection.terminate()

    async def _notify(
        self, connection: "asyncpg.Connection[asyncpg.Record]", messages: list[tuple[str, bytes]], lossy: bool
    ) -> None:
        lines = [self._line(None, b"")] if lossy else []
        lines += [self._line(topic, payload) for topic, payload in messages]
        lines = [line for line in lines if len(line) <= NOTIFY_LIMIT]
        try:
            await connection.execute(
                "select pg_notify($1, line) from unnest($2::text[]) line", NOTIFY_CHANNEL, lines
            )
        except self.failures:
            self._outbox.lose(messages)
            raise

    def _line(self, topic: str | None, payload: bytes) -> str:
        """One notification, all ASCII; no topic stands for lost messages."""
        return json.dumps([self._origin, topic, base64.b64encode(payload).decode()])

    async def _listen(self) -> None:
        connection = await self._connect()
        try:
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(NOTIFY_CHANNEL, self._receive)
            self._heard("listen")
            while not lost.is_set():
                try:
                    async with asyncio.timeout(HEALTH_SECONDS):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("select 1")
            raise ConnectionError("PostgreSQL closed the connection")
        finally:
            connection.terminate()

    def _receive(self, _connection: object, _pid: int, _channel: str, line: object) -> None:
        origin, topic, payload = json.loads(str(line))
        if origin == self._origin:
            return
        if topic is None:
            self._gap()
        else:
            super().publish(topic, base64.b64decode(payload))


class RedisBus(_LinkedBus):
    """The bus of several processes on one Redis: a channel for each topic that somebody listens to.

    Frames have connections of their own, so that pictures for a slow process never cost it an event.
    Databases of one Redis (`/0`, `/1`) are told apart. Raises ValueError for an address that is none.
    """

    kind = "redis"
    failures = (OSError, RedisError)

    def __init__(self, url: str) -> None:
        super().__init__()
        self._pool = ConnectionPool.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=ANSWER_SECONDS,
            socket_connect_timeout=ANSWER_SECONDS,
        )
        database = self._pool.connection_kwargs.get("db") or 0
        self._prefix = f"cua:{database}:"
        self._gap_channel = f"cua-gap:{database}".encode()
        self._frames = _Outbox(latest=True)
        self._events_line = _Line({self._gap_channel})
        self._frames_line = _Line(set())

    def _talkers(self) -> dict[str, Link]:
        return {
            "talk": partial(self._talk, self._outbox),
            "talk_frames": partial(self._talk, self._frames),
        }

    def _listeners(self) -> dict[str, Link]:
        return {
            "listen": partial(self._listen, "listen", self._events_line),
            "listen_frames": partial(self._listen, "listen_frames", self._frames_line),
        }

    async def close(self) -> None:
        self._frames.close()
        await super().close()

    def publish(self, topic: str, payload: bytes = b"") -> None:
        super().publish(topic, payload)
        if self._loop is not None:
            (self._frames if topic.startswith(FRAMES) else self._outbox).put(topic, payload)

    def subscribe(self, topic: str, callback: Callable[[bytes], None]) -> Unsubscribe:
        self._line(topic).want(self._channel(topic))
        return super().subscribe(topic, callback)

    def _unsubscribe(self, topic: str, subscription: _Subscription) -> None:
        super()._unsubscribe(topic, subscription)
        if topic not in self._topics:
            self._line(topic).forget(self._channel(topic))

    async def settle(self) -> None:
        await asyncio.gather(self._events_line.settle(), self._frames_line.settle())

    def _line(self, topic: str) -> "_Line":
        return self._frames_line if topic.startswith(FRAMES) else self._events_line

    def _channel(self, topic: str) -> bytes:
        return (self._prefix + topic).encode(errors="surrogatepass")

    async def _talk(self, outbox: _Outbox) -> None:
        origin = self._origin.encode()
        async with self._connection() as connection:
            while taken := await outbox.take():
                messages, lossy = taken
                commands = [("PUBLISH", self._gap_channel, origin)] if lossy else []
                commands += [
                    ("PUBLISH", self._channel(topic), origin + payload) for topic, payload in messages
                ]
                try:
                    await connection.send_packed_command(connection.pack_commands(commands))
                    for _ in commands:
                        await connection.read_response()
                except self.failures:
                    outbox.lose(messages)
                    raise

    async def _listen(self, name: str, line: "_Line") -> None:
        async with self._connection() as connection:
            steering = asyncio.create_task(line.steer(connection))
            try:
                while True:
                    reply = await connection.read_response(timeout=HEALTH_SECONDS + ANSWER_SECONDS)
                    match reply:
                        case None:
                            raise ConnectionError("Redis has fallen silent")
                        case [b"message", channel, data]:
                            self._receive(channel, data)
                        case [b"subscribe" | b"unsubscribe", *_]:
                            pass
                        case _:  # the answer to PING
                            line.answered()
                            self._heard(name)
            finally:
                while not steering.done():  # redis-py waits by `wait_for`, which may swallow a cancellation
                    steering.cancel()
                    await asyncio.wait({steering}, timeout=0.1)
                if not steering.cancelled():
                    log.debug("bus_line_ended", error=repr(steering.exception()))
                line.dropped()

    def _receive(self, channel: bytes, data: bytes) -> None:
        if data.startswith(self._origin.encode()):
            return
        if channel == self._gap_channel:
            self._gap()
        else:
            topic = channel.decode(errors="surrogatepass").removeprefix(self._prefix)
            super().publish(topic, data[len(self._origin) :])

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Connection]:
        """A bare connection: redis-py's PubSub subscribes again silently, and so hides what was lost."""
        connection: Connection = self._pool.make_connection()  # type: ignore[no-untyped-call]
        try:
            await connection.connect()  # type: ignore[no-untyped-call]
            yield connection
        finally:
            await connection.disconnect(nowait=True)


class _Line:
    """The channels that one listening connection should hold, and who waits until it does."""

    def __init__(self, channels: set[bytes]) -> None:
        self._wanted = channels
        self._wake = asyncio.Event()
        self._connected = False
        self._settling: list[asyncio.Future[None]] = []
        self._asked: deque[list[asyncio.Future[None]]] = deque()

    def want(self, channel: bytes) -> None:
        self._wanted.add(channel)
        self._wake.set()

    def forget(self, channel: bytes) -> None:
        self._wanted.discard(channel)
        self._wake.set()

    async def settle(self) -> None:
        """Return when the server holds what is wanted now, or at once while there is no connection."""
        if self._connected:
            settled = asyncio.get_running_loop().create_future()
            self._settling.append(settled)
            self._wake.set()
            await settled

    async def steer(self, connection: Connection) -> None:
        """Keep the connection's subscriptions as wanted; a PING ends each round and is sent when idle."""
        held: set[bytes] = set()
        self._connected = True
        while True:
            self._wake.clear()
            wanted = set(self._wanted)
            for command, channels in (("SUBSCRIBE", wanted - held), ("UNSUBSCRIBE", held - wanted)):
                if channels:
                    await connection.send_command(command, *channels)
            held = wanted
            self._asked.append(self._settling)
            self._settling = []
            await connection.send_command("PING")
            with suppress(TimeoutError):
                async with asyncio.timeout(HEALTH_SECONDS):
                    await self._wake.wait()

    def answered(self) -> None:
        """The server has done all that was sent before the oldest PING."""
        for settled in self._asked.popleft():
            if not settled.done():
                settled.set_result(None)

    def dropped(self) -> None:
        """Nobody waits any longer: a gap will be told when the connection is back."""
        self._connected = False
        self._asked.append(self._settling)
        self._settling = []
        while self._asked:
            self.answered()


def make_bus(dsn: str, redis_url: str) -> Bus:
    """The best bus there is: Redis if given, else PostgreSQL, else this process alone."""
    if redis_url:
        return RedisBus(redis_url)
    return NotifyBus(dsn) if dsn else LocalBus()
