"""Webhooks: told once each, signed, to real servers of every temper, by workers that race and die."""

import asyncio
import itertools
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
import pytest
from sqlalchemy.exc import NoResultFound
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from svix.webhooks import Webhook as SvixVerifier

import db
from infra import egress
from infra.bus import LocalBus
from models import Delivery, Webhook
from runs.engine import WrongState
from schemas import DeliveryDetail, WebhookCreate, WebhookUpdate
from settings import settings
from tests import make, receivers
from tests.conftest import ROOT
from tests.names import stable
from tests.receivers import Heard, receiver
from tests.receivers import status as answers
from tests.test_db import READ
from tests.test_egress import Names
from tests.workers import look
from webhooks import deliveries, endpoints, sending

LEASE = timedelta(seconds=60)


@asynccontextmanager
async def courier(bus: LocalBus, **options: Any) -> AsyncIterator[None]:
    """This process as a worker."""
    await deliveries.start(bus, **options)
    try:
        yield
    finally:
        await deliveries.stop()


@pytest.fixture(autouse=True)
async def _no_webhooks_of_other_tests(database: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[None]:
    monkeypatch.setattr(deliveries, "LEAVE_SECONDS", 0.1)  # what hangs here hangs for good
    yield
    async with db.as_system() as tx:
        await tx.connection.execute("delete from webhooks")
        await tx.connection.execute("delete from outbox")


async def tell(user: str, url: str, *events: str, **values: Any) -> dict[str, Any]:
    """A new webhook, as it is shown once."""
    body = WebhookCreate(url=url, events=list(events) or ["*"], **values)
    async with db.as_user(user, "user") as tx:
        reply = await endpoints.create(tx, body)
    made: dict[str, Any] = orjson.loads(reply.body)["data"]
    return made


async def happen(user: str, *kinds: str) -> None:
    async with db.as_user(user, "user") as tx:
        for kind in kinds or ("run.log",):
            tx.emit(kind, ("thing", uuid4()), {"text": "é \u2028 \U0001f600 'x'"})


async def logged(user: str, kind: str = "") -> list[dict[str, Any]]:
    """The user's whole log, or the kinds that begin so."""
    found: list[dict[str, Any]] = []
    while batch := await db.events(user, found[-1]["seq"] if found else 0):
        found += [orjson.loads(entry.text) for entry in batch]
    return [event for event in found if event["kind"].startswith(kind)]


async def rows(user: str) -> list[Delivery]:
    async with db.as_user(user) as tx:
        return await tx.find(Delivery)


async def attempted(user: str) -> Delivery:
    """The user's first delivery, once it has been tried."""
    async with asyncio.timeout(10):
        while not (delivery := (await rows(user))[0]).attempts:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return delivery


async def row(user: str, id: str) -> Webhook:
    async with db.as_user(user) as tx:
        return await tx.one(Webhook, id=UUID(id))


async def until(user: str, count: int = 1, *, seconds: float = 15, **values: object) -> list[Delivery]:
    """The user's deliveries, once there are so many and all have these values."""
    async with asyncio.timeout(seconds):
        while True:
            found = await rows(user)
            if len(found) >= count and all(
                getattr(one, name) == value for one in found for name, value in values.items()
            ):
                return found
            await asyncio.sleep(0.02)


async def patch(user: str, id: str, **values: Any) -> None:
    async with db.as_user(user, "user") as tx:
        await endpoints.update(tx, await tx.one(Webhook, lock=True, id=UUID(id)), WebhookUpdate(**values))


async def redeliver(user: str, id: UUID) -> dict[str, Any]:
    async with db.as_user(user, "user") as tx:
        reply = await endpoints.redeliver(tx, id)
    shown: dict[str, Any] = orjson.loads(reply.body)["data"]
    return shown


def verify(secret: str, heard: Heard) -> dict[str, Any]:
    SvixVerifier(secret).verify(heard.body, heard.headers)
    told: dict[str, Any] = Verifier(secret).verify(heard.body, heard.headers)
    return told


# What is told -------------------------------------------------------------------------------------


async def test_an_event_is_told_signed_and_as_it_is_in_the_log(user: str, bus: LocalBus) -> None:
    async with receiver() as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user, "workflow.updated")
        (heard,) = await server.until(1)
        (delivery,) = await until(user, status="succeeded")
    (event,) = await logged(user, "workflow.updated")
    assert verify(webhook["secret"], heard) == {
        "type": "workflow.updated",
        "timestamp": event["at"],
        "data": event,
    }
    assert heard.id == event["id"] == str(delivery.event_id)
    assert heard.headers["content-type"] == "application/json"
    assert heard.headers["user-agent"] == sending.USER_AGENT
    assert abs(int(heard.headers["webhook-timestamp"]) - time.time()) < 30
    assert (delivery.payload.encode(), delivery.attempt, delivery.next_at) == (heard.body, 1, None)
    shown = DeliveryDetail.model_validate(delivery)
    assert [(attempt.status, attempt.error) for attempt in shown.attempts] == [(200, None)]
    assert shown.attempts[0].request_headers["webhook-id"] == heard.id
    (success,) = await logged(user, "delivery.")
    assert success["kind"] == "delivery.succeeded"
    assert success["data"]["id"] == str(delivery.id)
    assert "attempts" not in success["data"]


async def test_altered_bytes_and_foreign_secrets_are_refused_by_the_outside_verifier(
    user: str, bus: LocalBus
) -> None:
    async with receiver() as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user)
        (heard,) = await server.until(1)
    for body, secret in (
        (heard.body[:-1] + b" ", webhook["secret"]),
        (heard.body, endpoints._new_secret()),
    ):
        with pytest.raises(WebhookVerificationError):
            Verifier(secret).verify(body, heard.headers)


