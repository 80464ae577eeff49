"""One socket from its acceptance to its close: events, frames, control and input (docs/socket.md)."""

import asyncio
import struct
import time
from collections import deque
from collections.abc import Coroutine
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import orjson
import structlog
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic_core import from_json
from sqlalchemy.exc import NoResultFound
from starlette.datastructures import Headers
from starlette.types import Message
from starlette.websockets import WebSocket, WebSocketDisconnect

import clerk_auth
import db
import identity
import metrics
from browser.actions import ActionFailed, InputEvent
from browser.chromium import ComputerClosed
from browser.screencast import Frame, Watch
from clerk_auth import Caller
from infra import rates
from live import endings, limits
from live.endings import Ended, Ending
from live.hub import Hub, Log, TooManyConnections, running
from live.subscription import Subscription, position
from live.transport import Peer
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
    DeltaMessage,
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
TEXT_CHARS = 2048  # of an address or a title that a page chose
_REQUEST: TypeAdapter[Any] = TypeAdapter(SocketRequest)
_INPUT: TypeAdapter[InputEvent] = TypeAdapter(InputEvent)
_REFUSALS: dict[type[Exception], tuple[str, bool]] = {
    NoResultFound: ("not_found", False),
    ComputerClosed: ("computer_closed", False),
    computers.NeedsRedis: ("needs_redis", False),
    computers.NotReady: ("not_ready", True),
    computers.NoAnswer: ("not_ready", False),
    computers.StaleControl: ("stale_control", False),
}
FRAME_LAYOUT = {  # a binary frame's header, big-endian: each field and its `struct` format
    "version": "B",
    "kind": "B",
    "flags": "H",
    "stream": "I",
    "frame": "Q",
    "captured_us": "Q",
    "image_width": "H",
    "image_height": "H",
    "css_width": "H",
    "css_height": "H",
}
_FRAME_HEADER = struct.Struct(">" + "".join(FRAME_LAYOUT.values()))
_JPEG = 1
MAX_FAULTS = 100  # of one message, each of which costs time to tell
_COMPUTER_KINDS = frozenset({"computer.closed", "control.taken", "control.released"})
_NO_SUCH_TYPE = (
    "union_tag_invalid",
    "union_tag_not_found",
    "json_invalid",
    "model_attributes_type",
    "dict_type",
)


class Refused(Exception):
    """A request cannot be done; the connection goes on."""

    def __init__(self, code: str, detail: str, *, retryable: bool = False) -> None:
        super().__init__(detail)
        self.code, self.detail, self.retryable = code, detail, retryable


async def serve(socket: WebSocket) -> None:
    """The body of the route `/ws`: one connection, whose protocol is in docs/socket.md."""
    offered = socket.scope.get("subprotocols", [])
    await socket.accept(SUBPROTOCOL if SUBPROTOCOL in offered else None)
    await Session(running(), socket).run()


class _Allowance:
    """A token bucket: `MESSAGES_PER_SECOND`, and twice as many at once; a long message counts as several."""

    def __init__(self) -> None:
        self._left = 2.0 * limits.MESSAGES_PER_SECOND
        self._at = time.monotonic()

    def take(self, messages: int) -> bool:
        now = time.monotonic()
        self._left = (
            min(2.0 * limits.MESSAGES_PER_SECOND, self._left + (now - self._at) * limits.MESSAGES_PER_SECOND)
            - messages
        )
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
        return (
            self.watch is not None and self.frame is not None and len(self.travelling) < limits.UNACKNOWLEDGED
        )

    def close(self) -> None:
        if self.watch is not None:
            self.watch.close()


@dataclass(slots=True)
class _Hold:
    """Control that this connection asked for, as it was last told; `lost` when another one has taken it."""

    request_id: RequestId
    control: ControlRead
    lost: bool = False


