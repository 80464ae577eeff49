"""Secrets in runs: filled into the fields of their own origins, and shown nowhere else."""

import asyncio
import json
import logging
import re
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, quote_plus, urlsplit
from uuid import UUID

import asyncpg
import httpx
import pytest
import structlog
from websockets.asyncio.client import connect

import db
import logs
from infra import postgres
from infra.redaction import Redactor
from models import Secret, SecretKind
from runs import secrets
from runs.workflows import InvalidWorkflow, problems
from schemas import SecretCreate
from settings import settings
from tests import make, pages
from tests.conftest import Backend, free_port
from tests.pages import Site
from tests.workers import ended, kinds, start, steps_of

pytestmark = pytest.mark.usefixtures("one_chromium")

PASSWORD, NOTE, SEED = "pa&ss wörd/7Q", 'note-<of>-"hand"', "JBSWY3DPEHPK3PXP"


@pytest.fixture(scope="module")
async def telling(module_data: Path) -> AsyncIterator[Backend]:
    """A server that logs all it can."""
    backend = Backend(module_data, free_port(), {"ACCESS_TOKEN_SECONDS": "3600", "LOG_LEVEL": "debug"})
    await backend.start()
    yield backend
    await backend.stop()


async def store(user: str, name: str, *origins: str, **values: Any) -> None:
    body = SecretCreate.model_validate({"name": name, "origins": list(origins)} | values)
    async with db.as_user(user, "user") as tx:
        await secrets.create(tx, body)


def fill(selector: str, value: str, **more: Any) -> dict[str, Any]:
    return {"type": "change", "selectors": [selector], "value": value, "timeout": 1500} | more


# Nowhere but in the page ----------------------------------------------------------------------------


