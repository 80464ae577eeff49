"""What a computer can be told to do: one vocabulary for people, workflows and models, and raw live input."""

import asyncio
import contextlib
import errno
import json
import re
from abc import abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any, ClassVar, Literal

from playwright.async_api import ElementHandle, FileChooser, Locator, Response
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import TimeoutError as PlaywrightTimeout
from pydantic import BaseModel, ConfigDict, Field, model_validator

from browser.chromium import (
    FAULTS,
    Computer,
    ComputerClosed,
    NoSuchTab,
    Tab,
    capture,
    first_line,
    is_page_url,
)
from browser.input import Button, is_key
from browser.selectors import is_file_input, narrowed
from infra import egress
from infra.redaction import cut
from schemas import MAX_NESTING, nests_too_deep

MAX_OUTPUT = 256 * 1024
GRACE_SECONDS = 1.0
PROBE_SECONDS = 1.0
DISPATCH_SECONDS = 5.0
REST_SECONDS, LOAD_SECONDS = 0.05, 2.0
MAX_ELEMENTS = 10_000  # of a page whose whole tree is read after each action; time grows with their square
TOO_LARGE = (
    "The page has {} elements, too many for its tree. This is what is in view, each with a coordinate; "
    "scroll to see more, or use get_page_text."
)
A_TASK = "new Promise(done => setTimeout(done))"

Modifier = Literal["Alt", "Control", "Meta", "Shift"]
Pixel = Annotated[float, Field(ge=-10_000, le=20_000, allow_inf_nan=False)]
TabId = Annotated[str, Field(pattern=r"^t[0-9]{1,9}$")]
Url = Annotated[str, Field(min_length=1, max_length=8192)]


class ActionFailed(Exception):
    """The action did not happen, or did not end well.

    `code` is for programs, `detail` for people.
    """

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Result(_Strict):
    """What an action brought: `output` is JSON, `image` a picture of `media_type`."""

    output: Any = None
    image: bytes | None = None
    media_type: str | None = None


class Point(_Strict):
    """A place in the viewport, in CSS pixels from its top left."""

    x: Pixel
    y: Pixel


class Target(_Strict):
    """An element or a place: exactly one of a coordinate, a ref of `read_page` or `find`, or a selector."""

    coordinate: Point | None = None
    ref: str | None = Field(None, pattern=r"^ref_[a-z0-9]{1,24}$")
    selector: str | None = Field(None, min_length=1, max_length=4096, description="CSS, or Playwright's own.")

    @model_validator(mode="after")
    def _one(self) -> "Target":
        if sum(value is not None for value in (self.coordinate, self.ref, self.selector)) != 1:
            raise ValueError("give exactly one of coordinate, ref and selector")
        return self

    def __str__(self) -> str:
        if self.coordinate is not None:
            return f"the point {self.coordinate.x:g}, {self.coordinate.y:g}"
        return self.ref or f"the selector {self.selector!r}"

    def locate(self, tab: Tab) -> Locator:
        """Where to look for the element; raises ActionFailed for a coordinate."""
        if self.coordinate is not None:
            raise ActionFailed("wrong_target", "Name the element with a ref or a selector, not a coordinate")
        return tab.page.locator(f"aria-ref={self.ref[4:]}" if self.ref else str(self.selector))

    async def element(self, tab: Tab) -> Locator | ElementHandle:
        """The element, or the one at the place, inside open shadow roots too."""
        if self.coordinate is None:
            return self.locate(tab)
        handle = await tab.page.evaluate_handle(ELEMENT_AT, [self.coordinate.x, self.coordinate.y])
        if (element := handle.as_element()) is None:
            raise ActionFailed("not_found", f"There is no element at {self}")
        return element

    async def point(self, tab: Tab, timeout: float) -> tuple[float, float]:
        """The place, or the middle of the element after it was scrolled into view."""
        if self.coordinate is not None:
            return self.coordinate.x, self.coordinate.y
        await self.locate(tab).scroll_into_view_if_needed(timeout=timeout)
        box = await self.locate(tab).bounding_box(timeout=timeout)
        if box is None:
            raise ActionFailed("not_visible", f"The element of {self} is not visible")
        return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


ELEMENT_AT = """([x, y]) => {
  let element = document.elementFromPoint(x, y);
  while (element?.shadowRoot?.elementFromPoint(x, y) && element.shadowRoot.elementFromPoint(x, y) !== element)
    element = element.shadowRoot.elementFromPoint(x, y);
  return element;
}"""
ELEMENTS = "document.getElementsByTagName('*').length"
IN_VIEW = f"""(() => {{
  const elementAt = {ELEMENT_AT}, lines = [];
  const controls = "a[href], button, input, select, textarea, summary, label, [role], [contenteditable]";
  const ownText = (element) =>
    [...element.childNodes].map((node) => (node.nodeType === Node.TEXT_NODE ? node.data : "")).join("");
  const middle = (from, to, end) => Math.round((Math.max(from, 0) + Math.min(to, end)) / 2);
  const look = (element) => {{
    const box = element.getBoundingClientRect(), control = element.closest(controls);
    if (box.bottom <= 0 || box.right <= 0 || box.top >= innerHeight || box.left >= innerWidth) return;
    if (!box.width || !box.height || (control && control !== element)) return;
    const label = element.ariaLabel || element.alt || element.placeholder;
    const text = (label || (control ? element.innerText : ownText(element)) || "").trim().slice(0, 300);
    const x = middle(box.left, box.right, innerWidth), y = middle(box.top, box.bottom, innerHeight);
    const hit = text || control ? elementAt([x, y]) : null;
    if (!hit || !(element.contains(hit) || hit.contains(element))) return;
    const kind = control ? element.role || element.localName : "text";
    lines.push(`- ${{kind}} ${{JSON.stringify(text.replace(/\\s+/g, " "))}} at ${{x}}, ${{y}}`);
  }};
  const walk = (root) => {{
    for (const element of root.querySelectorAll("*")) {{
      if (lines.length >= 400) return;
      look(element);
      if (element.shadowRoot) walk(element.shadowRoot);
    }}
  }};
  walk(document);
  return lines.join("\\n");
}})()"""
PAGE_TEXT = "(document.body ?? document.documentElement)?.innerText ?? ''"


