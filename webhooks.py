"""Webhooks: events told to other servers, signed, until they have heard; and Clerk's own taken in."""

from starlette.datastructures import Headers
from starlette.responses import Response

import db
from models import Delivery, Webhook
from schemas import WebhookCreate, WebhookUpdate


async def create(tx: db.Tx, body: WebhookCreate) -> Response:
    raise NotImplementedError


async def update(tx: db.Tx, webhook: Webhook, body: WebhookUpdate) -> Response:
    raise NotImplementedError


async def test(tx: db.Tx, webhook: Webhook) -> Response:
    raise NotImplementedError


async def rotate(tx: db.Tx, webhook: Webhook) -> Response:
    raise NotImplementedError


async def redeliver(tx: db.Tx, delivery: Delivery) -> Response:
    raise NotImplementedError


async def receive_clerk(headers: Headers, body: bytes) -> None:
    raise NotImplementedError
