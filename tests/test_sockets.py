"""The socket and its SSE twin over a real server and a real database: order, resumption, limits, endings."""

import asyncio
import json
import math
import random
import re
import signal
import socket as sockets
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import httpx
import pytest
import uvicorn
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI
from starlette.responses import Response
from starlette.websockets import WebSocket
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import clerk_auth
import db
import live
from browser.screencast import jpeg_size
from infra.bus import Bus, LocalBus
from infra.vault import load_vault
from live import endings, hub, limits, session
from live.hub import running
from live.session import Session
from models import Event, Stream, uuid7
from schemas import EventRead, HelloMessage, ReadyMessage, SocketMessage, SocketRequest
from settings import Settings, settings
from tests import clerk, pages
from tests.conftest import Backend, free_port

ISSUER = "https://clerk.example.com"
SECONDS = 20.0


# A server with the socket alone -------------------------------------------------------------------


def make_app() -> FastAPI:
    app = FastAPI()

    @app.websocket("/ws")
    async def connect_socket(socket: WebSocket) -> None:
        await live.serve(socket)

    @app.get("/stream/{user_id}")
    async def stream(
        user_id: str,
        after: int | None = None,
        run_id: UUID | None = None,
        kind: str | None = None,
        seconds: float = 60,
    ) -> Response:
        now = int(time.time())
        caller = clerk_auth.Caller(user_id, f"sess_{user_id}", issued_at=now, expires_at=int(now + seconds))
        try:
            return await live.event_stream(caller, after, run_id, [kind] if kind else None)
        except live.TooManyConnections:
            return Response(status_code=429)

    return app


