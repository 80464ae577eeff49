"""Files of users: rows in the database, bytes in the store; in as forms and downloads, out in ranges."""

import asyncio
import base64
import errno
import hashlib
import re
import time
import unicodedata
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Literal, NamedTuple
from urllib.parse import quote
from uuid import UUID

import asyncpg
import orjson
import structlog
from fastapi import Depends, Query, Request
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response, StreamingResponse

import db
from clerk_auth import Caller, get_current_caller, readmit
from infra import sniff
from infra.forms import FORM_BYTES, FileForm
from infra.sniff import HEAD_BYTES
from infra.storage import (
    CHUNK_BYTES,
    FileMissing,
    Storage,
    StorageFull,
    StorageUnavailable,
    Stored,
    TooLarge,
)
from infra.vault import Unsealable, Vault
from models import File, Quota, uuid7
from schemas import ContentHeaders, FileLink, FileRead, clean_file_name
from settings import settings

log = structlog.get_logger()

UPLOADS_AT_ONCE = 8  # of one user, in one process
STALLED_SECONDS = 60
LINK_SECONDS = 300
RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.IGNORECASE | re.ASCII)
TAG = re.compile(r'\*|"[^"]*"')
FAILURES = (StorageUnavailable, TooLarge, OSError, asyncpg.IntegrityConstraintViolationError, *db.AWAY)
"""Why `save` may fail for what was made in the background: its run may be deleted meanwhile, too."""


class QuotaExceeded(StorageFull):
    """All of the user's files together would be too large."""


class TooManyUploads(Exception):
    """The user has too many uploads on their way."""


class UploadStalled(Exception):
    """The sender fell silent in the middle of a file."""


class LinkInvalid(Exception):
    """The link was altered, is for another file, has expired, or its user is refused by now."""

    def __init__(self) -> None:
        super().__init__("The link is not valid or has expired.")


class RangeNotSatisfiable(Exception):
    """The range begins beyond the file's end."""

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes.")
        self.headers = {"Content-Range": f"bytes */{size}"}


class Arrived(NamedTuple):
    """What came into the store, and how it begins."""

    stored: Stored
    head: bytes


_storage: Storage | None = None
_vault: Vault | None = None
_uploads: Counter[str] = Counter()


def start(storage: Storage) -> None:
    """Keep files in `storage`."""
    global _storage  # noqa: PLW0603 - one store a process
    _storage = storage


def seal_links(vault: Vault) -> None:
    """Seal links to files, and open them, with the keys of `vault`."""
    global _vault  # noqa: PLW0603 - one ring of keys a process
    _vault = vault


def _store() -> Storage:
    if _storage is None:
        raise StorageUnavailable("The file store is not open.")
    return _storage


def place_of(user_id: str) -> str:
    """Where all of a user's bytes are: the beginning of the digest that `erased_users` keeps."""
    return hashlib.sha256(user_id.encode()).hexdigest()[:32]


@asynccontextmanager
async def _kept(
    user_id: str, file_id: UUID, key: str, chunks: AsyncIterator[bytes], limit: int
) -> AsyncIterator[Arrived]:
    """Bytes in the store for as long as their row takes to be committed; they go when it is not.

    Upkeep is told of them before, so those of a process that dies in between are removed, too.
    """
    head = bytearray()

    async def seen() -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            head.extend(chunk[: HEAD_BYTES - len(head)])
            yield chunk

    async with db.as_user(user_id) as tx:
        await tx.call("intend_file", key)
    async with aclosing(seen()) as source:
        stored = await _store().put(key, source, limit=limit)
    try:
        yield Arrived(stored, bytes(head))
    except BaseException:
        await asyncio.shield(_discard(user_id, file_id, key))
        raise


async def _discard(user_id: str, file_id: UUID, key: str) -> None:
    """Remove the bytes unless their row is there: a commit may land though its answer is lost."""
    try:
        async with db.as_user(user_id) as tx:
            landed = bool(await tx.find(File, id=file_id))
    except db.AWAY as error:
        log.warning("file_left_behind", place=key, error=repr(error))
        return
    if not landed:
        await remove(key)


