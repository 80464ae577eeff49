"""What administrators see in the web app, and that others do not."""

import pytest
from playwright.async_api import expect

from tests import make
from tests.web import ADMIN, Come, Visitor
from tests.workers import look

pytestmark = pytest.mark.timeout(120)

SCREENS = ("/admin", "/admin/users", "/admin/runs")


async def test_an_administrator_sees_the_system_disables_somebody_and_lets_them_in_again(
    visitor: Come, ada: Visitor
) -> None:
    await make.run(ada.client, definition={"title": "Private matters", "steps": [{"type": "close"}]})
    root = await visitor("admin")
    await root.enter("login", ADMIN)
    page = root.page
    await root.visit("/")
    await page.get_by_role("link", name="Admin").click()
    await expect(page.get_by_role("heading", name="Runs by status")).to_be_visible()
    await expect(page.get_by_text("Not working")).to_have_count(0)
    await root.picture("overview")
    await root.visit("/admin/runs")
    await expect(page.get_by_text("Private matters")).to_have_count(0)
    await root.picture("runs")
    await page.get_by_role("link", name="Users", exact=True).click()
    await page.get_by_label("Name, email or id").fill(ada.email)
    await page.get_by_role("link", name=ada.email).click()
    await root.picture("user")
    await root.button("Disable").click()
    await root.dialog.get_by_role("button", name="Disable").click()
    await expect(page.get_by_text("Disabled", exact=True)).to_be_visible()
    assert (await ada.client.get("/api/runs")).status_code == 403
    await root.button("Enable").click()
    await expect(root.button("Disable")).to_be_visible()
    async for _ in look(5):  # tokens of the second in which sign-ins were ended count as older
        await ada.enter("login")
        if (await ada.client.get("/api/runs")).status_code == 200:
            break


async def test_others_are_not_offered_the_admin_screens_and_find_nothing_there(ada: Visitor) -> None:
    page = ada.page
    for path in SCREENS:
        await ada.visit(path)
        await expect(page.get_by_role("heading", level=1)).to_have_text("There is nothing here")
        await expect(page.get_by_role("link", name="Go home")).to_be_visible()
    await expect(page.get_by_role("navigation", name="Main").get_by_role("link", name="Admin")).to_have_count(
        0
    )
    await page.keyboard.press("Control+k")
    await page.keyboard.type("admin")
    await expect(page.get_by_text("Nothing by that name.")).to_be_visible()
