"""Replays one step of a workflow on a computer, in phases between which a run can pause or stop."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from functools import singledispatchmethod
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, Literal, TypeVar, cast

import orjson
import structlog
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import Frame, Page

from browser import selectors
from browser.actions import refusal, why_unreachable
from browser.chromium import MAX_PIXELS, Computer, ComputerClosed, Tab
from infra.redaction import cut
from runs.parameters import in_words
from runs.placeholders import PlaceholderMissing, fill
from runs.steps import (
    Change,
    Click,
    Close,
    CustomStep,
    DoubleClick,
    Download,
    Drag,
    DragEnd,
    EmulateNetworkConditions,
    Extract,
    Hover,
    If,
    KeyDown,
    KeyUp,
    Navigate,
    Screenshot,
    Scroll,
    SetViewport,
    Step,
    Upload,
    WaitForElement,
    WaitForExpression,
)
from runs.workflows import Flow, InvalidWorkflow, secret_fields, typed, violations

log = structlog.get_logger()

STEP_SECONDS, NAVIGATION_SECONDS, POLL_SECONDS, CRASH_SECONDS = 5.0, 30.0, 0.1, 0.5
CONDITION_SECONDS, FILE_SECONDS = 1.0, 60.0
MAX_OUTPUT_BYTES = 1_000_000
CALLED = re.compile(r"^\w+\.\w+: (Error: )?")  # what the driver puts before a page's complaint
CRASHED = re.compile(r"\b([Tt]arget|[Pp]age) crashed\b")
LEFT = "The element left the page before it could be used"
DRAG_MOVES = 10
DOWNLOADS = "Download is starting"
NOT_THERE = ("target_not_found", "frame_not_found")
ORDERS: dict[str, Callable[[Any, Any], bool]] = {">": gt, ">=": ge, "<": lt, "<=": le}
BUTTONS = {
    "primary": "left",
    "auxiliary": "middle",
    "secondary": "right",
    "back": "back",
    "forward": "forward",
}
LEAST_SECONDS: dict[type[Step], float] = {
    Navigate: NAVIGATION_SECONDS,
    Download: FILE_SECONDS,
    Upload: FILE_SECONDS,
}
COMPARISONS: dict[str, Callable[[int, int], bool]] = {
    ">=": lambda found, wanted: found >= wanted,
    "==": lambda found, wanted: found == wanted,
    "<=": lambda found, wanted: found <= wanted,
}

T = TypeVar("T")
Save = Callable[[str, bytes, str], Awaitable[str]]
Fields = tuple[tuple[str, str], ...]
Reveal = Callable[[Fields, tuple[str, ...]], Awaitable[Mapping[str, Mapping[str, str]]]]
TakeDownload = Callable[[float], dict[str, Any] | None]


async def _nothing_revealed(_: Fields, __: tuple[str, ...]) -> Mapping[str, Mapping[str, str]]:
    return {}


def _no_download(_: float) -> None:
    """Where nobody keeps downloads, none ever comes."""


class StepFailed(Exception):
    """The step did not work: `code` for programs, `detail` for people, `tried` for each selector's fate."""

    def __init__(self, code: str, detail: str, tried: list[dict[str, Any]] | None = None) -> None:
        super().__init__(detail)
        self.code, self.detail, self.tried = code, detail, tried or []


def filled(raw: dict[str, Any], scope: Mapping[str, Any]) -> Step:
    """The step with its placeholders replaced, as its model. Raises StepFailed."""
    try:
        return typed(fill(raw, scope))
    except PlaceholderMissing as error:
        raise StepFailed("placeholder_missing", f"{error} (at {error.pointer})") from None
    except InvalidWorkflow as error:
        raise StepFailed("invalid_step", str(error)) from None


