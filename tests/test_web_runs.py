"""Runs in the web app: stated, answered, told more, approved with changes, denied, and the sample."""

import asyncio
import re
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import expect

from tests import make, pages
from tests.web import RUN, WORKFLOW, Visitor

pytestmark = pytest.mark.timeout(120)

GREETING = """<!doctype html><title>Greeting</title><label>Name <input oninput="said.textContent = 'Hello ' + value"></label>
<p id=said>Nobody</p><button onclick="said.textContent = 'Sent'">Send</button>"""


class Shy:
    """A page that comes once it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        await self.may.wait()
        page = b"<title>Shop</title><p>Total 12 euros<p>Delivery on Monday"
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n" + page)
        await writer.drain()


@pytest.fixture
async def shy() -> Shy:
    return Shy()


@pytest.fixture
async def place(shy: Shy) -> AsyncIterator[pages.Site]:
    async with pages.serve({"/greeting": GREETING, "/shy": shy}) as site:
        yield site


async def start(ada: Visitor, *lines: str, ask: str | None = None) -> None:
    """State a task for the demo model on the home screen."""
    page = ada.page
    await ada.visit("/")
    await page.get_by_role("textbox", name="Task").fill("\n".join(lines))
    if ask:
        await page.get_by_label("Ask me").select_option(ask)
    await ada.button("Model and domains").click()
    await page.get_by_role("textbox", name="Model").fill("demo")
    await ada.button("Start").click()
    await page.wait_for_url(RUN)


async def test_a_task_asks_and_is_answered_is_told_more_while_it_runs_and_gives_its_result(
    ada: Visitor, place: pages.Site, shy: Shy
) -> None:
    await start(ada, 'ask "Which colour?"', f"open {place.url('/shy')}", 'read "Total"')
    page = ada.page
    await page.get_by_role("tab", name="Chat").click()
    messages = page.get_by_role("list", name="Messages")
    await page.get_by_label("Your answer").fill("Blue")
    await page.get_by_label("Your answer").press("Enter")
    await expect(page.get_by_label("Tell it something")).to_be_visible()
    await page.get_by_label("Tell it something").fill('read "Delivery"')
    await ada.button("Send").click()
    await expect(messages.get_by_text("not heard yet")).to_be_visible()
    shy.may.set()
    await expect(messages.get_by_text("not heard yet")).to_be_hidden()
    await expect(messages.get_by_text('read "Delivery"', exact=True)).to_have_count(1)
    await expect(page.get_by_text("Succeeded").first).to_be_visible()
    await page.get_by_role("tab", name="Result").click()
    result = page.get_by_role("tabpanel")
    for words in ("Blue", "Total 12 euros", "Delivery on Monday"):
        await expect(result.get_by_text(words, exact=True)).to_be_visible()


async def test_an_approval_is_given_with_changed_arguments_and_another_is_denied(
    ada: Visitor, place: pages.Site
) -> None:
    lines = [f"open {place.url('/greeting')}", 'type "tea" into "Name"', 'read "Hello"', 'click "Send"']
    await start(ada, *lines, ask="always")
    page = ada.page

    def asked(verb: str) -> re.Pattern[str]:
        return re.compile(f"^Approval: {verb}")

    opening = page.get_by_role("form", name=asked("Open"))
    await opening.get_by_role("button", name="Approve", exact=True).click()
    filling = page.get_by_role("form", name=asked("Fill in"))
    await filling.get_by_label("value").fill("Sencha")
    await filling.get_by_role("button", name="Approve with changes").click()
    clicking = page.get_by_role("form", name=asked("Click"))
    await clicking.get_by_label("Note (optional)").fill("Not today")
    await clicking.get_by_role("button", name="Deny").click()
    await expect(page.get_by_text("Failed").first).to_be_visible()

    timeline = page.get_by_role("tabpanel", name="Timeline")
    await timeline.get_by_role("button", name=re.compile("Fill in.*Succeeded$")).click()
    await expect(timeline.get_by_text("Approved with changes")).to_be_visible()
    await expect(timeline.get_by_text('"value": "Sencha"')).to_be_visible()
    await timeline.get_by_role("button", name=re.compile("Click.*approval_denied.*Failed$")).click()
    await expect(timeline.get_by_text("Denied: Not today", exact=True).first).to_be_visible()


async def test_the_first_click_of_a_new_account_shows_the_sample_at_work(ada: Visitor) -> None:
    page = ada.page
    await ada.visit("/")
    await ada.button("Try the sample").click()
    await page.wait_for_url(RUN)
    await expect(page.get_by_role("heading", level=1)).to_have_text("Buy tea in the sample shop")
    await expect(page.get_by_text("Succeeded").first).to_be_visible()
    await expect(page.get_by_role("tabpanel").get_by_role("button", name=re.compile("^11"))).to_be_visible()
    await page.get_by_role("tab", name="Result").click()
    await expect(page.get_by_text("Thank you, Ada Lovelace")).to_be_visible()
    await page.get_by_role("link", name="Its workflow").click()
    await page.wait_for_url(WORKFLOW)


async def test_whoever_leaves_the_screen_gives_back_their_own_control(ada: Visitor) -> None:
    computer = await make.computer(ada.client)
    path = f"/computers/{computer['id']}"

    async def standing() -> tuple[str, int]:
        now = (await ada.client.get(f"/api{path}")).json()["data"]
        return now["control_state"], now["control_generation"]

    page = ada.page
    await ada.visit(path)
    screen = page.get_by_role("img", name="The browser's screen")
    await expect(ada.button("Take control")).to_be_visible()
    before = await screen.bounding_box()
    await ada.button("Take control").click()
    await expect(ada.button("Hand back")).to_be_visible()
    assert await screen.bounding_box() == before
    for keys in ("?", "Control+k"):  # they are for the browser that is steered
        await page.keyboard.press(keys)
    await expect(page.get_by_role("dialog")).to_have_count(0)

    other = await page.context.new_page()
    await other.goto(path)
    await other.get_by_role("button", name="Take over here").click()
    await expect(other.get_by_role("button", name="Hand back")).to_be_visible()
    await expect(ada.button("Take over here")).to_be_visible()
    await page.get_by_role("link", name="Runs").click()
    await page.wait_for_url("**/runs")
    state, generation = await standing()
    assert (state, generation) == ("granted", 2)
    of_ours = f"**/control?generation={generation}"
    async with other.expect_response(of_ours) as left:
        await other.get_by_role("link", name="Runs").click()
    assert (await left.value).ok
    assert (await standing())[0] == "released"
