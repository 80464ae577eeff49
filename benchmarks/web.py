"""What a person waits for at the web app: the first screen, pictures a second, and from a press to its picture.

The web app, the server and the browser of the run are all on this machine; the pictures are counted where they are
drawn, in the page.
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from playwright.async_api import Browser, Page, ViewportSize, async_playwright

from benchmarks.measure import describe_machine
from browser.chromium import find_chromium
from tests import pages
from tests.conftest import free_port
from tests.web import WebApp

ROUNDS, PRESSES, SECONDS = 5, 30, 5
PASSWORD = "correct horse battery"
PAGE = """<!doctype html><title>Bench</title><body style="margin:0;height:100vh;background:#000">
<script>
  onmousedown = () => { document.body.style.background = document.body.style.background === 'rgb(0, 0, 0)' ? '#fff' : '#000' };
  if (location.search === '?moving') {
    const box = document.body.appendChild(document.createElement('div'));
    box.style = 'position:absolute;top:60%;width:120px;height:120px;background:#08f';
    (function step(now) { box.style.left = (now / 5) % 600 + 'px'; requestAnimationFrame(step) })(0);
  }
</script>"""
COUNT = """
  window.drawn = 0; window.pressed = 0; window.seen = [];
  const draw = CanvasRenderingContext2D.prototype.drawImage;
  CanvasRenderingContext2D.prototype.drawImage = function (...rest) {
    draw.apply(this, rest);
    window.drawn += 1;
    if (!window.pressed) return;
    const [red] = this.getImageData(5, 5, 1, 1).data, light = red > 128;
    if (light !== window.light) { window.seen.push(performance.now() - window.pressed); window.light = light; window.pressed = 0 }
  };
"""


async def _first_screens(browser: Browser, url: str) -> list[float]:
    """Seconds from the request for the sign-in page to its button, each time with an empty cache."""
    taken = []
    for _ in range(ROUNDS):
        context = await browser.new_context(base_url=url)
        page = await context.new_page()
        began = time.perf_counter()
        await page.goto("/sign-in", wait_until="commit")
        await page.get_by_role("button", name="Sign in").wait_for()
        taken.append(time.perf_counter() - began)
        await context.close()
    return taken


async def _sign_up(page: Page) -> None:
    await page.goto("/register")
    await page.get_by_label("Email").fill(f"{uuid4().hex}@example.com")
    await page.get_by_label("Password").fill(PASSWORD)
    await page.get_by_role("button", name="Make the account").click()
    await page.get_by_role("heading", level=1).wait_for()


async def _open_run(page: Page, app: WebApp, url: str) -> None:
    """A run that waits for a person at this page, shown live."""
    steps = [
        {"type": "setViewport", "width": 800, "height": 600},
        {"type": "navigate", "url": url},
        {"type": "pause", "title": "Look"},
    ]
    async with page.expect_request("**/api/me") as asking:
        await page.goto("/")
    request = await asking.value
    headers = {"Authorization": (await request.all_headers())["authorization"]}
    async with httpx.AsyncClient(base_url=app.url, headers=headers) as client:
        body: dict[str, Any] = {"definition": {"title": "Bench", "steps": steps}}
        run = (await client.post("/api/runs", json=body)).json()["data"]
    await page.goto(f"/runs/{run['id']}")
    await page.get_by_role("button", name="Take control").wait_for()
    await page.wait_for_function("window.drawn > 0")


async def _pictures_a_second(page: Page) -> float:
    before = await page.evaluate("window.drawn")
    await asyncio.sleep(SECONDS)
    return float((await page.evaluate("window.drawn") - before) / SECONDS)


async def _presses(page: Page) -> list[float]:
    """Milliseconds from each press in the page to the drawing of a picture that shows what it did."""
    await page.get_by_role("button", name="Take control").click()
    await page.get_by_role("button", name="Hand back").wait_for()
    box = await page.locator("canvas").first.bounding_box()
    assert box is not None
    await page.evaluate(
        "addEventListener('pointerdown', event => { window.pressed = event.timeStamp }, true), (window.light = false)"
    )
    for count in range(PRESSES):
        await page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
        await page.wait_for_function(f"window.seen.length > {count}")
        await asyncio.sleep(0.05)
    seen: list[float] = await page.evaluate("window.seen")
    return seen


async def main() -> None:
    """The three figures, with the machine that they were taken on."""
    print(f"Web app: {describe_machine()}")
    with tempfile.TemporaryDirectory() as place:
        app = WebApp(Path(place) / "data", free_port(), free_port(), {"ALLOW_PRIVATE_NETWORK": "1"})
        await app.start()
        async with async_playwright() as driver, pages.serve({"/bench": PAGE}) as site:
            browser = await driver.chromium.launch(
                executable_path=str(find_chromium()), args=["--no-sandbox"]
            )
            first = await _first_screens(browser, app.url)
            print(f"  first screen  {min(first):.2f} / {statistics.median(first):.2f} / {max(first):.2f} s")
            size = ViewportSize(width=1360, height=850)
            # Playwright waits by a script that the policy of the pages forbids.
            context = await browser.new_context(base_url=app.url, viewport=size, bypass_csp=True)
            await context.add_init_script(COUNT)
            page = await context.new_page()
            await _sign_up(page)
            await _open_run(page, app, site.url("/bench?moving"))
            rates = [await _pictures_a_second(page) for _ in range(ROUNDS)]
            print(
                f"  live view     {min(rates):.1f} / {statistics.median(rates):.1f} / {max(rates):.1f} pictures a second"
            )
            await _open_run(page, app, site.url("/bench"))
            seen = await _presses(page)
            p95 = statistics.quantiles(seen, n=20)[-1]
            print(
                f"  press to picture  p50 {statistics.median(seen):.0f} ms, p95 {p95:.0f} ms, {len(seen)} presses"
            )
            await browser.close()
        await app.stop()


if __name__ == "__main__":
    asyncio.run(main())
