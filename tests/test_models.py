"""Asking models: three protocols, over real HTTP, in a real browser; what fails is asked again, or another one is."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import orjson
import pytest

import db
from infra.bus import LocalBus
from models import Control, Quota, Run, SecretKind, Turn
from runs import asking, deltas, engine, secrets
from runs.parameters import Invalid
from schemas import RunCreate, RunUpdate, SecretCreate
from settings import settings
from tests.conftest import ROOT
from tests.model_servers import NAMES, PROTOCOLS, Fails, ModelServer, Reply, Says, Silent, model_server
from tests.pages import Site
from tests.test_agent import said_in
from tests.workers import ask, ended, look, steps_of, until

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

DONE = Says(calls=(("finish", {"result": "Done"}),))
KEY = "sk-model-key-of-alice"
each_protocol = pytest.mark.parametrize("protocol", PROTOCOLS)


@pytest.fixture(autouse=True)
def _short_waits(worker: UUID, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(asking, "DELAYS", (0.01, 0.02, 0.03, 0.04))
    yield


async def begin(user: str, model: object, *fallbacks: object, **more: object) -> UUID:
    body: dict[str, object] = {"task": "Do it", "model": model, "fallbacks": list(fallbacks)}
    async with db.as_user(user, "user") as tx:
        reply = await engine.enqueue(tx, RunCreate.model_validate(body | more))
    return UUID(orjson.loads(bytes(reply.body))["data"]["id"])


async def done(user: str, served: ModelServer, protocol: str, *fallbacks: object, **more: object) -> Run:
    return await ended(user, await begin(user, served.model(protocol), *fallbacks, **more))


async def keep_secret(user: str, *origins: str) -> None:
    body = SecretCreate(name="model", kind=SecretKind.text, text=KEY, origins=list(origins))
    async with db.as_user(user, "user") as tx:
        await secrets.create(tx, body)


async def logged(user: str, run_id: UUID) -> list[str]:
    events = await db.events(user, 0)
    lines = [
        orjson.loads(event.text) for event in events if event.run_id == run_id and event.kind == "run.log"
    ]
    return [line["data"]["message"] for line in lines]


async def turns_of(user: str, run_id: UUID) -> list[Turn]:
    async with db.as_user(user) as tx:
        return await tx.find(Turn, run_id=run_id)


# The loop -----------------------------------------------------------------------------------------


@each_protocol
async def test_a_task_is_done_in_a_browser(user: str, site: Site, protocol: str) -> None:
    go = Says("I open it.", (("navigate", {"url": site.url("/second")}),), tokens=(1_000, 50))
    async with model_server(go, Says(calls=(("get_page_text", {}),)), DONE) as served:
        run = await done(user, served, protocol)
    assert (run.status, run.result, run.error) == ("succeeded", {"outputs": {"result": "Done"}}, None)
    assert [(step.type, step.status) for step in await steps_of(user, run.id)] == [
        ("agent", "succeeded"),
        ("navigate", "succeeded"),
        ("get_page_text", "succeeded"),
        ("finish", "succeeded"),
    ]
    first, second, third = served.asked
    assert "Do it" in first.text
    assert first.pictures == 0
    assert "Second" in second.text
    assert (second.pictures, third.pictures) == (1, 1)
    assert served.complaints == []
    assert (run.input_tokens, run.output_tokens) == (1_200, 70)
    turns = await turns_of(user, run.id)
    assert [(turn.model_name, turn.input_tokens) for turn in turns] == [
        (NAMES[protocol], 1_000),
        (NAMES[protocol], 100),
        (NAMES[protocol], 100),
    ]
    assert run.cost_micros == sum(turn.cost_micros for turn in turns) > 0


@pytest.mark.parametrize("period", ["", "month_"])
@pytest.mark.parametrize(
    ("part", "most", "more"), [("tokens", 1_000, 9_000), ("cost_usd", 1e-4, 9), ("seconds", 1, 99)]
)
async def test_what_a_run_may_use_is_all_that_it_uses(
    user: str, period: str, part: str, most: float, more: float
) -> None:
    """Tokens, money and time; of a run, and of a user's month."""
    limit = {f"max_{part}": most} if not period else {}
    if period:
        async with db.as_user(user) as tx:
            await tx.change(Quota, {}, **{f"max_month_{part}": most})
    rest = Says(calls=(("wait", {"duration_ms": 1_100}),), tokens=(1_000, 50))
    async with model_server(rest, DONE) as served:
        run_id = await begin(user, served.model("anthropic"), **limit)
        paused = await until(user, run_id, status="paused")
        assert (paused.reason, len(served.asked)) == (f"budget_{period}{part}", 1)
        async with db.as_user(user, "user") as tx:
            if period:
                await tx.change(Quota, {}, **{f"max_month_{part}": more})
                await engine.go_on_within_budget(tx)
            else:
                await engine.change_budget(tx, paused, RunUpdate.model_validate({f"max_{part}": more}))
        assert (await ended(user, run_id)).status == "succeeded"
    events = [event.kind for event in await db.events(user, 0) if event.kind in ("run.paused", "run.resumed")]
    assert events == ["run.paused", "run.resumed"]


