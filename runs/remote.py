"""Computers of other processes: called and watched over a bus that carries frames."""

import asyncio
import secrets
import struct
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol
from uuid import UUID

import orjson
import structlog

from browser.screencast import Frame, Screencast, Watch
from infra.bus import Bus

log = structlog.get_logger()

ACCEPT_SECONDS = 3.0
ANSWER_SECONDS = 150.0
RENEW_SECONDS = 5.0
RELAY_SECONDS = 15.0
HEADER = struct.Struct(">QQHHHH")


class Unanswered(Exception):
    """The other process does not answer."""


class Refused(Exception):
    """The other process raised this: `kind` is the exception's name, `arguments` what it was made of."""

    def __init__(self, kind: str, arguments: list[str]) -> None:
        super().__init__(kind)
        self.kind, self.arguments = kind, arguments


class Serve(Protocol):
    """Does here what another process asks for, and returns JSON."""

    def __call__(self, call: str, user_id: str, id: UUID, arguments: dict[str, Any], /) -> Awaitable[Any]: ...


class Peers:
    """This process among the others: asks them, and answers them with `serve`."""

    def __init__(
        self,
        bus: Bus,
        me: UUID,
        serve: Serve,
        refusals: tuple[type[Exception], ...],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        """`refusals` are what `serve` may raise for the asker to see; `spawn` runs a task to its end."""
        self._bus, self._me, self._serve, self._refusals, self._spawn = bus, me, serve, refusals, spawn
        self._asked: dict[str, tuple[asyncio.Event, asyncio.Future[Any]]] = {}
        self._casts: dict[UUID, RemoteCast] = {}
        self._relays: dict[UUID, tuple[Watch, asyncio.TimerHandle]] = {}
        self._unsubscribe = [
            bus.subscribe(f"computers:{me}", self._on_call),
            bus.subscribe(f"answers:{me}", self._on_answer),
        ]

    def close(self) -> None:
        """Ask and answer no more."""
        for unsubscribe in self._unsubscribe:
            unsubscribe()
        for watch, timer in self._relays.values():
            timer.cancel()
            watch.close()

    # Calls --------------------------------------------------------------------------------------

    async def ask(self, owner: UUID, call: str, user_id: str, id: UUID, **arguments: Any) -> Any:
        """What the owner answers. Raises Refused with what it raised, and Unanswered."""
        number = secrets.token_hex(8)
        accepted, answer = asyncio.Event(), asyncio.get_running_loop().create_future()
        self._asked[number] = accepted, answer
        request = {"number": number, "from": self._me, "call": call, "user_id": user_id, "id": id}
        try:
            self._bus.publish(f"computers:{owner}", orjson.dumps(request | {"arguments": arguments}))
            async with asyncio.timeout(ACCEPT_SECONDS):
                await accepted.wait()
            async with asyncio.timeout(ANSWER_SECONDS):
                return await answer
        except TimeoutError as error:
            raise Unanswered("The computer's process does not answer; try again later") from error
        finally:
            del self._asked[number]

    def _on_call(self, payload: bytes) -> None:
        self._spawn(self._answer(orjson.loads(payload)))

    async def _answer(self, request: dict[str, Any]) -> None:
        topic, number = f"answers:{request['from']}", request["number"]
        self._bus.publish(topic, orjson.dumps({"number": number}))
        try:
            reply = orjson.dumps({"number": number} | await self._outcome(request))
        except Exception:
            log.exception("call_broke", call=request["call"])
            error = ["", "Something went wrong in the computer's process; its log says what"]
            reply = orjson.dumps({"number": number, "error": error})
        self._bus.publish(topic, reply)

    async def _outcome(self, request: dict[str, Any]) -> dict[str, Any]:
        call, user_id, arguments = request["call"], request["user_id"], request["arguments"]
        try:
            return {"data": await self._serve(call, user_id, UUID(request["id"]), arguments)}
        except self._refusals as error:
            return {"error": [type(error).__name__, *(str(part) for part in _parts(error))]}

    def _on_answer(self, payload: bytes) -> None:
        reply = orjson.loads(payload)
        if (asked := self._asked.get(reply["number"])) is None:
            return
        accepted, answer = asked
        accepted.set()
        if answer.done():
            return
        if "error" in reply:
            kind, *arguments = reply["error"]
            answer.set_exception(Refused(kind, arguments))
        elif "data" in reply:
            answer.set_result(reply["data"])

    # Pictures -----------------------------------------------------------------------------------

    def cast(self, owner: UUID, user_id: str, id: UUID) -> "RemoteCast":
        """The live view of the owner's computer; it is kept up while somebody here watches it."""
        if (cast := self._casts.get(id)) is None:
            cast = self._casts[id] = RemoteCast()
            self._spawn(self._keep(cast, owner, user_id, id))
        return cast

    async def _keep(self, cast: "RemoteCast", owner: UUID, user_id: str, id: UUID) -> None:
        unsubscribe = [
            self._bus.subscribe(f"frames:{id}", cast.receive),
            self._bus.subscribe(f"views:{id}", lambda view: cast.view(orjson.loads(view))),
        ]
        try:
            await self._bus.settle()
            while cast.watched:
                await self.ask(owner, "relay", user_id, id)
                await asyncio.sleep(RENEW_SECONDS)
        except (Refused, Unanswered) as error:
            log.info("remote_view_ended", computer_id=str(id), error=repr(error))
        finally:
            del self._casts[id]
            for stop in unsubscribe:
                stop()
            await cast.close()

    def relay(self, screencast: Screencast, id: UUID) -> None:
        """Publish a computer's pictures for the next fifteen seconds."""

        def send(frame: Frame) -> None:
            header = HEADER.pack(frame.number, frame.capture_us, *frame.image, *frame.css)
            self._bus.publish(f"frames:{id}", header + frame.jpeg)

        if (running := self._relays.pop(id, None)) is not None:
            watch, timer = running
            timer.cancel()
        else:
            watch = screencast.watch(send, lambda view: self._bus.publish(f"views:{id}", orjson.dumps(view)))
        timer = asyncio.get_running_loop().call_later(RELAY_SECONDS, self._end_relay, id)
        self._relays[id] = watch, timer

    def _end_relay(self, id: UUID) -> None:
        self._relays.pop(id)[0].close()


def _parts(error: Exception) -> tuple[object, ...]:
    """What an exception is made again from: `code` and `detail` where it has them, else its text."""
    code, detail = getattr(error, "code", None), getattr(error, "detail", None)
    return (code, detail) if isinstance(code, str) and isinstance(detail, str) else (str(error),)


class RemoteCast(Screencast):
    """Pictures that another process takes, for the viewers here."""

    @property
    def watched(self) -> bool:
        return bool(self._watches)

    def receive(self, payload: bytes) -> None:
        """Show a frame as `Peers.relay` has sent it."""
        number, capture_us, *sizes = HEADER.unpack_from(payload)
        image, css = (sizes[0], sizes[1]), (sizes[2], sizes[3])
        self.last = Frame(number, capture_us, image, css, payload[HEADER.size :])
        for watch in list(self._watches):
            watch.offer(self.last)