class _Action(_Strict):
    """What all actions share; `timeout_ms` bounds the whole action."""

    tab: TabId | None = Field(None, description="Tab to act on; it becomes the active one.")
    timeout_ms: int = Field(10_000, ge=100, le=120_000)

    activates: ClassVar[bool] = True

    @abstractmethod
    async def run(self, computer: Computer) -> Result:
        """Do it, within `seconds`."""

    @property
    def seconds(self) -> float:
        """The longest it may take."""
        return self.timeout_ms / 1000


# Pages ----------------------------------------------------------------------------------------


class Navigate(_Action):
    """Open a web address; a page that keeps loading after the time is reported as `loading`."""

    action: Literal["navigate"]
    url: Url
    wait_until: Literal["commit", "domcontentloaded", "load"] = "load"
    timeout_ms: int = Field(30_000, ge=100, le=120_000)

    async def run(self, computer: Computer) -> Result:
        check_url(computer, self.url)
        tab, started = computer.active, asyncio.get_running_loop().time()
        try:
            response = await tab.page.goto(self.url, wait_until="commit", timeout=self.timeout_ms)
        except PlaywrightTimeout:
            seconds = self.timeout_ms / 1000
            raise ActionFailed("timeout", f"{self.url} did not answer within {seconds:g} s") from None
        except PlaywrightError as problem:
            if "Download is starting" in str(problem):
                return Result(output={**_where(tab), "status": None, "loading": False, "download": True})
            raise
        if reason := refusal(response):
            raise ActionFailed("unreachable", f"{cut(self.url, 500)} could not be reached: {reason}")
        left = self.timeout_ms - (asyncio.get_running_loop().time() - started) * 1000
        loading = not await _loaded(tab, self.wait_until, left)
        await computer.refresh_tabs()
        return Result(output={**_where(tab), "status": response and response.status, "loading": loading})


class _Travel(_Action):
    timeout_ms: int = Field(30_000, ge=100, le=120_000)

    step: ClassVar[int] = 0

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        await _history_entry(computer, tab, self.step)
        go = {-1: tab.page.go_back, 0: tab.page.reload, 1: tab.page.go_forward}[self.step]
        await go(wait_until="commit", timeout=self.timeout_ms)
        loading = not await _loaded(tab, "load", self.timeout_ms / 2)
        await computer.refresh_tabs()
        return Result(output={**_where(tab), "loading": loading})


class Back(_Travel):
    """Go back one page."""

    action: Literal["back"]
    step: ClassVar[int] = -1


class Forward(_Travel):
    """Go forward one page."""

    action: Literal["forward"]
    step: ClassVar[int] = 1


class Reload(_Travel):
    """Load the page again."""

    action: Literal["reload"]


class NewTab(_Action):
    """Open a tab, with a page or blank, and make it active."""

    action: Literal["new_tab"]
    url: Url | None = None
    timeout_ms: int = Field(30_000, ge=100, le=120_000)

    async def run(self, computer: Computer) -> Result:
        if self.url is not None:
            check_url(computer, self.url)
        tab = await computer.new_tab()
        if self.url is not None:
            opened = Navigate(action="navigate", url=self.url, timeout_ms=self.timeout_ms)
            return Result(output={"tab": tab.id, **(await opened.run(computer)).output})
        return Result(output={"tab": tab.id})


class SwitchTab(_Action):
    """Make a tab the active one."""

    action: Literal["switch_tab"]
    tab: TabId

    async def run(self, computer: Computer) -> Result:
        return Result(output=_where(computer.active))


class CloseTab(_Action):
    """Close a tab, the active one by default, even if its page hangs."""

    action: Literal["close_tab"]

    activates: ClassVar[bool] = False

    async def run(self, computer: Computer) -> Result:
        await computer.close_tab(self.tab or computer.active.id)
        return Result(output={"tabs": computer.tabs()})


class ListTabs(_Action):
    """All tabs: id, URL, title, and which one is active."""

    action: Literal["list_tabs"]

    activates: ClassVar[bool] = False

    async def run(self, computer: Computer) -> Result:
        await computer.refresh_tabs()
        return Result(output={"tabs": computer.tabs()})


# Mouse ----------------------------------------------------------------------------------------


