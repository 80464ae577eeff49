"""One claimed run on its way through its steps: intent, action, outcome; pause, control, hand-over and end.

A run's result is `{"outputs": {name: value}}`: what its `extract` steps read, and the file ids of its
`screenshot` steps, by the steps' names. A failed run's `error` is `{code, detail}` and, where a step failed,
its number (`step`, from 1), `pointer`, `tried` and `screenshot_id`.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, Literal, TypeVar
from uuid import UUID

import orjson
import structlog
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Page

import db
from browser.chromium import ChromiumMissing, ComputerClosed, OpenFailed, TooManyComputers, first_line
from browser.recording import now_us
from infra.storage import StorageFull, StorageUnavailable, TooLarge
from infra.vault import Unsealable, Vault
from models import Computer, Control, Quota, Run, RunStatus, Step, StepStatus
from runs import computers, files, workflows
from runs.computers import Held, clean, wait_for
from runs.recording import Recording
from runs.replay import Attempt, StepFailed
from runs.workflows import Flow
from schemas import RunRead, StepRead
from settings import settings

log = structlog.get_logger()

T = TypeVar("T")

LAND_SECONDS = 0.7
LOOK_SECONDS = 3.0
LEAVE_SECONDS = 5.0
RETRY_SECONDS = 0.5
MAX_ATTEMPTS = 5
MAX_PICTURE_BYTES = 32 * 2**20
MAX_CHECKPOINT_BYTES = 8 * 2**20
MAX_OUTPUTS_BYTES = 4 * 2**20
LONG_AGO = datetime.min.replace(tzinfo=UTC)  # -infinity in PostgreSQL
BROWSER_FAULTS = (PlaywrightError, ComputerClosed, TimeoutError)
ENVIRONMENT = ("setViewport", "emulateNetworkConditions")


class Fenced(Exception):
    """The run belongs to another worker now."""


class Interrupted(Exception):
    """A wish came while something was under way."""


class Cancelled(Exception):
    """The run's user wants it to end."""


class Leaving(Exception):
    """This worker lets the run go: `handed_over` to another one, or `parked` because it has waited long."""

    def __init__(self, how: Literal["handed_over", "parked"]) -> None:
        super().__init__(how)
        self.how = how


class Failed(Exception):
    """The run cannot go on; `error` is what it shows."""

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.error: dict[str, Any] = clean({"code": code, "detail": detail, **more})


async def look_at_queue(tx: db.Tx) -> None:
    """Have the workers look at this user's queue; claiming sets the true time when nothing is due."""
    await tx.change(Quota, {}, ready_at=LONG_AGO)
    tx.hint("runs")