async def test_an_event_is_told_by_a_hint_and_not_by_the_clock(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 600)
    async with receiver() as server, courier(bus):
        await tell(user, server.url)
        for count in (1, 2):
            await happen(user)
            await server.until(count)
            await until(user, count, status="succeeded")


async def test_filters_admit_kinds_beginnings_and_everything_but_news_of_deliveries_and_of_itself(
    user: str, bus: LocalBus
) -> None:
    async with receiver() as server, courier(bus):
        exact = await tell(user, server.url, "run.log")
        begins = await tell(user, server.url, "run.", "file.created")
        every = await tell(user, server.url)
        await happen(user, "run.log", "run.logs", "runner.log", "file.created", "file.created_again")
        await until(user, 9, status="succeeded")
        await happen(user, "thread.created")
        await until(user, 10, status="succeeded")
    got: dict[str, list[str]] = {}
    for delivery in await rows(user):
        got.setdefault(str(delivery.webhook_id), []).append(delivery.kind)
    assert got == {
        exact["id"]: ["run.log"],
        begins["id"]: ["run.log", "run.logs", "file.created"],
        every["id"]: [
            *("run.log", "run.logs", "runner.log", "file.created", "file.created_again"),
            "thread.created",
        ],
    }
    assert len(await logged(user, "delivery.succeeded")) == 10


async def test_a_webhook_is_told_of_others_but_not_of_itself(user: str, bus: LocalBus) -> None:
    async with receiver() as server, courier(bus):
        first = await tell(user, server.url, "webhook.")
        second = await tell(user, server.url, "webhook.")
        await patch(user, second["id"], name="other")
        await until(user, 2, status="succeeded")
    told = [(str(one.webhook_id), one.kind) for one in await rows(user)]
    assert told == [(first["id"], "webhook.created"), (first["id"], "webhook.updated")]


async def test_nobody_else_is_told(user: str, other_user: str, bus: LocalBus) -> None:
    async with receiver() as server, receiver() as other_server, courier(bus):
        await tell(user, server.url)
        await tell(other_user, other_server.url)
        await happen(user)
        await server.until(1)
        await until(user, status="succeeded")
    assert other_server.heard == []
    assert await rows(other_user) == []
    with pytest.raises(NoResultFound):
        await redeliver(other_user, (await rows(user))[0].id)


async def test_a_disabled_webhook_hears_nothing_and_one_enabled_again_what_happens_from_then_on(
    user: str, bus: LocalBus
) -> None:
    async with receiver() as server, courier(bus):
        webhook = await tell(user, server.url)
        await patch(user, webhook["id"], enabled=False)
        await happen(user, "run.missed")
        shown = await row(user, webhook["id"])
        assert (shown.enabled, shown.disabled_reason) == (False, "requested")
        await patch(user, webhook["id"], enabled=True)
        await happen(user, "run.log")
        await server.until(1)
        assert [one.kind for one in await until(user, status="succeeded")] == ["run.log"]
        assert (await row(user, webhook["id"])).disabled_reason is None


async def test_disabling_gives_up_what_waits(user: str, bus: LocalBus) -> None:
    async with receiver(answers(500)) as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user)
        await server.until(1)
        await patch(user, webhook["id"], enabled=False)
        (delivery,) = await until(user, status="failed")
    assert delivery.next_at is None
    async with db.as_user(user) as tx:
        for act in (endpoints.test(tx, await tx.one(Webhook)), endpoints.redeliver(tx, delivery.id)):
            with pytest.raises(WrongState, match="enable it"):
                await act


async def test_a_test_is_sent_to_one_webhook_whatever_its_filter(user: str, bus: LocalBus) -> None:
    async with receiver() as server, receiver() as other, courier(bus):
        webhook = await tell(user, server.url, "run.failed")
        await tell(user, other.url)
        async with db.as_user(user, "user") as tx:
            await endpoints.test(tx, await tx.one(Webhook, lock=True, id=UUID(webhook["id"])))
        (heard,) = await server.until(1)
        await until(user, status="succeeded")
    told = verify(webhook["secret"], heard)
    assert (told["type"], told["data"]["seq"], told["data"]["id"]) == ("webhook.test", 0, heard.id)
    assert other.heard == []


async def test_no_event_is_lost_when_a_webhook_is_made_while_others_write(user: str, bus: LocalBus) -> None:
    async def write(until: float) -> None:
        while time.monotonic() < until:
            await happen(user)

    async with receiver() as server, courier(bus):
        until_then = time.monotonic() + 1
        writers = [asyncio.create_task(write(until_then)) for _ in range(5)]
        made = []
        for _ in range(6):
            await asyncio.sleep(0.1)
            made.append(await tell(user, server.url, "run."))
        await asyncio.gather(*writers)
        seqs = {UUID(event["id"]): event["seq"] for event in await logged(user, "run.log")}
        async with asyncio.timeout(10):
            while any(hook.cursor < max(seqs.values()) for hook in await hooks(user)):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    since = {event["resource"]["id"]: event["seq"] for event in await logged(user, "webhook.created")}
    for webhook in made:
        got = {seqs[one.event_id] for one in await rows(user) if str(one.webhook_id) == webhook["id"]}
        assert got >= {seq for seq in seqs.values() if seq > since[webhook["id"]]}


async def hooks(user: str) -> list[Webhook]:
    async with db.as_user(user) as tx:
        return await tx.find(Webhook)


