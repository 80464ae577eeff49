"""An operator kills any process, again and again, and nobody notices: neither the log nor the runs.

`CHAOS_SECONDS` and `CHAOS_SEED` make it longer or another one, by hand.
"""

import asyncio
import json
import os
import random
import re
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import WebSocketException

from demo.shop import Shop
from tests.conftest import ROOT, Backend, free_port
from tests.test_main_job import ENDED, open_socket

SECONDS = float(os.environ.get("CHAOS_SECONDS", "25"))
SEED = int(os.environ.get("CHAOS_SEED", "7"))
USERS = 3
CALM_SECONDS = 60.0
BROWSER_DEATHS = {"page_crashed", "browser_failed"}
DEATHS = "worker_fenced|browser_driver_died|postgres_died|postgres_not_restarted"
DEFECTS = re.compile(rf"Traceback|never retrieved|\[(error|critical) *\] (?!{DEATHS})|\" 500 ")
# Playwright tells its driver of a cancelled call, and under uvloop that fails aloud where the driver has died.
NOISE = re.compile(
    r"Exception in callback <function Connection\.send_message.*?handler is closed\n", re.DOTALL
)


# Processes ----------------------------------------------------------------------------------------


def _read(pid: int | str, name: str) -> str:
    try:
        return Path(f"/proc/{pid}/{name}").read_text(errors="replace").replace("\0", " ")
    except OSError:
        return ""


