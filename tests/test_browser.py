"""One user's Chromium, driven for real: opening, acting, seeing, live input, and all that may go wrong."""

import asyncio
import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Error as PlaywrightError
from pydantic import TypeAdapter, ValidationError

from browser import actions, chromium
from browser.actions import Action, ActionFailed, InputEvent, Result, dispatch, perform, release_all
from browser.chromium import Browsers, Computer, ComputerClosed, Options, TooManyComputers
from browser.screencast import Frame, jpeg_size
from infra.bus import LocalBus
from runs import computers
from runs.drive import BROWSER_FAULTS
from settings import settings
from tests import pages
from tests.pages import Site

ACTION: TypeAdapter[Any] = TypeAdapter(Action)
ROOT = Path(__file__).parent.parent
INPUT: TypeAdapter[Any] = TypeAdapter(InputEvent)


class Told(list[tuple[str, dict[str, Any]]]):
    """What a computer reported."""

    def __call__(self, kind: str, data: dict[str, Any]) -> None:
        self.append((kind, data))

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [data for each, data in self if each == kind]


async def until(condition: Callable[[], Any], seconds: float = 8) -> Any:
    """The condition's value once it is true; fails when that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.01)
    return value


async def do(computer: Computer, action: str, **fields: Any) -> Result:
    return await perform(computer, ACTION.validate_python({"action": action, **fields}))


async def fails(code: str, computer: Computer, action: str, **fields: Any) -> str:
    """The detail of an action that must fail with this code."""
    with pytest.raises(ActionFailed) as caught:
        await do(computer, action, **fields)
    assert caught.value.code == code, (caught.value.code, caught.value.detail)
    return caught.value.detail


async def send(computer: Computer, type_: str, **fields: Any) -> None:
    await dispatch(computer, INPUT.validate_python({"type": type_, **fields}))


async def script(computer: Computer, expression: str) -> Any:
    return (await do(computer, "evaluate", expression=expression)).output["value"]


async def events(computer: Computer) -> list[str]:
    return list(await script(computer, "window.events"))


async def eventually(
    read: Callable[[], Awaitable[Any]], wanted: Callable[[Any], bool], seconds: float = 5
) -> Any:
    deadline = time.monotonic() + seconds
    while not wanted(value := await read()):
        assert time.monotonic() < deadline, value
        await asyncio.sleep(0.02)
    return value


def contents(path: str | Path) -> bytes:
    return Path(path).read_bytes()


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


def of_process(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


@pytest.fixture(scope="module")
async def browsers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browsers]:
    running = Browsers()
    await running.start()
    # One computer stays, so that the others find the process running.
    await running.open("alice", uuid4(), Options(downloads=tmp_path_factory.mktemp("kept")), Told())
    yield running
    homes = [process.home for process in running._processes.values()]
    await running.close()
    assert [home.exists() for home in homes] == [False]


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
async def computer(browsers: Browsers, told: Told, tmp_path: Path) -> AsyncIterator[Computer]:
    options = Options(downloads=tmp_path / "downloads", max_download_bytes=1_000_000, has_touch=True)
    opened = await browsers.open("alice", uuid4(), options, told)
    yield opened
    await opened.close()


@pytest.fixture
async def form(computer: Computer, site: Site) -> Computer:
    await do(computer, "navigate", url=site.url())
    return computer


# Opening and closing --------------------------------------------------------------------------


async def test_one_process_serves_all_computers_of_a_user_and_no_other(
    browsers: Browsers, computer: Computer, tmp_path: Path
) -> None:
    other = await browsers.open("bob", uuid4(), Options(downloads=tmp_path), Told())
    by_user = {each["user_id"]: each for each in browsers.processes()}
    assert by_user["alice"]["pid"] != by_user["bob"]["pid"]
    assert by_user["alice"]["computers"] == 2
    assert by_user["bob"]["memory"] > 20_000_000
    pid = by_user["bob"]["pid"]
    await other.close()
    assert "bob" not in {each["user_id"] for each in browsers.processes()}
    await until(lambda: not runs(pid))


async def test_a_closed_computer_says_so_and_reports_once(
    browsers: Browsers, told: Told, tmp_path: Path
) -> None:
    computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path), told)
    await asyncio.gather(computer.close("done"), computer.close("again"))
    assert told.of("closed") == [{"reason": "done"}]
    with pytest.raises(ComputerClosed):
        await do(computer, "screenshot")
    with pytest.raises(ComputerClosed):
        await send(computer, "mouse", event="move", x=1, y=1)


async def test_chromium_runs_unprivileged_with_its_sandbox(browsers: Browsers, computer: Computer) -> None:
    pid = browsers.processes()[0]["pid"]
    if "--no-sandbox" in of_process(pid, "cmdline"):
        pytest.skip("this machine gives Chromium no sandbox")
    assert "\nUid:\t0\t" not in of_process(pid, "status")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become someone else")
async def test_a_chromium_that_nobody_may_run_starts_with_less_containment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "chromium"
    program.write_text(f'#!/bin/sh\nexec {chromium.find_chromium()} "$@"\n')
    program.chmod(0o700)
    monkeypatch.setattr(chromium, "settings", settings.model_copy(update={"chromium_path": str(program)}))
    own = Browsers()
    await own.start()
    computer = await own.open("gina", uuid4(), Options(downloads=tmp_path), Told())
    assert await script(computer, "6 * 7") == 42
    assert "--no-sandbox" in of_process(own.processes()[0]["pid"], "cmdline")
    await own.close()


async def test_a_program_that_is_no_chromium_is_said_to_have_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "settings", settings.model_copy(update={"chromium_path": "/bin/false"}))
    own = Browsers()
    await own.start()
    with pytest.raises(chromium.OpenFailed, match="did not start"):
        await own.open("gina", uuid4(), Options(downloads=tmp_path), Told())
    assert own.processes() == []
    await own.close()


async def test_a_process_that_dies_takes_its_computers_and_the_next_open_starts_another(
    browsers: Browsers, tmp_path: Path, site: Site
) -> None:
    told = Told()
    options = Options(downloads=tmp_path)
    first, second = [await browsers.open("carol", uuid4(), options, told) for _ in range(2)]
    pid = next(each["pid"] for each in browsers.processes() if each["user_id"] == "carol")
    waiting = asyncio.ensure_future(do(first, "navigate", url=site.url("/never")))
    await until(lambda: "/never" in site.asked)
    os.kill(pid, 9)
    await asyncio.wait_for(asyncio.gather(first.closed.wait(), second.closed.wait()), 3)
    with pytest.raises(ComputerClosed):
        await waiting
    with pytest.raises(ComputerClosed):
        await do(second, "screenshot")
    assert told.of("crashed") == [{"process": pid}] * 2
    assert told.of("closed") == [{"reason": "crashed"}] * 2
    third = await browsers.open("carol", uuid4(), options, told)
    assert (await do(third, "navigate", url=site.url("/second"))).output["title"] == "Second"
    await third.close()


async def test_a_process_that_takes_too_much_memory_is_ended_and_others_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "settings", settings.model_copy(update={"browser_memory_mb": 700}))
    own, told = Browsers(), Told()
    await own.start()
    greedy = await own.open("gina", uuid4(), Options(downloads=tmp_path), told)
    modest = await own.open("hugo", uuid4(), Options(downloads=tmp_path), Told())
    with pytest.raises((ActionFailed, ComputerClosed)):
        await script(greedy, "window.kept = Array.from({length: 15}, () => new Uint8Array(1e8).fill(1)), {}")
        await script(greedy, "new Promise(() => {})")
    await asyncio.wait_for(greedy.closed.wait(), 5)
    assert told.of("closed") == [{"reason": "out_of_memory"}]
    assert await script(modest, "6 * 7") == 42
    await own.close()


async def test_when_the_driver_dies_computers_close_and_the_next_open_works(tmp_path: Path) -> None:
    own = Browsers()
    await own.start()
    told = Told()
    computer = await own.open("dave", uuid4(), Options(downloads=tmp_path), told)
    pid = own.processes()[0]["pid"]
    driver = int(of_process(pid, "stat").rsplit(")", 1)[1].split()[1])
    os.kill(driver, 9)
    await asyncio.wait_for(computer.closed.wait(), 5)
    await until(lambda: not runs(pid))
    again = await own.open("dave", uuid4(), Options(downloads=tmp_path), told)
    assert await script(again, "6 * 7") == 42
    await own.close()


async def meet_a_dead_driver(downloads: Path) -> None:
    """What calls on a computer say when its driver has died; for a process of its own."""
    own, computer_id = Browsers(), uuid4()
    await own.start()
    computer = await own.open("gail", computer_id, Options(downloads=downloads), Told())
    pid = own.processes()[0]["pid"]
    driver = int(of_process(pid, "stat").rsplit(")", 1)[1].split()[1])
    os.kill(pid, signal.SIGSTOP)  # so that it does not end with its driver
    os.kill(driver, signal.SIGKILL)
    try:
        with pytest.raises(RuntimeError):
            while True:  # until its end is known
                with suppress(PlaywrightError, TimeoutError):
                    async with asyncio.timeout(0.2):
                        await computer.refresh_tabs()
                await asyncio.sleep(0.01)
        for action in ("new_tab", "screenshot", "read_page"):
            assert await fails("tab_closed", computer, action)
        for event in ({"type": "tab", "event": "new"}, {"type": "navigate", "event": "back"}):
            with pytest.raises(ActionFailed, match="The browser has gone"):
                await dispatch(computer, INPUT.validate_python(event))
        service = computers._Service(uuid4(), LocalBus(), opens=False)
        service.held[computer_id] = computers.Held("gail", computer_id, 1, for_run=False, browser=computer)
        computers._open = service
        for call in (computers.screenshot, computers.storage_state):
            with pytest.raises(ActionFailed, match=r"gives no picture|does not tell"):
                await call("gail", computer_id)
    finally:
        os.killpg(pid, signal.SIGKILL)
        await asyncio.wait_for(computer.closed.wait(), 5)
        await own.close()


async def test_on_uvloop_a_dead_driver_is_told_as_a_failure_of_the_call(tmp_path: Path) -> None:
    meet = f"uvloop.run(test_browser.meet_a_dead_driver(pathlib.Path({str(tmp_path)!r})))"
    script = f"import pathlib, uvloop; from tests import test_browser; {meet}"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, cwd=ROOT)
    assert await asyncio.wait_for(process.wait(), 40) == 0
    assert set(chromium.FAULTS) < set(BROWSER_FAULTS)


async def test_all_who_miss_a_dead_driver_share_the_next_one(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    own = Browsers()
    await own.start()
    options = Options(downloads=tmp_path)
    first = await own.open("erin", uuid4(), options, Told())
    driver = int(of_process(own.processes()[0]["pid"], "stat").rsplit(")", 1)[1].split()[1])
    os.kill(driver, 9)
    computers = await asyncio.gather(*(own.open(f"erin-{n}", uuid4(), options, Told()) for n in range(3)))
    assert [await script(computer, "6 * 7") for computer in computers] == [42] * 3
    await asyncio.wait_for(first.closed.wait(), 5)
    await own.close()
    await asyncio.to_thread(temporary.rmdir)  # raises unless it is empty


async def test_a_chromium_that_dies_while_it_opens_is_replaced(tmp_path: Path) -> None:
    own = Browsers()
    await own.start()
    opening = asyncio.create_task(own.open("fred", uuid4(), Options(downloads=tmp_path), Told()))
    await until(lambda: own._processes and own._processes["fred"].pid)
    os.kill(own._processes["fred"].pid, 9)
    assert await script(await opening, "6 * 7") == 42
    await own.close()


async def test_over_capacity_is_refused(
    browsers: Browsers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "settings", settings.model_copy(update={"max_computers": 1}))
    with pytest.raises(TooManyComputers, match="room for 1"):
        await browsers.open("alice", uuid4(), Options(downloads=tmp_path), Told())


async def test_a_missing_chromium_names_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chromium, "SYSTEM_PROGRAMS", ())
    monkeypatch.setenv("PLAYWRIGHT_BROWSERS_PATH", "/nowhere")
    with pytest.raises(chromium.ChromiumMissing, match="apt-get install chromium"):
        chromium.find_chromium()
    wrong = settings.model_copy(update={"chromium_path": "/nowhere/chromium"})
    monkeypatch.setattr(chromium, "settings", wrong)
    with pytest.raises(chromium.ChromiumMissing, match="/nowhere/chromium"):
        chromium.find_chromium()


@pytest.mark.parametrize(
    "wrong",
    [
        {"time_zone": "Mars/Olympus"},
        {"locale": "\ud800"},
        {"storage_state": {"origins": [{"origin": "x", "localStorage": [7]}]}},
    ],
)
async def test_options_that_chromium_refuses_open_nothing(
    browsers: Browsers, tmp_path: Path, wrong: dict[str, Any]
) -> None:
    before = browsers.open_computers
    with pytest.raises(chromium.OpenFailed):
        await browsers.open("alice", uuid4(), Options(downloads=tmp_path, **wrong), Told())
    assert browsers.open_computers == before


async def test_a_cookie_that_chromium_refuses_is_left_out(browsers: Browsers, tmp_path: Path) -> None:
    good = {"name": "a", "value": "b", "domain": "127.0.0.1", "path": "/"}
    state = {
        "cookies": [good, {"name": "nowhere", "value": "x"}, good | {"name": "__Host-x", "path": "/deep"}]
    }
    computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path, storage_state=state), Told())
    assert [cookie["name"] for cookie in (await computer.storage_state())["cookies"]] == ["a"]
    await computer.close("done")


async def test_a_checkpoint_brings_back_cookies_storage_and_tabs(
    browsers: Browsers, computer: Computer, site: Site, tmp_path: Path
) -> None:
    await do(computer, "navigate", url=site.url("/store"))
    await do(computer, "new_tab", url=site.url("/second"))
    await do(computer, "switch_tab", tab="t1")
    state = json.loads(json.dumps(await computer.storage_state()))
    assert (state["tabs"], state["active"]) == ([site.url("/store"), site.url("/second")], 0)
    again = await browsers.open("alice", uuid4(), Options(downloads=tmp_path, storage_state=state), Told())
    await again.page.wait_for_load_state()
    assert [page.url for page in again.pages] == state["tabs"]
    assert again.page.url == site.url("/store")
    assert await script(again, "[localStorage.kept, document.cookie]") == ["yes", "taste=sweet"]
    await again.close()


async def test_computers_of_one_user_share_no_cookies(
    browsers: Browsers, computer: Computer, site: Site, tmp_path: Path
) -> None:
    await do(computer, "navigate", url=site.url("/store"))
    other = await browsers.open("alice", uuid4(), Options(downloads=tmp_path), Told())
    await do(other, "navigate", url=site.url("/static"))
    assert await script(other, "document.cookie + localStorage.length") == "0"
    await other.close()


async def test_all_traffic_goes_through_the_proxy_loopback_too(
    browsers: Browsers, site: Site, tmp_path: Path
) -> None:
    asked: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readline())
        writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        await writer.drain()
        writer.close()

    proxy = await asyncio.start_server(refuse, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{proxy.sockets[0].getsockname()[1]}"
    computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path, proxy_url=url), Told())
    before = len(site.asked)
    assert (await do(computer, "navigate", url=site.url("/second"))).output["status"] == 403
    assert (await do(computer, "navigate", url=site.other("/second"))).output["status"] == 403
    detail = await fails("unreachable", computer, "navigate", url="https://example.com/")
    assert "not allowed" in detail
    assert len(site.asked) == before
    assert any(line.startswith(b"CONNECT example.com:443") for line in asked)
    await computer.close()
    proxy.close()


async def test_no_host_but_the_page_s_own_is_contacted(
    tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o777)  # noqa: PTH101 - Chromium, another user, writes there
        log = f"{name}/net.json"
        monkeypatch.setattr(chromium, "FLAGS", (*chromium.FLAGS, f"--log-net-log={log}"))
        own = Browsers()
        await own.start()
        computer = await own.open("erin", uuid4(), Options(downloads=tmp_path), Told())
        await do(computer, "navigate", url=site.url())
        await do(computer, "navigate", url=site.url("/login"))
        await do(computer, "type", target={"selector": "[name=password]"}, text="hunter2hunter2")
        await do(computer, "click", target={"selector": "button"})
        await asyncio.sleep(3)  # a window of observation: vendor traffic starts by itself within it
        await own.close()
        entries = json.loads(contents(log))["events"]
    urls = {entry["params"]["url"] for entry in entries if "url" in entry.get("params", {})}
    hosts = {str(entry["params"]["host"]) for entry in entries if "host" in entry.get("params", {})}
    ours = (
        "http://127.0.0.1",
        "127.0.0.1",
        "http://localhost",
        "chrome",
        "about:",
        "data:",
        "blob:http://127",
    )
    assert any(url.startswith(site.url()) for url in urls)
    assert not [each for each in urls | hosts if not each.startswith(ours)]


async def test_webrtc_sends_nothing_around_the_proxy(browsers: Browsers, tmp_path: Path, site: Site) -> None:
    class Stun(asyncio.DatagramProtocol):
        heard = 0

        def datagram_received(self, data: bytes, addr: Any) -> None:
            Stun.heard += 1

    transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
        Stun, local_addr=("127.0.0.1", 0)
    )
    port = transport.get_extra_info("sockname")[1]
    computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path), Told())
    await do(computer, "navigate", url=site.url("/second"))
    gathered = await script(
        computer,
        f"""new Promise(async done => {{
          const peer = new RTCPeerConnection({{iceServers: [{{urls: 'stun:127.0.0.1:{port}'}}]}});
          peer.onicegatheringstatechange = () => peer.iceGatheringState === 'complete' && done('complete');
          peer.createDataChannel('c'); await peer.setLocalDescription();
          setTimeout(() => done('waited'), 1500);
        }})""",
    )
    assert gathered in ("complete", "waited")
    assert Stun.heard == 0
    await computer.close()
    transport.close()


# Pages and tabs -------------------------------------------------------------------------------


async def test_navigating_reports_url_title_and_status(computer: Computer, told: Told, site: Site) -> None:
    result = await do(computer, "navigate", url=site.url("/second"))
    where = {"tab": "t1", "url": site.url("/second"), "title": "Second"}
    assert result.output == where | {"status": 200, "loading": False}
    assert told.of("navigated") == [where]
    assert (await do(computer, "navigate", url=site.url("/missing"))).output["status"] == 404


async def test_history_goes_back_and_forward_and_says_where_it_ends(computer: Computer, site: Site) -> None:
    await do(computer, "navigate", url=site.url("/second"))
    await do(computer, "navigate", url=site.url("/static"))
    assert (await do(computer, "back")).output["title"] == "Second"
    assert (await do(computer, "forward")).output["title"] == "Static"
    assert (await do(computer, "reload")).output["title"] == "Static"
    assert "forward" in await fails("no_history", computer, "forward")


@pytest.mark.parametrize(
    "url",
    [
        "file:///etc/passwd", "data:text/html,x", "blob:http://a/b", "chrome://version", "view-source:http://a/",
        "javascript:alert(1)", "example.com", "//example.com", "FILE:///etc/passwd", " http://a/", "about:version",
        "ftp://a/", "filesystem:http://a/", "devtools://a",
    ],
)  # fmt: skip
async def test_only_web_addresses_are_opened(computer: Computer, url: str) -> None:
    for action in ("navigate", "new_tab"):
        assert "http://" in await fails("refused", computer, action, url=url)
    with pytest.raises(ActionFailed):
        await send(computer, "navigate", event="go", url=url)
    assert computer.page.url == "about:blank"


async def test_the_owner_s_rule_about_addresses_is_asked(
    browsers: Browsers, tmp_path: Path, site: Site
) -> None:
    options = Options(downloads=tmp_path, check_url=lambda url: "not this one" if "second" in url else None)
    computer = await browsers.open("alice", uuid4(), options, Told())
    assert "not this one" in await fails("refused", computer, "navigate", url=site.url("/second"))
    await do(computer, "navigate", url=site.url("/static"))
    await computer.close()


async def test_a_page_that_leaves_the_web_is_brought_back(form: Computer, told: Told, site: Site) -> None:
    await do(form, "click", target={"selector": "#blob"})
    await until(lambda: told.of("refused"))
    assert told.of("refused")[0]["url"].startswith("blob:")
    await until(lambda: form.page.url == site.url())


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://nothing.invalid/", "name is not known"),
        ("http://127.0.0.1:9/", "browsers do not use its port"),
    ],
)
async def test_an_unreachable_page_says_why(computer: Computer, url: str, why: str) -> None:
    assert why in await fails("unreachable", computer, "navigate", url=url)


async def test_a_server_that_never_answers_and_one_that_never_ends(computer: Computer, site: Site) -> None:
    assert "within 0.5 s" in await fails(
        "timeout", computer, "navigate", url=site.url("/never"), timeout_ms=500
    )
    result = await do(computer, "navigate", url=site.url("/stalled"), timeout_ms=1000)
    assert result.output["loading"] is True


async def test_a_popup_becomes_the_active_tab_and_closing_it_returns(
    form: Computer, told: Told, site: Site
) -> None:
    await do(form, "click", target={"selector": "#popup"})
    await until(lambda: form.tabs()[-1]["title"] == "Second")
    assert [(tab["id"], tab["active"]) for tab in form.tabs()] == [("t1", False), ("t2", True)]
    await script(form, "window.close()")
    await until(lambda: [tab["id"] for tab in form.tabs() if tab["active"]] == ["t1"])
    assert [data["state"] for data in told.of("tab") if data["tab"] == "t2"][-1] == "closed"


async def test_tabs_are_switched_and_the_last_one_is_replaced(computer: Computer, site: Site) -> None:
    await do(computer, "new_tab", url=site.url("/second"))
    await do(computer, "switch_tab", tab="t1")
    assert computer.active.id == "t1"
    await do(computer, "get_page_text", tab="t2")
    assert computer.active.id == "t2"
    assert [tab["id"] for tab in (await do(computer, "close_tab", tab="t1")).output["tabs"]] == ["t2"]
    tabs = (await do(computer, "close_tab")).output["tabs"]
    assert (
        tabs == [{"id": "t3", "url": "about:blank", "title": "about:blank", "active": True}]
        or tabs[0]["id"] == "t3"
    )
    assert "t9" in await fails("no_such_tab", computer, "switch_tab", tab="t9")


async def test_a_page_cannot_open_tabs_without_end(
    computer: Computer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(computer, "navigate", url=site.url("/floods"))
    assert len(computer.pages) == 1
    monkeypatch.setattr(chromium, "MAX_TABS", 3)
    for _ in range(5):
        await script(computer, "void open('/second')")
        await do(computer, "wait", duration_ms=100)
    await until(lambda: len(computer.context.pages) == len(computer.pages) == 3)


# What may go wrong ----------------------------------------------------------------------------


async def test_dialogs_are_dismissed_and_reported(computer: Computer, told: Told, site: Site) -> None:
    await do(computer, "navigate", url=site.url("/alerts"))
    assert await script(computer, "window.answer") == [False, None]
    said = [(data["type"], data["message"], data["answer"]) for data in told.of("dialog")]
    assert said == [("confirm", "sure?", "dismiss"), ("prompt", "who?", "dismiss")]


async def test_alerts_without_end_do_not_block_the_computer(
    computer: Computer, told: Told, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/alerts"))
    await fails("tab_closed", computer, "click", target={"selector": "button"})
    await until(lambda: told.of("crashed"))
    assert len(told.of("dialog")) <= 2 + chromium.MAX_DIALOGS
    assert await script(computer, "1 + 1") == 2
    assert computer.active.id == "t2"


async def test_a_page_that_asks_to_stay_is_left(computer: Computer, site: Site) -> None:
    await do(computer, "navigate", url=site.url("/leave"))
    await do(computer, "click", target={"selector": "button"})
    assert (await do(computer, "navigate", url=site.url("/second"))).output["title"] == "Second"


async def test_a_hanging_page_is_said_to_hang_and_its_tab_can_be_closed(
    computer: Computer, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/hang"))
    await send(computer, "mouse", event="move", x=30, y=20)
    await send(computer, "mouse", event="down", x=30, y=20)
    await send(computer, "mouse", event="up", x=30, y=20)
    started = time.monotonic()
    for action in ({"action": "click", "target": {"selector": "button"}}, {"action": "read_page"}):
        await fails("hanging", computer, **action, timeout_ms=700)
    with pytest.raises(ActionFailed, match="does not answer"):
        for number in range(400):
            await send(computer, "wheel", x=1, y=1, dy=number)
    await do(computer, "close_tab")
    assert time.monotonic() - started < 12
    assert (await do(computer, "navigate", url=site.other("/second"))).output["title"] == "Second"


async def test_a_checkpoint_of_a_hanging_page_still_has_its_cookies(
    computer: Computer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(computer, "navigate", url=site.url("/store"))
    await do(computer, "navigate", url=site.url("/hang"))
    monkeypatch.setattr(chromium, "CALL_SECONDS", 1.0)
    await send(computer, "mouse", event="down", x=30, y=20)
    await send(computer, "mouse", event="up", x=30, y=20)
    await fails("hanging", computer, "read_page", timeout_ms=300)
    state = await computer.storage_state()
    assert [cookie["name"] for cookie in state["cookies"]] == ["taste"]
    assert state["tabs"] == [site.url("/hang")]


def renderers(pid: int) -> int:
    """The processes below this one in which pages are drawn."""
    below = contents(f"/proc/{pid}/task/{pid}/children").decode().split()
    return sum(
        (b"--type=renderer" in contents(f"/proc/{child}/cmdline")) + renderers(int(child)) for child in below
    )


async def test_a_computer_costs_one_renderer_and_none_for_parts_of_a_window_that_nobody_sees(
    browsers: Browsers, computer: Computer, tmp_path: Path
) -> None:
    [pid] = {each["pid"] for each in browsers.processes() if each["user_id"] == "alice"}
    before = renderers(pid)
    more = [await browsers.open("alice", uuid4(), Options(downloads=tmp_path), Told()) for _ in range(4)]
    await until(lambda: renderers(pid) >= before + 4)
    assert renderers(pid) <= before + 5  # one may be kept ready
    for each in more:
        await each.close()


async def test_a_crashed_page_is_reported_and_the_computer_goes_on(
    computer: Computer, told: Told, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/second"))
    computer.input.send("Page.crash", {})
    await until(lambda: told.of("crashed"))
    assert told.of("crashed") == [{"tab": "t1", "url": site.url("/second")}]
    await until(lambda: [tab["id"] for tab in computer.tabs()] == ["t2"] and computer.tabs()[0]["active"])
    assert (await do(computer, "navigate", url=site.url("/static"))).output["title"] == "Static"
    assert not computer.closed.is_set()


async def test_a_page_too_large_for_its_tree_shows_what_is_in_view(computer: Computer) -> None:
    rows = (
        "for (let n = 0; n < 4000; n++) out += `<p>Tea ${n} <a href=#${n}>More</a><button>Buy ${n}</button>`"
    )
    large = f"<title>Large</title><script>let out = ''; {rows}; document.write(out)</script>"
    async with pages.serve({"/large": large}) as own:
        await do(computer, "navigate", url=own.url("/large"))
        async with asyncio.timeout(10):
            seen = await actions.describe(computer)
        assert "The page has 12005 elements, too many for its tree." in seen
        lines = [line for line in seen.splitlines() if line.startswith("- ")]
        assert 20 < len(lines) < 200
        (place,) = [line.rpartition(" at ")[2] for line in lines if line.startswith('- button "Buy 7" ')]
        await computer.page.evaluate("void (onclick = event => document.title = event.target.textContent)")
        x, y = place.split(", ")
        await do(computer, "click", target={"coordinate": {"x": x, "y": y}})
        assert await computer.page.title() == "Buy 7"
        await computer.page.evaluate("document.body.replaceChildren(document.querySelector('button'))")
        assert '- button "Buy 0" [ref=ref_e' in await actions.describe(computer)


async def test_a_download_is_kept_under_a_safe_path_with_its_own_name(
    computer: Computer, told: Told, site: Site, tmp_path: Path
) -> None:
    result = await do(computer, "navigate", url=site.url("/small"))
    assert result.output["download"] is True
    data = (await until(lambda: told.of("download")))[0]
    assert (data["size"], data["url"], data["state"]) == (1000, site.url("/small"), "completed")
    assert "/" not in data["name"]
    assert data["path"].startswith(f"{tmp_path}/downloads/")
    assert contents(data["path"]) == b"x" * 1000


@pytest.mark.parametrize("path", ["/large", "/endless"])
async def test_a_download_over_the_limit_is_stopped_and_removed(
    computer: Computer, told: Told, site: Site, tmp_path: Path, path: str
) -> None:
    await do(computer, "navigate", url=site.url(path))
    data = (await until(lambda: told.of("download")))[0]
    assert (data["state"], data["path"]) == ("too_large", None)
    await until(lambda: not list(computer._download_dir.iterdir()))
    assert not (tmp_path / "downloads").exists()


@pytest.mark.parametrize("path", ["/small", "/large", "/endless"])
async def test_a_download_is_the_business_of_its_own_computer_alone(
    browsers: Browsers, computer: Computer, told: Told, site: Site, tmp_path: Path, path: str
) -> None:
    beside = Told()
    other = await browsers.open("alice", uuid4(), Options(downloads=tmp_path), beside)
    await do(computer, "navigate", url=site.url(path))
    await until(lambda: told.of("download"))
    await do(other, "navigate", url=site.url("/small"))
    own = await until(lambda: beside.of("download"))
    assert [(data["url"], data["state"]) for data in own] == [(site.url("/small"), "completed")]
    assert len(told.of("download")) == 1
    await other.close()


async def test_a_download_that_takes_too_long_is_stopped(
    computer: Computer, told: Told, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "DOWNLOAD_SECONDS", 0.05)
    monkeypatch.setattr(pages, "PAGES", pages.PAGES | {"/slow": slow_attachment})
    await do(computer, "navigate", url=site.url("/slow"))
    assert (await until(lambda: told.of("download")))[0]["state"] == "timeout"


async def slow_attachment(writer: asyncio.StreamWriter) -> None:
    writer.write(
        b"HTTP/1.1 200 OK\r\nContent-Type: application/zip\r\nContent-Disposition: attachment\r\n\r\nPK"
    )
    await writer.drain()
    await asyncio.sleep(3600)


# Acting ---------------------------------------------------------------------------------------


async def test_elements_are_clicked_by_selector_ref_and_coordinate(form: Computer) -> None:
    await do(form, "click", target={"selector": "#go"})
    matches = (await do(form, "find", query="button go")).output["matches"]
    await do(form, "click", target={"ref": matches[0]["ref"]}, button="right")
    box = await form.page.locator("#go").bounding_box()
    assert box is not None
    middle = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
    await do(form, "click", target={"coordinate": middle}, count=2)
    assert await events(form) == ["hover", "click", "menu", "click", "click", "double"]


async def test_frames_and_shadow_roots_are_read_and_acted_on(form: Computer) -> None:
    tree = (await do(form, "read_page")).output["tree"]
    assert 'button "Framed" [ref=ref_' in tree
    for name in ("Framed", "Shady"):
        ref = (await do(form, "find", query=name)).output["matches"][0]["ref"]
        await do(form, "click", target={"ref": ref})
    assert await events(form) == ["framed", "shady"]


async def test_pointer_actions_press_move_and_release(form: Computer) -> None:
    box = await form.page.locator("#pad").bounding_box()
    assert box is not None
    x, y = box["x"] + 20, box["y"] + 20
    await do(form, "mouse_move", coordinate={"x": x, "y": y})
    await do(form, "mouse_down", coordinate={"x": x, "y": y})
    await do(form, "mouse_move", coordinate={"x": x + 9, "y": y})
    await do(form, "mouse_up", coordinate={"x": x + 9, "y": y})
    pressed = ["mousemove:0:0", "mousedown:0:1", "mousemove:0:1", "mouseup:0:0"]
    assert await events(form) == pressed
    await do(form, "drag", start={"selector": "#pad"}, end={"coordinate": {"x": x, "y": y}})
    dragged = (await events(form))[len(pressed) :]
    assert (dragged[1], dragged[-1]) == ("mousedown:0:1", "mouseup:0:0")
    await do(form, "hover", target={"selector": "#go"})
    assert (await events(form))[-1] == "hover"


async def test_scrolling_moves_the_page(form: Computer) -> None:
    await do(form, "scroll", dy=500)
    await eventually(lambda: script(form, "scrollY"), lambda at: at >= 400)
    await do(form, "scroll_to", target={"selector": "#end"})
    assert await script(form, "end.getBoundingClientRect().top < innerHeight")


async def test_typing_and_keys_reach_the_field(form: Computer) -> None:
    await do(form, "type", target={"selector": "#name"}, text="Zoë 漢字")
    assert await script(form, "document.getElementById('name').value") == "Zoë 漢字"
    await do(form, "type", target={"selector": "#name"}, text="new", clear=True)
    await do(form, "key", keys="BackSpace".title(), repeat=2)
    assert await script(form, "document.getElementById('name').value") == "n"
    await do(form, "key", keys="ctrl+a")
    await do(form, "key", keys="+")
    await do(form, "hold_key", keys="shift", duration_ms=50)
    assert await script(form, "document.getElementById('name').value") == "+"
    long = "long text " * 1000
    await do(form, "type", target={"selector": "#area"}, text=long)
    assert await script(form, "area.value.length") == len(long)
    assert "Frobnicate" in await fails("failed", form, "key", keys="Frobnicate")


async def test_fields_take_values_of_their_kind(form: Computer) -> None:
    await do(form, "form_input", target={"selector": "#name"}, value=1234567)
    await do(form, "form_input", target={"selector": "#tick"}, value=True)
    await do(form, "form_input", target={"selector": "#city"}, value="Rome")
    values = "[document.getElementById('name').value, tick.checked, city.value]"
    assert await script(form, values) == ["1234567", True, "r"]
    assert "true or false" in await fails(
        "wrong_value", form, "form_input", target={"selector": "#tick"}, value="x"
    )
    assert "takes text" in await fails(
        "wrong_value", form, "form_input", target={"selector": "#name"}, value=True
    )
    where = {"selector": "#city"}
    assert "no such option" in await fails(
        "no_such_option", form, "form_input", target=where, value="Oslo", timeout_ms=300
    )


async def test_files_are_uploaded_by_field_button_and_open_chooser(
    browsers: Browsers, told: Told, tmp_path: Path, site: Site
) -> None:
    (tmp_path / "stored").write_bytes(b"12345")
    (tmp_path / "stored").chmod(0o600)

    @asynccontextmanager
    async def find_file(file: str) -> AsyncIterator[tuple[str, Path]]:
        yield "../cv.pdf", tmp_path / file

    computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path, find_file=find_file), told)
    await do(computer, "navigate", url=site.url())
    await do(computer, "file_upload", target={"selector": "#file"}, files=["stored"])
    await do(computer, "file_upload", target={"selector": "#ask"}, files=["stored"])
    assert "No file chooser" in await fails("no_file_chooser", computer, "file_upload", files=["stored"])
    await do(computer, "click", target={"selector": "#ask"})
    await until(lambda: computer.file_chooser)
    await do(computer, "file_upload", files=["stored"])
    assert await events(computer) == ["file:cv.pdf5"] * 3
    assert told.of("file_chooser")[-1] == {"tab": "t1", "multiple": False}
    await fails("no_such_file", computer, "file_upload", target={"selector": "#file"}, files=["other"])
    await computer.close()


async def test_copies_of_uploads_are_bounded_and_the_oldest_make_room(
    browsers: Browsers, told: Told, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chromium, "MAX_UPLOAD_BYTES", 12)
    (tmp_path / "stored").write_bytes(b"12345")

    @asynccontextmanager
    async def find_file(file: str) -> AsyncIterator[tuple[str, Path]]:
        yield "cv.pdf", tmp_path / file

    computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path, find_file=find_file), told)
    await do(computer, "navigate", url=site.url())
    for _ in range(4):
        await do(computer, "file_upload", target={"selector": "#file"}, files=["stored"])
    assert await events(computer) == ["file:cv.pdf5"] * 4
    uploads = computer._uploads
    assert sorted(str(path.relative_to(uploads)) for path in uploads.rglob("*.pdf")) == [
        "3/0/cv.pdf",
        "4/0/cv.pdf",
    ]
    await fails("too_large", computer, "file_upload", target={"selector": "#file"}, files=["stored"] * 3)
    await fails("no_such_file", computer, "file_upload", target={"selector": "#file"}, files=["stored", "no"])
    assert len(list(uploads.rglob("*.pdf"))) <= 1
    assert sum(computer._uploaded.values()) <= 12
    await computer.close()


async def test_a_download_that_is_kept_while_its_computer_closes_is_removed(
    browsers: Browsers, told: Told, tmp_path: Path, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    copying, closing, moved = threading.Event(), threading.Event(), threading.Event()
    move = chromium._move

    def slow(*places: Any) -> None:
        copying.set()
        closing.wait(10)
        try:
            move(*places)
        finally:
            moved.set()

    monkeypatch.setattr(chromium, "_move", slow)
    kept = tmp_path / "kept"
    computer = await browsers.open("kate", uuid4(), Options(downloads=kept), told)
    with suppress(ActionFailed):
        await do(computer, "navigate", url=site.url("/small"))
    assert await asyncio.to_thread(copying.wait, 10)
    assert computer.end("closed")
    closing.set()
    assert await asyncio.to_thread(moved.wait, 10)
    await asyncio.gather(*computer._tasks, return_exceptions=True)
    assert list(kept.iterdir()) == []
    await computer._process.leave(computer)


async def test_without_an_owner_s_files_nothing_can_be_uploaded(form: Computer) -> None:
    await fails("no_such_file", form, "file_upload", target={"selector": "#file"}, files=["/etc/passwd"])


@pytest.mark.parametrize(
    ("selector", "code", "words"),
    [
        ("#nothing", "not_found", "Nothing on the page fits"),
        (".twin", "ambiguous", "fits 2 elements"),
        ("#hidden", "not_visible", "is not visible"),
        ("#off", "disabled", "is disabled"),
        ("#under", "covered", "covered by another"),
        ("!!bad[", "invalid_selector", "not a valid selector"),
    ],
)
async def test_an_element_that_cannot_be_clicked_says_why(
    form: Computer, selector: str, code: str, words: str
) -> None:
    assert words in await fails(code, form, "click", target={"selector": selector}, timeout_ms=900)


async def test_a_ref_of_nothing_is_not_found(form: Computer) -> None:
    assert "ref_e999" in await fails("not_found", form, "click", target={"ref": "ref_e999"}, timeout_ms=300)


async def test_scripts_answer_json_and_are_bounded_in_time_and_size(form: Computer, site: Site) -> None:
    assert await script(form, "({a: [1, secret, null], b: undefined})") == {"a": [1, 42, None]}
    assert await script(form, "new Promise(done => setTimeout(() => done('later'), 20))") == "later"
    assert await script(form, "undefined") is None
    assert await script(form, "document.body") == {}
    assert "boom" in await fails(
        "script_failed", form, "evaluate", expression="(() => { throw new Error('boom') })()"
    )
    assert "Error" in await fails("script_failed", form, "evaluate", expression="][")
    numbers = await script(form, "[2 ** 64, -1e20, {raw: JSON.rawJSON('9'.repeat(400))}, 7]")
    assert (numbers, type(numbers[0])) == ([2.0**64, -1e20, {"raw": None}, 7], float)
    for made in ("'{'", "({})", "'9'.repeat(5000)"):
        await script(
            form, f"(own => {{ JSON.stringify = () => (JSON.stringify = own, {made}) }})(JSON.stringify)"
        )
        assert "no JSON" in await fails("script_failed", form, "evaluate", expression="1")
    assert "characters" in await fails("too_large", form, "evaluate", expression="'x'.repeat(1e6)")
    for depth in (66, 300, 5000):
        nested = f"JSON.parse('['.repeat({depth}) + ']'.repeat({depth}))"
        assert "deep" in await fails("too_large", form, "evaluate", expression=nested)
    for forever in (
        "(() => { for (;;); })()",
        "new Promise(() => {})",
        "(async () => { await 1; for (;;); })()",
    ):
        await fails("timeout", form, "evaluate", expression=forever, timeout_ms=300)
        assert await script(form, "1") == 1
    await do(form, "navigate", url=site.url("/csp"))
    assert await script(form, "document.title") == "Csp"


@pytest.mark.parametrize(
    "thrown", ["'x'.repeat(1e6)", "new Error('x'.repeat(1e6))", "{toString: () => 'x'.repeat(1e6)}"]
)
async def test_a_long_complaint_of_a_script_never_leaves_the_page(
    form: Computer, monkeypatch: pytest.MonkeyPatch, thrown: str
) -> None:
    replies, cdp = [], form.active.cdp
    send = cdp.send

    async def recorded(method: str, parameters: dict[str, Any] | None = None) -> dict[str, Any]:
        reply = await send(method, parameters)
        replies.append(reply)
        return reply

    monkeypatch.setattr(cdp, "send", recorded)
    expression = f"(() => {{ throw {thrown} }})()"
    assert "xxx" in await fails("script_failed", form, "evaluate", expression=expression)
    assert len(str(replies)) < 5000


async def test_a_picture_of_a_huge_page_is_bounded(form: Computer) -> None:
    await script(form, "void (document.body.innerHTML = '<p style=\"width:60000px;height:60000px\">x')")
    full = await do(form, "screenshot", format="png", full_page=True)
    assert full.image is not None
    width, height = png_size(full.image)
    assert width * height <= chromium.MAX_PIXELS


async def test_pictures_have_the_sizes_asked_for(form: Computer) -> None:
    shot = await do(form, "screenshot", format="png")
    assert shot.image is not None
    assert (shot.media_type, png_size(shot.image)) == ("image/png", (1280, 720))
    full = await do(form, "screenshot", format="png", full_page=True)
    assert full.image is not None
    assert png_size(full.image)[1] > 3000
    zoomed = await do(form, "zoom", coordinate={"x": 0, "y": 0}, width=320, height=180)
    assert zoomed.image is not None
    assert (zoomed.output["scale"], jpeg_size(zoomed.image)) == (4.0, (1280, 720))
    assert jpeg_size(await form.screenshot()) == (1280, 720)


async def test_a_picture_is_taken_though_its_page_goes_to_another_process_meanwhile(
    browsers: Browsers, site: Site, tmp_path: Path
) -> None:
    for path in ("/second", "/stalled", "/second", "/stalled"):
        computer = await browsers.open("alice", uuid4(), Options(downloads=tmp_path), Told())
        going = asyncio.ensure_future(computer.page.goto(site.url(path), wait_until="commit"))
        async with asyncio.timeout(5):
            while not going.done():
                assert jpeg_size(await computer.screenshot()) == (1280, 720)
        await going
        await computer.close()


def png_size(png: bytes) -> tuple[int, int]:
    return int.from_bytes(png[16:20]), int.from_bytes(png[20:24])


async def test_the_page_s_text_is_what_a_person_sees(form: Computer) -> None:
    output = (await do(form, "get_page_text")).output
    assert "The end" in output["text"]
    assert "Hidden" not in output["text"]
    await script(form, "void (document.body.innerText = 'line\\n'.repeat(100000))")
    assert (await do(form, "get_page_text")).output["truncated"] is True


@pytest.mark.parametrize(
    "wrong",
    [
        {"action": "fly"},
        {"action": "click"},
        {"action": "click", "target": {}},
        {"action": "click", "target": {"ref": "ref_1", "selector": "a"}},
        {"action": "click", "target": {"ref": "e1 >> x"}},
        {"action": "click", "target": {"coordinate": {"x": float("nan"), "y": 1}}},
        {"action": "click", "target": {"selector": "a"}, "count": 4},
        {"action": "click", "target": {"selector": "a"}, "extra": 1},
        {"action": "navigate", "url": "http://a/" + "x" * 9000},
        {"action": "switch_tab"},
        {"action": "switch_tab", "tab": "1; drop"},
        {"action": "wait", "duration_ms": 10**9},
        {"action": "evaluate", "expression": ""},
    ],
)
def test_malformed_actions_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ACTION.validate_python(wrong)


# Live input -----------------------------------------------------------------------------------


async def test_live_input_arrives_in_order(form: Computer) -> None:
    await do(form, "click", target={"selector": "#name"})
    for key in "The quick brown fox; 100%!" * 4:
        await send(form, "key", event="down", key=key)
        await send(form, "key", event="up", key=key)
    value = "document.getElementById('name').value"
    await eventually(lambda: script(form, value), lambda text: text == "The quick brown fox; 100%!" * 4)
    for key in ("Backspace", "Home", "Delete"):
        await send(form, "key", event="down", key=key)
        await send(form, "key", event="up", key=key)
    await send(form, "text", text="→漢")
    expected = "→漢" + ("The quick brown fox; 100%!" * 4)[1:-1]
    await eventually(lambda: script(form, value), lambda text: text == expected)
    await send(form, "key", event="down", key="a", modifiers=2)
    await send(form, "key", event="up", key="a", modifiers=2)
    await send(form, "text", text="gone")
    await eventually(lambda: script(form, value), lambda text: text == "gone")


async def test_live_moves_are_coalesced_and_the_last_one_counts(form: Computer) -> None:
    box = await form.page.locator("#pad").bounding_box()
    assert box is not None
    await script(form, "void pad.addEventListener('mousemove', e => window.at = e.offsetX)")
    for step in range(150):
        await send(form, "mouse", event="move", x=box["x"] + step, y=box["y"] + 5)
    await eventually(lambda: script(form, "window.at"), lambda at: at == 149)
    moves = [each for each in await events(form) if each.startswith("mousemove")]
    assert len(moves) < 150


async def test_live_buttons_wheel_and_touch_reach_the_page(form: Computer) -> None:
    box = await form.page.locator("#pad").bounding_box()
    assert box is not None
    at = {"x": box["x"] + 5, "y": box["y"] + 5}
    await send(form, "mouse", event="down", **at, button="right")
    await send(form, "mouse", event="up", **at, button="right")
    await send(form, "wheel", **at, dy=30)
    await send(form, "touch", event="start", points=[at])
    await send(form, "touch", event="end")
    wanted = {"mousedown:2:2", "mouseup:2:0", "touchstart::"}
    await eventually(
        lambda: events(form), lambda seen: wanted <= set(seen) and any("wheel" in each for each in seen)
    )


async def test_what_is_held_is_let_go(form: Computer) -> None:
    box = await form.page.locator("#pad").bounding_box()
    assert box is not None
    await script(form, "void document.addEventListener('keyup', e => log('up:' + e.key))")
    await send(form, "mouse", event="down", x=box["x"] + 5, y=box["y"] + 5)
    await send(form, "key", event="down", key="Shift", code="ShiftLeft")
    before = form.input.held
    release_all(form)
    assert (before, form.input.held) == (True, False)
    await eventually(lambda: events(form), lambda seen: {"mouseup:0:0", "up:Shift"} <= set(seen))


async def test_live_navigation_and_tabs(computer: Computer, site: Site) -> None:
    await send(computer, "navigate", event="go", url=site.url("/second"))
    await until(lambda: computer.tabs()[0]["title"] == "Second")
    await send(computer, "navigate", event="go", url=site.url("/static"))
    await until(lambda: computer.tabs()[0]["title"] == "Static")
    await send(computer, "navigate", event="back")
    await until(lambda: computer.tabs()[0]["title"] == "Second")
    await send(computer, "tab", event="new")
    assert computer.active.id == "t2"
    await send(computer, "tab", event="switch", tab="t1")
    await send(computer, "tab", event="close", tab="t2")
    assert [tab["id"] for tab in computer.tabs()] == ["t1"]
    with pytest.raises(ActionFailed, match="t7"):
        await send(computer, "tab", event="close", tab="t7")


@pytest.mark.parametrize(
    "wrong",
    [
        {"type": "mouse", "event": "move", "x": float("inf"), "y": 0},
        {"type": "mouse", "event": "teleport", "x": 0, "y": 0},
        {"type": "mouse", "event": "down", "x": 0, "y": 0, "button": "fourth"},
        {"type": "mouse", "event": "move", "x": 0, "y": 0, "modifiers": 16},
        {"type": "key", "event": "down", "key": "NoSuchKey"},
        {"type": "key", "event": "down", "key": "\x00"},
        {"type": "text", "text": "x" * 10_001},
        {"type": "navigate", "event": "go"},
        {"type": "tab", "event": "switch"},
        {"type": "touch", "event": "start", "points": [{"x": 0, "y": 0}] * 11},
    ],
)
def test_malformed_input_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        INPUT.validate_python(wrong)


# Screencast -----------------------------------------------------------------------------------


async def test_viewers_share_one_cast_and_a_late_one_of_a_static_page_sees_it_at_once(
    computer: Computer, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/static"))
    first: list[Frame] = []
    views: list[dict[str, Any]] = []
    watch = computer.screencast.watch(first.append, views.append)
    await until(lambda: first)
    assert (first[-1].image, first[-1].css) == ((1280, 720), (1280, 720))
    assert abs(first[-1].capture_us / 1e6 - time.time()) < 30
    assert views == [{"tab": "t1", "url": site.url("/static"), "title": "Static"}]
    await do(computer, "wait", duration_ms=400)
    late: list[Frame] = []
    second = computer.screencast.watch(late.append)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert late == [first[-1]]
    watch.close()
    assert computer.screencast.casting
    second.close()
    await until(lambda: not computer.screencast.casting)


async def test_a_page_between_two_documents_is_cast_a_moment_later(
    computer: Computer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(computer, "navigate", url=site.url("/animated"))
    cdp, refused = computer.active.cdp, 0
    send = cdp.send

    async def refuse(method: str, *rest: Any) -> Any:
        nonlocal refused
        if method == "Page.startScreencast" and refused < 2:
            refused += 1
            raise PlaywrightError("Not attached to an active page")
        return await send(method, *rest)

    monkeypatch.setattr(cdp, "send", refuse)
    seen: list[Frame] = []
    watch = computer.screencast.watch(seen.append)
    await until(lambda: len(seen) > 3)
    watch.close()
    assert refused == 2


async def test_a_slow_viewer_gets_few_frames_and_always_the_last(computer: Computer, site: Site) -> None:
    seen: list[Frame] = []
    quick: list[Frame] = []
    await do(computer, "navigate", url=site.url("/animated?1200"), wait_until="commit")
    slow_watch = computer.screencast.watch(seen.append, None, max_fps=3)
    await do(computer, "wait", duration_ms=2500)
    assert 2 <= len(seen) <= 10
    dark = seen[-1]
    assert len(dark.jpeg) < len(seen[0].jpeg) * 3
    truth = await computer.screenshot(quality=60)
    assert abs(len(dark.jpeg) - len(truth)) < 0.2 * len(truth)
    await do(computer, "navigate", url=site.url("/animated"))
    quick_watch = computer.screencast.watch(quick.append, None, max_fps=60)
    before = len(seen)
    await do(computer, "wait", duration_ms=1000)
    assert len(seen) - before <= 6
    assert len(quick) > len(seen) - before
    assert [frame.number for frame in quick] == sorted({frame.number for frame in quick})
    slow_watch.close()
    quick_watch.close()


async def test_without_viewers_nothing_is_cast(computer: Computer, site: Site) -> None:
    await do(computer, "navigate", url=site.url("/animated"))
    frames: list[Frame] = []
    watch = computer.screencast.watch(frames.append)
    await until(lambda: len(frames) > 3)
    watch.close()
    await until(lambda: not computer.screencast.casting)
    number = computer.screencast.last and computer.screencast.last.number
    await do(computer, "wait", duration_ms=300)
    assert (computer.screencast.last and computer.screencast.last.number) == number


async def test_the_cast_follows_tabs_navigations_crashes_and_sizes(computer: Computer, site: Site) -> None:
    frames: list[Frame] = []
    views: list[dict[str, Any]] = []
    watch = computer.screencast.watch(frames.append, views.append, max_fps=60)

    async def moves() -> None:
        count = len(frames)
        await until(lambda: len(frames) > count + 4)

    await do(computer, "navigate", url=site.url("/animated"))
    await moves()
    await do(computer, "navigate", url=site.other("/animated"))
    await moves()
    await do(computer, "new_tab", url=site.url("/animated"))
    await moves()
    await computer.page.set_viewport_size({"width": 800, "height": 600})
    await until(lambda: frames[-1].image == (800, 600) == frames[-1].css)
    await do(computer, "switch_tab", tab="t1")
    await moves()
    computer.input.send("Page.crash", {})
    await until(lambda: [tab["id"] for tab in computer.tabs()] == ["t2"])
    await moves()
    assert [view["tab"] for view in views if view["url"].endswith("/animated")][-1] == "t2"
    watch.close()


async def test_nothing_is_left_behind_by_a_killed_server(tmp_path: Path) -> None:
    program = (
        "import asyncio, os, uuid, pathlib\n"
        "from browser.chromium import Browsers, Options\n"
        "async def main():\n"
        "    browsers = Browsers(); await browsers.start()\n"
        f"    await browsers.open('frank', uuid.uuid4(), Options(downloads=pathlib.Path({str(tmp_path)!r})), print)\n"
        "    print('pid', browsers.processes()[0]['pid'], browsers._processes['frank'].home, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    async with asyncio.timeout(20):
        while not (line := await server.stdout.readline()).startswith(b"pid"):
            assert line
    _, number, home = line.decode().split()
    server.kill()
    await server.wait()
    await until(lambda: not runs(int(number)))
    chromium._remove_abandoned()
    assert not await asyncio.to_thread(Path(home).exists)
