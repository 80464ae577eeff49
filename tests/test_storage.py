"""Files: streamed, counted, whole or absent, on real disks that fill up and break, and in buckets."""

import asyncio
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from infra import storage as module
from infra.storage import (
    PART_BYTES,
    FileMissing,
    S3Access,
    Storage,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    open_directory,
    open_store,
)
from tests.conftest import Buckets, free_port

PROJECT = Path(__file__).parent.parent
MIB = 1 << 20


@dataclass
class Place:
    """A store, and the names of everything that is in it."""

    storage: Storage
    holds: Callable[[], list[str]]


@pytest.fixture(params=["disk", "s3"])
async def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "disk":
        directory = tmp_path / "files"
        return Place(await open_directory(directory), lambda: files_below(directory))
    buckets: Buckets = request.getfixturevalue("s3")
    name = buckets.make()
    storage = await open_store(f"s3://{name}/our/files", tmp_path, access(buckets))
    return Place(storage, lambda: [key.removeprefix("our/files/") for key in buckets.holds(name)])


@pytest.fixture
def storage(place: Place) -> Storage:
    return place.storage


def access(buckets: Buckets, **other: str) -> S3Access:
    return S3Access(
        **{"endpoint": buckets.url, "region": "us-east-1", "key_id": "id", "secret": "key", **other}
    )


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of one MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False, timeout=10
    )
    if mounted.returncode:
        pytest.skip("this user may not mount a disk")
    yield disk
    subprocess.run(["umount", disk], check=True, timeout=10)


async def stream(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def content(storage: Storage, key: str, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in await storage.read(key, start, end)])


