"""What a model says reaches the user's sockets while it says it, without secrets, and is kept nowhere."""

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest

from infra.bus import LocalBus, RedisBus
from infra.redaction import Redactor
from live import limits
from models import Run
from runs import deltas
from runs.deltas import Deltas
from schemas import DeltaMessage
from tests.model_servers import Says, model_server
from tests.pages import Site
from tests.test_agent import begin
from tests.test_bus import redis_server
from tests.test_sockets import Client, client, port, serving, signed  # noqa: F401 - fixtures
from tests.workers import ended, other_worker, start_task

PASSWORD, PIN, KEY = "correct horse & battery", "4711", "sk-live-0123456789abcdef"


async def turns(count: int = 5) -> None:
    """Let everything that is ready happen."""
    for _ in range(count):
        await asyncio.sleep(0)


def message(user: str, redactor: Redactor | None = None) -> tuple[Deltas, dict[str, str]]:
    """A message of a run that begins, and what its deltas say of it."""
    run, message_id = Run(id=uuid4(), user_id=user), uuid4()
    place = {"type": "delta", "run_id": str(run.id), "message_id": str(message_id)}
    return Deltas(run, message_id, redactor or Redactor()), place


@pytest.fixture
def heard(user: str, worker: UUID, bus: LocalBus) -> Callable[[], list[str]]:
    """The texts of all deltas so far."""
    found: list[DeltaMessage] = []
    bus.subscribe(deltas.topic(user), lambda payload: found.append(DeltaMessage.model_validate_json(payload)))

    def texts() -> list[str]:
        whole = "".join(delta.text for delta in found)
        assert all(whole[delta.offset :].startswith(delta.text) for delta in found)
        return [delta.text for delta in found]

    return texts


# On the bus ---------------------------------------------------------------------------------------


async def test_deltas_make_the_message_without_the_spaces_around_it(
    user: str, heard: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "PAUSE_SECONDS", 0)
    say, _ = message(user)
    for word in ("\n", " Nearly", " ", "there", "\n\n"):
        say(word)
        await turns()
    assert heard() == ["Nearly", " there"]


async def test_what_comes_within_a_pause_is_one_delta(user: str, heard: Callable[[], list[str]]) -> None:
    say, _ = message(user)
    loop = asyncio.get_running_loop()
    began = loop.time()
    for _ in range(3):
        for _ in range(100):
            say("x")
        count = len(heard())
        async with asyncio.timeout(10):
            while len(heard()) == count:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert heard() == ["x" * 100] * 3
    assert loop.time() - began >= 2 * deltas.PAUSE_SECONDS


@pytest.mark.parametrize(
    "text",
    [
        f"I type {PASSWORD} and go on",
        f"{PASSWORD}",
        "as correct+horse+%26+battery, then correct horse &amp; battery.",
        f"The pin is {PIN}, not 47110 and not correct horse sense",
        f"{KEY[:-1]}g {KEY} {KEY[:9]}",
        f"{PIN}{KEY}{PASSWORD}",
    ],
)
@pytest.mark.parametrize("size", [1, 2, 7])
async def test_a_secret_in_pieces_is_no_less_a_secret(
    text: str, size: int, user: str, heard: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deltas, "PAUSE_SECONDS", 0)
    redactor = Redactor()
    for value in (PASSWORD, PIN, KEY):
        redactor.add(value, "(secret)")
    say, _ = message(user, redactor)
    for start in range(0, len(text), size):
        say(text[start : start + size])
        await turns()
    shown = "".join(heard())
    assert redactor(text + " ").startswith(shown)
    say(" and that was all")
    await turns()
    assert "".join(heard()) == redactor(text + " and that was all")


# On sockets ---------------------------------------------------------------------------------------


async def deltas_until(one: Client, text: str) -> list[dict[str, Any]]:
    """Every delta up to the one with this text."""
    found: list[dict[str, Any]] = []
    while not found or found[-1]["text"] != text:
        found.append(await one.expect("delta"))
    return found


async def test_a_socket_hears_a_model_speak(
    user: str,
    site: Site,
    worker: UUID,
    port: int,  # noqa: F811 - the fixture
) -> None:
    async with client(port, user) as one:
        await one.subscribe()
        run_id = await begin(user, f"open {site.url('/second')}", "finish 'All done'")
        delta, said = await one.expect("delta"), None
        while said is None:
            events = (await one.expect("events"))["events"]
            said = next((event for event in events if event["kind"] == "message.created"), None)
        await ended(user, run_id)
    assert delta == {
        "type": "delta",
        "run_id": str(run_id),
        "message_id": said["data"]["id"],
        "offset": 0,
        "text": delta["text"],
    }
    assert said["data"]["text"].startswith(delta["text"])


