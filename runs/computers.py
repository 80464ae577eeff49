"""A computer's row and its Chromium: opened by the process that owns it, leased, controlled and closed."""

import asyncio
import base64
import shutil
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import asyncpg
import structlog
from pydantic import TypeAdapter
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

import db
import logs
import metrics
from browser import actions, chromium
from browser.actions import Action, ActionFailed, InputEvent
from browser.chromium import Browsers, ChromiumMissing, ComputerClosed, OpenFailed, TooManyComputers
from browser.screencast import Frame, Watch
from browser.selectors import NOT_TEXT
from infra.bus import Bus
from infra.egress import Gate, Policy, check_url, open_gate
from infra.redaction import Redactor
from infra.storage import Storage
from infra.vault import Unsealable
from models import Computer, ComputerState, ControlState, Profile, Quota, Run
from runs import files, profiles
from runs.parameters import InvalidParams, Problem
from runs.remote import Peers, Refused, Unanswered
from schemas import (
    ActionRead,
    ComputerCreate,
    ComputerRead,
    ComputerSettings,
    ControlRead,
    ProfileRead,
    TabRead,
)
from settings import settings

log = structlog.get_logger()

READY_SECONDS = 10.0
CLAIM_SECONDS = 1.0
TICK_SECONDS = 0.5
WATCHED_KINDS = ("navigated", "dialog", "file_chooser", "download", "crashed", "closed")
MAX_REPORTS = 256
MAX_DOWNLOADS = 100  # that wait for a step to take them
ELSEWHERE = "The computer is open in another process; set REDIS_URL to reach it from here"

ACTION: TypeAdapter[Action] = TypeAdapter(Action)
INPUT: TypeAdapter[InputEvent] = TypeAdapter(InputEvent)


class NeedsRedis(Exception):
    """The computer is open in another process, which only Redis lets this one reach."""


class Elsewhere(Exception):
    """The computer's owner is another process, which the bus reaches."""

    def __init__(self, owner: UUID, user_id: str, id: UUID) -> None:
        super().__init__()
        self.owner, self.user_id, self.id = owner, user_id, id

    async def ask(self, call: str, **arguments: Any) -> Any:
        """What the owner answers; raises what it raises."""
        try:
            return await _service().peers.ask(self.owner, call, self.user_id, self.id, **arguments)
        except Refused as refused:
            raise REFUSALS.get(refused.kind, NoAnswer)(*refused.arguments) from refused
        except Unanswered as error:
            raise NoAnswer(str(error)) from error


class NotReady(Exception):
    """The computer still waits for a free browser, or its process does not answer."""


class NoAnswer(NotReady, db.MayHaveLanded):
    """The computer's process was asked and does not say what it has done."""


class ComputerBusy(Exception):
    """A run is using the computer."""


class StaleControl(Exception):
    """Control was taken by somebody else, given back, or has expired."""


REFUSALS: dict[str, type[Exception]] = {
    kind.__name__: kind
    for kind in (NoResultFound, ComputerClosed, NotReady, ComputerBusy, StaleControl, ActionFailed)
}


class Driver(Protocol):
    """The run that uses a computer; `halted` while it does nothing to it."""

    run_id: UUID
    halted: bool

    def control_changed(self, *, expired: bool) -> None:
        """Control was asked for, given back, or has expired."""


def clean(value: Any) -> Any:
    """`value` without what JSON can hold but the database cannot: NUL and lone surrogates."""
    if isinstance(value, str):
        return NOT_TEXT.sub("\ufffd", value)
    if isinstance(value, list):
        return [clean(item) for item in value]
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return value


