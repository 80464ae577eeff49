"""Starting: with Clerk, with a PostgreSQL of one's own, as several processes, and with something missing."""

import asyncio
import base64
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
import pytest

import db
from demo.shop import Shop
from infra import postgres
from settings import Settings
from tests import make
from tests.clerk import USER, key_server
from tests.conftest import ROOT, Backend, free_port
from tests.test_api import assert_problem
from tests.test_main_job import until, until_steps

KEYS = base64.b64encode(os.urandom(32)).decode()
DEBIAN = Path("/usr/lib/postgresql/15/bin")


def backend(data_dir: Path, **settings: str) -> Backend:
    return Backend(data_dir, free_port(), settings)


async def refused_start(server: Backend) -> str:
    """The log of a server that must not start."""
    await server.start(ready=False)
    assert server.process is not None
    async with asyncio.timeout(60):
        assert await server.process.wait() != 0
    assert "Traceback" not in server.log
    return server.log


@pytest.fixture
async def database_url(postgres_server: postgres.Server) -> str:
    return await postgres.create_database(postgres_server, f"own_{uuid4().hex}")


async def migrate(database_url: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "alembic", "upgrade", "head"),
        cwd=ROOT,
        env={**os.environ, "DATABASE_URL": database_url},
    )
    assert await process.wait() == 0


# Clerk


async def test_clerk_signs_people_in_and_the_embedded_issuer_stays_off(data_dir: Path) -> None:
    async with key_server() as clerk:
        server = backend(
            data_dir,
            CLERK_ISSUER=clerk.issuer,
            CLERK_AUTHORIZED_PARTIES="https://app.example.com",
            WORKER="off",
        )
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=server.url) as client:
                client.headers["Authorization"] = f"Bearer {clerk.token()}"
                me = (await client.get("/api/me")).json()["data"]
                assert (me["id"], me["role"]) == (USER, "user")
                made = await make.workflow(client)
                other = {"Authorization": f"Bearer {clerk.token(sub='user_other', sid='sess_other')}"}
                assert (await client.get(f"/api/workflows/{made['id']}", headers=other)).status_code == 404
                for changes in ({"azp": "https://evil.example"}, {"sts": "pending"}, {"iss": server.url}):
                    bad = {"Authorization": f"Bearer {clerk.token(**changes)}"}
                    assert (await client.get("/api/me", headers=bad)).status_code == 401
                body = {"email": "a@example.com", "password": "correct horse battery"}
                for path in ("register", "login"):
                    assert (await client.post(f"/api/auth/{path}", json=body)).status_code == 404
                assert (await client.get("/.well-known/jwks.json")).status_code == 404
                config = (await client.get("/api/config")).json()["data"]["auth"]
                assert (config["mode"], config["registration"]) == ("clerk", False)
        finally:
            await server.stop()


async def test_before_clerks_first_keys_the_answer_is_503_and_then_it_works(data_dir: Path) -> None:
    async with key_server() as clerk:
        keys, clerk.keys = clerk.keys, []
        server = backend(data_dir, CLERK_ISSUER=clerk.issuer, WORKER="off")
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=server.url) as client:
                client.headers["Authorization"] = f"Bearer {clerk.token()}"
                reply = await client.get("/api/me")
                assert (reply.status_code, reply.json()["code"]) == (503, "keys_unavailable")
                assert 1 <= int(reply.headers["retry-after"]) <= 4  # when the keys are asked for again
                clerk.keys = keys
                async with asyncio.timeout(10):
                    while (reply := await client.get("/api/me")).status_code != 200:
                        assert reply.status_code == 503, reply.text
                        await asyncio.sleep(0.05)
        finally:
            await server.stop()


# A PostgreSQL of one's own


