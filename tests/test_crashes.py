"""A worker that is killed inside each kind of step, and what becomes of the run.

One worker drives all runs until each is held inside its step, dies once, and others take over.
"""

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

import asyncpg
import orjson
import pytest

import db
from models import Control, Step
from runs import computers, files
from runs.workflows import STEPS
from settings import settings
from tests.receivers import serving
from tests.test_approvals import answer, halted, questions
from tests.test_secrets_in_runs import NOTE, PASSWORD, SEED, fill, holds, store
from tests.workers import (
    Steps,
    ask,
    ended,
    expire,
    look,
    new_user,
    other_worker,
    read,
    start,
    steps_of,
    until,
)
from tests.workers import act as act_on

pytestmark = pytest.mark.timeout(300)  # whichever test comes first waits for all the crashes

LONG = 300_000
AT_ONCE = 6  # runs that begin together
OUTCOME = 4711  # an advisory lock
NAVIGATION = {"assertedEvents": [{"type": "navigation"}]}
COMING = {"selectors": ["#coming"], "timeout": LONG}
LATER = {"type": "waitForExpression", "expression": "later", "timeout": LONG}
KEPT = "700 taste=sweet yes"

PAGE = """<!doctype html><title>Work</title><body style="margin:0">
<input id=who oninput="did('typed')"><input id=other oninput="did('change')"><br>
<button id=go onmousedown="did('pressed')" onclick="did('click')" ondblclick="did('doubleClick')">Go</button>
<button id=hover onmousemove="did('hover')">Hover</button>
<div id=box style="width:90px;height:40px;background:#cde" onmousedown="did('dragging')">Box</div>
<input id=file type=file onchange="did('upload')"><a id=save href="/file/%(name)s">File</a>
<form action="/sent/%(name)s"><input id=pass name=pass type=password><input id=code name=code>
<input id=note name=note oninput="history.replaceState(null, '', '#' + encodeURIComponent(note.value))">
<button id=send>Send</button></form><output id=seen></output>%(coming)s<p style="height:3000px">
<script>
  const later = %(later)s;
  function did(what) {
    fetch('/did/%(name)s/' + what);
    if (later && what === '%(name)s') location.hash = performance.now();
  }
  if (location.search === '?first') {
    document.cookie = 'taste=sweet; max-age=999; path=/'; localStorage.kept = 'yes'; history.replaceState(null, '', location.pathname);
  }
  onkeydown = event => { if (event.key === 'F2') did('keyDown') }; onkeyup = event => { if (event.key === 'F2') did('keyUp') };
  onscroll = () => did('scroll');
  onresize = () => did('setViewport'); onoffline = () => did('emulateNetworkConditions');
  onmouseup = event => event.target.id === 'go' || did('drag');
</script>"""


# The site -----------------------------------------------------------------------------------------