async def test_who_gets_the_message_gets_its_deltas(
    user: str,
    other_user: str,
    worker: UUID,
    port: int,  # noqa: F811
) -> None:
    say, place = message(user)
    others, at = message(user)
    theirs, there = message(other_user)
    async with client(port, user) as one, client(port, user) as two, client(port, other_user) as three:
        await one.subscribe(run_id=place["run_id"])
        await one.subscribe(kinds=["message."])
        await two.subscribe(run_id=at["run_id"])
        await two.subscribe(kinds=["run."])
        await three.subscribe()
        say("One")
        assert await deltas_until(one, "One") == [place | {"offset": 0, "text": "One"}]
        others("Two")
        assert await deltas_until(one, "Two") == [at | {"offset": 0, "text": "Two"}]
        assert await deltas_until(two, "Two") == [at | {"offset": 0, "text": "Two"}]
        theirs("Three")
        assert await deltas_until(three, "Three") == [there | {"offset": 0, "text": "Three"}]


async def test_a_client_that_cannot_keep_up_loses_the_oldest_deltas(
    user: str,
    worker: UUID,
    bus: LocalBus,
    port: int,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "QUEUED_DELTAS", 2)
    async with client(port, user) as one:
        await one.subscribe()
        place = {"run_id": uuid4(), "message_id": uuid4()}
        for offset in range(10):
            delta = DeltaMessage(offset=offset, text=str(offset), **place)
            bus.publish(deltas.topic(user), delta.model_dump_json().encode())
        assert [delta["offset"] for delta in await deltas_until(one, "9")] == [8, 9]


async def test_nobody_listens_for_those_who_are_not_there(
    user: str,
    bus: LocalBus,
    worker: UUID,
    port: int,  # noqa: F811
) -> None:
    assert deltas.topic(user) not in bus._topics
    async with client(port, user):
        assert deltas.topic(user) in bus._topics
    async with asyncio.timeout(20):
        while deltas.topic(user) in bus._topics:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


# Between processes --------------------------------------------------------------------------------


async def test_another_process_hears_a_model_speak_in_order_and_for_its_user_alone(
    user: str,
    other_user: str,
    idle: None,
    signed: None,  # noqa: F811
    temporary: Path,
) -> None:
    url = f"unix://{temporary}/redis"
    heard_of = asyncio.Event(), asyncio.Event()
    first = Says("Nearly there", (("list_tabs", {}),), waits=heard_of[0])
    last = Says("All is done.", waits=heard_of[1])
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(redis_server(temporary))
        served = await stack.enter_async_context(model_server(first, last))
        bus = RedisBus(url)
        await bus.start()
        stack.push_async_callback(bus.close)
        at = await stack.enter_async_context(serving(bus))
        one, two = [await stack.enter_async_context(client(at, whose)) for whose in (user, other_user)]
        await one.subscribe(kinds=["message."])
        await two.subscribe()
        await bus.settle()
        await stack.enter_async_context(other_worker(REDIS_URL=url))
        run_id = await start_task(user, "Do it", model=served.model("anthropic"))
        heard, said = list[dict[str, Any]](), list[str]()
        while len(heard) < 4 or len(said) < 2:
            message = await one.receive()
            if message["type"] == "delta":
                heard.append(message)
                heard_of[len({delta["message_id"] for delta in heard}) - 1].set()
            elif message["type"] == "events":
                told = [event["data"] for event in message["events"] if event["kind"] == "message.created"]
                said += [data["id"] for data in told if data["role"] == "assistant"]
        run = await ended(user, run_id)
        place = {"run_id": uuid4(), "message_id": uuid4()}
        end = DeltaMessage(offset=0, text="End", **place)
        for whose in (user, other_user):
            bus.publish(deltas.topic(whose), end.model_dump_json().encode())
        rest = [await deltas_until(socket, "End") for socket in (one, two)]
    assert run.status == "succeeded", run.error
    for message_id, halves in zip(said, (("Nearly", " there"), ("All is", " done.")), strict=True):
        in_it = {"type": "delta", "run_id": str(run_id), "message_id": message_id}
        assert [delta for delta in heard if delta["message_id"] == message_id] == [
            in_it | {"offset": offset, "text": text} for offset, text in zip((0, 6), halves, strict=True)
        ]
    assert rest == [[{"type": "delta"} | orjson.loads(end.model_dump_json())]] * 2
