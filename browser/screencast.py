"""Live pictures of a computer's active tab: one raw CDP cast of the page, shared by all its viewers."""

import asyncio
import base64
import time
from collections import deque
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog
from playwright.async_api import CDPSession
from playwright.async_api import Error as PlaywrightError

log = structlog.get_logger()

Work = Callable[[], Coroutine[Any, Any, None]]

QUALITY = 60
WINDOW = 2  # frames Chromium may send before it needs an ack
AGAIN_SECONDS = 0.1
QUIET_SECONDS = 0.15
CALL_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture: `number` counts up per computer; sizes are (width, height), of the image and in CSS px."""

    number: int
    capture_us: int
    image: tuple[int, int]
    css: tuple[int, int]
    jpeg: bytes


def jpeg_size(jpeg: bytes) -> tuple[int, int]:
    """Width and height from the frame header (ITU-T T.81, B.2.2); ValueError when there is none."""
    at = 2
    while at + 9 <= len(jpeg) and jpeg[at] == 0xFF:
        marker = jpeg[at + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return int.from_bytes(jpeg[at + 7 : at + 9]), int.from_bytes(jpeg[at + 5 : at + 7])
        at += 2 + int.from_bytes(jpeg[at + 2 : at + 4])
    raise ValueError("not a JPEG picture")


class Watch:
    """One viewer: it gets the newest frame, at most `max_fps` times a second, until `close`."""

    def __init__(
        self,
        screencast: "Screencast",
        on_frame: Callable[[Frame], None],
        on_view: Callable[[dict[str, Any]], None] | None,
        max_fps: float,
    ) -> None:
        self.interval = 1 / max_fps
        self.on_view = on_view
        self._screencast = screencast
        self._on_frame = on_frame
        self._waiting: Frame | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._next = 0.0

    def offer(self, frame: Frame) -> None:
        """Deliver once this viewer's interval has passed; a newer frame replaces one that waits."""
        self._waiting = frame
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_at(max(self._next, loop.time()), self._deliver)

    def _deliver(self) -> None:
        self._timer = None
        frame, self._waiting = self._waiting, None
        if frame is not None:
            # A little early counts as on time, so that 60 frames a second do not become 30.
            self._next = asyncio.get_running_loop().time() + self.interval * 0.9
            self._on_frame(frame)

    def close(self) -> None:
        """Stop delivering; the last viewer to leave stops the cast."""
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._screencast.leave(self)


class _Cast:
    """Page.startScreencast on one page, paced by its acks.

    Chromium drops what it cannot send while its window is full, the final picture too, so a picture is
    taken when the page has gone quiet after that, and when a new cast brings none by itself.
    """

    def __init__(
        self,
        page: CDPSession,
        publish: Callable[[bytes, float, tuple[int, int]], None],
        interval: Callable[[], float],
        spawn: Callable[[Work], None],
    ) -> None:
        self.page = page
        self._publish = publish
        self._interval = interval
        self._spawn = spawn
        self._unacked: deque[int] = deque()
        self._incomplete = True
        self._cancelled = False
        self._acked_at = 0.0
        self._ack_timer: asyncio.TimerHandle | None = None
        self._quiet_timer: asyncio.TimerHandle | None = None

    async def start(self) -> None:
        self.page.on("Page.screencastFrame", self._on_frame)
        self._await_quiet()
        await self.page.send(
            "Page.startScreencast", {"format": "jpeg", "quality": QUALITY, "maxFramesInFlight": WINDOW}
        )

    def cancel(self) -> None:
        self._cancelled = True
        self.page.remove_listener("Page.screencastFrame", self._on_frame)
        for timer in (self._ack_timer, self._quiet_timer):
            if timer is not None:
                timer.cancel()

    async def stop(self) -> None:
        self.cancel()
        await self.page.send("Page.stopScreencast")

    def _on_frame(self, event: dict[str, Any]) -> None:
        if self._quiet_timer is not None:
            self._quiet_timer.cancel()
        self._unacked.append(event["sessionId"])
        self._incomplete = len(self._unacked) >= WINDOW
        if self._ack_timer is None:
            loop = asyncio.get_running_loop()
            self._ack_timer = loop.call_at(max(loop.time(), self._acked_at + self._interval()), self._ack)
        meta = event["metadata"]
        css = (round(meta["deviceWidth"]), round(meta["deviceHeight"]))
        self._publish(base64.b64decode(event["data"]), meta.get("timestamp") or time.time(), css)

    def _ack(self) -> None:
        loop = asyncio.get_running_loop()
        self._acked_at = loop.time()
        self._ack_timer = None
        self._spawn(partial(self._send_ack, self._unacked.popleft()))
        if self._unacked:
            self._ack_timer = loop.call_at(self._acked_at + self._interval(), self._ack)
        elif self._incomplete:
            self._await_quiet()

    async def _send_ack(self, session_id: int) -> None:
        await self.page.send("Page.screencastFrameAck", {"sessionId": session_id})

    def _await_quiet(self) -> None:
        loop = asyncio.get_running_loop()
        self._quiet_timer = loop.call_later(QUIET_SECONDS, self._spawn, self._take)

    async def _take(self) -> None:
        self._incomplete = False
        taken_at = time.time()
        shot = await self.page.send(
            "Page.captureScreenshot", {"format": "jpeg", "quality": QUALITY, "optimizeForSpeed": True}
        )
        metrics = (await self.page.send("Page.getLayoutMetrics"))["cssLayoutViewport"]
        css = (metrics["clientWidth"], metrics["clientHeight"])
        if not self._cancelled:
            self._publish(base64.b64decode(shot["data"]), taken_at, css)