# Receivers of every temper ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "status", "error"),
    [
        (answers(200), 200, None),
        (answers(204, body=b""), 204, None),
        (answers(400), 400, None),
        (answers(500), 500, None),
        (answers(503, "Retry-After: soon"), 503, None),
        (receivers.drip, 200, None),
        (receivers.hang, None, "no reply within 0.5 seconds"),
        (receivers.close, None, "127.0.0.1 broke off"),
        (receivers.garbage, None, "127.0.0.1 broke off"),
        (receivers.endless_head, None, "127.0.0.1 broke off"),
        (answers(403, 'Proxy-Status: cua-egress; details="leads to nowhere"'), None, "leads to nowhere"),
    ],
    ids=stable,
)
async def test_what_came_of_a_request_is_written_down_and_its_body_is_not(
    answer: receivers.Answer,
    status: int | None,
    error: str | None,
    user: str,
    bus: LocalBus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sending, "REQUEST_SECONDS", 0.5)
    monkeypatch.setattr(sending, "DRAIN_SECONDS", 0.2)
    async with receiver(answer) as server, courier(bus):
        await tell(user, server.url)
        await happen(user)
        await server.until(1)
        delivery = await attempted(user)
    (attempt,) = delivery.attempts
    assert (attempt["status"], attempt["error"]) == (status, error)
    ok = status is not None and status < 300
    assert delivery.status == ("succeeded" if ok else "pending")
    assert (delivery.next_at is None) == ok
    assert "set-cookie" not in attempt["response_headers"]
    assert "xxxx" not in json.dumps(attempt)
    assert len(json.dumps(attempt)) < 8192
    (webhook,) = await hooks(user)
    assert (webhook.failing_since is None) == ok


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_redirects_are_failures_and_nobody_goes_there(code: int, user: str, bus: LocalBus) -> None:
    async with (
        receiver() as target,
        receiver(answers(code, f"Location: {target.url}", "Set-Cookie: a=b")) as server,
        courier(bus),
    ):
        await tell(user, server.url)
        await happen(user)
        await server.until(1)
        delivery = await attempted(user)
        assert (delivery.status, delivery.attempts[0]["status"]) == ("pending", code)
        assert delivery.attempts[0]["response_headers"]["location"] == target.url
        assert "set-cookie" not in delivery.attempts[0]["response_headers"]
        assert target.connections == 0


async def test_headers_of_a_reply_are_kept_in_part(user: str, bus: LocalBus) -> None:
    many = [f"X-{n}: {'y' * 1000}\x7f" for n in range(60)]
    async with receiver(answers(200, *many)) as server, courier(bus):
        await tell(user, server.url)
        await happen(user)
        (delivery,) = await until(user, status="succeeded")
    kept = delivery.attempts[0]["response_headers"]
    assert len(kept) == sending.HEADERS
    assert max(map(len, kept.values())) == sending.HEADER_CHARS


async def test_cookies_of_a_receiver_are_forgotten(user: str, other_user: str, bus: LocalBus) -> None:
    async with receiver(answers(200, "Set-Cookie: who=first; Path=/; Max-Age=3600")) as server, courier(bus):
        for count, someone in enumerate((user, other_user, user), 1):
            if count < 3:
                await tell(someone, server.url, "run.")
            await happen(someone)
            await server.until(count)
            await until(someone, status="succeeded")
    assert len(server.heard) == 3
    assert all("cookie" not in request.headers for request in server.heard)


async def test_nobody_listens_is_a_failure_like_another(user: str, bus: LocalBus) -> None:
    async with courier(bus):
        await tell(user, "http://127.0.0.1:9/")
        await happen(user)
        async with asyncio.timeout(10):
            while not (found := await rows(user)) or not found[0].attempts:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
    assert found[0].attempts[0]["error"] == "127.0.0.1 accepts no connection on port 9"


async def test_gone_disables_at_once(user: str, bus: LocalBus) -> None:
    async with receiver(answers(500), answers(410)) as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user)
        await server.until(1)
        await happen(user)
        await until(user, 2, status="failed")
    shown = await row(user, webhook["id"])
    assert (shown.enabled, shown.disabled_reason) == (False, "gone")
    kinds = [event["kind"] for event in await logged(user) if event["kind"] != "run.log"]
    assert kinds == ["webhook.created", "webhook.disabled", "delivery.failed"]


# Trying again -------------------------------------------------------------------------------------


def test_pauses_grow_over_a_day_with_full_jitter_and_come_to_an_end() -> None:
    assert 23 * 3600 < sum(deliveries.RETRY_SECONDS) < 25 * 3600
    for tries, mean in enumerate(deliveries.RETRY_SECONDS, 1):
        drawn = [deliveries.next_wait(tries, None) or 0 for _ in range(4000)]
        assert 0 <= min(drawn) < 0.05 * mean
        assert 1.95 * mean < max(drawn) <= 2 * mean
        assert 0.95 * mean < sum(drawn) / len(drawn) < 1.05 * mean
    assert deliveries.next_wait(len(deliveries.RETRY_SECONDS) + 1, None) is None
    assert deliveries.next_wait(len(deliveries.RETRY_SECONDS) + 1, 60) is None


def test_a_receiver_may_ask_for_patience_within_bounds() -> None:
    for _ in range(100):
        assert 900 <= (deliveries.next_wait(1, 900) or 0) <= 900
        assert deliveries.next_wait(1, 10**9) == deliveries.LONGEST_WAIT
    in_a_minute = (datetime.now(UTC) + timedelta(seconds=60)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    assert 55 < (sending._retry_after(in_a_minute) or 0) <= 60
    assert sending._retry_after("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert sending._retry_after("120") == 120
    for strange in ("", "soon", "-5", "1.5", "9" * 400, "Thu, 99 Foo 1970", "1e9"):
        assert sending._retry_after(strange) is None


@pytest.mark.parametrize(
    "date",
    [
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 01 Jan 2030 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2030 00:00:00 -99999999999999999999",
        "Mon, 01 Jan 2030 99999999999999999999:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 -2359",
        "Mon, 01 Jan 0001 00:00:00 +2359",
    ],
)
async def test_a_date_that_no_clock_shows_is_a_failure_like_another(
    date: str, user: str, bus: LocalBus
) -> None:
    async with receiver(answers(503, f"Retry-After: {date}")) as server, courier(bus):
        await tell(user, server.url)
        await happen(user)
        await server.until(1)
        delivery = await attempted(user)
    assert [(it["status"], it["error"]) for it in delivery.attempts] == [(503, None)]
    assert delivery.status == "pending"


async def test_it_is_tried_again_with_the_same_id_and_bytes_until_it_is_heard(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (0.01,) * 5)
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.05)
    async with receiver(answers(500), answers(302), receivers.close, answers(200)) as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user)
        heard = await server.until(4)
        (delivery,) = await until(user, status="succeeded")
    assert len({(request.id, request.body) for request in heard}) == 1
    for request in heard:
        verify(webhook["secret"], request)
    assert [attempt["status"] for attempt in delivery.attempts] == [500, 302, None, 200]
    assert delivery.attempt == 4
    assert (await row(user, webhook["id"])).failing_since is None


