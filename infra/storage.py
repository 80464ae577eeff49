"""Files and recordings: streamed into an object store and out of it, whole or not at all."""

import asyncio
import hashlib
import os
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import obstore
import structlog
from obstore.exceptions import BaseError, NotFoundError, PermissionDeniedError, UnauthenticatedError
from obstore.store import LocalStore, ObjectStore, S3Store

if TYPE_CHECKING:
    from obstore import GetOptions, GetResult
    from obstore.store import ClientConfig, RetryConfig, S3Config

log = structlog.get_logger()

CHUNK_BYTES = 256 * 1024
PART_BYTES = 5 * 2**20  # the least that S3 takes as a part of an upload; a smaller file is one request
ABANDONED_SECONDS = 24 * 3600
START_SECONDS = 10
PING_SECONDS = 3
ABORT_SECONDS = 3
# No limit on a whole request: a slow client may take an hour to fetch what the store sends in a second.
CLIENT: "ClientConfig" = {"connect_timeout": "3s", "read_timeout": "30s", "timeout": "1day"}
RETRY: "RetryConfig" = {
    "max_retries": 3,
    "retry_timeout": timedelta(seconds=10),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=2),
        "base": 2,
    },
}
SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}"
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,254}")
ENDPOINT = re.compile(r"https?://[A-Za-z0-9.\[\]:-]+(/[A-Za-z0-9._~-]+)*/?")
KEY = re.compile(rf"{SEGMENT}(/{SEGMENT}){{0,7}}")
FULL = re.compile("kind: (StorageFull|QuotaExceeded|FileTooLarge)")
_FAILURES = (BaseError, FileNotFoundError)


class TooLarge(Exception):
    """The file is larger than it may be: `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The file is larger than {limit} bytes, the most that is allowed here.")
        self.limit = limit


class FileMissing(Exception):
    """No file is stored under this key."""


class StorageUnavailable(Exception):
    """The store does not answer or does not let us in."""


class StorageFull(StorageUnavailable):
    """The store has no room left."""


class _Cut(Exception):
    """An upload was cancelled."""


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

        async def counted() -> AsyncGenerator[bytes, None]:
            nonlocal size
            async for chunk in _pieces(chunks) if isinstance(chunks, bytes) else chunks:
                size += len(chunk)
                if size > limit:
                    raise TooLarge(limit)
                digest.update(chunk)
                yield chunk

        _checked(key)
        try:
            async with aclosing(counted()) as source:
                first = await _first(source)
                whole = len(first) < PART_BYTES
                await (
                    obstore.put_async(self._store, key, first) if whole else self._send(key, first, source)
                )
        except _FAILURES as error:
            raise _failure(error) from error
        except asyncio.CancelledError:
            with suppress(StorageUnavailable, TimeoutError):  # what was on its way may have arrived
                async with asyncio.timeout(ABORT_SECONDS):
                    await self.delete(key)
            raise
        if self._directory is not None:
            try:
                await asyncio.to_thread(_flush, self._directory / key)
            except OSError as error:
                await self.delete(key)
                raise StorageUnavailable(f"The file could not be flushed to disk: {error}.") from error
        return Stored(size, digest.hexdigest())

    async def _send(self, key: str, first: bytes, rest: AsyncIterator[bytes]) -> None:
        """Upload in parts; cancelled, end through the source, since parts of a dropped upload would stay."""
        reading: asyncio.Task[None] | None = None
        cut = False

        async def source() -> AsyncIterator[bytes]:
            nonlocal reading
            chunk: bytes | None = first
            while chunk is not None:
                yield chunk
                reading = asyncio.current_task()
                if cut:
                    raise _Cut
                try:
                    chunk = await anext(rest, None)
                except asyncio.CancelledError:
                    raise _Cut from None
                reading = None

        upload = asyncio.ensure_future(
            obstore.put_async(self._store, key, source(), chunk_size=PART_BYTES, max_concurrency=2)
        )
        try:
            await asyncio.shield(upload)
        except asyncio.CancelledError:
            cut = True
            if reading is not None:
                reading.cancel()
            with suppress(_Cut, TimeoutError, *_FAILURES):
                async with asyncio.timeout(ABORT_SECONDS):
                    await upload
            raise

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
        except _FAILURES as error:
            if _missing(error):
                raise FileMissing(f"No file is stored under {key}.") from None
            raise _failure(error) from error
        return _chunks(found)

    async def delete(self, key: str) -> None:
        """Delete a file; one that is not there is deleted already."""
        try:
            await obstore.delete_async(self._store, _checked(key))
        except _FAILURES as error:
            if not _missing(error):
                raise _failure(error) from error

    async def delete_prefix(self, prefix: str) -> None:
        """Delete every file whose key begins with the segments of `prefix`: `a` means `a/b`, not `ab`."""
        try:
            while files := await anext(obstore.list(self._store, _checked(prefix), chunk_size=1000), None):
                try:
                    await obstore.delete_async(self._store, [file["path"] for file in files])
                except _FAILURES as error:
                    if not _missing(error):
                        raise
        except _FAILURES as error:
            raise _failure(error) from error

    async def ping(self) -> bool:
        """Whether the store answers and lets us in, asked with one small request."""
        if self._directory is not None:
            return await asyncio.to_thread(os.access, self._directory, os.R_OK | os.W_OK | os.X_OK)
        try:
            async with asyncio.timeout(PING_SECONDS):
                await self.read("probe/none")
        except FileMissing:
            return True
        except (StorageUnavailable, TimeoutError):
            return False
        return True


@dataclass(frozen=True)
class S3Access:
    """How to reach an S3-compatible store; what is empty, obstore finds where AWS's own tools do."""

    endpoint: str = ""
    region: str = ""
    key_id: str = ""
    secret: str = ""


