"""Everything of a user in one zip: whole, nobody else's, nothing sealed, and made at the reader's pace."""

import asyncio
import io
import json
import os
import shutil
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4
from zipfile import ZipFile

import httpx
import pytest
from starlette.responses import StreamingResponse

import db
import export
import identity
from clerk_auth import Caller
from infra.storage import open_directory
from models import OWNED_TABLES, Account, AuthCode, Event, File, Run, Stream, User
from runs import files
from settings import settings
from tests import make
from tests.conftest import ROOT, Backend
from tests.everything import SEALED, one_of_everything

STORE = settings.data_dir / "files"


@pytest.fixture(autouse=True)
async def _store(database: str) -> None:
    files.start(await open_directory(STORE))


def caller(user: str) -> Caller:
    return Caller(user, None, 0, 2**40)


async def whole(response: StreamingResponse) -> bytes:
    return b"".join([bytes(chunk) async for chunk in response.body_iterator])  # type: ignore[arg-type]


def read(archive: ZipFile) -> dict[str, list[dict[str, Any]]]:
    """The lines of each kind."""
    names = [name for name in archive.namelist() if name.endswith(".jsonl")]
    return {name: [json.loads(line) for line in archive.read(name).splitlines()] for name in names}


async def test_everything_is_there_once_and_nothing_of_another(
    user: str, other_user: str, tmp_path: Path
) -> None:
    emails = [f"{uuid4().hex}@example.com" for _ in range(2)]
    made = await one_of_everything(user, emails[0])
    foreign = await one_of_everything(other_user, emails[1])
    response = await export.download(caller(user))
    assert response.media_type == "application/zip"
    assert response.headers["content-disposition"].startswith('attachment; filename="cua-export-2')
    data = await whole(response)
    with ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None
        lines = read(archive)
        for kind in export.KINDS:
            rows = lines.pop(kind.name)
            if kind.model is User:
                assert [row["id"] for row in rows] == [user]
                assert rows[0]["preferences"] == {"theme": emails[0]}
            elif kind.model is Event:
                assert [row["seq"] for row in rows] == list(range(1, made[Event] + 1))
            elif kind.by == "id":
                assert str(made[kind.model]) in [row["id"] for row in rows], kind
            assert rows
            assert [kind.shape.model_validate(row) for row in rows]
        assert lines == {}
        listed = {row["id"]: row for row in read(archive)["files.jsonl"]}
        contents = [name for name in archive.namelist() if name.startswith("files/")]
        assert {name.split("/")[1] for name in contents} == set(listed)
        assert sorted(name.split("/", 2)[2] for name in contents) == ["b.txt", "page.jpg"]
        assert {archive.read(name) for name in contents} == {b"contents"}
        texts = b"\n".join(archive.read(name) for name in archive.namelist())
        assert b"missing.txt" in archive.read("README.txt")
        assert "missing.txt" not in archive.namelist()
    assert SEALED not in texts
    assert SEALED.hex().encode() not in texts
    for word in (other_user, emails[1], *(str(it) for model, it in foreign.items() if model is not Event)):
        assert word.encode() not in texts, word
    (tmp_path / "all.zip").write_bytes(data)
    if shutil.which("unzip"):
        tested = await asyncio.create_subprocess_exec("unzip", "-tq", str(tmp_path / "all.zip"))
        assert await tested.wait() == 0


def test_every_table_is_exported_or_left_out_for_a_reason() -> None:
    exported = {kind.model for kind in export.KINDS}
    assert exported | set(export.LEFT_OUT) == {User, *OWNED_TABLES}
    assert not exported & {Account, AuthCode, *export.LEFT_OUT}
    for kind in export.KINDS:
        hidden = {
            "sealed",
            "state",
            "secret",
            "key_hash",
            "family_hash",
            "refresh_hash",
            "checkpoint",
            "user_id",
        }
        assert not hidden & set(kind.shape.model_fields) or kind.model.__tablename__ == "computers"


