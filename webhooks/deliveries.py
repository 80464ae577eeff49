"""The worker's part: logs become deliveries, and what is due is sent until it is heard or given up."""

import asyncio
import random
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import orjson
import structlog

import db
import metrics
from infra.bus import Bus
from infra.egress import Lookup, system_lookup
from infra.vault import Unsealable
from models import Delivery, DeliveryStatus, Webhook
from runs.computers import forever
from schemas import AttemptRead, DeliveryRead, WebhookRead
from settings import settings
from webhooks import sending
from webhooks.endpoints import unseal_secret
from webhooks.sending import Outcome

log = structlog.get_logger()

POLL_SECONDS = 1.0
PAUSE_SECONDS = 0.05  # between two looks at the outbox, however many commits ask for one
LEAVE_SECONDS = 5.0
LEASE = timedelta(seconds=45)  # longer than a request and its settling take
FAN_OUT_EVENTS = 500
CLAIM_BATCH = 16
MAX_REQUESTS = 64
REQUESTS_PER_USER = 16
REQUESTS_PER_WEBHOOK = 4

RETRY_SECONDS = (5, 30, 120, 600, 1800, 3600, 7200, 14400, 28800, 28800)
"""Mean pauses before the tries after the first: a day in all."""

LONGEST_WAIT = 28800  # seconds that a `Retry-After` may ask for
PATIENCE = timedelta(hours=24)
ATTEMPTS_KEPT = 20


@dataclass(frozen=True, slots=True)
class Claim:
    """A delivery that is this process's to send, for as long as the lease."""

    user_id: str
    id: UUID
    webhook_id: UUID
    event_id: UUID
    payload: str
    attempt: int
    tried_before: int
    attempts: list[Any]
    url: str
    secret: bytes
    old_secret: bytes | None

    def secrets(self) -> list[str]:
        """What signs. Raises Unsealable."""
        sealed = {"secret": self.secret, "old_secret": self.old_secret}
        return [
            unseal_secret(value, column, self.webhook_id, self.user_id)
            for column, value in sealed.items()
            if value is not None
        ]


def next_wait(tries: int, retry_after: float | None) -> float | None:
    """Seconds until another try after so many, None to give up; with full jitter, and as asked for."""
    if tries > len(RETRY_SECONDS):
        return None
    wait = random.uniform(0, 2 * RETRY_SECONDS[tries - 1])  # noqa: S311 - jitter is no secret
    return max(wait, min(retry_after or 0, LONGEST_WAIT))


class _Courier:
    """The requests that this process makes, and the loops that find them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.sending: dict[asyncio.Task[None], Claim] = {}
        self.settling = asyncio.Semaphore(max(1, settings.database_pool // 4))
        self.logged = asyncio.Event()
        self.due = asyncio.Event()

    async def fan_out(self) -> None:
        """Make deliveries of what logs have come to hold, one user's at a time."""
        while await self.fan_out_one():
            pass
        await asyncio.sleep(PAUSE_SECONDS)

    async def fan_out_one(self) -> bool:
        async with db.as_system() as tx:
            rows = await tx.call("fan_out", FAN_OUT_EVENTS)
            if rows and rows[0]["made"]:
                tx.hint("deliveries")
        return bool(rows)

    async def claim(self) -> None:
        """Begin to send what is due, while there is room."""
        while (room := min(MAX_REQUESTS - len(self.sending), CLAIM_BATCH)) > 0:
            claims = await self.claim_some(room)
            if not claims:
                return
            for claim in claims:
                task = asyncio.create_task(self.deliver(claim))
                self.sending[task] = claim
                task.add_done_callback(self.ended)

    async def claim_some(self, room: int) -> list[Claim]:
        busy = self.sending.values()
        async with db.as_system() as tx:
            rows = await tx.call(
                "claim_deliveries",
                [claim.webhook_id for claim in busy],
                [claim.user_id for claim in busy],
                REQUESTS_PER_WEBHOOK,
                REQUESTS_PER_USER,
                room,
                LEASE,
            )
        return [Claim(**row) for row in rows]

    def ended(self, task: asyncio.Task[None]) -> None:
        """Its place is free; one that was not settled is sent again when its lease is over."""
        claim = self.sending.pop(task)
        self.due.set()
        if not task.cancelled() and (error := task.exception()) is not None:
            away = isinstance(error, db.AWAY)
            log.warning("delivery_not_settled", delivery=str(claim.id), exc_info=None if away else error)

    async def deliver(self, claim: Claim) -> None:
        """Send it once, and write down what came of it."""
        headers: dict[str, str] = {}
        try:
            headers = sending.signed(str(claim.event_id), claim.payload, claim.secrets())
        except Unsealable as error:
            log.error("webhook_secret_unreadable", webhook=str(claim.webhook_id), error=str(error))
            outcome = sending.not_sent("the signing secret cannot be read any more; rotate it")
        else:
            outcome = await sending.post(self.client, claim.url, headers, claim.payload)
        async with self.settling:
            await settle(claim, headers, outcome)


