"""The web app when something is not there: the network, the server, a sign-in, what a link leads to."""

import re
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Browser, Page, expect

from tests import make
from tests.conftest import Backend
from tests.web import PASSWORD, Come, Visitor, pages_before, visitors
from tests.workers import look

pytestmark = pytest.mark.timeout(120)

WAITS = {"title": "Meanwhile", "steps": [{"type": "pause", "title": "Look at it"}, {"type": "close"}]}


async def rows(page: Page, tab: str, label: str) -> int:
    """How many there are in a list below a tab of a run."""
    await page.get_by_role("tab", name=tab).click()
    return await page.get_by_role("list", name=re.compile(label)).get_by_role("listitem").count()


async def waiting(ada: Visitor) -> dict[str, Any]:
    """A run that waits for its user, who looks at it and would lose a mark if the page were loaded again."""
    run = await make.run(ada.client, definition=WAITS)
    await ada.visit(f"/runs/{run['id']}")
    await expect(ada.page.get_by_role("heading", name="Look at it")).to_be_visible()
    await ada.page.get_by_role("tab", name="Events").click()
    await expect(ada.page.get_by_text("run.waiting").first).to_be_visible()
    await ada.page.evaluate("window.mark = true")
    return run


async def ended_without_a_gap_or_a_double(ada: Visitor, run: dict[str, Any]) -> None:
    """The page has heard all that has happened, each once, without being loaded again."""
    await expect(ada.page.get_by_text("Succeeded").first).to_be_visible()
    await expect(ada.page.get_by_text("run.succeeded")).to_have_count(1)
    async for _ in look(10):  # the last of the recording comes a moment later
        shown = await rows(ada.page, "Events", "^Events")
        reply = await ada.client.get(f"/api/runs/{run['id']}/events", params={"limit": 100})
        if shown == len(reply.json()["data"]):
            break
    assert await rows(ada.page, "Timeline", "^Steps") == len(WAITS["steps"])
    assert await ada.page.evaluate("window.mark") is True


async def test_what_happens_while_one_is_offline_appears_once_one_is_back(ada: Visitor) -> None:
    run = await waiting(ada)
    await ada.page.context.set_offline(True)
    await expect(ada.page.get_by_text("You are offline.")).to_be_visible()
    assert (await ada.client.post(f"/api/runs/{run['id']}/resume")).is_success
    await ada.page.context.set_offline(False)
    await expect(ada.page.get_by_text("You are offline.")).to_be_hidden()
    await ended_without_a_gap_or_a_double(ada, run)


async def test_a_server_that_starts_again_is_noticed_and_nothing_of_the_run_is_missing(
    own_server: Backend, browser: Browser
) -> None:
    async with pages_before(own_server.url) as url, visitors(url, browser) as come:
        ada = await come()
        await ada.enter()
        run = await waiting(ada)
        await own_server.kill()
        await expect(ada.page.get_by_text("Connecting again.")).to_be_visible()
        await own_server.start()
        assert (await ada.client.post(f"/api/runs/{run['id']}/resume")).is_success
        await expect(ada.page.get_by_text("Connecting again.")).to_be_hidden()
        await ended_without_a_gap_or_a_double(ada, run)


async def test_a_link_that_is_followed_signed_out_is_where_sign_in_leads(visitor: Come, ada: Visitor) -> None:
    run = await make.run(ada.client, definition={"title": "Linked", "steps": [{"type": "close"}]})
    away = await visitor()
    await away.page.goto(f"/runs/{run['id']}?step=1")
    await away.page.get_by_label("Email").fill(ada.email)
    await away.page.get_by_label("Password").fill(PASSWORD)
    await away.button("Sign in").click()
    await expect(away.page).to_have_url(re.compile(rf"/runs/{run['id']}\?step=1$"))
    await expect(away.page.get_by_role("heading", level=1)).to_have_text("Linked")


async def test_a_link_to_another_site_is_not_where_sign_in_leads(visitor: Come, ada: Visitor) -> None:
    away = await visitor()
    await away.page.goto("/sign-in?next=//example.com/")
    await away.page.get_by_label("Email").fill(ada.email)
    await away.page.get_by_label("Password").fill(PASSWORD)
    await away.button("Sign in").click()
    await expect(away.page).to_have_url(f"{ada.client.base_url}/")


async def test_a_sign_in_that_was_ended_elsewhere_says_so_and_leads_to_sign_in(
    visitor: Come, ada: Visitor
) -> None:
    await ada.visit("/schedules")
    other = await visitor()
    await other.enter("login", ada.email)
    await other.visit("/settings/sessions")
    await other.button("End all others").click()
    await other.dialog.get_by_role("button", name="End").click()
    await expect(ada.page).to_have_url(re.compile(r"/sign-in\?next=%2Fschedules$"))
    await expect(ada.page.get_by_text("Your sign-in has ended.")).to_be_visible()
    await expect(other.page.get_by_text("This device")).to_be_visible()


async def test_a_link_to_what_is_not_there_says_so_kindly(ada: Visitor) -> None:
    words = re.compile("It may have been deleted|It has been deleted")
    for place in ("runs", "workflows", "computers", "settings/webhooks"):
        for name in (uuid4(), "what"):
            await ada.visit(f"/{place}/{name}")
            await expect(ada.page.locator("main").get_by_text(words)).to_be_visible()
            await expect(ada.button("Try again")).to_have_count(0)


async def test_an_address_that_is_none_leads_home(ada: Visitor) -> None:
    await ada.page.goto("/nowhere/at/all")
    await expect(ada.page.get_by_role("heading", level=1)).to_have_text("There is nothing here")
    await ada.page.get_by_role("link", name="Go home").click()
    await expect(ada.page.get_by_role("heading", name="Try the sample")).to_be_visible()
