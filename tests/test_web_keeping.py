"""What people keep in the web app: files, profiles, secrets, API keys, and webhooks."""

import os
import re
from pathlib import Path

import httpx
import pytest
from playwright.async_api import expect

from tests import make
from tests.pages import Site
from tests.receivers import receiver, status
from tests.web import RUN, Visitor

pytestmark = pytest.mark.timeout(120)

LARGE = 6 * 1024 * 1024


async def test_a_large_file_is_uploaded_downloaded_as_it_was_and_deleted(
    ada: Visitor, tmp_path: Path
) -> None:
    page = ada.page
    content = os.urandom(LARGE)
    (tmp_path / "large.bin").write_bytes(content)
    await ada.visit("/files")
    await page.get_by_label("Files to upload").set_input_files(tmp_path / "large.bin")
    await expect(page.get_by_role("region", name="Uploads").get_by_text("Stored")).to_be_visible()
    async with page.expect_download() as downloading:
        await ada.button("Download large.bin").click()
    got = await (await downloading.value).path()
    assert got.read_bytes() == content
    await ada.choose("More for large.bin", "Delete")
    await ada.dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No files yet")).to_be_visible()
    assert (await ada.client.get("/api/files")).json()["data"] == []


async def test_a_profile_is_made_begins_a_run_and_is_deleted(ada: Visitor, site: Site) -> None:
    page = ada.page
    flow = {"title": "Store", "steps": [{"type": "navigate", "url": site.url("/store")}]}
    made = await make.workflow(ada.client, name="Store", definition=flow)
    await ada.visit("/profiles")
    await ada.button("New profile").first.click()
    await ada.dialog.get_by_label("Name").fill("Ann at the shop")
    await ada.dialog.get_by_role("button", name="Make it").click()
    await expect(page.get_by_text("Empty. Sign in by hand")).to_be_visible()

    await ada.visit(f"/workflows/{made['id']}")
    await ada.button("Run").click()
    await ada.dialog.get_by_text("Profile and domains").click()
    await ada.dialog.get_by_label("Profile", exact=True).select_option("Ann at the shop")
    await ada.dialog.get_by_label("Save the profile again when the run ends well").check()
    await ada.dialog.get_by_role("button", name="Run", exact=True).click()
    await page.wait_for_url(RUN)
    await expect(page.get_by_text("Succeeded").first).to_be_visible()
    await ada.visit("/profiles")
    await expect(page.get_by_text(re.compile("127.0.0.1 · 1 cookie · saved"))).to_be_visible()

    await ada.choose("More for Ann at the shop", "Delete")
    await ada.dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No profiles yet")).to_be_visible()


async def test_a_secret_is_made_filled_in_by_a_run_that_never_shows_it_and_deleted(
    ada: Visitor, site: Site
) -> None:
    page = ada.page
    await ada.visit("/secrets")
    await ada.button("New secret").first.click()
    await ada.dialog.get_by_label("Name", exact=True).fill("shop")
    await ada.dialog.get_by_label("Kind").select_option("Text")
    await ada.dialog.get_by_label("Text", exact=True).fill("open sesame")
    await ada.dialog.get_by_role("textbox", name="Origin 1").fill(site.url("/login?next=1"))
    await ada.dialog.get_by_role("button", name="Save").click()
    await expect(page.get_by_text("never used")).to_be_visible()

    steps = [
        {"type": "navigate", "url": site.url("/login")},
        {"type": "change", "selectors": ["[name=password]"], "value": "{{ secrets.shop.text }}"},
        {"type": "waitForExpression", "expression": "document.title = document.forms[0].password.value"},
        {"type": "extract", "name": "page", "fields": {"title": {"selectors": ["title"]}}},
    ]
    run = await make.run(ada.client, definition={"title": "Sign in", "steps": steps})
    await ada.visit(f"/runs/{run['id']}")
    await expect(page.get_by_text("Succeeded").first).to_be_visible()
    await ada.button(re.compile("Fill in")).click()
    await page.get_by_role("tab", name="Result").click()
    await expect(page.get_by_text("{{ secrets.shop.text }}")).to_be_visible()
    await expect(page.get_by_text("open sesame")).to_have_count(0)
    await ada.visit("/secrets")
    await expect(page.get_by_text(re.compile("· used"))).to_be_visible()
    await ada.choose("More for shop", "Delete")
    await ada.dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No secrets yet")).to_be_visible()


async def test_an_api_key_is_shown_once_works_and_is_refused_when_deleted(ada: Visitor) -> None:
    page = ada.page
    await ada.visit("/settings/keys")
    await ada.button("New key").first.click()
    await ada.dialog.get_by_label("Name").fill("Nightly bot")
    await ada.dialog.get_by_role("button", name="Make the key").click()
    key = await ada.dialog.locator("code").inner_text()
    await ada.button("I have kept it").click()
    await expect(page.get_by_text(key, exact=True)).to_have_count(0)

    async def runs() -> int:
        headers = {"Authorization": f"Bearer {key}"}
        async with httpx.AsyncClient(base_url=ada.client.base_url, headers=headers) as bot:
            return (await bot.get("/api/runs")).status_code

    assert await runs() == 200
    await ada.visit("/settings/keys")
    await expect(page.get_by_text(key, exact=True)).to_have_count(0)
    await expect(page.get_by_text(re.compile("used just now|used .* ago"))).to_be_visible()
    await ada.choose("More for Nightly bot", "Delete")
    await ada.dialog.get_by_role("button", name="Delete").click()
    await expect(page.get_by_text("No keys yet")).to_be_visible()
    assert await runs() == 401


async def test_a_webhook_is_told_a_test_which_is_listed_and_sent_again(ada: Visitor) -> None:
    page = ada.page
    async with receiver(status(200)) as server:
        await ada.visit("/settings/webhooks")
        await ada.button("New webhook").first.click()
        await ada.dialog.get_by_label("Name").fill("Ops channel")
        await ada.dialog.get_by_label("Address").fill(server.url)
        await ada.dialog.get_by_role("button", name="Make the webhook").click()
        await expect(ada.dialog.locator("code")).to_have_text(re.compile("^whsec_"))
        await ada.button("I have kept it").click()
        await page.get_by_role("link", name="Ops channel").click()
        await ada.button("Send a test").click()
        [first] = await server.until(1)
        row = page.get_by_role("list", name="Deliveries").get_by_role("listitem")
        await expect(row).to_have_count(1)
        await expect(row.get_by_text("Succeeded")).to_be_visible()
        await row.get_by_role("button", name=re.compile("again$")).click()
        _, second = await server.until(2)
        assert (second.id, second.body) == (first.id, first.body)
        await expect(row.get_by_text("2 tries")).to_be_visible()
        await expect(row.get_by_text("Succeeded")).to_be_visible()
