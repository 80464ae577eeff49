"""The log in words."""

from starlette.responses import Response

from schemas import EventQuery


async def page(user_id: str, query: EventQuery) -> Response:
    raise NotImplementedError
