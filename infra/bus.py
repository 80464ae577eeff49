"""Hints and ephemera between the parts of one process and between processes: in memory, NOTIFY or Redis.

A message may be lost, so nothing that must survive travels only here: the event log repairs what a lost hint
leaves out, and `on_gap` says when to look.
"""

import asyncio
import base64
import json
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Protocol

import asyncpg
import structlog

log = structlog.get_logger()

FRAMES = "frames:"
NOTIFY_CHANNEL = "cua_bus"
NOTIFY_LIMIT = 7999  # bytes; PostgreSQL requires a payload shorter than 8000
NOTIFY_PAUSE = 0.01  # seconds; notifying commits of a whole PostgreSQL cluster queue behind one lock
OUTBOX_LIMIT = 32 * 2**20  # bytes
HEALTH_SECONDS = 15.0
ANSWER_SECONDS = 5.0

Unsubscribe = Callable[[], None]


class Bus(Protocol):
    """Publish and subscribe by exact topic; every call is made on the event loop that ran `start`.

    A topic that begins with `frames:` carries pictures: a newer one replaces an older one still waiting.
    On all others the order of a topic is kept, and equal messages that wait together may be sent once, as the
    later one: number the messages that may repeat and must all count.
    """

    carries_frames: bool
    """Whether frames and messages over 8 KB reach other processes."""

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

    carries_frames = True

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._topics: dict[str, dict[_Subscription, None]] = {}
        self._gap_callbacks: dict[object, Callable[[], None]] = {}

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
        if self._loop is not None:
            for callback in self._gap_callbacks.values():
                self._loop.call_soon(callback)


class _Outbox:
    """Messages on their way to other processes: equal ones once, the oldest dropped beyond 32 MiB."""

    def __init__(self) -> None:
        self._messages: dict[tuple[str, bytes], int] = {}
        self._size = 0
        self._lossy = False
        self._closed = False
        self._wake = asyncio.Event()

    def put(self, topic: str, payload: bytes) -> None:
        message, cost = (topic, payload), len(topic) + len(payload) + 64
        self._size += cost - self._messages.pop(message, 0)  # the later place: the last word stays the last
        self._messages[message] = cost
        while self._size > OUTBOX_LIMIT:
            self._size -= self._messages.pop(next(iter(self._messages)))
            self._lossy = True
        self._wake.set()

    def lose(self) -> None:
        """Have the others told that messages were lost, as soon as they can be reached."""
        self._lossy = True
        self._wake.set()

    def close(self) -> None:
        self._closed = True
        self._wake.set()

    async def take(self) -> tuple[list[tuple[str, bytes]], bool] | None:
        """Wait for messages; returns them all and whether some were lost before, or None at the end."""
        await self._wake.wait()
        if self._closed and not self._messages:
            return None
        taken = list(self._messages), self._lossy
        self._messages, self._size, self._lossy = {}, 0, False
        if not self._closed:
            self._wake.clear()
        return taken


class _LinkedBus(LocalBus):
    """A bus with connections to other processes: one task for each, which connects again when it breaks."""

    failures: tuple[type[Exception], ...] = (OSError, TimeoutError)

    def __init__(self) -> None:
        super().__init__()
        self._origin = secrets.token_hex(8)
        self._outbox = _Outbox()
        self._hearing = asyncio.Event()
        self._deaf = False
        self._talkers: list[asyncio.Task[None]] = []
        self._listeners: list[asyncio.Task[None]] = []

    async def _talk(self) -> None:
        raise NotImplementedError

    async def _listen(self) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        await super().start()
        self._talkers = [asyncio.create_task(self._keep(self._talk))]
        self._listeners = [asyncio.create_task(self._keep(self._listen))]
        hearing = asyncio.create_task(self._hearing.wait())
        tasks = [*self._talkers, *self._listeners]
        await asyncio.wait([hearing, *tasks], timeout=ANSWER_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        hearing.cancel()
        for task in tasks:
            if task.done():
                await self.close()
                task.result()

    async def close(self) -> None:
        self._outbox.close()
        if self._talkers:
            await asyncio.wait(self._talkers, timeout=1)
        tasks = [*self._talkers, *self._listeners]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await super().close()

    def _heard(self) -> None:
        """The listening connection works, perhaps again."""
        self._hearing.set()
        if self._deaf:
            self._gap()

    async def _keep(self, link: Callable[[], Awaitable[None]]) -> None:
        pause = 0.1
        while True:
            began = asyncio.get_running_loop().time()
            try:
                return await link()
            except ValueError:
                raise  # an address that can never work
            except self.failures as error:
                log.warning("bus_disconnected", link=link.__name__.strip("_"), error=str(error))
            settled = asyncio.get_running_loop().time() - began > HEALTH_SECONDS
            pause = 0.1 if settled else min(2 * pause, 5.0)
            await asyncio.sleep(pause)


class NotifyBus(_LinkedBus):
    """The bus of several processes on one PostgreSQL: one channel, one talking and one listening connection.

    Messages to other processes leave together, at most every 10 ms, in transactions of their own. Frames and
    messages over 8 KB stay in this process. A pooler in front of PostgreSQL must keep sessions.
    """

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
            self._outbox.lose()
            raise

    def _line(self, topic: str | None, payload: bytes) -> str:
        """One notification, all ASCII; no topic stands for lost messages."""
        return json.dumps([self._origin, topic, base64.b64encode(payload).decode()])

    async def _listen(self) -> None:
        connection = None
        try:
            connection = await self._connect()
            lost = asyncio.Event()
            connection.add_termination_listener(lambda _: lost.set())
            await connection.add_listener(NOTIFY_CHANNEL, self._receive)
            self._heard()
            while not lost.is_set():
                try:
                    await asyncio.wait_for(lost.wait(), HEALTH_SECONDS)
                except TimeoutError:
                    await connection.execute("select 1")
            raise ConnectionError("PostgreSQL closed the connection")
        finally:
            self._deaf = True
            if connection is not None:
                connection.terminate()

    def _receive(self, _connection: object, _pid: int, _channel: str, line: object) -> None:
        origin, topic, payload = json.loads(str(line))
        if origin == self._origin:
            return
        if topic is None:
            self._gap()
        else:
            super().publish(topic, base64.b64decode(payload))


def make_bus(dsn: str, redis_url: str) -> Bus:  # noqa: ARG001
    """The best bus there is: Redis if given, else PostgreSQL, else this process alone."""
    return NotifyBus(dsn) if dsn else LocalBus()