@asynccontextmanager
async def serving(bus: Bus) -> AsyncIterator[int]:
    """A server on a free port, started as anyone would start it: with compression and large messages."""
    await live.start(bus)
    config = uvicorn.Config(live.TransportAccess(make_app()), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await live.stop()
        server.should_exit = True
        await task


def sessions() -> list[Session]:
    """The server's side of every socket."""
    return [it for it in running().sessions if isinstance(it, Session)]


@pytest.fixture
def signed() -> None:
    """Tokens of `token` are valid."""
    public = clerk.KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    clerk_auth.configure(Settings(clerk_issuer=ISSUER, clerk_jwt_key=public))


@pytest.fixture
async def port(database: str, bus: LocalBus, signed: None) -> AsyncIterator[int]:
    async with serving(bus) as port:
        yield port


def token(user_id: str, lifetime: float = 300, session: str = clerk.SESSION) -> str:
    now = int(time.time())
    claims = clerk.claims(ISSUER, sub=user_id, sid=session, exp=int(now + lifetime))
    return clerk.sign(clerk.header(), claims)


class Client:
    """A socket that reads as a client of ours would: by the type of the message."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection
        self.ready: dict[str, Any] = {}

    async def send(self, **message: Any) -> None:
        await self.connection.send(json.dumps(message))

    async def receive(self) -> dict[str, Any]:
        async with asyncio.timeout(SECONDS):
            message = await self.connection.recv()
        assert isinstance(message, str)
        return dict(json.loads(message))

    async def expect(self, kind: str) -> dict[str, Any]:
        """The next message of a type; others before it are left out, except errors."""
        while True:
            message = await self.receive()
            if message["type"] == kind:
                return message
            assert message["type"] != "error", message

    async def subscribe(self, after: int | None = None, **filters: Any) -> dict[str, Any]:
        await self.send(type="subscribe", id="s", after=after, **filters)
        return await self.expect("subscribed")

    async def seqs_until(self, seq: int) -> list[int]:
        """The `seq` of every event up to a cursor."""
        found: list[int] = []
        while True:
            message = await self.expect("events")
            found += [event["seq"] for event in message["events"]]
            assert not message["events"] or message["upto"] >= found[-1]
            if message["upto"] >= seq:
                return found

    async def closed(self) -> tuple[int, list[dict[str, Any]]]:
        """The close code, and what came before it."""
        messages = []
        try:
            while True:
                messages.append(await self.receive())
        except ConnectionClosed as closed:
            return (closed.rcvd.code if closed.rcvd else 1006), messages


@asynccontextmanager
async def client(port: int, user_id: str | None = None, **options: Any) -> AsyncIterator[Client]:
    """A connected client, signed in unless `user_id` is None."""
    options.setdefault("subprotocols", ["cua.v1"])
    async with connect(f"ws://127.0.0.1:{port}/ws", max_size=None, **options) as connection:
        made = Client(connection)
        if user_id is not None:
            await made.send(type="auth", token=token(user_id))
            made.ready = await made.expect("ready")
        yield made


async def emit(
    user_id: str, count: int = 1, *, size: int = 0, run_id: UUID | None = None, kind: str = "test.made"
) -> None:
    """Log `count` events in one commit."""
    async with db.as_user(user_id) as tx:
        for number in range(count):
            tx.emit(kind, ("test", number), {"text": "x" * size}, run_id=run_id)


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def until_true(question: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await question():  # noqa: ASYNC110
            await asyncio.sleep(0.05)


# Events -------------------------------------------------------------------------------------------


async def test_two_sockets_get_the_identical_sequence(port: int, user: str) -> None:
    async with client(port, user) as one, client(port, user) as two:
        for each in (one, two):
            await each.subscribe()
        for count in (1, 3, 600, 2):
            await emit(user, count)
        assert await one.seqs_until(606) == await two.seqs_until(606) == list(range(1, 607))


async def test_a_reconnect_gets_exactly_the_rest(port: int, user: str) -> None:
    await emit(user, 5)
    async with client(port, user) as one:
        answer = await one.subscribe(after=2)
        assert answer | {"id": "s"} == {
            "type": "subscribed", "id": "s", "subscription": 1, "from": 2, "head": 5, "recovered": True,
        }  # fmt: skip
        assert await one.seqs_until(5) == [3, 4, 5]
        await emit(user)
        assert await one.seqs_until(6) == [6]
    await emit(user, 3)
    async with client(port, user) as two:
        await two.subscribe(after=6)
        assert await two.seqs_until(9) == [7, 8, 9]


async def test_live_only_begins_after_everything_that_was_committed_before(port: int, user: str) -> None:
    async with client(port, user) as one:
        for seq in range(1, 20):
            await emit(user)
            assert (await one.subscribe())["from"] == seq
            await one.send(type="unsubscribe", id="u", subscription=seq)
            assert (await one.expect("unsubscribed"))["upto"] == seq


async def test_an_event_arrives_as_it_is_listed(port: int, user: str) -> None:
    run_id = uuid7()
    async with client(port, user) as one:
        await one.subscribe()
        await emit(user, run_id=run_id, size=2)
        (event,) = (await one.expect("events"))["events"]
    assert EventRead.model_validate(event).run_id == run_id
    assert {**event, "id": "", "at": ""} == {
        "seq": 1, "id": "", "kind": "test.made", "run_id": str(run_id), "resource": {"type": "test", "id": "0"},
        "at": "", "actor": "system", "data": {"text": "xx"},
    }  # fmt: skip


async def test_another_user_gets_nothing(port: int, user: str, other_user: str) -> None:
    async with client(port, user) as mine, client(port, other_user) as theirs:
        await mine.subscribe(after=0)
        await theirs.subscribe(after=0)
        await emit(user, 10)
        assert await mine.seqs_until(10) == list(range(1, 11))
        await emit(other_user, kind="test.theirs")
        message = await theirs.receive()
        assert [(event["seq"], event["kind"]) for event in message["events"]] == [(1, "test.theirs")]


async def test_subscriptions_asked_for_at_once_have_the_same_limit(
    port: int, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SUBSCRIPTIONS", 5)
    await emit(user)
    async with client(port, user) as one:
        for number in range(20):
            await one.send(type="subscribe", id=number, after=0)
        answers: list[str] = []
        while len(answers) < 20:
            message = await one.receive()
            if message["type"] in ("subscribed", "error"):
                answers.append(message.get("code", message["type"]))
    assert (answers.count("subscribed"), answers.count("too_many")) == (5, 15)


@pytest.mark.parametrize("seed", range(4))
async def test_reconnects_under_concurrent_writers_see_each_event_exactly_once(
    port: int, user: str, seed: int
) -> None:
    dice = random.Random(seed)
    plans = [[(dice.randint(1, 8), dice.choice([0, 100, 9000])) for _ in range(30)] for _ in range(3)]
    total = sum(count for plan in plans for count, _ in plan)

    async def write(plan: list[tuple[int, int]]) -> None:
        for count, size in plan:
            await emit(user, count, size=size)
            await asyncio.sleep(dice.random() * 0.01)

    writers = [asyncio.create_task(write(plan)) for plan in plans]
    seen: list[int] = []
    for _ in range(20):
        async with client(port, user) as one:
            answer = await one.subscribe(after=len(seen))
            assert answer["recovered"]
            for _ in range(dice.randint(0, 4)):
                if len(seen) == total:
                    break
                message = await one.expect("events")
                seen += [event["seq"] for event in message["events"]]
                assert message["upto"] == seen[-1]
            one.connection.transport.abort()
    await asyncio.gather(*writers)
    async with client(port, user) as one:
        await one.subscribe(after=len(seen))
        if len(seen) < total:
            seen += await one.seqs_until(total)
    assert seen == list(range(1, total + 1))


async def test_a_long_log_is_replayed_whole_while_it_grows(port: int, user: str) -> None:
    await emit(user, 6000)
    async with client(port, user) as one:
        await one.subscribe(after=0)
        for _ in range(50):
            await emit(user, 10)
        assert await one.seqs_until(6500) == list(range(1, 6501))


async def test_a_burst_of_large_events_reaches_those_who_read(port: int, user: str) -> None:
    async with client(port, user) as one:
        await one.subscribe()
        reading = asyncio.create_task(one.seqs_until(200))
        await emit(user, 200, size=30_000)
        assert await reading == list(range(1, 201))


async def test_filters_leave_out_the_rest_and_upto_moves_past_it(port: int, user: str) -> None:
    runs = [uuid7(), uuid7()]
    for number in range(600):
        await emit(
            user, run_id=runs[number % 2], kind=["run.started", "run.step.started", "test.made"][number % 3]
        )
    async with client(port, user) as one:
        await one.subscribe(after=0, run_id=str(runs[1]), kinds=["run.step.", "test.made"])
        wanted = [n + 1 for n in range(600) if n % 2 == 1 and n % 3 > 0]
        assert await one.seqs_until(wanted[-1]) == wanted
        await emit(user, 1500, kind="run.started", run_id=runs[1])
        await emit(user, kind="test.made", run_id=runs[1])
        message = await one.expect("events")
        assert ([event["seq"] for event in message["events"]], message["upto"]) == ([2101], 2101)
        await one.send(type="subscribe", id=7, after=2100, kinds=["test."])
        assert (await one.expect("subscribed"))["id"] == 7
        assert await one.seqs_until(2101) == [2101]


async def test_a_run_is_replayed_without_reading_the_rest_of_the_log(port: int, user: str) -> None:
    run_id = uuid7()
    await emit(user, 3, run_id=run_id)
    await emit(user, 5000)
    await emit(user, 250, run_id=run_id)
    async with client(port, user) as one:
        await one.subscribe(after=0, run_id=str(run_id))
        assert await one.seqs_until(5253) == [1, 2, 3, *range(5004, 5254)]
        await emit(user, run_id=run_id)
        assert await one.seqs_until(5254) == [5254]


async def test_a_pruned_position_is_told_and_continues_with_what_is_kept(port: int, user: str) -> None:
    await emit(user, 5)
    async with db.as_user(user) as tx:
        for seq in (1, 2, 3):
            await tx.remove(Event, seq=seq)
    async with client(port, user) as one:
        answer = await one.subscribe(after=1)
        assert (answer["recovered"], answer["from"]) == (False, 3)
        assert await one.seqs_until(5) == [4, 5]
        assert (await one.subscribe(after=3))["recovered"]


async def test_a_position_from_the_future_is_told(port: int, user: str) -> None:
    await emit(user, 2)
    async with client(port, user) as one:
        answer = await one.subscribe(after=99)
        assert (answer["recovered"], answer["from"], answer["head"]) == (False, 2, 2)
        await emit(user)
        assert await one.seqs_until(3) == [3]


async def test_lost_hints_cost_a_second(database: str, bus: LocalBus, user: str, signed: None) -> None:
    deaf = LocalBus()
    await deaf.start()
    async with serving(deaf) as port, client(port, user) as one:
        await one.subscribe()
        await emit(user, 3)
        assert await one.seqs_until(3) == [1, 2, 3]


async def test_a_gap_of_the_bus_has_the_log_read(
    database: str, user: str, signed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 600)
    deaf = LocalBus()
    await deaf.start()
    async with serving(deaf) as port, client(port, user) as one:
        await one.subscribe()
        await emit(user)
        deaf._gap()
        assert await one.seqs_until(1) == [1]


async def test_a_log_that_went_back_closes_with_4010(port: int, user: str) -> None:
    await emit(user, 5)
    async with client(port, user) as one:
        await one.subscribe()
        async with db.as_user(user) as tx:
            await tx.change(Stream, {}, last_seq=1)
        code, messages = await one.closed()
        assert (code, messages[-1]["code"], messages[-1]["retryable"]) == (4010, "position_lost", True)


async def test_a_hole_is_never_forwarded(
    database: str, user: str, signed: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 600)
    deaf = LocalBus()
    await deaf.start()
    async with serving(deaf) as port, client(port, user) as one:
        await one.subscribe()
        await emit(user, 3)
        async with db.as_user(user) as tx:
            await tx.remove(Event, seq=1)
        deaf._gap()
        code, messages = await one.closed()
        assert (code, [message["type"] for message in messages]) == (4010, ["error"])


async def test_positions_are_signs_of_life(port: int, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(limits, "POSITION_SECONDS", 0.1)
    async with client(port, user) as one:
        assert await one.expect("position") == {
            "type": "position",
            "subscription": None,
            "upto": None,
            "head": 0,
        }
        await one.subscribe(kinds=["other."])
        await emit(user, 4)
        while (position := await one.expect("position"))["head"] < 4:
            pass
        assert position == {"type": "position", "subscription": 1, "upto": 4, "head": 4}


async def test_a_database_that_goes_away_costs_no_connection(
    port: int, dsn: str, bus: LocalBus, user: str
) -> None:
    async with client(port, user) as one:
        await one.subscribe()
        await db.close_database()
        try:
            await one.send(type="subscribe", id="later")
            error = await one.receive()
            assert (error["id"], error["code"], error["retryable"]) == ("later", "unavailable", True)
            async with client(port) as two:
                await two.send(type="auth", token=token(f"user_{uuid4().hex}"))
                code, messages = await two.closed()
                assert (code, messages[-1]["retryable"]) == (1013, True)
        finally:
            await db.open_database(dsn, size=8, publish=bus.publish, vault=load_vault(settings.data_dir, ()))
        await emit(user)
        assert await one.seqs_until(1) == [1]


# Slow clients -------------------------------------------------------------------------------------


async def connect_slowly(port: int, user_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A socket with a small window, subscribed to everything, whose client reads nothing any more."""
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 16 * 1024)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=raw, limit=1024)
    writer.write(
        b"GET /ws HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        b"Authorization: Bearer " + token(user_id).encode() + b"\r\n\r\n"
    )
    await reader.readuntil(b"\r\n\r\n")
    text = json.dumps({"type": "subscribe", "id": 1, "after": 0}).encode()
    writer.write(struct.pack("!BBI", 0x81, 0x80 | len(text), 0) + text)
    return reader, writer


