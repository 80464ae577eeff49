"""Files of users: rows in the database, bytes in the store."""

import asyncio
import errno
import hashlib
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Literal
from urllib.parse import quote
from uuid import UUID

import structlog
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response, StreamingResponse

import db
from infra.bus import Bus
from infra.storage import CHUNK_BYTES, FileMissing, Storage, StorageUnavailable
from models import File, uuid7
from schemas import FileRead

log = structlog.get_logger()

SHOWN_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

_storage: Storage | None = None
_removals: set[asyncio.Task[None]] = set()


def start(storage: Storage, bus: Bus) -> None:
    """Keep files in `storage`; what a commit deletes is removed from it when its hint comes."""
    global _storage  # noqa: PLW0603 - one store a process
    _storage = storage
    bus.subscribe("files.deleted", lambda place: _spawn_removal(place.decode()))


async def stop() -> None:
    """Finish the removals that have begun."""
    await asyncio.gather(*_removals)


def _store() -> Storage:
    if _storage is None:
        raise StorageUnavailable("The file store is not open.")
    return _storage


def _place(user_id: str, run_id: UUID | None) -> str:
    return f"{hashlib.sha256(user_id.encode()).hexdigest()[:32]}/{run_id or 'files'}"


async def save(
    user_id: str,
    *,
    kind: Literal["screenshot", "download", "upload", "recording"],
    name: str,
    content_type: str,
    data: bytes | Path | AsyncIterator[bytes],
    limit: int,
    run_id: UUID | None = None,
    computer_id: UUID | None = None,
    actor: str = "system",
    more: Callable[[db.Tx, File], Awaitable[None]] | None = None,
) -> File:
    """Store the bytes, then their row with its event; nothing is left behind when either fails.

    `more` writes in the row's transaction. Raises TooLarge beyond `limit` bytes, StorageFull,
    StorageUnavailable, db.Unavailable.
    """
    file_id = uuid7()
    key = f"{_place(user_id, run_id)}/{file_id}"
    stored = await _store().put(key, _pieces(data) if isinstance(data, Path) else data, limit=limit)
    try:
        async with db.as_user(user_id, actor) as tx:
            file = await tx.add(
                File,
                id=file_id,
                kind=kind,
                name=name,
                content_type=content_type,
                size=stored.size,
                sha256=stored.sha256,
                storage_key=key,
                run_id=run_id,
                computer_id=computer_id,
            )
            if more is not None:
                await more(tx, file)
            tx.announce("file.created", file, FileRead, run_id=run_id)
    except BaseException:
        await asyncio.shield(_remove(key))
        raise
    return file


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as file:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk


async def content(user_id: str, id: UUID, range_header: str | None = None) -> Response:
    """The bytes, whole (200) or one range of them (206, RFC 9110 section 14); shown only if a plain picture.

    Raises NoResultFound, FileMissing, StorageUnavailable.
    """
    async with db.as_user(user_id) as tx:
        file = await tx.one(File, id=id)
    disposition = "inline" if file.content_type in SHOWN_TYPES else "attachment"
    headers = {
        "ETag": f'"{file.sha256}"',
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"{disposition}; filename*=UTF-8''{quote(file.name, safe='')}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    begin, end, status = 0, file.size, 200
    if (match := RANGE.fullmatch(range_header or "")) and (match[1] or match[2]):
        first, last = match[1], match[2]
        begin = int(first) if first else max(file.size - int(last), 0)
        end = min(int(last) + 1, file.size) if first and last else file.size
        if begin >= end:
            return Response(status_code=416, headers=headers | {"Content-Range": f"bytes */{file.size}"})
        status = 206
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size}"
    headers["Content-Length"] = str(end - begin)
    chunks = await _store().read(file.storage_key, begin, end)
    return StreamingResponse(chunks, status, headers, file.content_type)


async def read_part(file: File, begin: int, end: int) -> bytes:
    """The bytes from `begin` to before `end`. Raises FileMissing, StorageUnavailable."""
    return b"".join([chunk async for chunk in await _store().read(file.storage_key, begin, end)])


async def fetch(user_id: str, id: str, directory: Path) -> tuple[str, Path]:
    """A file's name, and its bytes as a file in `directory`; raises OSError when it cannot be had."""
    try:
        async with db.as_user(user_id) as tx:
            file = await tx.one(File, id=UUID(id))
        chunks = await _store().read(file.storage_key)
        await asyncio.to_thread(directory.mkdir, parents=True, exist_ok=True)
        target = await asyncio.to_thread((directory / str(file.id)).open, "wb")
        with target:
            async for chunk in chunks:
                await asyncio.to_thread(target.write, chunk)
    except (ValueError, NoResultFound, FileMissing) as error:
        raise OSError(errno.ENOENT, "there is no such file, or it is not yours") from error
    except StorageUnavailable as error:
        raise OSError(errno.EIO, str(error)) from error
    return file.name, directory / str(file.id)


async def delete(tx: db.Tx, id: UUID) -> Response:
    """Delete the file's row; its bytes go once that is committed. Raises NoResultFound."""
    file = await tx.one(File, id=id)
    tx.hint("files.deleted", file.storage_key.encode())
    return await tx.delete(File, id)


def delete_run_files(tx: db.Tx, run_id: UUID) -> None:
    """Remove the bytes of all the run's files once `tx`, which deletes the run, is committed."""
    tx.hint("files.deleted", f"{_place(tx.user_id, run_id)}/".encode())


def _spawn_removal(place: str) -> None:
    task = asyncio.ensure_future(_remove(place))
    _removals.add(task)
    task.add_done_callback(_removals.discard)


async def _remove(place: str) -> None:
    """Remove one object, or all below a place that ends with a slash."""
    try:
        if place.endswith("/"):
            await _store().delete_prefix(place[:-1])
        else:
            await _store().delete(place)
    except StorageUnavailable as error:
        log.warning("file_left_behind", place=place, error=str(error))