def spellings(value: str) -> set[str]:
    """How a value might be found."""
    texts = {value, quote(value), quote(value, safe=""), quote_plus(value), quote(value, safe="!'()*")}
    texts |= {json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    return texts | {text.lower() for text in texts} | {value.encode().hex()}


# Times and ids, which hold any six digits by chance.
BY_CHANCE = re.compile(r"\d\d:\d\d:\d\d\.\d+|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|[0-9a-f]{32,}")


def holds(told: str, value: str) -> bool:
    if value.isdigit():
        told = BY_CHANCE.sub("", told)
    return any(spelling in told.lower() for spelling in {text.lower() for text in spellings(value)})


async def everything_stored(data: Path) -> str:
    """Every row of every table as text, and every file."""
    server = await postgres.start(data)
    link = await asyncpg.connect(server.dsn)
    try:
        await link.execute("select set_config('app.system', 'on', false)")
        tables = await link.fetch(
            "select tablename from pg_tables where schemaname not in ('pg_catalog', 'information_schema')"
        )
        rows = [
            row[0]
            for (table,) in tables
            for row in await link.fetch(f'select "{table}"::text from "{table}"')
        ]
    finally:
        await link.close()
        await postgres.stop(server)
    assert len(rows) > 50
    return "\n".join(rows) + await asyncio.to_thread(every_file, data)


def every_file(data: Path) -> str:
    files = [path for path in data.rglob("*") if path.is_file() and "postgres" not in path.parts]
    assert any(path.suffix == ".log" for path in files)
    return "\n".join(path.read_bytes().decode("latin-1") for path in files)


def telling_flow(site: Site) -> dict[str, Any]:
    """A flow on a page that tells on its fields by every way there is."""
    return {
        "title": "Tell",
        "steps": [
            {"type": "navigate", "url": site.url("/mirror")},
            fill("#pass", "{{ secrets.shop.password }}"),
            fill("#code", "{{ secrets.shop.totp }}"),
            fill("#note", "{{ secrets.note.text }}"),
            {
                "type": "extract",
                "name": "all",
                "fields": {
                    "pass": {"selectors": ["#pass"]},
                    "note": {"selectors": ["#shown"], "attribute": "data-note"},
                    "html": {"selectors": ["body"], "type": "html"},
                    "title": {"selectors": ["title"]},
                },
            },
            {"type": "waitForElement", "selectors": ["#shown"], "attributes": {"data-note": "{{ outputs.all.pass }}"},
             "timeout": 300},
            {"type": "download", "name": "file", "selectors": ["#file"]},
            {"type": "pause", "title": "Look"},
            {"type": "click", "selectors": ["text/Send"], "assertedEvents": [{"type": "navigation"}]},
            {"type": "click", "selectors": ["#nowhere"], "timeout": 2_000},
        ],
    }  # fmt: skip


async def test_a_secret_is_found_nowhere_but_in_the_page(telling: Backend) -> None:
    heard: list[str] = []
    async with telling.sign_up() as client, pages.serve() as site:
        origin = {"origins": [site.url("")]}
        shop = {"name": "shop", "kind": "password", "username": "ann", "password": PASSWORD, "totp": SEED}
        for body in (shop | origin, {"name": "note", "kind": "text", "text": NOTE} | origin):
            assert (await client.post("/api/secrets", json=body)).status_code == 201
        flow = telling_flow(site)
        del flow["steps"][5]  # which fails; it is for the next test
        headers = {"Authorization": client.headers["Authorization"]}
        async with connect(telling.socket_url, subprotocols=["cua.v1"], additional_headers=headers) as link:  # type: ignore[list-item]
            listening = asyncio.create_task(listen(link, heard))
            await link.send(json.dumps({"type": "subscribe", "id": 1, "after": 0}))
            run = await make.run(client, definition=flow)
            place = f"/api/runs/{run['id']}"
            waiting = await until(client, place, "waiting_user")
            computer = f"/api/computers/{waiting['computer_id']}"
            await link.send(json.dumps({"type": "watch", "id": 2, "computer_id": waiting["computer_id"]}))
            looks = (
                {"action": "list_tabs"},
                {"action": "evaluate", "expression": "document.title + pass.value + location.href"},
                {"action": "evaluate", "expression": "(() => { throw new Error(pass.value) })()"},
                {"action": "read_page"},
                {"action": "get_page_text"},
            )
            heard += [(await client.post(f"{computer}/actions", json=look)).text for look in looks]
            masked = "['pass', 'code', 'note'].map(id => getComputedStyle(window[id]).webkitTextSecurity)"
            reply = await client.post(
                f"{computer}/actions", json={"action": "evaluate", "expression": masked}
            )
            assert reply.json()["data"]["output"]["value"] == ["disc"] * 3
            heard += [(await client.get(f"{computer}{more}")).text for more in ("", "/tabs")]
            assert (await client.post(f"{place}/resume")).status_code == 200
            ended_run = await until(client, place, "failed")
            await asyncio.wait_for(until_heard(heard, "run.failed"), 10)
            listening.cancel()
        assert ended_run["error"]["code"] == "element_not_found"
        sent = parse_qs(urlsplit(next(path for path in site.asked if path.startswith("/second?"))).query)
        assert (sent["pass"], sent["note"]) == ([PASSWORD], [NOTE])
        now = time.time()
        code = sent["code"][0]
        assert code in [secrets.OneTimeCode.of(SEED).at(int(now) - ago * 30) for ago in range(5)]
        for path in ("", "/steps", "/events?limit=200", "/frames", "/recording"):
            heard.append((await client.get(place + path)).text)
        for path in ("/api/secrets", "/api/events?limit=200", "/api/files", "/api/activity"):
            heard.append((await client.get(path)).text)
        archive = await client.get("/api/me/export")
        assert archive.status_code == 200
        used = (await client.get("/api/secrets")).json()["data"]
        assert all(secret["used_at"] for secret in used)
    told = "\n".join(heard)
    assert "{{ secrets.note.text }}" in told
    assert "{{ secrets.shop.password }}" in told
    assert "Fills in secrets.shop.totp" in told
    assert "computer.dialog" in told
    stored = await everything_stored(telling.data)
    for value in (PASSWORD, NOTE, SEED, code):
        assert not holds(told, value), value
        assert not holds(stored, value), value
        assert value.encode() not in archive.content


async def listen(link: Any, heard: list[str]) -> None:
    while True:
        message = await link.recv()
        heard.append(message if isinstance(message, str) else message[:64].hex())


async def until_heard(heard: list[str], word: str) -> None:
    while not any(word in message for message in heard):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def until(client: httpx.AsyncClient, place: str, status: str) -> dict[str, Any]:
    async with asyncio.timeout(40):
        while True:
            run: dict[str, Any] = (await client.get(place)).json()["data"]
            if run["status"] == status:
                return run
            assert run["status"] not in ("failed", "succeeded", "cancelled"), run["error"]
            await asyncio.sleep(0.05)


# Only where it belongs -----------------------------------------------------------------------------


async def test_a_secret_is_not_told_to_a_page_of_another_origin(user: str, site: Site, worker: UUID) -> None:
    await store(user, "shop", site.url(""), kind="password", username="ann", password=PASSWORD)
    for field in ("password", "username"):
        run_id = await start(
            user,
            [
                {"type": "navigate", "url": site.other("/login")},
                fill("[name=user]", f"{{{{ secrets.shop.{field} }}}}"),
            ],
        )
        run = await ended(user, run_id)
        assert run.error is not None
        assert (run.error["code"], run.error["pointer"]) == ("secret_refused", "/steps/1")
        assert run.error["detail"] == (
            f"secrets.shop is for {site.url('')}, and the field is in {site.other('')}"
        )
    async with db.as_user(user) as tx:
        assert (await tx.one(Secret, name="shop")).used_at is None


async def test_the_origin_is_that_of_the_frame_with_the_field(user: str, site: Site, worker: UUID) -> None:
    await store(user, "outer", site.url(""), kind="text", text="for the outer page")
    await store(user, "inner", site.other(""), kind="text", text="for the inner page")
    await store(user, "nowhere", kind="text", text="for no page")
    go = {"type": "navigate", "url": site.url("/framed")}
    into_frame = {"frame": [0]}
    good = [
        fill("#own", "{{ secrets.outer.text }}"),
        fill("[name=user]", "{{ secrets.inner.text }}", **into_frame),
    ]
    read = {"type": "waitForExpression", "expression": "document.querySelector('input').value.length === 18"}
    run = await ended(user, await start(user, [go, *good, read, read | into_frame]))
    assert run.status == "succeeded", run.error
    for step in (
        fill("#own", "{{ secrets.inner.text }}"),
        fill("[name=user]", "{{ secrets.outer.text }}", **into_frame),
        fill("#own", "both {{ secrets.outer.text }} and {{ secrets.inner.text }}"),
        fill("#own", "{{ secrets.nowhere.text }}"),
    ):
        run = await ended(user, await start(user, [go, step]))
        assert run.error is not None
        assert run.error["code"] == "secret_refused", step


async def test_a_page_that_claims_another_origin_is_told_nothing(user: str, site: Site, worker: UUID) -> None:
    """Neither what it overrides nor where it listens brings it the secret of another site."""
    await store(user, "shop", site.url(""), kind="text", text=PASSWORD)
    for selector in ("[name=user]", "#list"):
        flow = [
            {"type": "navigate", "url": site.other("/thief")},
            fill(selector, "{{ secrets.shop.text }}"),
        ]
        run = await ended(user, await start(user, flow))
        assert run.error is not None
        assert run.error["code"] == "secret_refused"
    stolen = [path for path in site.asked if path.startswith("/stolen")]
    assert stolen, "the trap works"
    assert not any(holds(path, PASSWORD) for path in stolen)


async def test_a_sandboxed_document_is_not_of_its_address(user: str, site: Site, worker: UUID) -> None:
    await store(user, "shop", site.url(""), kind="text", text=PASSWORD)
    frame = (
        "document.body.innerHTML = `<iframe sandbox='allow-scripts' src='${location.origin}/login'></iframe>`"
    )
    flow = [
        {"type": "navigate", "url": site.url("/second")},
        {"type": "waitForExpression", "expression": frame},
        fill("[name=user]", "{{ secrets.shop.text }}", frame=[0]),
    ]
    run = await ended(user, await start(user, flow))
    assert run.error is not None
    assert (run.error["code"], run.error["detail"].endswith("the field is in null")) == (
        "secret_refused",
        True,
    )


@pytest.mark.parametrize("selector", ["#city", "#file", "#tick", "#go", "#range", "#fixed"])
async def test_a_secret_goes_into_text_fields_only(
    user: str, site: Site, worker: UUID, selector: str
) -> None:
    await store(user, "shop", site.url(""), kind="text", text="Rome")
    more = "document.body.insertAdjacentHTML('beforeend', '<input id=range type=range><input id=fixed readonly>')"
    flow = [
        {"type": "navigate", "url": site.url("/")},
        {"type": "waitForExpression", "expression": f"({more}, 1)"},
        fill(selector, "{{ secrets.shop.text }}"),
    ]
    run = await ended(user, await start(user, flow))
    assert run.error is not None
    assert run.error["code"] == "value_refused"
    assert ("read-only" if selector == "#fixed" else "text field only") in run.error["detail"]


async def test_a_run_whose_secret_does_not_exist_is_refused(user: str, site: Site, database: str) -> None:
    steps = [{"type": "navigate", "url": site.url("/")}, fill("#name", "{{ secrets.none.password }}")]
    with pytest.raises(InvalidWorkflow) as refused:
        await start(user, steps)
    assert [(problem.pointer, problem.message) for problem in refused.value.problems] == [
        ("/steps/1", "There is no secret none; store it first")
    ]


async def test_a_field_that_the_secret_lacks_is_named(user: str, site: Site, worker: UUID) -> None:
    await store(user, "shop", site.url(""), kind="password", password=PASSWORD)
    flow = [
        {"type": "navigate", "url": site.url("/login")},
        fill("[name=user]", "{{ secrets.shop.username }}"),
    ]
    run = await ended(user, await start(user, flow))
    assert run.error is not None
    assert (run.error["code"], run.error["detail"]) == (
        "placeholder_missing",
        "{{ secrets.shop.username }} has no value (at /value)",
    )
    assert "run.log" not in await kinds(user, run.id)
    assert [step.status for step in await steps_of(user, run.id)] == ["succeeded", "failed"]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        (fill("#a", "{{ secrets.shop.password }}"), None),
        (fill("#a", "{{ secrets.shop.totp[0] }}"), None),
        (fill("#a", "{{ secrets.shop.pin }}"), "has only"),
        (fill("#a", "{{ secrets.shop }}"), "ends too early"),
        (fill("{{ secrets.shop.text }}", "x"), "only be filled into a field"),
        ({"type": "navigate", "url": "https://a.example/?{{ secrets.shop.text }}"}, "only be filled into a field"),
        ({"type": "keyDown", "key": "{{ secrets.shop.text }}"}, "only be filled into a field"),
        ({"type": "waitForExpression", "expression": "{{ secrets.shop.text }}"}, "only be filled into a field"),
        ({"type": "if", "value": "{{ secrets.shop.text }}", "then": []}, "only be filled into a field"),
        ({"type": "approve", "title": "{{ secrets.shop.text }}"}, "only be filled into a field"),
        ({"type": "forEach", "items": ["{{ secrets.shop.text }}"], "steps": [{"type": "close"}]}, "only be filled"),
        ({"type": "forEach", "items": [1], "steps": [fill("#a", "{{ secrets.shop.pin }}")]}, "has only"),
    ],
)  # fmt: skip
def test_a_secret_stands_only_where_it_is_filled_in(step: dict[str, Any], problem: str | None) -> None:
    found = problems({"title": "T", "steps": [step]}, None)
    if problem is None:
        assert found == []
    else:
        assert [problem in each.message for each in found] == [True], found


