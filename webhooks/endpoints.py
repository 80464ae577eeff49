"""What a user does with webhooks and their deliveries; `deliveries` sends them."""

import base64
import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from starlette.responses import Response

import db
from infra.vault import Unsealable
from models import Delivery, DeliveryStatus, Quota, Stream, Webhook, uuid7
from runs.engine import WrongState
from runs.parameters import Problem
from schemas import (
    DeliveryRead,
    EventRead,
    ResourceRead,
    WebhookCreate,
    WebhookCreated,
    WebhookRead,
    WebhookUpdate,
)
from webhooks.sending import refusal

MAX_WEBHOOKS = 50  # of one user
OLD_SECRET_LIFE = timedelta(hours=24)
SECRET_BYTES = 32


class InvalidAddress(Exception):
    """A webhook's URL is not one that anything is sent to."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"url: {reason}")
        self.problems = [Problem("/url", reason)]


class TooManyWebhooks(Exception):
    """The user has as many webhooks as one may have."""


async def create(tx: db.Tx, body: WebhookCreate) -> Response:
    """Add a webhook that is told what happens from now on. Raises InvalidAddress, TooManyWebhooks."""
    _check(body.url)
    await tx.find(Quota, lock=True)
    if len(await tx.find(Webhook)) >= MAX_WEBHOOKS:
        raise TooManyWebhooks(f"There are {MAX_WEBHOOKS} webhooks already; delete one first.")
    webhook_id, secret = uuid7(), _new_secret()
    webhook = await tx.add(
        Webhook,
        **body.model_dump(),
        id=webhook_id,
        secret=seal_secret(secret, "secret", webhook_id, tx.user_id),
        cursor=await _head(tx),
    )
    tx.announce("webhook.created", webhook, WebhookRead)
    return tx.reply(_with_secret(webhook, secret), 201, f"/api/webhooks/{webhook_id}", secret=True)


async def update(tx: db.Tx, webhook: Webhook, body: WebhookUpdate) -> Response:
    """Set the fields sent; disabling gives up what waits, another address starts its patience anew.

    Raises InvalidAddress.
    """
    values: dict[str, Any] = {}
    if body.url is not None:
        _check(body.url)
        values["failing_since"] = None
    if body.enabled is True and not webhook.enabled:
        values |= {"disabled_reason": None, "failing_since": None, "cursor": await _head(tx)}
    elif body.enabled is False and webhook.enabled:
        values["disabled_reason"] = "requested"
        await tx.call("fail_deliveries", tx.user_id, webhook.id)
    return await tx.update(Webhook, WebhookRead, webhook.id, body, **values)


async def test(tx: db.Tx, webhook: Webhook) -> Response:
    """Send an event that is in no log to this webhook, whatever its filter. Raises WrongState."""
    _require_enabled(webhook)
    event = EventRead(
        seq=0,
        id=uuid7(),
        kind="webhook.test",
        run_id=None,
        resource=ResourceRead(type=Webhook.resource(), id=str(webhook.id)),
        at=datetime.now(UTC),
        actor=tx.actor,
        data={},
    )
    told = event.model_dump(mode="json")
    payload = orjson.dumps({"type": event.kind, "timestamp": told["at"], "data": told}).decode()
    delivery = await tx.add(
        Delivery, webhook_id=webhook.id, event_id=event.id, kind=event.kind, payload=payload
    )
    return await _send(tx, delivery, 202)


async def rotate(tx: db.Tx, webhook: Webhook) -> Response:
    """Give a new secret; the one before signs beside it for a day, the one before that no more."""
    place = (webhook.id, tx.user_id)
    secret = _new_secret()
    values: dict[str, Any] = {"secret": seal_secret(secret, "secret", *place), "old_secret": None}
    with suppress(Unsealable):  # one that cannot be read signs nothing
        before = unseal_secret(webhook.secret, "secret", *place)
        values["old_secret"] = seal_secret(before, "old_secret", *place)
    until = datetime.now(UTC) + OLD_SECRET_LIFE if values["old_secret"] else None
    (changed,) = await tx.change(Webhook, {"id": webhook.id}, **values, old_secret_until=until)
    tx.announce("webhook.updated", changed, WebhookRead)
    return tx.reply(_with_secret(changed, secret), secret=True)


async def redeliver(tx: db.Tx, id: UUID) -> Response:
    """Try a finished delivery again, from the beginning of the schedule. Raises NoResultFound, WrongState."""
    delivery = await tx.one(Delivery, id=id)
    # The webhook first, as its worker does, so that neither waits for the other.
    _require_enabled(await tx.one(Webhook, lock=True, id=delivery.webhook_id))
    delivery = await tx.one(Delivery, lock=True, id=id)
    if delivery.status == DeliveryStatus.pending:
        raise WrongState("The delivery is on its way already.")
    (changed,) = await tx.change(
        Delivery,
        {"id": id},
        status=DeliveryStatus.pending,
        tried_before=delivery.attempt,
        tried_since=None,
        next_at=datetime.now(UTC),
        finished_at=None,
    )
    return await _send(tx, changed, 202)


async def _send(tx: db.Tx, delivery: Delivery, status: int) -> Response:
    await tx.call("wake_webhook", tx.user_id, delivery.webhook_id)
    tx.hint("deliveries")
    return tx.reply(DeliveryRead.model_validate(delivery), status, f"/api/deliveries/{delivery.id}")


def _require_enabled(webhook: Webhook) -> None:
    if not webhook.enabled:
        raise WrongState("The webhook is disabled; enable it first.")


def _check(url: str) -> None:
    if reason := refusal(url):
        raise InvalidAddress(reason)


async def _head(tx: db.Tx) -> int:
    return (await tx.one(Stream)).last_seq


# Secrets ------------------------------------------------------------------------------------------


def _new_secret() -> str:
    return "whsec_" + base64.b64encode(os.urandom(SECRET_BYTES)).decode()


def _with_secret(webhook: Webhook, secret: str) -> WebhookCreated:
    return WebhookCreated(**WebhookRead.model_validate(webhook).model_dump(), secret=secret)


def seal_secret(secret: str, column: str, id: UUID, user_id: str) -> bytes:
    """The secret as its column keeps it."""
    return db.vault().seal(secret.encode(), table="webhooks", column=column, row=id, user=user_id)


def unseal_secret(sealed: bytes, column: str, id: UUID, user_id: str) -> str:
    """The secret in a column. Raises Unsealable."""
    return db.vault().unseal(sealed, table="webhooks", column=column, row=id, user=user_id).decode()
