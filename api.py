"""What every route shares: problems, the checks at the edge, request ids, headers, logs and metrics."""

import hmac
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from ipaddress import ip_address
from typing import Annotated, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import orjson
import structlog
from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars, clear_contextvars

import clerk_auth
import db
import identity
import live
import logs
import metrics
import process
from infra import rates
from infra.forms import FORM_BYTES
from schemas import MAX_NESTING, PublicConfig, nests_too_deep
from settings import settings

log = structlog.get_logger()

VERSION = "0.1.0"
JSON_LIMIT = 2**20  # bytes
UPLOADS = frozenset({("POST", "/api/files")})  # what takes a form in place of JSON
FRONT = "/docs" if settings.docs_shown else "/api/health"
_ALIASES = {"/api/users/me": "/api/me", "/api/metrics": "/metrics"}
SIGN_IN = {f"/api/auth/{name}" for name in ("register", "login", "refresh", "forgot", "reset", "verify")}
REFRESH = "/api/auth/refresh"  # each page of the web app that opens begins with it
PROBES = {"/api/health", "/api/ready"}  # asked by platforms under whatever name or address they know
_PROBED = {*PROBES, "/metrics"}  # asked too often to be told at `info`
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f]")
_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:[0-9]{1,5})?")
_HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"referrer-policy": b"no-referrer",
    b"x-frame-options": b"DENY",
    b"cross-origin-opener-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
}
_HSTS = b"max-age=31536000"  # RFC 6797; other hosts of the domain are not ours to speak for
CORS_ASKED = (
    *("Authorization", "Content-Type", "Idempotency-Key", "If-Match", "If-None-Match", "If-Range"),
    *("Last-Event-ID", "Range", "X-API-Key", "X-Request-ID"),
)
_CORS_SHOWN = (
    *("Accept-Ranges", "Content-Disposition", "Content-Range", "ETag", "Idempotency-Replayed", "Link"),
    *("Location", "RateLimit-Limit", "RateLimit-Policy", "RateLimit-Remaining", "RateLimit-Reset"),
    *("Retry-After", "X-Request-ID"),
)
_CONTENT_POLICY = b"default-src 'none'; frame-ancestors 'none'"
_DOCS_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; frame-ancestors 'none'"
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


STATUS_PROBLEMS = {
    400: Problem(400, "bad_request", "The request cannot be understood", "Its body cannot be read."),
    401: Problem(401, "unauthorized", "Sign in again"),
    403: Problem(403, "forbidden", "Not allowed", "Metrics are for this machine, and for `METRICS_TOKEN`."),
    404: Problem(404, "not_found", "No such thing, or not yours"),
    405: Problem(
        405, "method_not_allowed", "This address does not know that method", "`Allow` names those it knows."
    ),
    413: Problem(
        413, "too_large", "The request is too large", "JSON may have 1 MiB, a file `MAX_UPLOAD_MB`."
    ),
    415: Problem(
        415, "unsupported_media_type", "Send JSON as application/json", "The body is something else."
    ),
    421: Problem(421, "misdirected", "This server does not answer for that host", "See `ALLOWED_HOSTS`."),
    422: Problem(422, "invalid", "Something in the request is not valid", "`errors` names each field."),
    429: Problem(429, "rate_limited", "Too many requests"),
    500: Problem(500, "internal", "Something went wrong on our side", "It is logged under the request's id."),
}


def problem_type(code: str) -> str:
    """Where a kind of problem is described."""
    return f"/problems#{code}"


def problem(
    request_id: str, of: Problem, detail: str, errors: list[dict[str, Any]] | None = None
) -> Response:
    """The one shape of every failure."""
    body = {
        "success": False,
        "type": problem_type(of.code),
        "title": of.title,
        "status": of.status,
        "detail": detail,
        "code": of.code,
        **({"errors": errors} if errors else {}),
        "request_id": request_id,
    }
    headers = {"cache-control": "no-store"}
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
            if isinstance(error, rates.RateLimited):
                request.state.standing = error.standing
            reply = problem(_request_id(request), known, detail, _pointer_errors(error))
            reply.headers.update(getattr(error, "headers", {}))
            return reply

        app.add_exception_handler(kind, named)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(db.Repeat, _on_repeat)


