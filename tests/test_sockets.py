"""The socket and its SSE twin over a real server and a real database: order, resumption, limits, endings."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

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
from infra.bus import LocalBus
from settings import Settings
from tests import clerk

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
        user_id: str, after: int | None = None, run_id: UUID | None = None, kind: str | None = None
    ) -> Response:
        return await live.event_stream(user_id, after, run_id, [kind] if kind else None)

    return app


@asynccontextmanager
async def serving(bus: LocalBus) -> AsyncIterator[int]:
    """A server on a free port, started as anyone would start it: with compression and large messages."""
    await live.start(bus)
    config = uvicorn.Config(live.TransportAccess(make_app()), port=0, log_level="error", lifespan="off")
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    async with asyncio.timeout(SECONDS):
        while not server.started:
            await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        await live.stop()
        server.should_exit = True
        await task


@pytest.fixture
async def port(database: str, bus: LocalBus) -> AsyncIterator[int]:
    public = clerk.KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    clerk_auth.configure(Settings(clerk_issuer=ISSUER, clerk_jwt_key=public))
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
        while not condition():
            await asyncio.sleep(0.02)


# Events -------------------------------------------------------------------------------------------


async def test_two_sockets_get_the_identical_sequence(port: int, user: str) -> None:
    async with client(port, user) as one, client(port, user) as two:
        for each in (one, two):
            await each.subscribe()
        for count in (1, 3, 600, 2):
            await emit(user, count)
        assert await one.seqs_until(606) == await two.seqs_until(606) == list(range(1, 607))
