"""Users as a whole: what they used, all of theirs in one file, their end, and what administrators do."""

from uuid import UUID

from starlette.responses import Response

from schemas import AdminRunQuery, AdminRunRead, AdminUserQuery, UsageRead, UserRead, UserUpdate


async def usage(user_id: str, days: int) -> UsageRead:
    raise NotImplementedError


async def export(user_id: str) -> Response:
    raise NotImplementedError


async def erase(user_id: str) -> None:
    raise NotImplementedError


async def page(query: AdminUserQuery) -> Response:
    raise NotImplementedError


async def read(user_id: str) -> UserRead:
    raise NotImplementedError


async def change(user_id: str, body: UserUpdate, *, by: str) -> UserRead:
    raise NotImplementedError


async def runs(query: AdminRunQuery) -> Response:
    raise NotImplementedError


async def cancel_run(run_id: UUID) -> AdminRunRead:
    raise NotImplementedError