async def test_a_slow_consumer_is_closed_with_4008_and_a_fast_one_is_unharmed(port: int, user: str) -> None:
    async with client(port, user) as fast:
        await fast.subscribe()
        reader, writer = await connect_slowly(port, user)
        await until(lambda: sum(s._subscriptions != {} for s in sessions()) == 2)
        reading = asyncio.create_task(fast.seqs_until(400))
        for _ in range(40):
            await emit(user, 10, size=30_000)
        assert await reading == list(range(1, 401))
        await until(lambda: len(sessions()) == 1 or any(s._ended.done() for s in sessions()))
        received = b""
        async with asyncio.timeout(SECONDS):
            while not received.endswith(struct.pack("!H", 4008) + b"slow_consumer"):
                received = received[-100:] + await reader.read(2**16)
        writer.close()
        await emit(user)
        assert await fast.seqs_until(401) == [401]


async def test_a_stalled_peer_is_cut(port: int, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_SECONDS", 2)
    _, writer = await connect_slowly(port, user)
    hub = running()
    await until(lambda: any(it._subscriptions for it in sessions()))
    for _ in range(40):
        await emit(user, 10, size=30_000)
    await until(lambda: not hub.sessions and not hub.peers)
    writer.close()


# Endings ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    ["", "nonsense", "[]", "7", "null", '{"type": "steal"}', '{"id": 1}', '{"type": 7}', '{"type": "ack"',
     '{"type":"auth","token":"\\ud800"}', "[" * 5000, b"\x00\x01", b""],
)  # fmt: skip
@pytest.mark.parametrize("signed_in", [True, False])
async def test_what_is_not_a_message_closes_with_4400(
    port: int, user: str, message: str | bytes, signed_in: bool
) -> None:
    async with client(port, user if signed_in else None) as one:
        await one.connection.send(message)
        code, messages = await one.closed()
    assert (code, messages[-1]["code"], messages[-1]["retryable"]) == (4400, "bad_message", False)


