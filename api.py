"""What every route shares: the application, problems, the checks at the edge, request ids and headers."""

import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, NamedTuple, TypeVar
from uuid import uuid4

import orjson
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import clerk_auth
import db
import live
import process
from schemas import MAX_NESTING, ProblemRead, PublicConfig, nests_too_deep
from settings import settings

log = structlog.get_logger()

VERSION = "0.1.0"
JSON_LIMIT = 2**20  # bytes
_ALIASES = {"/api/users/me": "/api/me"}
_SECTIONS = {
    **dict.fromkeys(("health", "ready", "config"), "ops"),
    **dict.fromkeys(("jwks.json", "openid-configuration"), "auth"),
}
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "x-frame-options": "DENY",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
}
_CONTENT_POLICY = "default-src 'none'; frame-ancestors 'none'"
_DOCS_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; frame-ancestors 'none'"
)


# Problems -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Problem:
    """How an exception leaves (RFC 9457); its own sentence is the detail unless `detail` is given.

    An exception that knows its `retry_after` (seconds) says so itself.
    """

    status: int
    code: str
    title: str
    detail: str | None = None
    retry_after: int | None = None


_STATUS_PROBLEMS = {
    400: Problem(400, "bad_request", "The request cannot be understood"),
    401: Problem(401, "unauthorized", "Sign in again"),
    403: Problem(403, "forbidden", "Not allowed"),
    404: Problem(404, "not_found", "No such thing, or not yours"),
    405: Problem(405, "method_not_allowed", "This address does not know that method"),
    413: Problem(413, "too_large", "The request is too large"),
    415: Problem(415, "unsupported_media_type", "Send JSON as application/json"),
    422: Problem(422, "invalid", "Something in the request is not valid"),
    500: Problem(500, "internal", "Something went wrong on our side"),
}


def problem(
    request_id: str, of: Problem, detail: str, errors: list[dict[str, Any]] | None = None
) -> Response:
    """The one shape of every failure."""
    body = {
        "success": False,
        "type": f"/docs#{of.code}",
        "title": of.title,
        "status": of.status,
        "detail": detail,
        "code": of.code,
        **({"errors": errors} if errors else {}),
        "request_id": request_id,
    }
    headers = {**_HEADERS, "x-request-id": request_id, "cache-control": "no-store"}
    if of.status == 401:
        headers["WWW-Authenticate"] = 'Bearer error="invalid_token"'
    if of.retry_after is not None:
        headers["Retry-After"] = str(of.retry_after)
    return Response(orjson.dumps(body), of.status, headers, "application/problem+json")


def _request_id(request: Request) -> str:
    return str(request.scope["state"]["request_id"])


def _pointer_errors(error: Exception) -> list[dict[str, Any]] | None:
    """What an exception's `problems` (pointer and message each) say, as fields of the request."""
    return [
        {"loc": found.pointer.split("/")[1:], "msg": found.message, "pointer": found.pointer}
        for found in getattr(error, "problems", ())
    ] or None


def _handle_problems(app: FastAPI, problems: Mapping[type[Exception], Problem]) -> None:
    for kind, of in problems.items():

        async def named(request: Request, error: Exception, of: Problem = of) -> Response:
            detail = of.detail or str(error) or of.title
            known = replace(of, retry_after=getattr(error, "retry_after", of.retry_after))
            return problem(_request_id(request), known, detail, _pointer_errors(error))

        app.add_exception_handler(kind, named)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(db.Repeat, _on_repeat)
    app.add_exception_handler(Exception, _on_crash)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    of = _STATUS_PROBLEMS.get(status) or Problem(status, f"http_{status}", detail)
    reply = problem(_request_id(request), of, detail if status not in (404, 405) else of.title)
    if status == 405 and isinstance(error, HTTPException) and error.headers:
        reply.headers.update(error.headers)
    return reply


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"loc": list(item["loc"]), "msg": str(item["msg"])[:500]} for item in found[:50]]
    return problem(_request_id(request), _STATUS_PROBLEMS[422], _sentence(errors), errors)


def _sentence(errors: Iterable[Mapping[str, Any]]) -> str:
    first = next(iter(errors), None)
    if first is None:
        return "The request is not valid."
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


async def _on_repeat(_request: Request, error: Exception) -> Response:
    if not isinstance(error, db.Repeat):
        raise error
    return error.reply


async def _on_crash(request: Request, error: Exception) -> Response:
    log.error("request_crashed", path=request.scope["path"], exc_info=error)
    of = _STATUS_PROBLEMS[500]
    return problem(_request_id(request), of, "The server could not finish this; it has been logged.")


# The edge -----------------------------------------------------------------------------------------


class StrictRequest(Request):
    """A request whose JSON holds nothing that PostgreSQL's text cannot, and nothing nested without end."""

    async def json(self) -> Any:
        """The body. Raises what FastAPI answers with 422: bad JSON, NUL, lone surrogates, deep nesting."""
        body = await self.body()
        value = orjson.loads(body)
        if b"\\u0000" in body and _holds_nul(value):
            raise orjson.JSONDecodeError("a string holds NUL", body.decode(), 0)
        if nests_too_deep(value):
            raise orjson.JSONDecodeError(f"nested more than {MAX_NESTING} deep", body.decode(), 0)
        return value


def _holds_nul(value: Any) -> bool:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str) and "\x00" in item:
            return True
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list):
            pending += item
    return False


