"""The web app as people meet it: the real proxy before the real server, started as `make run` does."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from playwright.async_api import Browser, Locator, Page, async_playwright, expect

from browser.chromium import find_chromium
from serve import WEB_APP
from tests.conftest import copy_database, free_port
from tests.workers import ROOT

PICTURES = ROOT / "test-results" / "web"
AXE = ROOT / "cua-frontend" / "node_modules" / "axe-core" / "axe.min.js"
PASSWORD = "correct horse battery"
MS = 30_000
DESK, PHONE = (1360, 850), (390, 844)
RUN = re.compile(r"/runs/[0-9a-f-]{36}")
WORKFLOW = re.compile(r"/workflows/[0-9a-f-]{36}")


@dataclass
class WebApp:
    """`serve.py` with its own data directory."""

    data: Path
    port: int
    web_port: int
    extra: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    said: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    async def start(self, seconds: float = 90) -> None:
        """Return once it has said where to open it."""
        self.data.mkdir(parents=True, exist_ok=True)
        await copy_database(self.data)
        ports = {"PORT": str(self.port), "WEB_PORT": str(self.web_port), "DATA_DIR": str(self.data)}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "serve.py"),
            cwd=ROOT,
            env={**os.environ, **ports, **self.extra},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self.process.stdout))
        try:
            async with asyncio.timeout(seconds):
                while f"Open {self.url}" not in self.said:
                    assert not self._reading.done(), self.said
                    await asyncio.sleep(0.05)
        except BaseException:
            await self.stop()
            raise

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while line := await stream.readline():
            self.said += line.decode()

    async def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(self.process.wait(), 60)
        await self._reading
        return code


@asynccontextmanager
async def pages_before(api: str, **more: str) -> AsyncIterator[str]:
    """The web app alone, before an API that may come and go; gives its address."""
    node = shutil.which("node")
    assert node is not None
    port = free_port()
    environment = {
        "HOSTNAME": "127.0.0.1",
        "PORT": str(port),
        "CUA_API_ORIGIN": api,
        "NODE_ENV": "production",
    }
    process = await asyncio.create_subprocess_exec(node, str(WEB_APP), env=os.environ | environment | more)
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(60), httpx.AsyncClient(base_url=url) as client:
            while True:
                try:
                    if (await client.get("/sign-in")).is_success:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        yield url
    finally:
        process.terminate()
        await process.wait()


class Visitor:
    """Somebody at the web app, and what their browser complained of."""

    def __init__(self, page: Page, name: str, url: str) -> None:
        self.page = page
        self.name = name
        self.email = f"{uuid4().hex}.0000.wwwwwwww@example.com"
        self.client = httpx.AsyncClient(base_url=url, timeout=30)
        self.complaints: list[str] = []
        self.outside: list[str] = []
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.set_default_timeout(MS)

    async def picture(self, what: str) -> None:
        """Keep a picture of the page, which axe finds nothing serious in."""
        await asyncio.to_thread(PICTURES.mkdir, parents=True, exist_ok=True)
        await self.page.screenshot(path=PICTURES / f"{self.name}-{what}.png")
        await self.page.evaluate(await asyncio.to_thread(AXE.read_text))
        found = await self.page.evaluate("axe.run({resultTypes: ['violations']})")
        serious = [
            f"{rule['id']}: {node['html'][:200]} {node['failureSummary'][:200]}"
            for rule in found["violations"]
            if rule["impact"] in ("serious", "critical")
            for node in rule["nodes"][:3]
        ]
        assert serious == [], what

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("button", name=name, exact=isinstance(name, str))

    @property
    def dialog(self) -> Locator:
        return self.page.get_by_role("dialog").or_(self.page.get_by_role("alertdialog"))

    async def register(self) -> None:
        """Make an account as people do."""
        await self.page.goto("/register")
        await self.page.get_by_label("Name").fill("Ada")
        await self.page.get_by_label("Email").fill(self.email)
        await self.page.get_by_label("Password").fill(PASSWORD)
        await self.picture("register")
        await self.button("Make the account").click()
        await expect(self.page.get_by_role("heading", level=1)).to_contain_text("Ada")

    async def enter(self, action: str = "register", email: str = "") -> None:
        """Be signed in without the form, here and with `client`, which is the same person at the API."""
        body = {"email": email or self.email, "password": PASSWORD}
        reply = await self.page.context.request.post(f"/session/{action}", data=body)
        assert reply.ok, await reply.text()
        self.client.headers["Authorization"] = f"Bearer {(await reply.json())['access_token']}"

    async def visit(self, path: str) -> None:
        """Open a screen and wait until all of it is there."""
        await self.page.goto(path)
        await expect(self.page.get_by_role("heading", level=1)).to_be_visible()
        await expect(self.page.locator("[aria-busy=true]")).to_have_count(0)

    async def choose(self, opener: str, item: str) -> None:
        """An item of a menu."""
        await self.button(opener).first.click()
        await self.page.get_by_role("menuitem", name=item).click()


Come = Callable[..., Awaitable[Visitor]]


# Fixtures -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
async def web(session_data: Path) -> AsyncIterator[WebApp]:
    """The web app that tests share; its administrator is `ADMIN`."""
    extra = {"ALLOW_PRIVATE_NETWORK": "1", "REGISTRATION": "open"}
    app = WebApp(session_data, free_port(), free_port(), extra)
    await app.start()
    async with httpx.AsyncClient(base_url=app.url) as client:
        first = await client.post("/session/register", json={"email": ADMIN, "password": PASSWORD})
        assert first.is_success, first.text
    yield app
    assert await app.stop() == 0, app.said


ADMIN = "admin@example.com"  # the first account


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    """In which people visit the web app."""
    expect.set_options(timeout=MS)
    async with async_playwright() as driver:
        running = await driver.chromium.launch(executable_path=str(find_chromium()), args=["--no-sandbox"])
        yield running
        await running.close()


@asynccontextmanager
async def visitors(url: str, browser: Browser) -> AsyncIterator[Come]:
    """Lets people come to the web app at an address; no page of theirs may fail or ask anybody else."""
    came: list[Visitor] = []

    async def come(name: str = "ada", size: tuple[int, int] = DESK, **more: Any) -> Visitor:
        context = await browser.new_context(
            base_url=url, viewport={"width": size[0], "height": size[1]}, **more
        )
        visitor = Visitor(await context.new_page(), name, url)
        context.on("request", lambda request: visitor.outside.append(request.url))
        came.append(visitor)
        return visitor

    yield come
    for visitor in came:
        await visitor.client.aclose()
        await visitor.page.context.close()
    for visitor in came:
        assert visitor.complaints == []
        assert {each for each in visitor.outside if not each.startswith((url, "blob:", "data:"))} == set()


@pytest.fixture
async def visitor(web: WebApp, browser: Browser) -> AsyncIterator[Come]:
    async with visitors(web.url, browser) as come:
        yield come


@pytest.fixture
async def ada(visitor: Come) -> Visitor:
    """Somebody with a new account."""
    somebody = await visitor()
    await somebody.enter()
    return somebody