class Drive:
    """One claimed run; its worker's heartbeat and the computer's control tell it what is wished."""

    def __init__(self, run: Run, vault: Vault) -> None:
        self.run, self.run_id = run, run.id
        self.halted = False
        self.task: asyncio.Task[None]
        self._vault = vault
        self._held: Held | None = None
        self._recording: Recording | None = None
        self._main: Page | None = None
        self._control = Control(run.control)
        still_waits = run.status == RunStatus.waiting_user and run.control == Control.pause
        self._waiting = run.reason if still_waits else None
        self._leaving = self._ending = self._lost = self._reopened = False
        self._in_flight = self._acted = False
        self._changed = asyncio.Event()
        self._told_at = 0.0
        self._scope: dict[str, Any] = {"params": run.params, "outputs": dict(run.outputs)}
        self._spent = run.active_ms / 1000
        self._acting_since: float | None = _now()
        self._step: Step | None = None
        self._done = self._landed_at = self._navigations = self._crashes = 0
        self._left_behind: set[asyncio.Task[Any]] = set()

    @property
    def opening(self) -> bool:
        """Whether its computer is still to come."""
        return self._held is None

    # What others tell it ------------------------------------------------------------------------

    def heard(self, epoch: int, control: Control, asked_at: float) -> None:
        """What the heartbeat brought: the lease's epoch (0 when there is none) and its user's wish."""
        if epoch != self.run.lease_epoch:
            if not self._ending:
                self.lose()
        elif asked_at > self._told_at and control != self._control:
            self._control = control
            if self._control is Control.run:
                self._waiting = None
            self._changed.set()

    def control_changed(self, *, expired: bool) -> None:
        """A person wants to steer, has given control back or let it expire; or the browser has closed."""
        if expired:
            self._waiting = "control_expired"
        self._changed.set()

    def leave(self) -> None:
        """Hand the run over at the next good moment."""
        self._leaving = True
        self._changed.set()

    def lose(self) -> None:
        """Stop at once and write nothing: the run is another worker's."""
        if not self._lost:
            self._lost = True
            log.warning("run_lost", run_id=str(self.run_id))
            self.task.cancel()

    # From claim to end --------------------------------------------------------------------------

    async def go(self) -> None:
        """Drive the run to its end, or to where it is let go."""
        structlog.contextvars.bind_contextvars(run_id=str(self.run_id))
        reason = "run_ended"
        try:
            await self._to_its_end()
        except Fenced:
            reason = "lost"
            log.warning("run_fenced")
        except Leaving as leaving:
            reason = leaving.how
            await self._let_go(leaving.how)
        except asyncio.CancelledError:
            reason = "lost" if self._lost else "handed_over"
            if not self._lost:
                await self._let_go("handed_over")
        finally:
            if self._recording is not None:
                self._recording.end()
            if self._held is not None:
                await computers.leave(self._held, reason)
            await asyncio.gather(*self._left_behind, return_exceptions=True)

    async def _to_its_end(self) -> None:
        try:
            await self._all_steps()
        except (Fenced, Leaving):
            raise
        except Cancelled:
            await self._end(RunStatus.cancelled)
        except Failed as failure:
            await self._end(RunStatus.failed, failure.error)
        except Exception:
            log.exception("run_broke")
            error = {"code": "internal", "detail": "Something went wrong in the server; its log says what"}
            await self._end(RunStatus.failed, error)
        else:
            await self._end(RunStatus.succeeded)

    async def _all_steps(self) -> None:
        if self.run.attempt > MAX_ATTEMPTS:
            raise Failed("worker_died", f"The run's worker died {MAX_ATTEMPTS} times")
        try:
            flow = workflows.parse(self.run.definition, {"properties": dict.fromkeys(self.run.params, True)})
        except workflows.InvalidWorkflow as error:
            raise Failed("invalid_workflow", str(error)) from error
        steps = await self._repeat(self._resume_steps)
        checkpoint = self._open_checkpoint()
        await self._repeat(lambda: self._open_computer(checkpoint, fresh=not steps))
        if self._reopened:
            await self._return_to_page(flow)
        for number in range(self._done + 1, len(flow.steps) + 1):
            await self._do_step(flow, number)
        await self._boundary()

    async def _resume_steps(self) -> list[Step]:
        """The steps so far; one that its worker left unfinished is marked for what is known of it."""
        async with db.as_user(self.run.user_id) as tx:
            steps = await tx.find(Step, run_id=self.run_id)
        if not steps:
            return []
        last = steps[-1]
        landed = not last.safe and last.acted_at is not None

        async def mark(tx: db.Tx) -> None:
            tx.emit("run.log", ("run", self.run_id), {"message": "Another worker goes on with the run"})
            if last.status == StepStatus.started:
                status = StepStatus.may_have_landed if landed else StepStatus.interrupted
                rows = await tx.change(Step, {"id": last.id}, status=status, finished_at=datetime.now(UTC))
                if landed:
                    tx.announce("run.step.finished", rows[0], StepRead, run_id=self.run_id)

        await self._write(mark)
        finished = last.status in (StepStatus.succeeded, StepStatus.may_have_landed)
        self._done = last.number if finished or landed else last.number - 1
        return steps

    async def _open_computer(self, checkpoint: dict[str, Any], *, fresh: bool) -> None:
        if self._held is None:
            named = self.run.computer_id
            held = await computers.find_held(self.run.user_id, named) if named else None
            if held is not None and not held.for_run:
                await held.attach(self)
                self._main, self._crashes = held.computer.page, held.crashes
            else:
                if named and fresh:
                    await self._refuse_closed(named)
                held = await self._open_own(checkpoint)
                self._reopened = not fresh
            self._held = held
            self._record(held)
            self._landed_at = checkpoint.get("landed_at", 0)
        await self._count_navigations()
        await self._write(computer_id=self._held.id)

    def _record(self, held: Held) -> None:
        if settings.recording == "on" and held.browser is not None:
            self._recording = Recording(self.run, held.id, held.browser.screencast, held.recordings)

    async def _refuse_closed(self, computer_id: UUID) -> None:
        async with db.as_user(self.run.user_id) as tx:
            for computer in await tx.find(Computer, id=computer_id, for_run=False):
                raise Failed("computer_closed", f"The computer has closed ({computer.closed_reason})")

    async def _open_own(self, checkpoint: dict[str, Any]) -> Held:
        try:
            return await computers.open_for_run(self, self.run, checkpoint or None)
        except TooManyComputers as error:
            raise Leaving("handed_over") from error
        except ChromiumMissing as error:
            raise Failed("chromium_missing", str(error)) from error
        except OpenFailed as error:
            raise Failed("browser_failed", str(error)) from error

    async def _return_to_page(self, flow: Flow) -> None:
        """Bring a reopened page to where it was, or wait for a person where that would repeat an action."""
        since = flow.steps[self._landed_at : self._done]
        settings_before = [step for step in flow.steps[: self._landed_at] if step["type"] in ENVIRONMENT]
        blind = all(workflows.safe(step) for step in since)
        for step in (*settings_before, *(since if blind else ())):
            try:
                await self._perform(self._attempt(flow, step), safe=True)
            except (StepFailed, *BROWSER_FAULTS) as error:
                log.info("page_not_restored", error=str(error))
                blind = False
                break
        await self._repeat(self._count_navigations)
        if not blind and self._waiting is None:
            self._waiting = "may_have_landed"

    # Steps --------------------------------------------------------------------------------------

    async def _do_step(self, flow: Flow, number: int) -> None:
        await self._boundary()
        raw = flow.steps[number - 1]
        safe = workflows.safe(raw)
        self._step = await self._intend(raw, number, safe=safe)
        if raw["type"] == "navigate":
            self._crashes = self._computer.crashes
        began = self._active()
        try:
            output = clean(await self._perform(self._attempt(flow, raw), safe=safe))
            self._keep_output(raw, output)
        except StepFailed as error:
            raise await self._explain(error.code, error.detail, error.tried) from error
        except BROWSER_FAULTS as error:
            raise await self._explain("page_error", f"The page refused: {first_line(error)}", []) from error
        self._done = number
        picture_id = await self._picture()
        checkpoint = await self._snapshot() if self._has_navigated() else {}
        values = {
            "status": StepStatus.succeeded,
            "output": output,
            "screenshot_id": picture_id,
            "duration_ms": round((self._active() - began) * 1000),
        }
        counts = {"step_count": self.run.step_count + 1, "outputs": self._scope["outputs"]}
        await self._write(lambda tx: self._finish_step(tx, values), **counts, **checkpoint)
        self._step, self._acted = None, False
        self._tag_frames(None)

    async def _intend(self, raw: dict[str, Any], number: int, *, safe: bool) -> Step:
        """Say in the log what is about to be done."""
        written: list[Step] = []

        async def write(tx: db.Tx) -> None:
            again = await tx.find(Step, run_id=self.run_id, number=number)
            started = {"status": StepStatus.started, "started_at": datetime.now(UTC), "acted_at": None}
            if again:
                attempt = again[0].attempt + 1
                row = (
                    await tx.change(Step, {"id": again[0].id}, attempt=attempt, finished_at=None, **started)
                )[0]
            else:
                row = await tx.add(
                    Step,
                    run_id=self.run_id,
                    number=number,
                    pointer=f"/steps/{number - 1}",
                    type=raw["type"],
                    title=_title(raw),
                    attempt=1,
                    safe=safe,
                    **started,
                )
            tx.announce("run.step.started", row, StepRead, run_id=self.run_id)
            written[:] = [row]

        await self._write(write)
        self._tag_frames(number)
        return written[0]

    def _tag_frames(self, number: int | None) -> None:
        if self._recording is not None:
            self._recording.at_step(number)

    def _attempt(self, flow: Flow, raw: dict[str, Any]) -> Attempt:
        return Attempt(self._computer.computer, flow, raw, self._scope, self._save, self._main)

    async def _perform(self, attempt: Attempt, *, safe: bool) -> Any:
        """The phases of a step; interrupted, what was not acted yet starts over, and the rest goes on."""
        acted = False
        while True:
            await self._boundary()
            try:
                if not acted:
                    await self._race(attempt.find())
                    await (self._race(attempt.act()) if safe else self._land(attempt))
                    acted = True
                return await self._race(attempt.settle())
            except Interrupted:
                continue

    async def _land(self, attempt: Attempt) -> None:
        """Act once and for all; a wish that comes meanwhile waits a moment for the action, not for ever."""

        async def mark(tx: db.Tx) -> None:
            await tx.change(
                Step, {"run_id": self.run_id, "status": StepStatus.started}, acted_at=datetime.now(UTC)
            )

        await self._write(mark)
        if self._pressing():
            raise Interrupted
        task = asyncio.ensure_future(attempt.act())
        self._in_flight = self._acted = True
        try:
            while await self._interrupts(task):
                await asyncio.wait({task}, timeout=LAND_SECONDS)
                if not task.done():
                    await self._boundary()
        finally:
            if task.done():
                self._in_flight = False
            else:
                self._leave_behind(task)
        task.result()

    def _keep_output(self, raw: dict[str, Any], output: Any) -> None:
        if raw["type"] not in workflows.OWN_STEPS:
            return
        outputs = self._scope["outputs"] | {raw["name"]: output}
        if len(orjson.dumps(outputs)) > MAX_OUTPUTS_BYTES:
            raise StepFailed("output_too_large", "The run's outputs are larger than 4 MiB together")
        self._scope["outputs"] = outputs

    async def _finish_step(self, tx: db.Tx, values: dict[str, Any]) -> None:
        """Write the outcome of the step that was begun, once."""
        if self._step is None:
            return
        where = {"id": self._step.id, "status": StepStatus.started}
        for row in await tx.change(Step, where, url=self._url(), finished_at=datetime.now(UTC), **values):
            tx.announce("run.step.finished", row, StepRead, run_id=self.run_id)

    async def _explain(self, code: str, detail: str, tried: list[dict[str, Any]]) -> Failed:
        """The failure of the current step, with a picture of the page if it still gives one."""
        if code in ("page_closed", "page_error", "target_not_found"):
            await self._race_closed()
        crash = self._crash()
        if crash is not None:
            return crash
        if self._computer.crashes > self._crashes:
            code, detail = "page_crashed", f"The page had crashed, and no step opened another one. {detail}"
        picture_id = await self._picture()
        return self._step_failure(
            code, detail, tried=tried, screenshot_id=str(picture_id) if picture_id else None
        )

    async def _race_closed(self) -> None:
        """The end of a browser may be told a moment after the error that it caused."""
        browser = self._computer.browser
        if browser is not None:
            await asyncio.wait(
                {closed := asyncio.ensure_future(browser.closed.wait())}, timeout=RETRY_SECONDS
            )
            closed.cancel()

    def _crash(self) -> Failed | None:
        held = self._held
        if held is None or held.browser is None or not held.browser.closed.is_set():
            return None
        if held.crashes:
            return self._step_failure("page_crashed", "The browser crashed")
        return self._step_failure("computer_closed", "The computer was closed while the run used it")

    def _step_failure(self, code: str, detail: str, **more: Any) -> Failed:
        place = {"step": self._step.number, "pointer": self._step.pointer} if self._step else {}
        return Failed(code, detail, **place, **more)

    # Wishes -------------------------------------------------------------------------------------

    def _state(self) -> tuple[RunStatus, str] | None:
        """What the run has to be instead of running, and why; it opens its computer in any case."""
        if self._held is None:
            return None
        if self._waiting is not None:
            return RunStatus.waiting_user, self._waiting
        if self._held.wanted:
            return RunStatus.paused, "control"
        if self._control is Control.pause:
            return RunStatus.paused, "requested"
        return None

    def _pressing(self) -> bool:
        """Whether what is under way has to give way; an action that has landed is seen through on leaving."""
        return (
            self._control is Control.cancel
            or (self._leaving and not self._acted)
            or self._remaining() <= 0
            or self._crash() is not None
            or (self._state() is None) is self.halted
        )

    async def _boundary(self) -> None:
        """Do what is wished before the run goes on; returns when it may act."""
        since = _now()
        while True:
            self._changed.clear()
            if self._control is Control.cancel:
                raise Cancelled
            if self._leaving:
                raise Leaving("handed_over")
            if self._remaining() <= 0:
                raise self._step_failure(
                    "timeout", f"The run took longer than {self.run.timeout_seconds} seconds"
                )
            if (crash := self._crash()) is not None:
                raise crash
            if (state := self._state()) is None:
                break
            await self._halt(*state)
            since = _now() if self._computer.wanted else since
            if self._pressing() or self._state() != state:
                continue
            patience = None if self._computer.wanted else since + settings.park_seconds - _now()
            if not await wait_for(self._changed, patience):
                raise Leaving("parked")
        self.halted = False
        self._acting_since = self._acting_since or _now()
        if self.run.status != RunStatus.running:
            await self._write(event="resumed", status=RunStatus.running, reason=None)

    async def _halt(self, status: RunStatus, reason: str) -> None:
        """Say that the run has halted, let a person who waits steer, and keep what would reopen its page."""
        self._spent, self._acting_since = self._active(), None
        if (self.run.status, self.run.reason) != (status, reason):
            if status is RunStatus.waiting_user:
                # A wish to go on shows only against a wish to pause.
                await self._write(event="waiting", status=status, reason=reason, control=Control.pause)
                self._control, self._told_at = Control.pause, _now()
            else:
                await self._write(event="paused", status=status, reason=reason)
        if not self.halted:
            self.halted = True
            await computers.grant(self._computer)
            self._has_navigated()
            if kept := await self._snapshot():
                await self._write(**kept)
        await computers.grant(self._computer)

    async def _race(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something that may be broken off; raises Interrupted when a wish or time comes first."""
        task = asyncio.ensure_future(work)
        try:
            if await self._interrupts(task):
                raise Interrupted
            return task.result()
        finally:
            if not task.done():
                self._leave_behind(task)

    async def _repeat(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something that may be broken off, from its start after every interruption."""
        while True:
            await self._boundary()
            try:
                return await self._race(work())
            except Interrupted:
                continue
            except db.AWAY as error:
                log.warning("run_waits_for_database", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)

    async def _interrupts(self, task: "asyncio.Task[Any]") -> bool:
        """Wait for the task; True when something pressing comes first."""
        while not task.done():
            self._changed.clear()
            if self._pressing():
                return True
            changed = asyncio.ensure_future(self._changed.wait())
            seconds = self._remaining()
            try:
                await asyncio.wait(
                    {task, changed},
                    timeout=None if seconds == math.inf else seconds,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                changed.cancel()
        return False

    def _leave_behind(self, task: "asyncio.Task[Any]") -> None:
        """Cancel a task without waiting for it: a hanging page may take its time."""
        task.cancel()
        self._left_behind.add(task)
        task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[Any]") -> None:
        self._left_behind.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.debug("left_behind_failed", error=repr(error))

    def _active(self) -> float:
        """Seconds spent acting, pauses left out."""
        return self._spent + (_now() - self._acting_since if self._acting_since is not None else 0)

    def _remaining(self) -> float:
        return math.inf if self._acting_since is None else self.run.timeout_seconds - self._active()

    # The page -----------------------------------------------------------------------------------

    @property
    def _computer(self) -> Held:
        if self._held is None:
            raise ComputerClosed("The run's computer is not open")
        return self._held

    def _url(self) -> str | None:
        browser = self._held.browser if self._held else None
        active = next((tab for tab in browser.tabs() if tab["active"]), None) if browser else None
        return clean(active["url"]) if active else None

    async def _count_navigations(self) -> None:
        """Leave out of account the pages that were opened so far."""
        try:
            await self._computer.computer.refresh_tabs()
        except BROWSER_FAULTS as error:
            log.info("tabs_not_read", error=repr(error))
        self._navigations = self._computer.navigations

    def _has_navigated(self) -> bool:
        """Whether a page was opened since the last look; what was done by now need not be repeated then."""
        if self._computer.navigations == self._navigations:
            return False
        self._navigations, self._landed_at = self._computer.navigations, self._done
        return True

    async def _picture(self) -> UUID | None:
        """What the page looks like, as a file; None when it gives no picture or a wish presses."""

        async def take() -> tuple[int, bytes]:
            await self._computer.computer.refresh_tabs()
            return now_us(), await self._computer.computer.screenshot()

        try:
            async with asyncio.timeout(LOOK_SECONDS):
                captured_us, jpeg = await self._race(take())
            if self._recording is not None:
                self._recording.mark(jpeg, captured_us)
            return UUID(
                await self._save(f"step-{self._step.number if self._step else 0}.jpg", jpeg, "image/jpeg")
            )
        except (Interrupted, StepFailed, *BROWSER_FAULTS) as error:
            log.info("no_picture", error=repr(error))
            return None

    async def _save(self, name: str, data: bytes, content_type: str) -> str:
        """Store a picture of the run and return its file's id."""
        try:
            file = await files.save(
                self.run.user_id,
                kind="screenshot",
                name=name,
                content_type=content_type,
                data=data,
                run_id=self.run_id,
                computer_id=self._computer.id,
                limit=MAX_PICTURE_BYTES,
            )
        except StorageFull as error:
            raise StepFailed("storage_full", str(error)) from error
        except (StorageUnavailable, TooLarge, *db.AWAY) as error:
            raise StepFailed("not_saved", f"A picture could not be saved: {error}") from error
        return str(file.id)

    async def _snapshot(self) -> dict[str, Any]:
        """The sealed checkpoint as a column of the run, or nothing when the page gives none in time."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                state = clean(await self._race(self._computer.computer.storage_state()))
        except (Interrupted, *BROWSER_FAULTS) as error:
            log.info("no_checkpoint", error=repr(error))
            return {}
        data = orjson.dumps(state | {"landed_at": self._landed_at})
        if len(data) > MAX_CHECKPOINT_BYTES:
            data = orjson.dumps(state | {"landed_at": self._landed_at, "origins": []})
        return {"checkpoint": self._vault.seal(data, **self._place)}

    def _open_checkpoint(self) -> dict[str, Any]:
        if self.run.checkpoint is None:
            return {}
        try:
            state: dict[str, Any] = orjson.loads(self._vault.unseal(self.run.checkpoint, **self._place))
        except Unsealable as error:
            log.warning("checkpoint_unusable", error=str(error))
            return {}
        return state

    @property
    def _place(self) -> dict[str, str]:
        return {"table": "runs", "column": "checkpoint", "row": str(self.run_id), "user": self.run.user_id}

    # Writing ------------------------------------------------------------------------------------

    async def _write(
        self,
        more: Callable[[db.Tx], Awaitable[None]] | None = None,
        *,
        event: str | None = None,
        **values: Any,
    ) -> None:
        """One transaction under the lease's fence; while the database is away it is tried again.

        Raises Fenced when the run has passed to another worker.
        """
        owner, epoch = self.run.lease_owner, self.run.lease_epoch
        where = {"id": self.run_id, "lease_owner": owner, "lease_epoch": epoch}
        while True:
            try:
                async with db.as_user(self.run.user_id) as tx:
                    rows = await tx.change(Run, where, active_ms=round(self._active() * 1000), **values)
                    if not rows:
                        raise Fenced
                    if more is not None:
                        await more(tx)
                    if event is not None:
                        tx.announce(f"run.{event}", rows[0], RunRead)
            except db.AWAY as error:
                log.warning("run_write_waits", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            else:
                self.run = rows[0]
                return

    async def _end(self, status: RunStatus, error: dict[str, Any] | None = None) -> None:
        """Write the end: of the step under way, of the run, and of its lease."""
        self._ending = True

        async def finish(tx: db.Tx) -> None:
            landed = StepStatus.may_have_landed if self._in_flight else StepStatus.interrupted
            picture_id = (error or {}).get("screenshot_id")
            values = {
                "status": StepStatus.failed if error else landed,
                "error": error,
                "screenshot_id": UUID(picture_id) if picture_id else None,
            }
            await self._finish_step(tx, values)
            await look_at_queue(tx)

        await self._write(
            finish,
            event=status,
            status=status,
            reason=None,
            error=error,
            result={"outputs": self._scope["outputs"]} if status is RunStatus.succeeded else None,
            finished_at=datetime.now(UTC),
            checkpoint=None,
            lease_owner=None,
            lease_expires_at=None,
        )

    async def _let_go(self, how: Literal["handed_over", "parked"]) -> None:
        """Release the lease, so that another worker goes on: at once, or when its user wants it to."""
        self._ending = True
        self.halted = self._state() is not None
        kept = await self._snapshot() if self._held is not None else {}
        lease: dict[str, Any] = {"lease_expires_at": LONG_AGO}
        if how == "parked":
            lease = {"lease_expires_at": None, "lease_owner": None}
        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self._write(look_at_queue, attempt=self.run.attempt - 1, **lease, **kept)
        except (Fenced, TimeoutError) as error:
            log.warning("run_not_released", error=repr(error))


def _now() -> float:
    return asyncio.get_running_loop().time()


def _title(raw: dict[str, Any]) -> str:
    """A step in a few words."""
    selectors = raw.get("selectors") or [[""]]
    first = selectors[0] if isinstance(selectors[0], str) else selectors[0][0]
    what = raw.get("title") or raw.get("url") or raw.get("name") or raw.get("key") or first
    return f"{raw['type']} {what}".strip()[:200]
