"""Profiles: cookies and storage that computers and runs begin with, sealed."""

from uuid import UUID

from starlette.responses import Response

import db
from models import Profile
from schemas import ProfileRead, ProfileState


async def import_state(tx: db.Tx, profile: Profile, body: ProfileState) -> Response:
    raise NotImplementedError


async def capture(user_id: str, id: UUID, computer_id: UUID) -> ProfileRead:
    raise NotImplementedError
