"""Files of users: rows in the database, bytes in the store."""

import asyncio
import errno
import hashlib
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Literal
from urllib.parse import quote
from uuid import UUID

import structlog
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response, StreamingResponse

import db
from infra.storage import CHUNK_BYTES, FileMissing, Storage, StorageUnavailable
from models import File, uuid7
from schemas import FileRead

log = structlog.get_logger()

SHOWN_TYPES = ("image/jpeg", "image/png", "image/webp", "image/gif")
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")

_storage: Storage | None = None


def start(storage: Storage) -> None:
    """Keep files in `storage`."""
    global _storage  # noqa: PLW0603 - one store a process
    _storage = storage


def _store() -> Storage:
    if _storage is None:
        raise StorageUnavailable("The file store is not open.")
    return _storage


def place_of(user_id: str) -> str:
    """Where all of a user's bytes are: the beginning of the digest that `erased_users` keeps."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:32]


async def save(
    user_id: str,
    *,
    kind: Literal["screenshot", "download", "upload"],
    name: str,
    content_type: str,
    data: bytes | Path | AsyncIterator[bytes],
    limit: int,
    run_id: UUID | None = None,
    computer_id: UUID | None = None,
    actor: str = "system",
) -> File:
    """Store the bytes, then their row with its event; nothing is left behind when either fails.

    Bytes of a process that dies in between are removed by upkeep, which was told of them before.
    Raises TooLarge beyond `limit` bytes, StorageFull, StorageUnavailable, db.Unavailable.
    """
    file_id = uuid7()
    key = f"{place_of(user_id)}/{run_id or 'files'}/{file_id}"
    async with db.as_user(user_id) as tx:
        await tx.call("intend_file", key)
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
            tx.announce("file.created", file, FileRead, run_id=run_id)
    except BaseException:
        await asyncio.shield(remove(key))
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


async def piece(storage_key: str, start: int, end: int) -> bytes:
    """The stored bytes from `start` to before `end`. Raises FileMissing, StorageUnavailable."""
    return b"".join([chunk async for chunk in await _store().read(storage_key, start, end)])


async def delete(tx: db.Tx, id: UUID) -> Response:
    """Delete the file's row; its bytes go once that is committed. Raises NoResultFound."""
    tx.hint("removals")
    return await tx.delete(File, id)


async def remove(place: str) -> bool:
    """Remove the bytes at a place, or all below one that ends with a slash; False while the store is away."""
    try:
        if place.endswith("/"):
            await _store().delete_prefix(place[:-1])
        else:
            await _store().delete(place)
    except StorageUnavailable as error:
        log.warning("file_left_behind", place=place, error=str(error))
        return False
    return True
