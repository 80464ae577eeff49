"""The main job in the terminal: a recording drives a real Chromium, watched over the socket to its end.

Then an agent is given a task, asks before it fills the cart, and what it did becomes a workflow.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from websockets.asyncio.client import ClientConnection, connect

from demo.shop import FLOW, PARAMETERS, Shop
from settings import Settings

ROOT = Path(__file__).parent.parent
OUTPUT = ROOT / "data" / "demo"
FRAME_HEADER = 32  # bytes
PATIENCE = 180  # seconds
TASK = """\
open {shop}
type "sencha" into "Search the shop"
press Enter
click "Sencha green tea"
type "2" into "Quantity"
click "Add to cart"
read "Total"
"""
STOP_SECONDS = 30
OF_THE_MACHINE = {"CHROMIUM_PATH", "CHROMIUM_SANDBOX", "POSTGRES_BIN", "BROWSER_MEMORY_MB", "MAX_COMPUTERS"}


class PromiseBroken(Exception):
    """The run did not do what the README says."""


def require(fact: object, sentence: str) -> None:
    """Raise PromiseBroken with the sentence unless `fact` holds."""
    if not fact:
        raise PromiseBroken(sentence)


@dataclass
class Watched:
    """What came over the socket."""

    events: list[dict[str, Any]] = field(default_factory=list)
    frames: int = 0
    frame_bytes: int = 0
    first_frame: bytes = b""
    ended: asyncio.Event = field(default_factory=asyncio.Event)


def _data_directory() -> Path:
    data = Path(tempfile.mkdtemp(prefix="cua-demo-"))
    data.chmod(0o711)  # the account that PostgreSQL runs as may pass through
    return data


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _server() -> AsyncIterator[str]:
    """A server of its own with an empty data directory; yields its address."""
    data, port = _data_directory(), _free_port()
    ours = {"DATA_DIR": str(data), "PORT": str(port), "HOST": "127.0.0.1", "ALLOW_PRIVATE_NETWORK": "1"}
    others = {name.upper() for name in Settings.model_fields} - OF_THE_MACHINE
    environment = {name: value for name, value in os.environ.items() if name.upper() not in others}
    command = ("-m", "uvicorn", "backend_websocket_server:app", "--app-dir", str(ROOT), "--port", str(port))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, *command, "--no-access-log", "--ws-per-message-deflate", "false"),
        *("--http", "infra.server:BoundedHttp"),
        *("--log-level", "warning"),
        cwd=data,  # where no `.env` names somebody's database
        env=environment | ours | {"LOG_LEVEL": "error"},
        stdout=sys.stderr,
    )
    try:
        await _until_ready(process, f"http://127.0.0.1:{port}")
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
        shutil.rmtree(data, ignore_errors=True)


async def _until_ready(process: asyncio.subprocess.Process, url: str) -> None:
    async with asyncio.timeout(60), httpx.AsyncClient() as client:
        while True:
            require(process.returncode is None, "the server ended before it was ready")
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(f"{url}/api/ready")).status_code == 200:
                    return
            await asyncio.sleep(0.05)


@asynccontextmanager
async def _sign_up(url: str) -> AsyncIterator[httpx.AsyncClient]:
    account = {"email": f"{uuid4().hex}@example.com", "password": uuid4().hex}
    async with httpx.AsyncClient(base_url=url, timeout=90) as client:
        reply = (await client.post("/api/auth/register", json=account)).raise_for_status()
        client.headers["Authorization"] = f"Bearer {reply.json()['data']['access_token']}"
        yield client


async def _watch(client: httpx.AsyncClient, watched: Watched) -> None:
    """Every event from the first, and every frame of the run's computer."""
    address = str(client.base_url).replace("http", "ws", 1).rstrip("/") + "/ws"
    headers = {"Authorization": client.headers["Authorization"]}
    async with connect(address, subprotocols=["cua.v1"], additional_headers=headers) as link:  # type: ignore[list-item]
        await link.send(json.dumps({"type": "subscribe", "id": 1, "after": 0}))
        async for message in link:
            if isinstance(message, bytes):
                await _take_frame(link, watched, message)
                continue
            for event in json.loads(message).get("events", []):
                watched.events.append(event)
                if event["kind"] == "computer.opened":
                    computer = event["resource"]["id"]
                    request = {"type": "watch", "id": 2, "computer_id": computer, "max_fps": 30}
                    await link.send(json.dumps(request))
                if event["kind"] in ("run.succeeded", "run.failed", "run.cancelled"):
                    watched.ended.set()