@dataclass(eq=False)
class Held:
    """A computer that this process owns, and who steers it; `browser` is missing while it opens."""

    user_id: str
    id: UUID
    epoch: int
    for_run: bool
    generation: int = 0
    browser: chromium.Computer | None = None
    gate: Gate | None = None
    driver: Driver | None = None
    state: ControlState = ControlState.released
    holder: str | None = None
    taken_by: str = "user"
    closed_by: str = "system"
    expires_at: datetime | None = None
    written_until: datetime | None = None
    used: float = 0.0
    navigations: int = 0
    landings: int = 0  # new documents while there was no other tab
    crashes: int = 0
    lost: bool = False
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)
    opened: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)
    vacant: asyncio.Event = field(default_factory=asyncio.Event)
    redactor: Redactor = field(default_factory=Redactor)
    scripted: set[str] = field(default_factory=set)  # origins of pages that a model has run a script in
    downloads: list[dict[str, Any]] = field(default_factory=list)  # that have ended, and no step has taken
    reports: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    reported: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def computer(self) -> chromium.Computer:
        """The open browser; raises ComputerClosed."""
        if self.browser is None or self.browser.closed.is_set():
            raise ComputerClosed("The computer is closed")
        return self.browser

    @property
    def uploads(self) -> Path:
        """Where files of its user wait to be chosen in a page."""
        return _service().browsers.files / "uploads" / str(self.id)

    @property
    def recordings(self) -> Path:
        """Where segments of recordings wait to be stored."""
        return _service().browsers.files / "recordings"

    @property
    def run_id(self) -> UUID | None:
        return self.driver.run_id if self.driver else None

    @property
    def wanted(self) -> bool:
        """Whether a person steers it or waits to."""
        return self.state is not ControlState.released

    @property
    def fence(self) -> dict[str, object]:
        return {"id": self.id, "lease_owner": _service().worker_id, "lease_epoch": self.epoch}

    def control(self) -> ControlRead:
        return ControlRead(
            state=self.state, holder=self.holder, generation=self.generation, expires_at=self.expires_at
        )

    async def attach(self, driver: Driver) -> None:
        """Let a run use it, once the run before has left."""
        while self.driver is not None:
            await self.vacant.wait()
        self.driver = driver
        self.vacant.clear()

    def keep_downloads(self, told: list[tuple[str, dict[str, Any]]]) -> None:
        """Remember what has become of downloads for the steps that wait for them."""
        self.downloads += [data for kind, data in told if kind == "download"]
        del self.downloads[:-MAX_DOWNLOADS]

    def take_download(self, since: float) -> dict[str, Any] | None:
        """The first download, not taken before, that began at `since` or later and has ended."""
        for place, download in enumerate(self.downloads):
            if download["began"] >= since:
                return self.downloads.pop(place)
        return None

    def touch(self) -> None:
        self.used = asyncio.get_running_loop().time()

    def report(self, kind: str, data: dict[str, Any]) -> None:
        """What the browser calls: keep the news in order until they are written, repeated ones once."""
        self.navigations += kind == "navigated"
        self.landings += kind == "landed"
        self.crashes += kind == "crashed"
        if kind not in WATCHED_KINDS:
            return
        if kind == "navigated" and self.reports and self.reports[-1][0] == kind:
            self.reports.pop()
        if len(self.reports) < MAX_REPORTS or kind == "closed":
            self.reports.append((kind, clean(data)))
        else:
            log.warning("computer_report_dropped", computer_id=str(self.id), kind=kind)
            if path := data.get("path"):
                Path(path).unlink(missing_ok=True)
        self.reported.set()
        if kind == "closed" and self.driver is not None:
            self.driver.control_changed(expired=False)


class _Service:
    """The computers of this process."""

    def __init__(self, worker_id: UUID, bus: Bus, *, opens: bool) -> None:
        self.worker_id, self.bus, self.opens = worker_id, bus, opens
        self.browsers = Browsers()
        self.held: dict[UUID, Held] = {}
        self.wake = asyncio.Event()
        self.owners: dict[UUID, Elsewhere] = {}
        self.peers = Peers(bus, worker_id, _serve, tuple(REFUSALS.values()), self.spawn)
        self.loops: list[asyncio.Task[None]] = []
        self.tasks: set[asyncio.Task[None]] = set()

    @property
    def opening(self) -> int:
        """Computers of people that are about to open; a run counts its own."""
        return sum(not (held.opened.is_set() or held.for_run) for held in self.held.values())

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("computer_task_failed", exc_info=error)


_open: _Service | None = None


def _service() -> _Service:
    if _open is None:
        raise db.Unavailable("this process is starting or stopping")
    return _open


async def start(worker_id: UUID, bus: Bus, storage: Storage, *, opens: bool = True) -> None:
    """Open the file store and, where this process `opens` computers, claim those that wait."""
    global _open  # noqa: PLW0603 - one service a process
    files.start(storage)
    service = _Service(worker_id, bus, opens=opens)
    if opens:
        await service.browsers.start()
        metrics.COMPUTERS.set_function(lambda: service.browsers.open_computers)
        bus.subscribe("computers", lambda _payload: service.wake.set())
        service.loops = [
            asyncio.create_task(forever(partial(_claim, service), service.wake, CLAIM_SECONDS)),
            asyncio.create_task(forever(partial(_tick, service), asyncio.Event(), TICK_SECONDS)),
        ]
    _open = service