async def _on_http_exception(request: Request, error: Exception) -> Response:
    status, detail = (error.status_code, error.detail) if isinstance(error, HTTPException) else (500, "")
    allowed = {"Allow": _allowed(request)} if status == 405 else {}
    if request.method == "OPTIONS" and allowed:
        return Response(status_code=204, headers=allowed)
    of = STATUS_PROBLEMS.get(status) or Problem(status, f"http_{status}", detail)
    reply = problem(_request_id(request), of, detail if status not in (404, 405) else of.title)
    reply.headers.update(allowed)
    return reply


def _allowed(request: Request) -> str:
    """Every method of the address (RFC 9110, 10.2.1); the router knows of one route's only."""
    methods = {"OPTIONS"}
    for route in request.app.routes:
        if isinstance(route, APIRoute) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    if "GET" in methods and not _streams(request.scope["path"]):
        methods.add("HEAD")
    return ", ".join(sorted(methods))


async def _on_invalid_request(request: Request, error: Exception) -> Response:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    errors = [{"loc": list(item["loc"]), "msg": str(item["msg"])[:500]} for item in found[:50]]
    return problem(_request_id(request), STATUS_PROBLEMS[422], _sentence(errors), errors)


def _sentence(errors: Iterable[Mapping[str, Any]]) -> str:
    first = next(iter(errors), None)
    if first is None:
        return "The request is not valid."
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"


async def _on_repeat(_request: Request, error: Exception) -> Response:
    if not isinstance(error, db.Repeat):
        raise error
    return error.reply


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
    """Outside everything: request ids, `/api/v1`, `HEAD`; headers, a log line and metrics of every reply."""

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
        state = scope.setdefault("state", {})
        state["request_id"] = request_id
        scope["path"] = _canonical(scope["path"])
        clear_contextvars()
        bind_contextvars(request_id=request_id)
        if scope["type"] == "http":
            state["exchange"] = exchange = _Exchange(scope, headers, send)
            await exchange.run(self._app, receive)
        else:
            await self._app(scope, receive, send)


class _Enough(Exception):
    """The reply has been sent as far as it is wanted."""


