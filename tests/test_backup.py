"""A backup is the whole server: taken in elsewhere, it gives the same answers."""

import asyncio
import os
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from infra import postgres
from tests import make
from tests.conftest import ROOT, Backend, free_port

ANSWERS = (
    "me",
    "me/preferences",
    "me/usage",
    "keys",
    "secrets",
    "profiles",
    "threads",
    "workflows",
    "runs",
    "schedules",
    "files",
    "webhooks",
    "events?limit=200",
    "analytics/summary",
)


async def command(data: Path, *arguments: str, **extra: str) -> tuple[int, str]:
    """What `python backup.py` says and returns, for the server of this data directory."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "backup.py", *arguments),
        cwd=ROOT,
        env={**os.environ, "DATA_DIR": str(data), **extra},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def answers(client: httpx.AsyncClient) -> dict[str, Any]:
    """Everything that the API tells its user, without what follows the clock."""
    told = {path: (await client.get(f"/api/{path}")).json()["data"] for path in ANSWERS}
    for file in told["files"]:
        told[file["id"]] = (await client.get(f"/api/files/{file['id']}/content")).content
    for run in told["runs"]:
        told[run["id"]] = (await client.get(f"/api/runs/{run['id']}/steps")).json()["data"]
    return told


async def live_in(client: httpx.AsyncClient) -> None:
    """One of everything that a backup should hold."""
    await client.put("/api/me/preferences", json={"theme": "dark"})
    workflow = await make.workflow(client)
    await make.schedule(client, workflow_id=workflow["id"])
    await make.secret(client)
    profile = await make.profile(client)
    cookie = {"name": "a", "value": "b", "domain": "example.com", "path": "/"}
    await client.put(f"/api/profiles/{profile['id']}/state", json={"cookies": [cookie]})
    await make.thread(client)
    await make.key(client)
    await make.webhook(client)
    await make.file(client, os.urandom(100_000), "données.bin")
    run = await make.run(
        client, definition={"title": "Look", "steps": [{"type": "screenshot", "name": "page"}]}
    )
    ended = (await client.get(f"/api/runs/{run['id']}", params={"wait": 30})).json()["data"]
    assert ended["status"] == "succeeded", ended["error"]
    await make.recorded(client, run["id"])


def settled(told: dict[str, Any]) -> dict[str, Any]:
    """Without what goes on by itself after a start."""
    return {name: value for name, value in told.items() if name not in ("events?limit=200", "keys")}


@dataclass
class Moving:
    """A server that has stopped for good, its backup, what it told its user, and a client of theirs."""

    stopped: Backend
    file: Path
    key: str
    before: dict[str, Any]
    client: httpx.AsyncClient

    def at(self, data: Path, **extra: str) -> Backend:
        """A server at the same address with other data."""
        return Backend(data, self.stopped.port, self.stopped.extra | extra)


@pytest.fixture(scope="module")
async def moving(module_data: Path) -> AsyncIterator[Moving]:
    backend = Backend(module_data / "first", free_port(), {"ACCESS_TOKEN_SECONDS": "3600"})
    await backend.start()
    async with backend.sign_up() as client:
        await live_in(client)
        code, said = await command(backend.data, "create", str(module_data / "while-it-runs.tar"))
        assert code == 0, said
        before = await answers(client)
        await backend.stop()
        file = module_data / "backup.tar"
        code, said = await command(backend.data, "create", str(file))
        assert code == 0, said
        assert "keep it safe" in said
        assert file.stat().st_mode & 0o077 == 0
        key = (backend.data / "vault.key").read_text().strip()
        shutil.rmtree(backend.data)
        yield Moving(backend, file, key, before, client)


async def test_a_restored_server_answers_the_same(moving: Moving, data_dir: Path) -> None:
    copy, client, before = moving.at(data_dir), moving.client, moving.before
    code, said = await command(copy.data, "restore", str(moving.file))
    assert code == 0, said
    await copy.start()
    assert settled(await answers(client)) == settled(before)
    events = (await client.get("/api/events?limit=200")).json()["data"]
    assert events[: len(before["events?limit=200"])] == before["events?limit=200"]
    assert (await client.post("/api/runs", json={"definition": make.FLOW})).status_code == 202
    code, said = await command(copy.data, "restore", str(moving.file))
    assert code != 0
    assert "restore into an empty one" in said
    await copy.stop()


async def test_a_server_moves_from_the_embedded_database_to_another(
    moving: Moving, data_dir: Path, postgres_server: postgres.Server
) -> None:
    """The other one's login owns its database and is no superuser, as managed PostgreSQL gives it."""
    elsewhere = await postgres.create_database(postgres_server, f"moved_{uuid4().hex}")
    external = {"DATABASE_URL": elsewhere, "SECRET_KEYS": moving.key}
    copy = moving.at(data_dir, **external)
    code, said = await command(copy.data, "restore", str(moving.file), **external)
    assert code == 0, said
    (copy.data / "vault.key").unlink()
    await copy.start()
    assert settled(await answers(moving.client)) == settled(moving.before)
    async with copy.sign_up() as other:
        assert (await other.get("/api/workflows")).json()["data"] == []
    await copy.stop()


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "tar", "newer"])
async def test_what_is_no_backup_changes_nothing(kind: str, data_dir: Path, tmp_path: Path) -> None:
    file = tmp_path / "x.tar"
    if kind == "empty":
        file.touch()
    elif kind == "text":
        file.write_text("not a backup")
    elif kind in ("tar", "newer"):
        (tmp_path / "manifest.json").write_text('{"format": 1, "revision": "9999"}')
        with tarfile.open(file, "w") as tar:
            tar.add(tmp_path / "manifest.json", "manifest.json" if kind == "newer" else "readme")
    code, said = await command(data_dir, "restore", str(file))
    assert code != 0
    assert "Traceback" not in said
    assert ("newer version" if kind == "newer" else "backup") in said
    assert not (data_dir / "vault.key").exists()


async def test_a_backup_that_cannot_be_written_leaves_nothing(data_dir: Path, tmp_path: Path) -> None:
    code, said = await command(data_dir, "create", str(tmp_path / "no such place" / "x.tar"))
    assert code != 0
    assert "Traceback" not in said
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240
