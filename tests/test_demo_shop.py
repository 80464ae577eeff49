"""The demo's recorded flow does what it says in the demo's shop."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from browser.chromium import Browsers, Options
from demo.shop import FLOW, PARAMETERS, Shop
from runs import steps, workflows
from runs.replay import Attempt


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as shop:
        yield shop


def test_the_flow_is_a_recording_that_devtools_opens_and_comes_back_without_loss() -> None:
    recorded = json.loads(FLOW.read_text())
    definition = workflows.import_recorder(FLOW.read_bytes())
    assert len(recorded["steps"]) >= 12
    assert {step["type"] for step in recorded["steps"]} <= set(steps.RECORDER_STEPS)
    assert workflows.problems(definition, PARAMETERS) == []
    assert workflows.export_recorder(definition) == recorded


async def test_the_flow_buys_what_its_params_ask_for(shop: Shop, tmp_path: Path) -> None:
    flow = workflows.parse(workflows.import_recorder(FLOW.read_bytes()), PARAMETERS)
    params = workflows.resolve_params(PARAMETERS, {"shop": shop.url, "quantity": 3, "name": "Grace <Hopper>"})
    outputs: dict[str, Any] = {}
    pictures: dict[str, bytes] = {}

    async def save(name: str, content: bytes, _content_type: str) -> str:
        pictures[name] = content
        return name

    browsers = Browsers()
    await browsers.start()
    try:
        computer = await browsers.open(
            "demo", uuid4(), Options(downloads=tmp_path), lambda _kind, _data: None
        )
        for step in flow.steps:
            attempt = Attempt(computer, flow, step, {"params": params, "outputs": outputs}, save)
            await attempt.find()
            await attempt.act()
            output = await attempt.settle()
            if "name" in step:
                outputs[step["name"]] = output
    finally:
        await browsers.close()

    assert [row["name"] for row in outputs["results"]] == ["Kyusu teapot", "Sencha green tea", "Bamboo whisk"]
    assert outputs["order"] == {
        "thanks": "Thank you, Grace <Hopper>",
        "total": 201.9,
        "lines": [{"product": "Kyusu teapot", "quantity": 3, "price": 64, "sum": 192}],
    }
    assert all(pictures[name].startswith(b"\x89PNG") for name in ("cart.png", "confirmation.png"))
    for name, picture in pictures.items():
        (tmp_path / name).write_bytes(picture)
