"""Workflows in the web app: written, saved, compared, restored and run by the clock, and what runs came to."""

import asyncio
import json
import re

import pytest
from playwright.async_api import Route, expect

from tests import make
from tests.pages import Site
from tests.web import RUN, Visitor

pytestmark = pytest.mark.timeout(120)


def read(url: str) -> dict[str, object]:
    """A definition that tells the title of a page."""
    extract = {"type": "extract", "name": "page", "fields": {"title": {"selectors": ["title"]}}}
    return {"title": "Read", "steps": [{"type": "navigate", "url": url}, extract]}


async def test_a_bad_step_is_shown_where_it_is_and_the_form_and_the_json_hold_the_same(
    ada: Visitor, site: Site
) -> None:
    page = ada.page
    made = await make.workflow(ada.client, name="Read", definition=read(site.url("/second")))
    await ada.visit(f"/workflows/{made['id']}")
    opening = page.get_by_role("list", name="Steps").get_by_role("button", name=re.compile("Open an address"))
    await opening.click()
    await page.get_by_label("Address").fill("nowhere at all")
    await expect(opening).to_have_accessible_name(re.compile("1 problem$"))
    await expect(page.get_by_label("Address")).to_have_attribute("aria-invalid", "true")

    await ada.button("JSON").click()
    text = page.get_by_label("The definition as JSON")
    assert json.loads(await text.input_value())["steps"][0]["url"] == "nowhere at all"
    await expect(ada.button(re.compile("^Line 6"))).to_be_visible()
    mended = read(site.url("/static"))
    await text.fill(json.dumps(mended))
    await expect(ada.button(re.compile("^Line"))).to_have_count(0)
    await ada.button("Form").click()
    await expect(page.get_by_label("Address")).to_have_value(site.url("/static"))
    await expect(opening).to_have_accessible_name(re.compile("static$"))


async def test_a_save_makes_a_version_whose_change_is_shown_and_an_old_one_comes_back_and_runs(
    ada: Visitor, site: Site
) -> None:
    page = ada.page
    made = await make.workflow(ada.client, name="Read", definition=read(site.url("/second")))
    await ada.visit(f"/workflows/{made['id']}")
    await ada.button(re.compile("Open an address")).click()
    await page.get_by_label("Address").fill(site.url("/static"))
    await expect(page.get_by_text("Unsaved changes")).to_be_visible()
    await ada.button("Save").click()
    await expect(page.get_by_text("Version 2 · saved")).to_be_visible()

    await page.get_by_role("tab", name="Versions").click()
    change = page.get_by_role("region", name="Version 2").get_by_role("listitem")
    await expect(change).to_have_count(1)
    await expect(change).to_contain_text("Changed")
    await expect(change.get_by_text(site.url("/second"))).to_be_visible()
    await expect(change.get_by_role("definition").get_by_text(site.url("/static"))).to_be_visible()
    await page.get_by_role("navigation", name="Versions").get_by_role("button", name="Version 1").click()
    await ada.button("Restore").click()
    await ada.dialog.get_by_role("button", name="Restore").click()
    await expect(page.get_by_text("Version 3 · saved")).to_be_visible()
    await ada.button("Run").click()
    await ada.dialog.get_by_role("button", name="Run", exact=True).click()
    await page.wait_for_url(RUN)
    await page.get_by_role("tab", name="Result").click()
    await expect(page.get_by_role("tabpanel").get_by_text("Second", exact=True)).to_be_visible()


async def test_a_switch_that_the_server_refuses_goes_back_and_says_so(ada: Visitor) -> None:
    page = ada.page
    made = await make.schedule(ada.client, name="Every day")
    await page.route_web_socket("**/ws", lambda socket: None)  # so that nobody tells it
    may = asyncio.Event()

    async def hold(route: Route) -> None:
        await may.wait()
        await route.continue_()

    await page.route("**/pause", hold)
    await ada.visit("/schedules")
    switch = page.get_by_role("switch", name="Every day is on")
    await expect(switch).to_be_checked()
    assert (await ada.client.delete(f"/api/schedules/{made['id']}")).is_success
    await switch.click()
    await expect(switch).not_to_be_checked()
    may.set()
    await expect(page.get_by_text("Every day was not paused")).to_be_visible()
    await expect(switch).to_be_checked()


async def test_a_schedule_says_when_it_runs_is_paused_and_run_at_once_and_its_run_is_counted(
    ada: Visitor, site: Site
) -> None:
    page = ada.page
    await make.workflow(ada.client, name="Read", definition=read(site.url("/second")))
    await ada.visit("/schedules")
    await ada.button("New schedule").first.click()
    await ada.dialog.get_by_label("How often").select_option("cron")
    cron = ada.dialog.get_by_label("Cron")
    await cron.fill("61 * * * *")
    await expect(ada.dialog.get_by_text("Not a cron expression: Bad minute")).to_be_visible()
    await ada.dialog.get_by_role("button", name="Make the schedule").click()
    await expect(cron).to_have_attribute("aria-invalid", "true")
    await expect(cron).to_be_focused()
    await cron.fill("30 7 * * 1")
    await ada.dialog.get_by_label("Time zone").select_option("Europe/Vienna")
    await expect(ada.dialog.get_by_text("At 07:30 on Monday", exact=True)).to_be_visible()
    times = ada.dialog.get_by_role("list", name="The next times").get_by_role("listitem")
    await expect(times).to_have_text([re.compile(r"^Mon, .*, 07:30$")] * 5)
    await ada.dialog.get_by_role("button", name="Make the schedule").click()
    switch = page.get_by_role("switch", name="Read is on")
    await switch.click()
    await expect(page.get_by_role("definition").get_by_text("Paused")).to_be_visible()
    await ada.button("Run now: Read").click()
    await page.wait_for_url(RUN)
    await expect(page.get_by_text("Succeeded").first).to_be_visible()

    await ada.visit("/usage")
    await expect(page.get_by_role("definition").nth(0)).to_have_text("1")
    await expect(page.get_by_role("figure", name=re.compile("^1 succeeded, 0 failed"))).to_be_visible()
    await expect(page.get_by_role("figure", name="2 in all.")).to_be_visible()  # steps
    await expect(page.get_by_role("row", name=re.compile("^Read 1 100 %"))).to_be_visible()
