"""Rate limits: per user, per address that signs in, per address whose credentials are refused; with and without Redis."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest
import structlog
import websockets
from limits import parse
from pydantic import ValidationError

import clerk_auth
from infra import rates
from settings import Settings
from tests.conftest import Backend, free_port
from tests.test_api import assert_problem
from tests.test_bus import redis_server

LIMITS = {"RATE_LIMIT": "5/day", "SIGN_IN_LIMIT": "20/day", "AUTH_FAILURE_LIMIT": "3/day", "WORKER": "off"}
BODY = {"email": "nobody@example.com", "password": "correct horse battery"}
JUNK = "Bearer eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJ4In0." + "a" * 86


def backend(path: Path, **settings: str) -> Backend:
    return Backend(path, free_port(), LIMITS | settings)


@pytest.fixture(scope="module")
async def limited(module_data: Path) -> AsyncIterator[Backend]:
    """A server with small limits; its clients' addresses are what `X-Forwarded-For` says."""
    server = backend(module_data)
    await server.start()
    yield server
    await server.stop()


def at(address: str, **headers: str) -> dict[str, str]:
    return {"X-Forwarded-For": address, **headers}


# Callers


async def test_each_user_has_a_limit_and_replies_say_where_they_stand(limited: Backend) -> None:
    async with limited.sign_up() as alice, limited.sign_up() as bob:
        replies = [await alice.get(path) for path in ("/api/me", "/api/runs", "/api/nothing", "/api/me")]
        replies += [await alice.post("/api/workflows", json={}), await alice.get("/api/me")]
        told = [reply.headers.get("ratelimit-remaining") for reply in replies]
        assert told == ["4", "3", None, "2", "1", "0"]
        reply = replies[0]
        assert (reply.headers["ratelimit-limit"], reply.headers["ratelimit-policy"]) == ("5", "5;w=86400")
        assert 0 < int(reply.headers["ratelimit-reset"]) <= 86400
        refused = await alice.get("/api/me")
        assert_problem(refused, 429, "rate_limited")
        assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"]
        assert refused.headers["ratelimit-remaining"] == "0"
        assert (await bob.get("/api/me")).headers["ratelimit-remaining"] == "4"
        assert "ratelimit-limit" not in (await alice.get("/api/health")).headers


def test_a_key_has_a_bucket_of_its_own() -> None:
    person = clerk_auth.Caller("user_1", "sess_1", 0, 0)
    key = clerk_auth.Caller("user_1", None, 0, 0, actor="key:7")
    assert [clerk_auth.bucket(person), clerk_auth.bucket(key)] == ["user:user_1", "key:7"]


# Addresses


async def test_an_address_signs_in_only_so_often(limited: Backend) -> None:
    async with httpx.AsyncClient(base_url=limited.url) as client:
        for _ in range(20):
            reply = await client.post("/api/auth/login", json=BODY, headers=at("198.51.100.1"))
            assert_problem(reply, 401, "wrong_credentials")
        assert reply.headers["ratelimit-remaining"] == "0"
        for path in ("login", "register", "forgot", "reset", "verify"):
            refused = await client.post(f"/api/v1/auth/{path}", json=BODY, headers=at("198.51.100.1"))
            assert_problem(refused, 429, "rate_limited")
            assert int(refused.headers["retry-after"]) > 0
        other = await client.post("/api/auth/login", json=BODY, headers=at("198.51.100.2"))
        assert_problem(other, 401, "wrong_credentials")


async def test_renewals_have_a_limit_of_their_own(data_dir: Path) -> None:
    server = backend(data_dir, SIGN_IN_LIMIT="1/day", REFRESH_LIMIT="2/day")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url) as client:
            for status in (401, 429):
                assert (await client.post("/api/auth/login", json=BODY)).status_code == status
            for status in (401, 401, 429):
                renewed = await client.post("/api/v1/auth/refresh", json={"refresh_token": "x" * 43})
                assert renewed.status_code == status
    finally:
        await server.stop()


async def test_a_user_guesses_the_password_only_so_often(data_dir: Path) -> None:
    server = backend(data_dir, RATE_LIMIT="off", SIGN_IN_LIMIT="3/day")
    await server.start()
    try:
        async with server.sign_up() as alice:
            wrong = {"old": "not the password", "new": "correct horse battery"}
            for _ in range(3):
                assert_problem(await alice.post("/api/auth/password", json=wrong), 401, "wrong_credentials")
            assert_problem(await alice.post("/api/auth/password", json=wrong), 429, "rate_limited")
    finally:
        await server.stop()


@pytest.mark.parametrize("end", ["%0a", "%0d%0a", "%00", "%7f"])
async def test_no_other_spelling_of_the_address_evades_the_limit(limited: Backend, end: str) -> None:
    async with httpx.AsyncClient(base_url=limited.url) as client:
        for path in (f"/api/auth/login{end}", f"/api/v1/auth/login{end}"):
            refused = await client.post(path, json=BODY, headers=at("198.51.100.3"))
            assert_problem(refused, 422, "invalid")


async def test_one_ipv6_subscriber_is_one_address(limited: Backend) -> None:
    assert rates.address("2001:db8::1") == rates.address("2001:db8::ffff:1") == "2001:db8::/64"
    assert rates.address("::ffff:198.51.100.7") == "198.51.100.7"
    assert rates.address("testclient") == "testclient"