class Screencast:
    """The live view of one computer: `watch` is for viewers, `follow` and `view` are the computer's."""

    def __init__(self) -> None:
        self.last: Frame | None = None
        self._watches: set[Watch] = set()
        self._view: dict[str, Any] | None = None
        self._page: CDPSession | None = None
        self._cast: _Cast | None = None
        self._number = 0
        self._switching = False
        self._again: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def casting(self) -> bool:
        """Whether Chromium is encoding pictures now; it does not without a viewer."""
        return self._cast is not None

    def watch(
        self,
        on_frame: Callable[[Frame], None],
        on_view: Callable[[dict[str, Any]], None] | None = None,
        max_fps: float = 30,
    ) -> Watch:
        """Add a viewer: the last frame comes at once, then every change. Callbacks must not block."""
        watch = Watch(self, on_frame, on_view, min(max(max_fps, 0.1), 60))
        self._watches.add(watch)
        if self.last is not None:
            watch.offer(self.last)
        if on_view is not None and self._view is not None:
            asyncio.get_running_loop().call_soon(on_view, self._view)
        self._adjust()
        return watch

    def leave(self, watch: Watch) -> None:
        """What `Watch.close` calls."""
        self._watches.discard(watch)
        self._adjust()

    def follow(self, page: CDPSession | None) -> None:
        """Show this page from now on; None while the computer has none."""
        if page is not self._page:
            self._page, self.last = page, None
            self._adjust()

    def view(self, view: dict[str, Any]) -> None:
        """Tell the viewers what they look at: `{"tab", "url", "title"}`; repeated news are not sent."""
        if view != self._view:
            self._view = view
            for watch in list(self._watches):
                if watch.on_view is not None:
                    watch.on_view(view)

    async def close(self) -> None:
        """Forget all viewers and the page, which is closing with its computer."""
        for watch in list(self._watches):
            watch.close()
        self._page = None
        if self._again is not None:
            self._again.cancel()
        if self._cast is not None:
            self._cast.cancel()
            self._cast = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _publish(self, jpeg: bytes, captured_at: float, css: tuple[int, int]) -> None:
        self._number += 1
        self.last = Frame(self._number, int(captured_at * 1_000_000), jpeg_size(jpeg), css, jpeg)
        for watch in list(self._watches):
            watch.offer(self.last)

    def _interval(self) -> float:
        return min((watch.interval for watch in self._watches), default=1.0)

    def _adjust(self) -> None:
        if not self._switching:
            self._switching = True
            self._spawn(self._switch)

    async def _switch(self) -> None:
        """Bring the cast to the page that is wanted, until that is so; one task at a time."""
        try:
            while (self._cast.page if self._cast else None) is not (
                wanted := self._page if self._watches else None
            ):
                if self._cast is not None:
                    self._spawn(self._cast.stop)
                    self._cast = None
                if wanted is not None:
                    self._cast = _Cast(wanted, self._publish, self._interval, self._spawn)
                    if not await self._started(self._cast):
                        break
        finally:
            self._switching = False

    async def _started(self, cast: _Cast) -> bool:
        """Whether the cast has begun; a page between two documents refuses, and is asked a moment later."""
        try:
            await cast.start()
        except PlaywrightError as problem:
            log.debug("cast_refused", error=str(problem))
            cast.cancel()
            self._cast = None
            # Of a page that has gone the computer lets go, so that this ends.
            self._again = asyncio.get_running_loop().call_later(AGAIN_SECONDS, self._adjust)
            return False
        return True

    def _spawn(self, work: Work) -> None:
        task = asyncio.ensure_future(self._bounded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bounded(self, work: Work) -> None:
        try:
            async with asyncio.timeout(CALL_SECONDS):
                await work()
        except (PlaywrightError, TimeoutError, RuntimeError) as problem:
            # The page went away or hangs; the computer follows up with another one.
            log.debug("screencast_call_failed", error=str(problem))
