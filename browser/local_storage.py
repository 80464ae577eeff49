"""The local storage of all origins that a computer has shown.

Playwright's `storage_state()` reads the origins that no frame shows any longer in a page of its own,
and tells that page from others by a flag of the whole context: a popup that opens meanwhile is lost,
and two readings at once show that page to everybody. Here a private page is known by its own address,
and an origin that has been left is read once and not for every checkpoint.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Frame, Page, Route

READ_SECONDS = 2.0  # of each frame
MAX_ORIGINS = 200  # the newest of which are kept
MAX_UNREAD = 50  # of origins that were left, the newest of which are visited
READ = """() => {
  try { return [location.origin, Object.entries(localStorage)]; } catch { return [location.origin, null]; }
}"""
EMPTY = "<!doctype html><title></title>"


def origin_of(url: str) -> str | None:
    """The origin of a page of http or https, which alone has storage to keep."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class LocalStorage:
    """What is known of it; `stored` is the `origins` of a checkpoint."""

    def __init__(self, stored: Iterable[dict[str, Any]]) -> None:
        self._known: dict[str, list[dict[str, str]]] = {
            entry["origin"]: entry.get("localStorage") or [] for entry in stored
        }
        self._unread: dict[str, None] = {}  # the newest last
        self.stale = False  # whether a frame did not answer when it was read last
        self._reading = asyncio.Lock()

    def note(self, url: str) -> None:
        """A tab has come to this address; frames inside another are read while they are shown."""
        if (origin := origin_of(url)) is not None:
            self._mark([origin])

    def _mark(self, origins: Iterable[str]) -> None:
        for origin in origins:
            self._unread.pop(origin, None)
            self._unread[origin] = None
        for origin in list(self._unread)[:-MAX_UNREAD]:
            del self._unread[origin]

    async def read(
        self, pages: Iterable[Page], open_page: Callable[[], Awaitable[Page]]
    ) -> list[dict[str, Any]]:
        """The `origins` of a checkpoint: `{"origin", "localStorage": [{"name", "value"}]}` of each.

        `open_page` gives a page that nobody sees. Of an origin whose page hangs it is what was read last.
        """
        async with self._reading:
            frames: dict[str, Frame] = {}
            for frame in sorted(
                (frame for page in pages for frame in page.frames),
                key=lambda frame: frame.parent_frame is not None,  # inside another it may have none
            ):
                if (origin := origin_of(frame.url)) is not None:
                    frames.setdefault(origin, frame)
            unread, self._unread = self._unread, {}
            self.stale = False
            try:
                answers = await asyncio.gather(*(self._read(*shown) for shown in frames.items()))
                told = {origin for origin, answer in zip(frames, answers, strict=True) if answer}
                if left := unread.keys() - told:
                    await self._visit(left, open_page)
                unread = dict.fromkeys(told)
            finally:
                self._mark([*unread, *self._unread])
            for origin in frames.keys() & self._known.keys():
                self._known[origin] = self._known.pop(origin)
            for origin in list(self._known)[:-MAX_ORIGINS]:
                del self._known[origin]
            return self.known

    @property
    def known(self) -> list[dict[str, Any]]:
        """What was read last."""
        return [{"origin": origin, "localStorage": items} for origin, items in self._known.items() if items]

    async def _read(self, origin: str, frame: Frame) -> bool:
        """Whether it tells; not when it has gone elsewhere, is in a sandbox, or of a third party."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                here, items = await frame.evaluate(READ)
        except PlaywrightError:
            return False
        except TimeoutError:
            self.stale = True
            return True
        if here != origin or items is None:
            return False
        self._known[origin] = [
            # A page may have put anything in the place of its storage.
            {"name": item[0], "value": item[1]}
            for item in (items if isinstance(items, list) else ())
            if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
        ]
        return True

    async def _visit(self, origins: set[str], open_page: Callable[[], Awaitable[Page]]) -> None:
        """Read them in a private page, for which nothing is asked of the network."""

        async def answer(route: Route) -> None:
            await route.fulfill(body=EMPTY, content_type="text/html")

        page = await open_page()
        try:
            cdp = await page.context.new_cdp_session(page)
            await cdp.send("Network.enable")
            await cdp.send("Network.setBypassServiceWorker", {"bypass": True})
            await page.route("**/*", answer)
            for origin in origins:
                with contextlib.suppress(PlaywrightError):  # of one that is not to be had, what was read last
                    await page.goto(origin, timeout=READ_SECONDS * 1000)
                    await self._read(origin, page.main_frame)
        finally:
            await page.close()