async def test_nothing_is_done_before_auth(port: int, user: str) -> None:
    async with client(port) as one:
        await one.send(type="subscribe", id=1, after=0)
        assert (await one.closed())[0] == 4400


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "subscribe", "id": "a", "after": -1},
        {"type": "subscribe", "id": "a", "after": 2**70},
        {"type": "subscribe", "id": "a", "after": "0"},
        {"type": "subscribe", "id": "a", "run_id": "x"},
        {"type": "subscribe", "id": "a", "kinds": ["a'; drop table events"]},
        {"type": "subscribe", "id": "a", "kinds": ["\x00"]},
        {"type": "subscribe", "id": "a", "kinds": []},
        {"type": "subscribe", "id": "a", "unknown": 1},
        {"type": "watch", "id": "a", "computer_id": str(uuid4()), "max_fps": 1e9},
        {"type": "watch", "id": "a", "computer_id": str(uuid4()), "max_fps": math.nan},
        {"type": "subscribe", "id": "a", "after": math.inf},
        {"type": "control", "id": "a", "computer_id": str(uuid4()), "action": "keep"},
        {"type": "input", "id": "a", "computer_id": str(uuid4()), "generation": 1, "event": {"type": "mouse", "x": "\x00"}},
        {"type": "unwatch", "id": "a", "stream": 5},
        {"type": "unsubscribe", "id": "a", "subscription": 5},
        {"type": "unsubscribe", "id": "a", "subscription": -5},
    ],
)  # fmt: skip
async def test_a_request_with_wrong_fields_is_an_error_and_the_connection_goes_on(
    port: int, user: str, wrong: dict[str, Any]
) -> None:
    async with client(port, user) as one:
        await one.send(**wrong)
        error = await one.receive()
        assert (error["type"], error["id"], error["retryable"]) == ("error", "a", False)
        assert error["code"] in ("invalid", "not_found")
        await one.subscribe()


async def test_an_id_that_is_none_is_not_echoed(port: int, user: str) -> None:
    async with client(port, user) as one:
        for wrong in ("a\x00", "x" * 65, {"a": 1}, -1, 1.5, True, None):
            await one.send(type="subscribe", id=wrong)
            assert (await one.receive())["id"] is None


async def test_a_message_over_64_kib_is_closed_with_1009(port: int, user: str) -> None:
    async with client(port, user) as one:
        await one.send(type="input", text="x" * 70_000)
        assert (await one.closed())[0] == 1009
    async with client(port, user) as one:
        await one.send(type="subscribe", id=1, kinds=["x" * 60_000])
        assert (await one.receive())["code"] == "invalid"