class Workshop:
    """A site of one page a run, which counts what was done to it and lets steps come to an end `later`."""

    def __init__(self) -> None:
        self.port = 0
        self.later = asyncio.Event()
        self.did: dict[str, Counter[str]] = {}
        self.sent: dict[str, dict[str, list[str]]] = {}

    def url(self, path: str = "") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readline()).split()[1].decode()
        while (await reader.readline()).strip():
            pass
        address = urlsplit(target)
        _, what, name, *rest = [*address.path.split("/"), "", ""]
        self.did.setdefault(name, Counter()).update([rest[0] if what == "did" else what])
        if what == "sent":
            self.sent[name] = parse_qs(address.query)
        if what == "gate":
            await self.later.wait()
        kind = "application/octet-stream" if what == "file" else "text/html; charset=utf-8"
        writer.write(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nConnection: close\r\n\r\n".encode())
        writer.write(b"x" * 9000 if what == "file" else self.page(what, name).encode())
        await writer.drain()
        if what in ("file", "half"):
            await self.later.wait()

    def page(self, what: str, name: str) -> str:
        if what in ("did", "popup"):
            return "<title>Popup</title>popup"
        later = self.later.is_set()
        return PAGE % {
            "name": name,
            "later": str(later).lower(),
            "coming": "<button id=coming onclick=\"did('late')\">Coming</button><input id=late>" if later else "",
        }  # fmt: skip


# Runs -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A run whose worker is killed when its step `number` has begun and the page has told of `inside`.

    `seen` is what the page shows in the end: the field filled in before, the viewport, a cookie, storage.
    """

    name: str
    steps: Steps
    inside: str = ""
    seen: str = f"ada {KEPT}"
    number: int = 4

    @property
    def type(self) -> str:
        """The type of the step, or of the outermost one that holds it."""
        return str(self.steps[min(self.number - 4, len(self.steps) - 1)]["type"])

    def definition(self, site: Workshop, file_id: str) -> dict[str, Any]:
        show = "[who.value, innerWidth, document.cookie, localStorage.kept].join(' ')"
        steps = [
            {"type": "setViewport", "width": 700, "height": 500},
            {"type": "navigate", "url": site.url(f"/work/{self.name}?first")},
            {"type": "change", "selectors": ["#who"], "value": "ada"},
            *self.steps,
            {"type": "waitForExpression", "expression": f"seen.textContent = {show}"},
            {"type": "extract", "name": "seen", "fields": {"x": {"selectors": ["#seen"]}}},
        ]
        text = orjson.dumps({"title": self.name, "timeout": 30_000, "steps": steps}).decode()
        made: dict[str, Any] = orjson.loads(text.replace("SITE", site.url()).replace("FILE", file_id))
        return made


def on(name: str) -> dict[str, Any]:
    return {"selectors": [f"#{name}"], "timeout": LONG}


def step(kind: str, inside: str = "", seen: str = f"ada {KEPT}", /, **more: Any) -> Case:
    """One that may be repeated."""
    return Case(kind, [{"type": kind, "timeout": LONG} | more], inside, seen)


def act(kind: str, inside: str = "", /, **more: Any) -> Case:
    """One that may not: a person finds the page opened anew."""
    return Case(kind, [{"type": kind, "timeout": LONG} | more], inside, KEPT)


ANSWER = {"type": "approve", "title": "Go on?"}
WHO = {"type": "extract", "name": "who", "fields": {"x": {"selectors": ["#who"]}}}
NAME = {"type": "change", "selectors": ["#who"], "value": "{{ item }}{{ item_index }}"}
LOOP = {"type": "forEach", "items": ["a", "b", "c"], "name": "rounds"}
SECOND = {"type": "if", "value": "{{ item_index }}", "operator": "==", "than": 1, "then": [LATER]}
ADA = {"type": "if", "expression": "who.value === 'ada'"}
POPUP = {"target": "SITE/popup/close"}
ROUNDS = [{"who": {"x": name}} for name in ("a0", "b1", "c2")]

REPEATED = [
    step("navigate", "gate", KEPT, url="SITE/gate/navigate"),
    Case("half", [{"type": "navigate", "url": "SITE/half/half", "timeout": LONG}], "half", KEPT),
    step("hover", "hover", **on("hover"), **NAVIGATION),
    step("change", "change", **on("other"), value="x", **NAVIGATION),
    step("scroll", "scroll", y=400, **NAVIGATION),
    step("setViewport", "setViewport", "ada 800 taste=sweet yes", width=800, height=600, **NAVIGATION),
    step("emulateNetworkConditions", download=0, upload=0, latency=0, **NAVIGATION),
    step("waitForElement", **on("coming")),
    step("waitForExpression", expression="later"),
    Case("extract", [{"type": "extract", "name": "x", "fields": {"x": {}}} | on("coming")]),
    Case("screenshot", [{"type": "screenshot", "name": "x"} | on("coming")]),
    Case("if", [{"type": "if", "then": [WHO], "else": [ANSWER]} | on("coming")]),
    Case("forEach", [LOOP | {"name": "held", "steps": [NAME, WHO]}], seen=f"c2 {KEPT}"),
    Case("round", [LOOP | {"steps": [NAME, SECOND, WHO]}], seen=f"c2 {KEPT}", number=10),
    Case("branch", [ADA | {"then": [NAME | {"value": "bob"}, LATER], "else": [ANSWER]}], seen=f"bob {KEPT}", number=6),
    Case("before", [{"type": "click"} | on("coming")]),
    Case("route", [{"type": "waitForExpression", "expression": "(history.pushState(0, '', '/work/route/on'), 1)"}, LATER],
         number=5),
    Case("popup", [
        {"type": "waitForExpression", "expression": "open('/popup/popup')"},
        {"type": "waitForElement", "selectors": ["body"], "target": "SITE/popup/popup"},
        LATER,
    ], number=6),
    Case("mirror", [{"type": "change", "selectors": ["#note"], "value": "x"}, LATER], number=5),
]  # fmt: skip
LANDED = [
    act("click", "click", **on("go"), **NAVIGATION),
    Case("held", [{"type": "click", "duration": LONG} | on("go")], "pressed", KEPT),
    act("doubleClick", "doubleClick", **on("go"), **NAVIGATION),
    act("keyDown", "keyDown", key="F2", **NAVIGATION),
    act("keyUp", "keyUp", key="F2", **NAVIGATION),
    act("drag", "drag", **on("box"), by={"x": 30, "y": 0}, **NAVIGATION),
    act("upload", "upload", **on("file"), files=["FILE"], **NAVIGATION),
    Case("download", [{"type": "download", "name": "x"} | on("save")], "file", KEPT),
    Case("customStep", [{"type": "customStep", "name": "x", "timeout": LONG} | NAVIGATION], "", KEPT),
    Case("close", [
        {"type": "waitForExpression", "expression": "open('/popup/close')"},
        {"type": "waitForElement", "selectors": ["body"]} | POPUP,
        {"type": "close", "timeout": LONG} | POPUP | NAVIGATION,
    ], "", KEPT, number=6),
]  # fmt: skip
WAITING = [
    Case("approve", [ANSWER]),
    Case("pause", [{"type": "pause", "title": "Look"}]),
    Case("pausing", [{"type": "pause", "title": "held"}]),
]
HELD = ("forEach", "pausing")  # which end so soon that their outcome is held up
CASES = {case.name: case for case in (*REPEATED, *LANDED, *WAITING)}
SEND = {"type": "click", **on("send"), **NAVIGATION}
TITLE = {"type": "extract", "name": "title", "fields": {"x": {"selectors": ["title"]}}}
FLOWS = {
    "secret": Case("secret", [fill("#pass", "{{ secrets.shop.password }}"), LATER, SEND], number=5),
    "told": Case(
        "told",
        [
            fill("#pass", "{{ secrets.shop.password }}"),
            fill("#code", "{{ secrets.shop.totp }}"),
            fill("#note", "{{ secrets.note.text }}"),
            SEND,
            LATER,
            {"type": "waitForExpression", "expression": "document.title = location.href"},
            TITLE,
        ],
        number=8,
    ),
}


# The crash ------------------------------------------------------------------------------------------


@dataclass
class Crash:
    """Runs whose worker has died, what was known of their steps then, and the log of the next worker."""

    site: Workshop
    users: dict[str, str]
    runs: dict[str, UUID]
    before: dict[str, list[Step]]
    log: Path

    def __getitem__(self, name: str) -> tuple[str, UUID]:
        return self.users[name], self.runs[name]


def worker_process(log: Path) -> AbstractAsyncContextManager[asyncio.subprocess.Process]:
    """One that takes all runs there are and keeps their leases for minutes."""
    room = {"MAX_RUNS": "100", "MAX_RUNS_PER_USER": "100", "MAX_COMPUTERS": "100", "DATABASE_POOL": "20"}
    room |= {"BROWSER_MEMORY_MB": "16000", "RECORDING": "off"}
    return other_worker(log, LEASE_SECONDS="200", LOG_LEVEL="debug", **room)


@asynccontextmanager
async def held_outcomes(database: str) -> AsyncIterator[asyncpg.Connection]:
    """Whoever has begun a step titled "held" writes nothing about runs until this ends."""
    link = await asyncpg.connect(database)
    await link.execute(f"""
        create function hold() returns trigger language plpgsql as $$ begin
          if exists (select from steps where user_id = current_setting('app.user_id', true)
                     and status = 'started' and title like '% held') then
            perform pg_advisory_xact_lock_shared({OUTCOME});
          end if;
          return null;
        end $$;
        create trigger hold before update on runs for each statement execute function hold();
        select pg_advisory_lock({OUTCOME})""")
    try:
        yield link
    finally:
        await link.execute(f"select pg_advisory_unlock({OUTCOME})")
        await link.execute("drop trigger hold on runs; drop function hold()")
        await link.close()


async def until_inside(user: str, run_id: UUID, site: Workshop, case: Case) -> None:
    """Return when the run is inside the step at which its worker is to die."""
    acts = case in LANDED
    async for _ in look(30):
        steps = await steps_of(user, run_id)
        assert all(step.status in ("succeeded", "started") for step in steps), (case.name, steps[-1].error)
        if case.type in ("approve", "pause") and case.name != "pausing":
            if (await read(user, run_id)).status in ("waiting_approval", "waiting_user"):
                break
        elif any(step.number == case.number and (step.acted_at or not acts) for step in steps) and (
            not case.inside or site.did[case.name][case.inside]
        ):
            break


@pytest.fixture(scope="module")
def room() -> Iterator[None]:
    """This process takes no runs until it is told to, and then all."""
    with pytest.MonkeyPatch.context() as patch:
        wanted = {"max_runs": 0, "max_computers": 100, "browser_memory_mb": 16_000, "recording": "off"}
        for name, value in wanted.items():
            patch.setitem(settings.__dict__, name, value)
        yield


@pytest.fixture(scope="module")
async def crash(room: None, worker: UUID, database: str, module_data: Path) -> AsyncIterator[Crash]:
    """All runs after their worker has died inside of them; those with secrets have ended since."""
    await asyncio.to_thread(module_data.mkdir)
    site = Workshop()
    async with serving(site.serve) as site.port:
        crashed = Crash(site, {}, {}, {}, module_data / "second.log")
        async with held_outcomes(database) as link, worker_process(module_data / "first.log") as first:
            await start_all(crashed)
            async for _ in look(30):
                waits = "select count(*) from pg_locks where not granted and locktype = 'advisory'"
                if await link.fetchval(waits) == len(HELD):
                    break
            first.send_signal(signal.SIGKILL)
            await first.wait()
        for name, run_id in crashed.runs.items():
            crashed.before[name] = await steps_of(crashed.users[name], run_id)
        site.later.set()
        await expire(*{crashed.users[name] for name in FLOWS})
        async with worker_process(crashed.log):
            for name in FLOWS:
                await ended(*crashed[name], 120)
        settings.__dict__["max_runs"] = 100
        await expire(*{*crashed.users.values()})
        yield crashed


async def start_all(crashed: Crash) -> None:
    """Start the runs, a few at once, and return when each is inside its step."""
    site, gate = crashed.site, asyncio.Semaphore(AT_ONCE)
    people = [await new_user() for _ in range(5)]
    file = await files.save(people[1], kind="upload", name="a.txt", data=b"a", limit=10)
    await store(people[2], "shop", site.url(), kind="password", username="ann", password=PASSWORD, totp=SEED)
    await store(people[2], "note", site.url(), kind="text", text=NOTE)

    async def begin(user: str, case: Case) -> None:
        async with gate:
            definition = case.definition(site, str(file.id))
            run_id = await start(user, [], definition=definition)
            crashed.users[case.name], crashed.runs[case.name] = user, run_id
            try:
                await until_inside(user, run_id, site, case)
            except TimeoutError as error:
                steps = [(step.number, step.type, step.status) for step in await steps_of(user, run_id)]
                state = (await read(user, run_id)).status
                raise AssertionError(case.name, site.did.get(case.name), state, steps) from error

    async with asyncio.TaskGroup() as group:
        for case in CASES.values():
            user = people[3 + HELD.index(case.name) if case.name in HELD else case in LANDED]
            group.create_task(begin(user, case))
        for case in FLOWS.values():
            group.create_task(begin(people[2], case))


async def told_of(user: str, run_id: UUID) -> list[str]:
    """The kinds of the run's events."""
    return [event.kind for event in await db.events(user, 0, run_id=run_id)]


def test_every_step_type_has_its_crash() -> None:
    assert {case.type for case in CASES.values()} == {*STEPS} - {"agent"}  # see tests/test_agent.py
    assert all(STEPS[case.type].repeatable or case.name == "before" for case in (*REPEATED, *WAITING))
    assert not any(STEPS[case.type].repeatable for case in LANDED)


@pytest.mark.parametrize("case", REPEATED, ids=lambda case: case.name)
async def test_a_step_that_may_be_repeated_is_and_the_run_ends_right(crash: Crash, case: Case) -> None:
    user, run_id = crash[case.name]
    run = await ended(user, run_id, 120)
    assert (run.status, run.attempt) == ("succeeded", 2), run.error
    assert run.result is not None
    assert run.result["outputs"]["seen"] == {"x": case.seen}
    before, after = crash.before[case.name], await steps_of(user, run_id)
    assert [step.status for step in before] == ["succeeded"] * (case.number - 1) + ["started"]
    assert [(step.id, step.attempt) for step in after[: case.number]] == [
        (step.id, 1 + (step.number == case.number)) for step in before
    ]
    assert {(step.attempt, step.status) for step in after[case.number :]} == {(1, "succeeded")}
    if case.type == "forEach":
        assert next(iter(run.result["outputs"].values())) == ROUNDS
    if case.name == "before":
        assert crash.site.did["before"]["late"] == 1
    told = await told_of(user, run_id)
    assert told.count("run.started") == told.count("run.succeeded") == 1
    assert "run.waiting" not in told


@pytest.mark.parametrize("case", LANDED, ids=lambda case: case.name)
async def test_a_step_that_may_have_landed_is_left_to_a_person_and_never_repeated(
    crash: Crash, case: Case
) -> None:
    user, run_id = crash[case.name]
    waiting = await until(user, run_id, 120, status="waiting_user")
    assert (waiting.reason, waiting.control, waiting.attempt) == ("may_have_landed", "pause", 2)
    await halted(user, run_id)
    computer_id = (await read(user, run_id)).computer_id
    assert computer_id is not None
    control = await computers.take_control(user, computer_id, "person")
    assert control.state == "granted"
    async for _ in look(10):  # Chromium sets the size before the page is told
        if (await act_on(user, computer_id, action="evaluate", expression="innerWidth"))["value"] == 700:
            break
    await computers.release_control(user, computer_id, control.generation)
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id, 120)
    assert run.status == "succeeded", run.error
    assert run.result == {"outputs": {"seen": {"x": case.seen}}}
    after = await steps_of(user, run_id)
    assert [step.status for step in after] == [
        "may_have_landed" if step.number == case.number else "succeeded" for step in after
    ]
    assert {step.attempt for step in after} == {1}
    if case.inside:
        assert crash.site.did[case.name][case.inside] == 1
    told = await told_of(user, run_id)
    assert told.count("run.waiting") == told.count("run.resumed") == 1
    assert told.count("run.step.finished") == len(after)


