"""What a model does in the browser, and the steps of a flow that do the same again without a model."""

import asyncio
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import singledispatchmethod
from typing import Any

import structlog
from playwright.async_api import ElementHandle, JSHandle, Page

from browser import actions, recorder
from browser.actions import Action, ActionFailed, Point, Target
from browser.chromium import FAULTS, Computer, ComputerClosed, NoSuchTab, Tab
from browser.recorder import Described, Held
from runs.placeholders import literal
from runs.replay import BUTTONS, Attempt, StepFailed
from runs.secrets import ALL_FIELDS
from runs.steps import NAMED_KEY

log = structlog.get_logger()

Step = dict[str, Any]

LOOK_SECONDS = 2.0
APPEAR_SECONDS = 1.0  # for an element that is to come yet
MAX_KEYS = 200  # of a text that goes into no field
FLOW_MS = 5_000
STILL = 3  # CSS pixels that a pointer may move in a click
CHOSEN = "list => list.multiple ? [...list.selectedOptions] : []"
BLANK = "about:blank"
UNSEEN = (ActionFailed, ComputerClosed, NoSuchTab, *FAULTS)
NAVIGATES = ("click", "doubleClick", "keyDown", "change")
VERBATIM = ("type", "value", "expression", "key", "button")  # fields that are escaped where they are made
_SECRET = re.compile(rf"(\{{\{{ *secrets\.[A-Za-z_][\w-]*\.(?:{'|'.join(ALL_FIELDS)}) *\}}\}})")


@dataclass(frozen=True, slots=True)
class Press:
    """Where a button went down, for the action that lets it up."""

    seen: Described
    at: Point