async def settle(claim: Claim, headers: dict[str, str], outcome: Outcome) -> None:
    """Write down an attempt; log the end of its delivery, and of a webhook that has failed for too long."""
    wait = None if outcome.accepted or outcome.status == 410 else _wait(claim, outcome)
    fate = DeliveryStatus.succeeded if outcome.accepted else DeliveryStatus.failed
    if wait is not None:
        fate = DeliveryStatus.pending
    attempt = AttemptRead(
        at=outcome.at,
        duration_ms=outcome.duration_ms,
        status=outcome.status,
        error=outcome.error,
        request_headers=headers,
        response_headers=outcome.headers,
    )
    heads = [*claim.attempts, attempt.model_dump(mode="json")][-ATTEMPTS_KEPT:]
    async with db.as_user(claim.user_id) as tx:
        rows = await _settle(tx, claim, fate, heads, wait)
        if not rows:
            return  # its webhook was disabled or deleted, or another worker has it
        if outcome.status == 410:
            await _disable(tx, claim.webhook_id, "gone")
        elif (failing_for := rows[0]["failing_for"]) is not None and failing_for > PATIENCE:
            await _disable(tx, claim.webhook_id, "failing")
        delivery = await tx.one(Delivery, id=claim.id)
        if delivery.status != DeliveryStatus.pending:
            tx.announce(f"delivery.{delivery.status}", delivery, DeliveryRead)
    metrics.DELIVERIES.labels(delivery.status).inc()


def _wait(claim: Claim, outcome: Outcome) -> timedelta | None:
    seconds = next_wait(claim.attempt - claim.tried_before, outcome.retry_after)
    return None if seconds is None else timedelta(seconds=seconds)


async def _settle(
    tx: db.Tx, claim: Claim, fate: DeliveryStatus, heads: list[Any], wait: timedelta | None
) -> list[asyncpg.Record]:
    place = (claim.user_id, claim.webhook_id, claim.id, claim.attempt)
    return await tx.call("settle_delivery", *place, fate, orjson.dumps(heads).decode(), wait)


async def _disable(tx: db.Tx, id: UUID, reason: str) -> None:
    await tx.call("fail_deliveries", tx.user_id, id)
    (webhook,) = await tx.change(Webhook, {"id": id}, enabled=False, disabled_reason=reason)
    tx.announce("webhook.disabled", webhook, WebhookRead)


_stack: AsyncExitStack | None = None


async def start(bus: Bus, lookup: Lookup = system_lookup) -> None:
    """Begin to make and send deliveries; `lookup` resolves the receivers' names."""
    global _stack  # noqa: PLW0603 - one courier a process
    async with AsyncExitStack() as stack:
        courier = _Courier(await stack.enter_async_context(sending.client(lookup)))
        stack.push_async_callback(_leave, courier)
        stack.callback(bus.subscribe("logged", lambda _payload: courier.logged.set()))
        stack.callback(bus.subscribe("deliveries", lambda _payload: courier.due.set()))
        for work, wake in ((courier.fan_out, courier.logged), (courier.claim, courier.due)):
            task = asyncio.create_task(forever(work, wake, POLL_SECONDS))
            stack.push_async_callback(_cancel, task)
        _stack = stack.pop_all()


async def stop() -> None:
    """Take no more, and let the requests that are being made end; the rest is sent by another worker."""
    global _stack
    if _stack is not None:
        stack, _stack = _stack, None
        await stack.aclose()


async def _leave(courier: _Courier) -> None:
    if courier.sending:
        _, late = await asyncio.wait(courier.sending, timeout=LEAVE_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
