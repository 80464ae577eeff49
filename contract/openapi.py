"""The OpenAPI document: what FastAPI makes of the routes, and who may call them and how they fail."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from http import HTTPStatus
from typing import Any

from asyncpg import IntegrityConstraintViolationError
from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.models import Example
from fastapi.routing import APIRoute
from pydantic import BaseModel

import api
import clerk_auth
import db
import identity
from api import STATUS_PROBLEMS, Problem
from browser import actions
from infra import rates
from runs import files
from schemas import EventRead, Page, ProblemRead, Reply, WebhookPayload, WorkflowDetail

PROBLEM_TYPE = "application/problem+json"
ABOUT: dict[str, Any] = {
    "title": "CUA Backend",
    "summary": "The self-hosted backend of a computer-use-agent product.",
    "description": (
        "Runs carry out workflows in a real Chromium while every client of their user watches, answers and "
        "takes over.\n\n"
        "**Replies.** Success is `{success: true, data}`, a list also has `next_cursor`; what fails is a "
        "problem (RFC 9457) with a `code` for programs. `/api/v1/…` is the same as `/api/…`, and `HEAD` "
        "works wherever `GET` answers at once. Each reply names its request in `X-Request-ID`; a request may "
        "bring its own.\n\n"
        "**Callers.** `Authorization: Bearer` carries a session token of the issuer or an API key, "
        "`X-API-Key` a key. A key has scopes, of which none includes another: `read` reads, `run` starts, "
        "steers and answers runs and computers, `write` changes all the rest, is shown what it changes, and "
        "may have the log told to a webhook. Each operation names its own.\n\n"
        "**Repeats.** A `POST` with an `Idempotency-Key` is done once. `logout`, `change_password`, "
        "`send_verification`, `validate_workflow`, `preview_cron`, `link_file` and `run_agent` ignore the "
        "key, as their repeat changes nothing or is wanted; so does what nobody has to sign in for.\n\n"
        "Live events, pictures and input go over the WebSocket `/ws`, which is described in AsyncAPI."
    ),
    "contact": {"name": "The maintainers of CUA Backend"},
    "license_info": {"name": "MIT", "identifier": "MIT"},
    "servers": [{"url": "/", "description": "The server that this document came from."}],
}
SECTIONS = {
    "ops": "Whether the server is well, and what a client must know before anyone has signed in.",
    "auth": "The embedded issuer: accounts, sessions and keys. Not found where people sign in elsewhere.",
    "me": "Who calls: profile, preferences, use, export, and the way out.",
    "keys": "API keys of programs, shown once.",
    "secrets": "Kept encrypted, pinned to origins, never returned; filled into the fields of those origins.",
    "profiles": "Cookies and storage that browsers begin with.",
    "computers": "Browsers to act on by hand: actions, pictures, control.",
    "threads": "Conversations, of which one run goes on at a time.",
    "workflows": "Recordings to run again, in the language of Chrome DevTools' Recorder.",
    "runs": "A workflow under way: its wishes, steps, events, recording and result.",
    "approvals": "Questions that runs ask a person before they go on.",
    "schedules": "Runs by the clock.",
    "files": "Screenshots, downloads, uploads.",
    "webhooks": "Other servers that are told what happens, and Clerk's own events.",
    "events": "The log of everything that happens, by page or as it happens.",
    "analytics": "How runs went.",
    "admin": "Users and runs of everyone, for administrators; never any contents.",
    "agent": "Agents for clients that speak AG-UI.",
}
_FIRST_WORDS = {
    **dict.fromkeys(("health", "ready", "config", "metrics"), "ops"),
    ".well-known": "auth",
    "deliveries": "webhooks",
    "activity": "events",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}
UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "It is still what `If-None-Match` names."}}
CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {"*/*": _BINARY}},
    206: {"description": "The range of it that was asked for.", "content": {"*/*": _BINARY}},
    **UNCHANGED,
}
"""The replies of a route that sends a file's bytes."""

EXAMPLE_ACTIONS: dict[str, Example] = {example["action"]: {"value": example} for example in actions.EXAMPLES}

