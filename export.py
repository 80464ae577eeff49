"""All that is kept of a user as one zip, made while it is read: nothing is held open for a slow reader."""

import asyncio
import re
import unicodedata
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast
from uuid import UUID
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import structlog
from pydantic import BaseModel
from sqlalchemy.exc import NoResultFound
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

import clerk_auth
import db
from infra.storage import FileMissing
from models import (
    ApiKey,
    Approval,
    AuthSession,
    Base,
    Computer,
    Delivery,
    Event,
    File,
    Frame,
    IdempotencyKey,
    Message,
    Outbox,
    Profile,
    Quota,
    Run,
    Schedule,
    Secret,
    Step,
    Stream,
    Thread,
    Turn,
    Usage,
    User,
    Webhook,
    Workflow,
    WorkflowVersion,
)
from runs import files
from schemas import (
    ApprovalRead,
    ComputerRead,
    DeliveryRead,
    EventRead,
    FileRead,
    FrameExport,
    KeyRead,
    MeExport,
    MessageRead,
    ProfileRead,
    RunDetail,
    ScheduleRead,
    SecretRead,
    SessionRead,
    StepRead,
    ThreadRead,
    TurnRead,
    UsageDay,
    VersionRead,
    WebhookRead,
    WorkflowDetail,
)

log = structlog.get_logger()

FEW, MANY = 8, 400  # rows of one read: of things that may take megabytes each, and of all others
PIECE_BYTES = 2**20
NAME_BYTES = 120
UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of thing, in its wire form, read in pages `by` a key."""

    model: type[Base]
    shape: type[BaseModel]
    what: str
    rows: int = MANY
    by: str = "id"

    @property
    def name(self) -> str:
        return f"{self.model.collection()}.jsonl"


KINDS = (
    Kind(User, MeExport, "who you are and your preferences"),
    Kind(Usage, UsageDay, "what you used on each day (UTC)", by="day"),
    Kind(AuthSession, SessionRead, "your sign-ins"),
    Kind(ApiKey, KeyRead, "your API keys, without the keys themselves"),
    Kind(Secret, SecretRead, "your secrets, without their values"),
    Kind(Profile, ProfileRead, "your browser profiles, without cookies and storage"),
    Kind(Computer, ComputerRead, "your computers"),
    Kind(Thread, ThreadRead, "your threads"),
    Kind(Message, MessageRead, "what was said in threads and to runs", FEW),
    Kind(Workflow, WorkflowDetail, "your workflows", FEW),
    Kind(WorkflowVersion, VersionRead, "what each workflow was before", FEW),
    Kind(Schedule, ScheduleRead, "your schedules", FEW),
    Kind(Run, RunDetail, "your runs with their results", FEW),
    Kind(Step, StepRead, "the steps of your runs", FEW),
    Kind(Turn, TurnRead, "what models were told and replied", FEW),
    Kind(Approval, ApprovalRead, "what runs asked you", FEW),
    Kind(Frame, FrameExport, "the pictures of recordings: where each lies in its file"),
    Kind(Webhook, WebhookRead, "your webhooks, without their signing secrets"),
    Kind(Delivery, DeliveryRead, "what was sent to webhooks", FEW),
    Kind(Event, EventRead, "everything that happened", by="seq"),
    Kind(File, FileRead, "your files; their contents are files/<id>/<name>"),
)
LEFT_OUT = (IdempotencyKey, Outbox, Quota, Stream)
"""Bookkeeping: it says nothing of a user that the rest does not."""

README = """Everything that CUA Backend keeps of one user, as of {now:%Y-%m-%d %H:%M} UTC.

Each line of a .jsonl file is one thing as JSON, oldest first, as the API shows it:

{kinds}

Secrets, API keys, cookies and passwords are kept sealed and are not here.
The file was written while the system went on: what changed meanwhile may be here as it was before or after.
Files that went meanwhile are named in missing.txt, if there are any.
"""


@dataclass(slots=True)
class _Sink:
    """Where the zip is written to, and taken from piece by piece."""

    parts: list[bytes] = field(default_factory=list)

    def write(self, data: bytes | memoryview) -> int:
        self.parts.append(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing waits elsewhere."""

    def take(self) -> bytes:
        taken, self.parts = b"".join(self.parts), []
        return taken


class Zip(StreamingResponse):
    """A zip whose making ends with its reply, also when the reader leaves."""

    media_type = "application/zip"

    def __init__(self, chunks: AsyncGenerator[bytes, None], name: str) -> None:
        super().__init__(chunks, headers={"Content-Disposition": f'attachment; filename="{name}"'})
        self._chunks = chunks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._chunks):
            await super().__call__(scope, receive, send)