async def test_an_external_database_is_migrated_by_the_release_step(
    data_dir: Path, database_url: str
) -> None:
    web = {"DATABASE_URL": database_url, "WORKER": "off", "CHROMIUM_PATH": "/nonexistent"}
    server = backend(data_dir, SECRET_KEYS=KEYS, **web)
    assert "make migrate" in await refused_start(server)
    await migrate(database_url)
    await server.start()
    try:
        assert not (server.data / "postgres").exists()
        async with server.sign_up() as client:
            await make.workflow(client)
    finally:
        await server.stop()
    connection = await asyncpg.connect(database_url)
    await connection.execute("update alembic_version set version_num = '9999'")
    await server.start()  # a release step comes before its processes do
    await server.stop()
    environment = os.environ | {"DATA_DIR": str(data_dir), "SECRET_KEYS": KEYS, **web}
    commands = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, *command), cwd=ROOT, env=environment, stderr=asyncio.subprocess.PIPE
        )
        for command in (("rekey.py",), ("backup.py", "create", str(data_dir / "backup.tar")))
    ]
    for process in commands:
        _, said = await process.communicate()
        assert (process.returncode, b"newer than this version" in said) == (1, True)
    await connection.execute("update alembic_version set version_num = $1", db.latest_revision())
    await connection.close()
    other_keys = base64.b64encode(os.urandom(32)).decode()
    assert "among SECRET_KEYS" in await refused_start(backend(data_dir, SECRET_KEYS=other_keys, **web))


@pytest.mark.skipif(not DEBIAN.exists(), reason="PostgreSQL 15 is not installed")
async def test_postgresql_15_works_with_the_same_migrations(data_dir: Path) -> None:
    server = Backend(data_dir, free_port(), {"POSTGRES_BIN": str(DEBIAN)}, fresh=True)
    await server.start()
    try:
        async with Shop() as shop, server.sign_up() as client:
            flow = {"title": "Look", "steps": [{"type": "navigate", "url": f"{shop.url}/"}]}
            run = await make.run(client, definition=flow)
            assert (await until(client, run["id"], "succeeded", "failed"))["status"] == "succeeded"
    finally:
        await server.stop()


# Several processes


@pytest.fixture
async def worker_environment(data_dir: Path) -> dict[str, str]:
    return {**os.environ, "DATA_DIR": str(data_dir), "PORT": str(free_port())}