CLERK_EVENT: dict[str, Any] = {
    "parameters": [
        {"name": name, "in": "header", "required": True, "description": text, "schema": {"type": "string"}}
        for name, text in {
            "Svix-Id": "The message's id, the same at every try.",
            "Svix-Timestamp": "Unix seconds of this try, at most five minutes ago.",
            "Svix-Signature": "Signatures of id, timestamp and body, as Standard Webhooks makes them.",
        }.items()
    ],
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["type", "data"],
                    "properties": {
                        "type": {
                            "type": "string",
                            "description": "What happened; unknown kinds change nothing.",
                        },
                        "data": {
                            "type": "object",
                            "description": "Whom or what it happened to, as Clerk shows it.",
                        },
                    },
                },
                "example": {
                    "type": "session.ended",
                    "object": "event",
                    "data": {"id": "sess_2NNEqKuIS8gzTbEMX3Kuu6S8yCc", "status": "ended"},
                    "timestamp": 1790000000000,
                },
            }
        },
    },
}
"""What Clerk sends, in the OpenAPI document; `webhooks/clerk.py` reads it as it is signed."""

_HEADERS = {
    "ETag": "What `If-Match` and `If-None-Match` name this state by (RFC 9110, 8.8.3).",
    "Location": "Address of what was made.",
    "Link": 'The next page, as `rel="next"` (RFC 8288); absent on the last.',
    "Idempotency-Replayed": "`true` on what an earlier request with this `Idempotency-Key` was answered.",
    "RateLimit-Limit": "Requests that may be made in the time of `RateLimit-Policy`; absent without a limit.",
    "RateLimit-Policy": "The limit and its time in seconds, such as `600;w=60`.",
    "RateLimit-Remaining": "Requests that are left.",
    "RateLimit-Reset": "Seconds until there are as many again.",
    "Retry-After": "Seconds to wait before the next try.",
    "WWW-Authenticate": "How to sign in (RFC 6750).",
    "X-Request-ID": "The request's name in the server's log.",
    "Accept-Ranges": "`bytes`.",
    "Content-Disposition": "The name to save it under.",
    "Content-Range": "Which bytes of how many.",
}
_RATES = ("RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset", "RateLimit-Policy")
_ALSO_SENT = {
    ("read_file_content", "200"): ("ETag", "Accept-Ranges", "Content-Disposition"),
    ("read_file_content", "206"): ("ETag", "Accept-Ranges", "Content-Disposition", "Content-Range"),
    ("read_file_content", "304"): ("ETag",),
    ("read_frame", "200"): ("ETag",),
    ("read_frame", "304"): ("ETag",),
    ("export_me", "200"): ("Content-Disposition",),
    ("export_workflow", "200"): ("Content-Disposition",),
}
_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": (
        "Names this request, so that a repeat gets its first answer and does nothing (24 hours). Printable "
        "ASCII; a UUID serves."
    ),
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": r"^[ -~]+$"},
    "example": "6f1d1f0e-7f6d-4a55-9c3e-0d8a5a8c1f57",
}
_IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "description": "An `ETag` that is there already; the reply is 304 while it is still the same.",
    "schema": {"type": "string"},
}

_ORDER = (
    *("tags", "summary", "description", "operationId", "x-scope", "security"),
    *("parameters", "requestBody", "responses"),
)

Problems = Mapping[type[Exception], Problem]


