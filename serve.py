"""The server and the web app beside it: what `make run` starts. Both end together."""

import asyncio
import os
import shutil
import signal
import sys
from asyncio.subprocess import Process
from ipaddress import ip_address
from pathlib import Path

import httpx

from settings import settings

ROOT = Path(__file__).parent
WEB_APP = ROOT / "cua-frontend" / ".next" / "standalone" / "start.mjs"
SERVER_FLAGS = (
    *("--http", "infra.server:BoundedHttp"),
    *("--ws-per-message-deflate", "false"),
    *("--ws-max-size", "65536"),
    "--no-access-log",
    "--no-server-header",
    # A proxy keeps connections for some seconds; were ours shorter, it would send requests into closed ones.
    *("--timeout-keep-alive", "75"),
)
LOOK_SECONDS = 0.1
GRACE_SECONDS = 30.0


def server_command() -> list[str]:
    """The API, where the settings say."""
    program = [sys.executable, "-m", "uvicorn", "backend_websocket_server:app"]
    return [*program, "--host", settings.host, "--port", str(settings.port), *SERVER_FLAGS]


def from_here(port: int) -> str:
    """The address of a port from this machine, also where all interfaces are listened on."""
    try:
        address = ip_address(settings.host)
    except ValueError:  # a name
        return f"http://{settings.host}:{port}"
    if address.is_unspecified:
        address = ip_address("::1" if address.version == 6 else "127.0.0.1")
    return f"http://[{address}]:{port}" if address.version == 6 else f"http://{address}:{port}"


def web_environment() -> dict[str, str]:
    """What the web app must know: its own address, and where the API is from here."""
    return {
        "HOSTNAME": settings.host,
        "PORT": str(settings.web_port),
        "CUA_API_ORIGIN": from_here(settings.port),
        "CLERK_PUBLISHABLE_KEY": settings.clerk_publishable_key,
        "NODE_ENV": "production",
    }


async def serve() -> int:
    """Run both until a signal comes or one of them ends; returns the exit code."""
    node = shutil.which("node") if WEB_APP.exists() else None
    public = {} if settings.public_url or node is None else {"PUBLIC_URL": from_here(settings.web_port)}
    processes = [await asyncio.create_subprocess_exec(*server_command(), cwd=ROOT, env=os.environ | public)]
    if node is not None:
        environment = os.environ | web_environment()
        processes.append(await asyncio.create_subprocess_exec(node, str(WEB_APP), env=environment))
    stopping = asyncio.Event()
    for wanted in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(wanted, stopping.set)
    ends = [asyncio.create_task(process.wait()) for process in processes]
    waits = [asyncio.create_task(stopping.wait()), *ends]
    telling = asyncio.create_task(_tell(node is not None))
    done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()
    waits[0].cancel()
    code = next((task.result() for task in ends if task in done), 0)
    await asyncio.gather(telling, waits[0], *(_end(process) for process in processes), return_exceptions=True)
    return code


async def _tell(with_web: bool) -> None:
    """Say where to go once somebody answers there."""
    api, web = from_here(settings.port), from_here(settings.web_port)
    async with httpx.AsyncClient() as client:
        for place in [f"{api}/api/ready", *([f"{web}/sign-in"] if with_web else [])]:
            await _until_answered(client, place)
    if with_web:
        say = f"Open {settings.public_url or web}\n  The API is at {api}, its documentation at {api}/docs"
    else:
        say = (
            f"Open {settings.public_url or api}/docs\n  This is the API alone: with Node 20 and npm there is"
            " the web app, too. Sign up with POST /api/auth/register."
        )
    sys.stdout.write(f"\n  {say}\n\n")
    sys.stdout.flush()


async def _until_answered(client: httpx.AsyncClient, place: str) -> None:
    answered = False
    while not answered:
        try:
            answered = (await client.get(place)).is_success
        except httpx.TransportError:
            await asyncio.sleep(LOOK_SECONDS)


async def _end(process: Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        async with asyncio.timeout(GRACE_SECONDS):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


if __name__ == "__main__":
    sys.exit(asyncio.run(serve()))
