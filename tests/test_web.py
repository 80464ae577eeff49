"""A person's way through the web app: a real browser, the real proxy, the real server, a real site."""

import asyncio
import gzip
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Locator, expect

from tests import pages
from tests.conftest import ROOT
from tests.web import DESK, PHONE, Come, Visitor
from tests.workers import look

pytestmark = pytest.mark.timeout(300)

WEB = ROOT / "cua-frontend"
DESKS = """<!doctype html><title>Desk</title><body style="margin:0;font:20px sans-serif">
<input id=name onfocus="location.hash = 'focused'" style="position:absolute;left:40px;top:40px;width:300px;height:40px;font:24px sans-serif">
<p id=clock style="position:absolute;left:40px;top:120px"></p>
<script>setInterval(() => { clock.textContent = performance.now() | 0 }, 50)</script>"""


def recording(url: str) -> dict[str, Any]:
    """A recording that needs a person twice."""
    return {
        "title": "Greet somebody",
        "steps": [
            {"type": "setViewport", "width": 800, "height": 600, "deviceScaleFactor": 1, "isMobile": False,
             "hasTouch": False, "isLandscape": False},
            {"type": "navigate", "url": url},
            {"type": "pause", "title": "Who is it?"},
            {"type": "approve", "title": "Greet them?"},
            {"type": "waitForExpression", "expression": "document.title = 'Hello ' + document.getElementById('name').value"},
            {"type": "extract", "name": "greeting", "fields": {"words": {"selectors": ["title"]}}},
        ],
    }  # fmt: skip


@pytest.fixture(scope="module")
async def desk() -> AsyncIterator[pages.Site]:
    async with pages.serve({"/desk": DESKS}) as site:
        yield site


async def canvas_bytes(canvas: Locator) -> str:
    return str(await canvas.evaluate("canvas => canvas.toDataURL('image/jpeg', 0.3)"))


@asynccontextmanager
async def steering(visitor: Visitor) -> AsyncIterator[Locator]:
    """The live view while the visitor has control."""
    await visitor.button("Take control").click()
    await expect(visitor.button("Hand back")).to_be_visible()
    yield visitor.page.locator("canvas").first
    await visitor.button("Hand back").click()
    await expect(visitor.button("Hand back")).to_be_hidden()


@pytest.mark.parametrize(
    ("name", "size", "more"),
    [
        ("desk", DESK, {}),
        ("phone", PHONE, {"has_touch": True, "is_mobile": True, "color_scheme": "dark"}),
    ],
)
async def test_a_recording_is_imported_run_watched_steered_approved_and_scheduled(
    name: str,
    size: tuple[int, int],
    more: dict[str, Any],
    visitor: Come,
    desk: pages.Site,
    tmp_path: Path,
) -> None:
    ada = await visitor(name, size, **more)
    page = ada.page
    await ada.register()
    await ada.picture("home-first")

    file = tmp_path / "greet.json"
    await asyncio.to_thread(file.write_text, json.dumps(recording(desk.url("/desk"))))
    await ada.visit("/workflows")
    async with page.expect_file_chooser() as choosing:
        await ada.button(re.compile("^Import")).first.click()
    await (await choosing.value).set_files(file)
    await page.wait_for_url(re.compile(r"/workflows/[0-9a-f-]{36}"))
    workflow = page.url
    await expect(page.get_by_role("heading", level=1)).to_contain_text("Greet somebody")
    await ada.picture("workflow")
    await ada.button("Run").first.click()
    await ada.picture("run-dialog")
    await page.get_by_role("dialog").get_by_role("button", name=re.compile("Run|Start")).click()
    await page.wait_for_url(re.compile(r"/runs/[0-9a-f-]{36}"))

    canvas = page.locator("canvas").first
    await expect(page.get_by_text("Who is it?").first).to_be_visible()
    before = await canvas_bytes(canvas)
    async for _ in look(10):
        if await canvas_bytes(canvas) != before:
            break
    await ada.picture("run-waits")

    async with steering(ada):
        box = await canvas.bounding_box()
        assert box is not None
        scale = box["width"] / 800
        place = (box["x"] + 150 * scale, box["y"] + 60 * scale)
        await (page.touchscreen.tap(*place) if "has_touch" in more else page.mouse.click(*place))
        await expect(page.get_by_label("Address")).to_have_value(re.compile("#focused$"))
        if "has_touch" in more:
            await ada.button("Keyboard").click()
        await page.keyboard.type("Grace")
        await ada.picture("run-steered")
    await ada.button(re.compile("Resume|Go on|Continue|Done")).first.click()
    await expect(page.get_by_role("button", name="Approve", exact=True).first).to_be_visible()
    await ada.picture("run-approval")
    await page.get_by_role("button", name="Approve", exact=True).first.click()
    await expect(page.get_by_text("Succeeded").first).to_be_visible()
    await page.get_by_role("tab", name="Result").click()
    await expect(page.get_by_role("tabpanel").get_by_text("Hello Grace").first).to_be_visible()
    await ada.picture("run-result")

    await page.get_by_role("tab", name="Timeline").click()
    await page.get_by_role("button", name=re.compile(r"^2\b.*Open")).click()
    await expect(page.get_by_role("img", name=re.compile("screen")).first).to_be_visible()
    await expect(page).to_have_url(re.compile(r"step=2"))
    await ada.picture("run-step")

    await page.goto(workflow)
    await ada.button("More").first.click()
    await page.get_by_role("menuitem", name=re.compile("Schedule")).click()
    await page.get_by_role("dialog").get_by_label("Name").fill("Every morning")
    await ada.picture("schedule-dialog")
    await page.get_by_role("dialog").get_by_role("button", name=re.compile("Make|Save|Schedule")).last.click()
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await ada.visit("/schedules")
    await expect(page.get_by_text("Every morning").first).to_be_visible()
    await ada.picture("schedules")

    if size == PHONE:
        await ada.button("Menu").click()
    await ada.button(re.compile("^Account")).click()
    await page.get_by_role("menuitem", name="Sign out").click()
    await expect(page).to_have_url(re.compile("/sign-in"))
    await ada.picture("sign-in")
    await page.goto("/runs")
    await expect(page).to_have_url(re.compile(r"/sign-in\?next=%2Fruns"))