class Attempt:
    """One try of one step: `find`, then `act`, then `settle`; each raises StepFailed within its time.

    `find` and `settle` may be cancelled at any moment and awaited again. `act` is short; once `acted` is
    set, what it does may have landed. `save(name, content, content_type)` stores a file and returns its id;
    `reveal(fields, addresses)` opens secrets, by name and field, for a page at all these addresses, or raises
    StepFailed; `take_download(since)` returns, once, what has become of the next download that has ended and
    began at `since` (the loop's clock) or later.
    """

    def __init__(
        self,
        computer: Computer,
        flow: Flow,
        step: dict[str, Any],
        scope: Mapping[str, Any],
        save: Save,
        main: Page | None = None,
        reveal: Reveal = _nothing_revealed,
        take_download: TakeDownload = _no_download,
    ) -> None:
        self.acted = False
        self._reveal, self._take_download = reveal, take_download
        self._secrets = tuple(secret_fields(step))
        self._concealed = ""
        self._uploads: list[Path] = []
        self._chooses = False
        self._since = 0.0
        self._end: selectors.Found | None = None
        self._met = False
        self._computer, self._flow, self._raw, self._scope, self._save = computer, flow, step, scope, save
        self._main = main
        self._step: Step
        self._page: Page
        self._frame: Frame
        self._found: selectors.Found | None = None
        self._late = StepFailed("timeout", "The page does not answer")
        self._left_until: float | None = None
        self._navigated = asyncio.Event()
        self._landed_at: Frame | None = None
        self._landed_on = ""
        self._crash = asyncio.Event()
        self._listening = ExitStack()

    # Phases -------------------------------------------------------------------------------------

    async def find(self) -> None:
        """Wait for the page, the frame and what the step needs in it."""
        self._listening.close()
        # The page is told no secret before its origin is known, not even to look for the field.
        raw = self._raw | {"value": ""} if self._secrets else self._raw
        self._step = filled(raw, self._scope)
        if isinstance(self._step, If):
            self._met = await self._holds(self._step)
        else:
            await self._look()
        if self._secrets:
            self._concealed = await self._open_secrets()

    async def _look(self) -> None:
        async with self._bounded(self._seconds):
            await self._open_target()
            await self._find(self._step)

    async def act(self) -> None:
        """Listen for the asserted events, then do the step's action."""
        self._navigated.clear()
        if self._step.asserted_events:
            self._listen("framenavigated", self._on_navigated)
        async with self._bounded(self._seconds + getattr(self._step, "duration", 0) / 1000):
            try:
                await self._act(self._step)
            except PlaywrightError:
                if not (self.acted and self._page.is_closed() and not self._crash.is_set()):
                    raise

    async def settle(self) -> Any:
        """Wait for what the action must cause; returns the step's output, or None."""
        self._late = StepFailed("timeout", "The page does not answer")
        async with self._bounded(self._seconds):
            if self._step.asserted_events:
                await self._await_navigation()
            output = await self._output(self._step)
        self._listening.close()
        return output

    def may_find_again(self, failure: StepFailed) -> bool:
        """Whether the element left before anything landed, and there is time to find the one drawn anew."""
        if failure.code != "element_detached" or self.acted:
            return False
        now = asyncio.get_running_loop().time()
        self._left_until = self._left_until or now + self._seconds
        return now < self._left_until

    async def _open_secrets(self) -> str:
        """What goes into the field, once it is known to be where its secrets may go."""
        addresses = await self._addresses()
        scope = {**self._scope, "secrets": await self._reveal(self._secrets, addresses)}
        return cast("Change", filled(self._raw, scope)).value

    async def _addresses(self) -> tuple[str, ...]:
        """Where the field is, as the browser and as its document say."""
        inside: list[str] = []
        async with self._bounded(self._seconds):
            inside = await selectors.origins_within(self._element.element)
        return self._frame.url, *inside

    # Time, pages and frames ---------------------------------------------------------------------

    @property
    def _seconds(self) -> float:
        if self._step.timeout:
            return self._step.timeout / 1000
        seconds = (self._flow.timeout or STEP_SECONDS * 1000) / 1000
        least = next((most for kind, most in LEAST_SECONDS.items() if isinstance(self._step, kind)), 0)
        return CONDITION_SECONDS if isinstance(self._step, If) else max(seconds, least)

    @asynccontextmanager
    async def _bounded(self, seconds: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            self._listening.close()
            late = self._late
            raise StepFailed(late.code, f"{late.detail} (waited {seconds:g} s)", late.tried) from None
        except PlaywrightError as error:
            self._listening.close()
            raise self._failure(error) from None
        except StepFailed:
            self._listening.close()
            raise

    def _failure(self, error: PlaywrightError) -> StepFailed:
        line = cut(CALLED.sub("", error.message.split("\n", 1)[0]), 300)
        if self._crash.is_set() or CRASHED.search(line):
            return StepFailed("page_crashed", "The page crashed")
        if self._page.is_closed():
            return StepFailed("page_closed", "The tab was closed")
        if "context was destroyed" in line:
            return StepFailed("page_error", "The page goes on to another one again and again")
        return StepFailed("page_error", f"The page refused: {line}")

    async def _crashes(self, error: PlaywrightError) -> bool:
        """Whether a crash broke off the navigation, which is told a moment later."""
        if "ERR_ABORTED" not in error.message:
            return False
        try:
            async with asyncio.timeout(CRASH_SECONDS):
                return await self._crash.wait()
        except TimeoutError:
            return False

    def _listen(self, event: Literal["crash", "framenavigated"], heard: Callable[[Any], None]) -> None:
        self._page.on(event, heard)
        self._listening.callback(self._page.remove_listener, event, heard)

    def _on_crash(self, _: Page) -> None:
        self._crash.set()

    def _on_navigated(self, frame: Frame) -> None:
        if frame in (self._frame, self._page.main_frame):
            self._landed_at = frame
            self._landed_on = frame.url
            self._navigated.set()

    async def _until(self, look: Callable[[], Awaitable[T | None]]) -> T:
        """What `look` returns once it returns something; a page in motion is looked at again."""
        while True:
            try:
                if (seen := await look()) is not None:
                    return seen
            except PlaywrightError as error:
                failure = self._failure(error)
                if failure.code != "page_error":
                    raise failure from None
                self._late = failure
            await asyncio.sleep(POLL_SECONDS)

    async def _open_target(self) -> None:
        target = getattr(self._step, "target", None) or "main"
        self._late = StepFailed(
            "target_not_found", f"There is no tab {cut(target, 300)}; the open ones are {self._open_tabs()}"
        )
        page, self._frame = await self._until(lambda: self._target(target))
        self._page = page
        self._listen("crash", self._on_crash)
        self._late = StepFailed("timeout", "The page does not answer")
        if page is not self._computer.page:
            await self._computer.switch_tab(self._tab().id)
        path = getattr(self._step, "frame", [])
        if path:
            self._late = StepFailed("frame_not_found", f"There is no frame {path} in the page")
            self._frame = await self._until(lambda: self._child(self._frame, path))

    async def _target(self, target: str) -> tuple[Page, Frame] | None:
        if self._computer.closed.is_set():
            raise ComputerClosed("The computer is closed")
        pages = self._computer.pages
        if target == "main":
            main = self._main or (pages[0] if pages else None)
            return (main, main.main_frame) if main in pages and main is not None else None
        frames = [(page, page.main_frame) for page in pages]
        frames += [(page, frame) for page in pages for frame in page.frames]
        return next((pair for pair in frames if pair[1].url == target), None)

    @staticmethod
    async def _child(frame: Frame, path: list[int]) -> Frame | None:
        for index in path:
            if index >= len(frame.child_frames):
                return None
            frame = frame.child_frames[index]
        return frame

    def _open_tabs(self) -> str:
        return ", ".join(cut(page.url, 300) for page in self._computer.pages[:5]) or "none"

    def _tab(self) -> Tab:
        pages = self._computer.pages
        if self._page not in pages:
            raise StepFailed("page_closed", "The tab was closed")
        return self._computer.tab(self._computer.tabs()[pages.index(self._page)]["id"])

    # Finding ------------------------------------------------------------------------------------

    @singledispatchmethod
    async def _find(self, _: Step) -> None:
        """Most steps need no more than their page and frame."""

    @_find.register
    async def _(self, step: Click) -> None:
        await self._await_element(step.selectors, enabled=True, hit=True, offset=_offset(step))

    @_find.register
    async def _(self, step: Hover) -> None:
        await self._await_element(step.selectors)

    @_find.register
    async def _(self, step: Change) -> None:
        wanted = None if self._secrets else step.value
        await self._await_element(step.selectors, enabled=True, value=wanted)

    @_find.register(Scroll)
    @_find.register(Screenshot)
    async def _(self, step: Scroll | Screenshot) -> None:
        if step.selectors:
            await self._await_element(step.selectors)

    @_find.register
    async def _(self, step: Drag) -> None:
        if step.to is not None:
            await self._await_element(step.to.selectors, offset=_offset(step.to))
            self._end = self._found
        await self._await_element(step.selectors, hit=True, offset=_offset(step))

    @_find.register
    async def _(self, step: Upload) -> None:
        await self._await_element(step.selectors, attached=True)
        self._chooses = not await selectors.is_file_input(self._element.element)
        if self._chooses:
            await self._await_element(step.selectors, enabled=True, hit=True)
        try:
            self._uploads = await self._computer.upload(tuple(step.files))
        except OSError as error:
            raise StepFailed("file_missing", f"A file cannot be had: {error.strerror}") from error

    @_find.register
    async def _(self, step: Download) -> None:
        if step.selectors:
            await self._await_element(step.selectors, enabled=True, hit=True)

    @_find.register
    async def _(self, step: Extract) -> None:
        if step.selectors and not step.optional:
            await self._await_element(step.selectors, attached=True)

    @_find.register
    async def _(self, step: WaitForElement) -> None:
        async def look() -> bool | None:
            seen = await selectors.count(
                self._frame,
                step.selectors,
                visible=step.visible,
                properties=step.properties,
                attributes=step.attributes,
            )
            compared = COMPARISONS[step.operator](seen["count"], step.count)
            if (compared and seen["fits"]) is (step.visible is not False):
                return True
            wanted = "none such" if step.visible is False else "them with the wanted properties"
            detail = f"Waited for {step.operator} {step.count} elements, {wanted}; there are {seen['count']}"
            self._late = StepFailed("element_not_found", detail, seen["tried"])
            return None

        await self._until(look)

    async def _holds(self, step: If) -> bool:
        """Whether the condition is or becomes true in its time; what is not there does not hold."""
        if "value" in step.model_fields_set:
            return _compares(step.value, step.operator, step.than)
        loop = asyncio.get_running_loop()
        end = loop.time() + self._seconds
        try:
            async with self._bounded(self._seconds):
                await self._open_target()
        except StepFailed as failure:
            if failure.code not in NOT_THERE:
                raise
            return False
        self._late = StepFailed("expression_failed", "The condition does not end; the page may be hanging")
        async with self._bounded(self._seconds + STEP_SECONDS):  # for one look at least, however slow
            while not await self._true_now(step, last=loop.time() >= end):
                if loop.time() >= end:
                    return False
                await asyncio.sleep(POLL_SECONDS)
        return True

    async def _true_now(self, step: If, *, last: bool) -> bool:
        if step.selectors is not None:
            wish: dict[str, Any] = {"visible": True, "properties": {}, "attributes": {}}
            return bool((await selectors.count(self._frame, step.selectors, **wish))["count"])
        try:
            return await self._evaluate(step.expression or "")
        except PlaywrightError as error:
            failure = self._failure(error)
            if last and failure.code == "page_error":
                raise StepFailed("expression_failed", failure.detail) from None
            if failure.code != "page_error":
                raise
            return False

    async def _evaluate(self, expression: str) -> bool:
        inner = expression.strip().rstrip(";")
        return bool(await self._frame.evaluate(f"(async () => !!(await (\n{inner}\n)))()"))

    @_find.register
    async def _(self, step: WaitForExpression) -> None:
        async def look() -> bool | None:
            try:
                if await self._evaluate(step.expression):
                    return True
                self._late = StepFailed("expression_failed", "The expression never became true")
            except PlaywrightError as error:
                if (failure := self._failure(error)).code != "page_error":
                    raise
                self._late = StepFailed("expression_failed", failure.detail)
            return None

        self._late = StepFailed("expression_failed", "The expression does not end; the page may be hanging")
        await self._until(look)

    async def _await_element(self, alternatives: selectors.Selectors, **wish: Any) -> None:
        async def look() -> selectors.Found | None:
            match await selectors.find(self._frame, alternatives, **wish):
                case selectors.Missed(tried):
                    self._late = _missed(tried)
                    return None
                case found:
                    return found

        self._found = await self._until(look)

    # Acting -------------------------------------------------------------------------------------

    @singledispatchmethod
    async def _act(self, _: Step) -> None:
        """Steps that only look do nothing."""

    @_act.register
    async def _(self, step: Navigate) -> None:
        self.acted = True
        await self._open(step.url)

    async def _open(self, url: str) -> None:
        try:
            reply = await self._frame.goto(url, wait_until="commit", timeout=(self._seconds + 5) * 1000)
            reason = refusal(reply)
        except PlaywrightError as error:
            if "interrupted by another navigation" in error.message or DOWNLOADS in error.message:
                return
            if "has been closed" in error.message or await self._crashes(error):
                raise self._failure(error) from None
            first_line = cut(error.message.split("\n", 1)[0].split(": ", 1)[-1], 300)
            reason = why_unreachable(self._computer, url, error.message) or first_line
        if reason:
            raise StepFailed("unreachable", f"{cut(url, 300)} could not be opened: {reason}")

    @_act.register
    async def _(self, step: Click) -> None:
        x, y = await self._point()
        for number in range(1, 3 if isinstance(step, DoubleClick) else 2):
            if step.device_type == "touch":
                await self._tap(x, y, step.duration)
            else:
                await self._press(step, x, y, number)

    async def _press(self, step: Click, x: float, y: float, number: int) -> None:
        """Playwright's mouse knows the held keys; pens and the outer buttons it does not know."""
        if step.device_type == "mouse" and step.button in ("primary", "auxiliary", "secondary"):
            mouse, button = self._page.mouse, BUTTONS[step.button]
            await mouse.move(x, y)
            self.acted = True
            await mouse.down(button=button, click_count=number)  # type: ignore[arg-type]
            await asyncio.sleep(step.duration / 1000)
            await mouse.up(button=button, click_count=number)  # type: ignore[arg-type]
            return
        event = {"x": x, "y": y, "pointerType": step.device_type}
        pressed = event | {"button": BUTTONS[step.button], "clickCount": number}
        cdp = self._tab().cdp
        await cdp.send("Input.dispatchMouseEvent", event | {"type": "mouseMoved"})
        self.acted = True
        await cdp.send("Input.dispatchMouseEvent", pressed | {"type": "mousePressed"})
        await asyncio.sleep(step.duration / 1000)
        await cdp.send("Input.dispatchMouseEvent", pressed | {"type": "mouseReleased"})

    async def _tap(self, x: float, y: float, duration: float) -> None:
        cdp = self._tab().cdp
        self.acted = True
        await cdp.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y}]})
        await asyncio.sleep(duration / 1000)
        await cdp.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})

    async def _point(self, found: selectors.Found | None = None) -> tuple[float, float]:
        """Where the pointer goes, in CSS pixels of the page's viewport."""
        if (place := await selectors.place(self._frame, found or self._element)) is None:
            raise StepFailed("element_detached", LEFT)
        return place

    @property
    def _element(self) -> selectors.Found:
        if self._found is None:
            raise RuntimeError("act before find")
        return self._found

    @_act.register
    async def _(self, _: Hover) -> None:
        x, y = await self._point()
        self.acted = True
        await self._page.mouse.move(x, y)

    @_act.register
    async def _(self, step: Change) -> None:
        element = self._element.element
        self.acted = True
        if self._secrets:
            left = await selectors.conceal(element, self._concealed)
        else:
            left = await selectors.change(element, step.value)
        if "detached" in left:
            self.acted = False
            raise StepFailed("element_detached", LEFT)
        if refusal := left.get("refused"):
            raise StepFailed("value_refused", cut(refusal, 500))
        keyboard = self._page.keyboard
        match left.get("keyboard"):
            case "type":
                await keyboard.type(step.value)
            case "insert":
                await keyboard.insert_text(step.value)
            case "delete":
                await keyboard.press("Delete")
            case _:
                return
        await selectors.typed(element)

    @_act.register
    async def _(self, step: Drag) -> None:
        begin = await self._point()
        if self._end is not None:
            end = await self._point(self._end)
        else:
            by = step.by or {}
            end = begin[0] + by.get("x", 0), begin[1] + by.get("y", 0)
        size = self._computer.viewport
        if not all(0 <= at[axis] < size[axis] for at in (begin, end) for axis in (0, 1)):
            raise StepFailed("element_not_ready", "The two ends of the drag are not in view at once")
        mouse = self._page.mouse
        await mouse.move(*begin)
        self.acted = True
        await mouse.down()
        try:
            await mouse.move(*end, steps=DRAG_MOVES)
        finally:
            await mouse.up()

    @_act.register
    async def _(self, _: Upload) -> None:
        limit = (self._seconds + 5) * 1000  # ours comes first
        if not self._chooses:
            self.acted = True
            await self._element.element.set_input_files(self._uploads, timeout=limit)
            return
        x, y = await self._point()
        self._late = StepFailed("chooser_missing", "The click opened no file chooser")
        async with self._page.expect_file_chooser(timeout=limit) as opened:
            self.acted = True
            await self._page.mouse.click(x, y)
        self._computer.file_chooser = None
        await (await opened.value).set_files(self._uploads, timeout=limit)

    @_act.register
    async def _(self, step: Download) -> None:
        if step.selectors:
            x, y = await self._point()
            self._since, self.acted = asyncio.get_running_loop().time(), True
            await self._page.mouse.click(x, y)
        elif step.url:
            self._since, self.acted = asyncio.get_running_loop().time(), True
            await self._open(step.url)

    @_act.register
    async def _(self, step: KeyDown) -> None:
        self.acted = True
        keyboard = self._page.keyboard
        try:
            await (keyboard.up(step.key) if isinstance(step, KeyUp) else keyboard.down(step.key))
        except PlaywrightError as error:
            if "Unknown key" not in error.message:
                raise
            kind = "keyUp" if isinstance(step, KeyUp) else "keyDown"
            event = {"type": kind, "key": step.key} | ({"text": step.key} if len(step.key) == 1 else {})
            await self._tab().cdp.send("Input.dispatchKeyEvent", event)

    @_act.register
    async def _(self, step: Scroll) -> None:
        self.acted = True
        place = {"left": step.x, "top": step.y, "behavior": "instant"}
        if self._found is not None:
            await self._found.element.evaluate("(element, place) => element.scrollTo(place)", place)
        else:
            await self._frame.evaluate("(place) => scrollTo(place)", place)

    @_act.register
    async def _(self, step: SetViewport) -> None:
        self.acted = True
        await self._page.set_viewport_size({"width": step.width, "height": step.height})
        turned = (
            {"type": "landscapePrimary", "angle": 90}
            if step.is_landscape
            else {"type": "portraitPrimary", "angle": 0}
        )
        metrics = {
            "width": step.width,
            "height": step.height,
            "deviceScaleFactor": step.device_scale_factor,
            "mobile": step.is_mobile,
            "screenOrientation": turned,
        }
        cdp = self._tab().cdp
        await cdp.send("Emulation.setDeviceMetricsOverride", metrics)
        await cdp.send("Emulation.setTouchEmulationEnabled", {"enabled": step.has_touch})

    @_act.register
    async def _(self, step: EmulateNetworkConditions) -> None:
        self.acted = True
        conditions = {
            "offline": not step.download and not step.upload,
            "latency": step.latency,
            "downloadThroughput": step.download,
            "uploadThroughput": step.upload,
        }
        await self._tab().cdp.send("Network.emulateNetworkConditions", conditions)

    @_act.register
    async def _(self, _: Close) -> None:
        self.acted = True
        await self._computer.close_tab(self._tab().id)

    @_act.register
    async def _(self, step: CustomStep) -> None:
        log.info("custom_step_passed_over", name=step.name[:100])

    # Settling -----------------------------------------------------------------------------------

    async def _await_navigation(self) -> None:
        self._late = StepFailed("navigation_missing", "The navigation that the step asserts did not happen")
        await self._navigated.wait()
        if self._landed_on.startswith("chrome-error:"):
            raise StepFailed("unreachable", "The page that followed could not be opened")
        for event in self._step.asserted_events:
            await self._until(lambda event=event: self._agrees(event.url, event.title))  # type: ignore[misc]
        await self._load()

    async def _agrees(self, url: str | None, title: str | None) -> bool | None:
        frame = self._landed_at or self._frame
        seen = {"url": frame.url, "title": await frame.title()}
        for name, pattern in (("url", url), ("title", title)):
            if pattern is not None and "*" in pattern and not _fits(pattern, seen[name]):
                detail = f"The page's {name} is {cut(seen[name], 300)!r}, not like {cut(pattern, 300)!r}"
                self._late = StepFailed("navigation_missing", detail)
                return None
        return True

    async def _load(self) -> None:
        frame = self._landed_at or self._frame
        self._late = StepFailed("timeout", f"{cut(frame.url, 300)} did not finish loading")
        await frame.wait_for_load_state("load", timeout=0)

    @singledispatchmethod
    async def _output(self, _: Step) -> Any:
        return None

    @_output.register
    async def _(self, _: Navigate) -> None:
        await self._load()

    @_output.register
    async def _(self, _: If) -> dict[str, bool]:
        return {"met": self._met}

    @_output.register
    async def _(self, _: Download) -> dict[str, Any]:
        async def look() -> dict[str, Any] | None:
            said = "The download did not end" if self._computer.downloading else "Nothing was downloaded"
            self._late = StepFailed("download_missing", said)
            return self._take_download(self._since)

        file = await self._until(look)
        if file["state"] != "completed":
            why = file.get("detail") or file["state"].replace("_", " ")
            raise StepFailed("download_failed", f"{file['name']} was not kept: {why}")
        return {name: file[name] for name in ("file_id", "name", "size")}

    @_output.register
    async def _(self, step: Extract) -> Any:
        value = step.model_dump(include={"selectors", "many", "fields"}, by_alias=True)

        async def look() -> list[Any]:
            return [await selectors.read(self._frame, value, MAX_OUTPUT_BYTES)]

        try:
            (rows,) = await self._until(look)
            size = len(orjson.dumps(rows))
        except selectors.TooLarge as error:
            size = error.size
        if size > MAX_OUTPUT_BYTES:
            raise StepFailed("invalid_output", f"{step.name} is {size:,} bytes; at most {MAX_OUTPUT_BYTES:,}")
        schema = step.json_schema
        if schema is not None and (broken := await asyncio.to_thread(violations, schema, rows)):
            detail = in_words(broken)
            raise StepFailed("invalid_output", f"{step.name} does not fit its schema: {detail}")
        return rows

    @_output.register
    async def _(self, step: Screenshot) -> str:
        if self._found is not None:
            box = await self._found.element.bounding_box()
            if box is not None and box["width"] * box["height"] > MAX_PIXELS:
                raise StepFailed(
                    "too_large", f"The element is too large for a picture: {MAX_PIXELS:,} pixels"
                )
            picture = await self._found.element.screenshot(type="png", timeout=0)
        else:
            picture = await self._computer.screenshot(full_page=step.full_page, quality=None)
        return await self._save(f"{step.name}.png", picture, "image/png")


