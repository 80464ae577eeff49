# ruff: noqa: F811 - fixtures of another file
"""The local storage in a checkpoint: of pages that are shown, that were left, and that lie or hang."""

import asyncio
from typing import Any

import pytest
from playwright.async_api import Error as PlaywrightError

from browser import local_storage
from browser.chromium import Computer
from tests import pages
from tests.pages import Site
from tests.test_browser import (  # noqa: F401 (fixtures)
    Told,
    browsers,
    computer,
    do,
    fails,
    script,
    send,
    told,
    until,
)

pytestmark = pytest.mark.usefixtures("site")
POPUPS = 12


async def keep(computer: Computer, name: str, value: str) -> None:
    await script(computer, f"localStorage[{name!r}] = {value!r}")


async def origins(computer: Computer) -> dict[str, dict[str, str]]:
    state = await computer.storage_state()
    return {
        entry["origin"]: {item["name"]: item["value"] for item in entry["localStorage"]}
        for entry in state["origins"]
    }


@pytest.fixture
def visits(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """The origins that the private page was opened for, by each time."""
    seen: list[set[str]] = []
    visit = local_storage.LocalStorage._visit

    async def note(self: Any, left: set[str], open_page: Any) -> None:
        seen.append(left)
        await visit(self, left, open_page)

    monkeypatch.setattr(local_storage.LocalStorage, "_visit", note)
    return seen


async def test_an_origin_that_was_left_is_read_once_without_a_request(
    computer: Computer, told: Told, site: Site, visits: list[set[str]]
) -> None:
    here, there = site.url("").rstrip("/"), site.other("").rstrip("/")
    await do(computer, "navigate", url=site.url("/static"))
    await keep(computer, "a", "1")
    assert await origins(computer) == {here: {"a": "1"}}
    await keep(computer, "a", "2")
    await do(computer, "navigate", url=site.other("/second"))
    await keep(computer, "b", "3")
    asked = len(site.asked)
    kept = {here: {"a": "2"}, there: {"b": "3"}}
    for _ in range(3):
        assert await origins(computer) == kept
    assert (visits, {*site.asked[asked:]} - {"/favicon.ico"}) == ([{here}], set())
    await do(computer, "navigate", url=site.url("/static"))
    await script(computer, "localStorage.clear()")
    assert await origins(computer) == {there: {"b": "3"}}
    assert [event["tab"] for event in told.of("tab") if event["state"] == "opened"] == ["t1"]


async def test_checkpoints_at_once_show_no_page_and_hide_no_popup(
    computer: Computer, told: Told, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/store"))
    await do(computer, "navigate", url=site.other("/static"))
    for _ in range(POPUPS):
        computer._storage.note(site.url())  # as if it had been shown since the last one
        expression = "open('/second', '_blank') !== null"
        *states, opened = await asyncio.gather(
            *(computer.storage_state() for _ in range(3)),
            computer.page.evaluate(expression),
        )
        assert all(
            {"kept"} == {item["name"] for item in state["origins"][0]["localStorage"]} for state in states
        )
        assert all(
            page in (site.other("/static"), site.other("/second"), "about:blank")
            for state in states
            for page in state["tabs"]
        )
    assert opened
    tabs = await until(
        lambda: (
            [tab for tab in computer.tabs() if tab["url"] != "about:blank"] * (len(computer.tabs()) > POPUPS)
        )
    )
    assert len(tabs) == POPUPS + 1


async def test_a_checkpoint_that_is_given_up_leaves_no_page(computer: Computer, site: Site) -> None:
    await do(computer, "navigate", url=site.url("/store"))
    await do(computer, "navigate", url=site.other("/static"))
    for wait in range(12):
        computer._storage.note(site.url())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(wait / 400):
                await computer.storage_state()
                await asyncio.Event().wait()
    assert len(await origins(computer)) == 1
    await until(lambda: len(computer.context.pages) == 1)
    assert len(computer.tabs()) == 1


async def test_a_worker_of_the_site_does_not_answer_for_the_page_that_reads(computer: Computer) -> None:
    answers = "self.onfetch = event => event.respondWith(new Response('<script>localStorage.forged = 1</script>', {headers: {'content-type': 'text/html'}}))"

    async def worker(writer: asyncio.StreamWriter) -> None:
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/javascript\r\nConnection: close\r\n\r\n"
            + answers.encode()
        )
        await writer.drain()

    async with pages.serve({"/worker.js": worker}) as site:
        await do(computer, "navigate", url=site.url("/static"))
        ready = "navigator.serviceWorker.register('/worker.js').then(() => navigator.serviceWorker.ready).then(() => (localStorage.a = 1, true))"
        assert await computer.page.evaluate(ready)
        await do(computer, "navigate", url=site.other("/second"))
        assert await origins(computer) == {site.url("").rstrip("/"): {"a": "1"}}
        await do(computer, "navigate", url=site.url("/static"))
        assert await script(computer, "localStorage.forged") == "1"  # it does answer for others


async def test_what_a_page_puts_in_the_place_of_its_storage_is_kept_as_words_or_not_at_all(
    computer: Computer, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/static"))
    for lie in ("{a: 1, b: {}, c: 'd'}", "7", "null", "new Proxy({}, {ownKeys() { throw 'no' }})"):
        await script(
            computer,
            f"Object.defineProperty(window, 'localStorage', {{value: {lie}, configurable: true}}), 1",
        )
        kept = await origins(computer)
        assert kept in ({}, {site.url("").rstrip("/"): {"c": "d"}}), lie


async def test_of_a_page_that_hangs_it_is_what_was_read_last(computer: Computer, site: Site) -> None:
    here, there = site.url("").rstrip("/"), site.other("").rstrip("/")
    await do(computer, "navigate", url=site.other("/store"))
    await do(computer, "navigate", url=site.url("/hang"))
    await keep(computer, "a", "1")
    assert await origins(computer) == {here: {"a": "1"}, there: {"kept": "yes"}}
    assert not computer.stale_storage
    await send(computer, "mouse", event="down", x=30, y=20)
    await send(computer, "mouse", event="up", x=30, y=20)
    await fails("hanging", computer, "read_page", timeout_ms=300)
    assert await origins(computer) == {here: {"a": "1"}, there: {"kept": "yes"}}
    assert computer.stale_storage


async def test_frames_that_may_not_tell_are_passed_over(
    computer: Computer, told: Told, site: Site, visits: list[set[str]]
) -> None:
    here = site.url("").rstrip("/")
    await do(computer, "navigate", url=site.url("/static"))
    await keep(computer, "a", "1")
    frame = "it => new Promise(done => { Object.assign(document.body.appendChild(document.createElement('iframe')), it).onload = done })"
    for sandbox, url in (("allow-scripts", site.url("/static")), ("allow-scripts", site.other("/store"))):
        await computer.page.evaluate(frame, {"sandbox": sandbox, "src": url})
    assert len(computer.page.frames) == 3
    assert await origins(computer) == {here: {"a": "1"}}
    assert visits == []


async def test_frames_that_have_gone_and_many_origins_at_once_cost_nothing_later(
    computer: Computer, site: Site, visits: list[set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    await do(computer, "navigate", url=site.url("/framed"))
    await until(lambda: any(frame.url == site.other("/login") for frame in computer.page.frames))
    await computer.page.evaluate("document.querySelector('iframe').remove()")
    await origins(computer)
    assert visits == []
    monkeypatch.setattr(local_storage, "MAX_UNREAD", 2)
    for number in range(4):
        computer._storage.note(f"http://{number}.example/")
    await origins(computer)
    assert visits == [{"http://2.example", "http://3.example"}]


async def test_the_newest_origins_are_kept(
    computer: Computer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_storage, "MAX_ORIGINS", 1)
    await do(computer, "navigate", url=site.url("/store"))
    assert list(await origins(computer)) == [site.url("").rstrip("/")]
    await do(computer, "navigate", url=site.other("/store"))
    assert list(await origins(computer)) == [site.other("").rstrip("/")]


async def test_without_a_browser_there_is_nothing_to_read(computer: Computer) -> None:
    await computer.context.close()
    with pytest.raises(PlaywrightError):
        await computer.storage_state()
