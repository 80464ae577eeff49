# ruff: noqa: F811 - fixtures of another file
"""What sites keep, in a checkpoint: of pages that are shown, that were left, and that lie or hang."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
from playwright.async_api import Error as PlaywrightError
from playwright.async_api import StorageState

from browser import site_storage
from browser.chromium import Browsers, Computer, Options
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
    visit = site_storage.SiteStorage._read_left

    async def note(self: Any, left: set[str]) -> None:
        seen.append(left)
        await visit(self, left)

    monkeypatch.setattr(site_storage.SiteStorage, "_read_left", note)
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
    monkeypatch.setattr(site_storage, "MAX_UNREAD", 2)
    for number in range(4):
        computer._storage.note(f"http://{number}.example/")
    await origins(computer)
    assert visits == [{"http://2.example", "http://3.example"}]


async def test_the_newest_origins_are_kept(
    computer: Computer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_storage, "MAX_ORIGINS", 1)
    await do(computer, "navigate", url=site.url("/store"))
    assert list(await origins(computer)) == [site.url("").rstrip("/")]
    await do(computer, "navigate", url=site.other("/store"))
    assert list(await origins(computer)) == [site.other("").rstrip("/")]


# Databases

KEEP = """async () => {
  const opening = indexedDB.open("sign-in", 3);
  opening.onupgradeneeded = () => {
    const users = opening.result.createObjectStore("users", {keyPath: "id", autoIncrement: true});
    users.createIndex("name", "name", {unique: true});
    users.createIndex("tags", ["tags"], {});
    opening.result.createObjectStore("loose");
    opening.result.createObjectStore("pairs", {keyPath: ["a", "b"]});
  };
  const done = request => new Promise((resolve, reject) => Object.assign(request, {onsuccess: resolve, onerror: reject}));
  await done(opening);
  const writing = opening.result.transaction(["users", "loose", "pairs"], "readwrite");
  const self = {name: "Ada", since: new Date(86400000), "__proto__x": null};
  self.self = self;
  writing.objectStore("users").add(self);
  writing.objectStore("users").add({name: "Bo", tags: ["x"], keys: new Uint8Array([0, 255]), buffer: new Uint16Array([515]).buffer});
  writing.objectStore("loose").add(new Map([[1n, new Set([NaN, undefined, null, true, "x"])], ["re", /a+/gi], ["zero", -0]]), new Date(5));
  writing.objectStore("loose").add(7.5, ["a", 1]);
  writing.objectStore("pairs").add({a: 1, b: "c"});
  await new Promise(resolve => writing.oncomplete = resolve);
  opening.result.close();
}"""
FIND = """async () => {
  const done = request => new Promise((resolve, reject) => Object.assign(request, {onsuccess: () => resolve(request.result), onerror: () => reject(request.error)}));
  const database = await done(indexedDB.open("sign-in"));
  const reading = database.transaction(["users", "loose", "pairs"]);
  const users = reading.objectStore("users"), loose = reading.objectStore("loose");
  const [ada, bo] = await done(users.getAll());
  const map = await done(loose.get(new Date(5)));
  const found = {
    version: database.version, next: users.autoIncrement, paths: [users.keyPath, loose.keyPath, reading.objectStore("pairs").keyPath],
    indexes: [...users.indexNames].map(name => users.index(name)).map(({name, keyPath, unique}) => [name, keyPath, unique]),
    ada: [ada.id, ada.name, ada.since.getTime(), ada.self === ada, ada.__proto__x], bo: [bo.id, bo.tags, [...bo.keys], [...new Uint16Array(bo.buffer)]],
    map: [...map].map(([key, value]) => [typeof key, String(key), value instanceof Set ? [...value].map(String) : Object.is(value, -0) ? "-0" : String(value)]),
    number: await done(loose.get(["a", 1])), pair: await done(reading.objectStore("pairs").get([1, "c"])),
  };
  database.close();
  return found;
}"""


@pytest.fixture
async def reopen(browsers: Browsers, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[Computer]]]:
    opened = []

    async def reopen(state: dict[str, Any], url: str) -> Computer:
        """Another computer with what one has kept, at the address."""
        options = Options(downloads=tmp_path, storage_state=json.loads(json.dumps(state | {"tabs": []})))
        opened.append(await browsers.open("alice", uuid4(), options, Told()))
        await do(opened[-1], "navigate", url=url)
        return opened[-1]

    yield reopen
    for each in opened:
        await each.close()


async def names(computer: Computer) -> list[str]:
    """The databases of the site that it shows."""
    found = await computer.page.evaluate("indexedDB.databases().then(all => all.map(it => it.name).sort())")
    return list(found)


async def test_databases_come_back_as_they_were(
    computer: Computer, site: Site, reopen: Callable[..., Awaitable[Computer]]
) -> None:
    here = site.url("/static")
    await do(computer, "navigate", url=here)
    await computer.page.evaluate(KEEP)
    before = await computer.page.evaluate(FIND)
    assert before["ada"] == [1, "Ada", 86_400_000, True, None]
    assert before["map"][0] == ["bigint", "1", ["NaN", "undefined", "null", "true", "x"]]
    assert before["map"][2] == ["string", "zero", "-0"]
    await do(computer, "navigate", url=site.other("/second"))  # it is read though no tab shows it
    state = await computer.storage_state()
    asked = len(site.asked)
    other = await reopen(state, here)
    assert await other.page.evaluate(FIND) == before
    assert [tab["url"] for tab in other.tabs()] == [here]
    assert [path for path in site.asked[asked:] if path != "/favicon.ico"] == ["/static"]
    assert (await other.storage_state())["origins"] == state["origins"]
    # It is Playwright's form, both ways.
    assert computer.context.browser is not None
    context = await computer.context.browser.new_context(storage_state=cast(StorageState, state))
    page = await context.new_page()
    await page.goto(here)
    assert await page.evaluate(FIND) == before
    told = await context.storage_state(indexed_db=True)
    await context.close()
    assert await (await reopen(cast(dict[str, Any], told), here)).page.evaluate(FIND) == before


MAKE = """([name, value]) => new Promise(resolve => {
  const opening = indexedDB.open(name);
  opening.onupgradeneeded = () => opening.result.createObjectStore("s").add(eval(value), 1);
  opening.onsuccess = () => { opening.result.close(); resolve(); };
})"""


async def test_a_database_that_cannot_be_told_is_left_out_and_no_other(
    computer: Computer, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def told() -> list[list[str]]:
        origins = (await computer.storage_state())["origins"]
        return [sorted(database["name"] for database in entry["indexedDB"]) for entry in origins]

    await do(computer, "navigate", url=site.url("/static"))
    for name, value in (
        ("small", "7"),
        ("blob", "new Blob(['x'])"),
        ("large", "'x'.repeat(600_000)"),
        ("large bytes", "new Uint8Array(600_000)"),
        ("many", "Array(80_000).fill(0)"),
        ("twin", "'x'.repeat(200_000)"),
    ):
        await computer.page.evaluate(MAKE, [name, value])
    assert await told() == [["small", "twin"]]
    await do(computer, "navigate", url=site.other("/static"))
    await computer.page.evaluate(MAKE, ["newest", "'x'.repeat(200_000)"])
    assert await told() == [["small", "twin"], ["newest"]]
    monkeypatch.setattr(site_storage, "MAX_DATABASES_BYTES", 300_000)
    assert await told() == [["newest"]]


async def test_a_database_that_cannot_be_made_is_left_out_and_no_other(
    site: Site, reopen: Callable[..., Awaitable[Computer]]
) -> None:
    twice = {"keyPath": "id", "indexes": [{"name": "n", "keyPath": "n", "unique": True}]}
    stores: dict[str, list[Any]] = {
        "twice": [
            twice | {"name": "s", "records": [{"value": {"id": 1, "n": 2}}, {"value": {"id": 2, "n": 2}}]}
        ],
        "odd": [{"name": "s", "indexes": [], "records": [{"keyEncoded": 1, "valueEncoded": {"zz": 1}}]}],
        "none": [{"name": "s"}],
        "good": [{"name": "s", "indexes": [], "records": [{"key": 1, "value": None}]}],
    }
    databases = [{"name": name, "version": 1, "stores": these} for name, these in stores.items()]
    origins = [{"origin": site.url("").rstrip("/"), "localStorage": [], "indexedDB": databases}]
    computer = await reopen({"cookies": [], "origins": origins}, site.url("/static"))
    assert await names(computer) == ["good"]


async def test_a_page_that_lies_of_its_databases_or_never_tells_them_is_passed_over(
    computer: Computer, site: Site
) -> None:
    await do(computer, "navigate", url=site.url("/static"))
    await keep(computer, "a", "1")
    await computer.page.evaluate(MAKE, ["kept", "7"])
    before = (await computer.storage_state())["origins"]
    assert [database["name"] for database in before[0]["indexedDB"]] == ["kept"]
    for lie in (
        "JSON.stringify = () => '[7]'",
        "JSON.stringify = () => 7",
        "indexedDB.databases = () => new Promise(() => {})",
    ):
        await computer.page.evaluate(f"() => {{ {lie} }}")
        assert (await computer.storage_state())["origins"] == before, lie
    assert not computer.stale_storage


async def test_reading_is_in_no_sites_way(computer: Computer, site: Site) -> None:
    await do(computer, "navigate", url=site.url("/static"))
    await computer.page.evaluate(MAKE, ["kept", "7"])
    rounds = """async () => {
      const done = request => new Promise((resolve, reject) => Object.assign(request, {
        onsuccess: () => { request.result?.close(); resolve() }, onerror: reject}));
      for (let version = 2; version < 60; version++) {
        await done(indexedDB.open("kept", version));
        await done(indexedDB.open("come and gone"));
        await done(indexedDB.deleteDatabase("come and gone"));
      }
    }"""
    working = asyncio.ensure_future(computer.page.evaluate(rounds))
    while not working.done():
        await computer.storage_state()
    await working
    assert await names(computer) == ["kept"]
    gone = "() => { indexedDB.databases = async () => [{name: 'gone'}] }"
    await computer.page.evaluate(gone)
    await computer.storage_state()
    await computer.page.evaluate("() => { delete indexedDB.databases }")
    assert await names(computer) == ["kept"]


async def test_without_a_browser_there_is_nothing_to_read(computer: Computer) -> None:
    await computer.context.close()
    with pytest.raises(PlaywrightError):
        await computer.storage_state()
