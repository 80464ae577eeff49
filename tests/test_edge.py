"""The edges of every route: hosts, CORS, HEAD and OPTIONS, tags, readiness, and what the log says of it all."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import structlog
import uvicorn
import websockets
from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

import api
import backend_websocket_server as module
from infra.server import BoundedHttp
from settings import Settings, settings
from tests import make
from tests.clerk import USER, key_server
from tests.conftest import Backend, free_port
from tests.test_api import assert_problem
from tests.test_bus import redis_server
from tests.test_start import KEYS, database_url, migrate

__all__ = ["database_url"]

ORIGIN = "https://app.example.com"
GETS = [
    route.path
    for route in module.app.routes
    if isinstance(route, APIRoute)
    and "GET" in (route.methods or ())
    and not route.path.endswith(("/stream", "/frames/{number}"))  # the latter needs a recording
]


@pytest.fixture(scope="module")
async def edge(module_data: Path) -> AsyncIterator[Backend]:
    """A server without a worker that answers pages of one origin, does not describe itself, and logs."""
    extra = {"CORS_ORIGINS": ORIGIN, "DOCS": "off", "WORKER": "off", "LOG_LEVEL": "info"}
    server = Backend(module_data, free_port(), extra)
    await server.start()
    yield server
    await server.stop()


@pytest.fixture
async def page(edge: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """A signed-in client that says it is a page of the allowed origin."""
    async with edge.sign_up() as client:
        client.headers["Origin"] = ORIGIN
        yield client


# HEAD and OPTIONS


@pytest.mark.parametrize("path", GETS)
async def test_head_is_get_without_the_body(
    path: str, owner: httpx.AsyncClient, admin: httpx.AsyncClient, things: dict[str, str]
) -> None:
    owned = next((prefix for prefix in things if path.startswith(prefix)), "")
    address = path.replace("{id}", things.get(owned, ""))
    if path.startswith("/api/admin/"):
        owner, me = admin, (await admin.get("/api/me")).json()["data"]["id"]
        address = path.replace("{user:path}", me)
    changing = {"date", "x-request-id", "transfer-encoding"}
    if path in ("/metrics", "/api/computers/{id}/screenshot", "/api/events", "/api/activity"):
        changing.add("content-length")
    got, head = await owner.get(address), await owner.head(address)
    assert head.content == b""
    assert head.status_code == got.status_code < 400
    assert {k: v for k, v in head.headers.items() if k not in changing} == {
        k: v for k, v in got.headers.items() if k not in changing
    }
    assert (await owner.get("/api/health")).status_code == 200  # the connection is still in step


async def test_a_stream_has_no_head_and_failures_have_one(alice: httpx.AsyncClient) -> None:
    reply = await alice.head("/api/events/stream")
    assert (reply.status_code, reply.content) == (405, b"")
    assert (await alice.head("/api/nothing")).status_code == 404
    assert (await alice.head("/api/me", headers={"Authorization": "Bearer x"})).status_code == 401


async def test_head_of_a_long_reply_ends_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = []

    async def chunks() -> AsyncIterator[bytes]:
        for n in range(1000):
            sent.append(n)
            yield b"x" * 1000

    app = bare_app()

    @app.get("/long")
    async def read_long() -> Response:
        return StreamingResponse(chunks(), headers={"Content-Length": "1000000"})

    async with asgi(app) as client:
        reply = await client.head("/long")
    assert (reply.status_code, reply.headers["content-length"], reply.content) == (200, "1000000", b"")
    assert len(sent) == 1


async def test_options_and_405_name_every_method(alice: httpx.AsyncClient) -> None:
    expected = {
        "/api/workflows": "GET, HEAD, OPTIONS, POST",
        "/api/v1/workflows/018f0000-0000-7000-8000-000000000000": "DELETE, GET, HEAD, OPTIONS, PATCH, PUT",
        "/api/events/stream": "GET, OPTIONS",
        "/api/auth/login": "OPTIONS, POST",
    }
    for path, methods in expected.items():
        reply = await alice.options(path)
        assert (reply.status_code, reply.headers["allow"], reply.content) == (204, methods, b"")
    refused = await alice.delete("/api/workflows")
    assert_problem(refused, 405, "method_not_allowed")
    assert refused.headers["allow"] == expected["/api/workflows"]
    assert_problem(await alice.options("/api/nothing"), 404, "not_found")


# CORS and other headers


async def test_a_page_may_read_why_it_was_turned_away(page: httpx.AsyncClient) -> None:
    as_json = {"Content-Type": "application/json"}
    replies = {
        413: await page.post("/api/workflows", content=b"x" * (2**20 + 1), headers=as_json),
        415: await page.post("/api/workflows", content=b"x", headers={"Content-Type": "text/plain"}),
        421: await page.get("/api/me", headers={"Host": "evil.example"}),
        422: await page.get("/api/me?x=%00"),
        404: await page.get("/api/nothing"),
        401: await page.get("/api/me", headers={"Authorization": "Bearer x"}),
        200: await page.get("/api/me"),
    }
    for status, reply in replies.items():
        assert reply.status_code == status
        assert reply.headers["access-control-allow-origin"] == ORIGIN
        shown = reply.headers["access-control-expose-headers"]
        assert {"RateLimit-Remaining", "Retry-After", "ETag", "Link"} <= set(shown.split(", "))
        assert reply.headers["x-content-type-options"] == "nosniff"
    foreign = await page.get("/api/me", headers={"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in foreign.headers


async def test_a_preflight_is_answered_for_what_clients_send(page: httpx.AsyncClient) -> None:
    asked = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, if-match, idempotency-key, x-api-key",
    }
    reply = await page.options("/api/workflows", headers=asked)
    assert (reply.status_code, reply.headers["access-control-allow-origin"]) == (200, ORIGIN)
    assert "x-request-id" in reply.headers
    bad = asked | {"Origin": "https://evil.example"}
    assert (await page.options("/api/workflows", headers=bad)).status_code == 400


async def test_transport_security_is_asked_for_over_https_alone(page: httpx.AsyncClient) -> None:
    assert "strict-transport-security" not in (await page.get("/api/me")).headers
    secure = await page.get("/api/me", headers={"X-Forwarded-Proto": "https"})
    assert secure.headers["strict-transport-security"] == "max-age=31536000"
    assert "server" not in secure.headers


async def test_docs_can_be_off(page: httpx.AsyncClient) -> None:
    for path in ("/docs", "/openapi.json", "/redoc", "/static-offline-docs/swagger-ui.css"):
        assert_problem(await page.get(path), 404, "not_found")
    assert (await page.get("/")).headers["location"] == "/api/health"


def test_docs_are_on_where_people_develop() -> None:
    assert Settings().docs_shown
    assert not Settings(environment="production").docs_shown
    assert Settings(environment="production", docs="on").docs_shown


async def test_the_link_to_the_next_page_holds_under_every_prefix(alice: httpx.AsyncClient) -> None:
    for name in "ab":
        await make.workflow(alice, name=name)
    for prefix in ("/api", "/api/v1"):
        first = await alice.get(f"{prefix}/workflows?limit=1&q=a")
        assert "next" not in first.links
        first = await alice.get(f"{prefix}/workflows?limit=1")
        following = first.url.join(first.links["next"]["url"])
        assert following.path == f"{prefix}/workflows"
        second = await alice.get(following)
        assert [row["name"] for reply in (first, second) for row in reply.json()["data"]] == ["b", "a"]


# Crashes


def bare_app() -> FastAPI:
    """An application of ours with nothing behind it."""

    @asynccontextmanager
    async def nothing(_app: FastAPI) -> AsyncIterator[None]:
        yield

    return api.create_app({}, lifespan=nothing)


@asynccontextmanager
async def asgi(app: FastAPI, *, raises: bool = True) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=raises)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        yield client


async def test_a_crash_is_a_problem_that_a_page_can_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "settings", settings.model_copy(update={"cors_origins": (ORIGIN,)}))
    app = bare_app()

    @app.get("/crash")
    async def crash() -> Response:
        raise KeyError("the secret of the crash")

    async with asgi(app) as client:
        with structlog.testing.capture_logs() as lines:
            reply = await client.get("/crash", headers={"Origin": ORIGIN})
    assert_problem(reply, 500, "internal")
    assert "secret" not in reply.text
    assert reply.headers["access-control-allow-origin"] == ORIGIN
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request_crashed"]


async def test_a_crash_in_the_middle_of_a_reply_breaks_it_off() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield b"half"
        raise KeyError("gone")

    app = bare_app()

    @app.get("/half")
    async def read_half() -> Response:
        return StreamingResponse(chunks())

    async with asgi(app) as client:
        with pytest.raises(KeyError):
            await client.get("/half")


# Hosts


@pytest.fixture
def fresh_hosts() -> Iterator[None]:
    api._hosts.cache_clear()
    yield
    api._hosts.cache_clear()


async def test_a_laptop_answers_to_its_own_names_only(edge: Backend) -> None:
    async with httpx.AsyncClient(base_url=edge.url) as client:
        for host in (
            "localhost",
            f"LOCALHOST:{edge.port}",
            "127.0.0.1:1",
            "[::1]",
            "[::1]:8000",
            "localhost.",
        ):
            assert (await client.get("/api/config", headers={"Host": host})).status_code == 200, host
        for host in ("evil.example", "localhost.evil.example", "127.0.0.1.nip.io:80", "localhost:x", "[::2]"):
            refused = await client.get("/api/config", headers={"Host": host})
            assert "ALLOWED_HOSTS" in assert_problem(refused, 421, "misdirected")["detail"]
            for path in ("/metrics", "/api/health/", "/api/healthy", "/api/v1/config", "/"):
                assert_problem(await client.get(path, headers={"Host": host}), 421, "misdirected")
    with pytest.raises(websockets.InvalidStatus) as refusal:
        await websockets.connect(edge.socket_url, additional_headers={"Host": "evil.example"})
    assert refusal.value.response.status_code == 421


async def test_probes_are_answered_under_any_name(
    edge: Backend, monkeypatch: pytest.MonkeyPatch, fresh_hosts: None
) -> None:
    async with httpx.AsyncClient(base_url=edge.url) as client:
        for path in ("/api/health", "/api/ready", "/api/v1/health"):
            for host in ("10.0.0.7:8000", "evil.example", ""):
                reply = await client.get(path, headers={"Host": host})
                assert (reply.status_code, reply.json()["success"]) == (200, True), (path, host)
    monkeypatch.setattr(api, "settings", Settings(allowed_hosts="api.example.com"))
    app = bare_app()

    @app.get("/api/health")
    async def read_health() -> Response:
        return Response()

    async with asgi(app) as client:
        assert (await client.get("/api/health", headers={"Host": "127.0.0.1:8000"})).status_code == 200
        refused = await client.get("/api/me", headers={"Host": "127.0.0.1:8000"})
        assert_problem(refused, 421, "misdirected")


@pytest.mark.parametrize(
    ("given", "hosts"),
    [
        ({}, {"localhost", "127.0.0.1", "[::1]"}),
        ({"public_url": "https://Cua.Example/x"}, {"localhost", "127.0.0.1", "[::1]", "cua.example"}),
        ({"host": "0.0.0.0"}, set()),
        ({"clerk_issuer": "https://clerk.example.com"}, set()),
        ({"allowed_hosts": "A.example, b.example"}, {"a.example", "b.example"}),
    ],
)
def test_which_hosts_are_answered(
    given: dict[str, Any], hosts: set[str], monkeypatch: pytest.MonkeyPatch, fresh_hosts: None
) -> None:
    monkeypatch.setattr(api, "settings", Settings(**given))
    assert api._hosts() == hosts


# Tags


async def test_a_workflow_is_told_by_its_tag_until_it_changes(alice: httpx.AsyncClient) -> None:
    made = await alice.post("/api/workflows", json={"name": "w", "definition": make.FLOW})
    path, tag = made.headers["location"], made.headers["etag"]
    assert re.fullmatch(r'"[0-9a-f]+"', tag)
    got = await alice.get(path)
    assert got.headers["etag"] == tag
    for known in (tag, f"W/{tag}", f'"x", {tag}', "*"):
        for method in ("GET", "HEAD"):
            same = await alice.request(method, path, headers={"If-None-Match": known})
            assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
            assert "content-length" not in same.headers
            assert "content-type" not in same.headers
    for unknown in ('"x"', tag.strip('"'), ""):
        assert (await alice.get(path, headers={"If-None-Match": unknown})).status_code == 200
    changed = await alice.patch(path, json={"name": "v"}, headers={"If-Match": tag})
    assert changed.headers["etag"] != tag
    again = await alice.get(path, headers={"If-None-Match": tag})
    assert (again.status_code, again.headers["etag"]) == (200, changed.headers["etag"])
    assert again.json() == changed.json()


@pytest.mark.parametrize("method", ["PATCH", "PUT", "DELETE"])
async def test_a_change_of_what_somebody_else_changed_is_refused(
    alice: httpx.AsyncClient, method: str
) -> None:
    made = await alice.post("/api/workflows", json={"name": "w", "definition": make.FLOW})
    path, tag = made.headers["location"], made.headers["etag"]
    body = None if method == "DELETE" else {"name": "mine"}
    before = await alice.get(path)
    for stale in ('"x"', f"W/{tag}", tag.strip('"'), "", f'"a", W/{tag}', '"unfinished'):
        refused = await alice.request(method, path, json=body, headers={"If-Match": stale})
        assert_problem(refused, 412, "precondition_failed")
    assert (await alice.get(path)).json() == before.json()
    several = httpx.Headers([("If-Match", '"x"'), ("If-Match", f'"y,z", {tag}')])
    assert (await alice.request(method, path, json=body, headers=several)).status_code == 200
    missing = {"If-Match": "*"}
    if method != "DELETE":
        assert (await alice.request(method, path, json=body, headers=missing)).status_code == 200
    else:
        assert_problem(await alice.request(method, path, headers=missing), 404, "not_found")


async def test_of_two_who_change_the_same_thing_one_wins(alice: httpx.AsyncClient) -> None:
    made = await alice.post("/api/workflows", json={"name": "w", "definition": make.FLOW})
    path, tag = made.headers["location"], made.headers["etag"]
    for _ in range(5):
        replies = await asyncio.gather(
            *(alice.patch(path, json={"name": f"w{n}"}, headers={"If-Match": tag}) for n in range(8))
        )
        assert sorted(reply.status_code for reply in replies) == [200] + [412] * 7
        (winner,) = (reply for reply in replies if reply.status_code == 200)
        assert (await alice.get(path)).json() == winner.json()
        tag = winner.headers["etag"]


# Readiness


async def readiness(server: Backend) -> tuple[int, set[str]]:
    async with httpx.AsyncClient(base_url=server.url) as client:
        reply = await client.get("/api/ready")
    return reply.status_code, {name for name, good in reply.json()["data"].items() if not good}


async def until_bad(server: Backend, status: int, *names: str) -> None:
    async with asyncio.timeout(15):
        while await readiness(server) != (status, set(names)):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_readiness_names_what_is_missing_and_looks_once_a_second(
    data_dir: Path, database_url: str, temporary: Path
) -> None:
    await migrate(database_url)
    external = {"DATABASE_URL": database_url, "SECRET_KEYS": KEYS, "WORKER": "off"}
    server = Backend(data_dir, free_port(), external | {"REDIS_URL": f"unix://{temporary}/redis"})
    admin = await asyncpg.connect(database_url)
    try:
        async with redis_server(temporary):
            await server.start()
            await until_bad(server, 200)
            begun = await admin.fetchval("select version_num from alembic_version")
            await asyncio.gather(*(readiness(server) for _ in range(20)))
            await admin.execute("update alembic_version set version_num = '0000'")
            assert await readiness(server) == (200, set())  # looked a moment ago
            await until_bad(server, 503, "migrations")
            await admin.execute("update alembic_version set version_num = '9999'")
            await until_bad(server, 200)  # the next release may have migrated already
            await admin.execute("update alembic_version set version_num = $1", begun)
        await until_bad(server, 200, "bus")  # events come a second later, and that is all
        (server.data / "files").rename(server.data / "away")
        await until_bad(server, 503, "bus", "storage")
        (server.data / "away").rename(server.data / "files")
        await until_bad(server, 200, "bus")
    finally:
        await admin.close()
        await server.stop()


# The log


async def use(server: Backend, client: httpx.AsyncClient) -> str:
    """Do a little of everything that could tell a secret; returns the workflow's id."""
    made = await make.workflow(client)
    await client.get(f"/api/workflows/{made['id']}?token=SECRET1", headers={"X-Request-ID": "mine-1"})
    await client.get("/api/nothing?token=SECRET2")
    await client.post("/api/runs", json={"definition": {"title": "SECRET3"}})
    await client.get("/api/me", headers={"Authorization": "Bearer SECRET4"})
    await client.get("/api/health?token=SECRET5")
    token = client.headers["authorization"]
    address = f"{server.socket_url}?token=SECRET6"
    async with websockets.connect(address, additional_headers={"Authorization": token}) as socket:
        await socket.send(json.dumps({"type": "nonsense", "id": "SECRET7"}))
        await socket.wait_closed()
    return str(made["id"])