async def test_retry_after_is_honoured(user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (0.01,))
    async with receiver(answers(429, "Retry-After: 7200"), answers(200)) as server, courier(bus):
        await tell(user, server.url)
        await happen(user)
        await server.until(1)
        delivery = await attempted(user)
    assert delivery.next_at is not None
    assert timedelta(minutes=119) < delivery.next_at - datetime.now(UTC) < timedelta(minutes=121)


async def test_it_is_given_up_in_the_end_and_may_be_sent_again_by_hand(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.05)
    async with receiver(*[answers(500)] * 4, answers(200)) as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user)
        (failed,) = await until(user, status="failed")
        assert (failed.attempt, len(server.heard)) == (3, 3)
        assert failed.next_at is None
        assert failed.finished_at is not None
        assert [event["kind"] for event in await logged(user, "delivery.")] == ["delivery.failed"]
        assert (await row(user, webhook["id"])).enabled

        again = await redeliver(user, failed.id)
        assert (again["status"], again["attempt"], again["finished_at"]) == ("pending", 3, None)
        (succeeded,) = await until(user, status="succeeded")
        assert (succeeded.id, succeeded.attempt) == (failed.id, 5)  # a new round: 500, then 200

        await redeliver(user, succeeded.id)
        await server.until(6)
        await until(user, status="succeeded")
    assert server.ids == {str(failed.event_id): 6}
    assert [event["kind"] for event in await logged(user, "delivery.")] == [
        *("delivery.failed", "delivery.succeeded", "delivery.succeeded")
    ]


async def test_what_is_on_its_way_is_not_sent_twice_by_hand(user: str, bus: LocalBus) -> None:
    async with receiver(receivers.hang) as server, courier(bus):
        await tell(user, server.url)
        await happen(user)
        await server.until(1)
        (delivery,) = await rows(user)
        with pytest.raises(WrongState, match="on its way"):
            await redeliver(user, delivery.id)


async def test_the_newest_twenty_attempts_are_kept(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (0.0,) * 24)
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.05)
    async with receiver(*(answers(500 + n) for n in range(25))) as server, courier(bus):
        await tell(user, server.url)
        await happen(user)
        (delivery,) = await until(user, status="failed")
    assert delivery.attempt == 25
    assert [attempt["status"] for attempt in delivery.attempts] == list(range(505, 525))


async def test_a_day_of_nothing_but_failures_disables(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (0.02,) * 100)
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(deliveries, "PATIENCE", timedelta(seconds=0.5))
    async with receiver(answers(500)) as server, courier(bus):
        webhook = await tell(user, server.url)
        await happen(user)
        (delivery,) = await until(user, status="failed")
        heard = len(server.heard)
        assert heard > 2
        await happen(user)
    shown = await row(user, webhook["id"])
    assert (shown.enabled, shown.disabled_reason) == (False, "failing")
    (event,) = await logged(user, "webhook.disabled")
    assert event["data"]["disabled_reason"] == "failing"
    assert len(await rows(user)) == 1
    assert delivery.attempt == heard == len(server.heard)