class Click(_Action):
    """Click once, twice or three times, with keys held."""

    action: Literal["click"]
    target: Target
    button: Button = "left"
    count: int = Field(1, ge=1, le=3)
    modifiers: tuple[Modifier, ...] = Field((), max_length=4)

    async def run(self, computer: Computer) -> Result:
        tab, at = computer.active, self.target.coordinate
        if at is None:
            await self.target.locate(tab).click(
                button=self.button,
                click_count=self.count,
                modifiers=list(self.modifiers),
                timeout=self.timeout_ms,
            )
            return Result()
        held = sum({"Alt": 1, "Control": 2, "Meta": 4, "Shift": 8}[each] for each in set(self.modifiers))
        await asyncio.shield(computer.input.move(at.x, at.y, held))
        for count in range(1, self.count + 1):
            computer.input.press(at.x, at.y, self.button, count, held)
            await asyncio.shield(computer.input.release(at.x, at.y, self.button, count, held))
        return Result()


class Hover(_Action):
    """Bring the pointer over something."""

    action: Literal["hover"]
    target: Target

    async def run(self, computer: Computer) -> Result:
        if self.target.coordinate is None:
            await self.target.locate(computer.active).hover(timeout=self.timeout_ms)
        else:
            await asyncio.shield(computer.input.move(self.target.coordinate.x, self.target.coordinate.y))
        return Result()


class Drag(_Action):
    """Press on one thing, move to another, release there."""

    action: Literal["drag"]
    start: Target
    end: Target

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        start = await self.start.point(tab, self.timeout_ms)
        end = await self.end.point(tab, self.timeout_ms)
        mouse = tab.page.mouse
        await mouse.move(*start)
        await mouse.down()
        try:
            await mouse.move(*end, steps=10)
        finally:
            await mouse.up()
        return Result()


class _AtPoint(_Action):
    coordinate: Point
    button: Button = "left"


class MouseDown(_AtPoint):
    """Press a button and hold it."""

    action: Literal["mouse_down"]

    async def run(self, computer: Computer) -> Result:
        await asyncio.shield(computer.input.press(self.coordinate.x, self.coordinate.y, self.button))
        return Result()


class MouseUp(_AtPoint):
    """Release a button."""

    action: Literal["mouse_up"]

    async def run(self, computer: Computer) -> Result:
        await asyncio.shield(computer.input.release(self.coordinate.x, self.coordinate.y, self.button))
        return Result()


class MouseMove(_Action):
    """Move the pointer, with whatever is held."""

    action: Literal["mouse_move"]
    coordinate: Point

    async def run(self, computer: Computer) -> Result:
        await asyncio.shield(computer.input.move(self.coordinate.x, self.coordinate.y))
        return Result()


class Scroll(_Action):
    """Turn the wheel over a target, the middle of the page by default, by CSS pixels."""

    action: Literal["scroll"]
    target: Target | None = None
    dx: Pixel = 0
    dy: Pixel = 0

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        if self.target is not None:
            x, y = await self.target.point(tab, self.timeout_ms)
        else:
            x, y = computer.viewport[0] / 2, computer.viewport[1] / 2
        await asyncio.shield(computer.input.wheel(x, y, self.dx, self.dy))
        return Result()


# Keyboard -------------------------------------------------------------------------------------

KEY_NAMES = (
    {"ctrl": "Control", "cmd": "Meta", "command": "Meta", "super": "Meta", "win": "Meta", "option": "Alt"}
    | {"return": "Enter", "esc": "Escape", "del": "Delete", "page_up": "PageUp", "page_down": "PageDown"}
    | {"up": "ArrowUp", "down": "ArrowDown", "left": "ArrowLeft", "right": "ArrowRight", "space": "Space"}
    | {"alt": "Alt", "control": "Control", "shift": "Shift", "meta": "Meta", "enter": "Enter", "tab": "Tab"}
    | {"escape": "Escape", "backspace": "Backspace", "delete": "Delete", "home": "Home", "end": "End"}
)
Keys = Annotated[str, Field(min_length=1, max_length=64, examples=["Enter", "Control+A", "ctrl+shift+t"])]


def key_names(keys: str) -> str:
    """`ctrl+a` as `Control+a`; a plus sign at the end is the key itself."""
    held, plus, key = keys.rpartition("+") if not keys.endswith("+") else (keys[:-2], keys[-2:-1], "+")
    names = [*(held.split("+") if plus else []), key]
    return "+".join(KEY_NAMES.get(name.lower(), name) for name in names)


class Type(_Action):
    """Type text, key by key up to 1,000 characters and as one paste above; a target is clicked first."""

    action: Literal["type"]
    text: str = Field(max_length=100_000)
    target: Target | None = None
    clear: bool = Field(False, description="Select what the field holds first, so that it is replaced.")
    delay_ms: int = Field(0, ge=0, le=1000, description="Pause between keys.")

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        if self.target is not None:
            await Click(action="click", target=self.target, timeout_ms=self.timeout_ms).run(computer)
        keyboard = tab.page.keyboard
        if self.clear:
            await keyboard.press("Control+A")
            await keyboard.press("Delete")
        if len(self.text) > 1000:
            await keyboard.insert_text(self.text)
        else:
            await keyboard.type(self.text, delay=self.delay_ms)
        return Result()


class Key(_Action):
    """Press a key or a combination."""

    action: Literal["key"]
    keys: Keys
    repeat: int = Field(1, ge=1, le=100)

    async def run(self, computer: Computer) -> Result:
        keyboard = computer.active.page.keyboard
        for _ in range(self.repeat):
            await keyboard.press(key_names(self.keys))
        return Result()


class HoldKey(_Action):
    """Hold a key or a combination down for a while."""

    action: Literal["hold_key"]
    keys: Keys
    duration_ms: int = Field(ge=1, le=10_000)

    async def run(self, computer: Computer) -> Result:
        await computer.active.page.keyboard.press(key_names(self.keys), delay=self.duration_ms)
        return Result()

    @property
    def seconds(self) -> float:
        return (self.duration_ms + self.timeout_ms) / 1000


