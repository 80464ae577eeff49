"""A run in a worker process, steered by people at two web processes that only Redis joins to it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import pytest

from tests import make
from tests.conftest import Backend, free_port
from tests.pages import Site
from tests.test_api import assert_problem
from tests.test_bus import redis_server
from tests.test_control import (
    READ,
    SHOW,
    Hand,
    act,
    each_event_shows_its_frame,
    kinds_of,
    steer,
    text_is,
    typed,
)
from tests.test_main_job import until, until_steps
from tests.test_sockets import Viewer, signed_in
from tests.test_start import KEYS, database_url, migrate  # noqa: F401 - a fixture
from tests.workers import other_worker

Two = tuple[Backend, Backend]


@pytest.fixture
async def two(data_dir: Path, temporary: Path, database_url: str) -> AsyncIterator[Two]:  # noqa: F811
    """Two web processes, and one worker apart."""
    await migrate(database_url)
    shared = {"DATABASE_URL": database_url, "REDIS_URL": f"unix://{temporary}/redis", "SECRET_KEYS": KEYS}
    shared |= {"DATA_DIR": str(data_dir), "PUBLIC_URL": f"http://127.0.0.1:{free_port()}", "RECORDING": "on"}
    webs = [Backend(data_dir / name, free_port(), shared) for name in ("one", "two")]
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(redis_server(temporary))
        for web in webs:
            await web.start()
            stack.push_async_callback(web.stop)
        await stack.enter_async_context(other_worker(None, **shared))
        yield webs[0], webs[1]


def at(backend: Backend, client: httpx.AsyncClient) -> httpx.AsyncClient:
    """The same person at another process."""
    headers = {"Authorization": client.headers["Authorization"]}
    return httpx.AsyncClient(base_url=backend.url, timeout=30, headers=headers)


async def test_a_run_in_a_worker_is_taken_steered_and_given_back_at_another_process(
    two: Two, site: Site
) -> None:
    here, there = two
    async with here.sign_up() as one, here.sign_up() as stranger, at(there, one) as other:
        steps = [{"type": "navigate", "url": site.url("/")}, typed("!"), typed("?"), SHOW, READ]
        run = await make.run(one, definition={"title": "Type", "steps": steps})
        await until_steps(one, run["id"], 2)
        computer_id = (await until(one, run["id"], "running"))["computer_id"]
        control = f"/api/computers/{computer_id}/control"

        async with signed_in(there, one) as socket:
            viewer = Viewer(socket)
            await socket.send(type="watch", id="w", computer_id=computer_id)
            await viewer.expect("watching", id="w")
            await viewer.until_frames(1)

        async with signed_in(here, one) as first, signed_in(there, one) as second:
            hand = await steer(second, other, run, "by hand")
            assert (await until(one, run["id"], "paused"))["reason"] == "control"
            elsewhere = Hand(first, computer_id)
            for generation in (hand.generation - 1, hand.generation + 1):
                assert await elsewhere.refused(generation) == "stale_control"
            assert_problem(await stranger.post(control), 404, "not_found")
            await hand.input(type="text", text="!")
            await text_is(other, computer_id, "by hand!")
            assert (await hand.ask("release"))["state"] == "released"
            assert await hand.refused(hand.generation) == "stale_control"
            await until_steps(one, run["id"], 3)
            await until(one, run["id"], "running")

            refused = await other.post(f"/api/computers/{computer_id}/actions", json={"action": "reload"})
            assert_problem(refused, 409, "computer_busy")
            taken = await other.post(control)
            assert taken.status_code == 200, taken.text
            await until(one, run["id"], "paused")
            stale = {"generation": hand.generation}
            late = {"action": "type", "text": "STALE"}
            reply = await other.post(f"/api/computers/{computer_id}/actions", json=late, params=stale)
            assert_problem(reply, 409, "stale_control")
            assert_problem(await other.delete(control, params=stale), 409, "stale_control")
            await act(other, computer_id, action="type", text="?")
            current = {"generation": taken.json()["data"]["generation"]}
            assert (await one.delete(control, params=current)).json()["data"]["state"] == "released"

        ended = await until(one, run["id"], "succeeded", "failed")
        assert ended["status"] == "succeeded", ended["error"]
        assert ended["result"]["outputs"]["page"]["seen"] == "by hand!?"
        told = await kinds_of(one, run["id"])
        assert (told.count("run.paused"), told.count("run.resumed")) == (2, 2)
        assert (told.count("control.taken"), told.count("control.released")) == (2, 2)
        await each_event_shows_its_frame(other, run["id"])