async def test_one_failure_long_after_another_does_not_disable_but_giving_up_does(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = answers(503, "Retry-After: 3600")
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", ())
    async with receiver(answers(500), later, later, answers(500)) as server, courier(bus):
        webhook = await tell(user, server.url, "run.")
        await happen(user)
        (first,) = await until(user, status="failed")
        async with db.as_system() as tx:
            await tx.connection.execute(
                "update webhooks set failing_since = failing_since - interval '3 days'"
            )
            await tx.connection.execute("update deliveries set tried_since = tried_since - interval '3 days'")

        monkeypatch.setattr(deliveries, "RETRY_SECONDS", (1, 1))
        await redeliver(user, first.id)
        await server.until(2)
        await happen(user)
        await server.until(3)
        async with asyncio.timeout(10):
            while sum(len(one.attempts) for one in await rows(user)) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert [one.status for one in await rows(user)] == ["pending", "pending"]
        assert (await row(user, webhook["id"])).enabled

        monkeypatch.setattr(deliveries, "RETRY_SECONDS", ())
        await happen(user)
        await until(user, 3, status="failed")
        assert len(server.heard) == 4
    shown = await row(user, webhook["id"])
    assert (shown.enabled, shown.disabled_reason) == (False, "failing")


async def test_a_success_between_failures_gives_patience_anew(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (3600,))
    async with receiver(answers(500), answers(200), answers(500)) as server, courier(bus):
        webhook = await tell(user, server.url)
        long_ago = datetime.now(UTC) - deliveries.PATIENCE - timedelta(hours=1)
        for failing in (True, False, True):
            await happen(user)
            async for _ in look(10):
                shown = await row(user, webhook["id"])
                if (shown.failing_since is not None) is failing:
                    break
            async with db.as_user(user) as tx:
                await tx.change(Webhook, {"id": shown.id}, failing_since=long_ago if failing else None)
        assert shown.enabled
        assert len(server.heard) == 3


# Secrets ------------------------------------------------------------------------------------------


async def rotate(user: str, id: str) -> dict[str, Any]:
    async with db.as_user(user, "user") as tx:
        reply = await endpoints.rotate(tx, await tx.one(Webhook, lock=True, id=UUID(id)))
    shown: dict[str, Any] = orjson.loads(reply.body)["data"]
    return shown


async def test_after_a_rotation_both_secrets_sign_for_a_day(user: str, bus: LocalBus) -> None:
    async with receiver() as server, courier(bus):
        first = await tell(user, server.url, "run.")
        second = await rotate(user, first["id"])
        until_then = datetime.fromisoformat(second["old_secret_until"]) - datetime.now(UTC)
        assert timedelta(hours=23) < until_then <= timedelta(hours=24)
        await happen(user)
        await server.until(1)
        third = await rotate(user, first["id"])
        await happen(user)
        await server.until(2)
        await until(user, 2, status="succeeded")
        async with db.as_system() as tx:
            await tx.connection.execute("update webhooks set old_secret_until = now()")
        await happen(user)
        both, later, last = await server.until(3)
    assert len(both.headers["webhook-signature"].split(" ")) == 2
    verify(first["secret"], both)
    verify(second["secret"], both)
    verify(second["secret"], later)
    verify(third["secret"], later)
    verify(third["secret"], last)
    for secret, heard in ((first["secret"], later), (second["secret"], last)):
        with pytest.raises(WebhookVerificationError):
            verify(secret, heard)


async def test_secrets_are_sealed_and_one_that_cannot_be_read_sends_nothing(user: str, bus: LocalBus) -> None:
    async with receiver() as server:
        webhook = await tell(user, server.url)
        other = await tell(user, server.url)
        kept = await row(user, webhook["id"])
        assert webhook["secret"].encode() not in kept.secret
        async with db.as_system() as tx:  # another row's secret in this one's place
            await tx.connection.execute(
                "update webhooks set secret = $1 where id = $2",
                (await row(user, other["id"])).secret,
                kept.id,
            )
        async with courier(bus):
            await patch(user, other["id"], enabled=False)
            async with asyncio.timeout(10):
                while not (found := await rows(user)) or not found[0].attempts:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert found[0].attempts[0]["error"] == "the signing secret cannot be read any more; rotate it"
        assert server.connections == 0
        rotated = await rotate(user, webhook["id"])
        assert rotated["old_secret_until"] is None


# Where nothing is sent ----------------------------------------------------------------------------

REFUSED = [
    "http://example.com/",
    "https://localhost/",
    "https://LOCALHOST./",
    "https://a.localhost/",
    "https://127.0.0.1/",
    "https://127.1/",
    "https://2130706433/",
    "https://0x7f.1/",
    "https://017700000001/",
    "https://10.0.0.1/",
    "https://192.168.1.1:8443/",
    "https://169.254.169.254/latest/meta-data",
    "https://168.63.129.16/",
    "https://[::1]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[fd00:ec2::254]/",
    "https://[fe80::1%25eth0]/",
    "https://user:password@example.com/",
    "https://example.com@127.0.0.1/",
    "https://example.com:22/",
    "https://example.com:0/",
    "https://example.com:99999/",
    "https://example.com\\@127.0.0.1/",
    "https://exa mple.com/",
    "https:///path",
    "https://",
    "https://..",
    "ftp://example.com/",
    "file:///etc/passwd",
    "javascript:alert(1)",
]
TAKEN = [
    "https://example.com/hook?a=b@c",
    "https://example.com:8443/",
    "https://EXAMPLE.com./",
    "https://bücher.example/",
    "https://8.8.8.8/",
]


@pytest.fixture
def public_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sending, "settings", settings.model_copy(update={"allow_private_network": False}))


@pytest.mark.parametrize("url", REFUSED)
async def test_addresses_that_are_not_plainly_public_are_refused(url: str, public_only: None) -> None:
    assert sending.refusal(url)


@pytest.mark.parametrize("url", TAKEN)
async def test_public_addresses_are_taken(url: str, public_only: None) -> None:
    assert sending.refusal(url) is None


async def test_an_address_is_judged_again_at_each_delivery(
    user: str, bus: LocalBus, public_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that was public when it was written down, and leads to us when it is used."""
    monkeypatch.setattr(deliveries, "RETRY_SECONDS", (0.01,) * 3)
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(egress, "CONNECT_SECONDS", 0.3)
    async with receiver() as server:
        port = httpx.URL(server.url).port
        names = Names(
            hooks_example=[["203.0.113.9", "8.8.8.8"], ["8.8.8.8", "127.0.0.1"], ["127.0.0.1"], ["10.0.0.1"]]
        )
        async with courier(bus, lookup=names):
            await tell(user, f"https://hooks.example:{port}/")
            await happen(user)
            (delivery,) = await until(user, status="failed")
        assert server.connections == 0
    assert names.asked == ["hooks.example"] * 4
    assert {attempt["error"] for attempt in delivery.attempts} == {"the address may not be reached from here"}


async def test_a_literal_address_written_in_other_times_is_refused_now(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as server:
        await tell(user, server.url)
        strict = settings.model_copy(update={"allow_private_network": False})
        monkeypatch.setattr(sending, "settings", strict)
        async with courier(bus):
            await happen(user)
            async with asyncio.timeout(10):
                while not (found := await rows(user)) or not found[0].attempts:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        assert server.connections == 0
    assert found[0].attempts[0]["error"] == "127.0.0.1 is not a public address"


async def test_proxies_of_the_environment_are_not_asked(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with receiver() as server, receiver() as proxy:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with courier(bus):
            await tell(user, server.url)
            await happen(user)
            await until(user, status="succeeded")
        assert proxy.connections == 0


# Many workers, and their deaths -------------------------------------------------------------------

WORKER = """
import asyncio, sys
from datetime import timedelta
import db
from infra.bus import LocalBus
from infra.vault import load_vault
from settings import settings
from webhooks import deliveries
deliveries.POLL_SECONDS = 0.05
deliveries.LEASE = timedelta(seconds=float(sys.argv[2]))
async def main():
    bus = LocalBus()
    await bus.start()
    await db.open_database(sys.argv[1], size=4, publish=bus.publish, vault=load_vault(settings.data_dir, ()))
    await deliveries.start(bus)
    print("ready", flush=True)
    await asyncio.Event().wait()
asyncio.run(main())
"""


@asynccontextmanager
async def worker(dsn: str, lease: float = 60) -> AsyncIterator[asyncio.subprocess.Process]:
    """Another process that works; killed at the end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", WORKER, dsn, str(lease)), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 30) == b"ready\n"
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGKILL)
        await process.wait()