async def test_a_run_keeps_its_connection(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with model_server(Says(calls=(("list_tabs", {}),)), Says(calls=(("wait", {}),)), DONE) as served:
        monkeypatch.setitem(settings.__dict__, "model_base_url", served.url("openai-compatible"))
        run = await ended(user, await begin(user, NAMES["openai-compatible"]))
    assert (run.status, len(served.asked), served.connections) == ("succeeded", 3, 1)


@each_protocol
async def test_several_calls_are_done_in_turn_and_answered_together(
    user: str, site: Site, protocol: str
) -> None:
    calls = (("navigate", {"url": site.url("/second")}), ("switch_tab", {"tab": "t99"}))
    async with model_server(Says(calls=(*calls, ("list_tabs", {}))), DONE) as served:
        run = await done(user, served, protocol)
    assert (run.status, len(served.asked), served.complaints) == ("succeeded", 2, [])
    assert [(step.type, step.status) for step in await steps_of(user, run.id)] == [
        ("agent", "succeeded"),
        ("navigate", "succeeded"),
        ("switch_tab", "failed"),
        ("list_tabs", "succeeded"),
        ("finish", "succeeded"),
    ]


# Calls that no tool takes -------------------------------------------------------------------------


WRONG: tuple[tuple[str, Any], ...] = (
    ("navigate", '{"url": "https://exa'),
    ("navigate", "[1]"),
    ("navigate", {"url": 1}),
    ("zoom", {}),
    ("hack the planet!", {}),
)


@each_protocol
async def test_wrong_arguments_are_told_to_the_model(user: str, protocol: str) -> None:
    async with model_server(Says(calls=(*WRONG, ("list_tabs", {}))), DONE) as served:
        run = await done(user, served, protocol)
    assert (run.status, served.complaints) == ("succeeded", [])
    _, *wrong, right, _ = await steps_of(user, run.id)
    assert [(step.status, step.error and step.error["code"]) for step in wrong] == [
        ("failed", "invalid_arguments")
    ] * len(WRONG)
    assert right.status == "succeeded"
    assert served.asked[1].text.count("invalid_arguments: ") == len(WRONG)


async def test_a_model_that_only_calls_wrongly_is_given_up(user: str) -> None:
    async with model_server(Says(calls=(("navigate", "{"),))) as served:
        run = await done(user, served, "anthropic")
    assert (run.status, run.error and run.error["code"]) == ("failed", "model_confused")
    assert (len(served.asked), served.complaints) == (5, [])


# Failures -----------------------------------------------------------------------------------------


PASSING: tuple[tuple[Reply, str], ...] = (
    (Fails("overloaded"), "is overloaded (529): Overloaded; asks again in 0.01 s"),
    (Fails("overloaded", in_stream=True), ": Overloaded; asks again in 0.02 s"),
    (
        Fails("limited", ("retry-after-ms: 50",)),
        "is asked too often (429): Too many requests; asks again in 0.05 s",
    ),
    (Fails("broken"), "is unavailable (500): Internal server error; asks again in 0.01 s"),
    (Says("Half a reply", (("list_tabs", {}),), cut="closed"), "; asks again in 0.02 s"),
    (Says("Half a reply", (("list_tabs", {}),), cut="ended"), "gives no whole answer: "),
)


@each_protocol
async def test_what_may_pass_is_asked_again(user: str, protocol: str) -> None:
    failures = [failure for failure, _ in PASSING]
    async with model_server(*failures[:3], Says(calls=(("list_tabs", {}),)), *failures[3:], DONE) as served:
        run = await done(user, served, protocol)
    assert (run.status, len(served.asked)) == ("succeeded", 8)
    bodies = [asked.body for asked in served.asked]
    assert bodies == [bodies[0]] * 4 + [bodies[4]] * 4
    lines = [line for line in await logged(user, run.id) if line.startswith(NAMES[protocol])]
    assert len(lines) == len(PASSING)
    for line, (_, said) in zip(lines, PASSING, strict=True):
        assert said in line
    assert len(await turns_of(user, run.id)) == 2


async def test_a_model_that_stays_away_is_asked_five_times(user: str) -> None:
    async with model_server(Fails("overloaded")) as away, model_server(DONE) as there:
        run = await done(user, away, "anthropic", there.model("openai"))
    assert (run.status, len(away.asked), len(there.asked)) == ("succeeded", 5, 1)
    assert [line for line in await logged(user, run.id) if line.startswith("anthropic:")] == [
        *(
            f"anthropic:claude-sonnet-5-5 is overloaded (529): Overloaded; asks again in {seconds} s"
            for seconds in (0.01, 0.02, 0.03, 0.04)
        ),
        "anthropic:claude-sonnet-5-5 is overloaded (529): Overloaded; asks openai:gpt-5 instead",
    ]
    assert [turn.model_name for turn in await turns_of(user, run.id)] == ["openai:gpt-5"]


LASTING = (
    (Fails("key"), "refuses the key (401): invalid x-api-key"),
    (Fails("quota"), "has no quota left (429): You exceeded your quota"),
    (Fails("missing"), "is not known there (404): model: no-such-model"),
    (Fails("rejected"), "rejects the request (400): This makes no sense"),
    (
        Fails("moved", ("location: http://127.0.0.1:1/",)),
        "rejects the request (307): It redirects, which nobody follows",
    ),
)


@each_protocol
async def test_what_does_not_pass_is_left_to_the_next_model(user: str, protocol: str) -> None:
    async with model_server(*(failure for failure, _ in LASTING), DONE) as served:
        run = await done(user, served, protocol, *[served.model(protocol)] * len(LASTING))
    assert (run.status, len(served.asked)) == ("succeeded", 6)
    lines = [line for line in await logged(user, run.id) if line.startswith(NAMES[protocol])]
    for line, (_, said) in zip(lines, LASTING, strict=True):
        assert line.startswith(f"{NAMES[protocol]} {said}")
        assert line.endswith(f"; asks {NAMES[protocol]} instead")


async def test_models_go_on_where_others_were(user: str, site: Site) -> None:
    go, away = Says("I go.", (("navigate", {"url": site.url("/second")}), ("navigate", "{"))), Fails("key")
    async with (
        model_server(go, away, away, go, away) as first,
        model_server(go, away, go, away) as second,
        model_server(go, DONE) as third,
    ):
        models = (
            served.model(protocol) for served, protocol in zip((second, third), PROTOCOLS[1:], strict=True)
        )
        run = await done(user, first, PROTOCOLS[0], *models)
    assert (run.status, first.complaints, second.complaints, third.complaints) == ("succeeded", [], [], [])
    order = (0, 1, 2, 0, 1, 2)
    assert [turn.model_name for turn in await turns_of(user, run.id)] == [
        NAMES[PROTOCOLS[at]] for at in order
    ]
    assert second.asked[0].pictures == 2


async def test_a_silent_model_is_asked_again(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from runs import model_client  # noqa: PLC0415

    monkeypatch.setitem(model_client.SETTINGS, "first_event_timeout", 1.0)
    monkeypatch.setattr(model_client, "SILENT_SECONDS", 1.0)
    async with model_server(Silent(), Says("Half", hangs=True), DONE) as served:
        run = await done(user, served, "anthropic")
    assert (run.status, len(served.asked)) == ("succeeded", 3)
    lines = [line for line in await logged(user, run.id) if line.startswith("anthropic:")]
    assert ["does not answer" in line for line in lines] == [True, True]


async def test_a_server_that_is_not_there_is_said(user: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with model_server(DONE) as gone:
        pass
    monkeypatch.setitem(settings.__dict__, "model_base_url", gone.url("openai"))
    async with model_server(DONE) as served:
        fallbacks = (gone.model("openai"), served.model("anthropic"))
        run = await ended(user, await begin(user, NAMES["openai-compatible"], *fallbacks))
    assert run.status == "succeeded"
    lines = [line for line in await logged(user, run.id) if line.startswith("openai")]
    assert [line.partition(": ")[0] for line in lines] == [
        *["openai-compatible:gpt-5 cannot be reached"] * 5,
        *["openai:gpt-5 is unavailable (502)"] * 5,
    ]


# Nobody answers -----------------------------------------------------------------------------------


async def test_a_run_without_a_model_waits_for_its_user(user: str) -> None:
    async with model_server(Fails("key"), Fails("key"), DONE) as served:
        run_id = await begin(user, served.model("anthropic"), served.model("openai"))
        await until(user, run_id, status="waiting_user", reason="model_key_refused")
        await ask(user, run_id, Control.run)
        run = await ended(user, run_id)
    assert run.status == "succeeded"
    assert [asked.protocol for asked in served.asked] == ["anthropic", "openai", "anthropic"]
    assert "openai:gpt-5 refuses the key (401): invalid x-api-key; no other model is left" in await logged(
        user, run_id
    )


@each_protocol
async def test_a_refusal_goes_to_the_next_model_and_ends_the_run_behind_the_last(
    user: str, protocol: str
) -> None:
    no = Says(refusal="I will not.")
    async with model_server(no, Says(calls=(("list_tabs", {}),)), no, no) as served:
        run = await done(user, served, protocol, served.model(protocol))
    assert (run.status, run.error) == ("failed", {"code": "model_refused", "detail": "I will not."})
    assert (len(served.asked), run.input_tokens) == (4, 400)
    name = NAMES[protocol]
    assert [line for line in await logged(user, run.id) if line.startswith(name)] == [
        f"{name} refuses: I will not.; asks {name} instead",
        f"{name} refuses: I will not.; asks {name} instead",
        f"{name} refuses: I will not.; no other model is left",
    ]


# Replies that bring nothing -----------------------------------------------------------------------


@each_protocol
async def test_a_model_that_says_nothing_or_too_much_is_told_so(user: str, protocol: str) -> None:
    half = Says("It is a long st", too_long=True)
    async with model_server(Says(), Says(), half, Says("It is tea.")) as served:
        run = await done(user, served, protocol)
    assert (run.result, served.complaints) == ({"outputs": {"result": "It is tea."}}, [])
    assert [asked.text.count("You said nothing") for asked in served.asked] == [0, 1, 1, 1]
    assert [asked.text.count("Your reply was too long") for asked in served.asked] == [0, 0, 0, 1]
    assert (len(await turns_of(user, run.id)), run.input_tokens) == (1, 400)


async def test_a_model_that_goes_on_to_say_nothing_has_failed(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "DELAYS", (0.01,))
    async with model_server(Says()) as mute, model_server(DONE) as served:
        run = await done(user, mute, "anthropic", served.model("openai"))
    assert (run.status, len(mute.asked)) == ("succeeded", 8)
    assert [line for line in await logged(user, run.id) if line.startswith("anthropic:")] == [
        "anthropic:claude-sonnet-5-5 says nothing; asks again in 0.01 s",
        "anthropic:claude-sonnet-5-5 says nothing; asks openai:gpt-5 instead",
    ]


# Wishes while a model speaks ----------------------------------------------------------------------


@each_protocol
async def test_a_pause_breaks_off_what_a_model_says(user: str, protocol: str) -> None:
    half = Says("Half a reply", (("list_tabs", {}),), hangs=True)
    async with model_server(half, DONE) as served:
        run_id = await begin(user, served.model(protocol))
        await served.until(1)
        began = asyncio.get_running_loop().time()
        await ask(user, run_id, Control.pause)
        await until(user, run_id, status="paused")
        assert asyncio.get_running_loop().time() - began < 3
        await ask(user, run_id, Control.run)
        run = await ended(user, run_id)
        async for _ in look(10):
            if served.broken_off:
                break
    assert (run.status, len(served.asked), served.broken_off) == ("succeeded", 2, 1)
    assert "Half a reply" not in served.asked[1].text
    assert len(await turns_of(user, run_id)) == 1


@each_protocol
async def test_a_cancel_breaks_off_what_a_model_says_and_keeps_none_of_it(
    user: str, bus: LocalBus, protocol: str
) -> None:
    heard = asyncio.Event()
    bus.subscribe(deltas.topic(user), lambda _: heard.set())
    async with model_server(Says("Half a reply", (("list_tabs", {}),), hangs=True)) as served:
        run_id = await begin(user, served.model(protocol))
        async with asyncio.timeout(30):
            await heard.wait()
        began = asyncio.get_running_loop().time()
        await ask(user, run_id, Control.cancel)
        run = await ended(user, run_id)
        assert asyncio.get_running_loop().time() - began < 3
        async for _ in look(10):
            if served.broken_off:
                break
    assert (run.status, run.error, run.result, run.input_tokens) == ("cancelled", None, None, 0)
    assert (len(served.asked), served.broken_off) == (1, 1)
    assert await turns_of(user, run_id) == []
    assert await said_in(user, run_id) == [("user", "Do it")]
    assert [(step.type, step.status) for step in await steps_of(user, run_id)] == [("agent", "succeeded")]
    assert not any("Half a" in event.text for event in await db.events(user, 0))


async def test_a_cancel_ends_a_wait_for_a_model(user: str) -> None:
    async with model_server(Fails("overloaded", ("retry-after: 600",))) as served:
        run_id = await begin(user, served.model("anthropic"))
        async for _ in look(20):
            if any("asks again in 120 s" in line for line in await logged(user, run_id)):
                break
        await ask(user, run_id, Control.cancel)
        run = await ended(user, run_id, 3)
    assert (run.status, len(served.asked)) == ("cancelled", 1)


# Long conversations -------------------------------------------------------------------------------


async def test_a_conversation_that_is_too_long_is_told_shorter(user: str, site: Site) -> None:
    look = Says(calls=(("navigate", {"url": site.url("/second")}), ("screenshot", {})))
    async with model_server(*[look] * 8, *[Fails("long")] * 3, DONE) as served:
        run = await done(user, served, "anthropic")
    assert (run.status, served.complaints) == ("succeeded", [])
    sizes = [len(asked.text) for asked in served.asked[8:]]
    assert len(sizes) == 4
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == 4
    assert [asked.pictures for asked in served.asked[8:]] == [8, 2, 1, 1]
    lines = [line for line in await logged(user, run.id) if "tells less" in line]
    assert len(lines) == 3
    assert "Do it" in served.asked[-1].text
    assert "are left out here" in served.asked[-1].text


@each_protocol
async def test_a_conversation_that_stays_too_long_goes_to_the_next_model(user: str, protocol: str) -> None:
    async with model_server(Fails("long"), Fails("large")) as small, model_server(DONE) as large:
        run = await done(user, small, protocol, large.model("openai"))
    assert (run.status, len(small.asked), len(large.asked)) == ("succeeded", 4, 1)


async def test_less_is_told_before_it_is_too_much(user: str, site: Site) -> None:
    go = (("navigate", {"url": site.url("/second")}),)
    few, many = Says(calls=go), Says(calls=go, tokens=(160_000, 10))
    async with model_server(few, few, many, DONE) as served:
        run = await done(user, served, "openai")
    assert run.status == "succeeded"
    assert [asked.pictures for asked in served.asked] == [0, 1, 2, 3]
    messages = await logged(user, run.id)
    assert "The conversation has become long; the model is told less of what is past" in messages


# Keys and addresses -------------------------------------------------------------------------------


@each_protocol
async def test_the_key_is_what_the_users_secret_holds(user: str, protocol: str) -> None:
    echo = Says(f"My key is {KEY}.", (("list_tabs", {}),))
    failure = Fails("key", says=f"Wrong key {KEY}")
    async with model_server(echo, failure) as served, model_server(DONE) as other:
        await keep_secret(user, served.url("anthropic"))
        run = await ended(
            user, await begin(user, served.model(protocol, secret="model"), other.model(protocol))
        )
    assert (run.status, [asked.key for asked in served.asked]) == ("succeeded", [KEY, KEY])
    assert other.asked[0].key == "none"
    told = "".join(event.text for event in await db.events(user, 0))
    assert (
        KEY not in told + repr([turn.response for turn in await turns_of(user, run.id)]) + other.asked[0].text
    )
    assert "Wrong key (the key)" in told


async def test_a_secret_is_told_to_no_other_address(user: str) -> None:
    await keep_secret(user, "https://api.anthropic.com")
    async with model_server(DONE) as served:
        run_id = await begin(user, served.model("anthropic", secret="model"))
        await until(user, run_id, status="waiting_user", reason="secret_refused")
        await ask(user, run_id, Control.cancel)
        await ended(user, run_id)
    assert served.asked == []
    assert (
        f"anthropic:claude-sonnet-5-5 may not be told its key: secrets.model is not for {served.url('anthropic')}; "
        "no other model is left"
    ) in await logged(user, run_id)


@each_protocol
async def test_the_servers_keys_go_to_no_address_of_a_users(
    user: str, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("anthropic_api_key", "openai_api_key", "model_api_key"):
        monkeypatch.setitem(settings.__dict__, name, "server-key")
    for name in (
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "OPENAI_API_KEY",
        "OPENAI_ORG_ID",
        "OPENAI_PROJECT_ID",
    ):
        monkeypatch.setenv(name, "server-key")
    for name in ("ANTHROPIC_CUSTOM_HEADERS", "OPENAI_CUSTOM_HEADERS"):
        monkeypatch.setenv(
            name, "X-Proxy: server-key\nAuthorization: Bearer server-key\nX-Api-Key: server-key"
        )
    async with model_server(DONE) as served:
        run = await done(user, served, protocol)
        assert run.status == "succeeded"
        assert "server-key" not in repr(served.asked[0])
        monkeypatch.setitem(settings.__dict__, "anthropic_base_url", served.url("anthropic"))
        monkeypatch.setitem(settings.__dict__, "openai_base_url", served.url("openai"))
        monkeypatch.setitem(settings.__dict__, "model_base_url", served.url("openai"))
        await ended(user, await begin(user, NAMES[protocol]))
    assert "server-key" in served.asked[1].key


async def test_private_addresses_are_asked_only_where_that_is_allowed(
    user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with model_server(DONE) as served:
        by_name = {"name": NAMES["openai"], "base_url": f"https://localhost:{served.port}/v1"}
        monkeypatch.setitem(settings.__dict__, "allow_private_network", False)
        with pytest.raises(Invalid):
            await begin(user, served.model("openai"))
        run_id = await begin(user, by_name)
        await until(user, run_id, status="waiting_user", reason="model_unusable")
        await ask(user, run_id, Control.cancel)
        await ended(user, run_id)
    assert (served.asked, served.connections) == ([], 0)


# Prices and the start -----------------------------------------------------------------------------


async def test_an_unknown_price_is_said_once(user: str) -> None:
    async with model_server(Says(calls=(("list_tabs", {}),)), DONE) as served:
        model = served.model("openai-compatible") | {"name": "openai-compatible:our-own"}
        run = await ended(user, await begin(user, model))
    assert (run.status, run.cost_micros, run.input_tokens) == ("succeeded", 0, 200)
    said = [line for line in await logged(user, run.id) if "price" in line]
    assert said == ["The price of openai-compatible:our-own is not known; it is counted as nothing"]


def test_the_server_starts_without_what_speaks_to_models() -> None:
    script = (
        "import sys, backend_websocket_server; print({'anthropic', 'openai', 'pydantic_ai'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=True)
    assert done.stdout.strip() == b"set()"