async def test_a_message_that_costs_much_counts_as_several(
    port: int, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MESSAGES_PER_SECOND", 10)
    long = '{"type":"ack","stream":1,"frame":1' + " " * 60_000 + "}"
    async with client(port, user) as one:
        await one.connection.send(long)
        await one.connection.send(long)
        assert (await one.closed())[0] == 4013
    async with client(port, user) as one:
        many = ",".join(f'"{number}":1' for number in range(200))
        await one.connection.send('{"type":"subscribe","id":1,' + many + "}")
        assert (await one.closed())[0] == 4400


async def test_a_flood_is_closed_with_4013(port: int, user: str) -> None:
    async with client(port, user) as one:
        for _ in range(3 * limits.MESSAGES_PER_SECOND):
            await one.send(type="ack", stream=1, frame=1)
        code, messages = await one.closed()
    assert (code, messages[-1]["code"], messages[-1]["retry_after_ms"]) == (4013, "rate_limited", 1000)


@pytest.mark.parametrize("bad", ["", "x", "é" * 50, "a.b." + "c" * 50, "x" * 8192])
async def test_a_wrong_token_is_closed_with_4401(port: int, bad: str) -> None:
    async with client(port) as one:
        await one.send(type="auth", token=bad)
        code, messages = await one.closed()
    assert (code, messages[-1]["code"]) == (4401, "unauthorized")


async def test_an_issuer_that_is_away_is_worth_another_try(port: int, user: str) -> None:
    clerk_auth.configure(Settings(clerk_issuer=f"http://127.0.0.1:{free_port()}"))
    try:
        issuer = next(iter(clerk_auth._verifiers))
        claims = clerk.claims(issuer, sub=user)
        async with client(port) as one:
            await one.send(type="auth", token=clerk.sign(clerk.header(), claims))
            code, messages = await one.closed()
        assert (code, messages[-1]["code"], messages[-1]["retryable"]) == (1013, "unavailable", True)
        assert messages[-1]["retry_after_ms"] > 0
    finally:
        await clerk_auth.close()


async def test_the_authorization_header_signs_in(port: int, user: str) -> None:
    headers = {"Authorization": f"Bearer {token(user)}"}
    async with client(port, additional_headers=headers) as one:
        assert (await one.expect("ready"))["user_id"] == user
    async with client(port, additional_headers={"Authorization": "Basic x"}) as one:
        assert (await one.closed())[0] == 4401


async def test_hello_comes_first_and_messages_may_follow_auth_at_once(port: int, user: str) -> None:
    await emit(user, 2)
    async with client(port) as one:
        await one.send(type="auth", id="a", token=token(user))
        await one.send(type="subscribe", id="s", after=1)
        hello = HelloMessage.model_validate(await one.receive())
        assert (hello.ping_seconds, hello.limits.message_bytes) == (25, 65536)
        ready = ReadyMessage.model_validate(await one.receive())
        assert (ready.id, ready.user_id, ready.head) == ("a", user, 2)
        assert (await one.receive())["type"] == "subscribed"
        assert await one.seqs_until(2) == [2]
        assert one.connection.subprotocol == "cua.v1"


async def test_compression_is_off_however_the_server_was_started(port: int, user: str) -> None:
    async with client(port, user, compression="deflate") as one:
        assert one.connection.response is not None
        assert "Sec-WebSocket-Extensions" not in one.connection.response.headers
        await one.subscribe(after=0)


async def test_silence_is_closed_with_4408(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "AUTH_SECONDS", 0.2)
    async with client(port) as one:
        assert (await one.closed())[0] == 4408


async def test_strangers_are_few(port: int, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "UNAUTHENTICATED", 2)
    async with client(port, user), client(port), client(port) as stranger:
        async with client(port) as one:
            assert (await one.closed())[0] == 4013
        await stranger.send(type="auth", token=token(user))
        await stranger.expect("ready")
        async with client(port, user):
            pass


async def test_a_user_has_at_most_twenty_connections(port: int, user: str, other_user: str) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(limits.CONNECTIONS_PER_USER):
            await stack.enter_async_context(client(port, user))
        async with client(port) as one:
            await one.send(type="auth", token=token(user))
            code, messages = await one.closed()
        assert (code, messages[-1]["retryable"]) == (4429, False)
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"http://127.0.0.1:{port}/stream/{user}")).status_code == 429
        async with client(port, other_user):
            pass
    await until(lambda: not running().sessions)
    async with client(port, user):
        pass


async def test_origins_are_checked(port: int, user: str) -> None:
    for origin in (
        "https://evil.example",
        "null",
        f"http://127.0.0.1:{port}.evil.example",
        "http://127.0.0.1",
        "http://[",
    ):
        async with client(port, origin=origin) as one:
            code, messages = await one.closed()
            assert (code, [message["type"] for message in messages]) == (4403, ["error"])
    async with client(port, user, origin=f"http://127.0.0.1:{port}"):
        pass
    proxied = {"X-Forwarded-Host": "app.example.com"}
    async with client(port, user, origin="https://app.example.com", additional_headers=proxied):
        pass


