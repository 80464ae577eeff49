"""No request, however wrong, gets anything but what the document declares; made from the document, by seed."""

import json
import os
import random
import re
from collections.abc import AsyncIterator, Iterator
from copy import deepcopy
from typing import Any
from urllib.parse import quote
from uuid import uuid4

import httpx
import pytest

from tests import make
from tests.conformance import DOCUMENT, check, resolved
from tests.conftest import _DATA, Backend, free_port

ROUNDS = int(os.environ.get("FUZZ_ROUNDS", "16"))  # of each operation
SEED = os.environ.get("FUZZ_SEED", "")
OPERATIONS = {
    operation["operationId"]: (method.upper(), path, operation)
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
}
ENDS_ITS_USER = {"erase_me", "logout", "delete_session", "change_password"}
EXPECTED = {"computer_not_ready", "needs_redis"}  # 503, and not our fault
WEIRD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1.5,
        -0.0,
        2**31 - 1,
        2**31,
        2**53,
        2**63,
        2**64,
        10**400,
        1e308,
        float("nan"),
    ),
    *(
        "",
        " ",
        "x",
        "x" * 65,
        "x" * 201,
        "x" * 20_001,
        "\u202e",
        "\x7f",
        "\x00",
        "\ud800",
        "😀" * 300,
        "ﬀ\u0301",
    ),
    *("null", "true", "1", "0199b0a4-3c4e-7d1a-9a55-0d5b3c6e2f10", "00000000-0000-0000-0000-000000000000"),
    *("2026-01-01", "2026-01-01T00:00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00+14:00", "24:00"),
    *(
        "{{ params.x }}",
        "{{",
        "../../etc/passwd",
        "'; drop table runs; --",
        "http://[::1",
        "javascript:1",
        "*",
        "a.",
    ),
    *(
        "99999999999999999999",
        "-1",
        "1e5",
        "0x10",
        "%00",
        "Europe/Nowhere",
        "* * * * *",
        "@reboot",
        "60 24 32 13 8",
    ),
    *([], {}, [[]], [None], ["x"] * 201, {"a": {"b": [1]}}, {"": ""}, {"x" * 300: 1}, {"$ref": "#"}),
)
RAW = (
    b"",
    b"{",
    b"[]",
    b"null",
    b'"x"',
    b"\xff\xfe",
    b'{"name": "\\ud800"}',
    b"[" * 500,
    b'{"a":' * 70 + b"1" + b"}" * 70,
)
HEADERS: dict[str, tuple[str, ...]] = {
    "Idempotency-Key": ("k", "x" * 256, "caf\u00e9", ""),
    "If-Match": ('"x"', "*", "x", 'W/"1"', '"'),
    "If-None-Match": ('"x"', "*", "x"),
    "Range": (
        "bytes=0-0",
        "bytes=9-1",
        "bytes=-0",
        "bytes=999999999999999999999-",
        "lines=1",
        "bytes=0-1,2-3",
    ),
    "If-Range": ('"x"', "Wed, 21 Oct 2015 07:28:00 GMT"),
    "Last-Event-ID": ("0", "-1", "x", str(2**62), str(2**63), ""),
}
FORMS = (
    (b"", "multipart/form-data"),
    (b"", "multipart/form-data; boundary=x"),
    (b"--x\r\n", "multipart/form-data; boundary=x"),
    (b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n', "multipart/form-data; boundary=x"),
    (b'--x\r\nContent-Disposition: form-data; name="file"; filename="a\x00"\r\n\r\nabc\r\n--x--\r\n', "multipart/form-data; boundary=x"),
    (b'--x\r\nContent-Disposition: form-data; name="odd"; filename="a"\r\n\r\nabc\r\n--x--\r\n', "multipart/form-data; boundary=x"),
    (b"{}", "application/json"),
    (b"\xff" * 3000, "multipart/form-data; boundary=\xff"),
    (b"x", "text/plain"),
)  # fmt: skip


# What is sent -------------------------------------------------------------------------------------


def weird(chance: random.Random) -> Any:
    return deepcopy(chance.choice(WEIRD))


def some(schema: dict[str, Any], chance: random.Random) -> Any:
    """A value that the schema allows, as far as its keywords tell."""
    schema = resolved(schema)
    if "const" in schema:
        return schema["const"]
    for choice in ("enum", "anyOf", "oneOf"):
        if choice in schema:
            chosen = chance.choice(schema[choice])
            return chosen if choice == "enum" else some(chosen, chance)
    if schema.get("examples"):
        return deepcopy(chance.choice(schema["examples"]))
    if schema.get("type") == "object":
        kept = schema.get("properties", {})
        needed = schema.get("required", [])
        return {name: some(kept[name], chance) for name in kept if name in needed or chance.random() < 0.4}
    return _plain(schema, chance)


def _plain(schema: dict[str, Any], chance: random.Random) -> Any:
    kind = schema.get("type")
    if kind == "array":
        return [some(schema.get("items", {}), chance) for _ in range(chance.randint(0, 3))]
    if kind in ("integer", "number"):
        low, high = schema.get("minimum", 0), schema.get("maximum", 100)
        return chance.choice((low, high, low - 1, high + 1, (low + high) // 2))
    if kind == "boolean":
        return chance.random() < 0.5
    if kind == "null":
        return None
    if schema.get("format") == "uuid":
        return str(uuid4())
    if schema.get("format") == "date-time":
        return chance.choice(("2026-01-31T08:00:00Z", "2031-01-01T00:00:00+02:00"))
    size = schema.get("maxLength", 20)
    return "a" * chance.choice((schema.get("minLength", 1), min(size, 30_000), min(size, 30_000) + 1))


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every place inside the value where something else can be put."""
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(inside):
        yield value, key
        yield from places(inner)


def spoilt(body: Any, schema: dict[str, Any], chance: random.Random) -> Any:
    """The body with something wrong in it, most of the time."""
    known = list(resolved(schema).get("properties", {}))
    for _ in range(chance.choice((0, 1, 1, 1, 2))):
        found = list(places(body))
        match chance.randrange(5):
            case 0 if isinstance(body, dict):
                body[chance.choice((*known, "unknown", "user_id"))] = weird(chance)
            case 1 if found:
                holder, key = chance.choice(found)
                del holder[key]
            case 4 if chance.random() < 0.2:
                return weird(chance)
            case _ if found:
                holder, key = chance.choice(found)
                holder[key] = weird(chance)
    return body


def query(operation: dict[str, Any], chance: random.Random) -> str:
    told = []
    for parameter in map(resolved, operation.get("parameters", [])):
        if parameter["in"] == "query" and parameter["name"] != "wait" and chance.random() < 0.5:
            value = some(parameter["schema"], chance) if chance.random() < 0.5 else weird(chance)
            text = value if isinstance(value, str) else json.dumps(value)
            told.append(f"{parameter['name']}={quote(text[:3000].encode(errors='surrogatepass'))}")
    if chance.random() < 0.15:
        told.append("unknown=1")
    return "?" + "&".join(told) if told else ""


def headers(operation: dict[str, Any], chance: random.Random) -> list[tuple[bytes, bytes]]:
    names = {parameter["name"] for parameter in map(resolved, operation.get("parameters", []))}
    return [
        (name.encode(), chance.choice(values).encode("latin-1"))
        for name, values in HEADERS.items()
        if name in names and chance.random() < 0.4
    ]


def sent(operation: dict[str, Any], chance: random.Random) -> tuple[bytes | None, str]:
    """A body and its type."""
    content = operation.get("requestBody", {}).get("content", {})
    if "multipart/form-data" in content:
        return chance.choice(FORMS)
    if "application/json" not in content or chance.random() < 0.1:
        return (chance.choice((None, b"{}", *RAW)), chance.choice(("application/json", "text/plain")))
    if chance.random() < 0.1:
        return chance.choice(RAW), "application/json"
    told = content["application/json"]
    schema = resolved(told["schema"])
    examples = [deepcopy(example["value"]) for example in told.get("examples", {}).values()]
    body = chance.choice(examples) if examples else some(schema, chance)
    return json.dumps(spoilt(body, schema, chance)).encode(), "application/json"


# Who answers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def idle_server() -> AsyncIterator[Backend]:
    """A server that starts no browser."""
    backend = Backend(_DATA / "fuzzed", free_port(), {"ACCESS_TOKEN_SECONDS": "3600", "WORKER": "off"})
    await backend.start()
    yield backend
    assert "Traceback" not in backend.log, backend.log
    await backend.stop()


@pytest.fixture(scope="module")
async def operator(idle_server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """Its administrator."""
    async with idle_server.sign_up() as client:
        yield client


@pytest.fixture(scope="module")
async def fuzzer(idle_server: Backend, operator: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Who sends what is wrong."""
    async with idle_server.sign_up() as client:
        yield client


async def one_of(client: httpx.AsyncClient, path: str) -> str:
    """The id of a new thing of the kind that the path is about."""
    makers = {
        "secrets": make.secret, "profiles": make.profile, "threads": make.thread, "workflows": make.workflow,
        "runs": make.run, "schedules": make.schedule, "files": make.file, "webhooks": make.webhook, "keys": make.key,
    }  # fmt: skip
    section = path.split("/")[2] if path.startswith("/api/") else ""
    if section == "computers":
        for opened in (await client.get("/api/computers?state=opening")).json()["data"]:
            await client.delete(f"/api/computers/{opened['id']}")
        made = await make.computer(client)
        await client.delete(f"/api/computers/{made['id']}")
    elif section in makers:
        made = await makers[section](client)
    elif section == "deliveries":
        made = await make.delivery(client)
    else:
        return str(uuid4())
    return str(made["id"])


def address(path: str, thing: str, chance: random.Random) -> str:
    odd = (
        "x",
        "0",
        "%2e%2e",
        "%00",
        "%F0%9F%98%80",
        "null",
        str(uuid4()),
        "x" * 300,
        "018f0000-0000-0000-0000-00000000000g",
    )
    value = thing if chance.random() < 0.7 else chance.choice(odd)
    path = path.replace("{number}", str(chance.choice((1, 0, -1, 2**31 - 1, 2**31, "x"))))
    return re.sub(r"\{(id|user|run)\}", lambda _: value, path)


async def judge(reply: httpx.Response) -> None:
    """Whatever it is, it is declared; and nothing of ours broke."""
    if not reply.headers.get("content-type", "").startswith("text/event-stream"):
        await reply.aread()
    await check(reply)
    if reply.status_code >= 500 and reply.request.url.path != "/api/ready":
        assert reply.status_code == 503, reply.text
        assert reply.json()["code"] in EXPECTED, reply.text
    if reply.status_code >= 400 and reply.status_code != 503:
        assert reply.json()["success"] is False


@pytest.mark.parametrize("name", OPERATIONS)
async def test_what_is_wrong_is_refused_as_declared(
    name: str, idle_server: Backend, operator: httpx.AsyncClient, fuzzer: httpx.AsyncClient
) -> None:
    method, path, operation = OPERATIONS[name]
    chance = random.Random(SEED + name)
    if name in ENDS_ITS_USER:
        async with idle_server.sign_up() as client:
            await send_wrong(client, method, path, operation, chance)
    else:
        await send_wrong(operator if "/admin/" in path else fuzzer, method, path, operation, chance)


async def send_wrong(
    client: httpx.AsyncClient, method: str, path: str, operation: dict[str, Any], chance: random.Random
) -> None:
    thing = await one_of(client, path) if "{id}" in path else "local|nobody"
    for _ in range(ROUNDS):
        body, kind = sent(operation, chance) if method != "GET" else (None, "")
        more = headers(operation, chance)
        if body:
            more.append((b"Content-Type", kind.encode("latin-1")))
        target = address(path, thing, chance) + query(operation, chance)
        request = client.build_request(
            method, target, content=body, headers=httpx.Headers([*client.headers.raw, *more])
        )
        try:
            reply = await client.send(request, stream=True)
            try:
                await judge(reply)
            finally:
                await reply.aclose()
        except Exception as problem:
            problem.add_note(f"{method} {target} {more} {body!r}"[:4000])
            raise