async def stop() -> None:
    """Close every computer of this process and say so in its row."""
    global _open  # noqa: PLW0603
    service = _service()
    for loop in service.loops:
        loop.cancel()
    await asyncio.gather(*service.loops, return_exceptions=True)
    closing = [asyncio.create_task(close_held(held, "shutdown")) for held in service.held.values()]
    if closing:
        await asyncio.wait(closing, timeout=READY_SECONDS)
    if service.opens:
        await service.browsers.close()
    service.peers.close()
    for task in list(service.tasks):
        task.cancel()
    await asyncio.gather(*service.tasks, return_exceptions=True)
    _open = None


def bus() -> Bus:
    """The bus of this process."""
    return _service().bus


def browser_found() -> bool:
    """Whether this machine has a Chromium."""
    try:
        chromium.find_chromium()
    except ChromiumMissing:
        return False
    return True


def room(promised: int = 0) -> bool:
    """Whether another browser fits into this process beside those that are open, opening and `promised`."""
    service = _service()
    return service.browsers.open_computers + service.opening + promised < service.browsers.capacity()


@contextmanager
def woken(topic: str) -> Iterator[asyncio.Event]:
    """An event that every message on `topic` sets."""
    event = asyncio.Event()
    unsubscribe = bus().subscribe(topic, lambda _payload: event.set())
    try:
        yield event
    finally:
        unsubscribe()


