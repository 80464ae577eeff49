"""What the agent's loop adds to a step, the model's own time left out, beside the bare action with a picture."""

import statistics
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from uuid import UUID, uuid4

import orjson
import uvloop

import db
from benchmarks.measure import describe_machine
from infra import postgres
from infra.bus import LocalBus
from infra.storage import open_directory
from infra.vault import load_vault
from models import Turn, uuid7
from runs import computers, engine
from schemas import RunCreate
from settings import settings
from tests import pages
from tests.workers import act, ended, open_computer

ROUNDS, STEPS = 5, 30
KINDS = {
    "a look (screenshot)": ("say 'Look'", {"action": "screenshot"}),
    "a key": ("press a", {"action": "key", "keys": "a"}),
    "a field (found before)": ("type tea into Name", {"action": "form_input", "value": "tea"}),
}


async def _bare(user: str, url: str, action: dict[str, object]) -> list[float]:
    """Seconds of each action followed by a picture, without a run."""
    computer_id, taken = await open_computer(user), []
    await act(user, computer_id, action="navigate", url=url)
    if action["action"] == "form_input":
        action = action | {"target": {"selector": "#name"}}
    for _ in range(STEPS):
        began = time.perf_counter()
        await act(user, computer_id, **action)
        await act(user, computer_id, action="screenshot")
        taken.append(time.perf_counter() - began)
    await computers.close(user, computer_id)
    return taken


async def _agent(user: str, url: str, line: str) -> list[float]:
    """Seconds from reply to reply of an agent, without those that the model took."""
    task = "\n".join([f"open {url}", *[line] * STEPS, "finish Done"])
    async with db.as_user(user, "user") as tx:
        body = RunCreate(task=task, model="demo", approval="never", max_steps=1000)
        reply = await engine.enqueue(tx, body)
    run_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    run = await ended(user, run_id, 300)
    assert run.status == "succeeded", run.error
    async with db.as_user(user) as tx:
        turns = await tx.find(Turn, run_id=run_id)
    return [
        (after.created_at - before.created_at).total_seconds() - after.duration_ms / 1000
        for before, after in pairwise(turns[1:])
    ]


async def _compare(name: str, url: str, line: str, action: dict[str, object]) -> None:
    ratios, steps = [], []
    for _ in range(ROUNDS):
        user = f"user_{uuid4().hex}"
        await db.ensure_user(user)
        bare, ours = await _bare(user, url, action), await _agent(user, url, line)
        steps += ours
        ratios.append(statistics.median(ours) / statistics.median(bare))
    p50, p95 = statistics.median(steps), statistics.quantiles(steps, n=20)[-1]
    print(
        f"  {name:<24} p50 {p50 * 1e3:4.0f} ms, p95 {p95 * 1e3:4.0f} ms, {len(steps)} steps; to the bare action "
        f"and a picture {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
    )


async def main() -> None:
    """Steps of the demo model, whose time is not counted, and the same actions without an agent."""
    print(f"Agent: {describe_machine()}")
    settings.__dict__["allow_private_network"] = True
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        data.chmod(0o711)
        server = await postgres.start(data)
        bus = LocalBus()
        await bus.start()
        await db.migrate(server.dsn)
        vault = load_vault(data, ())
        await db.open_database(server.dsn, publish=bus.publish, vault=vault)
        await computers.start(worker_id := uuid7(), bus, await open_directory(data / "files"))
        await engine.start(worker_id, bus, vault)
        try:
            async with pages.serve() as site:
                for name, (line, action) in KINDS.items():
                    await _compare(name, site.url("/"), line, dict(action))
        finally:
            await engine.stop()
            await computers.stop()
            await db.close_database()
            await bus.close()
            await postgres.stop(server)


if __name__ == "__main__":
    uvloop.run(main())
