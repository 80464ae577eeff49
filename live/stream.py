"""The log as server-sent events: what `/ws` tells of it, for clients that only listen."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any
from uuid import UUID

import structlog
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

import clerk_auth
import db
from clerk_auth import Caller
from live import endings, limits
from live.endings import Ended, Ending
from live.hub import Hub, Log, TooManyConnections, running
from live.subscription import Subscription, position
from live.transport import Peer
from schemas import DeltaMessage

log = structlog.get_logger()


async def event_stream(
    caller: Caller, after: int | None, run_id: UUID | None = None, kinds: Iterable[str] | None = None
) -> StreamingResponse:
    """The caller's events beyond `after` (None: from now on) as server-sent events (WHATWG HTML, 9.2).

    Each has `id:` seq, `event:` kind and `data:` the event. Every 15 s of silence an empty event moves the
    client's `Last-Event-ID` past what the filters left out. An `after` that the log no longer reaches begins
    with the event `reset`. Raises TooManyConnections, db.Unavailable.
    """
    hub = running()
    if hub.followers(caller.user_id) >= limits.CONNECTIONS_PER_USER:
        raise TooManyConnections(endings.TOO_MANY.detail)
    begin, head, recovered = await position(caller.user_id, after)
    gap = f'event: reset\ndata: {{"from":{begin},"head":{head}}}\n\n'
    opening = ": stream\n\n" if recovered else gap
    return EventStream(hub, caller, begin, opening, run_id=run_id, kinds=kinds)


class EventStream(StreamingResponse):
    """The log as `text/event-stream`; ends with its sign-in, its server or its place in the log."""

    media_type = "text/event-stream"
    subscriptions = 1

    def __init__(self, hub: Hub, caller: Caller, begin: int, opening: str, **filters: Any) -> None:
        super().__init__(self._chunks(), headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"})
        self.caller = caller
        self.gone = asyncio.Event()
        self._hub, self._begin, self._opening, self._filters = hub, begin, opening, filters
        self._log: Log | None = None
        self._news = asyncio.Event()
        self._over = hub.stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        peer = Peer(scope)

        async def counted(message: Message) -> None:
            await send(message)
            peer.sent += 1

        self._hub.streams.add(self)
        self._hub.peers.add(peer)
        try:
            self._log = await self._hub.join(self.caller.user_id, self)
            if clerk_auth.revoked(self.caller):  # before the hub knew of this stream
                self.end(endings.REVOKED)
            await super().__call__(scope, receive, counted)
        finally:
            if self._log is not None:
                self._hub.leave(self._log, self)
            self._hub.streams.discard(self)
            peer.left = True
            self.gone.set()

    def admit(self, caller: Caller) -> None:
        self.caller = caller

    def notice(self, events: list[db.LoggedEvent]) -> None:  # noqa: ARG002
        self._news.set()

    def hear(self, delta: DeltaMessage) -> None:
        """Only what is in the log is told."""

    def tick(self, _now: float) -> None:
        """Once a second: whether the token's time is up."""
        if time.time() - self.caller.expires_at >= limits.GRACE_SECONDS:
            self.end(endings.EXPIRED)

    def end(self, ending: Ending) -> None:
        log.info("event_stream_ended", reason=ending.name)
        self._over = True
        self._news.set()

    async def _chunks(self) -> AsyncIterator[str]:
        if self._log is None:
            return
        subscription = Subscription(self._log, self._begin, **self._filters)
        yield self._opening
        while not self._over:
            self._news.clear()
            if events := subscription.take():
                yield "".join(f"id: {it.seq}\nevent: {it.kind}\ndata: {it.text}\n\n" for it in events)
            elif subscription.behind:
                await self._load(subscription)
            else:
                try:
                    async with asyncio.timeout(limits.HEARTBEAT_SECONDS):
                        await self._news.wait()
                except TimeoutError:
                    yield f": alive\nid: {subscription.upto}\n\n"

    async def _load(self, subscription: Subscription) -> None:
        try:
            async with self._hub.loads:
                await subscription.load()
        except Ended as ended:
            self.end(ended.ending)
        except db.AWAY as error:
            log.warning("event_stream_without_database", error=repr(error))
            self.end(endings.UNAVAILABLE)