async def wait_for(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait until the event is set, then clear it; False when time is over first."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    event.clear()
    return True


async def forever(work: Callable[[], Awaitable[None]], wake: asyncio.Event, seconds: float) -> None:
    """Do `work` again whenever `wake` is set, at least every so many seconds; what breaks it is logged."""
    while True:
        try:
            await work()
        except db.AWAY as error:
            log.warning("database_away", error=repr(error))
        except Exception:
            log.exception("loop_broke")
        await wait_for(wake, seconds)


def check_domains(domains: list[str], pointer: str) -> None:
    """Raise InvalidParams unless each is a host that can be allowed."""
    try:
        Policy(tuple(domains))
    except ValueError as error:
        raise InvalidParams([Problem(pointer, str(error))]) from error


# Opening ------------------------------------------------------------------------------------------


async def create(tx: db.Tx, body: ComputerCreate) -> Response:
    """Ask for a computer; a worker opens it. Raises TooManyComputers, InvalidParams, NoResultFound."""
    check_domains(body.settings.allowed_domains, "/settings/allowed_domains")
    if body.profile_id is not None:
        await tx.one(Profile, id=body.profile_id)
    quota = await tx.one(Quota, lock=True)
    most = settings.max_computers_per_user if quota.max_computers is None else quota.max_computers
    if len(await _of_people(tx)) >= most:
        raise TooManyComputers(f"You have {most} open computers, the most there can be; close one")
    tx.hint("computers")
    return await tx.create(Computer, ComputerRead, body)


async def _of_people(tx: db.Tx, *, lock: bool = False) -> list[Computer]:
    """The user's computers that are open or opening, but not a run's."""
    alive = (ComputerState.opening, ComputerState.open)
    return [row for state in alive for row in await tx.find(Computer, lock=lock, state=state, for_run=False)]


async def _claim(service: _Service) -> None:
    while (claimed := await _claim_one(service)) is not None:
        service.held[claimed[0].id] = claimed[0]
        service.spawn(_open_claimed(*claimed))


async def _claim_one(service: _Service) -> tuple[Held, Computer] | None:
    """Lease a computer that waits to be opened; those whose owner went silent are closed on the way."""
    lease = timedelta(seconds=settings.lease_seconds)
    while True:
        async with db.as_system() as tx:
            rows = await tx.call("claim_computer", service.worker_id, lease, room())
            if not rows:
                return None
            tx.act_for(rows[0]["user_id"])
            row = await tx.one(Computer, id=rows[0]["id"])
            held = Held(row.user_id, row.id, row.lease_epoch, row.for_run, row.control_generation)
            if row.state == ComputerState.opening and not row.for_run:
                return held, row
            await _write_closed(tx, held.fence, "worker_died", held.run_id)


async def _open_claimed(held: Held, row: Computer) -> None:
    logs.redactor.set(held.redactor)
    try:
        wanted = ComputerSettings.model_validate(row.settings)
        await _open_browser(held, wanted, wanted.allowed_domains, await _profile_state(row))
    except TooManyComputers:
        await _give_back(held)
    except ChromiumMissing as error:
        await _write_failed(held, "chromium_missing", str(error))
    except OpenFailed as error:
        await _write_failed(held, "open_failed", str(error))
    except Exception as error:
        log.exception("computer_broke", computer_id=str(held.id))
        await _write_failed(held, "internal", repr(error))


async def _profile_state(row: Computer | Run) -> dict[str, Any] | None:
    """What its profile keeps; a profile that was deleted meanwhile is none. Raises OpenFailed."""
    if row.profile_id is None:
        return None
    try:
        return await profiles.load(row.user_id, row.profile_id)
    except NoResultFound:
        return None
    except Unsealable as error:
        raise OpenFailed(f"The profile cannot be decrypted. {error}") from error


async def open_for_run(
    driver: Driver, run: Run, checkpoint: dict[str, Any] | None, redactor: Redactor
) -> Held:
    """A computer of the run's own, with the tabs, cookies and storage of its checkpoint.

    Raises TooManyComputers, ChromiumMissing, OpenFailed.
    """
    service = _service()
    wanted = ComputerSettings(allowed_domains=run.allowed_domains)
    async with db.as_user(run.user_id) as tx:
        row = await tx.add(
            Computer,
            name=run.title[:200],
            profile_id=run.profile_id,
            settings=wanted.model_dump(mode="json"),
            for_run=True,
            lease_owner=service.worker_id,
            lease_epoch=1,
            lease_expires_at=run.lease_expires_at,
        )
        tx.announce("computer.created", row, ComputerRead, run_id=run.id)
    held = Held(run.user_id, row.id, row.lease_epoch, for_run=True, driver=driver, redactor=redactor)
    service.held[held.id] = held
    try:
        await _open_browser(held, wanted, run.allowed_domains, checkpoint or await _profile_state(run))
    except BaseException as error:
        await asyncio.shield(_write_failed(held, "open_failed", str(error)))
        raise
    return held


async def _open_browser(
    held: Held, wanted: ComputerSettings, domains: list[str], state: dict[str, Any] | None
) -> None:
    policy = Policy(tuple(domains), settings.allow_private_network, settings.web_app)
    held.gate = await open_gate(
        policy, lambda host, why: log.info("host_refused", computer_id=str(held.id), host=host, why=why)
    )
    options = chromium.Options(
        downloads=_service().browsers.files / "downloads",
        max_download_bytes=settings.max_upload_mb * 2**20,
        viewport=(wanted.viewport.width, wanted.viewport.height),
        locale=wanted.locale,
        time_zone=wanted.time_zone,
        user_agent=wanted.user_agent,
        proxy_url=held.gate.url,
        storage_state=state,
        find_file=lambda file_id: files.fetched(held.user_id, file_id, held.uploads),
        check_url=partial(check_url, policy=policy),
        why=held.gate.why,
        redact=held.redactor,
    )
    browser = await _service().browsers.open(held.user_id, held.id, options, held.report)
    try:
        async with db.as_user(held.user_id) as tx:
            rows = await tx.change(Computer, held.fence, state=ComputerState.open)
            if not rows:
                raise OpenFailed("The computer was given to another worker while it opened")
            tx.announce("computer.opened", rows[0], ComputerRead, run_id=held.run_id)
    except BaseException:
        await asyncio.shield(browser.close("lost"))
        raise
    held.browser = browser
    held.touch()
    held.opened.set()
    _service().spawn(_write_reports(held))


async def _give_back(held: Held) -> None:
    """Let the row wait for a worker with more room."""
    await _forget(held)
    async with db.as_user(held.user_id) as tx:
        await tx.change(Computer, held.fence, lease_owner=None, lease_expires_at=None)


async def _write_failed(held: Held, reason: str, detail: str) -> None:
    log.warning("computer_not_opened", computer_id=str(held.id), reason=reason, detail=detail)
    await _forget(held)
    async with db.as_user(held.user_id) as tx:
        await _write_closed(tx, held.fence, reason, held.run_id)


async def _write_closed(
    tx: db.Tx, where: Mapping[str, object], reason: str, run_id: UUID | None = None
) -> None:
    rows = await tx.change(
        Computer,
        where,
        state=ComputerState.closed,
        closed_reason=reason,
        control_state=ControlState.released,
        control_holder=None,
        control_expires_at=None,
        lease_owner=None,
        lease_expires_at=None,
    )
    if rows:
        tx.announce("computer.closed", rows[0], ComputerRead, run_id=run_id)


async def _forget(held: Held) -> None:
    _service().held.pop(held.id, None)
    held.opened.set()
    if held.gate is not None:
        await held.gate.close()
    await asyncio.to_thread(shutil.rmtree, held.uploads, ignore_errors=True)
    held.gone.set()


async def find_held(user_id: str, id: UUID) -> Held | None:
    """The computer if this process owns it and it is open; one that opens is waited for."""
    held = _service().held.get(id)
    if held is None or held.user_id != user_id:
        return None
    await held.opened.wait()
    return held if held.browser is not None and not held.browser.closed.is_set() else None


# News of the browser ------------------------------------------------------------------------------


async def _write_reports(held: Held) -> None:
    """Write what the browser reports until it has closed; one whose news cannot be written is closed."""
    try:
        await _write_until_closed(held)
    except Exception:
        log.exception("computer_broke", computer_id=str(held.id))
        _lose(held)
        async with db.as_user(held.user_id) as tx:
            await _write_closed(tx, held.fence, "internal", held.run_id)
    finally:
        await _forget(held)


async def _write_until_closed(held: Held) -> None:
    """Write the news in order; while the database is away it is tried again."""
    closed = False
    while not closed:
        await held.reported.wait()
        held.reported.clear()
        news, held.reports = held.reports, []
        told = [(kind, await _told(held, kind, data)) for kind, data in news]
        held.keep_downloads(told)
        while not held.lost:
            try:
                if not await _write_news(held, told):
                    _lose(held)
                break
            except db.AWAY as error:
                log.warning("computer_news_wait", computer_id=str(held.id), error=repr(error))
                await asyncio.sleep(CLAIM_SECONDS)
        closed = any(kind == "closed" for kind, _ in news)


async def _told(held: Held, kind: str, data: dict[str, Any]) -> dict[str, Any]:
    """A report as its event's data; the file of a download is saved on the way."""
    if kind != "download" or data["path"] is None:
        return {name: value for name, value in data.items() if name != "path"}
    path = Path(data.pop("path"))
    try:
        file = await files.save(
            held.user_id,
            kind="download",
            name=data["name"],
            data=path,
            limit=settings.max_upload_mb * 2**20,
            run_id=held.run_id,
            computer_id=held.id,
        )
    except asyncpg.IntegrityConstraintViolationError:
        return data | {"state": "failed", "detail": "Its run or computer was deleted meanwhile"}
    except files.FAILURES as error:
        return data | {"state": "failed", "detail": str(error)}
    finally:
        await asyncio.to_thread(path.unlink, missing_ok=True)
    return data | {"file_id": str(file.id)}


async def _write_news(held: Held, news: list[tuple[str, dict[str, Any]]]) -> bool:
    """Whether the computer is still this process's, so that its news could be written."""
    active = next((tab for tab in held.browser.tabs() if tab["active"]), None) if held.browser else None
    shown = clean({"url": active["url"], "title": active["title"]}) if active else {}
    async with db.as_user(held.user_id) as tx:
        if not await tx.change(Computer, held.fence, used_at=datetime.now(UTC), **shown):
            return False
        for kind, data in news:
            if kind == "closed":
                tx.actor = held.closed_by
                await _write_closed(tx, held.fence, data["reason"], held.run_id)
            else:
                shown = {name: value for name, value in data.items() if name != "began"}
                tx.emit(f"computer.{kind}", ("computer", held.id), shown, run_id=held.run_id)
    return True


async def close_held(held: Held, reason: str) -> None:
    """Close a computer of this process and return when its row says so."""
    await held.opened.wait()
    if held.browser is not None:
        await held.browser.close(reason)
        await held.gone.wait()


async def close(user_id: str, id: UUID, reason: str = "user", actor: str = "user") -> None:
    """Close a computer, whatever uses it; one that is closed stays so. Raises NoResultFound.

    A process that cannot be asked, or has let go of it, learns so at its next heartbeat.
    """
    if await close_where_it_is(user_id, id, reason, actor):
        return
    async with db.as_user(user_id, actor) as tx:
        if (await tx.one(Computer, lock=True, id=id)).state != ComputerState.closed:
            await _write_closed(tx, {"id": id}, reason)
            tx.hint("wishes")


async def close_where_it_is(user_id: str, id: UUID, reason: str, actor: str = "system") -> bool:
    """Have the process that owns it close it; False when there is none or it cannot be asked.

    Raises NoResultFound.
    """
    service = _service()
    while True:
        async with db.as_user(user_id, actor) as tx:
            row = await tx.one(Computer, id=id)
        if row.state == ComputerState.closed:
            return True
        if (held := service.held.get(id)) is not None:
            held.closed_by = actor
            await close_held(held, reason)
        elif row.lease_owner in (None, service.worker_id) or not service.bus.carries_frames:
            return False
        else:
            try:
                await Elsewhere(row.lease_owner, user_id, id).ask("close", reason=reason, actor=actor)
            except NotReady as error:
                log.info("computer_not_closed_by_its_owner", computer_id=str(id), error=str(error))
                return False


async def close_all(tx: db.Tx, reason: str) -> None:
    """Close the user's computers, whichever process owns them: it learns so at its next heartbeat."""
    for row in await _of_people(tx, lock=True):
        await _write_closed(tx, {"id": row.id}, reason)
    tx.hint("wishes")


# Leases -------------------------------------------------------------------------------------------


def leased() -> list[UUID]:
    """The computers whose leases the heartbeat keeps."""
    return list(_service().held)


def kept(asked: list[UUID], epochs: dict[UUID, int]) -> None:
    """What the heartbeat kept of the leases it asked for; a computer that was lost is closed."""
    service = _service()
    for computer_id in asked:
        held = service.held.get(computer_id)
        if held is not None and epochs.get(computer_id) != held.epoch:
            _lose(held)


def fence() -> None:
    """Close every computer: the leases may have passed to other workers."""
    for held in list(_service().held.values()):
        _lose(held)


def _lose(held: Held) -> None:
    closing = held.browser is not None and held.browser.closed.is_set()
    if held.browser is not None and not closing and not held.lost:
        log.warning("computer_lost", computer_id=str(held.id))
        held.lost = True
        _service().spawn(held.browser.close("lost"))


async def _tick(service: _Service) -> None:
    """Let control expire and close computers that nobody uses."""
    for held in list(service.held.values()):
        if held.browser is None or held.browser.closed.is_set():
            continue
        if held.expires_at is not None and held.expires_at <= datetime.now(UTC):
            service.spawn(_expire(held))
        idle = asyncio.get_running_loop().time() - held.used > settings.computer_idle_seconds
        if idle and held.driver is None and not held.wanted and not held.browser.screencast.casting:
            service.spawn(held.browser.close("idle"))


# What routes and sockets use ----------------------------------------------------------------------


async def _usable(user_id: str, id: UUID) -> Held:
    """The caller's computer in this process; one that still opens is waited for.

    Raises NoResultFound, ComputerClosed, NotReady, NeedsRedis, Elsewhere.
    """
    service, loop = _service(), asyncio.get_running_loop()
    deadline = loop.time() + READY_SECONDS
    with woken(f"user:{user_id}") as changed:
        while True:
            held = service.held.get(id)
            if held is not None and held.user_id == user_id and held.browser is not None:
                held.computer  # noqa: B018 - raises when it has closed
                held.touch()
                logs.redactor.set(held.redactor)
                return held
            async with db.as_user(user_id) as tx:
                row = await tx.one(Computer, id=id)
            if row.state == ComputerState.closed:
                raise ComputerClosed(f"The computer is closed ({row.closed_reason})")
            if row.state == ComputerState.open and row.lease_owner != service.worker_id:
                if row.lease_owner is None or not service.bus.carries_frames:
                    raise NeedsRedis(ELSEWHERE)
                raise Elsewhere(row.lease_owner, user_id, id)
            if loop.time() > deadline:
                raise NotReady("The computer still waits for a free browser; try again later")
            await wait_for(changed, TICK_SECONDS)


async def act(user_id: str, id: UUID, action: Action, generation: int | None = None) -> ActionRead:
    """Do one action, which renews control; a `generation` that is no longer current raises StaleControl.

    Raises ActionFailed, ComputerBusy, and what `tabs` raises.
    """
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        asked = {"action": action.model_dump(mode="json"), "generation": generation}
        return ActionRead.model_validate(await there.ask("act", **asked))
    if generation is not None:
        _require_control(held, generation)
    if held.driver is not None and not held.driver.halted:
        raise ComputerBusy("A run is using this computer; pause the run or take control first")
    try:
        result = await actions.perform(held.computer, action)
    except ActionFailed as failure:
        raise ActionFailed(failure.code, held.redactor(failure.detail)) from failure
    await _renew_control(held, held.generation)
    image = base64.b64encode(result.image).decode() if result.image else None
    return ActionRead(output=clean(held.redactor(result.output)), image=image)


async def screenshot(user_id: str, id: UUID) -> bytes:
    """A JPEG of the active tab. Raises ActionFailed when its page hangs, and what `tabs` raises."""
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        return base64.b64decode(await there.ask("screenshot"))
    try:
        return await held.computer.screenshot()
    except chromium.FAULTS as error:
        held.computer  # noqa: B018 - raises when it has closed meanwhile
        raise ActionFailed("hanging", "The page gives no picture; it may be hanging") from error


async def tabs(user_id: str, id: UUID) -> list[TabRead]:
    """The computer's tabs. Raises NoResultFound, ComputerClosed, NotReady, NeedsRedis."""
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        return [TabRead.model_validate(tab) for tab in await there.ask("tabs")]
    return [TabRead.model_validate(clean(tab)) for tab in held.computer.tabs()]


async def storage_state(user_id: str, id: UUID) -> dict[str, Any]:
    """The cookies of the computer and what sites keep in it. Raises what `screenshot` raises."""
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        state: dict[str, Any] = await there.ask("storage_state")
        return state
    try:
        return await held.computer.storage_state()
    except chromium.FAULTS as error:
        held.computer  # noqa: B018 - raises when it has closed meanwhile
        raise ActionFailed("hanging", "The computer does not tell its cookies") from error


async def capture_profile(user_id: str, id: UUID, profile_id: UUID, actor: str = "user") -> ProfileRead:
    """Replace a profile's cookies and storage by those of the computer. Raises what `screenshot` raises."""
    async with db.as_user(user_id) as tx:
        await tx.one(Profile, id=profile_id)
    state = await storage_state(user_id, id)
    async with db.as_user(user_id, actor) as tx:
        return await profiles.save(tx, profile_id, state)


async def watch(
    user_id: str,
    id: UUID,
    on_frame: Callable[[Frame], None],
    on_view: Callable[[dict[str, Any]], None] | None = None,
    max_fps: float = 15,
) -> Watch:
    """Live pictures until `Watch.close`; the callbacks must not block. Raises what `tabs` raises."""
    try:
        screencast = (await _usable(user_id, id)).computer.screencast
    except Elsewhere as there:
        screencast = _service().peers.cast(there.owner, user_id, id)
    return screencast.watch(on_frame, on_view, max_fps)


# Control ------------------------------------------------------------------------------------------


async def take_control(user_id: str, id: UUID, holder: str, actor: str = "user") -> ControlRead:
    """Let `holder` steer: at once, or `pending` until the run on it has halted. Raises what `tabs` raises."""
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        return ControlRead.model_validate(await there.ask("take_control", holder=holder, actor=actor))
    async with held.changing:
        actions.release_all(held.computer)
        halted = held.driver is None or held.driver.halted
        state = ControlState.granted if halted else ControlState.pending
        held.taken_by = actor
        await _write_control(held, state, holder, held.generation + 1, actor=actor)
        if held.driver is not None:
            held.driver.control_changed(expired=False)
        return held.control()


async def release_control(
    user_id: str, id: UUID, generation: int | None = None, actor: str = "user"
) -> ControlRead:
    """Give control back; a `generation` that is no longer current raises StaleControl."""
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        return ControlRead.model_validate(
            await there.ask("release_control", generation=generation, actor=actor)
        )
    if generation is not None and generation != held.generation:
        raise StaleControl("Control has passed on since; there is nothing of yours to give back")
    await _release(held, actor, expired=False)
    return held.control()


async def send_input(user_id: str, id: UUID, generation: int, event: InputEvent) -> None:
    """Pass on a person's input, which renews control. Raises StaleControl, ActionFailed, ComputerClosed."""
    try:
        held = await _usable(user_id, id)
    except Elsewhere as there:
        _service().owners[id] = there
        await there.ask("send_input", generation=generation, event=event.model_dump(mode="json"))
        return
    _require_control(held, generation)
    await actions.dispatch(held.computer, event)
    await _renew_control(held, generation)


def _require_control(held: Held, generation: int) -> None:
    if generation != held.generation or held.state is not ControlState.granted:
        raise StaleControl("You do not steer this computer now; take control first")


async def _renew_control(held: Held, generation: int) -> None:
    """Whoever steers is not silent."""
    async with held.changing:
        if held.state is ControlState.granted and generation == held.generation:
            held.expires_at = _control_end()
            told = held.written_until or held.expires_at
            if (held.expires_at - told).total_seconds() > settings.control_seconds / 4:
                await _write_control(held, held.state, held.holder, generation, event=False)


def release_keys(user_id: str, id: UUID) -> None:
    """Let go of the keys and buttons that a person holds, as when the person's socket breaks."""
    service = _service()
    held, there = service.held.get(id), service.owners.pop(id, None)
    if held is not None and held.user_id == user_id and held.browser is not None:
        actions.release_all(held.browser)
    elif there is not None and there.user_id == user_id:
        service.spawn(there.ask("release_keys"))


async def grant(held: Held) -> None:
    """Let the person who waits steer: what uses the computer has halted."""
    while held.state is ControlState.pending:
        try:
            async with held.changing:
                if held.state is ControlState.pending:
                    control = ControlState.granted, held.holder, held.generation
                    await _write_control(held, *control, actor=held.taken_by)
        except ComputerClosed:
            return
        except db.AWAY as error:
            log.warning("control_waits", computer_id=str(held.id), error=repr(error))
            await asyncio.sleep(TICK_SECONDS)


async def leave(held: Held, reason: str) -> None:
    """The run no longer uses it: its own computer is closed, another one stays open for its user."""
    if held.for_run:
        await close_held(held, reason)
    held.driver = None
    held.vacant.set()
    if held.browser is not None and not held.browser.closed.is_set():
        held.touch()
        await grant(held)


async def _expire(held: Held) -> None:
    if held.expires_at is not None and held.expires_at <= datetime.now(UTC):
        with suppress(ComputerClosed):
            await _release(held, "system", expired=True)


async def _release(held: Held, actor: str, *, expired: bool) -> None:
    async with held.changing:
        if not held.wanted:
            return
        actions.release_all(held.computer)
        await _write_control(held, ControlState.released, None, held.generation, actor=actor)
        held.touch()
        if held.driver is not None:
            held.driver.control_changed(expired=expired)


def _control_end() -> datetime:
    return datetime.now(UTC) + timedelta(seconds=settings.control_seconds)


async def _write_control(
    held: Held,
    state: ControlState,
    holder: str | None,
    generation: int,
    *,
    event: bool = True,
    actor: str = "user",
) -> None:
    """Change control in the row, with its event, then here."""
    expires_at = None if state is ControlState.released else _control_end()
    control = ControlRead(state=state, holder=holder, generation=generation, expires_at=expires_at)
    async with db.as_user(held.user_id, actor) as tx:
        rows = await tx.change(
            Computer,
            held.fence,
            control_state=state,
            control_holder=holder,
            control_generation=generation,
            control_expires_at=expires_at,
        )
        if not rows:
            _lose(held)
            raise ComputerClosed("The computer is closed")
        if event and state is not ControlState.pending:
            kind = "control.taken" if state is ControlState.granted else "control.released"
            tx.emit(kind, ("computer", held.id), control.model_dump_json(), run_id=held.run_id)
    held.state, held.holder, held.generation = state, holder, generation
    held.expires_at = held.written_until = expires_at


# Other processes ----------------------------------------------------------------------------------


async def _serve(call: str, user_id: str, id: UUID, arguments: dict[str, Any]) -> Any:
    """Do what another process asks of a computer of this one."""
    if call == "close":
        return await close(user_id, id, **arguments)
    held = await find_held(user_id, id)
    if held is None:
        raise NotReady("The computer has left its process; try again")
    match call:
        case "act":
            action = ACTION.validate_python(arguments["action"])
            return (await act(user_id, id, action, arguments.get("generation"))).model_dump()
        case "screenshot":
            return base64.b64encode(await screenshot(user_id, id)).decode()
        case "storage_state":
            return await storage_state(user_id, id)
        case "tabs":
            return [tab.model_dump() for tab in await tabs(user_id, id)]
        case "relay":
            held.touch()
            return _service().peers.relay(held.computer.screencast, id)
        case "take_control":
            return (await take_control(user_id, id, **arguments)).model_dump(mode="json")
        case "release_control":
            return (await release_control(user_id, id, **arguments)).model_dump(mode="json")
        case "send_input":
            event = INPUT.validate_python(arguments["event"])
            return await send_input(user_id, id, arguments["generation"], event)
        case "release_keys":
            return release_keys(user_id, id)
        case _:
            raise ValueError(call)