async def worker(environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(sys.executable, "worker.py", cwd=ROOT, env=environment)


@pytest.fixture
async def web_and_worker(data_dir: Path, worker_environment: dict[str, str]) -> AsyncIterator[Backend]:
    server = backend(data_dir, WORKER="off")
    await server.start()
    process = await worker(worker_environment)
    yield server
    process.send_signal(signal.SIGTERM)
    assert await process.wait() == 0
    await server.stop()


async def test_a_worker_process_runs_what_the_web_process_queues(web_and_worker: Backend) -> None:
    async with Shop() as shop, web_and_worker.sign_up() as client:
        flow = {
            "title": "Look",
            "steps": [{"type": "navigate", "url": f"{shop.url}/"}, {"type": "screenshot", "name": "page"}],
        }
        run = await make.run(client, definition=flow)
        ended = await client.get(f"/api/runs/{run['id']}", params={"wait": 30})
        assert ended.json()["data"]["status"] == "succeeded", ended.text
        events = (await client.get("/api/events", params={"run_id": run["id"]})).json()["data"]
        assert events[-1]["kind"] in ("run.succeeded", "computer.closed", "file.created")
        computer = await make.computer(client)
        reply = await client.get(f"/api/computers/{computer['id']}/screenshot")
        assert (reply.status_code, reply.json()["code"]) == (503, "needs_redis")


async def first_step(client: httpx.AsyncClient, run_id: str) -> dict[str, Any]:
    step: dict[str, Any] = (await client.get(f"/api/runs/{run_id}/steps")).json()["data"][0]
    return step


async def test_a_run_outlives_a_worker_that_is_told_to_stop(
    data_dir: Path, worker_environment: dict[str, str]
) -> None:
    server = backend(data_dir, WORKER="off")
    await server.start()
    first = await worker(worker_environment)
    try:
        async with server.sign_up() as client:
            run = await make.run(client)
            await until_steps(client, run["id"], 1)
            second = await worker(worker_environment)
            first.send_signal(signal.SIGTERM)
            assert await first.wait() == 0
            async with asyncio.timeout(30):
                while (await first_step(client, run["id"]))["attempt"] < 2:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            await client.post(f"/api/runs/{run['id']}/cancel")
            await until(client, run["id"], "cancelled")
            second.send_signal(signal.SIGTERM)
            assert await second.wait() == 0
    finally:
        await server.stop()


# Something missing


async def test_a_missing_chromium_is_said_where_it_is_missed(data_dir: Path) -> None:
    server = backend(data_dir, CHROMIUM_PATH="/nonexistent/chromium")
    await server.start(ready=False)
    try:
        async with httpx.AsyncClient(base_url=server.url) as client, asyncio.timeout(30):
            while True:
                try:
                    reply = await client.get("/api/ready")
                    break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        assert (reply.status_code, reply.json()["data"]["browser"]) == (503, False)
        async with server.sign_up() as client:
            run = await make.run(client)
            failed = await until(client, run["id"], "failed")
            assert failed["error"]["code"] == "chromium_missing"
            assert "CHROMIUM_PATH" in failed["error"]["detail"]
    finally:
        await server.stop()


def test_the_web_process_works_unless_redis_or_the_operator_says_otherwise() -> None:
    assert Settings(worker="").web_works
    assert not Settings(worker="", redis_url="redis://somewhere").web_works
    assert Settings(worker="on", redis_url="redis://somewhere").web_works
    assert not Settings(worker="off").web_works


async def test_a_wrong_setting_stops_the_start_with_its_name(data_dir: Path, database_url: str) -> None:
    nowhere = {"DATABASE_URL": "postgres://x@127.0.0.1:1/x", "SECRET_KEYS": KEYS}
    wrong = {
        "DATABASE_POOL": {"DATABASE_POOL": "many"},
        "SECRET_KEYS": {"DATABASE_URL": database_url},
        "set DATABASE_URL, CLERK_PUBLISHABLE_KEY (or SUPABASE_URL, or OIDC_ISSUERS).": {
            "ENVIRONMENT": "production",
            "SECRET_KEYS": KEYS,
        },
        "CLERK_PUBLISHABLE_KEY": {"CLERK_PUBLISHABLE_KEY": "pk_nonsense"},
        "cannot connect to the database": nowhere,
    }
    servers = [backend(data_dir / str(number), **given) for number, given in enumerate(wrong.values())]
    logs = await asyncio.gather(*map(refused_start, servers))
    for said, log in zip(wrong, logs, strict=True):
        assert said in log


async def test_an_absent_database_is_503_and_comes_back(data_dir: Path) -> None:
    elsewhere = await postgres.start(data_dir / "elsewhere")
    try:
        await migrate(elsewhere.dsn)
        server = backend(data_dir, DATABASE_URL=elsewhere.dsn, SECRET_KEYS=KEYS, WORKER="off")
        await server.start()
        try:
            async with server.sign_up() as client:
                assert (await client.get("/api/me")).status_code == 200
                await postgres.stop(elsewhere)
                for _ in range(3):
                    assert_problem(await client.get("/api/me"), 503, "database_unavailable")
                elsewhere = await postgres.start(data_dir / "elsewhere")
                async with asyncio.timeout(20):
                    while (reply := await client.get("/api/me")).status_code != 200:
                        assert_problem(reply, 503, "database_unavailable")
                        await asyncio.sleep(0.05)
        finally:
            await server.stop()
    finally:
        await postgres.stop(elsewhere)


# make


@pytest.mark.parametrize(
    ("file", "given", "listens"),
    [
        ("", [], "127.0.0.1 8000"),
        ("HOST=0.0.0.0\nPORT=9001\n", [], "0.0.0.0 9001"),
        ("HOST=0.0.0.0\nPORT=9001\n", ["PORT=9002"], "0.0.0.0 9002"),
        ("", ["HOST=::1", "PORT=9003"], "::1 9003"),
        ("PORT=many\n", [], None),
    ],
)
async def test_make_run_listens_where_the_settings_say(
    file: str, given: list[str], listens: str | None, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(file)
    shown = f'exec {sys.executable} -c "import serve; print(serve.server_command())"'
    (tmp_path / "python").write_text(f"#!/bin/sh\n{shown}\n")
    (tmp_path / "python").chmod(0o755)
    known = {name: value for name, value in os.environ.items() if name not in ("HOST", "PORT", "MAKEFLAGS")}
    process = await asyncio.create_subprocess_exec(
        *(
            "make",
            "-s",
            "-f",
            str(ROOT / "Makefile"),
            "-o",
            "setup",
            "-o",
            "web",
            f"BIN={tmp_path}",
            "run",
            *given,
        ),
        cwd=tmp_path,
        env=known | {"PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = (text.decode() for text in await process.communicate())
    if listens is None:
        assert process.returncode != 0
        assert "PORT: " in complaint
    else:
        host, port = listens.split()
        assert f"'backend_websocket_server:app', '--host', '{host}', '--port', '{port}'," in said, complaint
