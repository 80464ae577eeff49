"""Real HTTP servers on loopback that webhooks are told to: well-behaved, slow, lying and broken ones."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True)
class Heard:
    """One request, as it came."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Receiver:
    """Answers each request with the next of `answers`, the last of them again and again."""

    answers: list[Answer]
    url: str = ""
    heard: list[Heard] = field(default_factory=list)
    connections: int = 0

    @property
    def ids(self) -> Counter[str]:
        return Counter(request.id for request in self.heard)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        lines = (line.partition(":") for line in head.split("\r\n")[1:] if line)
        headers = {name.lower(): value.strip() for name, _, value in lines}
        body = await reader.readexactly(int(headers["content-length"]))
        self.heard.append(Heard(headers, body))
        await self.answers[min(len(self.heard), len(self.answers)) - 1](writer)

    async def until(self, count: int, seconds: float = 15) -> list[Heard]:
        """What was heard, once it is so many."""
        async with asyncio.timeout(seconds):
            while len(self.heard) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.heard


@asynccontextmanager
async def serving(serve_one: Serve) -> AsyncIterator[int]:
    """A TCP server on loopback; gives its port."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve_one(reader, writer)
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever calls may be killed
        finally:
            writer.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(run(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@asynccontextmanager
async def receiver(*answers: Answer) -> AsyncIterator[Receiver]:
    """A running server; it answers 200 unless told otherwise."""
    served = Receiver(list(answers) or [status(200)])
    async with serving(served.serve) as port:
        served.url = f"http://127.0.0.1:{port}/hook"
        yield served


def status(code: int, *headers: str, body: bytes = b"ok", after: float = 0) -> Answer:
    """A whole reply, after so many seconds."""

    async def answer(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(after)
        lines = [f"HTTP/1.1 {code} Said", f"Content-Length: {len(body)}", "Connection: close", *headers]
        writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)

    return answer


async def hang(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(3600)


async def close(_writer: asyncio.StreamWriter) -> None:
    """Nothing at all."""


async def garbage(writer: asyncio.StreamWriter) -> None:
    writer.write(b"\x16\x03\x01 not HTTP \x00\xff\r\n\r\n" * 10)


async def drip(writer: asyncio.StreamWriter) -> None:
    """A good head, and a body without an end."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\nX-Secret: s\r\n\r\n")
    while True:
        writer.write(b"x" * 4096)
        await writer.drain()
        await asyncio.sleep(0.001)


async def endless_head(writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n")
    while True:
        writer.write(b"X-More: " + b"x" * 4096 + b"\r\n")
        await writer.drain()