def processes() -> dict[int, tuple[int, str]]:
    """Every process that is not a zombie: its parent and its command line."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        fields = _read(path.name, "stat").rpartition(")")[2].split()
        if fields and fields[0] != "Z":
            found[int(path.name)] = int(fields[1]), _read(path.name, "cmdline")
    return found


def below(root: int) -> dict[int, str]:
    """The process and its descendants with their command lines, oldest first."""
    found, everything = {root: _read(root, "cmdline")}, processes()
    for _ in range(8):
        found |= {pid: line for pid, (parent, line) in everything.items() if parent in found}
    return found


def left_of(place: Path, temporary: Path) -> list[str]:
    """Command lines of processes that were started for this data directory and still live."""
    marks = (str(place), str(temporary))
    lines = {pid: line for pid, (_, line) in processes().items() if pid != os.getpid()}
    return [
        line[:200]
        for pid, line in lines.items()
        if any(mark in line + _read(pid, "environ") for mark in marks)
    ]


def files_in(directory: Path) -> list[Path]:
    return list(directory.glob("*"))


# The system ---------------------------------------------------------------------------------------


class System:
    """A web server and its workers on one data directory, each restarted whenever it has died."""

    def __init__(self, place: Path, temporary: Path, workers: int) -> None:
        self.place, self.temporary = place, temporary
        self.extra = {"ACCESS_TOKEN_SECONDS": "3600", "LEASE_SECONDS": "5", "TMPDIR": str(temporary)}
        self.web = Backend(place, free_port(), self.extra | ({"WORKER": "off"} if workers else {}))
        self.workers: list[asyncio.subprocess.Process] = []
        self.wanted = workers
        self.kills: dict[str, int] = {}

    async def start(self) -> None:
        await self.web.start()
        while len(self.workers) < self.wanted:
            self.workers.append(await self.start_worker())

    async def start_worker(self) -> asyncio.subprocess.Process:
        environment = {**os.environ, **self.extra, "DATA_DIR": str(self.place), "PORT": str(self.web.port)}
        with (self.place / "worker.log").open("ab") as log:
            worker = await asyncio.create_subprocess_exec(
                *(sys.executable, "worker.py"),
                cwd=ROOT,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        async with asyncio.timeout(30):
            while not any("run-driver" in line for line in below(worker.pid).values()):
                assert worker.returncode is None, self.logs()[-2000:]
                await asyncio.sleep(0.05)
        return worker

    @property
    def drivers(self) -> list[int]:
        """The processes that drive browsers."""
        assert self.web.process is not None
        return [worker.pid for worker in self.workers] or [self.web.process.pid]

    def of_browsers(self, mark: str, without: str = "\n") -> list[int]:
        """Processes below the workers with `mark` in their command line."""
        return [
            pid
            for driver in self.drivers
            for pid, line in below(driver).items()
            if mark in line and without not in line
        ]

    def postmaster(self) -> list[int]:
        try:
            return [int((self.place / "postgres/cluster/postmaster.pid").read_text().split()[0])]
        except (OSError, IndexError):
            return []

    def victims(self, kind: str) -> list[int]:
        match kind:
            case "backend":
                found = (below(pid) for pid in self.postmaster())
                return [
                    pid for lines in found for pid, line in lines.items() if line.startswith("postgres: cua")
                ]
            case "postmaster":
                return self.postmaster()
            case "chromium":
                return self.of_browsers("--remote-debugging-pipe --no-startup-window", "--type=")
            case "renderer":
                return self.of_browsers("--type=renderer")
            case _:
                return self.of_browsers("run-driver")

    async def kill(self, kind: str, chance: random.Random) -> None:
        """Kill one process of this kind; what nobody else would start again is started again."""
        if kind == "web":
            await self.web.kill()
            await self.web.start()
        elif kind == "worker":
            worker = self.workers.pop(0)
            worker.kill()
            await worker.wait()
            self.workers.append(await self.start_worker())
        elif victims := sorted(self.victims(kind)):
            with suppress(ProcessLookupError):
                os.kill(chance.choice(victims), signal.SIGKILL)
        else:
            return
        self.kills[kind] = self.kills.get(kind, 0) + 1

    async def stop(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGTERM)
        for worker in self.workers:
            async with asyncio.timeout(30):
                assert await worker.wait() == 0
        await self.web.stop()

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.place.glob("*.log")))


@asynccontextmanager
async def running(place: Path, temporary: Path, workers: int) -> AsyncIterator[System]:
    system = System(place, temporary, workers)
    await system.start()
    try:
        yield system
    finally:
        for process in (*system.workers, system.web.process):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
        for pid in system.postmaster():
            if str(place) in _read(pid, "cmdline"):
                os.kill(pid, signal.SIGQUIT)


# People -------------------------------------------------------------------------------------------


def flow(shop: Shop, *, acts: bool) -> dict[str, Any]:
    """Safe steps, or a click among them that must not happen twice."""
    search = {"type": "change", "selectors": ["input[name=q]"], "value": "tea"}
    act = {"type": "click", "selectors": [".brand"], "assertedEvents": [{"type": "navigation"}]}
    return {
        "title": "Look around",
        "steps": [
            {"type": "navigate", "url": f"{shop.url}/"},
            {"type": "waitForExpression", "expression": "performance.now() > 500", "timeout": 20000},
            act if acts else search,
            {"type": "navigate", "url": f"{shop.url}/search?q=tea"},
            {"type": "extract", "name": "page", "fields": {"heading": {"selectors": ["h1"]}}},
            {"type": "screenshot", "name": "seen"},
        ],
    }


class Person:
    """One user with two sockets that connect again, and runs, one after the other."""

    def __init__(self, system: System, client: httpx.AsyncClient, shop: Shop, *, acts: bool) -> None:
        self.system, self.client, self.flow = system, client, flow(shop, acts=acts)
        self.seen: list[list[dict[str, Any]]] = [[], []]
        self.links: dict[int, ClientConnection] = {}
        self.runs: dict[str, str] = {}
        self.over = False

    async def ask(self, method: str, path: str, **more: Any) -> Any:
        """The data of a reply; 503 and a broken connection are worth another try, 500 is a defect."""
        key = {"Idempotency-Key": uuid4().hex} if method == "POST" else {}
        while True:
            try:
                reply = await self.client.request(method, path, headers=key, **more)
            except httpx.TransportError:
                await asyncio.sleep(0.1)
                continue
            body = reply.json()
            if reply.status_code < 300:
                return body["data"]
            assert (reply.status_code, body["code"]) in (
                (503, "database_unavailable"),
                (409, "may_have_landed"),
                (409, "wrong_state"),
            ), reply.text
            if body["code"] == "wrong_state":
                return None
            await asyncio.sleep(0.1)

    async def listen(self, number: int) -> None:
        """Keep what one socket brings, connecting again from where it was."""
        seen = self.seen[number]
        while True:
            try:
                async with (
                    asyncio.timeout(CALM_SECONDS),
                    await open_socket(self.system.web, self.client) as link,
                ):
                    self.links[number] = link
                    after = seen[-1]["seq"] if seen else 0
                    await link.send(json.dumps({"type": "subscribe", "id": 1, "after": after}))
                    async for message in link:
                        body = json.loads(message)
                        assert body.get("recovered", True), body
                        seen += body.get("events", [])
            except (OSError, TimeoutError, WebSocketException, EOFError):
                await asyncio.sleep(0.05)

    async def work(self) -> None:
        """Start run after run; say `go on` where a run asks whether an action has landed."""
        while not self.over:
            run_id = (await self.ask("POST", "/api/runs", json={"definition": self.flow}))["id"]
            self.runs[run_id] = "started"
            async with asyncio.timeout(CALM_SECONDS):
                while (run := await self.ask("GET", f"/api/runs/{run_id}"))["status"] not in (
                    "succeeded",
                    "failed",
                ):
                    if run["status"] == "waiting_user":
                        assert run["reason"] == "may_have_landed", run
                        await self.ask("POST", f"/api/runs/{run_id}/resume")
                    await asyncio.sleep(0.1)
            self.runs[run_id] = run["status"]

    async def log(self) -> list[dict[str, Any]]:
        """The whole log as it is listed."""
        events: list[dict[str, Any]] = []
        async with asyncio.timeout(CALM_SECONDS):
            while page := await self.ask("GET", "/api/events", params={"limit": 200, "after": len(events)}):
                events += page
        return events


async def judge(person: Person, kills: dict[str, int]) -> None:
    """Compare the log with what the sockets brought and what became of the runs."""
    events = await person.log()
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    async with asyncio.timeout(CALM_SECONDS):
        while any(len(seen) < len(events) for seen in person.seen):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert person.seen[0][: len(events)] == person.seen[1][: len(events)] == events
    assert person.runs
    for run_id in person.runs:
        run = await person.ask("GET", f"/api/runs/{run_id}")
        told = [event["kind"] for event in events if event["run_id"] == run_id]
        assert [kind for kind in told if kind in ENDED] == [f"run.{run['status']}"]
        assert run["attempt"] <= 1 + sum(kills.values())
        if run["status"] == "failed":
            code = run["error"]["code"]
            assert code in BROWSER_DEATHS or (code == "worker_died" and run["attempt"] == 6), f"{run} {kills}"
        steps = await person.ask("GET", f"/api/runs/{run_id}/steps", params={"limit": 200})
        assert [step["number"] for step in steps] == list(range(1, len(steps) + 1))
        finished = [
            event["data"]["number"]
            for event in events
            if event["kind"] == "run.step.finished" and event["run_id"] == run_id
        ]
        assert finished == sorted(set(finished)), (run, finished)
        if run["status"] == "succeeded":
            assert len(finished) == len(person.flow["steps"])
            assert run["result"]["outputs"]["page"]["heading"].endswith("for “tea”")


async def torment(system: System, people: list[Person], chance: random.Random) -> None:
    """Kill something every other moment: of all kinds the same number."""
    kinds = ["web", "postmaster", "backend", "chromium", "renderer", "driver", "client"]
    kinds += ["worker"] * bool(system.wanted)
    loop, bag = asyncio.get_running_loop(), list[str]()
    end = loop.time() + SECONDS
    while loop.time() < end:
        await asyncio.sleep(chance.uniform(0.5, 3))
        bag = bag or chance.sample(kinds, len(kinds))
        if (kind := bag.pop()) == "client":
            chance.choice([link for person in people for link in person.links.values()]).transport.abort()
        else:
            await system.kill(kind, chance)


@pytest.mark.timeout(int(SECONDS) + 180)
@pytest.mark.parametrize("workers", [0, 2], ids=["one process", "web and workers"])
async def test_killing_any_process_loses_nothing(data_dir: Path, temporary: Path, workers: int) -> None:
    async with running(data_dir, temporary, workers) as system, AsyncExitStack() as stack, Shop() as shop:
        people = []
        for number in range(USERS):
            client = await stack.enter_async_context(system.web.sign_up())
            people.append(Person(system, client, shop, acts=number == 0))
        async with asyncio.TaskGroup() as group:
            listening = [group.create_task(person.listen(n)) for person in people for n in range(2)]
            working = [group.create_task(person.work()) for person in people]
            await torment(system, people, random.Random(SEED + workers))
            for person in people:
                person.over = True
            await asyncio.wait(working)
            for person in people:
                await judge(person, system.kills)
            for task in listening:
                task.cancel()
        await system.stop()
        assert left_of(data_dir, temporary) == []
        assert files_in(temporary) == []
        defect = DEFECTS.search(logs := NOISE.sub("", system.logs()))
        assert defect is None, logs[defect.start() - 500 :][:5000]
