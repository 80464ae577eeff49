"""Recorder selectors: alternatives, nested parts, and one definition of an element fit to be used.

The work itself is `selectors.js`, which runs in the page: one round trip sees one moment of the page.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from playwright.async_api import ElementHandle, Frame, Locator

SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").strip()
Selectors = list[list[str]]

NOT_TEXT = re.compile("[\0\ud800-\udfff]")
CLOSERS = {"[": "]", "(": ")"}
_ARIA_ATTRIBUTE = re.compile(r"\[\s*(\w+)\s*=\s*(?:\"[^\"]*\"|'[^']*')\s*\]")


def selector_problem(part: str) -> str | None:
    """What can be known to be wrong with one part of a selector without a page."""
    if not part.strip() or len(part) > 10_000:
        return "A selector is empty or longer than 10,000 characters"
    kind, slash, text = part.partition("/")
    if not slash or kind not in {"css", "aria", "text", "xpath", "pierce"}:
        kind, text = "css", part
    if not text.strip():
        return f"Nothing follows {kind}/"
    if kind == "aria":
        unknown = [name for name in _ARIA_ATTRIBUTE.findall(text) if name not in {"name", "role"}]
        return f"Unknown attribute {unknown[0]} in {part[:80]}; there are name and role" if unknown else None
    if kind != "text" and not _balanced(text, escapes=kind != "xpath"):
        return f"Brackets or quotation marks do not match in {part[:80]}"
    return None


def _balanced(text: str, *, escapes: bool) -> bool:
    expected: list[str] = []
    for char in _unquoted(text, escapes=escapes):
        if char in CLOSERS:
            expected.append(CLOSERS[char])
        elif (char in CLOSERS.values() and (not expected or expected.pop() != char)) or char == "'":
            return False
    return not expected


def _unquoted(text: str, *, escapes: bool) -> Iterator[str]:
    """The characters outside quotation marks; one quotation mark at the end if a string never ends."""
    quote, escaped = "", False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and escapes:
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            yield char
    if quote:
        yield "'"


def narrowed(value: Any) -> Any:
    """JSON of a page as others can hold it: no integer beyond 64 bits, no infinity, NUL or lone surrogate."""
    if isinstance(value, str):
        return NOT_TEXT.sub("\ufffd", value)
    if isinstance(value, list):
        return [narrowed(item) for item in value]
    if isinstance(value, dict):
        return {narrowed(key): narrowed(item) for key, item in value.items()}
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = float(str(value))
    return None if isinstance(value, float) and not math.isfinite(value) else value


# In a page ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Found:
    """An element fit to be used; `x`, `y` is where the pointer goes, in CSS pixels from its top left."""

    element: ElementHandle
    x: float
    y: float


@dataclass(frozen=True, slots=True)
class Missed:
    """What became of each alternative: `{"selector", "found", "state", "element"?}`."""

    tried: list[dict[str, Any]]


async def find(
    frame: Frame,
    selectors: Selectors,
    *,
    attached: bool = False,
    enabled: bool = False,
    hit: bool = False,
    value: str | None = None,
    offset: tuple[float, float] | None = None,
) -> Found | Missed:
    """The first alternative whose element is visible, in view and still, scrolled to if need be.

    `enabled` asks for a control that is not disabled, `hit` for nothing covering the point, `value` for a
    list that has the option, `attached` for nothing but being there. Looks once; raises Playwright's Error.
    """
    handle = await frame.evaluate_handle(
        f"async (wish) => {SCRIPT}.find(wish)",
        {
            "selectors": selectors,
            "attached": attached,
            "enabled": enabled,
            "hit": hit,
            "value": value,
            "offset": {"x": offset[0], "y": offset[1]} if offset else None,
            "framed": frame.parent_frame is not None,
        },
    )
    try:
        element = (await handle.get_property("element")).as_element()
        if element is None:
            return Missed(await (await handle.get_property("tried")).json_value())
        at = await (await handle.get_property("at")).json_value()
        return Found(element, at["x"], at["y"])
    finally:
        await handle.dispose()


async def place(frame: Frame, found: Found) -> tuple[float, float] | None:
    """Where the pointer goes in CSS pixels of the page's viewport; None if the element has left the page."""
    corner = await found.element.evaluate(
        """(element) => {
            const { x, y } = element.getBoundingClientRect();
            return element.isConnected ? [x, y] : null;
        }"""
    )
    if corner is None:
        return None
    x, y = corner[0] + found.x, corner[1] + found.y
    while frame.parent_frame is not None:
        owner = await frame.frame_element()
        left, top = await owner.evaluate(
            """(owner) => {
                const box = owner.getBoundingClientRect(), style = getComputedStyle(owner);
                return [box.x + owner.clientLeft + parseFloat(style.paddingLeft),
                        box.y + owner.clientTop + parseFloat(style.paddingTop)];
            }"""
        )
        x, y, frame = x + left, y + top, frame.parent_frame
    return x, y


async def count(
    frame: Frame,
    selectors: Selectors,
    *,
    visible: bool | None,
    properties: dict[str, Any],
    attributes: dict[str, str],
) -> dict[str, Any]:
    """`{"count", "fits", "tried"}` of the first alternative that matches anything."""
    wish = {"selectors": selectors, "visible": visible, "properties": properties, "attributes": attributes}
    return cast(dict[str, Any], await frame.evaluate(f"(wish) => {SCRIPT}.count(wish)", wish))


async def change(element: ElementHandle, value: str) -> dict[str, str]:
    """Sets a control; `{}`, or what hinders: `refused`, `detached`, `keyboard` for what is left to type."""
    return cast(
        dict[str, str], await element.evaluate(f"(element, value) => {SCRIPT}.change(element, value)", value)
    )


async def is_file_input(element: ElementHandle | Locator) -> bool:
    """Whether it is a field that takes files."""
    return bool(await element.evaluate("(e) => e instanceof HTMLInputElement && e.type === 'file'"))


async def origins_within(element: ElementHandle) -> list[str]:
    """The origin of the element's document: of its address, which it cannot forge, and that it acts with.

    The second is `null` in a sandbox.
    """
    return cast(list[str], await element.evaluate("() => [location.origin, self.origin]"))


async def conceal(element: ElementHandle, value: str) -> dict[str, str]:
    """Masks a text field and gives it the value at once, without the keyboard; answers as `change`."""
    return cast(
        dict[str, str],
        await element.evaluate(f"(element, value) => {SCRIPT}.conceal(element, value)", value),
    )


async def typed(element: ElementHandle) -> None:
    """Tells the page that what has been typed into the control is its new value."""
    await element.evaluate(f"(element) => {SCRIPT}.typed(element)")


class TooLarge(Exception):
    """What was read is too large; `size` in characters."""

    def __init__(self, size: int) -> None:
        super().__init__(f"{size:,} characters")
        self.size = size


async def read(frame: Frame, value: dict[str, Any], most: int) -> Any:
    """What `value` (`selectors`, `attribute`, `type`, `many`, `fields`) describes; None where absent.

    Raises TooLarge beyond `most` characters.
    """
    reply = await frame.evaluate(f"([value, most]) => {SCRIPT}.read(value, most)", [value, most])
    if "size" in reply:
        raise TooLarge(reply["size"])
    return narrowed(reply.get("found"))