# Looking --------------------------------------------------------------------------------------


class Wait(_Action):
    """Wait for a time, or until an element is visible."""

    action: Literal["wait"]
    duration_ms: int = Field(0, ge=0, le=60_000)
    target: Target | None = None

    async def run(self, computer: Computer) -> Result:
        if self.target is not None:
            await self.target.locate(computer.active).wait_for(timeout=self.timeout_ms)
        await asyncio.sleep(self.duration_ms / 1000)
        return Result()

    @property
    def seconds(self) -> float:
        return (self.duration_ms + self.timeout_ms) / 1000


class Screenshot(_Action):
    """A picture of the viewport or of the full page, one image pixel per CSS pixel."""

    action: Literal["screenshot"]
    full_page: bool = False
    format: Literal["jpeg", "png"] = "jpeg"

    async def run(self, computer: Computer) -> Result:
        quality = 80 if self.format == "jpeg" else None
        image = await capture(computer.active, full_page=self.full_page, quality=quality)
        return Result(output=_where(computer.active), image=image, media_type=f"image/{self.format}")


class Zoom(_Action):
    """A magnified picture of a part of the viewport, at most four times its size."""

    action: Literal["zoom"]
    coordinate: Point
    width: float = Field(ge=1, le=4096)
    height: float = Field(ge=1, le=4096)

    async def run(self, computer: Computer) -> Result:
        across, down = computer.viewport
        scale = max(1.0, min(across / self.width, down / self.height, 4.0))
        place = {"x": self.coordinate.x, "y": self.coordinate.y, "width": self.width, "height": self.height}
        image = await capture(computer.active, clip={**place, "scale": scale})
        return Result(output={"scale": scale}, image=image, media_type="image/jpeg")


class ReadPage(_Action):
    """The accessibility tree, frames and open shadow roots included, with a ref for what can be acted on."""

    action: Literal["read_page"]
    target: Target | None = Field(None, description="Read only this element.")
    depth: int | None = Field(None, ge=1, le=100)

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        tree = await _tree(tab, self.target, self.depth, self.timeout_ms)
        return Result(output={**_where(tab), "tree": tree[:MAX_OUTPUT], "truncated": len(tree) > MAX_OUTPUT})


class GetPageText(_Action):
    """The text of the page as a person sees it."""

    action: Literal["get_page_text"]

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        most = MAX_OUTPUT // 2 - 100  # a line break takes two characters of JSON
        script = f"(text => [text.slice(0, {most}), text.length > {most}])({PAGE_TEXT})"
        text, truncated = await _evaluate(tab, script, self.timeout_ms)
        return Result(output={**_where(tab), "text": text, "truncated": truncated})


class ReadConsole(_Action):
    """What the page has written to its console lately, errors included; the newest last."""

    action: Literal["read_console"]
    limit: int = Field(50, ge=1, le=200)
    errors_only: bool = False

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        entries = [
            entry
            for entry in computer.traffic(tab).console
            if not self.errors_only or entry["level"] == "error"
        ]
        return Result(output={**_where(tab), "entries": entries[-self.limit :], "total": len(entries)})


class ReadNetwork(_Action):
    """What the page has asked of the network lately, without headers and bodies; the newest last."""

    action: Literal["read_network"]
    limit: int = Field(50, ge=1, le=200)
    failed_only: bool = False

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        entries = [
            entry
            for entry in computer.traffic(tab).requests
            if not self.failed_only or entry["failure"] or (entry["status"] or 0) >= 400
        ]
        return Result(output={**_where(tab), "entries": entries[-self.limit :], "total": len(entries)})


class Find(_Action):
    """Elements whose line in the accessibility tree has all the words, with their refs."""

    action: Literal["find"]
    query: str = Field(min_length=1, max_length=500)
    limit: int = Field(20, ge=1, le=100)

    async def run(self, computer: Computer) -> Result:
        words = self.query.lower().split()
        lines = (await _tree(computer.active, None, None, self.timeout_ms)).splitlines()
        found = [line.strip(" -:") for line in lines if all(word in line.lower() for word in words)]
        matches = [
            {"ref": ref[1], "element": cut(line, 500)}
            for line in found
            if (ref := re.search(r"\[ref=(ref_[a-z0-9]+)\]", line))
        ]
        return Result(output={"matches": matches[: self.limit], "total": len(matches)})


class ScrollTo(_Action):
    """Scroll until an element is in view."""

    action: Literal["scroll_to"]
    target: Target

    async def run(self, computer: Computer) -> Result:
        element = await self.target.element(computer.active)
        await element.scroll_into_view_if_needed(timeout=self.timeout_ms)
        return Result()


class Evaluate(_Action):
    """Run a JavaScript expression in the page; a promise is awaited, the value comes back as JSON."""

    action: Literal["evaluate"]
    expression: str = Field(min_length=1, max_length=MAX_OUTPUT)

    async def run(self, computer: Computer) -> Result:
        return Result(output={"value": await _evaluate(computer.active, self.expression, self.timeout_ms)})


# Forms ----------------------------------------------------------------------------------------


