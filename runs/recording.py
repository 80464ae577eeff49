"""What a run's page looked like: recorded while the run is driven, stored in segments, read by frame."""

import asyncio
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import structlog
from starlette.responses import Response

import db
from browser.recording import Recorder, Segment
from browser.screencast import Screencast
from infra.storage import StorageUnavailable
from models import File, Frame, Run
from runs import files, usage
from schemas import FrameQuery, FrameRead, RecordingRead
from settings import settings

log = structlog.get_logger()

CONTENT_TYPE = "video/x-motion-jpeg"
MAX_SEGMENT_BYTES = 64 * 2**20
MAX_WAITING = 4  # segments on their way to the store
SETTLE_SECONDS = 5.0
EPOCH = datetime.fromtimestamp(0, UTC)

_tasks: set[asyncio.Task[None]] = set()


class Jpeg(Response):
    """A picture."""

    media_type = "image/jpeg"


class Recording:
    """One run's recording by this worker. It never fails or delays the run: what cannot be stored is lost."""

    def __init__(self, run: Run, computer_id: UUID, screencast: Screencast, directory: Path) -> None:
        self._run, self._computer_id = run, computer_id
        self._recorder = Recorder(screencast, directory, self._keep)
        self._turn = asyncio.Lock()
        self._waiting = self._bytes = 0
        self._lead: timedelta | None = None

    def at_step(self, number: int | None) -> None:
        """What is captured from now on belongs to this step, or to none."""
        self._recorder.tag(number)

    def mark(self, jpeg: bytes, captured_us: int) -> None:
        """Keep this picture, the outcome of an action; `captured_us` is from before it was taken."""
        self._recorder.mark(jpeg, captured_us)

    def end(self) -> None:
        """Record no more; what was recorded is stored in the background."""
        _spawn(self._recorder.close())

    def _keep(self, segment: Segment) -> None:
        self._bytes += segment.size
        if self._bytes > settings.recording_mb * 2**20:
            log.info("recording_full", run_id=str(self._run.id))
            self.end()
        self._waiting += 1
        _spawn(self._store(segment))

    async def _store(self, segment: Segment) -> None:
        try:
            if self._waiting > MAX_WAITING:
                raise StorageUnavailable("The file store is too slow.")
            async with self._turn:
                await self._save(segment)
        except files.FAILURES as error:
            log.warning(
                "frames_lost", run_id=str(self._run.id), frames=len(segment.frames), error=repr(error)
            )
        finally:
            self._waiting -= 1
            await asyncio.to_thread(segment.path.unlink, missing_ok=True)

    async def _save(self, segment: Segment) -> None:
        if self._lead is None:
            self._lead = await db.clock_lead()
        began = EPOCH + timedelta(microseconds=segment.frames[0].captured_us)
        await files.save(
            self._run.user_id,
            kind="recording",
            name=f"recording-{began:%Y%m%d-%H%M%S}.mjpeg",
            content_type=CONTENT_TYPE,
            data=segment.path,
            limit=MAX_SEGMENT_BYTES,
            run_id=self._run.id,
            computer_id=self._computer_id,
            more=partial(self._add_frames, segment, self._lead),
        )

    async def _add_frames(self, segment: Segment, lead: timedelta, tx: db.Tx, file: File) -> None:
        frames = [
            {
                "captured_at": EPOCH + timedelta(microseconds=frame.captured_us) + lead,
                "step": frame.tag,
                "position": frame.offset,
                "length": frame.length,
                "width": frame.image[0],
                "height": frame.image[1],
            }
            for frame in segment.frames
        ]
        await db.add_frames(tx, self._run.id, file.id, frames)
        await usage.add(tx, frames=len(frames))


def _spawn(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.ensure_future(work)
    _tasks.add(task)
    task.add_done_callback(_done)


def _done(task: "asyncio.Task[None]") -> None:
    _tasks.discard(task)
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("recording_broke", exc_info=error)


async def settle() -> None:
    """Store what the runs that have ended recorded; a store that hangs is not waited for."""
    try:
        async with asyncio.timeout(SETTLE_SECONDS):
            while _tasks:
                await asyncio.wait(_tasks)
    except TimeoutError:
        log.warning("recordings_not_stored", waiting=len(_tasks))
        for task in _tasks:
            task.cancel()
        await asyncio.gather(*_tasks, return_exceptions=True)


# What routes use ----------------------------------------------------------------------------------


async def list_frames(user_id: str, run_id: UUID, query: FrameQuery) -> Response:
    """A page of the run's frames, or the one to show for an event. Raises NoResultFound, InvalidCursor."""
    chosen: dict[str, object] = {"run_id": run_id}
    if query.seq is not None:
        chosen["number"] = await db.frame_before(user_id, run_id, query.seq)
    asked = query.model_copy(update={"seq": None})
    return await db.page(user_id, Frame, FrameRead, asked, within=Run, **chosen)


async def read_frame(user_id: str, run_id: UUID, number: int, known: str | None = None) -> Response:
    """A frame's JPEG, or 304 where `known`, an If-None-Match, names it (RFC 9110, 13.1.2).

    Raises NoResultFound, FileMissing, StorageUnavailable.
    """
    async with db.as_user(user_id) as tx:
        frame = await tx.one(Frame, run_id=run_id, number=number)
        file = await tx.one(File, id=frame.file_id)
    headers = {"ETag": f'"{frame.id}"', "Cache-Control": "private, max-age=86400, immutable"}
    if known is not None and headers["ETag"] in known:
        return Response(status_code=304, headers=headers)
    jpeg = await files.read_part(file, frame.position, frame.position + frame.length)
    return Jpeg(jpeg, headers=headers)


async def measure(user_id: str, run_id: UUID) -> RecordingRead:
    """How much of the run is recorded."""
    found = await db.measure_recording(user_id, run_id)
    lasted = found["last_at"] - found["first_at"] if found["frames"] else timedelta()
    return RecordingRead(**found, duration_ms=round(lasted / timedelta(milliseconds=1)))
