"""Elements as the Chrome DevTools Recorder writes them down: alternative selectors, frame, place and value.

The work itself is `recorder.js`, which runs in the page: one round trip sees one moment of the page.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.async_api import ElementHandle, Frame, JSHandle, Page

from browser.selectors import SCRIPT, Selectors, selector_problem

_RECORDER = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").strip()
_SCRIPT = f"{_RECORDER}({SCRIPT}.tree)"
MAX_FRAMES = 32  # of frames inside of frames

_INNERMOST = """([x, y]) => {
  let element = document.elementFromPoint(x, y);
  for (let inner; (inner = element?.shadowRoot?.elementFromPoint(x, y)) && inner !== element; ) {
    element = inner;
  }
  return element;
}"""
_WITHIN = """(frame, [x, y]) => {
  const box = frame.getBoundingClientRect(), style = getComputedStyle(frame);
  return [x - box.x - frame.clientLeft - parseFloat(style.paddingLeft),
          y - box.y - frame.clientTop - parseFloat(style.paddingTop)];
}"""
_FOCUSED = """() => {
  let element = document.activeElement;
  while (element?.shadowRoot?.activeElement) element = element.shadowRoot.activeElement;
  return element === document.body ? null : element;
}"""


@dataclass(frozen=True, slots=True)
class Held:
    """What a control holds: `kind` is `text` of one line, `lines` of several, `box`, `list` or `none`."""

    kind: str
    value: str

    @property
    def editable(self) -> bool:
        """Whether text can be typed into it."""
        return self.kind in ("text", "lines")


@dataclass(frozen=True, slots=True)
class Described:
    """An element: `selectors` lead to nothing else in its frame, the most telling first.

    `frame` is the path of child frame indexes to it, `offset` the place in it in CSS pixels from its top
    left.
    """

    element: ElementHandle
    selectors: Selectors
    frame: list[int]
    held: Held
    offset: tuple[int, int] | None = None

    def fields(self) -> dict[str, Any]:
        """How a step of a flow names it."""
        return ({"frame": self.frame} if self.frame else {}) | {"selectors": self.selectors}

    def offsets(self) -> dict[str, Any]:
        """How a step of a flow names the place in it."""
        return {"offsetX": self.offset[0], "offsetY": self.offset[1]} if self.offset else {}


async def describe(
    element: ElementHandle, *, used: bool = False, at: tuple[float, float] | None = None
) -> Described | None:
    """The element, or with `used` the control around it that a click uses; None where nothing leads to it.

    `at` is a place in CSS pixels of its frame's viewport. Raises Playwright's Error.
    """
    frame = await element.owner_frame()
    if frame is None:
        return None
    wish = {"used": used, "at": {"x": at[0], "y": at[1]} if at else None}
    seen = await element.evaluate(f"(element, wish) => {_SCRIPT}.describe(element, wish)", wish)
    told = [parts for parts in seen["selectors"] if not any(map(selector_problem, parts))]
    if not told:
        return None
    place = seen["offset"] and (seen["offset"]["x"], seen["offset"]["y"])
    return Described(element, told, [*_path(frame)][::-1], Held(**seen["held"]), place)


async def describe_at(page: Page, x: float, y: float, *, used: bool = False) -> Described | None:
    """The innermost element at a place in the viewport, through frames and open shadow roots."""
    frame = page.main_frame
    for _ in range(MAX_FRAMES):
        element = (await frame.evaluate_handle(_INNERMOST, [x, y])).as_element()
        if element is None:
            return None
        if (inner := await element.content_frame()) is None:
            return await describe(element, used=used, at=(x, y))
        x, y = await element.evaluate(_WITHIN, [x, y])
        frame = inner
    return None


async def describe_focused(page: Page) -> Described | None:
    """The element that keys go to, if any has the focus."""
    frame = page.main_frame
    for _ in range(MAX_FRAMES):
        element = (await frame.evaluate_handle(_FOCUSED)).as_element()
        if element is None:
            return None
        if (inner := await element.content_frame()) is None:
            return await describe(element)
        frame = inner
    return None


async def held_by(element: ElementHandle) -> Held:
    """What the control holds now. Raises Playwright's Error when its page has gone."""
    return Held(**await element.evaluate(f"(element) => {_SCRIPT}.heldBy(element)"))


async def scrollers(element: ElementHandle) -> JSHandle:
    """All that a wheel over the element may scroll, as it stands now."""
    return await element.evaluate_handle(f"(element) => {_SCRIPT}.scrollers(element)")


async def scrolled(before: JSHandle) -> dict[str, Any] | None:
    """Where the innermost one that has moved stands: `x`, `y` and, but for the page itself, `selectors`."""
    moved: dict[str, Any] | None = await before.evaluate(f"(before) => {_SCRIPT}.scrolled(before)")
    return moved


def _path(frame: Frame) -> Iterator[int]:
    """The frame's place among its parent's frames, and so on up to the page."""
    while (parent := frame.parent_frame) is not None:
        yield parent.child_frames.index(frame)
        frame = parent
