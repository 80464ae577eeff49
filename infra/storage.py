"""Files and recordings: streamed into an object store and out of it, whole or not at all."""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError
from obstore.store import LocalStore, ObjectStore

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024
ABANDONED_SECONDS = 24 * 3600
SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
KEY = re.compile(rf"{SEGMENT}(/{SEGMENT}){{0,7}}")
FULL = re.compile("kind: (StorageFull|QuotaExceeded|FileTooLarge)")


class TooLarge(Exception):
    """The file is larger than its limit; `limit` is in bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file is larger than {limit} bytes, the most that is allowed here.")
        self.limit = limit


class FileMissing(Exception):
    """No file is stored under this key."""


class StorageUnavailable(Exception):
    """The store does not answer or does not let us in."""


class StorageFull(StorageUnavailable):
    """The store has no room left."""


@dataclass(frozen=True)
class Stored:
    """What was stored: `size` in bytes, `sha256` in hexadecimal."""

    size: int
    sha256: str


class Storage:
    """Files by key (`a/b`, made by the server) in any object store."""

    def __init__(self, store: ObjectStore, directory: Path | None = None) -> None:
        """`directory` is where a store on disk keeps its files, so that they can be flushed."""
        self._store = store
        self._directory = directory

    async def put(self, key: str, chunks: AsyncIterator[bytes] | bytes, *, limit: int) -> Stored:
        """Store the bytes under `key`, durably and whole, or nothing at all when anything fails.

        Raises TooLarge beyond `limit` bytes, StorageFull, StorageUnavailable, and whatever `chunks` raises.
        """
        digest = hashlib.sha256()
        size = 0

        async def counted() -> AsyncIterator[bytes]:
            nonlocal size
            async for chunk in _pieces(chunks) if isinstance(chunks, bytes) else chunks:
                size += len(chunk)
                if size > limit:
                    raise TooLarge(limit)
                digest.update(chunk)
                yield chunk

        try:
            await obstore.put_async(self._store, _checked(key), counted(), max_concurrency=2)
        except BaseError as error:
            raise _failure(error) from error
        if self._directory is not None:
            try:
                await asyncio.to_thread(_flush, self._directory / key)
            except OSError as error:
                await self.delete(key)
                raise StorageUnavailable(f"The file could not be flushed to disk: {error}.") from error
        return Stored(size, digest.hexdigest())

    async def read(self, key: str, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        """Open a file and return its bytes from `start` to before `end`, clipped to its size, in chunks.

        Raises FileMissing and StorageUnavailable here, before the first chunk.
        """
        if start < 0 or (end is not None and end < start):
            raise ValueError(f"Bytes {start} to {end} are not a range.")
        options: GetOptions = {}
        try:
            if start or end is not None:
                size = (await obstore.head_async(self._store, _checked(key)))["size"]
                end = size if end is None else min(end, size)
                if start >= end:
                    return _pieces(b"")
                options = {"range": (start, end)}
            found = await obstore.get_async(self._store, _checked(key), options=options)
        except (FileNotFoundError, NotFoundError):
            raise FileMissing(f"No file is stored under {key}.") from None
        except BaseError as error:
            raise _failure(error) from error
        return _chunks(found)

    async def answers(self) -> bool:
        """Whether the store can be reached, and the directory of one on disk written to."""
        try:
            with suppress(FileNotFoundError, NotFoundError):
                await obstore.head_async(self._store, "ready")
        except BaseError as error:
            log.warning("storage_unreachable", error=str(error).partition("\n")[0])
            return False
        return self._directory is None or os.access(self._directory, os.W_OK | os.X_OK)

    async def delete(self, key: str) -> None:
        """Delete a file; one that is not there is deleted already."""
        try:
            with suppress(FileNotFoundError, NotFoundError):
                await obstore.delete_async(self._store, _checked(key))
        except BaseError as error:
            raise _failure(error) from error

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with the segments of `prefix`: `a` means `a/b`, not `ab`."""
        try:
            while files := await anext(obstore.list(self._store, _checked(prefix), chunk_size=1000), None):
                with suppress(FileNotFoundError, NotFoundError):
                    await obstore.delete_async(self._store, [file["path"] for file in files])
        except BaseError as error:
            raise _failure(error) from error


async def open_directory(directory: Path) -> Storage:
    """Return storage in a private directory, freed of uploads that a crash cut off a day ago or earlier.

    Raises StorageUnavailable.
    """
    try:
        await asyncio.to_thread(_prepare, directory)
    except OSError as error:
        raise StorageUnavailable(
            f"Files cannot be kept in {directory}: {error}. Set DATA_DIR to a directory this user may write."
        ) from error
    return Storage(LocalStore(directory), directory)


def _prepare(directory: Path) -> None:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    for upload in directory.rglob("*#*"):
        with suppress(FileNotFoundError):
            if upload.stat().st_mtime < time.time() - ABANDONED_SECONDS:
                upload.unlink()


def _flush(path: Path) -> None:
    """Survive a power cut: the file's bytes, then its name."""
    for part in (path, path.parent):
        descriptor = os.open(part, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _checked(key: str) -> str:
    """Keys are made by the server, so this is a net: no way up, no way out, no odd names."""
    if not KEY.fullmatch(key):
        raise ValueError(f"{key!r} is not a key of a file.")
    return key


def _failure(error: BaseError) -> StorageUnavailable:
    """The stores tell a full disk from other failures only in their words."""
    log.error("storage_failed", error=str(error).partition("\n")[0])
    if FULL.search(str(error)):
        return StorageFull("There is no room left for files. Free some space, or ask an administrator to.")
    return StorageUnavailable(
        "Files cannot be stored or read at the moment. Try again, or tell an administrator."
    )


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for offset in range(0, len(data), CHUNK_BYTES):
        yield data[offset : offset + CHUNK_BYTES]


async def _chunks(found: "GetResult") -> AsyncIterator[bytes]:
    try:
        async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)
    except BaseError as error:
        raise _failure(error) from error