async def test_workers_that_race_deliver_each_event_once(user: str, dsn: str) -> None:
    async with receiver() as server, worker(dsn), worker(dsn), worker(dsn):
        webhooks = [await tell(user, f"{server.url}?{n}", "run.") for n in range(2)]
        await asyncio.gather(*(happen(user, "run.log", "run.log") for _ in range(50)))
        await server.until(200, seconds=40)
        found = await until(user, seconds=20, status="succeeded")
    assert len(found) == 200
    events = {event["id"] for event in await logged(user, "run.log")}
    assert len(events) == 100
    assert Counter((str(one.webhook_id), str(one.event_id)) for one in found) == Counter(
        itertools.product((webhook["id"] for webhook in webhooks), events)
    )
    assert server.ids == dict.fromkeys(events, 2)


async def test_a_worker_killed_in_mid_delivery_is_followed_by_another(user: str, dsn: str) -> None:
    async with receiver(receivers.hang, answers(200)) as server:
        webhook = await tell(user, server.url, "run.")
        async with worker(dsn, lease=1) as first:
            await happen(user)
            await server.until(1)
            first.send_signal(signal.SIGKILL)
        (delivery,) = await rows(user)
        assert (delivery.status, delivery.attempt, delivery.attempts) == ("pending", 1, [])
        async with worker(dsn):
            one, other = await server.until(2)
            (delivery,) = await until(user, status="succeeded")
    assert (one.id, one.body) == (other.id, other.body)
    verify(webhook["secret"], other)
    assert delivery.attempt == 2


async def test_workers_killed_at_random_lose_and_double_no_delivery(user: str, dsn: str) -> None:
    dice = random.Random(7)

    async def write(stop: asyncio.Event) -> None:
        while not stop.is_set():
            await happen(user)
            await asyncio.sleep(0.02)

    async with receiver(answers(200, after=0.01)) as server:
        webhooks = [await tell(user, f"{server.url}?{n}", "run.") for n in range(2)]
        for _ in range(3):
            async with worker(dsn, lease=3):
                stop = asyncio.Event()
                writer = asyncio.create_task(write(stop))
                await asyncio.sleep(dice.uniform(0.1, 0.5))
            stop.set()
            await writer
        events = {event["id"] for event in await logged(user, "run.log")}
        async with worker(dsn, lease=3):
            found = await until(user, 2 * len(events), seconds=60, status="succeeded")
    assert Counter((str(one.webhook_id), str(one.event_id)) for one in found) == Counter(
        itertools.product((webhook["id"] for webhook in webhooks), events)
    )
    assert set(server.ids) == events
    assert min(server.ids.values()) >= 2


async def test_a_worker_frozen_in_the_middle_holds_up_neither_writers_nor_other_workers(
    user: str, other_user: str, bus: LocalBus
) -> None:
    async with receiver() as server:
        await tell(user, server.url, "run.")
        await tell(other_user, server.url, "run.")
        await happen(user)
        async with db.as_system() as frozen:
            assert (await frozen.call("fan_out", 500))[0]["user_id"] == user
            async with courier(bus), asyncio.timeout(5):
                await happen(user)
                await happen(other_user)
                await server.until(1)
                await until(other_user, status="succeeded")
        async with courier(bus):
            await server.until(3)


async def test_a_fan_out_that_breaks_off_is_done_again(user: str, bus: LocalBus) -> None:
    async with receiver() as server:
        await tell(user, server.url, "run.")
        await happen(user)
        with pytest.raises(ZeroDivisionError):
            async with db.as_system() as tx:
                assert (await tx.call("fan_out", 500))[0]["made"] == 1
                raise ZeroDivisionError
        assert await rows(user) == []
        async with courier(bus):
            await server.until(1)


async def test_a_log_that_moved_far_is_told_in_parts(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "FAN_OUT_EVENTS", 3)
    monkeypatch.setattr(deliveries, "POLL_SECONDS", 0.05)
    async with receiver() as server:
        await tell(user, server.url, "run.")
        await happen(user, *["run.log"] * 10)
        async with courier(bus):
            await server.until(10)
            await until(user, 10, status="succeeded")
    assert set(server.ids.values()) == {1}


async def test_a_late_settlement_changes_nothing(user: str) -> None:
    webhook = await tell(user, "http://127.0.0.1:9/", "run.")
    await happen(user)
    async with db.as_system() as tx:
        await tx.call("fan_out", 500)
    early = await claim(timedelta(0))
    late = await claim(LEASE)
    assert (late.id, late.attempt) == (early.id, 2)
    outcome = sending.Outcome(datetime.now(UTC), 1, 500, None, {})
    await deliveries.settle(early, {}, outcome)
    (delivery,) = await rows(user)
    assert (delivery.status, delivery.attempts) == ("pending", [])
    await deliveries.settle(late, {}, sending.Outcome(datetime.now(UTC), 1, 200, None, {}))
    await deliveries.settle(early, {}, outcome)
    (delivery,) = await rows(user)
    assert (delivery.status, len(delivery.attempts)) == ("succeeded", 1)
    assert (await row(user, webhook["id"])).enabled


