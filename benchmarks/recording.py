"""What recording costs a run beside runs without it: CPU of this process and of Chromium, and bytes."""

import asyncio
import os
import statistics
import time
from pathlib import Path
from typing import NamedTuple
from uuid import UUID, uuid4

import orjson
import uvloop

import db
from benchmarks.measure import describe_machine
from benchmarks.worker import working
from models import Run
from runs import engine, recording
from schemas import RunCreate
from settings import settings
from tests import pages

ROUNDS, SECONDS = 5, 6
TICKS = os.sysconf("SC_CLK_TCK")
WORK = [{"type": "hover", "selectors": ["body"]}] * 20


class Cost(NamedTuple):
    """CPU seconds of this process and of its children, and what was recorded."""

    ours: float
    children: float
    frames: int
    bytes: int


def _children() -> dict[int, int]:
    """Ticks of CPU of each process below this one: the driver, Chromium and PostgreSQL."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        parents[int(path.name)], ticks[int(path.name)] = int(fields[1]), int(fields[11]) + int(fields[12])
    below = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: ticks[pid] for pid in below - {os.getpid()}}


async def _run(url: str) -> Cost:
    user = f"user_{uuid4().hex}"
    await db.ensure_user(user)
    wait = {
        "type": "waitForExpression",
        "expression": f"performance.now() > {SECONDS * 1000}",
        "timeout": 60_000,
    }
    steps = [{"type": "navigate", "url": url}, *WORK, wait]
    ours = time.process_time()
    before = await asyncio.to_thread(_children)
    seen = dict(before)
    async with db.as_user(user, "user") as tx:
        reply = await engine.enqueue(tx, RunCreate(definition={"title": "Cost", "steps": steps}))
    run_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    while True:
        async with db.as_user(user) as tx:
            run = await tx.one(Run, id=run_id)
        if run.finished_at is not None:
            break
        seen |= await asyncio.to_thread(_children)
        await asyncio.sleep(0.2)
    assert run.status == "succeeded", run.error
    await recording.settle()
    found = await recording.measure(user, run_id)
    spent = sum(ticks - before.get(pid, 0) for pid, ticks in seen.items()) / TICKS
    return Cost(time.process_time() - ours, spent, found.frames, found.bytes)


async def _compare(name: str, url: str) -> None:
    costs: dict[str, list[Cost]] = {"off": [], "on": []}
    await _run(url)
    for _ in range(ROUNDS):
        for mode, taken in costs.items():
            settings.__dict__["recording"] = mode
            taken.append(await _run(url))
    print(f"{name}, {SECONDS} s")
    for part in ("ours", "children"):
        off, on = ([getattr(cost, part) for cost in costs[mode]] for mode in ("off", "on"))
        ratios = [mine / base for mine, base in zip(on, off, strict=True)]
        print(
            f"  CPU of {part:<9} off {statistics.median(off):5.2f} s, on {statistics.median(on):5.2f} s  "
            f"ratio {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
        )
    frames = statistics.median(cost.frames for cost in costs["on"])
    size = statistics.median(cost.bytes for cost in costs["on"])
    more = [
        (with_it.ours - without.ours + with_it.children - without.children) / with_it.frames
        for with_it, without in zip(costs["on"], costs["off"], strict=True)
    ]
    print(
        f"  {frames:.0f} frames, {size / 1024:.0f} KiB; a frame takes {size / frames / 1024:.1f} KiB and "
        f"{min(more) * 1e3:.0f} / {statistics.median(more) * 1e3:.0f} / {max(more) * 1e3:.0f} ms of CPU"
    )


async def main() -> None:
    """Runs of some seconds, alternately without and with a recording."""
    print(f"Recording: {describe_machine()}")
    async with working(), pages.serve() as site:
        await _compare("A page that moves all the time", site.url("/animated"))
        await _compare("A page that stands still", site.url("/"))


if __name__ == "__main__":
    uvloop.run(main())