async def test_pages_are_joined_without_a_gap_or_a_repeat(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with db.as_user(user) as tx:
        runs = [await tx.add(Run, title="R", definition={}, timeout_seconds=1) for _ in range(2 * export.FEW)]
    async with db.as_user(user) as tx:
        await tx.connection.execute(
            "insert into events (user_id, seq, id, kind, resource_type, resource_id, actor, data) select $1, n, "
            "gen_random_uuid(), 'run.log', 'run', 'x', 'user', '{}' from generate_series(1, 400) n",
            user,
        )
        await tx.change(Stream, {}, last_seq=400)
    monkeypatch.setattr(export, "MANY", 2)
    for _ in range(4):
        await files.save(user, kind="upload", name="n", content_type="a/b", data=b"", limit=1)
    with ZipFile(io.BytesIO(await whole(await export.download(caller(user))))) as archive:
        lines = read(archive)
        assert [row["id"] for row in lines["runs.jsonl"]] == [str(run.id) for run in runs]
        assert [row["seq"] for row in lines["events.jsonl"]] == list(range(1, 400 + 4 + 1))
        assert len([name for name in archive.namelist() if name.startswith("files/")]) == 4
    async with db.as_user(user) as tx:
        await tx.remove(Run)


async def test_a_file_that_goes_meanwhile_is_named_and_the_rest_is_whole(user: str) -> None:
    gone, kept = [
        await files.save(user, kind="upload", name=f"{n}", content_type="a/b", data=b"12", limit=9)
        for n in "ab"
    ]
    (STORE / gone.storage_key).unlink()
    with ZipFile(io.BytesIO(await whole(await export.download(caller(user))))) as archive:
        assert archive.testzip() is None
        assert archive.read("missing.txt").decode() == f"files/{gone.id}\n"
        assert archive.read(f"files/{kept.id}/b") == b"12"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("report.pdf", "report.pdf"),
        ("../../etc/passwd", "_._etc_passwd"),
        ("..", "file"),
        ("C:\\x\0y\n.exe", "C_x_y_.exe"),
        (" . ", "file"),
        ("é" * 200 + ".jpeg", "é" * 58 + ".jpeg"),
        ("x" * 500, "x" * 120),
        (".profile", "profile"),
        ("日本" * 100, "日本" * 20),
    ],
)
def test_names_are_safe_wherever_they_are_unpacked(name: str, safe: str) -> None:
    assert export.safe_name(name) == safe


async def test_a_reader_who_waits_holds_no_connection(user: str, database: str) -> None:
    await one_of_everything(user, f"{uuid4().hex}@example.com", contents=bytes(3 * export.PIECE_BYTES))
    response = await export.download(caller(user))
    chunks = 0
    async for _ in response.body_iterator:
        chunks += 1
        assert db._open is not None
        pool = db._open.pool
        assert pool.get_size() == pool.get_idle_size()
    assert chunks > 20


async def test_an_export_ends_once_its_user_is_disabled(user: str) -> None:
    await one_of_everything(user, f"{uuid4().hex}@example.com", contents=bytes(3 * export.PIECE_BYTES))
    response = await export.download(caller(user))
    chunks = aiter(response.body_iterator)
    await anext(chunks)
    async with db.as_user(user) as tx:
        await tx.change(User, {"id": user}, disabled_at=datetime.now(UTC))
    with pytest.raises(identity.AccountDisabled):
        await anext(chunks)


async def test_a_reader_who_leaves_ends_the_work(user: str) -> None:
    await one_of_everything(user, f"{uuid4().hex}@example.com", contents=bytes(8 * export.PIECE_BYTES))
    response = await export.download(caller(user))
    left = asyncio.Event()
    sent = 0

    async def receive() -> dict[str, Any]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        nonlocal sent
        sent += len(message.get("body", b""))
        if sent > 3 * export.PIECE_BYTES:
            left.set()
            await asyncio.sleep(0)

    async with asyncio.timeout(20):
        await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert sent < 8 * export.PIECE_BYTES
    before = sent
    await asyncio.sleep(0.2)
    assert sent == before


MEASURE = """
import asyncio, resource, sys
from pathlib import Path
import db, export
from clerk_auth import Caller
from infra.storage import open_directory
from runs import files
async def main(dsn, store, user):
    await db.open_database(dsn, size=2)
    files.start(await open_directory(Path(store)))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    size = 0
    async for chunk in (await export.download(Caller(user, None, 0, 2**40))).body_iterator:
        size += len(chunk)
    print(size, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    await db.close_database()
asyncio.run(main(*sys.argv[1:]))
"""


async def test_memory_stays_the_same_for_a_large_file(user: str, database: str) -> None:
    async def zeros() -> AsyncIterator[bytes]:
        for _ in range(200):
            yield os.urandom(2**16) * 16

    await files.save(user, kind="upload", name="big", content_type="a/b", data=zeros(), limit=2**28)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", MEASURE, database, str(STORE), user),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    size, grown = map(int, output.split()[-2:])
    assert size > 200 * 2**20
    assert grown * (1 if sys.platform == "darwin" else 1024) < 48 * 2**20
    async with db.as_user(user) as tx:
        await tx.remove(File)


async def test_the_zip_comes_over_http_to_its_user_alone(server: Backend, alice: httpx.AsyncClient) -> None:
    thread = (await alice.post("/api/threads", json={"name": "Tea"})).json()["data"]
    await make.workflow(alice)
    reply = await alice.get("/api/me/export")
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/zip"
    with ZipFile(io.BytesIO(reply.content)) as archive:
        lines = read(archive)
        assert lines["threads.jsonl"] == [thread]
        assert [row["name"] for row in lines["workflows.jsonl"]] == ["Wait"]
    async with httpx.AsyncClient(base_url=server.url) as stranger:
        assert (await stranger.get("/api/me/export")).status_code == 401