class FormInput(_Action):
    """Set a field's value: text, a choice by value or label, or a box's state."""

    action: Literal["form_input"]
    target: Target
    value: bool | int | float | str | tuple[str, ...]

    async def run(self, computer: Computer) -> Result:
        element = await self.target.element(computer.active)
        tag, kind = await element.evaluate("e => [e.tagName, String(e.type)]")
        value = self.value
        if kind in ("checkbox", "radio"):
            if not isinstance(value, bool):
                raise ActionFailed("wrong_value", f"A {kind} is set with true or false, not {value!r}")
            await element.set_checked(value, timeout=self.timeout_ms)
        elif tag == "SELECT":
            choices = [value] if isinstance(value, str) else list(value) if isinstance(value, tuple) else []
            if not choices:
                raise ActionFailed("wrong_value", f"A choice is a text or a list of texts, not {value!r}")
            await element.select_option(choices, timeout=self.timeout_ms)
        elif isinstance(value, bool | tuple):
            raise ActionFailed("wrong_value", f"A text field takes text, not {value!r}")
        else:
            await element.fill(str(value), timeout=self.timeout_ms)
        return Result()


class FileUpload(_Action):
    """Choose files in a file field, behind a button that asks for them, or in the chooser that is open.

    Files are named as `Options.find_file` knows them; a path of this machine is never taken from a caller.
    """

    action: Literal["file_upload"]
    files: tuple[Annotated[str, Field(min_length=1, max_length=200)], ...] = Field(
        min_length=1, max_length=20
    )
    target: Target | None = None

    async def run(self, computer: Computer) -> Result:
        tab = computer.active
        try:
            copies = await computer.upload(self.files)
        except OSError as problem:
            if problem.errno == errno.EFBIG:
                raise ActionFailed("too_large", f"These files are too large: {problem.strerror}") from problem
            raise ActionFailed("no_such_file", f"A file cannot be had: {problem.strerror}") from problem
        chooser: FileChooser | None
        if self.target is None:
            chooser, computer.file_chooser = computer.file_chooser, None
            if chooser is None:
                raise ActionFailed("no_file_chooser", "No file chooser is open; name the field as target")
        else:
            element = await self.target.element(tab)
            if await is_file_input(element):
                await element.set_input_files(copies, timeout=self.timeout_ms)
                return Result()
            async with tab.page.expect_file_chooser(timeout=self.timeout_ms) as opened:
                await element.click(timeout=self.timeout_ms)
            chooser, computer.file_chooser = await opened.value, None
        await chooser.set_files(copies, timeout=self.timeout_ms)
        return Result()


Action = Annotated[
    Navigate | Back | Forward | Reload | NewTab | SwitchTab | CloseTab | ListTabs
    | Click | Hover | Drag | MouseDown | MouseUp | MouseMove | Scroll | Type | Key | HoldKey
    | Wait | Screenshot | Zoom | ReadPage | GetPageText | ReadConsole | ReadNetwork | Find | ScrollTo
    | Evaluate | FormInput | FileUpload,
    Field(discriminator="action"),
]  # fmt: skip
_POINT = {"x": 640, "y": 360}
EXAMPLES: tuple[dict[str, Any], ...] = (
    {"action": "navigate", "url": "https://example.com/"},
    *({"action": name} for name in ("back", "forward", "reload", "new_tab")),
    *({"action": "switch_tab", "tab": "t2"}, {"action": "close_tab", "tab": "t2"}, {"action": "list_tabs"}),
    {"action": "click", "target": {"selector": "text=Search"}},
    {"action": "hover", "target": {"coordinate": _POINT}},
    {"action": "drag", "start": {"ref": "ref_e4"}, "end": {"coordinate": _POINT}},
    *({"action": f"mouse_{name}", "coordinate": _POINT} for name in ("down", "up", "move")),
    {"action": "scroll", "dy": 600},
    {"action": "type", "text": "tea", "target": {"selector": "#q"}},
    *({"action": "key", "keys": "Control+a"}, {"action": "hold_key", "keys": "Shift", "duration_ms": 500}),
    {"action": "wait", "duration_ms": 500},
    *({"action": "screenshot"}, {"action": "zoom", "coordinate": _POINT, "width": 200, "height": 100}),
    *({"action": "read_page"}, {"action": "get_page_text"}, {"action": "find", "query": "add to cart"}),
    *({"action": "read_console", "errors_only": True}, {"action": "read_network", "limit": 20}),
    {"action": "scroll_to", "target": {"ref": "ref_e4"}},
    {"action": "evaluate", "expression": "document.title"},
    {"action": "form_input", "target": {"selector": "#country"}, "value": "Germany"},
    {"action": "file_upload", "files": ["report.csv"], "target": {"selector": "input[type=file]"}},
)
"""One of each action."""


async def perform(computer: Computer, action: Action) -> Result:
    """Do an action within its time; raises ActionFailed, and ComputerClosed when there is no computer."""
    async with explained(computer, action), asyncio.timeout(action.seconds + GRACE_SECONDS):
        await computer.settled()
        if action.tab is not None and action.activates and computer.active.id != action.tab:
            await computer.switch_tab(action.tab)
        return await action.run(computer)


@asynccontextmanager
async def explained(computer: Computer, action: Action) -> AsyncIterator[None]:
    """What goes wrong with an action raises ActionFailed, and ComputerClosed when there is no computer."""
    try:
        yield
    except NoSuchTab as problem:
        raise ActionFailed("no_such_tab", str(problem)) from problem
    except FAULTS as problem:
        if computer.closed.is_set():
            raise ComputerClosed("The computer was closed") from problem
        raise await _explain(computer, action, problem) from problem