async def _take_frame(link: ClientConnection, watched: Watched, message: bytes) -> None:
    watched.frames += 1
    watched.frame_bytes += len(message) - FRAME_HEADER
    watched.first_frame = watched.first_frame or message[FRAME_HEADER:]
    stream, number = int.from_bytes(message[4:8]), int.from_bytes(message[8:16])
    await link.send(json.dumps({"type": "ack", "stream": stream, "frame": number}))


async def _start_run(client: httpx.AsyncClient, shop: Shop) -> str:
    recording = json.loads(FLOW.read_text())
    workflow = await client.post(
        "/api/workflows/import", json={"recording": recording, "parameters": PARAMETERS}
    )
    require(workflow.status_code == 201, f"the recording was refused: {workflow.text}")
    body = {"workflow_id": workflow.json()["data"]["id"], "params": {"shop": shop.url}}
    run = await client.post("/api/runs", json=body)
    require(run.status_code == 202, f"the run was refused: {run.text}")
    print(f"Workflow   {workflow.json()['data']['name']!r}, {len(recording['steps'])} steps, at {shop.url}")
    return str(run.json()["data"]["id"])


async def _report(client: httpx.AsyncClient, run_id: str, watched: Watched, seconds: float) -> None:
    run = (await client.get(f"/api/runs/{run_id}")).json()["data"]
    steps = (await client.get(f"/api/runs/{run_id}/steps", params={"limit": 200})).json()["data"]
    for step in steps:
        took = f"{step['number']:>4}  {step['type']:<18} {step['duration_ms']:>6} ms"
        print(f"{took}  {step['status']:<10} {step['title']}")
    print(f"\nStatus     {run['status']} in {seconds:.1f} s")
    require(run["status"] == "succeeded", f"the run ended as {run['status']}: {run['error']}")
    print(
        "Result     " + json.dumps(run["result"], indent=2, ensure_ascii=False).replace("\n", "\n           ")
    )
    seqs = [event["seq"] for event in watched.events]
    require(seqs == list(range(1, len(seqs) + 1)), "the events have a gap")
    logged = (await client.get("/api/events", params={"limit": 200})).json()["data"]
    require(logged[: len(seqs)] == watched.events[: min(len(seqs), 200)], "the log differs from the socket")
    print(f"Events     {len(seqs)}, contiguous from 1 to {seqs[-1]}")
    require(watched.frames, "no live frame came over the socket")
    print(
        f"Frames     {watched.frames} live, {watched.frame_bytes / watched.frames / 1024:.0f} KiB on average"
    )


async def _keep_screenshots(client: httpx.AsyncClient, run_id: str) -> None:
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir(parents=True)
    query: dict[str, str | int] = {"run_id": run_id, "kind": "screenshot", "limit": 200, "order": "asc"}
    files = (await client.get("/api/files", params=query)).json()["data"]
    require(files, "no screenshot was kept")
    for file in files:
        content = (await client.get(f"/api/files/{file['id']}/content")).raise_for_status().content
        require(len(content) == file["size"], "a screenshot came back shorter than it was kept")
        path = OUTPUT / file["name"]
        path.write_bytes(content)
        print(f"Screenshot {path.relative_to(ROOT)}, {len(content) / 1024:.0f} KiB")