def tells_no_secret(server: Backend, client: httpx.AsyncClient) -> None:
    assert "SECRET" not in server.log
    assert client.headers["authorization"].removeprefix("Bearer ") not in server.log
    assert "correct horse battery" not in server.log


async def test_people_read_one_line_for_each_request(edge: Backend, page: httpx.AsyncClient) -> None:
    made = await use(edge, page)
    lines = [line for line in edge.log.splitlines() if "request_id=mine-1" in line]
    assert len(lines) == 1
    for part in (
        "[info     ] request",
        "method=GET",
        "route=/api/workflows/{id}",
        "status=200",
        "duration_ms=",
        "bytes=",
        "user_id=",
    ):
        assert part in lines[0]
    assert made not in lines[0]
    assert "route=/api/health" not in edge.log
    tells_no_secret(edge, page)


async def test_in_production_every_line_is_json_and_strangers_are_told_little(
    data_dir: Path, database_url: str
) -> None:
    await migrate(database_url)
    async with key_server() as clerk:
        production = {
            "ENVIRONMENT": "production",
            "DATABASE_URL": database_url,
            "SECRET_KEYS": KEYS,
            "CLERK_ISSUER": clerk.issuer,
            "LOG_LEVEL": "info",
            "WORKER": "off",
        }
        server = Backend(data_dir, free_port(), production)
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=server.url) as client:
                client.headers["Authorization"] = f"Bearer {clerk.token()}"
                await use(server, client)
                reply = await client.get("/docs", headers={"Host": "any.example"})
                assert_problem(reply, 404, "not_found")
                assert reply.headers["strict-transport-security"] == "max-age=31536000"
                tells_no_secret(server, client)
        finally:
            await server.stop()
    lines = [json.loads(line) for line in server.log.splitlines()]
    assert all(line.keys() >= {"event", "level", "timestamp"} for line in lines)
    (mine,) = (line for line in lines if line.get("request_id") == "mine-1")
    assert mine == mine | {
        "event": "request",
        "level": "info",
        "method": "GET",
        "route": "/api/workflows/{id}",
        "status": 200,
        "user_id": USER,
    }
    assert mine["duration_ms"] > 0
    assert mine["bytes"] > 100
    events = [line["event"] for line in lines]
    assert any("Uvicorn running on" in event for event in events)
    requests = [line["route"] for line in lines if line["event"] == "request"]
    assert "/api/health" not in requests
    assert "unmatched" in requests