class Session:
    """One socket from its acceptance to its close: a reader, a writer, and a task for each request."""

    def __init__(self, hub: Hub, socket: WebSocket) -> None:
        self.id = uuid4()
        self.caller: Caller | None = None
        self.gone = asyncio.Event()
        self._hub, self._socket, self._peer = hub, socket, Peer(socket.scope)
        self._log: Log | None = None
        self._ended: asyncio.Future[Ending | None] = asyncio.get_running_loop().create_future()
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests = 0
        self._opened_at = self._positioned_at = time.monotonic()
        self._authenticating = self._warned = False
        self._news = asyncio.Event()
        self._control: deque[str] = deque()
        self._deltas: deque[DeltaMessage] = deque(maxlen=limits.QUEUED_DELTAS)
        self._subscriptions: dict[int, Subscription] = {}
        self._streams: dict[int, _Stream] = {}
        self._holds: dict[UUID, _Hold] = {}
        self._steered: set[UUID] = set()
        self._inputs: asyncio.Queue[InputRequest] = asyncio.Queue(limits.INPUTS)
        self._last_number = 0
        self._sending_since: float | None = None

    @property
    def subscriptions(self) -> int:
        return len(self._subscriptions)

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

    def admit(self, caller: Caller) -> None:
        if self.caller is not None and caller.expires_at > self.caller.expires_at:
            self._warned = False
        self.caller = caller

    def notice(self, events: list[db.LoggedEvent]) -> None:
        self._news.set()
        if self._streams or self._holds:
            for event in events:
                if event.kind in _COMPUTER_KINDS:
                    self._notice_computer(event.kind, orjson.loads(event.text))

    def hear(self, delta: DeltaMessage) -> None:
        if any(it.wants("message.created", delta.run_id) for it in self._subscriptions.values()):
            self._deltas.append(delta)
            self._news.set()

    def tick(self, now: float) -> None:
        """Once a second: deadlines, signs of life, and whether the client keeps up."""
        if self.caller is None:
            if not self._authenticating and now - self._opened_at >= limits.AUTH_SECONDS:
                self.end(endings.SILENT)
            return
        left = self.caller.expires_at - time.time()
        if left <= -limits.GRACE_SECONDS:
            self.end(endings.EXPIRED)
        elif left <= limits.WARNING_SECONDS and not self._warned:
            self._warned = True
            self._say(AuthExpiringMessage(expires_at=_instant(self.caller.expires_at)))
        if now - self._positioned_at >= limits.POSITION_SECONDS:
            self._positioned_at = now
            self._say_positions()
        waiting = self._sending_since is not None and now - self._sending_since >= limits.SLOW_SECONDS
        if waiting and any(it.caught_up and it.behind for it in self._subscriptions.values()):
            self.end(endings.SLOW)

    def _refusal(self) -> Ending | None:
        if self._hub.stopping:
            return endings.STOPPING
        if not _own_origin(self._socket.headers):
            return endings.FOREIGN_ORIGIN
        if len(self._hub.strangers) > limits.UNAUTHENTICATED:
            return endings.CROWDED
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
            async with asyncio.timeout(limits.WRITE_SECONDS):
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
            self.end(endings.REFUSED)
        elif isinstance(problem, identity.AccountDisabled):
            self.end(endings.DISABLED)
        elif isinstance(problem, WebSocketDisconnect):
            self.end(None)
        elif isinstance(problem, db.AWAY):
            log.warning("socket_without_database", connection=str(self.id), error=repr(problem))
            self.end(endings.UNAVAILABLE)
        elif problem is not None:
            log.error("socket_failed", connection=str(self.id), exc_info=problem)
            self.end(endings.FAULT)

    # Writing

    def _say(self, message: BaseModel) -> None:
        """Queue a message of the server; these come before events and frames."""
        self._control.append(message.model_dump_json(by_alias=True))
        self._news.set()
        if len(self._control) > limits.QUEUED_EVENTS:
            self.end(endings.SLOW)

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
        if self._deltas:
            return {"type": "websocket.send", "text": self._deltas.popleft().model_dump_json()}
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
                metrics.FRAMES.inc()
                return (
                    _FRAME_HEADER.pack(
                        1, _JPEG, 0, number, frame.number, frame.capture_us, *frame.image, *frame.css
                    )
                    + frame.jpeg
                )
        return None

    async def _load(self, subscription: Subscription) -> None:
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
        if {"authorization", "x-api-key"} & set(self._socket.headers):
            await self._authenticate(clerk_auth.only_credential(self._socket.headers), None)
        allowance = _Allowance()
        while True:
            message = await self._socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message.get("code", 1005))
            if not allowance.take(1 + len(message.get("text") or "") // limits.FREE_CHARS):
                raise Ended(endings.FLOOD)
            request = self._parse(message)
            if isinstance(request, AuthRequest):
                await self._authenticate(request.token, request.id)
            elif self.caller is None:
                raise Ended(endings.bad_message("The first message must be `auth`."))
            elif request is not None:
                self._begin(request)

    def _parse(self, message: Message) -> Any:
        """The request, or None for one with wrong fields, which has been answered."""
        text = message.get("text")
        if text is None:
            raise Ended(endings.bad_message("Messages are JSON in text frames."))
        if len(text) > limits.MESSAGE_BYTES or (
            not text.isascii() and len(text.encode()) > limits.MESSAGE_BYTES
        ):
            raise Ended(endings.TOO_BIG)
        try:
            return _REQUEST.validate_json(text, strict=True)
        except ValidationError as problem:
            if problem.error_count() > MAX_FAULTS:
                raise Ended(endings.bad_message("Too much is wrong with this message.")) from None
            if self.caller is None or problem.errors()[0]["type"] in _NO_SUCH_TYPE:
                raise Ended(endings.bad_message(_first_error(problem))) from None
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
        if isinstance(request, InputRequest) or self._requests >= limits.REQUESTS:
            refused = Refused("busy", f"At most {limits.REQUESTS} requests at a time.", retryable=True)
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
        self._permit(request.type)
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

    def _permit(self, kind: str) -> None:
        scope = clerk_auth.SOCKET_SCOPES.get(kind)
        if scope and self.caller and scope not in self.caller.scopes:
            raise Refused("missing_scope", str(clerk_auth.MissingScope(scope)))

    async def _answer(self, request: Any) -> None:
        try:
            await self._do(request)
        except Refused as refused:
            self._refuse(request.id, refused)
        except ActionFailed as failed:
            self._refuse(request.id, Refused(failed.code, failed.detail))
        except tuple(_REFUSALS) as problem:
            code, retryable = _REFUSALS[type(problem)]
            missing = isinstance(problem, NoResultFound)
            detail = "No such computer, or not yours." if missing else str(problem)
            self._refuse(request.id, Refused(code, detail, retryable=retryable))
        except db.AWAY as error:
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
            address = clerk_auth.peer_address(self._socket)
            caller = await clerk_auth.authenticate(token, address=address)
        except rates.RateLimited:
            raise Ended(endings.DISTRUSTED) from None
        except clerk_auth.KeysUnavailable as away:
            if self.caller is None:
                retry_after_ms = round(away.retry_after * 1000)
                raise Ended(Ending(1013, "unavailable", str(away), True, retry_after_ms)) from None
            self._refuse(request_id, Refused("unavailable", str(away), retryable=True))
            return
        if self._log is None:
            try:
                self._log = await self._hub.join(caller.user_id, self)
            except TooManyConnections:
                raise Ended(endings.TOO_MANY) from None
        elif self.caller is not None and caller.user_id != self.caller.user_id:
            raise Ended(endings.OTHER_USER)
        if clerk_auth.revoked(caller):  # while we waited for the database
            raise Ended(endings.REVOKED)
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
        if self._log is None:
            raise Ended(endings.REFUSED)
        self._require_room_for_subscription()
        begin, head, recovered = await position(self._log.user_id, request.after, self._log)
        self._require_room_for_subscription()  # others came while we asked
        self._last_number += 1
        self._say(
            SubscribedMessage(
                id=request.id, subscription=self._last_number, from_=begin, head=head, recovered=recovered
            )
        )
        self._subscriptions[self._last_number] = Subscription(self._log, begin, request.run_id, request.kinds)

    def _require_room_for_subscription(self) -> None:
        if len(self._subscriptions) >= limits.SUBSCRIPTIONS:
            raise Refused("too_many", f"At most {limits.SUBSCRIPTIONS} subscriptions per connection.")

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
            raise Ended(endings.REFUSED)
        return self.caller.user_id

    @property
    def _actor(self) -> str:
        if self.caller is None:
            raise Ended(endings.REFUSED)
        return self.caller.actor

    async def _watch(self, request: WatchRequest) -> None:
        async with db.as_user(self._user_id) as tx:
            row = await tx.one(Computer, id=request.computer_id)
        if len(self._streams) >= limits.STREAMS:
            raise Refused("too_many", f"At most {limits.STREAMS} streams per connection.")
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
            control = await computers.take_control(
                self._user_id, request.computer_id, str(self.id), self._actor
            )
            self._holds[request.computer_id] = _Hold(request.id, control)
            self._steered.add(request.computer_id)
        else:
            hold = self._holds.get(request.computer_id)
            generation = hold.control.generation if hold else None
            if hold is not None and not hold.lost:
                del self._holds[request.computer_id]
            control = await computers.release_control(
                self._user_id, request.computer_id, generation, self._actor
            )
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
        elif (hold := self._holds.get(computer_id)) is not None and not hold.lost:
            control = ControlRead.model_validate(event["data"])
            known = hold.control
            same = (control.generation, control.state) == (known.generation, known.state)
            if control.generation < known.generation or same:
                return
            if control.generation > known.generation:
                hold.lost = True  # what it gives back from now on is not its own
            elif control.state is ControlState.released:
                del self._holds[computer_id]
            hold.control = known if hold.lost else control
            self._say(ControlledMessage(id=hold.request_id, **control.model_dump()))


def _first_error(problem: ValidationError) -> str:
    error = problem.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in error["loc"][1:])
    return f"{where}: {error['msg']}" if where else error["msg"]


def _request_id(text: str) -> RequestId | None:
    """The `id` of a request with other faults, read as `_REQUEST` reads it: with NaN, too."""
    found = from_json(text).get("id")
    try:
        return TypeAdapter[RequestId](RequestId).validate_python(found, strict=True)
    except ValidationError:
        return None


def _hello(connection_id: UUID) -> HelloMessage:
    return HelloMessage(
        connection_id=connection_id,
        ping_seconds=limits.POSITION_SECONDS,
        limits=SocketLimits(
            message_bytes=limits.MESSAGE_BYTES,
            messages_per_second=limits.MESSAGES_PER_SECOND,
            subscriptions=limits.SUBSCRIPTIONS,
            streams=limits.STREAMS,
            queued_bytes=limits.QUEUED_BYTES,
            queued_events=limits.QUEUED_EVENTS,
            unacknowledged_frames=limits.UNACKNOWLEDGED,
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
    try:
        place = urlsplit(origin).netloc
    except ValueError:
        return False
    return not origin or origin in allowed or place in own - {""}
