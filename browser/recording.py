"""A computer's pictures kept in segment files: what changed, a few times a second, and one per action."""

import asyncio
import contextlib
import hashlib
import io
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, cast
from uuid import uuid4

import structlog
from PIL import Image, ImageChops

from browser.screencast import Frame, Screencast, jpeg_size

log = structlog.get_logger()

FPS = 2.0
LOOK_FPS = 10  # while it waits for a change
SEGMENT_BYTES = 8 * 2**20
SEGMENT_SECONDS = 10.0
SEGMENT_FRAMES = 1000
MAX_WAITING = 8  # pictures on their way to the disk
MAX_TAGS = 64
# Of brightness and colours, at an eighth of the size: the same picture differs by up to 2 and 7 from one
# encoder and quality to another, a full stop of 13 px type by 10.
TOLERANCE = (3, 10, 10)


@dataclass(frozen=True, slots=True)
class Recorded:
    """One frame: `length` bytes of JPEG at `offset` of its segment, `tag` as it was at the capture.

    `number` counts up from 1 per recorder; sizes are (width, height), of the image and in CSS px. Frames that
    look alike may share their bytes.
    """

    number: int
    captured_us: int
    offset: int
    length: int
    image: tuple[int, int]
    css: tuple[int, int]
    tag: int | None


@dataclass(frozen=True, slots=True)
class Segment:
    """A finished file of JPEGs end to end; whoever is told of it removes it."""

    path: Path
    size: int
    frames: tuple[Recorded, ...]


@dataclass(frozen=True, slots=True)
class _Picture:
    jpeg: bytes
    captured_us: int
    css: tuple[int, int] | None
    tag: int | None
    marked: bool


@dataclass(slots=True)
class _File:
    """The segment under way; `places` tells where in it each picture's bytes are."""

    path: Path
    stream: BinaryIO
    began: float
    size: int = 0
    frames: list[Recorded] = field(default_factory=list)
    places: dict[bytes, tuple[int, int]] = field(default_factory=dict)