async def test_a_failed_start_is_a_sentence_in_both_forms(data_dir: Path) -> None:
    for environment, says in (("production", '"event"'), ("development", "[error")):
        extra = {"ENVIRONMENT": environment, "SECRET_KEYS": KEYS, "CLERK_PUBLISHABLE_KEY": "pk_nonsense"}
        server = Backend(data_dir / environment, free_port(), extra)
        await server.start(ready=False)
        assert server.process is not None
        assert await server.process.wait() != 0
        (line,) = (line for line in server.log.splitlines() if "CLERK_PUBLISHABLE_KEY" in line)
        assert says in line
        assert "Traceback" not in server.log


# Heads of requests


async def received(reader: asyncio.StreamReader) -> bytes:
    with suppress(ConnectionError):
        return await reader.read()
    return b""


@asynccontextmanager
async def running(app: ASGIApp) -> AsyncIterator[int]:
    """Serve the application as the server is served; gives the port."""
    config = uvicorn.Config(app, port=0, http=BoundedHttp, lifespan="off", log_level="error")
    serving = uvicorn.Server(config)
    task = asyncio.create_task(serving.serve())
    while True:
        if serving.started:
            break
        await asyncio.sleep(0.01)
    yield serving.servers[0].sockets[0].getsockname()[1]
    serving.should_exit = True
    await task