class StrictRoute(APIRoute):
    """A route whose request is a StrictRequest."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handle(StrictRequest(request.scope, request.receive))

        return strict


class Edge:
    """Outside everything: request ids, `/api/v1`, size and text checks, headers on every reply."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, _plainly(send))
            return
        headers = dict(scope["headers"])
        offered = headers.get(b"x-request-id", b"").decode("latin-1")
        request_id = offered if _REQUEST_ID.fullmatch(offered) else uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        scope["path"] = _canonical(scope["path"])
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with structlog.contextvars.bound_contextvars(request_id=request_id):
            send = self._with_headers(scope["path"], request_id, send)
            refusal = _refusal(scope, headers)
            if refusal is not None:
                status, detail = refusal
                await problem(request_id, _STATUS_PROBLEMS[status], detail)(scope, receive, send)
            else:
                await self._app(scope, _counted(receive), send)

    @staticmethod
    def _with_headers(path: str, request_id: str, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                page = path.startswith(("/docs", "/static-offline-docs"))
                headers.setdefault("content-security-policy", _DOCS_POLICY if page else _CONTENT_POLICY)
                if path.startswith("/api/"):
                    headers.setdefault("cache-control", "no-store")
            await send(message)

        return sending


def _plainly(send: Send) -> Send:
    """A start that fails for a reason we know says its sentence, not its stack."""

    async def sending(message: Message) -> None:
        error = sys.exc_info()[1]
        if message["type"] == "lifespan.startup.failed" and isinstance(error, process.START_FAILURES):
            message = {**message, "message": str(error)}
        await send(message)

    return sending


def _canonical(path: str) -> str:
    if path.startswith("/api/v1/"):
        path = "/api/" + path.removeprefix("/api/v1/")
    return _ALIASES.get(path, path)


def _refusal(scope: Scope, headers: Mapping[bytes, bytes]) -> tuple[int, str] | None:
    """Why this request goes no further: NUL in its address, a body too long, or one that is not JSON."""
    if b"%00" in scope["query_string"] or "\x00" in scope["path"]:
        return 422, "The address holds NUL."
    length = headers.get(b"content-length", b"0")
    if length.isdigit() and int(length) > JSON_LIMIT:
        return 413, f"A JSON body has at most {JSON_LIMIT} bytes."
    has_body = length not in (b"", b"0") or b"transfer-encoding" in headers
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    if has_body and scope["method"] in ("POST", "PUT", "PATCH") and kind != b"application/json":
        return 415, "Send the body as application/json."
    return None


def _counted(receive: Receive) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > JSON_LIMIT:
            raise HTTPException(413, f"A JSON body has at most {JSON_LIMIT} bytes.")
        return message

    return counting


class Device(NamedTuple):
    """From where somebody signs in."""

    address: str | None
    user_agent: str | None


async def _device(request: Request) -> Device:
    agent = request.headers.get("user-agent")
    return Device(request.client.host if request.client else None, agent[:500] if agent else None)


CurrentDevice = Annotated[Device, Depends(_device)]


# The application ----------------------------------------------------------------------------------

Route = TypeVar("Route", bound=Callable[..., Awaitable[Response]])


def update(app: FastAPI, path: str, **options: Any) -> Callable[[Route], Route]:
    """`PATCH`, and `PUT` as its twin outside the OpenAPI document."""

    def register(route: Route) -> Route:
        app.patch(path, **options)(route)
        return app.put(path, include_in_schema=False, **options)(route)

    return register


@asynccontextmanager
async def _lifespan(_app: FastAPI) -> AsyncIterator[None]:
    async with process.running(worker=settings.web_works) as bus:
        await live.start(bus)
        try:
            yield
        finally:
            await live.stop()


def create_app(
    problems: Mapping[type[Exception], Problem],
    *,
    lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]] = _lifespan,
    **about: Any,
) -> FastAPI:
    """The application with the edge around it; `problems` is where an exception gets its status."""
    app = FastAPIOffline(
        redoc_url=None,
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        responses={
            "4XX": {"description": "The request failed.", "model": ProblemRead},
            "5XX": {"description": "The server failed.", "model": ProblemRead},
        },
        **about,
    )
    app.router.route_class = StrictRoute
    app.openapi = partial(_document, app, app.openapi)  # type: ignore[method-assign]
    _handle_problems(app, problems)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type", "Idempotency-Key", "If-Match", "Last-Event-ID"],
            expose_headers=["Location", "Link", "ETag", "X-Request-ID", "Retry-After"],
        )
    app.add_middleware(Edge)
    app.add_middleware(live.TransportAccess)
    return app


def _document(app: FastAPI, generate: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The OpenAPI document: tagged by section, failures under their own media type (RFC 9457)."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    document = generate()
    for path, operations in document["paths"].items():
        section = path.split("/")[2]
        for operation in operations.values():
            operation["tags"] = [_SECTIONS.get(section, section)]
            for status in ("4XX", "5XX"):
                content = operation["responses"][status]["content"]
                content["application/problem+json"] = content.pop("application/json")
    return document


def public_config() -> PublicConfig:
    """What `GET /api/config` tells."""
    auth = clerk_auth.public_config(settings)
    return PublicConfig(
        version=VERSION, auth=auth, max_upload_mb=settings.max_upload_mb, socket_protocol="cua.v1"
    )
