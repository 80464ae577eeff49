"""API keys: programs' credentials, shown once and kept as their SHA-256."""

from uuid import UUID

from starlette.responses import Response

import db
from schemas import KeyCreate, KeyUpdate


async def create(tx: db.Tx, body: KeyCreate) -> Response:
    raise NotImplementedError


async def update(tx: db.Tx, id: UUID, body: KeyUpdate) -> Response:
    raise NotImplementedError


async def delete(tx: db.Tx, id: UUID) -> Response:
    raise NotImplementedError
