"""Hints within a process and between processes, over a real PostgreSQL and a real Redis."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from infra import postgres
from infra.bus import Bus, LocalBus, NotifyBus, RedisBus, make_bus

ROOT = Path(__file__).parent.parent
NEXT_PROCESS = """
import asyncio, sys
from infra.bus import make_bus

async def main():
    bus, done = make_bus(sys.argv[1], sys.argv[2]), asyncio.Event()
    await bus.start()
    bus.subscribe("question", lambda payload: bus.publish("answer", payload[::-1]))
    bus.subscribe("stop", lambda payload: done.set())
    await bus.settle()
    bus.publish("answer", b"ready")
    await asyncio.wait_for(done.wait(), 30)
    bus.publish("answer", b"last words")
    await bus.close()

asyncio.run(main())
"""


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


def record(bus: Bus, topic: str) -> list[bytes]:
    heard: list[bytes] = []
    bus.subscribe(topic, heard.append)
    return heard


@pytest.fixture(scope="module")
async def dsn(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    server = await postgres.start(tmp_path_factory.mktemp("bus"))
    yield server.dsn
    await postgres.stop(server)


@asynccontextmanager
async def redis_server(directory: Path, *settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Redis of its own on the socket `directory/redis`."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("redis-server is not installed")
    socket = directory / "redis"
    options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(directory), *settings)
    process = await asyncio.create_subprocess_exec(program, *options, stdout=asyncio.subprocess.DEVNULL)
    try:
        async with asyncio.timeout(15):
            while True:
                try:
                    _, writer = await asyncio.open_unix_connection(socket)
                    break
                except OSError:
                    await asyncio.sleep(0.01)
        writer.close()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.fixture(scope="module")
async def redis_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    directory = tmp_path_factory.mktemp("redis")
    async with redis_server(directory):
        yield f"unix://{directory}/redis"


@pytest.fixture(params=["notify", "redis"])
async def address(request: pytest.FixtureRequest, dsn: str, redis_url: str) -> tuple[str, str]:
    """What `make_bus` takes to reach other processes."""
    return (dsn, "") if request.param == "notify" else (dsn, redis_url)


@pytest.fixture
async def pair(address: tuple[str, str]) -> AsyncIterator[tuple[Bus, Bus]]:
    """Two buses that know of each other only through the server, as two processes do."""
    async with AsyncExitStack() as stack:
        buses = make_bus(*address), make_bus(*address)
        for bus in buses:
            await bus.start()
            stack.push_async_callback(bus.close)
        yield buses


async def test_a_local_message_reaches_each_subscriber_of_exactly_its_topic() -> None:
    bus = LocalBus()
    await bus.start()
    first, second, other = record(bus, "user:1"), record(bus, "user:1"), record(bus, "user:10")
    bus.publish("user:1", b"7")
    assert first == []
    await until(lambda: second)
    assert (first, second, other) == ([b"7"], [b"7"], [])
    await bus.close()


async def test_an_unsubscribed_callback_is_not_called_even_for_a_message_on_its_way() -> None:
    bus = LocalBus()
    await bus.start()
    gone: list[bytes] = []
    unsubscribe = bus.subscribe("runs", gone.append)
    kept = record(bus, "runs")
    bus.publish("runs")
    unsubscribe()
    unsubscribe()
    await until(lambda: kept)
    assert gone == []
    await bus.close()


async def test_a_bus_that_is_closed_or_not_started_swallows_messages() -> None:
    bus = LocalBus()
    heard = record(bus, "runs")
    bus.publish("runs", b"early")
    await bus.start()
    await bus.close()
    bus.publish("runs", b"late")
    await asyncio.sleep(0)
    assert heard == []


async def test_without_any_server_the_bus_is_the_process_alone() -> None:
    bus = make_bus("", "")
    assert isinstance(bus, LocalBus)
    assert bus.carries_frames


async def test_another_process_answers(address: tuple[str, str]) -> None:
    bus = make_bus(*address)
    await bus.start()
    answers = record(bus, "answer")
    await bus.settle()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", NEXT_PROCESS, *address, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    try:
        await until(lambda: answers == [b"ready"])
        bus.publish("question", b"abc")
        await until(lambda: answers == [b"ready", b"cba"])
        bus.publish("stop")
        assert await asyncio.wait_for(process.wait(), 15) == 0
        await until(lambda: answers == [b"ready", b"cba", b"last words"])
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await bus.close()


async def test_each_process_hears_each_message_once_and_in_order(pair: tuple[Bus, Bus]) -> None:
    one, two = pair
    here, there = record(one, "log"), record(two, "log")
    end = record(two, "end")
    await two.settle()
    sent = [b"%d" % number for number in range(3000)]
    for number, payload in enumerate(sent):
        one.publish("log", payload)
        if number % 500 == 0:
            await asyncio.sleep(0.02)
    one.publish("end")
    await until(lambda: end)
    assert here == sent
    assert there == sent


async def test_equal_messages_that_wait_together_cross_once_at_the_place_of_the_last(
    pair: tuple[Bus, Bus],
) -> None:
    one, two = pair
    here, there, end = record(one, "switch"), record(two, "switch"), record(two, "end")
    await two.settle()
    for _ in range(1000):
        one.publish("switch", b"on")
        one.publish("switch", b"off")
    one.publish("switch", b"on")
    one.publish("end")
    await until(lambda: end)
    assert len(here) == 2001
    assert there == [b"off", b"on"]


@pytest.mark.parametrize("topic", ["user:\x00\ud800 'é", 'a","b', ""])
async def test_any_topic_and_any_payload_cross_unchanged(pair: tuple[Bus, Bus], topic: str) -> None:
    one, two = pair
    heard = record(two, topic)
    await two.settle()
    one.publish(topic, bytes(range(256)))
    await until(lambda: heard)
    assert heard == [bytes(range(256))]


async def test_thousands_of_topics_are_told_apart(pair: tuple[Bus, Bus]) -> None:
    one, two = pair
    heard: dict[int, bytes] = {}
    for user in range(5000):
        two.subscribe(f"user:{user}", partial(heard.__setitem__, user))
    await two.settle()
    for user in range(5000):
        one.publish(f"user:{user}", b"%d" % user)
    await until(lambda: len(heard) == 5000)
    assert all(payload == b"%d" % user for user, payload in heard.items())


async def test_an_exception_in_one_callback_keeps_nothing_from_the_others() -> None:
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    try:
        bus = LocalBus()
        await bus.start()
        error = ValueError("a broken subscriber")

        def fail(_: bytes) -> None:
            raise error

        bus.subscribe("runs", fail)
        heard = record(bus, "runs")
        bus.publish("runs", b"x")
        await until(lambda: heard)
        assert reported == [error]
        await bus.close()
    finally:
        loop.set_exception_handler(before)


async def test_a_message_too_big_for_notify_stays_in_its_process(dsn: str) -> None:
    one, two = NotifyBus(dsn), NotifyBus(dsn)
    assert not one.carries_frames
    await one.start()
    await two.start()
    here, there = record(one, "delta"), record(two, "delta")
    frames = record(two, "frames:1")
    one.publish("delta", b"x" * 9000)
    one.publish("frames:1", b"small")
    one.publish("delta", b"small")
    await until(lambda: there)
    assert there == [b"small"]
    assert here == [b"x" * 9000, b"small"]
    assert frames == []
    await one.close()
    await two.close()


async def test_notify_sends_at_most_one_statement_in_ten_milliseconds(dsn: str) -> None:
    bus = NotifyBus(dsn)
    await bus.start()
    watcher = await asyncpg.connect(dsn)
    messages: list[str] = []
    await watcher.add_listener("cua_bus", lambda *arguments: messages.append(str(arguments[3])))
    newest = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint"
    before, began = await watcher.fetchval(newest), asyncio.get_running_loop().time()
    for number in range(2000):
        bus.publish("user:1", b"%d" % number)
        if number % 10 == 0:
            await asyncio.sleep(0.001)
    await until(lambda: len(messages) == 2000)
    elapsed = asyncio.get_running_loop().time() - began
    assert await watcher.fetchval(newest) - before <= elapsed / 0.01 + 2
    await watcher.close()
    await bus.close()


async def test_after_the_server_cut_the_connections_both_sides_learn_of_the_gap_and_go_on(dsn: str) -> None:
    one, two = NotifyBus(dsn), NotifyBus(dsn)
    gaps: list[str] = []
    one.on_gap(lambda: gaps.append("one"))
    two.on_gap(lambda: gaps.append("two"))
    await one.start()
    await two.start()
    heard = record(two, "runs")
    one.publish("runs", b"before")
    await until(lambda: heard == [b"before"])
    assert gaps == []
    admin = await asyncpg.connect(dsn)
    cut = await admin.fetchval(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    await admin.close()
    assert cut == 4
    one.publish("runs", b"during")
    await until(lambda: {"one", "two"} <= set(gaps))
    one.publish("runs", b"after")
    await until(lambda: b"after" in heard)
    assert heard in ([b"before", b"during", b"after"], [b"before", b"after"])
    await one.close()
    await two.close()


async def test_a_removed_gap_callback_is_not_called(dsn: str) -> None:
    bus = NotifyBus(dsn)
    removed: list[str] = []
    kept: list[str] = []
    remove = bus.on_gap(lambda: removed.append("gap"))
    bus.on_gap(lambda: kept.append("gap"))
    remove()
    await bus.start()
    admin = await asyncpg.connect(dsn)
    await admin.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    await admin.close()
    await until(lambda: kept)
    assert removed == []
    await bus.close()


async def test_a_wrong_address_stops_the_start() -> None:
    with pytest.raises(ValueError, match="invalid DSN"):
        await NotifyBus("mysql://nowhere").start()


async def test_redis_carries_frames_and_big_messages(redis_url: str) -> None:
    one, two = RedisBus(redis_url), RedisBus(redis_url)
    assert one.carries_frames
    await one.start()
    await two.start()
    frames, messages = record(two, "frames:1"), record(two, "reply")
    await two.settle()
    one.publish("frames:1", b"picture" * 20_000)
    one.publish("reply", b"x" * 2_000_000)
    await until(lambda: frames and messages)
    assert frames == [b"picture" * 20_000]
    assert messages == [b"x" * 2_000_000]
    await one.close()
    await two.close()


async def test_while_redis_is_slow_only_the_newest_frame_waits_and_every_message_does(tmp_path: Path) -> None:
    async with redis_server(tmp_path) as process:
        one, two = RedisBus(f"unix://{tmp_path}/redis"), RedisBus(f"unix://{tmp_path}/redis")
        await one.start()
        await two.start()
        frames, messages = record(two, "frames:1"), record(two, "log")
        await two.settle()
        process.send_signal(signal.SIGSTOP)
        for number in range(100):
            one.publish("frames:1", b"%d" % number)
            one.publish("log", b"%d" % number)
            await asyncio.sleep(0.001)
        process.send_signal(signal.SIGCONT)
        await until(lambda: frames[-1:] == [b"99"] and messages[-1:] == [b"99"])
        assert len(frames) <= 3
        assert messages == [b"%d" % number for number in range(100)]
        await one.close()
        await two.close()


async def test_after_redis_died_and_came_back_both_sides_learn_of_the_gap_and_go_on(tmp_path: Path) -> None:
    url = f"unix://{tmp_path}/redis"
    one, two = RedisBus(url), RedisBus(url)
    gaps: list[str] = []
    one.on_gap(lambda: gaps.append("one"))
    two.on_gap(lambda: gaps.append("two"))
    async with redis_server(tmp_path) as process:
        await one.start()
        await two.start()
        heard, frames = record(two, "runs"), record(two, "frames:1")
        await two.settle()
        one.publish("runs", b"before")
        await until(lambda: heard == [b"before"])
        assert gaps == []
        process.kill()
        await process.wait()
    (tmp_path / "redis").unlink(missing_ok=True)
    one.publish("runs", b"during")
    later = record(two, "later")
    await asyncio.wait_for(two.settle(), 5)
    async with redis_server(tmp_path):
        await until(lambda: gaps.count("one") >= 2 and gaps.count("two") >= 2)
        one.publish("runs", b"after")
        one.publish("later", b"x")
        one.publish("frames:1", b"x")
        await until(lambda: b"after" in heard and later and frames)
        assert heard in ([b"before", b"during", b"after"], [b"before", b"after"])
        await one.close()
        await two.close()


async def test_a_redis_that_cuts_only_the_listeners_is_noticed(redis_url: str) -> None:
    bus = RedisBus(redis_url)
    gaps: list[str] = []
    bus.on_gap(lambda: gaps.append("gap"))
    await bus.start()
    record(bus, "runs")
    await bus.settle()
    reader, writer = await asyncio.open_unix_connection(redis_url.removeprefix("unix://"))
    writer.write(b"CLIENT KILL TYPE pubsub\r\n")
    assert await reader.readline() == b":1\r\n"
    writer.close()
    await until(lambda: gaps)
    await bus.close()


async def test_a_topic_nobody_listens_to_any_longer_is_left(redis_url: str) -> None:
    bus = RedisBus(redis_url)
    await bus.start()
    leave = [bus.subscribe("left", print), bus.subscribe("left", print)]
    await bus.settle()
    reader, writer = await asyncio.open_unix_connection(redis_url.removeprefix("unix://"))

    async def held() -> bytes:
        await bus.settle()
        writer.write(b"PUBSUB NUMSUB cua:0:left\r\n")
        return (await reader.readuntil(b"left\r\n") + await reader.readline())[-4:-2]

    assert await held() == b":1"
    leave[0]()
    assert await held() == b":1"
    leave[1]()
    assert await held() == b":0"
    writer.close()
    await bus.close()


async def test_databases_of_one_redis_hear_nothing_of_each_other(redis_url: str) -> None:
    one, same, other = RedisBus(redis_url), RedisBus(f"{redis_url}?db=0"), RedisBus(f"{redis_url}?db=1")
    for bus in (one, same, other):
        await bus.start()
    heard, unheard = record(same, "runs"), record(other, "runs")
    await same.settle()
    await other.settle()
    one.publish("runs", b"x")
    await until(lambda: heard)
    other.publish("runs", b"own")
    await until(lambda: unheard)
    assert unheard == [b"own"]
    for bus in (one, same, other):
        await bus.close()


async def test_a_bus_starts_without_its_server_and_tells_of_the_gap_when_it_comes(tmp_path: Path) -> None:
    bus = RedisBus(f"unix://{tmp_path}/redis")
    gaps: list[str] = []
    bus.on_gap(lambda: gaps.append("gap"))
    await bus.start()
    heard = record(bus, "runs")
    bus.publish("runs", b"alone")
    await until(lambda: heard == [b"alone"])
    async with redis_server(tmp_path):
        await until(lambda: gaps)
        await bus.close()


async def test_an_address_that_is_no_redis_is_refused() -> None:
    with pytest.raises(ValueError, match="must specify one of the following schemes"):
        make_bus("", "http://nowhere")