async def claim(lease: timedelta) -> deliveries.Claim:
    async with db.as_system() as tx:
        rows = await tx.call("claim_deliveries", [], [], 4, 16, 1, lease)
    return deliveries.Claim(**rows[0])


async def test_a_webhook_deleted_in_mid_delivery_leaves_nothing(
    user: str, bus: LocalBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deliveries, "LEAVE_SECONDS", 20)  # the courier leaves once the delivery has ended
    async with receiver(answers(200, after=0.3)) as server, courier(bus):
        webhook = await tell(user, server.url, "run.")
        await happen(user)
        await server.until(1)
        async with db.as_user(user, "user") as tx:
            await tx.delete(Webhook, UUID(webhook["id"]))
    assert await rows(user) == []
    assert await logged(user, "delivery.") == []


# Fairness -----------------------------------------------------------------------------------------


async def test_a_slow_receiver_does_not_hold_up_a_fast_one(user: str, bus: LocalBus) -> None:
    async with receiver(receivers.hang) as slow, receiver() as fast, courier(bus):
        await tell(user, slow.url, "run.")
        await tell(user, fast.url, "run.")
        await happen(user, *["run.log"] * 50)
        await fast.until(50, seconds=sending.REQUEST_SECONDS - 1)
        assert len(slow.heard) == deliveries.REQUESTS_PER_WEBHOOK


async def test_a_failing_receiver_is_asked_one_thing_at_a_time(user: str, bus: LocalBus) -> None:
    async with receiver(answers(500), receivers.hang) as server, courier(bus):
        await tell(user, server.url, "run.")
        await happen(user)
        await server.until(1)
        await happen(user, *["run.log"] * 20)
        await server.until(2)
        await asyncio.sleep(0.3)
        assert len(server.heard) == 2


async def test_one_users_slow_receivers_leave_room_for_others(
    user: str, other_user: str, bus: LocalBus
) -> None:
    async with receiver(receivers.hang) as slow, receiver() as fast, courier(bus):
        for _ in range(20):
            await tell(user, slow.url, "run.")
        await tell(other_user, fast.url, "run.")
        await happen(user, *["run.log"] * 10)
        await slow.until(deliveries.REQUESTS_PER_USER)
        await happen(other_user)
        await fast.until(1, seconds=3)
        assert len(slow.heard) == deliveries.REQUESTS_PER_USER


async def test_those_who_wait_take_turns(user: str) -> None:
    names = {(await tell(user, "http://127.0.0.1:9/", "run."))["id"]: n for n in range(3)}
    await happen(user, *["run.log"] * 3)
    async with db.as_system() as tx:
        await tx.call("fan_out", 500)
    taken = [names[str((await claim(LEASE)).webhook_id)] for _ in range(9)]
    assert [sorted(taken[n : n + 3]) for n in (0, 3, 6)] == [[0, 1, 2]] * 3


async def test_a_claim_reads_little_beside_many_that_wait(user: str, other_user: str) -> None:
    crowded = await tell(user, "http://127.0.0.1:9/", "run.")
    await tell(other_user, "http://127.0.0.1:9/", "run.")
    async with db.as_system() as tx:
        await tx.connection.execute(
            "insert into deliveries (user_id, id, webhook_id, event_id, kind, payload, next_at) "
            "select $1, gen_random_uuid(), $2, gen_random_uuid(), 'run.log', '{}', "
            "now() - n * interval '1 second' + case when n % 2 = 0 then interval '1 day' else '0' end "
            "from generate_series(1, 30000) n",
            user,
            UUID(crowded["id"]),
        )
        await tx.call("wake_webhook", user, UUID(crowded["id"]))
    await happen(other_user)
    async with db.as_system() as tx:
        while await tx.call("fan_out", 500):
            pass
        await tx.connection.execute("analyze deliveries")
    owners, read = [], []
    for _ in range(40):
        async with db.as_system() as tx:
            before = await tx.connection.fetchval(READ)
            rows = await tx.call("claim_deliveries", [], [], 4, 16, 1, LEASE)
            read.append(await tx.connection.fetchval(READ) - before)
        owners.append(rows[0]["user_id"])
    assert other_user in owners[:2]
    assert max(read) < 100, read


# Over HTTP ----------------------------------------------------------------------------------------


async def test_the_secret_is_shown_once_and_to_a_repeat_of_the_request(alice: httpx.AsyncClient) -> None:
    body = {"name": "Hook", "url": "http://127.0.0.1:9/hook", "events": ["run.", "file.created"]}
    key = {"Idempotency-Key": uuid4().hex}
    reply = await alice.post("/api/webhooks", json=body, headers=key)
    assert reply.status_code == 201
    made = reply.json()["data"]
    assert reply.headers["location"] == f"/api/webhooks/{made['id']}"
    assert made == body | {
        "id": made["id"],
        "enabled": True,
        "disabled_reason": None,
        "failing_since": None,
        "old_secret_until": None,
        "created_at": made["created_at"],
        "updated_at": made["updated_at"],
        "secret": made["secret"],
    }
    again = await alice.post("/api/webhooks", json=body, headers=key)
    assert (again.status_code, again.json()) == (201, reply.json())
    rotated = (await alice.post(f"/api/webhooks/{made['id']}/rotate")).json()["data"]
    assert rotated["secret"] != made["secret"]
    seen = [
        await alice.get("/api/webhooks"),
        await alice.get(f"/api/webhooks/{made['id']}"),
        await alice.patch(f"/api/webhooks/{made['id']}", json={"name": "Other"}),
        await alice.get("/api/events"),
    ]
    for reply in seen:
        assert reply.status_code == 200
        assert made["secret"] not in reply.text
        assert rotated["secret"] not in reply.text
        assert '"secret"' not in reply.text
    kinds = [event["kind"] for event in seen[-1].json()["data"] if event["kind"].startswith("webhook.")]
    assert kinds == ["webhook.created", "webhook.updated", "webhook.updated"]


