"""What the origins that a computer has shown keep in it: local storage and databases (IndexedDB).

Playwright's `storage_state()` reads the origins that no frame shows any longer in a page of its own,
and tells that page from others by a flag of the whole context: a popup that opens meanwhile is lost,
and two readings at once show that page to everybody; and it fails for one database that it cannot tell
or make. Here a private page is known by its own address, an origin that has been left is read once and
not for every checkpoint, and each database stands alone. The form is Playwright's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import orjson
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Frame, Page, Route
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

READ_SECONDS = 2.0  # of each frame
MAX_ORIGINS = 200  # the newest of which are kept
MAX_UNREAD = 50  # of origins that were left, the newest of which are visited
MAX_DATABASE_BYTES = 2**19  # about; sites keep their sign-in in a few thousand
MAX_DATABASES_BYTES = 2**21  # of all origins, the newest of which are kept
SCRIPT = Path(__file__).with_suffix(".js").read_text()
READ = f"room => {SCRIPT}.read(room)"
WRITE = f"databases => {SCRIPT}.write(databases)"
EMPTY = "<!doctype html><title></title>"

Name = Annotated[str, StringConstraints(max_length=1024)]


class Keyed(BaseModel):
    """Where the keys lie in a value: nowhere, at a path, or at some."""

    model_config = ConfigDict(extra="ignore")
    name: Name
    keyPath: Name | None = None  # noqa: N815 - Playwright's names
    keyPathArray: list[Name] | None = Field(None, max_length=64)  # noqa: N815


class Index(Keyed):
    """An index of a store."""

    unique: bool = False
    multiEntry: bool = False  # noqa: N815


class Store(Keyed):
    """An object store; a record is `value` or `valueEncoded`, and without a path `key` or `keyEncoded`."""

    autoIncrement: bool = False  # noqa: N815
    indexes: list[Index] = Field([], max_length=100)
    records: list[dict[str, Any]] = Field([], max_length=100_000)


class Database(BaseModel):
    """A database of IndexedDB."""

    model_config = ConfigDict(extra="ignore")
    name: Name
    version: int = Field(ge=1, le=2**53)
    stores: list[Store] = Field([], max_length=200)


Databases = Annotated[list[Database], Field(max_length=100)]
DATABASES: TypeAdapter[list[Database]] = TypeAdapter(Databases)


def origin_of(url: str) -> str | None:
    """The origin of a page of http or https, which alone has storage to keep."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return None
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


class SiteStorage:
    """What is known of it; `stored` is a checkpoint's `origins`, `open_page` gives a page nobody sees."""

    def __init__(self, stored: Iterable[dict[str, Any]], open_page: Callable[[], Awaitable[Page]]) -> None:
        self._items: dict[str, list[dict[str, str]]] = {}
        self._databases: dict[str, bytes] = {}  # as JSON
        for entry in stored:
            self._items[entry["origin"]] = entry.get("localStorage") or []
            self._databases[entry["origin"]] = orjson.dumps(entry.get("indexedDB") or [])
        self._open_page = open_page
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

    async def restore(self) -> None:
        """Make the stored databases; the local storage is Playwright's to bring back."""
        kept = {entry["origin"]: entry["indexedDB"] for entry in self.known if "indexedDB" in entry}
        if kept:
            async with self._visits() as visit:
                for origin, databases in kept.items():
                    with contextlib.suppress(
                        PlaywrightError, TimeoutError
                    ):  # an origin without is no failure
                        page = await visit(origin)
                        async with asyncio.timeout(READ_SECONDS):
                            await page.evaluate(WRITE, databases)

    async def read(self, pages: Iterable[Page]) -> list[dict[str, Any]]:
        """The `origins` of a checkpoint: `{"origin", "localStorage", "indexedDB"}`, as Playwright has them.

        Of an origin whose page hangs it is what was read last.
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
                    await self._read_left(left)
                unread = dict.fromkeys(told)
            finally:
                self._mark([*unread, *self._unread])
            for origin in frames.keys() & self._items.keys():
                self._items[origin] = self._items.pop(origin)
            for origin in list(self._items)[:-MAX_ORIGINS]:
                del self._items[origin]
            room = MAX_DATABASES_BYTES
            for origin in reversed(self._items):
                room -= len(self._databases.get(origin, b""))
                if room < 0:
                    self._databases.pop(origin, None)
            for origin in self._databases.keys() - self._items.keys():
                del self._databases[origin]
            return self.known

    @property
    def known(self) -> list[dict[str, Any]]:
        """What was read last."""
        origins = []
        for origin, items in self._items.items():
            databases = orjson.loads(self._databases.get(origin, b"[]"))
            if items or databases:
                more = {"indexedDB": databases} if databases else {}
                origins.append({"origin": origin, "localStorage": items} | more)
        return origins

    async def _read(self, origin: str, frame: Frame) -> bool:
        """Whether it tells; not when it has gone elsewhere, is in a sandbox, or of a third party."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                told = await frame.evaluate(READ, MAX_DATABASE_BYTES)
        except PlaywrightError:
            return False
        except TimeoutError:
            self.stale = True
            return True
        # A page may have put anything in the place of its storage.
        if told["origin"] != origin or told["items"] is None:
            return False
        items = told["items"] if isinstance(told["items"], list) else ()
        self._items[origin] = [
            {"name": item[0], "value": item[1]}
            for item in items
            if isinstance(item, list) and len(item) == 2 and all(isinstance(part, str) for part in item)
        ]
        if isinstance(told["databases"], str):
            with contextlib.suppress(ValidationError):
                databases = DATABASES.validate_json(told["databases"])
                self._databases[origin] = DATABASES.dump_json(databases, exclude_none=True)
        return True

    async def _read_left(self, origins: set[str]) -> None:
        async with self._visits() as visit:
            for origin in origins:
                with contextlib.suppress(PlaywrightError):  # of one that is not to be had, what was read last
                    await self._read(origin, (await visit(origin)).main_frame)

    @contextlib.asynccontextmanager
    async def _visits(self) -> AsyncIterator[Callable[[str], Awaitable[Page]]]:
        """A private page that goes to origins, for which nothing is asked of the network."""

        async def answer(route: Route) -> None:
            await route.fulfill(body=EMPTY, content_type="text/html")

        async def visit(origin: str) -> Page:
            await page.goto(origin, timeout=READ_SECONDS * 1000)
            return page

        page = await self._open_page()
        try:
            cdp = await page.context.new_cdp_session(page)
            await cdp.send("Network.enable")
            await cdp.send("Network.setBypassServiceWorker", {"bypass": True})
            await page.route("**/*", answer)
            yield visit
        finally:
            await page.close()
