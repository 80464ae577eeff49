"""The demo model buys something while its server is killed twice, a person clicks and says yes."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from demo import shop as demo_shop
from demo.shop import Shop
from tests.conftest import Backend, free_port
from tests.test_control import Hand, act, taken_over
from tests.test_main_job import until
from tests.test_sockets import signed_in
from tests.workers import look

TASK = """
open {shop}/
type "tea" into "Search the shop"
press Enter
click "Sencha green tea"
type "2" into "Quantity"
ask "Two?"
click "Add to cart"
ask "Anything else?"
click "Go to checkout"
type "Ada Lovelace" into "Full name"
ask "Is it a gift?"
choose "Express, tomorrow" in "Shipping"
type "4000 1234 5678 9010" into "Card number"
click "Use this card"
approve "Place the order"
click "Place order"
read "Total"
"""


@pytest.fixture
async def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """What the shop has been told to change."""
    posts: list[tuple[str, dict[str, str]]] = []
    change = demo_shop._change

    def note(path: list[str], form: dict[str, str], visit: Any) -> str | None:
        posts.append(("/".join(path), form))
        return change(path, form, visit)

    monkeypatch.setattr(demo_shop, "_change", note)
    return posts


@pytest.fixture(scope="module")
async def mortal(module_data: Any) -> AsyncIterator[Backend]:
    """A server whose runs are taken over two seconds after its death."""
    backend = Backend(module_data, free_port(), {"ACCESS_TOKEN_SECONDS": "3600", "LEASE_SECONDS": "2"})
    await backend.start()
    yield backend
    await backend.stop()


async def asked(client: httpx.AsyncClient, run: dict[str, Any], question: str) -> dict[str, Any]:
    """The run once it waits for this answer."""
    async for _ in look(30):
        found = await until(client, run["id"], "waiting_user", "failed")
        assert found["error"] is None, found["error"]
        if found["reason"] == question:
            break
    return found


async def say(client: httpx.AsyncClient, run: dict[str, Any], text: str) -> None:
    assert (await client.post(f"/api/runs/{run['id']}/messages", json={"text": text})).status_code == 201


async def test_a_shopping_task_survives_two_deaths_with_one_takeover_and_one_approval_and_doubles_nothing(
    mortal: Backend, told: list[tuple[str, dict[str, str]]]
) -> None:
    async with Shop() as shop, mortal.sign_up() as client:
        task = TASK.format(shop=shop.url)
        body = {"task": task, "model": "demo", "approval": "never"}  # but for the one that the task names
        run = (await client.post("/api/runs", json=body)).json()["data"]
        for question in ("Two?", "Anything else?"):
            run = await asked(client, run, question)
            await mortal.kill()
            await mortal.start()
            await taken_over(client, run, "waiting_user")
            await say(client, run, "Yes")
        run = await asked(client, run, "Is it a gift?")
        async with signed_in(mortal, client) as socket:
            hand = Hand(socket, run["computer_id"])
            assert (await hand.ask("take"))["state"] == "granted"
            await act(client, hand.computer_id, action="click", target={"selector": "#gift"})
            assert (await hand.ask("release"))["state"] == "released"
        await say(client, run, "It is")
        await until(client, run["id"], "waiting_approval")
        (question,) = (await client.get("/api/approvals?status=pending")).json()["data"]
        assert (question["title"], question["url"]) == ("Place the order", f"{shop.url}/checkout")
        await client.post(f"/api/approvals/{question['id']}/decision", json={"decision": "approve"})
        ended = await until(client, run["id"], "succeeded", "failed")
        assert ended["error"] is None, ended["error"]
        assert ended["attempt"] == 3
        assert told == [
            ("cart", {"product": "sencha", "quantity": "2"}),
            ("order", {"name": "Ada Lovelace", "shipping": "express", "gift": "on"}),
        ]
        steps = (await client.get(f"/api/runs/{run['id']}/steps?limit=100")).json()["data"]
        clicks = [step["title"] for step in steps if step["type"] == "left_click"]
        assert len(clicks) == 5
        assert {step["status"] for step in steps} == {"succeeded"}
        result = ended["result"]["outputs"]["result"]
        assert result["Two?"] == result["Anything else?"] == "Yes"
        assert "Total" in result["Total"]

        told.clear()
        made = (await client.post(f"/api/runs/{run['id']}/workflow")).json()["data"]
        assert all(step["type"] != "agent" for step in made["definition"]["steps"])
        again = (await client.post("/api/runs", json={"workflow_id": made["id"]})).json()["data"]
        ended = await until(client, again["id"], "succeeded", "failed")
        assert ended["error"] is None, ended["error"]
        assert told == [
            ("cart", {"product": "sencha", "quantity": "2"}),
            ("order", {"name": "Ada Lovelace", "shipping": "express"}),  # what a person did is not recorded
        ]