async def test_what_a_step_fills_in_is_told_even_if_the_step_then_fails(
    user: str, site: Site, worker: UUID
) -> None:
    await store(user, "shop", site.url(""), kind="password", password=PASSWORD)
    never = {"assertedEvents": [{"type": "navigation"}]}
    flow = [
        {"type": "navigate", "url": site.url("/login")},
        fill("[name=password]", "{{ secrets.shop.password }}", **never),
    ]
    run = await ended(user, await start(user, flow))
    assert run.error is not None
    assert run.error["code"] == "navigation_missing"
    assert (await kinds(user, run.id)).count("run.log") == 1
    async with db.as_user(user) as tx:
        assert (await tx.one(Secret, name="shop")).used_at is not None


async def test_a_database_that_is_away_when_a_secret_is_opened_is_waited_for(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store(user, "shop", site.url(""), kind="text", text=PASSWORD)
    opening, breaking = secrets.Purse.reveal, [ConnectionResetError("cut"), ConnectionResetError("cut")]

    async def reveal(purse: secrets.Purse, *asked: Any) -> dict[str, dict[str, str]]:
        if breaking:
            raise breaking.pop()
        return await opening(purse, *asked)

    monkeypatch.setattr(secrets.Purse, "reveal", reveal)
    flow = [{"type": "navigate", "url": site.url("/login")}, fill("[name=user]", "{{ secrets.shop.text }}")]
    run = await ended(user, await start(user, flow))
    assert (run.error, breaking) == (None, [])


async def test_a_number_that_is_a_secret_is_none_in_outputs_and_words_of_ours_stay(
    user: str, site: Site, worker: UUID
) -> None:
    """A secret that reads like a word of the language breaks nothing."""
    for name, text in (("pin", "482915"), ("active", "active"), ("met", "met"), ("code", "extract")):
        await store(user, name, site.url(""), kind="text", text=text)
    read = {"n": {"selectors": ["#name"], "type": "number"}, "t": {"selectors": ["#name"]}}
    flow = [
        {"type": "navigate", "url": site.url("/")},
        *(fill("#name", f"{{{{ secrets.{name}.text }}}}") for name in ("active", "met", "code", "pin")),
        {"type": "extract", "name": "typed", "fields": read},
        {"type": "if", "selectors": ["#name"], "then": [{"type": "screenshot", "name": "picture"}]},
    ]
    run = await ended(user, await start(user, flow))
    assert run.result is not None, run.error
    shown = "{{ secrets.pin.text }}"
    assert run.result["outputs"]["typed"] == {"n": shown, "t": shown}
    assert UUID(run.result["outputs"]["picture"])
    assert [step.type for step in await steps_of(user, run.id)][-1] == "screenshot"


# Redaction ------------------------------------------------------------------------------------------


@pytest.fixture
def redact() -> Redactor:
    redactor = Redactor()
    many = {
        PASSWORD: "[P]",
        "123": "[C]",
        "ab": "[S]",
        "482915": "[N]",
        "abc~de&f9": "[T]",
        LINES: "[L]",
        LONG: "[X]",
    }
    for value, name in many.items():
        redactor.add(value, name)
    return redactor


LINES, LONG = "first line it is\n    the second line\nthird", "x" * 150 + "y" * 300


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("nothing of it", "nothing of it"),
        (f"<{PASSWORD}{PASSWORD}>", "<[P][P]>"),
        (f"?p={quote(PASSWORD)}&q={quote_plus(PASSWORD)}&c=123", "?p=[P]&q=[P]&c=[C]"),
        ("?p=pa%26ss%20w%c3%b6rd%2f7Q", "?p=[P]"),
        ("?p=pa&ss%20w%C3%B6rd/7Q", "?p=[P]"),
        ("?p=abc%7Ede%26f9 abc~de&amp;f9", "?p=[T] [T]"),
        ('value="pa&amp;ss wörd/7Q" pa&#38;ss\u00a0wörd/7Q pa&ss\n  wörd/7Q', 'value="[P]" [P] [P]'),
        (json.dumps({"a": PASSWORD}), '{"a": "[P]"}'),
        (json.dumps(PASSWORD, ensure_ascii=False).replace("/", "\\/"), '"[P]"'),
        ("first line it is\nthe second line", "[L]\n[L]"),
        ("(first line it is the second line third)", "([L] [L] third)"),
        (f"at {LONG} end", "at [X][X][X] end"),
        (f'a <input value="{PASSWORD[:9]}…; b <input value="{PASSWORD[:8]}…', 'a <input value="[P]…; b <input value="[P]…'),
        (f"Search… cut {PASSWORD[:7]}", "Search… cut [P]"),
        (f"cut {quote(PASSWORD)[:16]}… (waited 5 s)", "cut [P]… (waited 5 s)"),
        (f"no cut {PASSWORD[:7]} here", f"no cut {PASSWORD[:7]} here"),
        ("a 123, 1234 and x123", "a [C], 1234 and x123"),
        ("ab is too short", "ab is too short"),
        ("text }}abc~de&", "text }}[T]"),
    ],
)  # fmt: skip
def test_values_are_replaced_as_they_are_spelt(redact: Redactor, text: str, shown: str) -> None:
    assert redact(text) == shown
    assert redact({text: [text, 5, None, True]}) == {shown: [shown, 5, None, True]}