class Deed:
    """An action that a model wants, done like a step of a flow, and recorded as steps that do it again."""

    def __init__(
        self,
        computer: Computer,
        action: Action,
        main: Page | None = None,
        shown: Callable[[Any], Any] = lambda told: told,
        filling: Attempt | None = None,
        press: Press | None = None,
    ) -> None:
        """`main` is the tab that the run began in, the oldest one by default.

        `shown` gives what a page has said without secrets; what fills in a secret is done by `filling`. What
        lets a button up ends the `press` before it.
        """
        self._computer, self._action, self._main = computer, action, main
        self._shown, self._filling, self._began = shown, filling, press
        self._steps: list[Step] = []
        self._output: Any = None
        self._forget()

    def _forget(self) -> None:
        self._tab: Tab | None = None
        self._target, self._document = "main", ""
        self._seen: Described | None = None
        self._end: Described | None = None
        self._scrollers: JSHandle | None = None

    @property
    def press(self) -> Press | None:
        """What a button goes down on."""
        if self._seen is None or not isinstance(self._action, actions.MouseDown):
            return None
        return Press(self._seen, self._action.coordinate)

    # Phases -------------------------------------------------------------------------------------

    async def find(self) -> None:
        """See what the action is about while it is still there; what cannot be seen is not recorded."""
        self._forget()
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                named = self._action.tab
                self._tab = self._computer.tab(named) if named else self._computer.active
                self._target = self._name(self._tab.page)
                await self._look(self._action, self._tab)
                self._document = await _document(self._tab)
        except UNSEEN as error:
            log.info("action_not_seen", action=self._action.action, error=repr(error))
        if self._filling is not None:
            await self._filling.find()

    async def act(self) -> None:
        """Do it; raises ActionFailed, StepFailed."""
        if self._filling is not None:
            await self._filling.act()
        else:
            self._output = (await actions.perform(self._computer, self._action)).output

    async def settle(self) -> Any:
        """What it has brought; what a field holds is read before the page thinks of something else."""
        self._steps = []
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if self._tab is not None:
                    self._steps = await self._record(self._action, self._tab)
        except UNSEEN as error:
            log.info("action_not_recorded", action=self._action.action, error=repr(error))
        return await self._filling.settle() if self._filling is not None else self._output

    def may_find_again(self, failure: StepFailed) -> bool:
        """Whether nothing has been done yet, and there is time to find the element anew."""
        return self._filling is not None and self._filling.may_find_again(failure)

    async def recorded(self) -> list[Step]:
        """The steps that do the same again, once the page has come to rest."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                if self._tab is not None:
                    await self._complete(self._action, self._tab)
        except UNSEEN as error:
            log.info("action_not_completed", action=self._action.action, error=repr(error))
        return [kept for step in self._steps if (kept := self._kept(step)).get("selectors") != []]

    def _kept(self, step: Step) -> Step:
        """The step as placeholders leave it, without what has shown a secret."""
        kept = dict(step)
        if "selectors" in step:
            kept["selectors"] = [parts for parts in step["selectors"] if self._shown(parts) == parts]
        if "assertedEvents" in step:
            kept["assertedEvents"] = [
                {name: text for name, text in event.items() if self._shown(text) == text}
                for event in step["assertedEvents"]
            ]
        return {
            name: value if name in VERBATIM else _literal(self._shown(value)) for name, value in kept.items()
        }

    def _value(self, given: str, held: str) -> str:
        """What a step gives a field: secrets by their names, never what they brought, or what it holds."""
        pieces = _SECRET.split(given)
        if len(pieces) > 1:
            return "".join(piece if index % 2 else literal(piece) for index, piece in enumerate(pieces))
        shown = str(self._shown(held))
        return shown if shown != held and _SECRET.fullmatch(shown) else literal(shown)

    def _name(self, page: Page) -> str:
        """The tab as a step names it."""
        main = self._main or next(iter(self._computer.pages), None)
        return "main" if page is main else page.url

    def _step(self, kind: str, **fields: Any) -> Step:
        return {"type": kind, "target": self._target, **fields}

    def _on(self, seen: Described | None, kind: str, **fields: Any) -> list[Step]:
        """The step on an element; none where nothing leads to it."""
        return [self._step(kind, **seen.fields(), **fields)] if seen else []

    # Before the action --------------------------------------------------------------------------

    @singledispatchmethod
    async def _look(self, _action: Action, _tab: Tab) -> None:
        """Most actions are about no element."""

    @_look.register(actions.Click)
    @_look.register(actions.Hover)
    async def _(self, action: actions.Click | actions.Hover, tab: Tab) -> None:
        self._seen = await self._describe(action.target, tab, used=True)

    @_look.register(actions.FormInput)
    @_look.register(actions.Wait)
    @_look.register(actions.Type)
    async def _(self, action: actions.FormInput | actions.Wait | actions.Type, tab: Tab) -> None:
        if action.target is not None:
            self._seen = await self._describe(action.target, tab)
        elif isinstance(action, actions.Type):
            self._seen = await recorder.describe_focused(tab.page)

    @_look.register
    async def _(self, action: actions.Drag, tab: Tab) -> None:
        self._seen = await self._describe(action.start, tab, used=True)
        self._end = await self._describe(action.end, tab)

    @_look.register
    async def _(self, action: actions.MouseDown, tab: Tab) -> None:
        self._seen = await self._describe(Target(coordinate=action.coordinate), tab, used=True)

    @_look.register
    async def _(self, action: actions.MouseUp, tab: Tab) -> None:
        self._end = await self._describe(Target(coordinate=action.coordinate), tab)

    @_look.register
    async def _(self, action: actions.FileUpload, tab: Tab) -> None:
        if action.target is not None:
            self._seen = await self._describe(action.target, tab)
        elif self._computer.file_chooser is not None:
            self._seen = await recorder.describe(self._computer.file_chooser.element)

    @_look.register
    async def _(self, action: actions.ScrollTo, tab: Tab) -> None:
        seen = await self._describe(action.target, tab)
        self._scrollers = await recorder.scrollers(seen.element) if seen else None

    @_look.register
    async def _(self, action: actions.Scroll, tab: Tab) -> None:
        if action.target is not None:
            seen = await self._describe(action.target, tab)
        else:
            x, y = self._computer.viewport
            seen = await recorder.describe_at(tab.page, x / 2, y / 2)
        self._scrollers = await recorder.scrollers(seen.element) if seen else None

    async def _describe(self, target: Target, tab: Tab, *, used: bool = False) -> Described | None:
        if target.coordinate is not None:
            return await recorder.describe_at(tab.page, target.coordinate.x, target.coordinate.y, used=used)
        element = await _element(target, tab)
        return await recorder.describe(element, used=used) if element else None

    # After it -----------------------------------------------------------------------------------

    @singledispatchmethod
    async def _record(self, _action: Action, _tab: Tab) -> list[Step]:
        """Looking, and what no step can do, leaves nothing behind."""
        return []

    @_record.register
    async def _(self, action: actions.Navigate, tab: Tab) -> list[Step]:
        if self._target == BLANK:
            return [self._opens(action.url, tab)]
        return [self._step("navigate", url=action.url)]

    @_record.register
    async def _(self, action: actions.NewTab, _: Tab) -> list[Step]:
        return [] if action.url is None else [self._opens(action.url, self._computer.active)]

    @_record.register(actions.Back)
    @_record.register(actions.Forward)
    @_record.register(actions.Reload)
    async def _(self, _: Action, tab: Tab) -> list[Step]:
        return [self._step("navigate", url=tab.page.url)]

    def _opens(self, url: str, tab: Tab) -> Step:
        """A new tab with a page; while there is nothing in the others, the main one stands in for it."""
        if all(page.url == BLANK for page in self._computer.pages if page is not tab.page):
            return {"type": "navigate", "target": "main", "url": url}
        return _expression("main", f'(window.open({json.dumps(url)}, "_blank", "noopener"), true)')

    @_record.register
    async def _(self, _action: actions.CloseTab, _tab: Tab) -> list[Step]:
        return [self._step("close")]

    @_record.register
    async def _(self, action: actions.Click, _: Tab) -> list[Step]:
        if self._seen is None:
            return []
        if action.count == 3 and self._seen.held.kind == "text":  # a flow has no third click
            return [*self._clicked(self._seen, action.button), *self._keys("ctrl+a")]
        kind = "click" if action.count == 1 else "doubleClick"
        return self._held_down(action.modifiers, self._clicked(self._seen, action.button, kind))

    def _clicked(self, seen: Described, button: str, kind: str = "click") -> list[Step]:
        fields = seen.offsets()
        if button != "left":
            fields["button"] = next(name for name, known in BUTTONS.items() if known == button)
        return self._on(seen, kind, **fields)

    @_record.register
    async def _(self, action: actions.MouseUp, _: Tab) -> list[Step]:
        """What it ends is a click, or a drag with the left button."""
        if (press := self._began) is None:
            return []
        if math.dist((press.at.x, press.at.y), (action.coordinate.x, action.coordinate.y)) <= STILL:
            return self._clicked(press.seen, action.button)
        if action.button != "left":
            return []
        return self._dragged(press.seen, self._end, press.at, action.coordinate)

    @_record.register
    async def _(self, _action: actions.Hover, _tab: Tab) -> list[Step]:
        return self._on(self._seen, "hover")

    @_record.register
    async def _(self, action: actions.Drag, _: Tab) -> list[Step]:
        if self._seen is None:
            return []
        return self._dragged(self._seen, self._end, action.start.coordinate, action.end.coordinate)

    def _dragged(
        self, begin: Described, end: Described | None, at: Point | None, to: Point | None
    ) -> list[Step]:
        """From one element to another, or within one as far as from place to place."""
        if end is not None and end.frame == begin.frame and end.selectors != begin.selectors:
            onto = {"selectors": end.selectors, **end.offsets()}
            return self._on(begin, "drag", **begin.offsets(), to=onto)
        if at is None or to is None:
            return []
        return self._on(begin, "drag", **begin.offsets(), by={"x": to.x - at.x, "y": to.y - at.y})

    @_record.register
    async def _(self, action: actions.FormInput, _: Tab) -> list[Step]:
        if self._seen is None:
            return []
        if isinstance(action.value, tuple) and (clicks := await self._choices(self._seen)):
            return clicks
        given = str(action.value).lower() if isinstance(action.value, bool) else str(action.value)
        held = await _held(self._seen) or Held("", given)
        return self._on(self._seen, "change", value=self._value(given, held.value))

    async def _choices(self, seen: Described) -> list[Step]:
        """A click on each option that a list of several has now; a `change` can only choose one."""
        chosen = await seen.element.evaluate_handle(CHOSEN)
        options = [handle.as_element() for handle in (await chosen.get_properties()).values()]
        clicks: list[Step] = []
        for option in options:
            click = self._on(await recorder.describe(option), "click") if option else []
            clicks += self._held_down(("Control",), click) if clicks else click
        return clicks

    @_record.register
    async def _(self, action: actions.FileUpload, _: Tab) -> list[Step]:
        return self._on(self._seen, "upload", files=[*action.files])

    @_record.register
    async def _(self, action: actions.Key, _: Tab) -> list[Step]:
        return self._keys(action.keys) * action.repeat

    @_record.register
    async def _(self, action: actions.HoldKey, _: Tab) -> list[Step]:
        return self._keys(action.keys)

    @_record.register
    async def _(self, action: actions.Wait, tab: Tab) -> list[Step]:
        if self._seen is None and action.target is not None:  # it has come only now
            self._seen = await self._describe(action.target, tab)
        late = {"timeout": action.timeout_ms} if action.timeout_ms > FLOW_MS else {}
        return self._on(self._seen, "waitForElement", visible=True, **late)

    @_record.register
    async def _(self, action: actions.Evaluate, tab: Tab) -> list[Step]:
        expression = self._shown(await _once(action.expression, tab))
        return [_expression(self._target, expression)]

    # Typing -------------------------------------------------------------------------------------

    @_record.register
    async def _(self, action: actions.Type, tab: Tab) -> list[Step]:
        field, click = self._seen, []
        if action.target is not None and not (field and field.held.editable):
            click = self._on(field, "click", **field.offsets()) if field else []
            field = await recorder.describe_focused(tab.page)
        if field is None or not field.held.editable:
            return [*click, *self._characters(action.text)]
        entered, rest = await self._entered(action, field)
        return [*click, *self._on(field, "change", value=entered), *self._characters(rest)]

    async def _entered(self, action: actions.Type, field: Described) -> tuple[str, str]:
        """The value that the field was given, and the keys after it, from the one on that left the field."""
        one_line, text = field.held.kind == "text", action.text
        held = await _held(field)
        left = re.search("[\t\n]" if one_line else "\t", text)
        if not one_line and text.endswith("\n") and (held is None or not held.value.endswith("\n")):
            left = re.search("\n+$", text)  # as in a chat, where it sends
        first, rest = (text[: left.start()], text[left.start() :]) if left else (text, "")
        expected = first if action.clear else field.held.value + first
        return self._value(first, expected if rest or held is None else held.value), rest

    def _characters(self, text: str) -> list[Step]:
        if len(text) > MAX_KEYS:
            return []
        names = {"\n": "Enter", "\t": "Tab"}
        return [step for char in text for step in self._keys(names.get(char, char))]

    def _keys(self, keys: str) -> list[Step]:
        """One combination; nothing where the Recorder has no word for a key of it."""
        *held, key = _combination(keys)
        if not all(len(name) == 1 or NAMED_KEY.fullmatch(name) for name in (*held, key)):
            return []
        return self._held_down(held, [self._step("keyDown", key=key), self._step("keyUp", key=key)])

    def _held_down(self, names: Any, steps: list[Step]) -> list[Step]:
        down = [self._step("keyDown", key=name) for name in names]
        return [*down, *steps, *(step | {"type": "keyUp"} for step in reversed(down))] if steps else []

    # At rest ------------------------------------------------------------------------------------

    async def _complete(self, action: Action, tab: Tab) -> None:
        """Where scrolling has led to, and that the last step is to lead to another document."""
        if isinstance(action, actions.Scroll | actions.ScrollTo) and self._scrollers is not None:
            moved = await recorder.scrolled(self._scrollers)
            self._steps = [self._step("scroll", **moved)] if moved else []
        last = next((step for step in reversed(self._steps) if step["type"] in NAVIGATES), None)
        if last is None or not self._document or tab.page.is_closed():
            return
        if await _document(tab) != self._document:
            seen = {"url": tab.page.url, "title": await tab.page.title()}
            described = {name: text for name, text in seen.items() if "*" not in text}
            last["assertedEvents"] = [{"type": "navigation", **described}]


async def _document(tab: Tab) -> str:
    """The id of the document that the tab shows; another one comes with every load."""
    tree = await tab.cdp.send("Page.getFrameTree")
    return str(tree["frameTree"]["frame"]["loaderId"])


async def _element(target: Target, tab: Tab) -> ElementHandle | None:
    """The one element that it names, which may take a moment to come, but for one that a ref stands for."""
    where = target.locate(tab)
    if found := await where.element_handles():
        return found[0] if len(found) == 1 else None
    return None if target.ref else await where.element_handle(timeout=APPEAR_SECONDS * 1000)


async def _held(seen: Described) -> Held | None:
    """What the control holds now; None when it has gone."""
    try:
        return await recorder.held_by(seen.element)
    except FAULTS:
        return None


def _combination(keys: str) -> list[str]:
    """The keys of `ctrl+a`, in the order in which they go down."""
    name = actions.key_names(keys)
    held, _, key = name[:-1].rpartition("+")
    names = [*(held.split("+") if held else []), key + name[-1]]
    return ["Control" if name == "ControlOrMeta" else name for name in names]


def _expression(target: str, expression: str) -> Step:
    return {"type": "waitForExpression", "target": target, "expression": expression}


async def _once(script: str, tab: Tab) -> str:
    """An expression that becomes true by doing the script; one of statements is evaluated."""
    inner = script.strip().rstrip(";")
    whole = _true_after(f"\n{inner}\n" if re.search(r"\n|//", inner) else inner)
    if "{{" not in script and await _compiles(whole, tab):
        return whole
    return _true_after(f"(0, eval)({json.dumps(script)})".replace("{{", "{\\u007b"))


async def _compiles(expression: str, tab: Tab) -> bool:
    """Whether the page would take it for an expression; it is not evaluated."""
    attempt = "(source => { try { new Function(source) } catch { return false } return true })"
    source = f"{attempt}({json.dumps(f'return {expression}')})"
    reply = await tab.cdp.send("Runtime.evaluate", {"expression": source, "returnByValue": True})
    return bool(reply["result"].get("value"))


def _true_after(expression: str) -> str:
    return f"Promise.resolve(({expression})).then(() => true)"


def _literal(value: Any) -> Any:
    if isinstance(value, str):
        return literal(value)
    if isinstance(value, list):
        return [_literal(item) for item in value]
    if isinstance(value, dict):
        return {name: item if name == "type" else _literal(item) for name, item in value.items()}
    return value
