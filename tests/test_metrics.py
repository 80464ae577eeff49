"""What Prometheus reads, who may read it, and that nobody can make it grow without end."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from uuid import uuid4

import asyncpg
import httpx
import pytest
import websockets
from prometheus_client.parser import text_string_to_metric_families

import db
import metrics
import process
from tests import make
from tests.conftest import Backend, free_port
from tests.test_api import assert_problem
from tests.workers import look

TOKEN = "a-token-of-32-characters-and-more"


@pytest.fixture(scope="module")
async def counted(module_data: Path) -> AsyncIterator[Backend]:
    """A server without a worker, so that runs stay queued."""
    settings = {"METRICS_TOKEN": TOKEN, "WORKER": "off", "ACCESS_TOKEN_SECONDS": "3600"}
    server = Backend(module_data, free_port(), settings)
    await server.start()
    yield server
    await server.stop()


async def scrape(server: Backend) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every sample, by name and labels."""
    async with httpx.AsyncClient(base_url=server.url) as client:
        reply = await client.get("/metrics")
    assert reply.status_code == 200, reply.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(reply.text)
        for sample in family.samples
    }


async def value(server: Backend, name: str, **labels: str) -> float | None:
    return (await scrape(server)).get((name, frozenset(labels.items())))


async def until(server: Backend, name: str, wanted: float, **labels: str) -> None:
    async with asyncio.timeout(15):
        while await value(server, name, **labels) != wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_runs_and_the_age_of_the_queue_are_counted_for_all_users(counted: Backend) -> None:
    async with counted.sign_up() as alice, counted.sign_up() as bob:
        await make.run(alice)
        await make.run(bob)
        await make.run(bob, run_after="2999-01-01T00:00:00Z")
        await until(counted, "cua_runs", 3, status="queued")
        age = await value(counted, "cua_queue_age_seconds")
        assert age is not None
        assert 0 < age < 60
        assert await value(counted, "cua_runs", status="running") == 0


async def test_requests_are_counted_by_route_and_class_of_status(counted: Backend) -> None:
    async with counted.sign_up() as alice:
        made = await make.workflow(alice)
        before = await scrape(counted)
        await alice.get(f"/api/workflows/{made['id']}")
        await alice.get(f"/api/v1/workflows/{uuid4()}")
        await alice.head(f"/api/workflows/{made['id']}")
        after = await scrape(counted)

    def more(method: str, status: str) -> float:
        labels = {"method": method, "route": "/api/workflows/{id}", "status": status}
        key = "cua_http_request_seconds_count", frozenset(labels.items())
        return after.get(key, 0) - before.get(key, 0)

    assert [more("GET", "2xx"), more("GET", "4xx"), more("HEAD", "2xx")] == [1, 1, 1]
    assert await value(counted, "cua_http_requests_in_flight") == 1  # this one


async def test_no_path_and_no_method_of_a_client_adds_a_series(counted: Backend) -> None:
    async with httpx.AsyncClient(base_url=counted.url) as client:
        for _ in range(2):
            series = len(await scrape(counted))
            for _ in range(20):
                name = uuid4().hex
                for path in (f"/{name}", f"/api/{name}", f"/api/runs/{name}", f"/docs/{name}?{name}={name}"):
                    await client.get(path)
                await client.get("/api/health", headers={"Host": f"{name}.example.com"})
            for method in ("PROPFIND", "LOCK", "REPORT", "M-SEARCH"):
                await client.request(method, "/api/me")
    told = await scrape(counted)
    assert len(told) == series
    methods = {dict(labels).get("method", "GET") for _, labels in told}
    assert methods <= metrics.METHODS | {"other"}


