"""What the agent's loop adds to a step, the model's own time left out, beside the bare action with a picture."""

import statistics
import time
from itertools import pairwise
from uuid import uuid4

import uvloop

import db
from benchmarks.measure import describe_machine
from benchmarks.worker import working
from models import Turn
from runs import computers
from tests import pages
from tests.workers import act, ended, open_computer, start_task

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
    run_id = await start_task(user, task, approval="never", max_steps=1000)
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
    async with working(), pages.serve() as site:
        for name, (line, action) in KINDS.items():
            await _compare(name, site.url("/"), line, dict(action))


if __name__ == "__main__":
    uvloop.run(main())