async def rest(computer: Computer) -> None:
    """Wait for what an action has set going; a page that goes on loading is not waited for long."""
    await computer.settled()
    await asyncio.sleep(REST_SECONDS)
    tab = computer.active
    with contextlib.suppress(TimeoutError, PlaywrightError):
        async with asyncio.timeout(LOAD_SECONDS):
            # Behind a task of the page and a word with the browser, any navigation has been told.
            await tab.cdp.send("Runtime.evaluate", {"expression": A_TASK, "awaitPromise": True})
            await tab.cdp.send("Page.getNavigationHistory")
            await tab.loaded.wait()
    await computer.refresh_tabs()


async def describe(computer: Computer) -> str:
    """The tabs, and the accessibility tree of the active one, as a text for models."""
    tabs = "".join(
        f"{'* ' if tab['active'] else '  '}{tab['id']} {tab['url']} {tab['title']}\n"
        for tab in computer.tabs()
    )
    return f"Tabs:\n{tabs}{await _overview(computer.active, PROBE_SECONDS * 1000)}"


async def _overview(tab: Tab, timeout: float) -> str:
    """The accessibility tree; of a page too large for one, what is in view, each with a place to click."""
    reply = await tab.cdp.send("Runtime.evaluate", {"expression": ELEMENTS, "returnByValue": True})
    count = reply["result"].get("value")
    if not isinstance(count, int) or count <= MAX_ELEMENTS:
        return await _tree(tab, None, None, timeout)
    seen = await _evaluate(tab, IN_VIEW, 2 * timeout)
    return f"{TOO_LARGE.format(count)}\n{seen}"


# Errors ---------------------------------------------------------------------------------------

NETWORK_ERRORS = {
    "ERR_NAME_NOT_RESOLVED": "its name is not known",
    "ERR_CONNECTION_REFUSED": "nothing listens there",
    "ERR_CONNECTION_RESET": "the connection was cut",
    "ERR_CONNECTION_CLOSED": "the connection was closed",
    "ERR_EMPTY_RESPONSE": "the server sent nothing",
    "ERR_CONNECTION_TIMED_OUT": "the server did not answer",
    "ERR_TIMED_OUT": "the server did not answer",
    "ERR_ADDRESS_UNREACHABLE": "there is no way to its address",
    "ERR_INTERNET_DISCONNECTED": "there is no network",
    "ERR_TOO_MANY_REDIRECTS": "it redirects without end",
    "ERR_TUNNEL_CONNECTION_FAILED": "this computer is not allowed to reach it, or it did not answer",
    "ERR_PROXY_CONNECTION_FAILED": "the computer's proxy does not answer",
    "ERR_BLOCKED_BY_CLIENT": "this computer is not allowed to reach it",
    "ERR_INVALID_AUTH_CREDENTIALS": "it asks for a name and a password by HTTP authentication",
    "ERR_UNSAFE_PORT": "browsers do not use its port",
    "ERR_ABORTED": "the page stopped loading",
}
# What the driver's call log says about an element that was not acted on, most telling first.
OBSTACLES = (
    ("intercepts pointer events", "covered", "is covered by another element"),
    ("not visible", "not_visible", "is not visible"),
    ("not enabled", "disabled", "is disabled"),
    ("not editable", "not_editable", "cannot be edited"),
    ("not stable", "moving", "does not stand still"),
    ("outside of the viewport", "not_visible", "is outside of the viewport"),
    ("did not find some options", "no_such_option", "has no such option"),
    ("not attached", "detached", "was removed from the page"),
)


def refusal(response: Response | None) -> str | None:
    """Why the computer's proxy answered in place of the page; None for a page."""
    return egress.refusal(response.headers.get("proxy-status", "")) if response else None


def why_unreachable(computer: Computer, url: str, message: str) -> str | None:
    """The driver's network error in words, as the computer's proxy knows it where Chromium does not."""
    network = re.search(r"net::(ERR_[A-Z0-9_]+)", message)
    if network is None:
        return None
    known = computer.options.why(url) if network[1] == "ERR_TUNNEL_CONNECTION_FAILED" else None
    plain = network[1].removeprefix("ERR_").replace("_", " ").lower()
    return known or NETWORK_ERRORS.get(network[1], plain)


async def _explain(computer: Computer, action: Action, problem: Exception) -> ActionFailed:
    """The driver's error as a sentence about what was wanted."""
    message = str(problem)
    target = getattr(action, "target", None) or getattr(action, "start", None)
    url = getattr(action, "url", None) or ""
    if why := why_unreachable(computer, url, message):
        return ActionFailed("unreachable", f"{cut(url, 500) or 'The page'} could not be reached: {why}")
    if "crashed" in message:
        return ActionFailed("page_crashed", "The page crashed")
    if "closed" in message:
        return ActionFailed("tab_closed", "The tab was closed before the action ended")
    if many := re.search(r"resolved to (\d+) elements", message):
        return ActionFailed("ambiguous", f"{target} fits {many[1]} elements; name one of them")
    if isinstance(problem, TimeoutError | PlaywrightTimeout):
        seconds = f"{action.seconds:g} s"
        if not await _answers(computer):
            return ActionFailed("hanging", "The page does not answer; close its tab or navigate elsewhere")
        for words, code, sentence in OBSTACLES:
            if words in message:
                return ActionFailed(code, f"The element of {target} {sentence}; waited {seconds}")
        if target is not None and target.coordinate is None and not await _found(computer, target):
            return ActionFailed("not_found", f"Nothing on the page fits {target}; waited {seconds}")
        return ActionFailed("timeout", f"The action did not end within {seconds}")
    if re.search(r"while parsing|selector|Unknown engine|not a valid XPath", message):
        return ActionFailed("invalid_selector", f"{target} is not a valid selector: {_plain(problem)}")
    return ActionFailed("failed", _plain(problem))