def files_below(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("size", [0, 1, PART_BYTES - 1, PART_BYTES, PART_BYTES + 1, 40 * MIB])
async def test_what_was_streamed_in_streams_out_counted_and_hashed(place: Place, size: int) -> None:
    data = os.urandom(size)
    chunks = [data[start : start + 100_000] for start in range(0, len(data), 100_000)]
    stored = await place.storage.put("u/big", stream(*chunks), limit=size)
    assert (stored.size, stored.sha256) == (size, hashlib.sha256(data).hexdigest())
    assert hashlib.sha256(await content(place.storage, "u/big")).hexdigest() == stored.sha256
    assert place.holds() == ["u/big"]


@pytest.mark.parametrize("data", [b"", b"x", b"x" * (256 * 1024), b"x" * (256 * 1024 + 1)])
async def test_plain_bytes_of_any_size_are_stored(storage: Storage, data: bytes) -> None:
    stored = await storage.put("u/f", data, limit=MIB)
    assert stored.size == len(data)
    assert await content(storage, "u/f") == data
    assert await content(storage, "u/f", 0, 10**12) == data


@pytest.mark.parametrize(
    ("start", "end"), [(0, 0), (0, 1), (3, 7), (9, 10), (9, 11), (5, None), (10, None), (11, 99), (4, 4)]
)
async def test_a_range_is_what_python_would_slice(storage: Storage, start: int, end: int | None) -> None:
    await storage.put("u/f", b"0123456789", limit=10)
    assert await content(storage, "u/f", start, end) == b"0123456789"[start:end]


async def test_chunks_are_of_256_kib(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    await storage.put("u/f", b"x" * MIB, limit=MIB)
    assert [len(chunk) async for chunk in await storage.read("u/f")] == [256 * 1024] * 4


async def test_a_range_backwards_is_refused(storage: Storage) -> None:
    await storage.put("u/f", b"0123456789", limit=10)
    for start, end in ((-1, None), (5, 4)):
        with pytest.raises(ValueError, match="not a range"):
            await storage.read("u/f", start, end)


async def test_one_byte_over_the_limit_stores_nothing(place: Place) -> None:
    with pytest.raises(TooLarge, match="larger than 9 bytes") as caught:
        await place.storage.put("u/f", stream(b"01234", b"56789"), limit=9)
    assert caught.value.limit == 9
    with pytest.raises(TooLarge):
        await place.storage.put("u/g", stream(*[b"x" * MIB] * 20), limit=19 * MIB)
    assert place.holds() == []
    assert (await place.storage.put("u/f", stream(b"01234", b"56789"), limit=10)).size == 10


async def test_a_sender_that_goes_on_too_long_is_heard_no_further(storage: Storage) -> None:
    heard = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal heard
        while True:
            heard += 1
            yield b"x" * MIB

    with pytest.raises(TooLarge):
        await storage.put("u/f", endless(), limit=12 * MIB)
    assert heard == 13


@pytest.mark.parametrize("sent", [1, 12])
async def test_a_sender_that_fails_leaves_nothing_and_hears_its_own_error(place: Place, sent: int) -> None:
    async def broken() -> AsyncIterator[bytes]:
        for _ in range(sent):
            yield b"x" * MIB
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        await place.storage.put("u/f", broken(), limit=100 * MIB)
    assert place.holds() == []


@pytest.mark.parametrize("sent", [1, 18])
async def test_a_cancelled_upload_leaves_nothing(place: Place, sent: int) -> None:
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(sent):
            yield b"x" * MIB
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(place.storage.put("u/f", slow(), limit=100 * MIB))
    async with asyncio.timeout(20):
        await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    async with asyncio.timeout(20):
        while place.holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_file_is_seen_only_when_it_is_whole(place: Place) -> None:
    async def looking() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (6 * MIB)
            with pytest.raises(FileMissing):
                await place.storage.read("u/f")

    await place.storage.put("u/f", looking(), limit=100 * MIB)
    assert place.holds() == ["u/f"]


async def test_a_full_disk_is_said_and_leaves_nothing(small_disk: Path) -> None:
    storage = await open_directory(small_disk / "files")
    await storage.put("u/first", b"x" * 1000, limit=MIB)
    for data in (b"x" * (2 * MIB), stream(*[b"x" * MIB] * 20)):
        with pytest.raises(StorageFull, match="no room left"):
            await storage.put("u/f", data, limit=100 * MIB)
    assert files_below(small_disk) == ["files/u/first"]
    assert await content(storage, "u/first") == b"x" * 1000


def test_a_quota_on_file_size_counts_as_full(tmp_path: Path) -> None:
    script = """
import asyncio, pathlib, resource, sys
from infra.storage import StorageFull, open_directory
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
async def main():
    storage = await open_directory(pathlib.Path(sys.argv[1]))
    try:
        await storage.put("u/f", b"x" * 200_000, limit=10**9)
    except StorageFull:
        return
    raise AssertionError("stored")
asyncio.run(main())
"""
    subprocess.run([sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT, check=True, timeout=60)
    assert files_below(tmp_path) == []


async def test_a_broken_place_is_a_sentence(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    (tmp_path / "u").write_text("a file where a directory should be")
    with pytest.raises(StorageUnavailable, match="cannot be stored or read at the moment") as caught:
        await storage.put("u/f", b"x", limit=10)
    assert not isinstance(caught.value, StorageFull)
    with pytest.raises(StorageUnavailable, match="DATA_DIR"):
        await open_directory(tmp_path / "u" / "files")


async def test_a_missing_file_is_missing_before_the_first_chunk(storage: Storage) -> None:
    for start in (0, 5):
        with pytest.raises(FileMissing, match="u/none"):
            await storage.read("u/none", start)


async def test_deleting_twice_is_the_same_as_once(storage: Storage) -> None:
    await storage.put("u/f", b"x", limit=10)
    await storage.delete("u/f")
    await storage.delete("u/f")
    with pytest.raises(FileMissing):
        await storage.read("u/f")


async def test_a_reader_keeps_what_is_deleted_meanwhile(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    await storage.put("u/f", b"x" * (3 * MIB), limit=4 * MIB)
    chunks = await storage.read("u/f")
    first = await anext(chunks)
    await storage.delete("u/f")
    assert len(first) + sum([len(chunk) async for chunk in chunks]) == 3 * MIB


async def test_a_prefix_takes_its_own_and_nobody_elses(storage: Storage) -> None:
    for key in ("u/1", "u/2", "u/deep/3", "u2/1", "other/u/1"):
        await storage.put(key, b"x", limit=10)
    await storage.delete_prefix("u")
    await storage.delete_prefix("u")
    for key in ("u/1", "u/2", "u/deep/3"):
        with pytest.raises(FileMissing):
            await storage.read(key)
    for key in ("u2/1", "other/u/1"):
        assert await content(storage, key) == b"x"


async def test_more_files_than_a_page_lists_go(place: Place) -> None:
    for start in range(0, 1100, 50):
        await asyncio.gather(*(place.storage.put(f"u/{start + n}", b"x", limit=1) for n in range(50)))
    await place.storage.put("u2/1", b"x", limit=1)
    await place.storage.delete_prefix("u")
    assert place.holds() == ["u2/1"]


async def test_thousands_of_files_go_even_when_two_delete_them(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    (tmp_path / "u").mkdir()
    for number in range(2500):
        (tmp_path / f"u/{number}").write_bytes(b"x")
    await asyncio.gather(storage.delete_prefix("u"), storage.delete_prefix("u"))
    assert files_below(tmp_path) == []


@pytest.mark.parametrize(
    "key",
    [
        "",
        "/",
        "../x",
        "u/../x",
        "/etc/passwd",
        "u//x",
        "u/.hidden",
        "u/a b",
        "u/a\0",
        "u/f\n",
        "u/é",
        "u/f#1",
        "u/",
        "u\\x",
        "x" * 300,
    ],
)
async def test_odd_keys_are_refused_everywhere(tmp_path: Path, key: str) -> None:
    storage = await open_directory(tmp_path)
    for attempt in (
        storage.put(key, b"x", limit=10),
        storage.read(key),
        storage.read(key, 1),
        storage.delete(key),
        storage.delete_prefix(key),
    ):
        with pytest.raises(ValueError, match="not a key"):
            await attempt
    assert files_below(tmp_path) == []


async def test_other_users_of_the_machine_cannot_look_in(tmp_path: Path) -> None:
    await open_directory(tmp_path / "files")
    assert stat.S_IMODE((tmp_path / "files").stat().st_mode) == 0o700


async def test_uploads_that_a_crash_cut_off_are_swept_and_others_kept(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    await storage.put("u/f", b"x", limit=10)
    for name, age in (("u/old#1", 25), ("u/new#1", 23), ("u/f", 1000)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age * 3600,) * 2)
    await open_directory(tmp_path)
    assert files_below(tmp_path) == ["u/f", "u/new#1"]


# Where the store is -------------------------------------------------------------------------------


async def refusal(url: str, directory: Path, access: S3Access) -> str:
    """The sentence with which a start would end."""
    with pytest.raises(StorageUnavailable) as caught:
        await open_store(url, directory, access)
    return str(caught.value)


async def test_the_address_of_the_store_says_where_files_are(tmp_path: Path, s3: Buckets) -> None:
    name = s3.make()
    for url in ("", f"file://{tmp_path}/an%20other", f"s3://{name}", f"s3://{name}/a/b/"):
        storage = await open_store(url, tmp_path / "own", access(s3))
        await storage.put("u/f", b"x", limit=1)
    assert files_below(tmp_path) == ["an other/u/f", "own/u/f"]
    assert s3.holds(name) == ["a/b/u/f", "u/f"]


@pytest.mark.parametrize(
    "url",
    [
        "files",
        "/files",
        "http://bucket/x",
        "s3://",
        "s3:///x",
        "S3:bucket",
        "s3://a b",
        "s3://key:secret@bucket",
        "s3://bucket?region=x",
        "s3://bucket/../x",
        "s3://bucket/a//b",
        "file://",
        "file://host/x",
        "file:///",
    ],
)
async def test_an_address_that_is_none_is_refused(tmp_path: Path, url: str) -> None:
    assert await refusal(url, tmp_path, S3Access()) == "FILES_URL must be s3://bucket/prefix or file:///path."
    assert files_below(tmp_path) == []


async def test_a_bucket_that_cannot_serve_stops_the_start_with_a_sentence(
    tmp_path: Path, s3: Buckets
) -> None:
    said = await refusal("s3://no-such-bucket", tmp_path, access(s3))
    assert said == (
        f"Files cannot be kept: there is no such thing as the bucket no-such-bucket at {s3.url}. "
        "Check FILES_URL and S3_ENDPOINT."
    )
    name = s3.make()
    with s3.checking_credentials():
        said = await refusal(f"s3://{name}", tmp_path, access(s3, key_id="nobody", secret="hunter2"))
    assert "refuses us. Check AWS_ACCESS_KEY_ID" in said
    assert "hunter2" not in said
    for endpoint in ("nonsense", "http://", "http://a b", "ftp://host", "http://host?x"):
        said = await refusal("s3://bucket", tmp_path, access(s3, endpoint=endpoint))
        assert said == "S3_ENDPOINT must be the https:// address of an object store."
    began = time.monotonic()
    dead = access(s3, endpoint=f"http://127.0.0.1:{free_port()}")
    assert "does not serve us (Generic S3 error" in await refusal("s3://bucket", tmp_path, dead)
    assert time.monotonic() - began < module.START_SECONDS


@pytest.fixture
async def silent() -> AsyncIterator[S3Access]:
    """A store that takes connections and never answers."""
    quiet = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await quiet.wait()
        writer.close()

    server = await asyncio.start_server(wait, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    yield S3Access(f"http://127.0.0.1:{port}", "us-east-1", "id", "key")
    quiet.set()
    server.close()


async def test_a_store_that_never_answers_stops_the_start(
    tmp_path: Path, silent: S3Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "START_SECONDS", 1)
    monkeypatch.setattr(module, "ABORT_SECONDS", 0.1)
    assert "does not serve us (nothing within 1 seconds)" in await refusal("s3://bucket", tmp_path, silent)


async def test_a_store_that_falls_silent_fails_in_bounded_time(
    silent: S3Access, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(module.CLIENT, "read_timeout", "200ms")
    monkeypatch.setitem(module.RETRY, "max_retries", 1)
    monkeypatch.setattr(module, "PING_SECONDS", 0.2)
    storage = Storage(module._s3("bucket", "", silent))
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: storage.put("u/f", b"x", limit=1),
        lambda: storage.put("u/f", b"x" * PART_BYTES * 2, limit=PART_BYTES * 2),
        lambda: storage.read("u/f"),
        lambda: storage.delete("u/f"),
        lambda: storage.delete_prefix("u"),
    ]
    for attempt in attempts:
        async with asyncio.timeout(10):
            with pytest.raises(StorageUnavailable):
                await attempt()
    assert not await storage.ping()


async def test_a_bucket_that_vanishes_is_no_missing_file(tmp_path: Path, s3: Buckets) -> None:
    storage = Storage(module._s3("no-such-bucket", "", access(s3)))
    attempts: list[Callable[[], Awaitable[object]]] = [
        lambda: storage.put("u/f", b"x", limit=1),
        lambda: storage.read("u/f"),
        lambda: storage.delete("u/f"),
        lambda: storage.delete_prefix("u"),
    ]
    for attempt in attempts:
        with pytest.raises(StorageUnavailable, match="at the moment"):
            await attempt()


async def test_a_ping_says_whether_the_store_would_serve(place: Place, tmp_path: Path, s3: Buckets) -> None:
    assert await place.storage.ping()
    assert not await Storage(module._s3("no-such-bucket", "", access(s3))).ping()
    gone = await open_directory(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert not await gone.ping()


async def test_a_slow_reader_is_given_its_time(s3: Buckets, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(module.CLIENT, "read_timeout", "500ms")
    monkeypatch.setitem(module.RETRY, "max_retries", 0)
    storage = await open_store(f"s3://{s3.make()}", Path(), access(s3))
    await storage.put("u/f", stream(*[b"x" * MIB] * 30), limit=30 * MIB)
    chunks = await storage.read("u/f")
    size = 0
    for _ in range(2):
        size += len(await anext(chunks))
        await asyncio.sleep(0.8)
    assert size + sum([len(chunk) async for chunk in chunks]) == 30 * MIB


async def test_credentials_come_from_the_environment_where_none_are_given(
    s3: Buckets, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "id")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "key")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    storage = await open_store(f"s3://{s3.make()}", Path(), S3Access(s3.url))
    assert await storage.ping()