def raises(problems: Problems, *kinds: type[Exception]) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that may fail like this, beside the ways in which any route like it may."""
    found: dict[int | str, dict[str, Any]] = {}
    for kind in kinds:
        found.setdefault(problems[kind].status, {}).setdefault("problems", []).append(problems[kind])
    return found


def publish(app: FastAPI, problems: Problems) -> None:
    """Let the application describe itself, and what each of its operations may fail with."""
    app.openapi = partial(_document, app, problems, app.openapi)  # type: ignore[method-assign]


def _document(app: FastAPI, problems: Problems, generate: Any) -> dict[str, Any]:
    if app.openapi_schema is not None:
        return app.openapi_schema
    whole: dict[str, Any] = generate()
    whole["tags"] = [{"name": name, "description": text} for name, text in SECTIONS.items()]
    components = whole["components"]
    components["responses"], components["examples"] = {}, {}
    components["headers"] = {
        name: {"description": text, "schema": {"type": "string"}} for name, text in _HEADERS.items()
    }
    components["parameters"] = {it["name"]: it for it in (_IDEMPOTENCY_KEY, _IF_NONE_MATCH)}
    components["securitySchemes"]["metricsToken"] = {
        "type": "http",
        "scheme": "bearer",
        "description": "`METRICS_TOKEN`; this machine needs none.",
    }
    for route in app.routes:
        if isinstance(route, APIRoute) and route.include_in_schema:
            for method in route.methods or ():
                found = whole["paths"][route.path_format][method.lower()]
                _Operation(route, method).describe(found, components, problems)
    whole["webhooks"] = {"event": {"post": _delivery()}}
    components["schemas"] |= _schemas(all_codes(problems))
    _open_replies(whole)
    for part in (whole["paths"], components["schemas"]):
        _drop_titles(part)
    whole["components"] = {name: dict(sorted(part.items())) for name, part in sorted(components.items())}
    return whole


# Operations ---------------------------------------------------------------------------------------


class _Operation:
    """One route, and what follows from what it depends on."""

    def __init__(self, route: APIRoute, method: str) -> None:
        self.route, self.method = route, method
        self.status = str(route.status_code or 200)
        calls = set(_calls(route.dependant))
        self.linked = files.get_reader in calls
        self.asks_caller = self.linked or clerk_auth.get_current_caller in calls
        self.asks_person = clerk_auth.require_person in calls
        self.asks_admin = clerk_auth.require_admin in calls
        self.embedded = clerk_auth.embedded_issuer in calls
        self.metrics = api.metrics_reader in calls
        self.signs_in = route.path in api.SIGN_IN
        self.changes = clerk_auth.transaction in calls and method != "GET"
        self.repeatable = method == "POST" and clerk_auth.idempotency_key in calls
        self.paged = _is(route.response_model, Page)
        self.tagged = route.response_model is Reply[WorkflowDetail]
        self.limited = self.asks_caller or self.signs_in
        self.scope = clerk_auth.scope_of(method, route.path) if self.asks_caller else None

    def describe(
        self, operation: dict[str, Any], components: dict[str, dict[str, Any]], problems: Problems
    ) -> None:
        """Fill in what FastAPI cannot know."""
        first = self.route.path.removeprefix("/api").split("/")[1]
        operation["tags"] = [_FIRST_WORDS.get(first, first)]
        if not self.route.summary:
            operation["summary"] = self.route.name.replace("_", " ").capitalize()
        self._say_who(operation)
        self._take_headers(operation)
        replies = operation["responses"]
        declared = [of for reply in self.route.responses.values() for of in reply.get("problems", ())]
        failures = [*self._failures(problems, operation), *declared]
        for status in {str(of.status) for of in declared} | {"422"}:
            replies.pop(status, None)
        self._succeed(replies)
        replies |= _failed(failures, components)
        operation["responses"] = dict(sorted(replies.items()))
        for name in _ORDER:
            if name in operation:
                operation[name] = operation.pop(name)

    def _say_who(self, operation: dict[str, Any]) -> None:
        needed = ""
        if self.asks_caller:
            scopes = [self.scope] if self.scope else []
            schemes = ("bearer", "apiKey") if self.scope else ("bearer",)
            operation["security"] = [{scheme: scopes} for scheme in schemes] + [{}] * self.linked
            if self.scope:
                operation["x-scope"] = self.scope
            needed = f"API keys need the scope `{self.scope}`." if self.scope else "Not for API keys."
        else:
            operation["security"] = [{"metricsToken": []}, {}] if self.metrics else []
        if self.asks_admin:
            needed = "For administrators; not for API keys."
        told = [part for part in (operation.get("description"), needed) if part]
        if told:
            operation["description"] = "\n\n".join(told)

    def _take_headers(self, operation: dict[str, Any]) -> None:
        parameters = operation.get("parameters", [])
        for parameter in parameters:
            _require_value(parameter["schema"])
            if parameter["in"] == "header":
                spelt = {name.lower(): name for name in api.CORS_ASKED}
                parameter["name"] = spelt.get(parameter["name"].lower(), parameter["name"])
        if self.repeatable:
            parameters.append({"$ref": "#/components/parameters/Idempotency-Key"})
        if self.tagged and self.method == "GET":
            parameters.append({"$ref": "#/components/parameters/If-None-Match"})
        if parameters:
            operation["parameters"] = parameters

    def _succeed(self, replies: dict[str, Any]) -> None:
        replies[self.status]["description"] = HTTPStatus(int(self.status)).phrase
        if self.tagged and self.method == "GET":
            replies["304"] = dict(UNCHANGED[304])
        for status, reply in replies.items():
            for kind, content in reply.get("content", {}).items():
                if not kind.startswith(("text/", "application/json")):
                    content.update(_BINARY)
            reply["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in self._sent(status)}

    def _sent(self, status: str) -> Iterator[str]:
        yield "X-Request-ID"
        if self.limited:
            yield from _RATES
        if status in ("201", "202") and self.asks_caller:
            yield "Location"
        if self.paged:
            yield "Link"
        if self.tagged:
            yield "ETag"
        if self.repeatable and status.startswith("2"):
            yield "Idempotency-Replayed"
        yield from _ALSO_SENT.get((self.route.name, status), ())

    def _failures(self, problems: Problems, operation: Mapping[str, Any]) -> Iterator[Problem]:
        """How any operation like this one may fail."""
        yield STATUS_PROBLEMS[500]
        if self.route.path not in api.PROBES:
            yield STATUS_PROBLEMS[421]
        named = operation.get("parameters", [])
        names = {parameter.get("name") for parameter in named}
        if self.route.name not in ("read_health", "read_config", "read_readiness"):
            yield problems[db.Unavailable]
        if self.limited:
            yield problems[rates.RateLimited]
        if self.asks_caller:
            yield from self._refusals(problems)
        if self.metrics:
            yield STATUS_PROBLEMS[403]
        if self.embedded or any(parameter.get("in") == "path" for parameter in named):
            yield STATUS_PROBLEMS[404]
        yield from self._refused_changes(problems)
        if named or "requestBody" in operation:
            yield STATUS_PROBLEMS[422]
        if "cursor" in names:
            yield problems[db.InvalidCursor]
        if "If-Match" in names:
            yield problems[db.Changed]

    def _refused_changes(self, problems: Problems) -> Iterator[Problem]:
        if self.method in ("POST", "PUT", "PATCH"):
            yield from (STATUS_PROBLEMS[413], STATUS_PROBLEMS[415])
        if self.route.body_field is not None:
            yield STATUS_PROBLEMS[400]
        if self.changes:  # another request may remove at the same moment what this one refers to
            yield problems[IntegrityConstraintViolationError]
        if self.repeatable:
            kinds = (db.KeyBusy, db.KeyReused, clerk_auth.BadIdempotencyKey)
            yield from (problems[kind] for kind in kinds)

    def _refusals(self, problems: Problems) -> Iterator[Problem]:
        yield problems[clerk_auth.NotSignedIn]
        yield problems[clerk_auth.KeysUnavailable]
        yield problems[identity.AccountDisabled]
        yield problems[clerk_auth.MissingScope if self.scope else clerk_auth.OnlySignedIn]
        if self.asks_admin:
            yield problems[clerk_auth.NotAdmin]


def _calls(dependant: Dependant) -> Iterator[object]:
    for dependency in dependant.dependencies:
        yield dependency.call
        yield from _calls(dependency)


def _is(model: object, generic: type[BaseModel]) -> bool:
    return isinstance(model, type) and issubclass(model, generic)


# Failures -----------------------------------------------------------------------------------------


def all_codes(problems: Problems) -> dict[str, list[tuple[type[Exception] | None, Problem]]]:
    """Every code that a problem may have, by status, with what raises it."""
    found: dict[str, list[tuple[type[Exception] | None, Problem]]] = defaultdict(list)
    every = [*((None, of) for of in STATUS_PROBLEMS.values()), *problems.items()]
    for kind, of in sorted(every, key=lambda pair: pair[1].status):
        found[of.code].append((kind, of))
    return found


def _failed(failures: Iterable[Problem], components: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """One reply for each status, under the names of its codes."""
    by_status: dict[int, dict[str, Problem]] = defaultdict(dict)
    for of in failures:
        by_status[of.status].setdefault(of.code, of)
    replies = {}
    for status, found in by_status.items():
        name = "-".join(sorted(found))
        components["examples"] |= {code: {"value": _example(of)} for code, of in found.items()}
        components["responses"][name] = {
            "description": "\n".join(f"- `{of.code}`: {of.title}." for _, of in sorted(found.items())),
            "headers": {name: {"$ref": f"#/components/headers/{name}"} for name in _told(status)},
            "content": {
                PROBLEM_TYPE: {
                    "schema": {"$ref": "#/components/schemas/ProblemRead"},
                    "examples": {code: {"$ref": f"#/components/examples/{code}"} for code in sorted(found)},
                }
            },
        }
        replies[str(status)] = {"$ref": f"#/components/responses/{name}"}
    return replies


def _told(status: int) -> Iterator[str]:
    yield "X-Request-ID"
    if status == 401:
        yield "WWW-Authenticate"
    if status == 416:
        yield "Content-Range"
    if status == 429:
        yield from _RATES
    if status in (429, 503):
        yield "Retry-After"


def _example(of: Problem) -> dict[str, Any]:
    errors = {"errors": [{"loc": ["body", "name"], "msg": "Field required"}]} if of.code == "invalid" else {}
    return {
        "success": False,
        "type": api.problem_type(of.code),
        "title": of.title,
        "status": of.status,
        "detail": of.detail or ("body.name: Field required" if errors else f"{of.title}."),
        "code": of.code,
        **errors,
        "request_id": "0c9e6d1f4b7a4c5d8e2f3a4b5c6d7e8f",
    }


# Schemas ------------------------------------------------------------------------------------------


def _require_value(schema: dict[str, Any]) -> None:
    """In an address or a header there is no null, only nothing."""
    schema.pop("description", None)  # the parameter has it
    kinds = [kind for kind in schema.get("anyOf", ()) if kind != {"type": "null"}]
    if len(kinds) == 1:
        del schema["anyOf"]
        schema.update(kinds[0])


def _drop_titles(part: Any) -> None:
    """Names of fields in other words say nothing."""
    if isinstance(part, dict):
        if isinstance(part.get("title"), str):
            del part["title"]
        for name, inner in part.items():
            if name not in ("examples", "default"):
                _drop_titles(inner)
    elif isinstance(part, list):
        for inner in part:
            _drop_titles(inner)


def _schemas(codes: Iterable[str]) -> dict[str, Any]:
    """The shapes that no route returns by itself."""
    found: dict[str, Any] = {}
    for model in (ProblemRead, WebhookPayload, EventRead):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode="serialization")
        found |= schema.pop("$defs", {}) | {model.__name__: schema}
    # A list to which more may come, so no `enum`: a generated client would stumble over a new one.
    found["ProblemRead"]["properties"]["code"]["x-extensible-enum"] = sorted(codes)
    return found


def _open_replies(whole: dict[str, Any]) -> None:
    """Requests refuse unknown names; replies may gain some, so their shapes do not rule them out."""
    schemas = whole["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    asked = set()
    pending = [
        operation["requestBody"] for path in whole["paths"].values() for operation in path.values()
        if "requestBody" in operation
    ]  # fmt: skip
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            name = str(part.get("$ref", "")).rpartition("/")[2]
            if name in schemas and name not in asked:
                asked.add(name)
                pending.append(schemas[name])
        pending += part.values() if isinstance(part, dict) else part if isinstance(part, list) else ()
    for name, schema in schemas.items():
        if name not in asked and schema.get("additionalProperties") is False:
            del schema["additionalProperties"]


def _delivery() -> dict[str, Any]:
    """What a webhook of a user's is sent (Standard Webhooks 1.0)."""
    headers = {
        "webhook-id": "The event's id, the same at every try.",
        "webhook-timestamp": "Unix seconds of this try.",
        "webhook-signature": "`v1,` and the base64 HMAC-SHA-256 of id, timestamp and body, joined by dots; "
        "one for each secret that is valid, separated by spaces.",
    }
    return {
        "operationId": "event_delivery",
        "summary": "Event",
        "description": "Sent to a user's webhooks. Anything but 2xx is tried again, ever later, for a day.",
        "tags": ["webhooks"],
        "parameters": [
            {
                "name": name,
                "in": "header",
                "required": True,
                "description": text,
                "schema": {"type": "string"},
            }
            for name, text in headers.items()
        ],
        "requestBody": {
            "required": True,
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/WebhookPayload"}}},
        },
        "responses": {"2XX": {"description": "Taken."}, "410": {"description": "Disables the webhook."}},
    }