def _plain(problem: Exception) -> str:
    if isinstance(problem, RuntimeError):
        return "The browser has gone"
    return re.sub(r"^\w+\.\w+: (Error: )?", "", first_line(problem))


async def _found(computer: Computer, target: Target) -> bool:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            return await target.locate(computer.active).count() > 0
    except FAULTS:
        return True  # the page is changing or slow, which is not for want of the element


async def _answers(computer: Computer) -> bool:
    try:
        async with asyncio.timeout(PROBE_SECONDS):
            await computer.active.cdp.send("Runtime.evaluate", {"expression": "1"})
    except TimeoutError:
        return False
    except (PlaywrightError, RuntimeError):
        return True  # the tab has just gone, which is not to hang
    return True


# Pages, closer --------------------------------------------------------------------------------


def check_url(computer: Computer, url: str) -> None:
    """Only http and https (and the blank page), and only where this computer may go; raises ActionFailed."""
    if not is_page_url(url) or not (url == "about:blank" or url.lower().startswith(("http://", "https://"))):
        raise ActionFailed(
            "refused", f"{cut(url, 200)} is refused: an address begins with http:// or https://"
        )
    if url != "about:blank" and (why := computer.options.check_url(url)):
        raise ActionFailed("refused", f"{cut(url, 200)} is refused: {why}")


def _where(tab: Tab) -> dict[str, Any]:
    return {"tab": tab.id, "url": tab.url, "title": tab.title}


async def _loaded(tab: Tab, state: Literal["commit", "domcontentloaded", "load"], timeout: float) -> bool:
    if state == "commit":
        return True
    try:
        await tab.page.wait_for_load_state(state, timeout=max(timeout, 1))
    except PlaywrightTimeout:
        return False
    return True


async def _history_entry(computer: Computer, tab: Tab, step: int) -> int:
    """The id of the entry that many steps away; raises ActionFailed where there is none or it is refused."""
    history = await tab.cdp.send("Page.getNavigationHistory")
    at = history["currentIndex"] + step
    if not 0 <= at < len(history["entries"]):
        raise ActionFailed("no_history", f"There is no page to go {'back' if step < 0 else 'forward'} to")
    entry = history["entries"][at]
    check_url(computer, entry["url"])
    return int(entry["id"])


async def _tree(tab: Tab, target: Target | None, depth: int | None, timeout: float) -> str:
    """Playwright's accessibility snapshot; its refs `e12` become ours, `ref_e12`."""
    if target is None:
        tree = await tab.page.aria_snapshot(mode="ai", depth=depth, timeout=timeout)
    else:
        tree = await target.locate(tab).aria_snapshot(mode="ai", depth=depth, timeout=timeout)
    return re.sub(r"\[ref=([a-z0-9]+)\]", r"[ref=ref_\1]", tree)


async def _evaluate(tab: Tab, expression: str, timeout_ms: float) -> Any:
    """The JSON value of an expression; a script that goes on too long is stopped; raises ActionFailed."""
    # The page makes the JSON and measures it, so that a huge value or complaint is never sent.
    script = (
        f"(async () => {{ try {{ const json = JSON.stringify(await (0, eval)({json.dumps(expression)}));"
        f" return json?.length > {MAX_OUTPUT} ? json.length : json; }}"
        " catch (thrown) { throw String(thrown).slice(0, 1000); } })()"
    )
    try:
        async with asyncio.timeout(timeout_ms / 1000):
            reply = await tab.cdp.send(
                "Runtime.evaluate",
                {"expression": script, "awaitPromise": True, "returnByValue": True, "userGesture": True},
            )
    except TimeoutError:
        async with asyncio.timeout(PROBE_SECONDS):
            await tab.cdp.send("Runtime.terminateExecution")
        raise ActionFailed("timeout", f"The script did not end within {timeout_ms / 1000:g} s") from None
    if "exceptionDetails" in reply:
        thrown = reply["exceptionDetails"].get("exception", {})
        said = str(thrown.get("description") or thrown.get("value") or reply["exceptionDetails"]["text"])
        raise ActionFailed("script_failed", "The script failed: " + cut(said.split("\n", 1)[0], 500))
    value = reply["result"].get("value")
    if isinstance(value, int):
        raise ActionFailed("too_large", f"The result is {value} characters of JSON; the most is {MAX_OUTPUT}")
    too_deep = ActionFailed("too_large", f"The result is nested more than {MAX_NESTING} deep")
    try:
        found = None if value is None else json.loads(value)
    except RecursionError:
        raise too_deep from None
    except (ValueError, TypeError):
        raise ActionFailed("script_failed", "The page made no JSON of the result") from None
    if nests_too_deep(found):
        raise too_deep
    return narrowed(found)


# Live input -----------------------------------------------------------------------------------

Modifiers = Annotated[int, Field(ge=0, le=15, description="Alt 1, Control 2, Meta 4, Shift 8.")]


