"""What an action would meet in a page, seen from a world that the page's scripts cannot enter.

The looking is a selector engine of Playwright's, `inspection.js`, which runs in an isolated world; its answer
is an element that is never in the page.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playwright.async_api import Error as PlaywrightError
from playwright.async_api import FrameLocator, Locator, Page, Playwright

from browser import selectors

FACTS, FRAME = "cua-facts", "cua-frame"
MAX_FRAMES = 10
_SCRIPT = Path(__file__).with_suffix(".js").read_text(encoding="utf-8").strip()


@dataclass(frozen=True, slots=True)
class Seen:
    """What is there, in the document at `url`; `facts` are None where that cannot be known.

    `around` are the documents of the frames on the way, the page's first.
    """

    url: str
    facts: dict[str, Any] | None
    around: tuple[str, ...] = field(default=())


async def prepare(playwright: Playwright) -> None:
    """Teach a driver to look; before it opens anything."""
    for name, give in ((FACTS, "facts"), (FRAME, "frame")):
        engine = f"({_SCRIPT})({selectors.SCRIPT}, {json.dumps(give)})"
        await playwright.selectors.register(name, engine, content_script=True)


async def focused(page: Page, timeout: float) -> Seen:
    """What has the focus. Raises Playwright's Error."""
    return await _look(page, None, "focus", timeout)


async def at(page: Page, x: float, y: float, timeout: float) -> Seen:
    """What is at a place of the viewport. Raises Playwright's Error."""
    return await _look(page, None, f"at {x:.2f} {y:.2f}", timeout)


async def pressed(page: Page, element: Locator, timeout: float) -> Seen:
    """What a click on the element meets. Raises Playwright's Error, also where it is not there in time."""
    return await _look(page, element, "press", timeout)


async def itself(page: Page, element: Locator, timeout: float) -> Seen:
    """The element. Raises Playwright's Error, also where it is not there in time."""
    return await _look(page, element, "self", timeout)


async def holds_secret(page: Page, timeout: float) -> bool:
    """Whether a field of the page, or of a frame in it, may hold a secret that was filled in."""
    for frame in page.frames:
        try:
            told = await frame.locator(f"{FACTS}=secret").get_attribute("facts", timeout=timeout)
        except PlaywrightError:
            if not frame.is_detached():
                return True  # it hangs, or goes on to another page
        else:
            if told is None or json.loads(told)["secret"]:
                return True
    return False


async def _look(page: Page, element: Locator | None, wish: str, timeout: float) -> Seen:
    """Follow the wish into the frame that it leads to, and on."""
    scope: Locator | Page | FrameLocator = element or page
    around: list[str] = []
    url = page.url
    for _ in range(MAX_FRAMES):
        try:
            told = await scope.locator(f"{FACTS}={wish}").get_attribute("facts", timeout=timeout)
        except PlaywrightError:
            if not around:
                raise
            break  # a frame that does not answer
        found = json.loads(told or "{}")
        url = found["url"]
        if not found.get("frame"):
            return Seen(url, found["element"], tuple(around))
        around.append(url)
        scope = scope.locator(f"{FRAME}={wish}").content_frame
        wish = f"at {found['point'][0]:.2f} {found['point'][1]:.2f}" if found["point"] else "focus"
    return Seen(url, None, tuple(around))