async def save(
    user_id: str,
    *,
    kind: Literal["screenshot", "download", "upload", "recording"],
    name: str,
    data: bytes | Path | AsyncIterator[bytes],
    limit: int,
    content_type: str | None = None,
    run_id: UUID | None = None,
    computer_id: UUID | None = None,
    actor: str = "system",
    more: Callable[[db.Tx, File], Awaitable[None]] | None = None,
) -> File:
    """Store the bytes, then their row with its event; nothing is left behind when either fails.

    Without a `content_type` the bytes tell it; `more` writes in the row's transaction. Raises TooLarge
    beyond `limit` bytes, QuotaExceeded, StorageFull, StorageUnavailable, db.Unavailable.
    """
    file_id = uuid7()
    key = f"{place_of(user_id)}/{run_id or 'files'}/{file_id}"
    name = clean_file_name(name)
    async with (
        _kept(user_id, file_id, key, _chunks(data), limit) as arrived,
        db.as_user(user_id, actor) as tx,
    ):
        await _check_quota(tx, arrived.stored.size)
        file = await tx.add(
            File,
            id=file_id,
            kind=kind,
            name=name,
            content_type=content_type or sniff.content_type(arrived.head, name),
            size=arrived.stored.size,
            sha256=arrived.stored.sha256,
            storage_key=key,
            run_id=run_id,
            computer_id=computer_id,
        )
        if more is not None:
            await more(tx, file)
        tx.announce("file.created", file, FileRead, run_id=run_id)
    return file


async def _check_quota(tx: db.Tx, size: int) -> None:
    """Raise QuotaExceeded where the user's files may not have `size` more bytes; one asks at a time."""
    for quota in await tx.find(Quota, lock=True):
        most = quota.max_storage_bytes
        if most is None:
            most = settings.max_storage_mb_per_user * 2**20 or None
        if most is not None and quota.stored_bytes + size > most:
            raise QuotaExceeded(f"Your files may have {most} bytes in all. Delete some first.")