class MouseEvent(_Strict):
    """The pointer moved, or a button went down or up."""

    type: Literal["mouse"]
    event: Literal["move", "down", "up"]
    x: Pixel
    y: Pixel
    button: Button = "left"
    count: int = Field(1, ge=1, le=3)
    modifiers: Modifiers = 0


class WheelEvent(_Strict):
    """The wheel turned, in CSS pixels."""

    type: Literal["wheel"]
    x: Pixel
    y: Pixel
    dx: Pixel = 0
    dy: Pixel = 0
    modifiers: Modifiers = 0


class KeyEvent(_Strict):
    """A key went down or up; `key` and `code` as in the browser's KeyboardEvent."""

    type: Literal["key"]
    event: Literal["down", "up"]
    key: str = Field(min_length=1, max_length=32)
    code: str = Field("", max_length=32)
    modifiers: Modifiers = 0

    @model_validator(mode="after")
    def _known(self) -> "KeyEvent":
        if not is_key(self.key):
            raise ValueError(f"{self.key!r} is not a key that can be pressed; send text as text")
        return self


class TextEvent(_Strict):
    """Text was pasted or composed."""

    type: Literal["text"]
    text: str = Field(min_length=1, max_length=10_000)


class TouchPoint(_Strict):
    """One finger."""

    x: Pixel
    y: Pixel
    id: int = Field(0, ge=0, le=9)


class TouchEvent(_Strict):
    """Fingers touched; `points` are those on the glass, none after `cancel`."""

    type: Literal["touch"]
    event: Literal["start", "move", "end", "cancel"]
    points: tuple[TouchPoint, ...] = Field((), max_length=10)


class NavigateEvent(_Strict):
    """The address bar and its buttons."""

    type: Literal["navigate"]
    event: Literal["go", "back", "forward", "reload"]
    url: Url | None = None

    @model_validator(mode="after")
    def _has_url(self) -> "NavigateEvent":
        if (self.event == "go") != (self.url is not None):
            raise ValueError("`go` has a url and the others have none")
        return self


class TabEvent(_Strict):
    """The tab strip."""

    type: Literal["tab"]
    event: Literal["new", "switch", "close"]
    tab: TabId | None = None

    @model_validator(mode="after")
    def _has_tab(self) -> "TabEvent":
        if (self.event == "new") != (self.tab is None):
            raise ValueError("`switch` and `close` name a tab and `new` names none")
        return self


InputEvent = Annotated[
    MouseEvent | WheelEvent | KeyEvent | TextEvent | TouchEvent | NavigateEvent | TabEvent,
    Field(discriminator="type"),
]


async def dispatch(computer: Computer, event: InputEvent) -> None:
    """Pass on a person's input in order, without waiting for the page.

    Raises ActionFailed (a page that answers nothing, a refused address, an unknown tab), ComputerClosed.
    """
    try:
        async with asyncio.timeout(DISPATCH_SECONDS):
            await computer.settled()
            tab = computer.active
            if isinstance(event, TabEvent):
                await _dispatch_tab(computer, event)
            elif isinstance(event, NavigateEvent):
                await _dispatch_navigate(computer, tab, event)
            elif computer.input.stuck:
                raise ActionFailed("hanging", "The page does not answer; close its tab or navigate elsewhere")
            else:
                _dispatch_input(computer, event)
    except NoSuchTab as problem:
        raise ActionFailed("no_such_tab", str(problem)) from problem
    except FAULTS as problem:
        raise ActionFailed("failed", _plain(problem)) from problem


def release_all(computer: Computer) -> None:
    """Let go of every key and button that live input holds, as when control ends."""
    computer.input.release_all()


def _dispatch_input(
    computer: Computer, event: MouseEvent | WheelEvent | KeyEvent | TextEvent | TouchEvent
) -> None:
    hands = computer.input
    width, height = computer.viewport
    match event:
        case MouseEvent(event="move"):
            hands.move(_clamp(event.x, width), _clamp(event.y, height), event.modifiers)
        case MouseEvent():
            turn = hands.press if event.event == "down" else hands.release
            turn(_clamp(event.x, width), _clamp(event.y, height), event.button, event.count, event.modifiers)
        case WheelEvent():
            hands.wheel(_clamp(event.x, width), _clamp(event.y, height), event.dx, event.dy, event.modifiers)
        case KeyEvent():
            turn_key = hands.key_down if event.event == "down" else hands.key_up
            turn_key(event.key, event.code, event.modifiers)
        case TextEvent():
            hands.text(event.text)
        case TouchEvent():
            points = [
                {"x": _clamp(at.x, width), "y": _clamp(at.y, height), "id": at.id} for at in event.points
            ]
            hands.touch(f"touch{event.event.capitalize()}", points)


async def _dispatch_navigate(computer: Computer, tab: Tab, event: NavigateEvent) -> None:
    if event.url is not None:
        check_url(computer, event.url)
        computer.input.send("Page.navigate", {"url": event.url})
    elif event.event == "reload":
        computer.input.send("Page.reload", {})
    else:
        entry = await _history_entry(computer, tab, -1 if event.event == "back" else 1)
        computer.input.send("Page.navigateToHistoryEntry", {"entryId": entry})


async def _dispatch_tab(computer: Computer, event: TabEvent) -> None:
    if event.tab is None:
        await computer.new_tab()
    elif event.event == "switch":
        await computer.switch_tab(event.tab)
    else:
        await computer.close_tab(event.tab)


def _clamp(value: float, size: int) -> float:
    return min(max(value, 0), size - 1)
