"""What a rate limit costs a request, and what the edge costs a reply: beside doing without."""

import os

os.environ |= {"LOG_LEVEL": "warning", "ALLOWED_HOSTS": "localhost"}

import uvloop
from limits import parse
from starlette.types import Message, Receive, Scope, Send

import logs
from api import Edge, Gate
from benchmarks.measure import compare, describe_machine
from infra import rates

ALLOWED = parse("1000000/day")
USERS = 10_000


async def reply(_scope: Scope, _receive: Receive, send: Send) -> None:
    """The least an application does."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})


async def _receive() -> Message:
    return {"type": "http.request", "body": b""}


async def _send(_message: Message) -> None:
    return None


def _scope() -> Scope:
    return {
        "type": "http",
        "method": "GET",
        "path": "/api/me",
        "scheme": "http",
        "query_string": b"",
        "client": ("127.0.0.1", 1),
        "headers": [(b"host", b"localhost"), (b"authorization", b"Bearer x"), (b"accept", b"*/*")],
    }


async def main() -> None:
    """Compare."""
    logs.configure()
    print(f"Edge: {describe_machine()}")
    for n in range(USERS):
        await rates.take("requests", f"user:{n}", ALLOWED)
    turns = iter(range(10**9))
    edge = Edge(Gate(reply))
    await compare(
        {
            "a reply alone": lambda: reply(_scope(), _receive, _send),
            "through the edge": lambda: edge(_scope(), _receive, _send),
            f"a rate limit, one of {USERS} users": lambda: rates.take(
                "requests", f"user:{next(turns) % USERS}", ALLOWED
            ),
        },
        calls=5000,
    )


if __name__ == "__main__":
    uvloop.run(main())