async def test_headers_without_end_are_refused(server: Backend) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Junk: ")
    with pytest.raises(ConnectionError):
        for _ in range(1000):
            writer.write(b"a" * 10_000)
            await writer.drain()
            await asyncio.sleep(0)
    assert (await received(reader))[:12] in (b"HTTP/1.1 431", b"")
    writer.close()
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/api/health", headers={"X-Junk": "a" * 60_000})).status_code == 200


async def test_a_head_that_does_not_come_to_its_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.server.HEAD_SECONDS", 0.3)

    async def slow(_scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        await asyncio.sleep(1)  # longer than a head may take
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with asyncio.timeout(10), running(slow) as port:
        for opening in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: a\r\n", b"\r\n"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(opening)
            assert await received(reader) == b""
            writer.close()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
            for _ in range(2):  # on one connection
                assert (await client.post("/", content=b"x" * 300_000)).status_code == 204


# Bodies that nobody reads


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_answer_before_the_end_of_the_body_reaches_who_closes_after_it(
    server: Backend, chunked: bool
) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    size = 8 * 2**20
    length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    writer.write(
        f"POST /api/files HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{length}\r\n\r\n".encode()
    )
    piece = b"x" * 2**16
    async with asyncio.timeout(20):
        for _ in range(size // len(piece)):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            await writer.drain()
            await asyncio.sleep(0.001)  # it is answered meanwhile
        if chunked:
            writer.write(b"0\r\n\r\n")
        answer = await reader.read()  # not one who reads while writing
    assert answer.startswith(b"HTTP/1.1 401 ")
    assert b'"code":"unauthorized"' in answer
    writer.close()


async def test_a_body_without_end_is_not_read_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("infra.server.LINGER_SECONDS", 0.3)

    async def refuse(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 401, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with asyncio.timeout(10), running(refuse) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(
            b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert (await reader.read()).startswith(b"HTTP/1.1 401 ")
        with pytest.raises(ConnectionError):
            while True:
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.01)
        writer.close()