def _offset(step: Click | Drag | DragEnd) -> tuple[float, float] | None:
    return None if step.offset_x is None or step.offset_y is None else (step.offset_x, step.offset_y)


def _compares(value: Any, operator: str | None, than: Any) -> bool:
    """Whether a value is truthy, or compares: 1 is 1.0, and neither true nor "1". Raises StepFailed."""
    if operator is None:
        return bool(value)
    if operator in ("==", "!="):
        return _equal(value, than) is (operator == "==")
    if operator == "contains":
        if isinstance(value, list):
            return any(_equal(item, than) for item in value)
        if isinstance(value, str | dict) and isinstance(than, str):
            return than in value
    elif _ordered(value, than):
        return ORDERS[operator](value, than)
    written = f"{cut(json.dumps(value), 100)} {operator} {cut(json.dumps(than), 100)}"
    raise StepFailed("invalid_step", f"{written} cannot be decided")


def _equal(one: Any, other: Any) -> bool:
    return bool(isinstance(one, bool) is isinstance(other, bool) and one == other)


def _ordered(one: Any, other: Any) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return numbers or (isinstance(one, str) and isinstance(other, str))


def _missed(tried: list[dict[str, Any]]) -> StepFailed:
    """Names the alternative that came nearest."""
    found = [trial for trial in tried if trial["found"]]
    said = "; ".join(f"{cut(trial['selector'], 100)}: {trial['state']}" for trial in (found or tried)[:5])
    if found:
        return StepFailed("element_not_ready", f"The element is there but cannot be used: {said}", tried)
    if all(trial["state"] == "not a valid selector" for trial in tried):
        return StepFailed("invalid_selector", f"No selector is valid: {said}", tried)
    return StepFailed("element_not_found", f"No selector matches anything: {said}", tried)


def _fits(pattern: str, text: str) -> bool:
    """Whether the text is like the pattern, in which `*` stands for anything; linear in the text."""
    first, *middle, last = pattern.split("*")
    if not text.startswith(first) or not text.endswith(last) or len(text) < len(first) + len(last):
        return False
    at = len(first)
    for part in middle:
        if (at := text.find(part, at, len(text) - len(last))) < 0:
            return False
        at += len(part)
    return True