async def test_a_newer_token_keeps_the_connection_and_an_old_one_ends_it(
    port: int, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(limits, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(limits, "WARNING_SECONDS", 1.0)
    async with client(port) as one:
        await one.send(type="auth", token=token(user, lifetime=2))
        await one.expect("ready")
        await one.subscribe()
        await one.expect("auth_expiring")
        await one.send(type="auth", id="r", token=token(user, lifetime=4))
        assert (await one.expect("ready"))["id"] == "r"
        began = time.monotonic()
        await one.expect("auth_expiring")
        await emit(user)
        assert await one.seqs_until(1) == [1]
        code, messages = await one.closed()
        assert (code, messages[-1]["code"]) == (4401, "expired")
        assert time.monotonic() - began > 2


async def test_a_refresh_belongs_to_the_same_user(port: int, user: str, other_user: str) -> None:
    async with client(port, user) as one:
        await one.send(type="auth", token=token(other_user))
        assert (await one.closed())[0] == 4403


async def test_a_wrong_refresh_ends_the_connection(port: int, user: str) -> None:
    async with client(port, user) as one:
        await one.send(type="auth", token=token(user)[:-4])
        assert (await one.closed())[0] == 4401


async def test_revocation_closes_at_once(port: int, bus: LocalBus, user: str, other_user: str) -> None:
    async with client(port) as session, client(port, user) as rest, client(port, other_user) as other:
        await session.send(type="auth", token=token(user, session="sess_ended"))
        await session.expect("ready")
        bus.publish("revoked", b"sess_ended")
        code, messages = await session.closed()
        assert (code, messages[-1]["code"]) == (4403, "forbidden")
        bus.publish("revoked", f"user:{user}".encode())
        assert (await rest.closed())[0] == 4403
        await other.subscribe()


async def test_a_sign_in_that_ends_while_a_socket_signs_in_ends_the_socket(
    port: int, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ensure_user = db.ensure_user

    async def slowly(*args: Any, **profile: Any) -> db.Standing:
        standing = await ensure_user(*args, **profile)
        clerk_auth.on_revoked(b"sess_brief")
        return standing

    monkeypatch.setattr(db, "ensure_user", slowly)
    async with client(port) as one:
        await one.send(type="auth", token=token(user, session="sess_brief"))
        code, messages = await one.closed()
    assert (code, [message["type"] for message in messages]) == (4403, ["hello", "error"])


async def test_stopping_closes_with_4009(database: str, bus: LocalBus, user: str, signed: None) -> None:
    async with serving(bus) as port, client(port, user) as one, client(port) as stranger:
        await live.stop()
        assert (await one.closed())[0] == (await stranger.closed())[0] == 4009
        async with client(port) as late:
            assert (await late.closed())[0] == 4009


async def test_a_signal_stops_the_server_once_everyone_is_told(port: int, user: str) -> None:
    left: list[int] = []
    stopped = asyncio.Event()

    def stop(*_: object) -> None:
        left.append(len(sessions()))
        stopped.set()

    before = signal.signal(signal.SIGTERM, stop)
    undo = hub._before_signals(partial(running().end_all, SECONDS))
    try:
        async with client(port, user) as one:
            signal.raise_signal(signal.SIGTERM)
            assert (await one.closed())[0] == 4009
            async with asyncio.timeout(SECONDS):
                await stopped.wait()
        signal.raise_signal(signal.SIGTERM)
    finally:
        undo()
        signal.signal(signal.SIGTERM, before)
    assert left == [0, 0]


async def test_nothing_stays_of_those_who_left(port: int, user: str) -> None:
    for _ in range(5):
        async with client(port, user) as one:
            await one.subscribe(after=0)
    hub = running()
    await until(lambda: not (hub.sessions or hub.strangers or hub.peers or hub._logs))


# Server-sent events -------------------------------------------------------------------------------


async def read_stream(port: int, user_id: str, count: int, **params: Any) -> list[dict[str, str]]:
    """The first blocks of a stream, comments left out."""
    blocks: list[dict[str, str]] = []
    block: dict[str, str] = {}
    async with (
        asyncio.timeout(SECONDS),
        httpx.AsyncClient(timeout=SECONDS) as http,
        http.stream("GET", f"http://127.0.0.1:{port}/stream/{user_id}", params=params) as reply,
    ):
        assert reply.headers["content-type"].startswith("text/event-stream")
        async for line in reply.aiter_lines():
            if line:
                name, _, value = line.partition(": ")
                block |= {name: value} if name else {}
                continue
            if block:
                blocks.append(block)
            block = {}
            if len(blocks) == count:
                break
    return blocks


async def test_a_stream_carries_the_same_events(port: int, user: str, other_user: str) -> None:
    await emit(user, 3)
    await emit(other_user, 9)
    reading = asyncio.create_task(read_stream(port, user, 4, after=1))
    await until(lambda: running().streams)
    await emit(user, 2)
    blocks = await reading
    assert [(block["id"], block["event"]) for block in blocks] == [
        (str(n), "test.made") for n in (2, 3, 4, 5)
    ]
    assert [json.loads(block["data"])["seq"] for block in blocks] == [2, 3, 4, 5]
    await until(lambda: not running().streams)


async def test_a_stream_filters_and_silence_moves_its_position(
    port: int, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HEARTBEAT_SECONDS", 0.2)
    run_id = uuid7()
    await emit(user, 2)
    await emit(user, run_id=run_id)
    await emit(user, 2, run_id=run_id, kind="run.started")
    await emit(user, 3)
    blocks = await read_stream(port, user, 3, after=0, run_id=str(run_id), kind="run.")
    assert [block["id"] for block in blocks] == ["4", "5", "8"]
    assert blocks[-1].keys() == {"id"}


async def test_a_stream_that_cannot_resume_says_so(port: int, user: str) -> None:
    await emit(user, 2)
    assert await read_stream(port, user, 1, after=50) == [{"event": "reset", "data": '{"from":2,"head":2}'}]


async def test_streams_end_when_the_server_stops(
    database: str, bus: LocalBus, user: str, signed: None
) -> None:
    async with serving(bus) as port:
        reading = asyncio.create_task(read_stream(port, user, 99))
        await until(lambda: running().streams)
        await live.stop()
        assert await reading == []


async def test_a_stream_ends_with_its_sign_in(
    port: int, user: str, other_user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "GRACE_SECONDS", 0.5)
    assert await read_stream(port, user, 99, seconds=1) == []
    kept = asyncio.create_task(read_stream(port, other_user, 1))
    for ended in (f"sess_{user}", f"user:{user}"):
        reading = asyncio.create_task(read_stream(port, user, 99))
        await until(lambda: len(running().streams) == 2)
        bus.publish("revoked", ended.encode())
        assert await reading == []
    await emit(other_user, 1)
    assert len(await kept) == 1


async def test_a_stalled_stream_is_cut(port: int, user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "WRITE_SECONDS", 2)
    raw = sockets.socket()
    raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 16 * 1024)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
    _, writer = await asyncio.open_connection(sock=raw, limit=1024)
    writer.write(f"GET /stream/{user}?after=0 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    hub = running()
    await until(lambda: hub.streams)
    for _ in range(40):
        await emit(user, 10, size=30_000)
    await until(lambda: not hub.streams and not hub.peers)
    writer.close()


# Live view and control, on a whole server with a real Chromium ------------------------------------


@asynccontextmanager
async def signed_in(backend: Backend, http: httpx.AsyncClient) -> AsyncIterator[Client]:
    headers = {"Authorization": http.headers["Authorization"]}
    async with connect(backend.socket_url, additional_headers=headers, max_size=None) as connection:
        made = Client(connection)
        made.ready = await made.expect("ready")
        yield made


class Viewer:
    """A client that keeps frames and messages apart."""

    def __init__(self, socket: Client) -> None:
        self.socket = socket
        self.frames: list[tuple[int, ...]] = []
        self.jpegs: list[bytes] = []

    async def receive(self) -> dict[str, Any]:
        """The next message; frames before it are kept."""
        async with asyncio.timeout(SECONDS):
            while isinstance(message := await self.socket.connection.recv(), bytes):
                self.frames.append(struct.unpack(">BBHIQQHHHH", message[:32]))
                self.jpegs.append(message[32:])
        return dict(json.loads(message))

    async def expect(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next message of a type that has these fields."""
        while True:
            message = await self.receive()
            if message["type"] == kind and all(message[name] == value for name, value in fields.items()):
                return message

    async def flush(self) -> None:
        """Return when everything the server had to say has come."""
        await self.socket.send(type="unsubscribe", id="flush", subscription=2**31)
        await self.expect("error", id="flush")

    async def until_frames(self, count: int) -> None:
        async with asyncio.timeout(SECONDS):
            while len(self.frames) < count:
                await self.flush()
                await asyncio.sleep(0.05)


async def open_computer(http: httpx.AsyncClient) -> str:
    reply = await http.post("/api/computers", json={})
    assert reply.status_code == 201, reply.text
    return str(reply.json()["data"]["id"])


async def evaluate(http: httpx.AsyncClient, computer_id: str, script: str) -> Any:
    reply = await http.post(
        f"/api/computers/{computer_id}/actions", json={"action": "evaluate", "expression": script}
    )
    assert reply.status_code == 200, reply.text
    return reply.json()["data"]["output"]["value"]


async def test_a_computer_is_watched_and_steered(server: Backend, alice: httpx.AsyncClient) -> None:
    computer_id = await open_computer(alice)
    async with pages.serve() as site, signed_in(server, alice) as socket:
        viewer = Viewer(socket)
        await socket.send(type="watch", id="w", computer_id=computer_id, max_fps=30)
        watching = await viewer.expect("watching")
        assert (watching["id"], watching["width"], watching["height"]) == ("w", 1280, 720)
        stream = watching["stream"]
        await socket.send(type="control", id="c", computer_id=computer_id, action="take")
        control = await viewer.expect("controlled")
        assert (control["id"], control["state"]) == ("c", "granted")
        steer = {"type": "input", "computer_id": computer_id, "generation": control["generation"]}
        await socket.send(**steer, event={"type": "navigate", "event": "go", "url": site.url("/animated")})
        assert (await viewer.expect("view", title="Animated"))["stream"] == stream

        await viewer.until_frames(2)
        await asyncio.sleep(0.5)
        await viewer.flush()
        assert len(viewer.frames) == 2, "at most two frames travel unacknowledged"
        for count in range(3, 12):
            await socket.send(type="ack", stream=stream, frame=viewer.frames[-1][4])
            await viewer.until_frames(count)
        numbers = [frame[4] for frame in viewer.frames]
        assert numbers == sorted(set(numbers))
        for frame, jpeg in zip(viewer.frames, viewer.jpegs, strict=True):
            assert (frame[:4], frame[8:]) == ((1, 1, 0, stream), (1280, 720))
            assert jpeg_size(jpeg) == frame[6:8]
            assert abs(frame[5] / 1_000_000 - time.time()) < SECONDS

        await socket.send(type="unwatch", id="u", stream=stream)
        await viewer.expect("unwatched", id="u")
        count = len(viewer.frames)
        await asyncio.sleep(0.3)
        await viewer.flush()
        assert len(viewer.frames) == count
        await socket.send(type="control", id="r", computer_id=computer_id, action="release")
        assert (await viewer.expect("controlled"))["state"] == "released"
        await socket.send(**steer, id="late", event={"type": "text", "text": "x"})
        assert (await viewer.expect("error"))["code"] == "stale_control"
    assert (await alice.delete(f"/api/computers/{computer_id}")).status_code == 200


async def test_a_static_page_is_seen_at_once_and_a_closed_one_is_told(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    computer_id = await open_computer(alice)
    async with pages.serve() as site, signed_in(server, alice) as first, signed_in(server, alice) as second:
        viewers = [Viewer(first), Viewer(second)]
        navigate = {"action": "navigate", "url": site.url("/static")}
        reply = await alice.post(f"/api/computers/{computer_id}/actions", json=navigate)
        assert reply.status_code == 200, reply.text
        for viewer in viewers:
            await viewer.socket.send(type="watch", id=1, computer_id=computer_id)
            await viewer.expect("watching")
            await viewer.until_frames(1)
        assert viewers[0].jpegs[-1] == viewers[1].jpegs[0]
        assert (await alice.delete(f"/api/computers/{computer_id}")).status_code == 200
        for viewer in viewers:
            assert (await viewer.expect("unwatched"))["reason"] == "computer_closed"
            await viewer.socket.send(type="watch", id=2, computer_id=computer_id)
            assert (await viewer.expect("error", id=2))["code"] == "computer_closed"


async def test_a_broken_socket_lets_go_of_the_buttons_it_held(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    computer_id = await open_computer(alice)
    async with pages.serve() as site, signed_in(server, alice) as taker, signed_in(server, alice) as other:
        await taker.send(type="control", id=1, computer_id=computer_id, action="take")
        control = await taker.expect("controlled")
        steer = {"type": "input", "computer_id": computer_id, "generation": control["generation"]}
        await other.send(**steer, event={"type": "navigate", "event": "go", "url": site.url()})
        await until_true(lambda: evaluate(alice, computer_id, "document.title === 'Form' && !!window.events"))
        x, y = await evaluate(
            alice,
            computer_id,
            "(() => { const b = pad.getBoundingClientRect(); return [b.x + 9, b.y + 9] })()",
        )
        await other.send(**steer, event={"type": "mouse", "event": "down", "x": x, "y": y})
        pressed = "window.events.some(e => e.startsWith('mousedown'))"
        await until_true(lambda: evaluate(alice, computer_id, pressed))
        assert not await evaluate(alice, computer_id, "window.events.some(e => e.startsWith('mouseup'))")
        other.connection.transport.abort()
        released = "window.events.some(e => e.startsWith('mouseup'))"
        await until_true(lambda: evaluate(alice, computer_id, released))
        await taker.send(**steer, id=2, event={"type": "key", "event": "down", "key": "NoSuchKey"})
        error = await taker.receive()
        assert (error["id"], error["code"]) == (2, "invalid")
    assert (await alice.delete(f"/api/computers/{computer_id}")).status_code == 200


async def test_another_users_computer_does_not_exist(
    server: Backend, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    computer_id = await open_computer(alice)
    async with signed_in(server, bob) as thief:
        wishes: tuple[dict[str, Any], ...] = (
            {"type": "watch"},
            {"type": "control", "action": "take"},
            {"type": "control", "action": "release"},
            {"type": "input", "generation": 1, "event": {"type": "text", "text": "x"}},
        )
        for number, wish in enumerate(wishes):
            await thief.send(**wish, id=number, computer_id=computer_id)
            error = await thief.receive()
            assert (error["type"], error["id"], error["code"]) == ("error", number, "not_found")
            assert error["detail"] == "No such computer, or not yours."
    assert (await alice.delete(f"/api/computers/{computer_id}")).status_code == 200


async def test_one_stream_too_many_is_a_problem(server: Backend, alice: httpx.AsyncClient) -> None:
    async with AsyncExitStack() as stack:
        for _ in range(limits.CONNECTIONS_PER_USER):
            await stack.enter_async_context(alice.stream("GET", "/api/events/stream"))
        refused = await alice.get("/api/events/stream")
    assert (refused.status_code, refused.json()["code"]) == (429, "too_many_connections")
    assert int(refused.headers["retry-after"]) > 0


async def test_a_stopping_server_says_so_to_sockets_and_ends_streams(own_server: Backend) -> None:
    async with (
        own_server.sign_up() as http,
        signed_in(own_server, http) as socket,
        http.stream("GET", "/api/events/stream") as reply,
    ):
        assert reply.status_code == 200
        await own_server.stop()
        assert (await socket.closed())[0] == 4009
        body = b"".join([chunk async for chunk in reply.aiter_bytes()])
    assert body
    assert b"\nid:" not in b"\n" + body


# The documentation --------------------------------------------------------------------------------


def socket_page() -> str:
    return (Path(__file__).parent.parent / "docs" / "socket.md").read_text()


def test_the_page_lists_every_close_code_with_its_name() -> None:
    listed = {
        (int(code), name)
        for code, names in re.findall(r"^\| (\d{4}) \| ([^|]+) \|", socket_page(), re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    known = [it for it in vars(endings).values() if isinstance(it, endings.Ending)]
    known.append(endings.bad_message(""))
    assert listed == {(it.code, it.name) for it in known}


def test_the_page_names_every_message_and_field() -> None:
    page = socket_page()
    messages = [*get_args(get_args(SocketRequest)[0]), *get_args(get_args(SocketMessage)[0])]
    for message in messages:
        fields = {field.serialization_alias or name for name, field in message.model_fields.items()}
        for word in {get_args(message.model_fields["type"].annotation)[0], *fields}:
            assert re.search(rf"\b{word}\b", page), f"{message.__name__} {word}"


def test_the_pages_input_events_are_valid() -> None:
    (block,) = re.findall(r"```json\n(.+?)```", socket_page(), re.DOTALL)
    kinds = [session._INPUT.validate_json(line).type for line in block.splitlines()]
    assert kinds == ["mouse", "wheel", "key", "text", "touch", "navigate", "tab"]


def test_the_page_tells_the_header_and_the_limits() -> None:
    page = socket_page()
    header = page[page.index("| offset |") : page.index("At most two frames")]
    sizes = [int(bits) // 8 for bits in re.findall(r"u(\d+)", header)]
    assert sizes == [1, 1, 2, 4, 8, 8, 2, 2, 2, 2]
    assert sum(sizes) == session._FRAME_HEADER.size == 32
    for told in (
        f"{limits.MESSAGES_PER_SECOND} messages a second",
        f"{limits.SUBSCRIPTIONS} subscriptions",
        f"{limits.FREE_CHARS // 1024} KiB of one count again",
        f"{limits.STREAMS} streams",
        f"{limits.REQUESTS} requests",
        f"at most {limits.CONNECTIONS_PER_USER} sockets",
        f"within {limits.AUTH_SECONDS:.0f} seconds",
        f"{limits.WARNING_SECONDS:.0f} seconds before",
        f"{limits.GRACE_SECONDS:.0f} seconds after",
        f"{limits.QUEUED_EVENTS} events",
        f"written in {limits.WRITE_SECONDS:.0f} seconds",
        f"every {limits.HEARTBEAT_SECONDS:.0f} seconds",
    ):
        assert told in page, told