async def download(caller: clerk_auth.Caller) -> StreamingResponse:
    """The zip as a reply whose memory stays the same however much there is; a disabled user's ends.

    Raises NoResultFound, db.Unavailable.
    """
    if not await db.rows(caller.user_id, User, MeExport, by="id", limit=1):
        raise NoResultFound
    return Zip(_while_admitted(caller), f"cua-export-{datetime.now(UTC):%Y-%m-%d}.zip")


async def _while_admitted(caller: clerk_auth.Caller) -> AsyncGenerator[bytes, None]:
    async with aclosing(_chunks(caller.user_id)) as chunks:
        async for chunk in chunks:
            await clerk_auth.readmit(caller)
            yield chunk


async def _chunks(user_id: str) -> AsyncGenerator[bytes, None]:
    sink = _Sink()
    missing: list[str] = []
    with ZipFile(cast("Any", sink), "w") as archive:
        archive.writestr(_entry("README.txt"), _readme())
        for kind in KINDS:
            with archive.open(_entry(kind.name), "w", force_zip64=True) as entry:
                async for lines in _lines(user_id, kind):
                    await asyncio.to_thread(entry.write, lines)
                    yield sink.take()
        async for row in _files(user_id):
            with archive.open(_file_entry(row), "w") as entry:
                async for piece in _pieces(row, missing):
                    entry.write(piece)
                    yield sink.take()
        if missing:
            archive.writestr(_entry("missing.txt"), "\n".join(missing) + "\n")
    yield sink.take()
    log.info("exported", files_missing=len(missing))


async def _lines(user_id: str, kind: Kind) -> AsyncIterator[bytes]:
    """Pages of the user's things, each read in a transaction of its own."""
    after: object = None
    while True:
        rows = await db.rows(user_id, kind.model, kind.shape, by=kind.by, after=after, limit=kind.rows)
        if rows:
            after = rows[-1][1]
            yield "".join(f"{row[0]}\n" for row in rows).encode()
        if len(rows) < kind.rows:
            return


async def _files(user_id: str) -> AsyncIterator[dict[str, Any]]:
    """What is needed of each file to find its bytes and to name them."""
    extra = ("name", "size", "storage_key", "created_at")
    after: UUID | None = None
    while True:
        rows = await db.rows(user_id, File, FileRead, by="id", after=after, limit=MANY, extra=extra)
        for row in rows:
            after = row[1]
            yield {"id": after, **dict(zip(extra, tuple(row)[2:], strict=True))}
        if len(rows) < MANY:
            return


async def _pieces(row: dict[str, Any], missing: list[str]) -> AsyncIterator[bytes]:
    """A file's bytes; each piece is fetched whole, so that a slow reader keeps no store waiting."""
    for start in range(0, row["size"], PIECE_BYTES):
        try:
            yield await files.piece(row["storage_key"], start, min(start + PIECE_BYTES, row["size"]))
        except FileMissing:
            missing.append(f"files/{row['id']}")
            return


def _readme() -> str:
    kinds = "\n".join(f"  {kind.name:<24}{kind.what}" for kind in KINDS)
    return README.format(now=datetime.now(UTC), kinds=kinds)


def _entry(name: str, at: datetime | None = None) -> ZipInfo:
    at = at or datetime.now(UTC)
    entry = ZipInfo(name, (max(at.year, 1980), at.month, at.day, at.hour, at.minute, at.second))
    entry.compress_type = ZIP_DEFLATED
    entry.external_attr = 0o600 << 16
    return entry


def _file_entry(row: dict[str, Any]) -> ZipInfo:
    """Stored as it is: most are pictures, which do not get smaller."""
    entry = _entry(f"files/{row['id']}/{safe_name(row['name'])}", row["created_at"])
    entry.compress_type, entry.file_size = ZIP_STORED, row["size"]
    return entry


def safe_name(name: str) -> str:
    """A name that every system takes for a file, and for nothing else than one file."""
    cleaned = UNSAFE.sub("_", unicodedata.normalize("NFC", name)).strip(" .")
    stem, dot, suffix = cleaned.rpartition(".")
    suffix = suffix if stem and len(suffix) <= 16 else ""
    stem = stem if suffix else cleaned
    room = NAME_BYTES - len(suffix.encode())
    stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .")
    return (f"{stem}{dot}{suffix}" if suffix else stem) or "file"