async def open_store(url: str, directory: Path, access: S3Access) -> Storage:
    """Return storage at `s3://bucket/prefix` or `file:///path`, or in `directory` where `url` is empty.

    A bucket is tried with a small object first. Raises StorageUnavailable.
    """
    if not url:
        return await open_directory(directory)
    parts = urlsplit(url)
    prefix = parts.path.strip("/")
    if url == f"file://{parts.path}" and prefix:
        return await open_directory(Path(unquote(parts.path)))
    named = url.startswith(f"s3://{parts.netloc}") and BUCKET.fullmatch(parts.netloc)
    if not named or parts.query or parts.fragment or (prefix and not KEY.fullmatch(prefix)):
        raise StorageUnavailable("FILES_URL must be s3://bucket/prefix or file:///path.")
    if access.endpoint and not ENDPOINT.fullmatch(access.endpoint):
        raise StorageUnavailable("S3_ENDPOINT must be the https:// address of an object store.")
    try:
        bucket = Storage(_s3(parts.netloc, prefix, access))
        async with asyncio.timeout(START_SECONDS):
            await _try(bucket)
    except (BaseError, ValueError, StorageUnavailable, TimeoutError) as error:
        where = f"the bucket {parts.netloc} at {access.endpoint or 'AWS'}"
        raise StorageUnavailable(_why_not(where, error)) from error
    return bucket


def _s3(bucket: str, prefix: str, access: S3Access) -> S3Store:
    given = {
        "endpoint": access.endpoint,
        "region": access.region,
        "access_key_id": access.key_id,
        "secret_access_key": access.secret,
    }
    config: S3Config = {name: value for name, value in given.items() if value}  # type: ignore[assignment]
    client: ClientConfig = {**CLIENT, "allow_http": access.endpoint.startswith("http://")}
    return S3Store(bucket, prefix=prefix or None, config=config, client_options=client, retry_config=RETRY)


async def _try(storage: Storage) -> None:
    """Write, read, list and delete, as the server will have to."""
    place, data = f"probe/{uuid4().hex}", b"CUA Backend"
    await storage.put(f"{place}/1", data, limit=len(data))
    found = b"".join([chunk async for chunk in await storage.read(f"{place}/1")])
    await storage.delete_prefix(place)
    if found != data:
        raise StorageUnavailable("What was read differs from what was written.")


def _why_not(where: str, error: Exception) -> str:
    cause = error.__cause__ or error
    if isinstance(cause, PermissionDeniedError | UnauthenticatedError):
        return (
            f"Files cannot be kept: {where} refuses us. Check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
            "and that they may list, read, write and delete there."
        )
    if isinstance(cause, FileNotFoundError):
        return f"Files cannot be kept: there is no such thing as {where}. Check FILES_URL and S3_ENDPOINT."
    reason = str(cause).partition("\n")[0] or f"nothing within {START_SECONDS} seconds"
    return f"Files cannot be kept: {where} does not serve us ({reason}). Check FILES_URL and S3_ENDPOINT."


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


def _missing(error: Exception) -> bool:
    """Whether only the object is absent: a bucket that is gone is told by the same exception."""
    return isinstance(error, FileNotFoundError | NotFoundError) and "NoSuchBucket" not in str(error)


def _failure(error: Exception) -> StorageUnavailable:
    """The stores tell a full disk from other failures only in their words."""
    log.error("storage_failed", error=str(error).partition("\n")[0])
    if FULL.search(str(error)):
        return StorageFull("There is no room left for files. Free some space, or ask an administrator to.")
    return StorageUnavailable(
        "Files cannot be stored or read at the moment. Try again, or tell an administrator."
    )


async def _first(source: AsyncIterator[bytes]) -> bytes:
    """The bytes of the first part, or all where there are fewer."""
    chunks: list[bytes] = []
    size = 0
    while size < PART_BYTES and (chunk := await anext(source, None)) is not None:
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for offset in range(0, len(data), CHUNK_BYTES):
        yield data[offset : offset + CHUNK_BYTES]


async def _chunks(found: "GetResult") -> AsyncIterator[bytes]:
    try:
        async for chunk in found.stream(min_chunk_size=CHUNK_BYTES):
            yield bytes(chunk)
    except BaseError as error:
        raise _failure(error) from error