SCREENS = [
    "/", "/runs", "/approvals", "/workflows", "/schedules", "/files", "/computers", "/profiles", "/secrets", "/usage",
    "/settings/account", "/settings/keys", "/settings/webhooks", "/settings/sessions", "/settings/appearance",
]  # fmt: skip
SHIFTS = """() => new Promise(done => {
  const seen = [];
  const tell = node => node?.outerHTML?.slice(0, 120) ?? String(node);
  new PerformanceObserver(list => {
    for (const each of list.getEntries())
      if (!each.hadRecentInput && each.value > 0.005) seen.push([each.value, ...each.sources.map(it => tell(it.node))]);
  }).observe({type: 'layout-shift', buffered: true});
  setTimeout(() => done(seen), 100);
})"""


@pytest.mark.parametrize(
    ("name", "size", "scheme"),
    [("screens-light", DESK, "light"), ("screens-dark", DESK, "dark"), ("screens-phone", PHONE, "light")],
)
async def test_every_screen_is_accessible_and_nothing_on_it_jumps(
    name: str, size: tuple[int, int], scheme: str, visitor: Come
) -> None:
    ada = await visitor(name, size, color_scheme=scheme)
    await ada.register()
    wide, jumping = [], {}
    for path in SCREENS:
        await ada.visit(path)
        await ada.picture(path.strip("/").replace("/", "-") or "home")
        if await ada.page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            wide.append(path)
        if shifts := await ada.page.evaluate(SHIFTS):
            jumping[path] = shifts
    assert (wide, jumping) == ([], {})


def test_the_first_screen_loads_little() -> None:
    """Compressed as a proxy would send it; the budget is 250 KB."""
    page = (WEB / ".next" / "server" / "app" / "(app)" / "page_client-reference-manifest.js").read_text()
    manifest = json.loads(
        page[page.index("= {", page.index("globalThis.__RSC_MANIFEST[")) + 2 :].rstrip().rstrip(";")
    )
    build = json.loads((WEB / ".next" / "build-manifest.json").read_text())
    files = {
        *build["rootMainFiles"],
        *(file for files in manifest["entryJSFiles"].values() for file in files),
    }
    size = sum(len(gzip.compress((WEB / ".next" / file).read_bytes())) for file in files)
    assert 50_000 < size < 250_000