class _Exchange:
    """One request and its reply."""

    __slots__ = ("_began", "_headers", "_method", "_scope", "_send", "_size", "bare", "status", "streams")

    def __init__(self, scope: Scope, headers: Mapping[bytes, bytes], send: Send) -> None:
        self._method, self._headers, self._send = scope["method"], headers, send
        self._began = time.perf_counter()
        self.bare = self._method == "HEAD" and not _streams(scope["path"])
        # The server's own scope keeps HEAD, by which it knows that no body follows; ranges are for GET alone.
        whole = [it for it in scope["headers"] if it[0] not in (b"range", b"if-range")]
        self._scope = {**scope, "method": "GET", "headers": whole} if self.bare else scope
        self.status = self._size = 0
        self.streams = False

    async def run(self, app: ASGIApp, receive: Receive) -> None:
        """Have `app` answer, then count and log it."""
        metrics.IN_FLIGHT.inc()
        try:
            await app(self._scope, receive, self.send)
        except _Enough:
            await self._send({"type": "http.response.body"})
        finally:
            metrics.IN_FLIGHT.dec()
            if not self.streams:
                self._observe()
            self._log()

    async def send(self, message: Message) -> None:
        """ASGI."""
        if message["type"] == "http.response.start":
            message = self._begin(message)
        elif self.bare:
            if message.get("more_body"):
                raise _Enough
            message = {"type": "http.response.body"}
        else:
            self._size += len(message.get("body", b""))
        await self._send(message)

    def _begin(self, message: Message) -> Message:
        self.status = message["status"]
        headers = list(message["headers"])
        names = {name for name, _ in headers}
        headers += [(name, value) for name, value in self._additions() if name not in names]
        given = dict(headers)
        if self.status == 200 and self._is_known(given.get(b"etag")):
            self.status, self.bare = 304, True
            headers = [it for it in headers if it[0] not in (b"content-length", b"content-type")]
        if given.get(b"content-type", b"").startswith(b"text/event-stream"):
            self.streams = True
            self._observe()
        return {**message, "status": self.status, "headers": headers}

    def _additions(self) -> Iterable[tuple[bytes, bytes]]:
        state, path = self._scope["state"], self._scope["path"]
        yield b"x-request-id", state["request_id"].encode()
        yield from _HEADERS.items()
        page = path.startswith(("/docs", "/problems", "/static-offline-docs"))
        yield b"content-security-policy", _DOCS_POLICY if page else _CONTENT_POLICY
        if path.startswith("/api/"):
            yield b"cache-control", b"no-store"
        if settings.environment == "production" or self._scope["scheme"] == "https":
            yield b"strict-transport-security", _HSTS
        if standing := state.get("standing"):
            yield from standing.headers

    def _is_known(self, etag: bytes | None) -> bool:
        """Whether the client has this representation (RFC 9110, 13.1.2: weak comparison)."""
        known = self._headers.get(b"if-none-match")
        if etag is None or known is None or self._scope["method"] != "GET":
            return False
        tags = {tag.removeprefix("W/") for tag in db.tags([known.decode("latin-1")])}
        return bool({"*", etag.decode("latin-1").removeprefix("W/")} & tags)

    @property
    def _route(self) -> str:
        return getattr(self._scope.get("route"), "path", "unmatched")

    def _observe(self) -> None:
        metrics.observe(self._method, self._route, self.status or 500, time.perf_counter() - self._began)

    def _log(self) -> None:
        tell = log.debug if self._scope["path"] in _PROBED else log.info
        tell(
            "request",
            method=self._method if self._method in metrics.METHODS else "other",
            route=self._route,
            status=self.status,
            duration_ms=round((time.perf_counter() - self._began) * 1000, 2),
            bytes=self._size,
        )


