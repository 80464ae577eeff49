"""One claimed run on its way through its steps: intent, action, outcome; pause, control, hand-over and end.

A run's result is `{"outputs": {name: value}}`: what its `extract` steps read, and the file ids of its
`screenshot` steps, by the steps' names. A failed run's `error` is `{code, detail}` and, where a step failed,
its number (`step`, from 1), `pointer`, `tried` and `screenshot_id`; `approval_id` where the answer was no.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, TypeVar, cast
from uuid import UUID

import orjson
import structlog
from playwright.async_api import Page
from sqlalchemy.exc import NoResultFound

import db
import logs
from browser import actions
from browser.actions import ActionFailed
from browser.chromium import FAULTS, ChromiumMissing, ComputerClosed, OpenFailed, TooManyComputers, first_line
from browser.recording import now_us
from infra.redaction import Redactor
from infra.storage import StorageFull, StorageUnavailable, TooLarge
from infra.vault import Unsealable, Vault
from models import Approval, ApprovalStatus, Computer, Control, Run, RunStatus, Step, StepStatus
from runs import approvals, checkpoints, computers, files, profiles, secrets, usage, workflows
from runs.agent import REOPENED, STEERED
from runs.calls import Calls
from runs.computers import Held, clean, wait_for
from runs.deeds import Deed
from runs.endings import Cancelled, Failed, Fenced, Interrupted, Leaving
from runs.parameters import in_words
from runs.queue import LONG_AGO, look_at_queue
from runs.recording import Recording
from runs.replay import Attempt, Fields, StepFailed, filled
from runs.steps import DAY, OWN_STEPS, Approve, ForEach, WaitingStep
from runs.trail import ENVIRONMENT, Trail, is_done
from runs.walk import Place, TooManySteps
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
MAX_OUTPUTS_BYTES = 8 * 2**20
BROWSER_FAULTS = (*FAULTS, ComputerClosed)
LOOKING = ("extract", "screenshot", "keyDown", "keyUp", "scroll")  # a blank page would do for them


class Drive:
    """One claimed run; its worker's heartbeat and the computer's control tell it what is wished."""

    def __init__(self, run: Run, vault: Vault) -> None:
        self.run, self.run_id = run, run.id
        self.halted = False
        self.task: asyncio.Task[None]
        self._vault = vault
        self._held: Held | None = None
        self._recording: Recording | None = None
        self.main: Page | None = None
        self._control = Control(run.control)
        still_waits = run.status == RunStatus.waiting_user and run.control == Control.pause
        self.waiting = run.reason if still_waits else None  # for a person, and why
        self.short: str | None = None  # the part of a budget that is used up
        # Who steered when the worker before went away has not given the run back.
        self._steered = run.status == RunStatus.paused and run.reason == "control"
        self._leaving = self._ending = self._lost = False
        self._informed = self._reopened = self._arrived = False
        self._in_flight = self._acted = False
        self._changed = asyncio.Event()
        self._told_at = 0.0
        self._trail: Trail
        self._before: tuple[Run, list[Step]] | None = None  # what this run retries
        self._output_bytes = 0
        self.purse = secrets.Purse(run.user_id, Redactor())
        self._spent = run.active_ms / 1000
        self._acting_since: float | None = _now()
        self._step: Step | None = None
        self._question: Approval | None = None
        self._matter: dict[str, Any] | None = None  # what a yes is spent on
        self._other_page: str | None = None  # that a person was told of, who had said yes to another one
        self._calls = Calls(self)
        self._used_at = _now()
        self._done = self._navigations = self._landings = self._crashes = 0
        # Generations of control: as the page was opened, and as a computer that has gone was left.
        self._landed_under = self._left_under = 0
        self._checkpoint_due = False
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
                self.waiting, self.short, self._steered = None, None, False
            self._changed.set()
        elif self._question is not None:
            self._changed.set()  # time to see whether it has been answered

    def control_changed(self, *, expired: bool) -> None:
        """A person wants to steer, has given control back or let it expire; or the browser has closed."""
        if expired:
            self.waiting = "control_expired"
        if self._held is not None and self._held.wanted:
            self._calls.tell(STEERED)
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
        logs.redactor.set(self.purse.redactor)
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
            await self._calls.close()
            await asyncio.gather(*self._left_behind, return_exceptions=True)

    async def _to_its_end(self) -> None:
        try:
            await self._all_steps()
        except (Fenced, Leaving):
            raise
        except Cancelled:
            await self._end(RunStatus.cancelled)
        except Failed as failure:
            await self._end(RunStatus.failed, self._shown_error(failure.error), await self._keep_page())
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
            flow = await workflows.parse_aside(self.run.definition, None, any_params=True)
        except workflows.InvalidWorkflow as error:
            raise Failed("invalid_workflow", str(error)) from error
        # A page that is reopened may show a secret at once.
        self.purse.names = tuple(workflows.named_secrets(flow.steps))
        if any(step["type"] == "agent" for _, step in workflows.each(flow.steps)):
            await self.repeat(self.purse.name_all)
        await self.repeat(self.purse.know)
        steps = await self.repeat(self._resume_steps)
        self._trail = Trail(flow, self.run, steps, self._done, self._before)
        brought = (step.output for step in steps if step.output is not None and step.call is None)
        self._output_bytes = sum(len(orjson.dumps(output)) for output in brought)
        checkpoint = checkpoints.unseal(self._vault, self.run) or {}
        self.purse.redactor.learn(checkpoint.get("hidden", {}))
        self._other_page = checkpoint.get("other_page")
        await self.repeat(lambda: self._open_computer(checkpoint, fresh=not steps))
        if self._reopened:
            by_hand = self._left_under > checkpoint.get("generation", self._left_under)
            await self._return_to_page(flow, fresh=not steps, by_hand=by_hand and not self._steered)
        if self._steered and self.waiting is None:
            self.waiting = "control_expired"
        self._arrived, self._steered = True, False
        while (place := self._trail.place) is not None:
            await (self._do_call(flow, place) if place.is_call else self._do_step(flow, place))
        await self.boundary()
        if self.run.save_profile and self.run.profile_id is not None:
            await self._save_profile(self.run.profile_id)

    async def _save_profile(self, profile_id: UUID) -> None:
        """Keep the cookies and storage as the run leaves them; a run that did its work never fails for it."""
        message = "The profile keeps the cookies and storage of this run"
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                state = clean(await self.computer.computer.storage_state())
            async with db.as_user(self.run.user_id) as tx:
                await profiles.save(tx, profile_id, state)
        except NoResultFound:
            message = "The profile was not saved: it was deleted"
        except (profiles.InvalidState, *BROWSER_FAULTS, *db.AWAY) as error:
            message = f"The profile was not saved: {first_line(error)}"
        await self.say(message)

    async def say(self, message: str) -> None:
        """A line in the run's log."""

        async def say(tx: db.Tx) -> None:
            tx.emit("run.log", ("run", self.run_id), {"message": self.shown(message)})

        await self.write(say)

    def shown(self, value: Any) -> Any:
        """What a page has said, as it can be kept: without secrets, and text that the database takes."""
        return clean(self.purse.redactor(value))

    def _shown_error(self, error: dict[str, Any]) -> dict[str, Any]:
        """The same of an error, whose code, place and ids are ours."""
        return {
            name: self.shown(value) if name in ("detail", "tried") else value for name, value in error.items()
        }

    async def _resume_steps(self) -> list[Step]:
        """The steps so far; one that its worker left unfinished is marked for what is known of it."""
        async with db.as_user(self.run.user_id) as tx:
            steps = await tx.find(Step, run_id=self.run_id)
            asked = await tx.find(Approval, run_id=self.run_id, step_id=steps[-1].id) if steps else []
            left = self.run.computer_id
            for before in await tx.find(Run, id=self.run.retry_of) if self.run.retry_of else ():
                self._before = before, await tx.find(Step, run_id=before.id)
                left = left or before.computer_id
            for computer in await tx.find(Computer, id=left) if left else ():
                self._left_under = computer.control_generation
        self._question = next(iter(asked), None)
        self._informed = True
        if not steps:
            self._done = self.run.first_step - 1
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

        finished = is_done(last)
        if finished:
            self._question = None
        elif self._refused and last.call is None:
            self._step = last
            raise self._refusal()
        await self.write(mark)
        self._done = last.number if finished or landed else last.number - 1
        self._calls.made = sum(step.call is not None for step in steps if step.number <= self._done)
        return steps

    async def _open_computer(self, checkpoint: dict[str, Any], *, fresh: bool) -> None:
        if self._held is None:
            named = self.run.computer_id
            held = await computers.find_held(self.run.user_id, named) if named else None
            if held is not None and not held.for_run:
                await held.attach(self)
                self._held, self._used_at = held, _now()
                held.redactor.learn(self.purse.redactor.known)
                self.purse.redactor = held.redactor
                logs.redactor.set(held.redactor)
            else:
                if named and fresh:
                    await self._refuse_closed(named)
                self._held = await self._open_own(checkpoint)
                self._reopened = not fresh or self._trail.anything_done
            self._trail.land_as(checkpoint)
            self._landed_under = self._held.generation
            self._record(self._held)
        if not self._held.for_run and self.main is None:
            await self._see_page(self._held)
        await self._count_navigations()
        await self.write(computer_id=self._held.id)

    async def _see_page(self, held: Held) -> None:
        """The page that an open computer shows; its last tab may be being replaced. Raises Failed."""
        try:
            await held.computer.settled()
            self.main, self._crashes = held.computer.page, held.crashes
        except ComputerClosed as error:
            raise self.crash() or Failed("computer_closed", str(error)) from error

    def _record(self, held: Held) -> None:
        if settings.recording == "on" and held.browser is not None:
            self._recording = Recording(self.run, held.id, held.browser.screencast, held.recordings)

    async def _refuse_closed(self, computer_id: UUID) -> None:
        async with db.as_user(self.run.user_id) as tx:
            for computer in await tx.find(Computer, id=computer_id, for_run=False):
                raise Failed("computer_closed", f"The computer has closed ({computer.closed_reason})")

    async def _open_own(self, checkpoint: dict[str, Any]) -> Held:
        try:
            return await computers.open_for_run(self, self.run, checkpoint or None, self.purse.redactor)
        except TooManyComputers as error:
            raise Leaving("handed_over") from error
        except ChromiumMissing as error:
            raise Failed("chromium_missing", str(error)) from error
        except OpenFailed as error:
            raise Failed("browser_failed", str(error)) from error

    async def _return_to_page(self, flow: Flow, *, fresh: bool, by_hand: bool) -> None:
        """Bring a reopened page to where it was, or wait for a person where that would repeat an action.

        So it does where a person had changed the page `by_hand`. The person is asked once: from then on the
        page is as it was opened, for the workers that follow too.
        """
        since, next_place = self._trail.since_landing, self._trail.place
        if next_place is not None and next_place.is_call:
            self._calls.tell(REOPENED)  # the model looks for itself
            return
        if fresh and next_place is not None and next_place.step["type"] == "navigate":
            since, by_hand = [place for place in since if place.step["type"] in ENVIRONMENT], False
        settings_before = [p for p in self._trail.until_landing if p.step["type"] in ENVIRONMENT]
        blind = all(workflows.safe(place.step) and not place.unknown_inside for place in since)
        again = [place for place in since if blind and place.step["type"] not in OWN_STEPS]
        for place in (*settings_before, *again):
            try:
                await self.perform(self._attempt(flow, place), safe=True)
            except (StepFailed, *BROWSER_FAULTS) as error:
                log.info("page_not_restored", error=str(error))
                blind = False
                break
        await self.repeat(self._count_navigations)
        if blind and not by_hand:
            return
        self._note_landing()
        if self.waiting is None:
            self.waiting = "page_not_restored" if fresh or blind else "may_have_landed"

    # Steps --------------------------------------------------------------------------------------

    async def _do_step(self, flow: Flow, place: Place) -> None:
        await self.boundary()
        raw, number = place.step, place.number
        safe = workflows.safe(raw)
        step = await self.begin(place, {"type": raw["type"], "title": _title(raw)}, safe=safe)
        if raw["type"] == "navigate":
            self._crashes = self.computer.crashes
        began = self.active()
        output: Any = None
        halt: dict[str, Any] = {}
        try:
            if raw["type"] == "pause":
                halt = self._pause(raw)
            elif raw["type"] == "approve":
                output = await self._ask(raw, step)
            elif raw["type"] == "forEach":
                output = self._items(raw)
            elif raw["type"] == "agent":
                filled(raw, self._trail.scope)
            else:
                self._require_page(raw)
                output = clean(await self.perform(self._attempt(flow, place), safe=safe))
                output = self.shown(output) if raw["type"] == "extract" else output
            self.weigh(output)
        except StepFailed as error:
            raise await self._explain(error.code, error.detail, error.tried) from error
        except BROWSER_FAULTS as error:
            raise await self._explain("page_error", f"The page refused: {first_line(error)}", []) from error
        self._done = number
        self._pass(output)
        picture_id = await self._picture() if _looks(raw) else None
        brought = {} if self._trail.outputs == self.run.outputs else {"outputs": self._trail.outputs}

        async def use_answer(tx: db.Tx) -> None:
            if self._question is not None:
                await self._use_answer(tx, self._question, place)

        await self.finish(
            {
                "status": StepStatus.succeeded,
                "output": output,
                "screenshot_id": picture_id,
                "duration_ms": round((self.active() - began) * 1000),
            },
            use_answer,
            **brought,
            **halt,
        )
        if halt:
            self.waiting, self._control, self._told_at = halt["reason"], Control.pause, _now()

    async def _do_call(self, flow: Flow, place: Place) -> None:
        """Do what the model of an `agent` step wants next; only its last call ends that step."""
        try:
            outcome = await self._calls.do(flow, place)
        except BROWSER_FAULTS as error:
            raise await self._explain("page_error", f"The page refused: {first_line(error)}", []) from error
        self._done = place.number
        self._pass(outcome)

    def _require_page(self, raw: dict[str, Any]) -> None:
        """Refuse to look at the blank tab that took the place of a page that crashed. Raises StepFailed."""
        if raw["type"] not in LOOKING or self.computer.crashes <= self._crashes:
            return
        if all(tab["url"] == "about:blank" for tab in self.computer.computer.tabs()):
            raise StepFailed("page_crashed", "There is nothing to look at")

    def _pass(self, output: Any) -> None:
        """Leave the step behind. Raises Failed."""
        try:
            self._trail.go_on(output)
        except TooManySteps as error:
            raise self.step_failure("too_many_steps", str(error)) from error

    async def begin(self, place: Place, what: dict[str, Any], *, safe: bool) -> Step:
        """Say in the log what is about to be done: `type`, `title` and, for a model, the `call`."""
        number = place.number
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
                    pointer=place.pointer,
                    attempt=1,
                    safe=safe,
                    **self.shown(what),
                    **started,
                )
            tx.announce("run.step.started", row, StepRead, run_id=self.run_id)
            written[:] = [row]

        await self.write(write)
        self._tag_frames(number)
        self._step = written[0]
        return written[0]

    async def finish(
        self, values: dict[str, Any], more: Callable[[db.Tx], Awaitable[None]], **columns: Any
    ) -> None:
        """Write the outcome of the step that was begun, with `more` and the run's `columns` at once."""
        checkpoint = await self._snapshot() if self._has_navigated() else {}
        steps = self.run.step_count + (values["status"] == StepStatus.succeeded)

        async def write(tx: db.Tx) -> None:
            await more(tx)
            await self._finish_step(tx, values)

        await self.write(write, step_count=steps, **columns, **checkpoint)
        self._step, self._question, self._matter, self._acted = None, None, None, False
        self._other_page = None
        self._tag_frames(None)

    def _tag_frames(self, number: int | None) -> None:
        if self._recording is not None:
            self._recording.at_step(number)

    def _attempt(self, flow: Flow, place: Place) -> Attempt:
        return Attempt(
            self.computer.computer,
            flow,
            place.step,
            place.scope,
            self._save,
            self.main,
            self.reveal,
            self._take_download,
        )

    async def reveal(self, fields: Fields, addresses: tuple[str, ...]) -> Mapping[str, Mapping[str, str]]:
        """What a step fills in; that it does is in the log before the page is told. Raises StepFailed."""
        try:
            values = await self.purse.reveal(fields, addresses)
        except secrets.NotForThem as error:
            raise StepFailed("secret_refused", str(error)) from error
        except Unsealable as error:
            raise StepFailed("secret_unreadable", f"A secret cannot be decrypted. {error}") from error
        named = [f"secrets.{name}.{field}" for name, kept in values.items() for field in kept]

        async def record(tx: db.Tx) -> None:
            tx.emit("run.log", ("run", self.run_id), {"message": f"Fills in {', '.join(sorted(named))}"})
            await secrets.used(tx, sorted(values))

        if named:
            await self.write(record)
        return values

    def _take_download(self, since: float) -> dict[str, Any] | None:
        return self.computer.take_download(max(since, self._used_at))

    def _items(self, raw: dict[str, Any]) -> list[Any]:
        """What a loop goes through. Raises StepFailed."""
        return cast("ForEach", filled(raw, self._trail.scope)).items

    async def perform(
        self, attempt: Attempt | Deed, *, safe: bool, matter: dict[str, Any] | None = None
    ) -> Any:
        """The phases of a step; interrupted, what was not acted yet starts over, and the rest goes on.

        `matter` is what a yes is spent on just before. Raises StepFailed, ActionFailed.
        """
        self._matter = matter
        acted = False
        while True:
            await self.boundary()
            try:
                if not acted:
                    await self._race(attempt.find())
                    await (self._race(attempt.act()) if safe else self._land(attempt))
                    acted = True
                return await self._race(attempt.settle())
            except Interrupted:
                continue
            except db.AWAY as error:  # which a secret is looked up in
                if acted:
                    raise
                log.warning("run_waits_for_database", error=repr(error))
                await asyncio.sleep(RETRY_SECONDS)
            except StepFailed as failure:
                if not attempt.may_find_again(failure):
                    raise
                self._acted = False

    async def _land(self, attempt: Attempt | Deed) -> None:
        """Act once and for all; a wish that comes meanwhile waits a moment for the action, not for ever."""

        async def mark(tx: db.Tx) -> None:
            if self._matter is not None:
                await self.spend(tx)
            await tx.change(
                Step, {"run_id": self.run_id, "status": StepStatus.started}, acted_at=datetime.now(UTC)
            )

        await self.write(mark)
        self._matter = None
        if self._pressing():
            raise Interrupted
        task = asyncio.ensure_future(attempt.act())
        self._in_flight = self._acted = True
        try:
            while await self._interrupts(task):
                await asyncio.wait({task}, timeout=LAND_SECONDS)
                if not task.done():
                    await self.boundary()
        finally:
            if task.done():
                self._in_flight = False
            else:
                self._leave_behind(task)
        task.result()

    def weigh(self, output: Any) -> None:
        """Bound what all steps of the run bring together. Raises StepFailed."""
        self._output_bytes += 0 if output is None else len(orjson.dumps(output))
        if self._output_bytes > MAX_OUTPUTS_BYTES:
            raise StepFailed("output_too_large", "The run's steps have brought more than 8 MiB together")

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
        crash = self.crash()
        if crash is not None:
            return crash
        if self.computer.crashes > self._crashes:
            code, detail = "page_crashed", f"The page had crashed, and no step opened another one. {detail}"
        picture_id = await self._picture()
        return self.step_failure(
            code, detail, tried=tried, screenshot_id=str(picture_id) if picture_id else None
        )

    async def _race_closed(self) -> None:
        """The end of a browser may be told a moment after the error that it caused."""
        browser = self.computer.browser
        if browser is not None:
            await asyncio.wait(
                {closed := asyncio.ensure_future(browser.closed.wait())}, timeout=RETRY_SECONDS
            )
            closed.cancel()

    def crash(self) -> Failed | None:
        held = self._held
        if held is None or held.browser is None or not held.browser.closed.is_set():
            return None
        if held.crashes:
            return self.step_failure("page_crashed", "The browser crashed")
        return self.step_failure("computer_closed", "The computer was closed while the run used it")

    def step_failure(self, code: str, detail: str, **more: Any) -> Failed:
        place = {"step": self._step.number, "pointer": self._step.pointer} if self._step else {}
        return Failed(code, detail, **place, **more)

    # People -------------------------------------------------------------------------------------

    async def _ask(self, raw: dict[str, Any], step: Step) -> dict[str, Any]:
        """Wait for a person's yes, asked for once however many workers wait for it. Raises Failed."""
        if self._question is None:
            await self._request(raw, step)
        await self.boundary()
        if (answer := self._question) is None or self._refused:
            raise self._refusal()
        if (page := await self.repeat(self._page_now)) not in (_page(answer.url), self._other_page):
            self._other_page = page
            self.waiting = "page_changed"  # a person went elsewhere meanwhile, and a yes is to one page
            await self.boundary()
        output = {"approval_id": str(answer.id), "decided_by": answer.decided_by, "note": answer.note}
        if "arguments" in answer.action:
            output["arguments"] = answer.action["arguments"] | (answer.arguments or {})
        return output

    async def _request(self, raw: dict[str, Any], step: Step) -> None:
        """Ask, beside a picture of what the page looks like now, and say that the run waits."""
        wanted = self._wanted(raw)
        if isinstance(wanted, Approve) and wanted.json_schema is not None:
            broken = await asyncio.to_thread(workflows.violations, wanted.json_schema, wanted.arguments)
            if broken:
                raise StepFailed("invalid_step", f"The arguments do not fit their schema: {in_words(broken)}")
        patience = timedelta(milliseconds=wanted.timeout or DAY)
        await self._put_question(wanted.title, _action(wanted), step, patience)

    async def _put_question(
        self, title: str, action: dict[str, Any], step: Step, patience: timedelta
    ) -> None:
        while (picture_id := await self._picture()) is None and self._pressing():
            await self.boundary()

        kept = await self._where_it_is()

        async def ask(tx: db.Tx) -> None:
            self._question = await approvals.request(
                tx,
                step,
                title=title,
                action=action,
                url=self._url(),
                screenshot_id=picture_id,
                expires_at=datetime.now(UTC) + patience,
            )

        await self.write(ask, event="waiting", status=RunStatus.waiting_approval, reason=title, **kept)

    async def approved(self, title: str, action: dict[str, Any], step: Step) -> dict[str, Any]:
        """Wait for a person's yes to just this action; returns its arguments, which they may have changed.

        Raises StepFailed for a no.
        """
        if self._question is None:
            asked = self.shown(title), self.shown(action)
            patience = timedelta(seconds=self.run.agent["approval"]["timeout_seconds"])
            await self._put_question(*asked, step, patience)
        await self.boundary()
        answer = self._question
        if answer is None or self._refused:
            failure = self._refusal()
            raise StepFailed(failure.error["code"], failure.error["detail"])
        if await self.repeat(self._page_now) != _page(answer.url):
            raise StepFailed("page_changed", "The page is another one than the one that was approved")
        return {**answer.action["arguments"], **(answer.arguments or {})}

    async def spend(self, tx: db.Tx) -> None:
        """Use up the yes in the transaction that goes on with it. Raises StepFailed."""
        answer, step = self._question, self._step
        if answer is None or step is None or answer.status != ApprovalStatus.approved:
            return
        if not await approvals.use(tx, answer, self._matter or answer.action, step.number):
            raise StepFailed("approval_denied", "The approval is not for this any more")

    def _wanted(self, raw: dict[str, Any]) -> WaitingStep:
        """A step that waits for a person, with what it says filled in. Raises StepFailed."""
        return cast("WaitingStep", filled(raw, self._trail.scope))

    async def _use_answer(self, tx: db.Tx, question: Approval, place: Place) -> None:
        """Spend the yes in the transaction that goes on with it. Raises Failed."""
        action = _action(cast("WaitingStep", filled(place.step, place.scope)))
        if not await approvals.use(tx, question, action, place.number):
            raise self.step_failure(
                "approval_denied", "The approval is not for this any more", approval_id=str(question.id)
            )

    async def _hear_answer(self) -> None:
        """See what has become of the question that waits."""
        if self._question is None or self._question.status != ApprovalStatus.pending:
            return
        try:
            async with db.as_user(self.run.user_id) as tx:
                for row in await tx.find(Approval, id=self._question.id):
                    self._question = row
        except db.AWAY as error:
            log.warning("answer_not_read", error=repr(error))

    @property
    def _refused(self) -> bool:
        """Whether the answer, if there is one, is no."""
        return self._question is not None and self._question.status not in (
            ApprovalStatus.pending,
            ApprovalStatus.approved,
        )

    def _refusal(self) -> Failed:
        if (answer := self._question) is None:
            raise RuntimeError("nothing was asked")
        code, detail = "approval_denied", f"Denied: {answer.note}" if answer.note else "The answer was no"
        if answer.status == ApprovalStatus.expired:
            code, detail = "approval_expired", "Nobody answered in time"
        picture = {"screenshot_id": str(answer.screenshot_id)} if answer.screenshot_id else {}
        return self.step_failure(code, detail, approval_id=str(answer.id), **picture)

    def _pause(self, raw: dict[str, Any]) -> dict[str, Any]:
        """What the outcome of a pause makes of the run: it waits for its user. Raises StepFailed."""
        title = self._wanted(raw).title
        return {
            "event": "waiting",
            "status": RunStatus.waiting_user,
            "reason": title,
            "control": Control.pause,
        }

    # Wishes -------------------------------------------------------------------------------------

    def _state(self) -> tuple[RunStatus, str] | None:
        """What the run has to be instead of running, and why; it opens its computer in any case."""
        if self._held is None:
            return None
        if self.waiting is not None:
            return RunStatus.waiting_user, self.waiting
        if self.short is not None:
            return RunStatus.paused, self.short
        if self._held.wanted:
            return RunStatus.paused, "control"
        if self._control is Control.pause:
            return RunStatus.paused, "requested"
        if self._arrived and self._question and self._question.status == ApprovalStatus.pending:
            return RunStatus.waiting_approval, self._question.title
        return None

    @property
    def _resumes(self) -> bool:
        """Whether the run, now that it may act, goes on for good and not only back to its page."""
        told_no = self._refused and self._step is not None and self._step.call is not None
        answered = self._question is None or self._question.status == ApprovalStatus.approved or told_no
        stays = self._steered or self.waiting is not None or self._control is not Control.run
        return self._informed and answered and not stays

    def _pressing(self) -> bool:
        """Whether what is under way has to give way; an action that has landed is seen through on leaving."""
        return (
            self._control is Control.cancel
            or (self._leaving and not self._acted)
            or self._remaining() <= 0
            or self.crash() is not None
            or (self._state() is None) is self.halted
        )

    async def boundary(self) -> None:
        """Do what is wished before the run goes on; returns when it may act."""
        since = _now()
        while True:
            self._changed.clear()
            await self._hear_answer()
            if self._control is Control.cancel:
                raise Cancelled
            if self._leaving:
                raise Leaving("handed_over")
            if self._remaining() <= 0:
                raise self.step_failure(
                    "timeout", f"The run took longer than {self.run.timeout_seconds} seconds"
                )
            if (crash := self.crash()) is not None:
                raise crash
            if (state := self._state()) is None:
                break
            await self._halt(*state)
            since = _now() if self.computer.wanted else since
            if self._pressing() or self._state() != state:
                continue
            patience = None if self.computer.wanted else since + settings.park_seconds - _now()
            if not await wait_for(self._changed, patience):
                raise Leaving("parked")
        self.halted = False
        self._acting_since = self._acting_since or _now()
        if self.run.status != RunStatus.running and self._resumes:
            await self.write(event="resumed", status=RunStatus.running, reason=None)

    async def _halt(self, status: RunStatus, reason: str) -> None:
        """Say that the run has halted, let a person who waits steer, and keep what would reopen its page."""
        self._spent, self._acting_since = self.active(), None
        arrives, self.halted = not self.halted, True
        # Whoever wants a pause is told before a slow page gives its state.
        waits = status is not RunStatus.paused
        kept = await self._where_it_is() if arrives and waits else {}
        if (self.run.status, self.run.reason) != (status, reason):
            event = "waiting" if waits else "paused"
            if reason in (self.waiting, self.short):
                # A wish to go on shows only against a wish to pause.
                await self.write(event=event, status=status, reason=reason, control=Control.pause, **kept)
                self._control, self._told_at = Control.pause, _now()
            else:
                await self.write(event=event, status=status, reason=reason, **kept)
        elif kept:
            await self.write(**kept)
        if arrives:
            await computers.grant(self.computer)
            if not waits and (kept := await self._where_it_is()):
                await self.write(**kept)
        await computers.grant(self.computer)

    async def _where_it_is(self) -> dict[str, Any]:
        """A checkpoint, whether or not the page has been left since the last one."""
        self._has_navigated()
        return await self._snapshot()

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

    async def repeat(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Do something that may be broken off, from its start after every interruption."""
        while True:
            await self.boundary()
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

    def active(self) -> float:
        """Seconds spent acting, pauses left out."""
        return self._spent + (_now() - self._acting_since if self._acting_since is not None else 0)

    def _remaining(self) -> float:
        return math.inf if self._acting_since is None else self.run.timeout_seconds - self.active()

    # The page -----------------------------------------------------------------------------------

    @property
    def computer(self) -> Held:
        if self._held is None:
            raise ComputerClosed("The run's computer is not open")
        return self._held

    def _url(self) -> str | None:
        browser = self._held.browser if self._held else None
        active = next((tab for tab in browser.tabs() if tab["active"]), None) if browser else None
        return cast("str", self.shown(active["url"])) if active else None

    async def _page_now(self) -> str:
        """What `_url` may be a moment late to tell, as far as it matters to a yes."""
        await self._refresh_tabs()
        return _page(self._url())

    async def _refresh_tabs(self) -> None:
        try:
            await self.computer.computer.refresh_tabs()
        except BROWSER_FAULTS as error:
            log.info("tabs_not_read", error=repr(error))

    async def _count_navigations(self) -> None:
        """Leave out of account the pages that were opened so far."""
        await self._refresh_tabs()
        self._navigations, self._landings = self.computer.navigations, self.computer.landings

    def _has_navigated(self) -> bool:
        """Whether the page is another than the checkpoint's; behind a landing nothing need be repeated."""
        before = self._navigations, self._landings
        self._navigations, self._landings = self.computer.navigations, self.computer.landings
        if self._landings != before[1]:
            self._note_landing()
        return self._checkpoint_due or before != (self._navigations, self._landings)

    def _note_landing(self) -> None:
        self._trail.land()
        self._landed_under = self.computer.generation

    async def _picture(self) -> UUID | None:
        """What the page looks like, as a file; None when it gives no picture or a wish presses."""

        async def take() -> tuple[int, bytes]:
            await self.computer.computer.refresh_tabs()
            return now_us(), await self.computer.computer.screenshot()

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

    async def look(self) -> tuple[UUID | None, str]:
        """What the page looks like when it has come to rest: a picture's file, and its tree."""
        computer = self.computer.computer
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                await self._race(actions.rest(computer))
                page = await self._race(actions.describe(computer))
        except (Interrupted, TimeoutError, ActionFailed, *BROWSER_FAULTS) as error:
            log.info("page_not_read", error=repr(error))
            page = ""
        return await self._picture(), page

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
                computer_id=self.computer.id,
                limit=MAX_PICTURE_BYTES,
            )
        except StorageFull as error:
            raise StepFailed("storage_full", str(error)) from error
        except (StorageUnavailable, TooLarge, *db.AWAY) as error:
            raise StepFailed("not_saved", f"A picture could not be saved: {error}") from error
        return str(file.id)

    async def _snapshot(self, *, last: bool = False) -> dict[str, Any]:
        """The sealed checkpoint as a column of the run, or nothing when the page gives none in time.

        One that is not had, or not whole, is due again after the next step. The `last` one gives way to no
        wish: one has come already, or the run's time is over.
        """
        self._checkpoint_due = True
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                look = self.computer.computer.storage_state()
                state = clean(await (look if last else self._race(look)))
        except (Interrupted, *BROWSER_FAULTS) as error:
            log.info("no_checkpoint", error=repr(error))
            return {}
        self._checkpoint_due = self.computer.computer.stale_storage
        state |= self._trail.landing() | {"generation": self._landed_under}
        state |= {"hidden": self.purse.redactor.known, "other_page": self._other_page}
        return {"checkpoint": checkpoints.seal(self._vault, self.run, state)}

    async def _keep_page(self) -> dict[str, Any]:
        """The newest checkpoint for another try; not of a page that only the step that failed has opened."""
        if self._held is None or self._held.navigations != self._navigations:
            return {}
        return await self._snapshot(last=True)

    # Writing ------------------------------------------------------------------------------------

    async def write(
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
                    if "control" in values:
                        values |= await self._spare_cancel(tx, where)
                    rows = await tx.change(Run, where, active_ms=round(self.active() * 1000), **values)
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

    async def _spare_cancel(self, tx: db.Tx, where: dict[str, Any]) -> dict[str, Any]:
        """A wish to cancel that this worker has not heard yet stays."""
        wishes = [run.control for run in await tx.find(Run, lock=True, **where)]
        return {"control": Control.cancel} if Control.cancel in wishes else {}

    async def _end(
        self,
        status: RunStatus,
        error: dict[str, Any] | None = None,
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        """Write the end: of the step under way, of what it asks, of the run, and of its lease."""
        self._ending = True
        self._spent, self._acting_since = self.active(), None

        async def finish(tx: db.Tx) -> None:
            landed = StepStatus.may_have_landed if self._in_flight else StepStatus.interrupted
            picture_id = (error or {}).get("screenshot_id")
            values = {
                "status": StepStatus.failed if error else landed,
                "error": error,
                "screenshot_id": UUID(picture_id) if picture_id else None,
            }
            await self._finish_step(tx, values)
            await approvals.withdraw(tx, self.run_id)
            await look_at_queue(tx)
            await usage.add_run(tx, active_ms=round(self._spent * 1000), steps=self.run.step_count)

        kept = {"checkpoint": None} if status is RunStatus.succeeded else checkpoint or {}
        await self.write(
            finish,
            event=status,
            status=status,
            reason=None,
            error=error,
            result={"outputs": self._trail.outputs} if status is RunStatus.succeeded else None,
            finished_at=datetime.now(UTC),
            lease_owner=None,
            lease_expires_at=None,
            **kept,
        )

    async def _let_go(self, how: Literal["handed_over", "parked"]) -> None:
        """Release the lease, so that another worker goes on: at once, or when its user wants it to."""
        self._ending = True
        self.halted = self._state() is not None
        kept: dict[str, Any] = {}
        if self._held is not None and self._arrived:  # a page only halfway there is worse than the one before
            self._has_navigated()
            kept = await self._snapshot(last=True)
        lease: dict[str, Any] = {"lease_expires_at": LONG_AGO}
        if how == "parked":
            lease = {"lease_expires_at": None, "lease_owner": None}

        async def leave(tx: db.Tx) -> None:
            if how == "parked":
                await self._queue_if_told(tx)
            await look_at_queue(tx)

        try:
            async with asyncio.timeout(LEAVE_SECONDS):
                await self.write(leave, attempt=self.run.attempt - 1, **lease, **kept)
        except (Fenced, TimeoutError) as error:
            log.warning("run_not_released", error=repr(error))

    async def _queue_if_told(self, tx: db.Tx) -> None:
        """A wish or an answer that came too late for this worker is not lost on a parked run."""
        run = await tx.one(Run, id=self.run_id)
        asks = self._question is not None and self._question.status == ApprovalStatus.pending
        if run.control != self._control or (asks and await approvals.pending(tx, run.id) is None):
            queued = (await tx.change(Run, {"id": run.id}, status=RunStatus.queued, reason=None))[0]
            tx.announce("run.queued", queued, RunRead)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _page(url: str | None) -> str:
    """The address without what changes when the same page is opened again."""
    return (url or "").partition("#")[0].partition("?")[0]


def _action(step: WaitingStep) -> dict[str, Any]:
    """What an approval of the step is about."""
    return step.model_dump(
        include={"type", "title", "arguments", "json_schema"}, by_alias=True, exclude_none=True
    )


def _looks(raw: dict[str, Any]) -> bool:
    """Whether a step has to do with a page, so that a picture of it says something."""
    return raw["type"] not in ("forEach", "agent") and not (raw["type"] == "if" and "value" in raw)


def _title(raw: dict[str, Any]) -> str:
    """A step in a few words."""
    what = raw.get("title") or raw.get("url") or raw.get("name") or raw.get("key") or ""
    match raw.get("selectors"):
        case [str(first), *_] | [[str(first), *_], *_]:
            what = what or first
    return f"{raw['type']} {what}".strip()[:200]