def test_numbers_are_replaced_too(redact: Redactor) -> None:
    assert redact([482915, 482915.0, 123, 1234, 0.5, float("inf")]) == [
        "[N]",
        "[N]",
        "[C]",
        1234,
        0.5,
        float("inf"),
    ]


def test_many_texts_cost_little(redact: Redactor) -> None:
    rows = [f"row {number} of many" for number in range(200_000, 250_000)]
    assert redact(rows) == rows


async def test_lines_of_the_log_are_without_the_secrets_of_their_task(
    redact: Redactor, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for environment in ("development", "production"):
        monkeypatch.setitem(settings.__dict__, "environment", environment)
        logs.configure()
        structlog.get_logger().warning("before", url=PASSWORD)
        logs.redactor.set(redact)
        structlog.contextvars.bind_contextvars(run_id="the 123 run")
        try:
            raise ValueError(f"found {PASSWORD}")
        except ValueError:
            structlog.get_logger().exception(
                "broke", places=[PASSWORD], where=Path("/tmp") / "abc~de&f9", code=482915
            )
        logging.getLogger("their.library").warning("got %s", PASSWORD)
        logs.redactor.set(None)
        structlog.contextvars.clear_contextvars()
        first, rest = capsys.readouterr().out.split("\n", 1)
        assert "wörd" in first or "w\\u00f6rd" in first
        assert not any(holds(rest, value) for value in (PASSWORD, "abc~de&f9", "482915"))
        assert rest.count("[P]") >= 3
        assert "the 123 run" in rest


def test_every_kind_of_secret_says_what_of_it_is_hidden() -> None:
    assert {field for fields in secrets.FIELDS.values() for field in fields} == {*secrets.ALL_FIELDS}
    assert {*secrets.FIELDS} == {*SecretKind}
    assert {*secrets.HIDDEN} == {*secrets.ALL_FIELDS} - {"username"}