async def test_a_question_is_asked_once(crash: Crash) -> None:
    user, run_id = crash["approve"]
    await until(user, run_id, 120, status="waiting_approval", attempt=2)
    (asked,) = await questions(user, run_id)
    await answer(user, asked.id)
    run = await ended(user, run_id, 120)
    assert run.result == {"outputs": {"seen": {"x": f"ada {KEPT}"}}}, run.error
    assert len(await questions(user, run_id)) == 1
    assert (await told_of(user, run_id)).count("approval.requested") == 1


@pytest.mark.parametrize(("name", "attempt", "reason"), [("pause", 1, "Look"), ("pausing", 2, "held")])
async def test_a_pause_waits_for_its_user_once(crash: Crash, name: str, attempt: int, reason: str) -> None:
    user, run_id = crash[name]
    waiting = await until(user, run_id, 120, status="waiting_user", attempt=2)
    assert waiting.reason == reason
    await halted(user, run_id)
    await ask(user, run_id, Control.run)
    run = await ended(user, run_id, 120)
    assert run.result == {"outputs": {"seen": {"x": f"ada {KEPT}"}}}, run.error
    assert [step.attempt for step in await steps_of(user, run_id)] == [1, 1, 1, attempt, 1, 1]
    assert (await told_of(user, run_id)).count("run.waiting") == 1


async def test_a_secret_is_filled_in_again_and_told_to_nobody_by_the_next_worker(crash: Crash) -> None:
    sent = crash.site.sent
    for name in FLOWS:
        run = await read(*crash[name])
        assert (run.status, run.attempt) == ("succeeded", 2), run.error
        assert sent[name]["pass"] == [PASSWORD]
    (code,) = sent["told"]["code"]
    user = crash.users["told"]
    told = [crash.log.read_text(errors="replace")]
    told += [event.text for event in await db.events(user, 0, 2000)]
    for name in FLOWS:
        told += [str(vars(row)) for row in (await read(*crash[name]), *await steps_of(*crash[name]))]
    assert "{{ secrets.shop.password }}" in "".join(told)
    for value in (PASSWORD, NOTE, SEED, code):
        assert not [text for text in told if holds(text, value)], value