async def test_a_test_succeeds_through_the_whole_server(alice: httpx.AsyncClient) -> None:
    async with receiver() as server:
        webhook = await make.webhook(alice, url=server.url)
        reply = await alice.post(f"/api/webhooks/{webhook['id']}/test")
        assert reply.status_code == 202
        sent = reply.json()["data"]
        assert reply.headers["location"] == f"/api/deliveries/{sent['id']}"
        (heard,) = await server.until(1)
        verify(webhook["secret"], heard)
        async with asyncio.timeout(10):
            while True:
                shown = (await alice.get(f"/api/deliveries/{sent['id']}")).json()["data"]
                if shown["status"] != "pending":
                    break
                await asyncio.sleep(0.02)
    assert shown["status"] == "succeeded"
    assert shown["payload"].encode() == heard.body
    listed = (await alice.get(f"/api/webhooks/{webhook['id']}/deliveries?status=succeeded")).json()["data"]
    assert listed == [{name: value for name, value in shown.items() if name not in ("payload", "attempts")}]
    assert (await alice.get(f"/api/webhooks/{webhook['id']}/deliveries?status=failed")).json()["data"] == []
    assert (await alice.get(f"/api/webhooks/{uuid4()}/deliveries")).status_code == 404
    again = await alice.post(f"/api/deliveries/{sent['id']}/redeliver")
    assert again.status_code == 202


async def test_a_change_made_over_http_is_told_as_it_is_in_the_log(alice: httpx.AsyncClient) -> None:
    async with receiver() as server:
        webhook = await make.webhook(alice, url=server.url, events=["workflow."])
        workflow = await make.workflow(alice)
        (heard,) = await server.until(1)
        told = verify(webhook["secret"], heard)
        assert (told["type"], told["data"]["data"]["id"]) == ("workflow.created", workflow["id"])
        (event,) = (await alice.get("/api/events?kind=workflow.created")).json()["data"]
        assert told["data"] == event


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({}, ["body", "url"]),
        ({"url": "ftp://example.com/"}, ["body", "url"]),
        ({"url": "http://" + "x" * 2000}, ["body", "url"]),
        ({"url": "http://u:p@127.0.0.1/"}, ["url"]),
        ({"url": "http://0x7f.1/"}, ["url"]),
        ({"url": "http://169.254.169.254/"}, ["url"]),
        ({"url": "http://127.0.0.1/", "events": []}, ["body", "events"]),
        ({"url": "http://127.0.0.1/", "events": ["Run"]}, ["body", "events", 0]),
        ({"url": "http://127.0.0.1/", "events": ["run.*"]}, ["body", "events", 0]),
        ({"url": "http://127.0.0.1/", "events": ["run."] * 51}, ["body", "events"]),
        ({"url": "http://127.0.0.1/", "name": ""}, ["body", "name"]),
        ({"url": "http://127.0.0.1/", "secret": "whsec_x"}, ["body", "secret"]),
        ({"url": "http://127.0.0.1/", "enabled": False}, ["body", "enabled"]),
    ],
    ids=stable,
)
async def test_bad_webhooks_are_named_problems(
    body: dict[str, Any], where: list[Any], alice: httpx.AsyncClient
) -> None:
    reply = await alice.post("/api/webhooks", json=body)
    assert reply.status_code == 422, reply.text
    assert reply.json()["errors"][0]["loc"] == where
    assert (await alice.get("/api/webhooks")).json()["data"] == []
    if "url" in body and where == ["url"]:
        webhook = await make.webhook(alice)
        changed = await alice.patch(f"/api/webhooks/{webhook['id']}", json={"url": body["url"]})
        assert (changed.status_code, changed.json()["code"]) == (422, "invalid_address")


async def test_there_is_an_end_to_how_many_webhooks_one_has(alice: httpx.AsyncClient) -> None:
    body = {"url": "http://127.0.0.1:9/"}
    replies = await asyncio.gather(*(alice.post("/api/webhooks", json=body) for _ in range(53)))
    assert Counter(reply.status_code for reply in replies) == {201: endpoints.MAX_WEBHOOKS, 409: 3}
    refused = next(reply for reply in replies if reply.status_code == 409)
    assert refused.json()["code"] == "too_many_webhooks"


def test_the_page_says_what_the_code_does() -> None:
    page = " ".join((ROOT / "docs/webhooks.md").read_text().split())
    pauses = "5 s, 30 s, 2 min, 10 min, 30 min, 1 h, 2 h, 4 h, 8 h and 8 h"
    unit = {"s": 1, "min": 60, "h": 3600}
    said = [int(n) * unit[u] for n, u in re.findall(r"(\d+) (s|min|h)\b", pauses)]
    assert f"after about {pauses}: a day in all" in page
    assert tuple(said) == deliveries.RETRY_SECONDS
    assert f"within {sending.REQUEST_SECONDS:g} seconds" in page
    assert f"at most {deliveries.LONGEST_WAIT // 3600} hours" in page
    assert f"at most {endpoints.MAX_WEBHOOKS} webhooks" in page
    assert deliveries.PATIENCE == endpoints.OLD_SECRET_LIFE == timedelta(hours=24)
