"""One user's Chromium: found, started, watched and closed; each computer is a context of it with its tabs."""

import asyncio
import base64
import contextlib
import errno
import fcntl
import os
import re
import shlex
import shutil
import signal
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast
from uuid import UUID, uuid4

import structlog
from playwright.async_api import (
    Browser,
    BrowserContext,
    CDPSession,
    Dialog,
    FileChooser,
    Frame,
    Page,
    Playwright,
    StorageState,
    async_playwright,
)
from playwright.async_api import Error as PlaywrightError

from browser import inspection
from browser.input import Input
from browser.screencast import Screencast
from browser.site_storage import SiteStorage
from browser.traffic import Traffic
from infra.redaction import cut
from settings import settings

log = structlog.get_logger()

T = TypeVar("T")
Report = Callable[[str, dict[str, Any]], None]

SYSTEM_PROGRAMS = (
    "/usr/lib/chromium/chromium",
    "/usr/lib/chromium-browser/chromium-browser",
    "chromium",
    "chromium-browser",
    "google-chrome-stable",
    "google-chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
NOWHERE = "http://127.0.0.1:9/"  # the discard port stands in for vendor hosts
FLAGS = (
    f"--gaia-url={NOWHERE}",
    f"--component-updater=url-source={NOWHERE}",
    f"--variations-server-url={NOWHERE}",
    f"--autofill-server-url={NOWHERE}",
    f"--optimization-guide-service-get-hints-url={NOWHERE}",
    f"--optimization-guide-service-get-models-url={NOWHERE}",
    f"--gcm-checkin-url={NOWHERE}",
    f"--gcm-registration-url={NOWHERE}",
    "--gcm-mcs-endpoint=127.0.0.1:9",
    "--disable-quic",
    "--webrtc-ip-handling-policy=disable_non_proxied_udp",
    "--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
)
# Parts of a window that nobody sees; each takes a renderer, and most of the time that a window takes to open.
UNSEEN = "WebUIOmniboxPopup,WebUIOmniboxAimPopup"
# Playwright switches these two protections off; a page here is not a test's own.
KEPT_PROTECTIONS = ("--disable-popup-blocking", "--disable-ipc-flooding-protection")
HOME_PREFIX = "cua-chromium-"
CGROUP = Path("/sys/fs/cgroup")
UNPRIVILEGED = 65534  # "nobody"
BYTES_PER_COMPUTER = 512 * 1024 * 1024
MOST_BYTES = 4 * 1024 * 1024 * 1024  # of one user's process, where the machine has twice as much
MEMORY_SECONDS = 0.5
MAX_TABS = 32
MAX_PIXELS = 2**25  # of one picture, in CSS pixels
LAUNCH_SECONDS = 30.0
CALL_SECONDS = 10.0
CLOSE_SECONDS = 5.0
DOWNLOAD_SECONDS = 600.0
REFRESH_SECONDS = 0.05
OF_PAGES = ("url", "title", "message", "name")  # of what is told, that which a page chooses
MAX_DIALOGS = 50  # in a row
BETWEEN_DOCUMENTS = "Not attached to an active page"
DIALOG_PAUSE_SECONDS = 1.0
MAX_UPLOAD_BYTES = 2 * 1024 * 1024 * 1024  # of one computer's copies; the oldest make room


FAULTS = (PlaywrightError, TimeoutError, RuntimeError)
"""What a call to a browser may raise while it goes; RuntimeError is uvloop's word for a dead driver."""


class ChromiumMissing(Exception):
    """No Chromium on this machine; the message names the command that installs one."""


class ComputerClosed(Exception):
    """The computer was closed, or its process died."""


class TooManyComputers(Exception):
    """This process has no room for another computer."""


class NoSuchTab(Exception):
    """The computer has no tab with this id."""


class OpenFailed(Exception):
    """Chromium started no computer with these options; the message says why."""


class BrowserDied(OpenFailed):
    """Chromium ended while it opened a computer."""


def _no_file(file: str) -> NoReturn:
    raise FileNotFoundError(errno.ENOENT, "no such file", file)


@dataclass(frozen=True, slots=True)
class Options:
    """How a computer is opened; sizes in CSS pixels, `proxy_url` is its filtering proxy."""

    downloads: Path
    max_download_bytes: int = 100 * 1024 * 1024
    viewport: tuple[int, int] = (1280, 720)
    locale: str | None = None
    time_zone: str | None = None
    user_agent: str | None = None
    proxy_url: str | None = None
    storage_state: dict[str, Any] | None = None
    device_scale_factor: float = 1
    has_touch: bool = False
    find_file: Callable[[str], contextlib.AbstractAsyncContextManager[tuple[str, Path]]] = field(
        default=_no_file  # its name, and its place for as long as it is copied
    )
    check_url: Callable[[str], str | None] = field(default=lambda _url: None)  # why a URL is refused
    why: Callable[[str], str | None] = field(default=lambda _url: None)  # why a URL could not be reached
    redact: Callable[[Any], Any] = field(default=lambda told: told)  # what is told, without secrets


def find_chromium() -> Path:
    """The program: the configured one, Playwright's own, or the system's; raises ChromiumMissing."""
    if settings.chromium_path:
        if (configured := shutil.which(settings.chromium_path)) is None:
            raise ChromiumMissing(f"CHROMIUM_PATH names {settings.chromium_path}, which is no program")
        return Path(configured)
    own = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache/ms-playwright")
    installed = sorted(own.glob("chromium-*/chrome-linux*/chrome"), key=lambda path: path.stat().st_mtime)
    candidates = (str(path) for path in reversed(installed))
    for candidate in (*candidates, *SYSTEM_PROGRAMS):
        if (program := shutil.which(candidate)) is not None:
            return Path(program)
    raise ChromiumMissing(
        "No Chromium found: run `apt-get install chromium` or `playwright install chromium`,"
        " or set CHROMIUM_PATH"
    )


def is_page_url(url: str) -> bool:
    """Whether a tab may show it: http, https, the blank page, and Chromium's own error page."""
    scheme = url.split(":", 1)[0].lower()
    return scheme in ("http", "https") or url in ("about:blank", "", "chrome-error://chromewebdata/")


@dataclass(eq=False, slots=True)
class Tab:
    """One page of a computer with its raw CDP session."""

    id: str
    page: Page
    cdp: CDPSession
    target_id: str
    url: str = "about:blank"
    title: str = ""
    navigated: bool = False
    dialogs: int = 0
    asked_at: float = 0
    traffic: Traffic | None = None
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    loaded: asyncio.Event = field(default_factory=asyncio.Event)  # clear while it goes to another document
    left: asyncio.Event = field(default_factory=asyncio.Event)  # set once another document is there

    def __post_init__(self) -> None:
        self.loaded.set()

    def leave_document(self) -> None:
        """Another document is there."""
        self.left.set()
        self.left = asyncio.Event()


class Computer:
    """One browser session: a context with its tabs, always at least one while it is open."""

    def __init__(self, process: "_Process", computer_id: UUID, options: Options, report: Report) -> None:
        self.id = computer_id
        self.options = options
        self.closed = asyncio.Event()
        self.screencast = Screencast()
        self.file_chooser: FileChooser | None = None
        self.input = Input()
        self.context: BrowserContext
        self._uploads = process.directory(f"uploads-{computer_id}")
        self._upload_number = 0
        self._uploaded: dict[Path, int] = {}  # bytes by directory, oldest first
        self._process = process
        self._report = report
        self._cdp: CDPSession
        self._context_id = ""
        self._storage: SiteStorage
        self._tabs: dict[Page, Tab] = {}
        self._adopting: dict[Page, asyncio.Task[None]] = {}
        self._private: dict[str, asyncio.Future[Page]] = {}  # pages of ours that are no tabs, by address
        self._listens = False
        self._active: Tab | None = None
        self._settled = asyncio.Event()  # set unless the last tab is being replaced
        self._tab_number = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._refresh_timer: asyncio.TimerHandle | None = None
        self._downloads: dict[str, _Download] = {}
        self._download_dir = process.directory(f"downloads-{computer_id}")

    # What callers use ---------------------------------------------------------------------------

    @property
    def page(self) -> Page:
        """The active tab's page."""
        return self.active.page

    @property
    def pages(self) -> list[Page]:
        return list(self._tabs)

    @property
    def active(self) -> Tab:
        """The active tab; raises ComputerClosed, or Playwright's Error while the last tab is replaced."""
        if self.closed.is_set():
            raise ComputerClosed("The computer is closed")
        if self._active is None:
            raise PlaywrightError("The tab has just been closed")
        return self._active

    @property
    def viewport(self) -> tuple[int, int]:
        """The active tab's width and height in CSS pixels."""
        size = self.page.viewport_size
        return (size["width"], size["height"]) if size else self.options.viewport

    def tabs(self) -> list[dict[str, Any]]:
        """Every tab: `{"id", "url", "title", "active"}`, oldest first."""
        return [
            self._shown({"id": tab.id, "url": tab.url, "title": tab.title, "active": tab is self._active})
            for tab in self._tabs.values()
        ]

    def tab(self, tab_id: str) -> Tab:
        """The tab with this id; raises NoSuchTab."""
        for tab in self._tabs.values():
            if tab.id == tab_id:
                return tab
        raise NoSuchTab(
            f"There is no tab {tab_id[:40]!r}; the tabs are {[tab.id for tab in self._tabs.values()]}"
        )

    def listen(self) -> None:
        """From now on keep what tabs, those to come too, write to the console and ask of the network."""
        self._listens = True
        for tab in self._tabs.values():
            tab.traffic = tab.traffic or Traffic(tab.page)

    def traffic(self, tab: Tab) -> Traffic:
        """What is kept of it, which is nothing before somebody listens."""
        self.listen()
        tab.traffic = tab.traffic or Traffic(tab.page)
        return tab.traffic

    async def new_tab(self) -> Tab:
        """Open a blank tab and make it active."""
        page = await self._call(self.context.new_page())
        if page in self._adopting:
            await asyncio.wait([self._adopting[page]])
        if page not in self._tabs:
            raise PlaywrightError("The new tab closed at once")
        return self._tabs[page]

    async def settled(self) -> None:
        """Return once there is an active tab, which the end of the last one takes away for a moment."""
        while not self._settled.is_set():
            await self._settled.wait()

    async def switch_tab(self, tab_id: str) -> Tab:
        """Make a tab active; raises NoSuchTab."""
        tab = self.tab(tab_id)
        await self._activate(tab)
        return tab

    async def close_tab(self, tab_id: str) -> None:
        """Close a tab even if its page hangs; raises NoSuchTab. After the last one a blank tab opens."""
        tab = self.tab(tab_id)
        if len(self._tabs) == 1:
            await self.new_tab()
        await self._close_target(tab)
        await self._call(tab.gone.wait())

    @property
    def downloading(self) -> bool:
        """Whether a file is on its way."""
        return any(download.ours for download in self._downloads.values())

    async def screenshot(self, *, full_page: bool = False, quality: int | None = 80) -> bytes:
        """A picture of the active tab: JPEG, or PNG when quality is None; raises TimeoutError if it hangs."""
        return await capture(self.active, full_page=full_page, quality=quality)

    async def upload(self, files: tuple[str, ...]) -> list[Path]:
        """Copies of files where Chromium, another user perhaps, can read them; raises OSError.

        They stay while the page may read them: until the computer closes, or newer ones need their room.
        """
        self._upload_number += 1
        batch = self._process.directory(f"{self._uploads.name}/{self._upload_number}")
        self._uploaded[batch] = 0
        try:
            return [
                await self._copy(file, batch, f"{batch.relative_to(self._process.home)}/{number}")
                for number, file in enumerate(files)
            ]
        except BaseException:
            await self._remove_upload(batch)
            raise

    async def _copy(self, file: str, batch: Path, directory: str) -> Path:
        async with self.options.find_file(file) as (name, source):
            size = self._uploaded.get(batch, 0) + source.stat().st_size
            if size > MAX_UPLOAD_BYTES:
                raise OSError(errno.EFBIG, f"at most {MAX_UPLOAD_BYTES:,} bytes are uploaded at once")
            self._uploaded[batch] = size
            while sum(self._uploaded.values()) > MAX_UPLOAD_BYTES:
                await self._remove_upload(next(other for other in self._uploaded if other != batch))
            target = self._process.directory(directory) / safe_name(name)
            return await asyncio.to_thread(_copy_readable, source, target)

    async def _remove_upload(self, batch: Path) -> None:
        self._uploaded.pop(batch, None)
        await asyncio.to_thread(shutil.rmtree, batch, ignore_errors=True)

    async def storage_state(self) -> dict[str, Any]:
        """A checkpoint: cookies, what sites keep, the tabs' URLs and the active one's place among them.

        When a page hangs, what its site keeps is as it was read last.
        """
        cookies = await self._call(self.context.cookies())
        try:
            origins = await self._call(self._storage.read(self._tabs))
        except TimeoutError:
            self._storage.stale = True
            origins = self._storage.known
        tabs = list(self._tabs.values())
        active = tabs.index(self._active) if self._active in tabs else 0
        urls = [tab.page.url for tab in tabs]
        return {"cookies": cookies, "origins": origins, "tabs": urls, "active": active}

    @property
    def stale_storage(self) -> bool:
        """Whether what sites keep was read earlier in part for the last checkpoint: a page did not answer."""
        return self._storage.stale

    async def refresh_tabs(self) -> None:
        """Ask Chromium, not the pages, for URLs and titles; reports what changed."""
        infos = (await self._call(self._cdp.send("Target.getTargets")))["targetInfos"]
        by_target = {info["targetId"]: info for info in infos}
        for tab in list(self._tabs.values()):
            if (info := by_target.get(tab.target_id)) is None:
                continue
            url, title = cut(info["url"], 2048), cut(info["title"], 256)
            navigated, titled = tab.navigated or url != tab.url, title != tab.title
            tab.url, tab.title, tab.navigated = url, title, False
            if navigated:
                self.report("navigated", {"tab": tab.id, "url": url, "title": title})
            elif titled:
                self.report("tab", {"tab": tab.id, "state": "titled", "url": url, "title": title})
        self._show_view()

    def report(self, kind: str, data: dict[str, Any]) -> None:
        """Tell the owner; nothing is told after `closed`."""
        if not self.closed.is_set():
            self._report(kind, self._shown(data))

    def _shown(self, data: dict[str, Any]) -> dict[str, Any]:
        """The data without the secrets that a page may have put into what it chooses."""
        return data | {name: self.options.redact(data[name]) for name in OF_PAGES if name in data}

    async def close(self, reason: str = "closed") -> None:
        """Close the context; the user's process ends with its last computer. May be called twice."""
        if self.end(reason):
            await self._process.leave(self)

    # What the process uses ----------------------------------------------------------------------

    async def open(self, browser: Browser) -> None:
        """Make the context and its first tab, then bring back the tabs of the checkpoint."""
        options, state = self.options, self.options.storage_state or {}
        origins = state.get("origins") or []
        stored = {"cookies": [], "origins": [it for it in origins if it.get("localStorage")]}
        width, height = options.viewport
        self.context = await browser.new_context(
            viewport={"width": width, "height": height},
            locale=options.locale,
            timezone_id=options.time_zone,
            user_agent=options.user_agent,
            device_scale_factor=options.device_scale_factor,
            has_touch=options.has_touch,
            accept_downloads=False,
            proxy={"server": options.proxy_url, "bypass": "<-loopback>"} if options.proxy_url else None,
            storage_state=cast(StorageState, stored),
        )
        self._storage = SiteStorage(origins, self._private_page)
        await self._add_cookies(state.get("cookies") or [])
        self._cdp = await browser.new_browser_cdp_session()
        self._cdp.on("Browser.downloadWillBegin", self._on_download)
        self._cdp.on("Browser.downloadProgress", self._on_download_progress)
        self.context.on("page", self._on_page)
        self.context.on("dialog", lambda dialog: self._spawn(partial(self._answer, dialog)))
        tab = await self.new_tab()
        info = await self._call(tab.cdp.send("Target.getTargetInfo"))
        self._context_id = info["targetInfo"]["browserContextId"]
        await self._call(
            self._cdp.send(
                "Browser.setDownloadBehavior",
                {
                    "behavior": "allowAndName",
                    "browserContextId": self._context_id,
                    "downloadPath": str(self._download_dir),
                    "eventsEnabled": True,
                },
            )
        )
        await self._storage.restore()
        await self._restore(state)

    async def _add_cookies(self, cookies: list[Any]) -> None:
        """Set the cookies; Chromium refuses all for one that it does not like, so then each on its own."""
        if not cookies:
            return
        try:
            await self._call(self.context.add_cookies(cookies))
        except PlaywrightError:
            for cookie in cookies:
                try:
                    await self._call(self.context.add_cookies([cookie]))
                except PlaywrightError as error:
                    said = self.options.redact(first_line(error))
                    log.info("cookie_refused", domain=cookie.get("domain"), error=said)

    def end(self, reason: str) -> bool:
        """Mark it closed and stop what it does; False when it was closed before."""
        if self.closed.is_set():
            return False
        self.report("closed", {"reason": reason})
        self.closed.set()
        self._settled.set()
        if self._refresh_timer is not None:
            self._refresh_timer.cancel()
        for download in self._downloads.values():
            download.deadline.cancel()
        return True

    async def dispose(self) -> None:
        """Give back what `open` took, as far as the process still answers."""
        self.input.cancel()
        await self.screencast.close()
        tasks = [*self._tasks, *self._adopting.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if hasattr(self, "context"):
            with contextlib.suppress(*FAULTS):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.context.close()
        for directory in (self._uploads, self._download_dir):
            await asyncio.to_thread(shutil.rmtree, directory, ignore_errors=True)

    # Tabs ---------------------------------------------------------------------------------------

    async def _restore(self, state: dict[str, Any]) -> None:
        urls = [url for url in state.get("tabs") or () if isinstance(url, str)][:MAX_TABS]
        for number, url in enumerate(urls):
            tab = self.active if number == 0 else await self.new_tab()
            if not url.startswith(("http://", "https://")) or self.options.check_url(url):
                continue
            try:
                await tab.page.goto(url, wait_until="commit", timeout=CALL_SECONDS * 1000)
            except PlaywrightError as problem:
                said = self.options.redact(first_line(problem))
                log.info("tab_not_restored", computer_id=str(self.id), error=said)
        tabs, active = list(self._tabs.values()), state.get("active")
        if isinstance(active, int) and 0 <= active < len(tabs):
            await self._activate(tabs[active])

    async def _private_page(self) -> Page:
        """A page that no one is told of and whoever asks for it closes."""
        address = f"about:blank#{uuid4().hex}"
        coming: asyncio.Future[Page] = asyncio.get_running_loop().create_future()
        self._private[address] = coming
        where = {"url": address, "browserContextId": self._context_id, "background": True}
        try:
            await self._cdp.send("Target.createTarget", where)
            return await coming
        except BaseException:
            if not coming.cancel() and not coming.cancelled():
                self._spawn(coming.result().close)
            raise

    def _on_page(self, page: Page) -> None:
        if (private := self._private.pop(page.url, None)) is not None:
            if private.done():  # who asked for it has gone
                self._spawn(page.close)
            else:
                private.set_result(page)
            return
        self._storage.note(page.url)
        page.on("framenavigated", self._note)
        if len(self._tabs) + len(self._adopting) >= MAX_TABS:
            log.warning("too_many_tabs", computer_id=str(self.id))
            self._spawn(page.close)
            return
        task = asyncio.ensure_future(self._guarded(partial(self._adopt, page)))
        self._adopting[page] = task
        task.add_done_callback(lambda _: self._adopting.pop(page, None))

    def _note(self, frame: Frame) -> None:
        if frame.parent_frame is None:
            self._storage.note(frame.url)

    async def _adopt(self, page: Page) -> None:
        page.set_default_timeout(CALL_SECONDS * 1000)
        cdp = await self._call(self.context.new_cdp_session(page))
        info = (await self._call(cdp.send("Target.getTargetInfo")))["targetInfo"]
        self._tab_number += 1
        tab = Tab(f"t{self._tab_number}", page, cdp, info["targetId"])
        cdp.on("Page.frameNavigated", lambda event: self._on_document(tab, event["frame"]))
        cdp.on("Page.frameStartedLoading", lambda event: self._on_loading(tab, event["frameId"], ended=False))
        cdp.on("Page.frameStoppedLoading", lambda event: self._on_loading(tab, event["frameId"], ended=True))
        await self._call(cdp.send("Page.enable"))
        page.on("framenavigated", lambda frame: self._on_navigated(tab, frame))
        page.on("domcontentloaded", lambda _: self._touch())
        page.on("load", lambda _: self._touch())
        page.on("filechooser", lambda chooser: self._on_file_chooser(tab, chooser))
        page.on("crash", lambda _: self._spawn(partial(self._replace, tab)))
        page.on("close", lambda _: self._on_tab_closed(tab))
        if page.is_closed():
            return
        tab.traffic = Traffic(page) if self._listens else None
        self._tabs[page] = tab
        self.report("tab", {"tab": tab.id, "state": "opened", "url": cut(page.url, 2048), "title": ""})
        self._on_navigated(tab, page.main_frame)
        await self._activate(tab)

    async def _activate(self, tab: Tab) -> None:
        changed = tab is not self._active
        self._settled.set()
        self._active = tab
        self.screencast.follow(tab.cdp)
        self.input.follow(tab.cdp)
        self._show_view()
        await self._call(tab.cdp.send("Page.bringToFront"))
        if changed:
            self.report("tab", {"tab": tab.id, "state": "active", "url": tab.url, "title": tab.title})

    def _on_tab_closed(self, tab: Tab) -> None:
        tab.gone.set()
        if self._tabs.pop(tab.page, None) is None or self.closed.is_set():
            return
        self.report("tab", {"tab": tab.id, "state": "closed", "url": tab.url, "title": tab.title})
        if tab is self._active:
            rest = list(self._tabs.values())
            self._active = rest[-1] if rest else None
            if not rest:
                self._settled.clear()
            self.screencast.follow(None)
            self.input.follow(None)
            self._spawn(partial(self._activate, rest[-1]) if rest else self.new_tab)

    async def _replace(self, tab: Tab) -> None:
        """A page that crashed or blocks for good cannot be driven any more, so its tab is closed."""
        self.report("crashed", {"tab": tab.id, "url": tab.url})
        await self._close_target(tab)

    async def _close_target(self, tab: Tab) -> None:
        await self._call(self._cdp.send("Target.closeTarget", {"targetId": tab.target_id}))

    def _on_navigated(self, tab: Tab, frame: Frame) -> None:
        if frame.parent_frame is not None:
            return
        if not is_page_url(frame.url):
            self._spawn(partial(self._undo, tab, frame.url))
        elif frame.url != "about:blank" or tab.url != "about:blank":
            tab.navigated = True
            self._touch()

    @staticmethod
    def _on_loading(tab: Tab, frame_id: str, *, ended: bool) -> None:
        """The main frame, which has the target's id, sets out for another document or has it."""
        if frame_id == tab.target_id:
            (tab.loaded.set if ended else tab.loaded.clear)()

    def _on_document(self, tab: Tab, frame: dict[str, Any]) -> None:
        """What pages were told is all gone with a new document, unless another tab has been told it."""
        if "parentId" in frame:
            return
        tab.leave_document()
        alone = all(other is tab for other in self._tabs.values())
        if alone and frame["url"] != "about:blank":
            self.report("landed", {"tab": tab.id})

    async def _undo(self, tab: Tab, url: str) -> None:
        self.report("refused", {"tab": tab.id, "url": cut(url, 2048)})
        await self._call(tab.page.go_back(wait_until="commit", timeout=CLOSE_SECONDS * 1000))
        if not is_page_url(tab.page.url):
            await self._call(tab.page.goto("about:blank", timeout=CLOSE_SECONDS * 1000))

    def _touch(self) -> None:
        if self._refresh_timer is None and not self.closed.is_set():
            loop = asyncio.get_running_loop()
            self._refresh_timer = loop.call_later(REFRESH_SECONDS, self._refresh)

    def _refresh(self) -> None:
        self._refresh_timer = None
        self._spawn(self.refresh_tabs)

    def _show_view(self) -> None:
        if (tab := self._active) is not None:
            self.screencast.view(self._shown({"tab": tab.id, "url": tab.url, "title": tab.title}))

    # Dialogs, files -----------------------------------------------------------------------------

    async def _answer(self, dialog: Dialog) -> None:
        """Dismiss, but leave a page that asks to stay; a page that asks without end loses its tab."""
        answer = "accept" if dialog.type == "beforeunload" else "dismiss"
        tab, now = self._tabs.get(dialog.page) if dialog.page else None, asyncio.get_running_loop().time()
        if tab is not None:
            tab.dialogs = tab.dialogs + 1 if now - tab.asked_at < DIALOG_PAUSE_SECONDS else 1
            tab.asked_at = now
            if tab.dialogs > MAX_DIALOGS:
                # Its script never yields, so that it cannot be stopped, only its page can.
                await self._replace(tab)
                return
        told = {"type": dialog.type, "message": cut(dialog.message, 1024), "answer": answer}
        self.report("dialog", {"tab": tab.id if tab else None, **told})
        await self._call(dialog.accept() if answer == "accept" else dialog.dismiss())

    def _on_file_chooser(self, tab: Tab, chooser: FileChooser) -> None:
        self.file_chooser = chooser
        self.report("file_chooser", {"tab": tab.id, "multiple": chooser.is_multiple()})

    def _on_download(self, event: dict[str, Any]) -> None:
        loop, guid = asyncio.get_running_loop(), event["guid"]
        deadline = loop.call_later(DOWNLOAD_SECONDS, self._cancel_download, guid, "timeout")
        name = safe_name(event["suggestedFilename"])
        self._downloads[guid] = _Download(name, cut(event["url"], 2048), deadline, loop.time())

    def _on_download_progress(self, event: dict[str, Any]) -> None:
        if (download := self._downloads.get(event["guid"])) is None:
            return
        # Chromium tells every computer of the process; only the one whose page began it has its bytes.
        names = (event["guid"], f"{event['guid']}.crdownload")
        download.ours = download.ours or any((self._download_dir / name).exists() for name in names)
        download.size = int(event["receivedBytes"])
        if event["state"] == "inProgress":
            if (
                download.ours
                and max(download.size, int(event["totalBytes"])) > self.options.max_download_bytes
            ):
                self._cancel_download(event["guid"], "too_large")
            return
        self._downloads.pop(event["guid"]).deadline.cancel()
        if not download.ours:
            return
        if event["state"] == "completed" and download.size <= self.options.max_download_bytes:
            self._spawn(partial(self._keep, event["guid"], download))
        else:
            late = "too_large" if event["state"] == "completed" else "cancelled"
            (self._download_dir / event["guid"]).unlink(missing_ok=True)
            self._report_download(download, download.stopped or late, None)

    def _cancel_download(self, guid: str, why: str) -> None:
        download = self._downloads[guid]
        if not download.stopped:
            download.stopped = why
            parameters = {"guid": guid, "browserContextId": self._context_id}
            self._spawn(partial(self._cdp.send, "Browser.cancelDownload", parameters))

    async def _keep(self, guid: str, download: "_Download") -> None:
        # The page chose the name, so the file is kept under Chromium's own id.
        path, kept = self.options.downloads / guid, False
        try:
            await asyncio.to_thread(_move, self._download_dir / guid, path, self.closed)
            kept = True
        except OSError as problem:
            log.error("download_not_kept", computer_id=str(self.id), error=str(problem))
        finally:
            if not kept or self.closed.is_set():  # nobody is told of it
                path.unlink(missing_ok=True)
        self._report_download(download, "completed" if kept else "failed", path if kept else None)

    def _report_download(self, download: "_Download", state: str, path: Path | None) -> None:
        told = {"name": download.name, "size": download.size, "url": download.url, "state": state}
        here = {"path": str(path) if path else None, "began": download.began}
        self.report("download", {**told, **here})

    # Calls --------------------------------------------------------------------------------------

    async def _call(self, work: Awaitable[T]) -> T:
        async with asyncio.timeout(CALL_SECONDS):
            return await work

    def _spawn(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        task = asyncio.ensure_future(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        try:
            await work()
        except (*FAULTS, ComputerClosed) as problem:
            # Tabs and processes may go away at any moment; their own events tell of it.
            said = self.options.redact(first_line(problem))
            log.debug("computer_call_failed", computer_id=str(self.id), error=said)


@dataclass(eq=False, slots=True)
class _Download:
    name: str
    url: str
    deadline: asyncio.TimerHandle
    began: float
    size: int = 0
    stopped: str = ""
    ours: bool = False


@dataclass(frozen=True, slots=True)
class _Way:
    """How contained Chromium runs: in its own sandbox, and as nobody in place of root."""

    sandbox: bool
    drops: bool


class _Place:
    """A temporary directory, locked for as long as this process lives so that no other removes it."""

    def __init__(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=HOME_PREFIX))
        self._lock = os.open(self.path, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    async def remove(self) -> None:
        """May be called twice."""
        await asyncio.to_thread(shutil.rmtree, self.path, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @contextlib.contextmanager
    def for_children(self) -> Iterator[None]:
        """Processes that inherit our environment meanwhile keep their temporary files here."""
        before = os.environ.get("TMPDIR")
        os.environ["TMPDIR"] = str(self.path)
        try:
            yield
        finally:
            del os.environ["TMPDIR"]
            if before is not None:
                os.environ["TMPDIR"] = before


class _Process:
    """The Chromium process of one user, its directory, and the computers that live in it."""

    def __init__(self, user_id: str, forget: Callable[[], object]) -> None:
        self.user_id = user_id
        self._forget = forget
        self.computers: set[Computer] = set()
        self.changing = asyncio.Lock()
        self.ended = False
        self.browser: Browser | None = None
        self.pid = 0
        self._handle = -1
        self._place = _Place()
        self.home = self._place.path
        _give_away(self.home)

    def directory(self, name: str) -> Path:
        """A directory that Chromium may read and write, removed with the process."""
        path = self.home / name
        path.mkdir(exist_ok=True)
        _give_away(path)
        return path

    async def launch(self, playwright: Playwright, program: Path, way: "_Way") -> Browser:
        """Start Chromium; raises Playwright's Error."""
        profile, pid_file, launcher = self.directory("profile"), self.home / "pid", self.home / "launch"
        become = f"setpriv --reuid={UNPRIVILEGED} --regid={UNPRIVILEGED} --clear-groups "
        drop = become if way.drops else ""
        launcher.write_text(
            f"#!/bin/sh\necho $$ > {shlex.quote(str(pid_file))}\n"
            # Of several such flags Chromium heeds the last, and Playwright has one.
            f"for flag do shift; case $flag in --disable-features=*) flag=$flag,{UNSEEN};; esac; "
            'set -- "$@" "$flag"; done\n'
            f'exec {drop}{shlex.quote(str(program))} "$@" --user-data-dir={shlex.quote(str(profile))}\n'
        )
        launcher.chmod(0o755)
        self.browser = await playwright.chromium.launch(
            executable_path=launcher,
            headless=True,
            chromium_sandbox=way.sandbox,
            args=FLAGS,
            ignore_default_args=KEPT_PROTECTIONS,
            env={
                "HOME": str(self.home),
                "TMPDIR": str(self.home),
                "PATH": os.environ.get("PATH", os.defpath),
            },
            downloads_path=self.directory("downloads"),
            timeout=LAUNCH_SECONDS * 1000,
            handle_sigint=False,
            handle_sigterm=False,
            handle_sighup=False,
        )
        self.pid = int(pid_file.read_text())
        return self.browser

    def watch(self, died: Callable[[], object]) -> None:
        """Call when the process ends, even if the driver that would tell of it has died with it."""
        if hasattr(os, "pidfd_open"):
            self._handle = os.pidfd_open(self.pid)
            asyncio.get_running_loop().add_reader(self._handle, died)

    async def leave(self, computer: "Computer") -> None:
        """Dispose of a computer that ended; the last one takes the process with it."""
        async with self.changing:
            await computer.dispose()
            self.computers.discard(computer)
            if not self.computers:
                await self.close()

    def end(self) -> None:
        """From now on no computer is opened here, and the death of the process is no news."""
        if not self.ended:
            self.ended = True
            self._forget()
            if self._handle >= 0:
                asyncio.get_running_loop().remove_reader(self._handle)
                os.close(self._handle)

    async def close(self) -> None:
        """End the process, by force when it does not answer, and remove its directory."""
        self.end()
        answered = False
        if self.browser is not None:
            with contextlib.suppress(*FAULTS):
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self.browser.close()
                    answered = True
        if self.pid and not answered:
            self.kill()
        await self._place.remove()

    def kill(self) -> None:
        """Kill the process group, which Playwright made for the process."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def memory(self) -> int:
        """Bytes of memory of its own that the process group holds; 0 where /proc is missing."""
        return _memory({self.pid})[self.pid]


class Browsers:
    """All Chromium processes of this server process: one per user, started with the first computer."""

    def __init__(self) -> None:
        self._playwright: Playwright | None = None
        self._place: _Place
        self._driver_changing = asyncio.Lock()
        self._processes: dict[str, _Process] = {}
        self._opening = 0
        root = os.geteuid() == 0
        # Best first; a way that this machine does not allow is given up for good.
        self._ways = [_Way(sandbox=True, drops=root)] if settings.chromium_sandbox == "auto" else []
        self._ways += [_Way(sandbox=False, drops=root)] + [_Way(sandbox=False, drops=False)] * root
        self._tasks: set[asyncio.Task[None]] = set()
        self._guard: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start Playwright's driver and remove directories of servers that were killed."""
        await asyncio.to_thread(_remove_abandoned)
        self._place = _Place()
        self._playwright = await self._start_driver()
        self._guard = asyncio.create_task(self._guard_memory())

    async def _start_driver(self) -> Playwright:
        """Playwright's driver, whose temporary files are left behind when it is killed."""
        with self._place.for_children():
            playwright = await async_playwright().start()
        await inspection.prepare(playwright)
        return playwright

    async def close(self) -> None:
        """Close every computer and process, then the driver."""
        if self._guard is not None:
            self._guard.cancel()
        for process in list(self._processes.values()):
            for computer in list(process.computers):
                await computer.close("shutdown")
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._playwright is not None:
            await self._playwright.stop()
            self._playwright = None
            await self._place.remove()
            # Those of servers that were killed, whose browsers may have written on after the last look.
            await asyncio.to_thread(_remove_abandoned)

    @property
    def files(self) -> Path:
        """Where files on their way in and out wait; it goes with this process, however that ends."""
        return self._place.path

    def processes(self) -> list[dict[str, Any]]:
        """What runs: `{"user_id", "pid", "computers", "memory"}` per process, memory in bytes."""
        return [
            {
                "user_id": process.user_id,
                "pid": process.pid,
                "computers": len(process.computers),
                "memory": process.memory(),
            }
            for process in self._processes.values()
        ]

    @property
    def open_computers(self) -> int:
        return sum(len(process.computers) for process in self._processes.values())

    def capacity(self) -> int:
        """How many computers this process can hold: as configured, or one per 512 MiB of free memory."""
        return settings.max_computers or self.open_computers + available_memory() // BYTES_PER_COMPUTER

    async def open(self, user_id: str, computer_id: UUID, options: Options, report: Report) -> Computer:
        """Open a computer; raises TooManyComputers, ChromiumMissing, OpenFailed."""
        if self.open_computers + self._opening >= self.capacity():
            raise TooManyComputers(
                f"This server has room for {self.capacity()} open computers; try again later"
            )
        self._opening += 1
        try:
            return await self._open_once(user_id, computer_id, options, report)
        except BrowserDied as died:
            log.warning("computer_opened_again", computer_id=str(computer_id), error=str(died))
            return await self._open_once(user_id, computer_id, options, report)
        finally:
            self._opening -= 1

    async def _open_once(self, user_id: str, computer_id: UUID, options: Options, report: Report) -> Computer:
        while True:
            process = self._processes.get(user_id)
            if process is None:
                process = _Process(user_id, partial(self._processes.pop, user_id))
                self._processes[user_id] = process
            async with process.changing:
                if not process.ended:
                    return await self._open_in(process, computer_id, options, report)

    async def _open_in(
        self, process: _Process, computer_id: UUID, options: Options, report: Report
    ) -> Computer:
        computer: Computer | None = None
        try:
            browser = process.browser or await self._launch(process)
            computer = Computer(process, computer_id, options, report)
            await computer.open(browser)
            process.computers.add(computer)
            return computer
        except BaseException as problem:
            if computer is not None:
                computer.closed.set()
                await computer.dispose()
            if not process.computers:
                await process.close()
            if isinstance(problem, FAULTS):
                failure = BrowserDied if "closed" in first_line(problem) else OpenFailed
                raise failure(f"Chromium did not open the computer: {first_line(problem)}") from problem
            raise

    async def _launch(self, process: _Process) -> Browser:
        if (playwright := self._playwright) is None:
            raise RuntimeError("Browsers.start() comes first")
        program, restarted, browser = find_chromium(), False, None
        while browser is None:
            try:
                browser = await process.launch(playwright, program, self._ways[0])
            except (PlaywrightError, RuntimeError) as problem:
                if _driver_died(problem) and not restarted:
                    restarted, playwright = True, await self._replace_driver(playwright)
                elif _not_allowed(problem) and len(self._ways) > 1:
                    given_up = self._ways.pop(0)
                    log.warning("chromium_less_contained", error=_launch_error(problem), **asdict(given_up))
                else:
                    failure = BrowserDied if "closed" in _launch_error(problem) else OpenFailed
                    raise failure(f"Chromium did not start: {_launch_error(problem)}") from problem
        browser.on("disconnected", lambda _: self._on_disconnected(process))
        process.watch(partial(self._on_disconnected, process))
        return browser

    async def _replace_driver(self, dead: Playwright) -> Playwright:
        """The driver in place of one that died, the same for all who miss it."""
        async with self._driver_changing:
            if self._playwright is dead:
                log.error("browser_driver_died")
                await dead.stop()
                self._playwright = await self._start_driver()
            if self._playwright is None:
                raise OpenFailed("Browsers are being closed")
            return self._playwright

    async def _guard_memory(self) -> None:
        """End a process that takes more memory than one user may have, before the machine has none left."""
        most = settings.browser_memory_mb * 2**20 or min(total_memory() // 2, MOST_BYTES)
        while True:
            await asyncio.sleep(MEMORY_SECONDS)
            processes = [process for process in self._processes.values() if process.pid]
            if not processes:
                continue
            held = await asyncio.to_thread(_memory, {process.pid for process in processes})
            for process in processes:
                if held[process.pid] > most:
                    log.warning("chromium_too_large", user_id=process.user_id, memory=held[process.pid])
                    self._on_disconnected(process, "out_of_memory")

    def _on_disconnected(self, process: _Process, reason: str = "crashed") -> None:
        """The process died, or is to; or we ended it."""
        if process.ended:
            return
        process.end()
        log.warning("chromium_died", user_id=process.user_id, pid=process.pid)
        process.kill()
        for computer in process.computers:
            computer.report("crashed", {"process": process.pid})
            computer.end(reason)
        task = asyncio.ensure_future(self._bury(process))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _bury(self, process: _Process) -> None:
        for computer in list(process.computers):
            await process.leave(computer)


async def capture(
    tab: Tab, *, full_page: bool = False, clip: dict[str, float] | None = None, quality: int | None = 80
) -> bytes:
    """A picture of a tab, JPEG or (quality None) PNG; raises the builtin TimeoutError when it hangs.

    A full page ends after 16,384 CSS pixels down and `MAX_PIXELS` in all. `clip` is `x, y, width, height` in
    the viewport and `scale`.
    """
    parameters: dict[str, Any] = (
        {"format": "png"} if quality is None else {"format": "jpeg", "quality": quality}
    )
    async with asyncio.timeout(CALL_SECONDS):
        if full_page or clip:
            metrics = await tab.cdp.send("Page.getLayoutMetrics")
            size, view = metrics["cssContentSize"], metrics["cssVisualViewport"]
            height = min(size["height"], 16384)
            width = min(size["width"], MAX_PIXELS // max(height, 1))
            whole = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            part = clip and clip | {"x": clip["x"] + view["pageX"], "y": clip["y"] + view["pageY"]}
            parameters |= {"clip": part or whole, "captureBeyondViewport": full_page}
        return base64.b64decode(await _picture(tab, parameters))


async def _picture(tab: Tab, parameters: dict[str, Any]) -> str:
    """What Chromium answers, asked again for each new document: it may forget what it was asked before."""
    while True:
        left = tab.left
        asked = asyncio.ensure_future(tab.cdp.send("Page.captureScreenshot", parameters))
        moved = asyncio.ensure_future(left.wait())
        try:
            await asyncio.wait({asked, moved}, return_when=asyncio.FIRST_COMPLETED)
            if asked.done():
                return str((await asked)["data"])
        except PlaywrightError as error:
            if BETWEEN_DOCUMENTS not in error.message:
                raise
            await moved
        finally:
            asked.cancel()
            moved.cancel()


def total_memory() -> int:
    """Bytes of memory that there are here: the machine's, or the container's limit."""
    total, limit = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"), CGROUP / "memory.max"
    most = limit.read_text().strip() if limit.exists() else "max"
    return total if most == "max" else min(total, int(most))


def available_memory() -> int:
    """Bytes of memory that are free here: the machine's, or what is left of the container's limit."""
    meminfo, limit, used = Path("/proc/meminfo"), CGROUP / "memory.max", CGROUP / "memory.current"
    if not meminfo.exists():
        return total_memory()
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free = int(lines["MemAvailable"].split()[0]) * 1024
    if limit.exists() and (most := limit.read_text().strip()) != "max":
        free = min(free, max(int(most) - int(used.read_text()), 0))
    return free


def first_line(problem: BaseException) -> str:
    """What an error says, in a line; the driver's call log stays out."""
    return cut(str(problem).split("\n", 1)[0], 500) or type(problem).__name__


def safe_name(name: str) -> str:
    """A file name that another party chose, without what would make it a path or hide it."""
    printable = "".join(char for char in name if char.isprintable() and char not in "/\\")
    return printable.lstrip(". ").encode()[:200].decode(errors="ignore") or "file"


def _driver_died(problem: Exception) -> bool:
    """Whether a launch failed because there is no driver; Chromium's own failures bring its log."""
    said = str(problem)
    return isinstance(problem, RuntimeError) or ("has been closed" in said and "Browser logs" not in said)


def _launch_error(problem: Exception) -> str:
    """The line of Chromium's log that tells why it ended, or else what the driver says."""
    lines = str(problem).splitlines()
    telling = (line for line in lines if re.search(r"FATAL|sandbox|error while loading|denied|setpriv", line))
    return next(telling, lines[0] if lines else "").strip()[:500]


def _not_allowed(problem: Exception) -> bool:
    """Whether a launch failed for want of user namespaces, or of the right to become someone else."""
    return any(word in str(problem) for word in ("sandbox!", "setpriv", "Permission denied", "not permitted"))


def _give_away(path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(path, UNPRIVILEGED, UNPRIVILEGED)


def _move(source: Path, target: Path, closed: asyncio.Event) -> None:
    """Whoever waited for it may have been cancelled when the computer `closed`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
    source.unlink(missing_ok=True)
    if closed.is_set():
        target.unlink(missing_ok=True)


def _copy_readable(source: Path, target: Path) -> Path:
    shutil.copyfile(source, target)
    target.chmod(0o644)
    return target


def _remove_abandoned() -> None:
    for home in Path(tempfile.gettempdir()).glob(f"{HOME_PREFIX}*"):
        try:
            owned = os.open(home, os.O_RDONLY)
        except OSError:
            continue  # another user's, or just removed
        try:
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(home, ignore_errors=True)
        except BlockingIOError:
            continue
        finally:
            os.close(owned)


def _group(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rsplit(")", 1)[1].split()[2])
    except (OSError, IndexError):
        return -1  # it has just ended


def _memory(groups: set[int]) -> dict[int, int]:
    """Bytes of memory of its own that each of these process groups holds."""
    held = dict.fromkeys(groups, 0)
    for path in Path("/proc").glob("[0-9]*"):
        if (group := _group(path)) in held:
            held[group] += _own_memory(path)
    return held


def _own_memory(process: Path) -> int:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))