class Gate:
    """Inside CORS, so that a page may read why it was turned away: hosts, sizes, sign-in limits, crashes."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        request_id = scope["state"]["request_id"]
        refusal = _refusal(scope)
        if refusal is not None:
            status, detail = refusal
            await problem(request_id, STATUS_PROBLEMS[status], detail)(scope, receive, send)
        elif scope["type"] == "websocket":
            await self._app(scope, receive, send)
        elif (crowded := await _too_many_sign_ins(scope)) is not None:
            await crowded(scope, receive, send)
        else:
            try:
                await self._app(scope, _counted(receive, _body_limit(scope)), send)
            except _Enough:
                raise
            except Exception:
                if scope["state"]["exchange"].status:
                    raise  # all that is left is to cut the connection
                log.exception("request_crashed", path=scope["path"])
                detail = "The server could not finish this; it has been logged."
                await problem(request_id, STATUS_PROBLEMS[500], detail)(scope, receive, send)


async def _too_many_sign_ins(scope: Scope) -> Response | None:
    if scope["path"] not in SIGN_IN or scope["method"] != "POST":
        return None
    who = rates.address(scope["client"][0]) if scope["client"] else ""
    refresh = scope["path"] == REFRESH
    kind, limit = ("refresh", settings.refresh_limit) if refresh else ("sign_in", settings.sign_in_limit)
    try:
        scope["state"]["standing"] = await rates.take(kind, who, rates.limit(limit))
    except rates.RateLimited as limited:
        scope["state"]["standing"] = limited.standing
        of = replace(STATUS_PROBLEMS[429], retry_after=limited.retry_after)
        return problem(scope["state"]["request_id"], of, str(limited))
    return None


def _streams(path: str) -> bool:
    return path.endswith("/stream")


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


@cache
def _hosts() -> frozenset[str]:
    """The values of `Host` that are answered; empty for any.

    A page of another site may have its name resolved to this machine; a laptop's server has no other guard.
    """
    own = {host.lower() for host in settings.allowed_hosts}
    if not own and clerk_auth.modes(settings) == ["embedded"] and identity.is_loopback(settings.host):
        own = {"localhost", "127.0.0.1", "[::1]", settings.host.lower()}
        own.add((urlsplit(settings.public_url).hostname or "localhost").lower())
    return frozenset(own)


def _is_ours(scope: Scope) -> bool:
    hosts = _hosts()
    if not hosts or "*" in hosts:
        return True
    given = [value.decode("latin-1").lower() for name, value in scope["headers"] if name == b"host"]
    match = _HOST.fullmatch(given[0]) if len(given) == 1 else None
    return match is not None and match[1].removesuffix(".") in hosts


def _refusal(scope: Scope) -> tuple[int, str] | None:
    """Why it goes no further: another's host, NUL in its address, a body too long or not JSON.

    A line end would also be overlooked by the router, so that rules by exact path would not hold.
    """
    if not _is_ours(scope) and not (scope["type"] == "http" and scope["path"] in PROBES):
        return 421, "Use one of this server's own names; its operator can add more with ALLOWED_HOSTS."
    if _UNPRINTABLE.search(scope["path"]) or b"%00" in scope["query_string"]:
        return 422, "The address holds NUL or another control character."
    if scope["type"] == "websocket":
        return None
    headers = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    limit = _body_limit(scope)
    if length.isdigit() and int(length) > limit:
        return 413, f"The body may have at most {limit} bytes."
    has_body = length not in (b"", b"0") or b"transfer-encoding" in headers
    kind = headers.get(b"content-type", b"").split(b";")[0].strip().lower()
    writes = scope["method"] in ("POST", "PUT", "PATCH") and not _is_upload(scope)
    if has_body and writes and kind != b"application/json":
        return 415, "Send the body as application/json."
    return None


def _is_upload(scope: Scope) -> bool:
    return (scope["method"], scope["path"]) in UPLOADS


def _body_limit(scope: Scope) -> int:
    return settings.max_upload_mb * 2**20 + FORM_BYTES if _is_upload(scope) else JSON_LIMIT


def _counted(receive: Receive, limit: int) -> Receive:
    received = 0

    async def counting() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise HTTPException(413, f"The body may have at most {limit} bytes.")
        return message

    return counting


async def metrics_reader(request: Request) -> None:
    """A dependency: whoever asks directly from this machine, or with `METRICS_TOKEN`."""
    token = settings.metrics_token
    given = request.headers.get("authorization", "")
    if token and hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        return
    forwarded = {"forwarded", "x-forwarded-for"} & set(request.headers)
    try:
        near = request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        near = False
    if forwarded or not near:
        raise HTTPException(403, "Metrics are for this machine, and for who sends METRICS_TOKEN as bearer.")


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
    logs.configure()
    make = FastAPIOffline if settings.docs_shown else partial(FastAPI, docs_url=None, openapi_url=None)
    app = make(
        redoc_url=None,
        version=VERSION,
        lifespan=lifespan,
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
        **about,
    )
    app.router.route_class = StrictRoute
    _handle_problems(app, problems)
    app.add_middleware(Gate)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(settings.cors_origins),
            allow_methods=["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=CORS_ASKED,
            expose_headers=_CORS_SHOWN,
        )
    app.add_middleware(Edge)
    app.add_middleware(live.TransportAccess)
    return app


def public_config() -> PublicConfig:
    """What `GET /api/config` tells."""
    auth = clerk_auth.public_config(settings)
    return PublicConfig(
        version=VERSION,
        auth=auth,
        max_upload_mb=settings.max_upload_mb,
        control_seconds=settings.control_seconds,
        socket_protocol="cua.v1",
    )
