"""The web app without a mouse: its shortcuts and palette, and a run from sign-in to a yes by keys alone."""

import re

import pytest
from playwright.async_api import Page, expect

from tests import make
from tests.pages import Site
from tests.web import PASSWORD, RUN, Come, Visitor

pytestmark = pytest.mark.timeout(120)

FOCUSED = "document.activeElement.innerText || document.activeElement.ariaLabel || document.activeElement.labels?.[0]?.innerText"


async def tab_to(page: Page, name: str) -> list[str]:
    """Press Tab until something of this name has the focus; gives the names that had it on the way."""
    passed: list[str] = []
    for _ in range(60):
        await page.keyboard.press("Tab")
        now = str(await page.evaluate(FOCUSED)).strip()
        if re.fullmatch(name, now, re.DOTALL):
            return passed
        passed.append(now)
    raise AssertionError(f"no {name!r} among {passed}")


@pytest.mark.parametrize("keys", ["Control+k", "Meta+k"])
async def test_the_palette_opens_by_keys_and_goes_where_its_words_say(keys: str, ada: Visitor) -> None:
    page = ada.page
    made = await make.workflow(ada.client, name="Order the tea")
    await ada.visit("/")
    await page.keyboard.press(keys)
    await expect(page.get_by_role("option", name="Start a task")).to_be_visible()
    await page.keyboard.type("usa")
    await expect(page.get_by_role("option")).to_have_text(["Usage"])
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile("/usage$"))
    await page.keyboard.press(keys)
    await page.keyboard.type("order tea")
    await expect(page.get_by_role("option", name="Order the tea")).to_be_visible()
    await page.keyboard.press("Enter")
    await expect(page).to_have_url(re.compile(f"/workflows/{made['id']}$"))


async def test_shortcuts_lead_to_screens_but_not_while_somebody_writes(ada: Visitor) -> None:
    page = ada.page
    await make.workflow(ada.client)
    await ada.visit("/")
    await page.keyboard.press("?")
    await expect(page.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    await page.keyboard.press("Escape")
    await expect(ada.dialog).to_have_count(0)
    for key, path in {"w": "workflows", "r": "runs", "u": "usage", "f": "files"}.items():
        await page.keyboard.press("g")
        await page.keyboard.press(key)
        await expect(page).to_have_url(re.compile(f"/{path}$"))
    search = page.get_by_label("Search by name")
    await search.click()
    await page.keyboard.type("gr?c")
    await expect(search).to_have_value("gr?c")
    await expect(ada.dialog).to_have_count(0)
    await expect(page).to_have_url(re.compile("/files$"))
    await search.blur()
    await page.keyboard.press("c")
    await expect(page.get_by_role("dialog", name="Start a task")).to_be_visible()


async def test_by_keys_alone_somebody_signs_in_starts_a_run_and_says_yes(
    visitor: Come, ada: Visitor, site: Site
) -> None:
    await make.workflow(ada.client)  # so that the home screen is not that of a new account
    away = await visitor()
    page = away.page
    await page.goto("/sign-in")
    await expect(page.get_by_label("Email")).to_be_focused()
    await page.keyboard.type(ada.email)
    await page.keyboard.press("Tab")
    await page.keyboard.type(PASSWORD)
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Home")

    assert (await tab_to(page, "Start a task"))[:3] == ["Skip to content", "CUA", "Home"]
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("textbox", name="Task")).to_be_focused()
    await page.keyboard.type(f'open {site.url("/second")}\napprove "Go on"')
    await tab_to(page, "Model and domains")
    await page.keyboard.press("Space")
    await tab_to(page, "Model")
    await page.keyboard.type("demo")
    await tab_to(page, "Start")
    await page.keyboard.press("Enter")
    await page.wait_for_url(RUN)
    await expect(page.get_by_role("form", name="Approval: Go on")).to_be_visible()
    assert "Deny" not in await tab_to(page, "Approve")
    await page.keyboard.press("Space")
    await expect(page.get_by_text("Succeeded").first).to_be_visible()


async def test_a_dialog_keeps_the_focus_and_gives_it_back(ada: Visitor) -> None:
    page = ada.page
    await ada.visit("/profiles")
    opener = ada.button("New profile").first
    await opener.focus()
    await page.keyboard.press("Enter")
    await expect(ada.dialog.get_by_label("Name")).to_be_focused()
    for key in ["Tab"] * 6 + ["Shift+Tab"] * 8:
        await page.keyboard.press(key)
        assert await ada.dialog.evaluate("dialog => dialog.contains(document.activeElement)")
    await page.keyboard.press("Escape")
    await expect(ada.dialog).to_have_count(0)
    await expect(opener).to_be_focused()


async def test_who_wants_less_motion_sees_nothing_move(visitor: Come) -> None:
    moves = """document.getAnimations().concat([...document.querySelectorAll('*')].map(getComputedStyle))
      .map(it => parseFloat(it.transitionDuration ?? it.effect.getComputedTiming().duration / 1000))
      .filter(seconds => seconds > 0.001).length"""
    for wish, moving in (("reduce", False), ("no-preference", True)):
        ada = await visitor(reduced_motion=wish)
        await ada.enter()
        await ada.visit("/")
        assert (await ada.page.evaluate(moves) > 0) is moving