async def test_sockets_streams_and_events_are_counted(counted: Backend) -> None:
    async with counted.sign_up() as alice, AsyncExitStack() as stack:
        published = await value(counted, "cua_events_published_total") or 0
        headers = {"Authorization": alice.headers["authorization"]}
        socket = await stack.enter_async_context(
            websockets.connect(counted.socket_url, additional_headers=headers)
        )
        for n in range(2):
            await socket.send(json.dumps({"type": "subscribe", "id": n, "after": 0}))
        stream = await stack.enter_async_context(alice.stream("GET", "/api/events/stream"))
        assert stream.status_code == 200
        await until(counted, "cua_subscriptions", 3)
        assert await value(counted, "cua_sockets_open") == 1
        assert await value(counted, "cua_event_streams_open") == 1
        # A stream that stays open is counted when it begins.
        labels = {"method": "GET", "route": "/api/events/stream", "status": "2xx"}
        assert await value(counted, "cua_http_request_seconds_count", **labels) == 1
        await make.workflow(alice)
        await until(counted, "cua_events_published_total", published + 1)
        assert (await value(counted, "cua_events_read_total") or 0) >= 1
    await until(counted, "cua_sockets_open", 0)
    await until(counted, "cua_event_streams_open", 0)
    assert await value(counted, "cua_http_request_seconds_count", **labels) == 1
    await until(counted, "cua_subscriptions", 0)


async def test_what_the_process_stands_on_is_told(counted: Backend) -> None:
    told = await scrape(counted)
    names = {name for name, _ in told}
    assert told["cua_database_pool_size", frozenset()] == 8
    assert told["cua_bus", frozenset({("kind", "notify")})] == 1
    assert {"cua_bus_gaps_total", "cua_frames_sent_total", "cua_computers_open"} <= names
    assert {"cua_database_pool_in_use", "cua_database_pool_waits_total"} <= names
    assert "process_resident_memory_bytes" in names


async def test_the_reader_is_this_machine_or_holds_the_token(counted: Backend) -> None:
    async with httpx.AsyncClient(base_url=counted.url) as client:
        reply = await client.get("/api/metrics")
        assert reply.headers["content-type"].startswith("text/plain")
        assert "# TYPE cua_http_request_seconds histogram" in reply.text
        assert "ratelimit-limit" not in reply.headers
        for address in ("203.0.113.7", "127.0.0.1"):  # a proxy on this machine is not its clients
            forwarded = {"X-Forwarded-For": address}
            for token in (None, "Bearer", "Bearer wrong", TOKEN, f"Basic {TOKEN}", "Bearer \u00e9"):
                headers = forwarded | ({"Authorization": token} if token else {})
                odd = httpx.Headers([(k.encode(), v.encode("latin-1")) for k, v in headers.items()])
                assert_problem(await client.get("/metrics", headers=odd), 403, "forbidden")
            good = forwarded | {"Authorization": f"Bearer {TOKEN}"}
            assert (await client.get("/metrics", headers=good)).status_code == 200


# The database


async def test_who_finds_every_connection_lent_is_counted(database: str) -> None:
    before = metrics.POOL_WAITS._value.get()
    async with AsyncExitStack() as stack:
        for _ in range(8):
            await stack.enter_async_context(db.as_user("user_1"))
        waiting = asyncio.create_task(db.state())
        async for _ in look(10):
            if metrics.POOL_WAITS._value.get() > before:
                break
        assert metrics.POOL_WAITS._value.get() == before + 1
        assert not waiting.done()
    assert await waiting == (True, True)


async def test_without_its_database_a_server_still_tells_the_rest(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_count_at", 0.0)
    monkeypatch.setattr(db, "_open", None)
    text = (await process.scrape()).decode()
    assert "cua_runs{" not in text
    assert "cua_queue_age_seconds NaN" in text
    assert "cua_bus_gaps_total" in text


async def test_the_count_agrees_with_the_table(database: str, user: str) -> None:
    counts, age = await db.run_counts()
    connection = await asyncpg.connect(database)
    try:
        await connection.execute("select set_config('app.system', 'on', false)")
        rows = await connection.fetch("select status, count(*) from runs group by status")
    finally:
        await connection.close()
    assert counts == {row[0]: row[1] for row in rows}
    assert age >= 0