async def _check_recording(client: httpx.AsyncClient, run_id: str) -> None:
    """Every step has a frame in the recording, whose last segment is stored a moment after the end."""
    steps = (await client.get(f"/api/runs/{run_id}")).json()["data"]["step_count"]
    frames: list[dict[str, Any]] = []
    while not {frame["step"] for frame in frames} >= set(range(1, steps + 1)):
        await asyncio.sleep(0.1)
        frames = (await client.get(f"/api/runs/{run_id}/frames", params={"limit": 200})).json()["data"]
    jpeg = (await client.get(f"/api/runs/{run_id}/frames/{len(frames)}")).raise_for_status().content
    require(jpeg.startswith(b"\xff\xd8"), "the recording's last frame is no picture")
    print(f"Recording  {len(frames)} frames, each step has its own")


async def _show_agent(client: httpx.AsyncClient, shop: Shop) -> None:
    """A task for the demo model, which no key is needed for; without a yes nothing is put into the cart."""
    body = {"task": TASK.format(shop=shop.url), "model": "demo", "max_steps": 50}
    run = (await client.post("/api/runs", json=body)).raise_for_status().json()["data"]
    asked: list[dict[str, Any]] = []
    while not asked:
        await asyncio.sleep(0.1)
        asked = (await client.get("/api/approvals", params={"status": "pending"})).json()["data"]
        run = (await client.get(f"/api/runs/{run['id']}")).json()["data"]
        require(not run["finished_at"], f"the agent ended as {run['status']} before it had asked")
    print(f"Agent      asks: {asked[0]['title']}")
    answer = {"decision": "approve", "digest": asked[0]["digest"]}
    (await client.post(f"/api/approvals/{asked[0]['id']}/decision", json=answer)).raise_for_status()
    run = (await client.get(f"/api/runs/{run['id']}", params={"wait": 60})).json()["data"]
    require(run["status"] == "succeeded", f"the agent ended as {run['status']}: {run['error']}")
    print(f"           {run['step_count']} steps; {json.dumps(run['result']['outputs'], ensure_ascii=False)}")
    made = (await client.post(f"/api/runs/{run['id']}/workflow")).raise_for_status().json()["data"]
    print(f"           as a workflow: {len(made['definition']['steps'])} steps without a model")


async def _show_isolation(url: str, run_id: str) -> None:
    async with _sign_up(url) as stranger:
        for path in (f"/api/runs/{run_id}", f"/api/runs/{run_id}/steps"):
            require((await stranger.get(path)).status_code == 404, f"a stranger could read {path}")
        require(not (await stranger.get("/api/files")).json()["data"], "a stranger sees files")
    print("Stranger   sees nothing of it: 404")


async def main() -> int:
    """Do the job; 0 when every promise of the run held."""
    started = time.monotonic()
    async with asyncio.timeout(PATIENCE), Shop() as shop, _server() as url, _sign_up(url) as client:
        print(f"Server     {url}, ready in {time.monotonic() - started:.1f} s")
        watched = Watched()
        watching = asyncio.create_task(_watch(client, watched))
        began = time.monotonic()
        run_id = await _start_run(client, shop)
        ending = asyncio.create_task(watched.ended.wait())
        await asyncio.wait({watching, ending}, return_when=asyncio.FIRST_COMPLETED)
        ending.cancel()
        if watching.done():
            watching.result()
        require(watched.ended.is_set(), "the socket closed before the run had ended")
        await _report(client, run_id, watched, time.monotonic() - began)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await _keep_screenshots(client, run_id)
        await _check_recording(client, run_id)
        await _show_agent(client, shop)
        await _show_isolation(url, run_id)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(asyncio.run(main()))
    except PromiseBroken as broken:
        sys.exit(f"Demo failed: {broken}")
    except TimeoutError:
        sys.exit(f"Demo failed: it took longer than {PATIENCE} seconds")
