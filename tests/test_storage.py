"""Files: streamed, counted, whole or absent, on real disks that fill up and break."""

import asyncio
import hashlib
import os
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from obstore.store import MemoryStore

from infra.storage import (
    FileMissing,
    Storage,
    StorageFull,
    StorageUnavailable,
    TooLarge,
    open_directory,
)

PROJECT = Path(__file__).parent.parent
MIB = 1 << 20


@pytest.fixture(params=["disk", "memory"])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    return await open_directory(tmp_path / "files") if request.param == "disk" else Storage(MemoryStore())


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


async def test_what_was_streamed_in_streams_out_counted_and_hashed(storage: Storage) -> None:
    data = os.urandom(7 * MIB + 3)
    chunks = [data[start : start + 100_000] for start in range(0, len(data), 100_000)]
    stored = await storage.put("u/big", stream(*chunks), limit=8 * MIB)
    assert (stored.size, stored.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    sizes = [len(chunk) async for chunk in await storage.read("u/big")]
    assert sum(sizes) == len(data)
    assert await content(storage, "u/big") == data


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


async def test_one_byte_over_the_limit_stores_nothing(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    with pytest.raises(TooLarge, match="larger than 9 bytes") as caught:
        await storage.put("u/f", stream(b"01234", b"56789"), limit=9)
    assert caught.value.limit == 9
    with pytest.raises(TooLarge):
        await storage.put("u/g", stream(*[b"x" * MIB] * 20), limit=19 * MIB)
    assert files_below(tmp_path) == []
    assert (await storage.put("u/f", stream(b"01234", b"56789"), limit=10)).size == 10


async def test_a_sender_that_fails_leaves_nothing_and_hears_its_own_error(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)

    async def broken() -> AsyncIterator[bytes]:
        yield b"x" * (6 * MIB)
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        await storage.put("u/f", broken(), limit=100 * MIB)
    assert files_below(tmp_path) == []


async def test_a_cancelled_upload_leaves_nothing(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)
    begun = asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (6 * MIB)
        begun.set()
        await asyncio.Event().wait()

    upload = asyncio.create_task(storage.put("u/f", slow(), limit=100 * MIB))
    async with asyncio.timeout(20):
        await begun.wait()
    upload.cancel()
    with pytest.raises(asyncio.CancelledError):
        await upload
    async with asyncio.timeout(20):
        while files_below(tmp_path):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_a_file_is_seen_only_when_it_is_whole(tmp_path: Path) -> None:
    storage = await open_directory(tmp_path)

    async def looking() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"x" * (6 * MIB)
            with pytest.raises(FileMissing):
                await storage.read("u/f")

    await storage.put("u/f", looking(), limit=100 * MIB)
    assert files_below(tmp_path) == ["u/f"]


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