async def _chunks(data: bytes | Path | AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    if isinstance(data, bytes):
        yield data
    elif isinstance(data, Path):
        with data.open("rb") as file:
            while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
                yield chunk
    else:
        async for chunk in data:
            yield chunk


# In ---------------------------------------------------------------------------------------------


async def upload(caller: Caller, request: Request, idempotency_key: str | None) -> Response:
    """Store the one file of a form while it arrives, and answer with its row.

    A repeat under the same key sends the bytes again; name and SHA-256 tell whether it is one. Raises
    NotAForm, InvalidForm, TooLarge, QuotaExceeded, TooManyUploads, UploadStalled, ClientDisconnect,
    StorageUnavailable, and what `db.as_user` raises.
    """
    form = FileForm(request.headers.get("content-type", ""), fields=("name",))
    declared = int(request.headers.get("content-length", FORM_BYTES))
    async with db.as_user(caller.user_id) as tx:
        await _check_quota(tx, max(declared - FORM_BYTES, 0))
    file_id = uuid7()
    key = f"{place_of(caller.user_id)}/files/{file_id}"
    limit = settings.max_upload_mb * 2**20
    with _counted(caller.user_id):
        async with _kept(caller.user_id, file_id, key, form.file(_body(request)), limit) as arrived:
            name = clean_file_name(form.fields.get("name") or form.file_name)
            once = idempotency_key and db.Idempotency(idempotency_key, _fingerprint(name, arrived.stored))
            await readmit(caller)  # the bytes may have taken hours
            async with db.as_user(caller.user_id, caller.actor, once or None) as tx:
                await _check_quota(tx, arrived.stored.size)
                return await tx.create(
                    File,
                    FileRead,
                    id=file_id,
                    kind="upload",
                    name=name,
                    content_type=sniff.content_type(arrived.head, name),
                    size=arrived.stored.size,
                    sha256=arrived.stored.sha256,
                    storage_key=key,
                )


def _fingerprint(name: str, stored: Stored) -> str:
    return db.vault().fingerprint(f"POST /api/files\n{stored.sha256}\n{name}".encode())


@contextmanager
def _counted(user_id: str) -> Iterator[None]:
    """Each upload on its way holds some MiB of memory, however slowly it comes."""
    if _uploads[user_id] >= UPLOADS_AT_ONCE:
        raise TooManyUploads(f"At most {UPLOADS_AT_ONCE} uploads may go on at once.")
    _uploads[user_id] += 1
    try:
        yield
    finally:
        _uploads[user_id] -= 1
        if not _uploads[user_id]:
            del _uploads[user_id]


async def _body(request: Request) -> AsyncIterator[bytes]:
    stream = request.stream()
    while True:
        try:
            async with asyncio.timeout(STALLED_SECONDS):
                chunk = await anext(stream, None)
        except TimeoutError:
            raise UploadStalled(f"Nothing came for {STALLED_SECONDS} seconds.") from None
        if chunk is None:
            return
        yield chunk


# Out --------------------------------------------------------------------------------------------


async def content(user_id: str, id: UUID, asked: ContentHeaders) -> Response:
    """The bytes, whole (200) or one range of them (206), none if they are known (304); RFC 9110, 13 to 15.

    Several ranges are answered whole. Only a plain picture is shown, all else is for saving. Raises
    NoResultFound, RangeNotSatisfiable, FileMissing, StorageUnavailable.
    """
    async with db.as_user(user_id) as tx:
        file = await tx.one(File, id=id)
    tag = f'"{file.sha256}"'
    shown = file.content_type in sniff.PICTURES
    headers = {
        "ETag": tag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, no-cache",
        "Content-Disposition": f"{'inline' if shown else 'attachment'}; {_file_name(file.name)}",
        "Content-Security-Policy": "default-src 'none'; sandbox",
        "X-Content-Type-Options": "nosniff",
    }
    if asked.if_none_match is not None and {"*", tag} & set(TAG.findall(asked.if_none_match)):
        return Response(None, 304, headers)
    kind = file.content_type if file.content_type not in sniff.ACTIVE else sniff.UNKNOWN
    part = _range(asked.range, file.size) if asked.if_range in (None, tag) else None
    begin, end = part or (0, file.size)
    headers["Content-Length"] = str(end - begin)
    if part:
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{file.size}"
    chunks = await _store().read(file.storage_key, *(part or ()))
    return StreamingResponse(chunks, 206 if part else 200, headers, kind)


def _range(header: str | None, size: int) -> tuple[int, int] | None:
    """The one range asked for, as begin and end; nothing where the header is no such thing."""
    match = RANGE.fullmatch(header or "")
    if match is None or not (match[1] or match[2]):
        return None
    begin = int(match[1]) if match[1] else max(size - int(match[2]), 0)
    end = min(int(match[2]) + 1, size) if match[1] and match[2] else size
    if begin >= end:
        raise RangeNotSatisfiable(size)
    return begin, end


def _file_name(name: str) -> str:
    """The parameters of Content-Disposition: for everyone in ASCII, and whole (RFC 6266, 4.3)."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    plain = re.sub(r'[^ -~]|["\\%]', "_", plain).strip() or "file"
    return f"filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"


# Links ------------------------------------------------------------------------------------------


async def link(user_id: str, id: UUID) -> FileLink:
    """An address that gives the file to whoever has it, for `LINK_SECONDS`. Raises NoResultFound."""
    async with db.as_user(user_id) as tx:
        await tx.one(File, id=id)
    expires_at = datetime.now(UTC) + timedelta(seconds=LINK_SECONDS)
    told = orjson.dumps([user_id, expires_at.timestamp()])
    sealed = _keys().seal(told, table="files", column="link", row=id, user="")
    token = base64.urlsafe_b64encode(sealed).rstrip(b"=").decode()
    return FileLink(url=f"{settings.address}/api/files/{id}/content?link={token}", expires_at=expires_at)


async def get_reader(
    request: Request,
    id: UUID,
    link: Annotated[str | None, Query(max_length=2000, description="Of `POST /api/files/{id}/link`.")] = None,
) -> str:
    """Who may read the file: who sent the request, or whoever made its link.

    Raises LinkInvalid, and what `get_current_caller` raises.
    """
    if link is None:
        return (await get_current_caller(request)).user_id
    try:
        sealed = base64.b64decode(link + "=" * (-len(link) % 4), b"-_", validate=True)
        told = _keys().unseal(sealed, table="files", column="link", row=id, user="")
    except (ValueError, Unsealable) as error:
        raise LinkInvalid from error
    user_id, expires_at = orjson.loads(told)
    standing = await db.ensure_user(user_id)
    if time.time() >= expires_at or standing.disabled or standing.erased:
        raise LinkInvalid
    return str(user_id)


Reader = Annotated[str, Depends(get_reader)]


def _keys() -> Vault:
    if _vault is None:
        raise StorageUnavailable("Links cannot be made or read at the moment.")
    return _vault


# To and from browsers, and away -----------------------------------------------------------------


async def read_part(file: File, begin: int, end: int) -> bytes:
    """The bytes from `begin` to before `end`. Raises FileMissing, StorageUnavailable."""
    return b"".join([chunk async for chunk in await _store().read(file.storage_key, begin, end)])


@asynccontextmanager
async def fetched(user_id: str, id: str, directory: Path) -> AsyncIterator[tuple[str, Path]]:
    """A file's name, and its bytes as a file in `directory` meanwhile; raises OSError."""
    path = directory / str(uuid7())
    try:
        yield await _fetch(user_id, id, path), path
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)


async def _fetch(user_id: str, id: str, path: Path) -> str:
    try:
        async with db.as_user(user_id) as tx:
            file = await tx.one(File, id=UUID(id))
        chunks = await _store().read(file.storage_key)
        await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        target = await asyncio.to_thread(path.open, "wb")
        with target:
            async for chunk in chunks:
                await asyncio.to_thread(target.write, chunk)
    except (ValueError, NoResultFound, FileMissing) as error:
        raise OSError(errno.ENOENT, "there is no such file, or it is not yours") from error
    except StorageUnavailable as error:
        raise OSError(errno.EIO, str(error)) from error
    return file.name


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