async def test_refused_credentials_stop_the_looking_at_new_ones_from_there(limited: Backend) -> None:
    async with limited.sign_up() as alice, limited.sign_up() as bob:
        assert (await alice.get("/api/me")).status_code == 200
        for _ in range(3):
            reply = await alice.get("/api/me", headers=at("203.0.113.7", Authorization=JUNK))
            assert_problem(reply, 401, "unauthorized")
        for token in (JUNK, bob.headers["authorization"]):
            reply = await bob.get("/api/me", headers=at("203.0.113.7", Authorization=token))
            assert_problem(reply, 429, "rate_limited")
        headers = at("203.0.113.7", Authorization=JUNK)
        async with websockets.connect(limited.socket_url, additional_headers=headers) as socket:
            await socket.wait_closed()
            assert socket.close_code == 4013
        assert (await alice.get("/api/me", headers=at("203.0.113.7"))).status_code == 200  # known before
        assert (await bob.get("/api/me", headers=at("203.0.113.8"))).status_code == 200


async def test_nobody_else_says_where_a_request_comes_from(data_dir: Path) -> None:
    server = backend(data_dir, SIGN_IN_LIMIT="1/day", FORWARDED_ALLOW_IPS="192.0.2.1")
    await server.start()
    try:
        async with httpx.AsyncClient(base_url=server.url) as client:
            statuses = [
                (await client.post("/api/auth/login", json=BODY, headers=at(f"198.51.100.{n}"))).status_code
                for n in range(2)
            ]
        assert statuses == [401, 429]
    finally:
        await server.stop()


async def test_a_malformed_limit_stops_the_start_with_a_sentence(data_dir: Path) -> None:
    server = backend(data_dir, RATE_LIMIT="many", SIGN_IN_LIMIT="0/minute", METRICS_TOKEN="short")
    await server.start(ready=False)
    assert server.process is not None
    assert await server.process.wait() != 0
    for name in ("RATE_LIMIT", "SIGN_IN_LIMIT"):
        assert f"{name}: write it like 600/minute, or off" in server.log
    assert "METRICS_TOKEN: takes at least 16" in server.log


@pytest.mark.parametrize(
    "value", ["5/fortnight", "5/minute;6/hour", "-1/minute", "5 per minute", "5/0 minute"]
)
def test_a_limit_is_one_number_in_one_time(value: str) -> None:
    with pytest.raises(ValidationError, match="600/minute"):
        Settings(auth_failure_limit=value)


@pytest.mark.parametrize(
    ("value", "amount", "seconds"), [("600/minute", 600, 60), ("5/10 seconds", 5, 10), ("1/day", 1, 86400)]
)
def test_what_the_settings_accept_is_what_is_counted(value: str, amount: int, seconds: int) -> None:
    allowed = rates.limit(Settings(rate_limit=value).rate_limit)
    assert allowed is not None
    assert (allowed.amount, allowed.get_expiry()) == (amount, seconds)


# Counting


async def test_the_limit_is_exact_however_many_ask_at_once() -> None:
    who = uuid4().hex

    async def asked() -> bool:
        try:
            await rates.take("t", who, parse("50/day"))
        except rates.RateLimited as refused:
            assert refused.standing.remaining == 0
            return False
        return True

    assert sum(await asyncio.gather(*(asked() for _ in range(200)))) == 50


async def test_a_new_window_begins_with_nothing_used() -> None:
    who, allowed = uuid4().hex, parse("2/second")
    end = time.monotonic() + 10
    used = 0
    while used < 6:
        assert time.monotonic() < end
        try:
            await rates.take("t", who, allowed)
            used += 1
        except rates.RateLimited as refused:
            assert refused.retry_after == 1
            await asyncio.sleep(0.05)


async def test_looking_costs_nothing_and_off_is_no_limit() -> None:
    who, allowed = uuid4().hex, parse("1/day")
    for _ in range(3):
        await rates.look("t", who, allowed)
    await rates.take("t", who, allowed)
    with pytest.raises(rates.RateLimited):
        await rates.look("t", who, allowed)
    assert await rates.take("t", who, rates.limit("off")) is None


async def test_windows_that_have_ended_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rates, "SWEEP_SECONDS", 0.5)
    memory = rates._Memory()
    for n in range(100):
        await memory.incr(f"k{n}", 1)
    await asyncio.sleep(1.1)
    await memory.incr("new", 1)
    assert (dict(memory.storage), len(memory.expirations)) == ({"new": 1}, 1)


# Redis


async def test_processes_share_limits_in_redis_and_do_without_it_when_it_is_away(
    temporary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rates, "ANSWER_SECONDS", 1.5)
    monkeypatch.setattr(rates, "AWAY_SECONDS", 1.0)
    who, allowed, url = uuid4().hex, parse("3/day"), f"unix://{temporary}/redis"
    with structlog.testing.capture_logs() as lines:
        async with redis_server(temporary) as redis:
            await rates.open_shared(url)
            await rates.take("t", who, allowed)
            await rates.close_shared()  # as another process would begin
            await rates.open_shared(url)
            standing = await rates.take("t", who, allowed)
            assert standing is not None
            assert standing.remaining == 1
            redis.send_signal(signal.SIGSTOP)
            began = time.monotonic()
            for _ in range(3):
                await rates.take("t", who, allowed)
            assert time.monotonic() - began < 2 * rates.ANSWER_SECONDS  # one of them waited
            redis.send_signal(signal.SIGCONT)
        with pytest.raises(rates.RateLimited):
            await rates.take("t", who, allowed)  # this process counts alone
        await asyncio.sleep(1.0)
        await rates.take("t", uuid4().hex, allowed)
        async with redis_server(temporary):
            async with asyncio.timeout(20):
                while lines[-1]["event"] != "rate_limits_shared":
                    await rates.look("t", uuid4().hex, allowed)
                    await asyncio.sleep(0.1)
            await rates.take("t", who, allowed)
        await rates.close_shared()
    assert [line["event"] for line in lines] == ["rate_limits_local", "rate_limits_shared"]