class Recorder:
    """Records a screencast from now until `close`; a picture that looks like the one before is no frame."""

    def __init__(
        self,
        screencast: Screencast,
        directory: Path,
        on_segment: Callable[[Segment], None],
        *,
        fps: float = FPS,
        segment_bytes: int = SEGMENT_BYTES,
        segment_seconds: float = SEGMENT_SECONDS,
    ) -> None:
        """`on_segment` is told of each finished segment, in order, and must not block."""
        self._screencast, self._directory, self._on_segment = screencast, directory, on_segment
        self._segment_bytes, self._segment_seconds = segment_bytes, segment_seconds
        self._tags: deque[tuple[int, int | None]] = deque([(0, None)], MAX_TAGS)
        self._waiting: deque[_Picture] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._file: _File | None = None
        self._number = self._last_us = 0
        self._began_us = now_us()
        self._look: Image.Image | None = None
        self._alike: deque[bytes] = deque(maxlen=16)
        self._interval = 1 / fps
        self._jpeg = b""
        self._resting: asyncio.TimerHandle | None = None
        self._look_on()

    def tag(self, tag: int | None) -> None:
        """What is captured from now on bears this tag."""
        self._tags.append((now_us(), tag))

    def mark(self, jpeg: bytes, captured_us: int) -> None:
        """Keep this picture as a frame of its own, even if it looks like the one before.

        `captured_us` is from before it was taken, so that what the screencast saw since counts as newer.
        """
        last = self._screencast.last
        self._add(jpeg, captured_us, last.css if last else None, marked=True)

    async def close(self) -> None:
        """Stop watching, and report the last segment. May be called twice."""
        if (last := self._screencast.last) is not None:
            self._on_frame(last)  # it may still have waited for its turn
        self._watch.close()
        if self._resting is not None:
            self._resting.cancel()
        self._closed = True
        self._write_on()
        if self._writing is not None:
            await asyncio.shield(self._writing)

    # In the event loop --------------------------------------------------------------------------

    def _look_on(self) -> None:
        self._watch = self._screencast.watch(self._on_frame, max_fps=LOOK_FPS)

    def _on_frame(self, frame: Frame) -> None:
        # A watch begins with the last frame there was, which is no news.
        moved, self._jpeg = frame.jpeg != self._jpeg, frame.jpeg
        # The first one may have been captured long before it came.
        self._add(frame.jpeg, max(frame.capture_us, self._began_us), frame.css, marked=False)
        if moved:
            # While it casts, Chromium copies all that a moving page draws, whoever wants how much of it.
            self._watch.close()
            self._resting = asyncio.get_running_loop().call_later(self._interval, self._look_on)

    def _add(self, jpeg: bytes, captured_us: int, css: tuple[int, int] | None, *, marked: bool) -> None:
        if self._closed:
            return
        if len(self._waiting) >= MAX_WAITING:
            self._waiting.remove(next((old for old in self._waiting if not old.marked), self._waiting[0]))
        tag = next((tag for since, tag in reversed(self._tags) if since <= captured_us), None)
        self._waiting.append(_Picture(jpeg, captured_us, css, tag, marked))
        self._write_on()

    def _write_on(self) -> None:
        if self._writing is None or self._writing.done():
            self._writing = asyncio.ensure_future(self._write_all())

    async def _write_all(self) -> None:
        """Write what waits, and hand each segment over that is full, old or the last."""
        while True:
            if self._file is not None and self._complete(self._file):
                await self._hand_over(self._file)
            elif self._waiting:
                await asyncio.to_thread(self._write, self._waiting.popleft())
            else:
                break
        if self._file is not None and self._timer is None:
            left = self._file.began + self._segment_seconds - time.monotonic()
            self._timer = asyncio.get_running_loop().call_later(max(left, 0), self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._write_on()

    def _complete(self, file: _File) -> bool:
        return (
            file.size >= self._segment_bytes
            or len(file.frames) >= SEGMENT_FRAMES
            or time.monotonic() >= file.began + self._segment_seconds
            or (self._closed and not self._waiting)
        )

    async def _hand_over(self, file: _File) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if await asyncio.to_thread(self._end, file):
            self._on_segment(Segment(file.path, file.size, tuple(file.frames)))

    # In a thread, one call at a time ------------------------------------------------------------

    def _write(self, picture: _Picture) -> None:
        """Keep a picture that is new or marked; a disk that fails costs the segment, and no more."""
        if picture.captured_us <= self._last_us:
            return  # what was recorded meanwhile is newer
        try:
            digest = hashlib.blake2b(picture.jpeg, digest_size=16).digest()
            changed = self._changed(digest, picture.jpeg)
            if changed or picture.marked:
                self._append(self._file or self._open(), picture, digest, changed=changed)
        except (OSError, ValueError) as error:
            self._lose(error)

    def _changed(self, digest: bytes, jpeg: bytes) -> bool:
        """Whether the picture looks other than the last one that did."""
        if digest in self._alike:
            return False
        look = _look(jpeg)
        changed = self._look is None or _differ(look, self._look)
        if changed:
            self._look = look
            self._alike.clear()
        self._alike.append(digest)
        return changed

    def _open(self) -> _File:
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{uuid4().hex}.mjpeg"
        self._file = _File(path, path.open("xb"), time.monotonic())
        return self._file

    def _append(self, file: _File, picture: _Picture, digest: bytes, *, changed: bool) -> None:
        image, place = jpeg_size(picture.jpeg), file.places.get(digest)
        if not changed and file.frames:
            last = file.frames[-1]
            image, place = last.image, (last.offset, last.length)
        if place is None:
            file.stream.write(picture.jpeg)
            place = file.places[digest] = file.size, len(picture.jpeg)
            file.size += len(picture.jpeg)
        offset, length = place
        self._number += 1
        self._last_us = picture.captured_us
        file.frames.append(
            Recorded(
                self._number, picture.captured_us, offset, length, image, picture.css or image, picture.tag
            )
        )

    def _end(self, file: _File) -> bool:
        self._file = None
        try:
            file.stream.close()
        except OSError as error:
            self._file = file
            self._lose(error)
            return False
        return True

    def _lose(self, error: Exception) -> None:
        """Go on without the segment; the next picture is new again."""
        file, self._file, self._look = self._file, None, None
        self._alike.clear()
        log.warning("frames_not_written", frames=len(file.frames) if file else 0, error=str(error))
        if file is not None:
            with contextlib.suppress(OSError):
                file.stream.close()
            file.path.unlink(missing_ok=True)


def now_us() -> int:
    """The clock of captures, Chromium's and ours, in microseconds since 1970."""
    return time.time_ns() // 1000


def _look(jpeg: bytes) -> Image.Image:
    """The picture at an eighth of its size, which a JPEG yields for a fraction of its decoding."""
    with Image.open(io.BytesIO(jpeg), formats=("JPEG",)) as image:
        image.draft("YCbCr", (image.width // 8, image.height // 8))
        return image.convert("YCbCr")


def _differ(one: Image.Image, other: Image.Image) -> bool:
    if one.size != other.size:
        return True
    extremes = cast("tuple[tuple[int, int], ...]", ImageChops.difference(one, other).getextrema())
    return any(most > allowed for (_, most), allowed in zip(extremes, TOLERANCE, strict=True))
