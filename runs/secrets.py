"""Secrets: sealed values that only a page of a pinned origin is told."""

from starlette.responses import Response

import db
from models import Secret
from schemas import SecretCreate, SecretUpdate


async def create(tx: db.Tx, body: SecretCreate) -> Response:
    raise NotImplementedError


async def update(tx: db.Tx, secret: Secret, body: SecretUpdate) -> Response:
    raise NotImplementedError
