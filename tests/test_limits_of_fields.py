"""Every field at, below and over its limits, as its schema declares them: a new one is covered or fails."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter

import backend_websocket_server as module
from schemas import Patch
from tests import make
from tests.conftest import Backend, free_port
from tests.test_api import assert_problem

LATER = "2126-01-01T00:00:00Z"
MISSING = str(uuid4())
PASSWORD = "correct horse battery"
ROUTES = [
    route
    for route in module.app.routes
    if isinstance(route, APIRoute)
    and route.include_in_schema
    and route.name != "run_agent"  # whose fields are AG-UI's
]

# The least that each operation takes; what is not here takes an empty body.
BODIES: dict[str, dict[str, Any]] = {
    "register": {"email": "", "password": PASSWORD},
    "login": {"email": "nobody@example.com", "password": PASSWORD},
    "refresh": {"refresh_token": "x"},
    "change_password": {"old": "x", "new": PASSWORD},
    "forgot_password": {"email": "nobody@example.com"},
    "reset_password": {"code": "x", "password": PASSWORD},
    "verify_email": {"code": "x"},
    "create_key": {"name": "k"},
    "create_secret": {"name": "s", "kind": "text", "text": "t"},
    "create_profile": {"name": "p"},
    "replace_profile_state": {},
    "capture_profile": {"computer_id": MISSING},
    "create_message": {"text": "m"},
    "create_workflow": {"name": "w", "definition": make.FLOW},
    "validate_workflow": {"definition": make.FLOW},
    "import_workflow": {"recording": make.FLOW},
    "restore_workflow": {"version": 1},
    "create_run": {"definition": make.FLOW, "run_after": LATER},
    "guide_run": {"text": "m"},
    "decide_approval": {"decision": "approve"},
    "create_schedule": {"workflow_id": "/api/workflows", "name": "s", "cron": "@daily"},
    "preview_cron": {"cron": "@daily"},
    "create_webhook": {"url": "https://example.com/"},
}
# What else a field needs beside it.
BESIDE: dict[tuple[str, str], dict[str, Any]] = {
    ("create_secret", "username"): {"kind": "password", "password": "p", "text": None},
    ("create_secret", "password"): {"kind": "password", "text": None},
    ("create_secret", "totp"): {"kind": "totp", "text": None},
    ("create_run", "workflow_id"): {"definition": None},
    ("create_run", "task"): {"definition": None},
    ("create_run", "save_profile"): {"profile_id": "/api/profiles"},
    ("create_schedule", "run.save_profile"): {"run": {"profile_id": "/api/profiles"}},
    ("update_schedule", "run.save_profile"): {"run": {"profile_id": "/api/profiles"}},
}
# The least that the items of a list of objects take.
ITEMS: dict[tuple[str, str], dict[str, Any]] = {
    ("create_run", "context"): {"description": "d", "value": "v"},
    ("create_run", "tools"): {"name": "t"},
}
# Which other answers mean that the field itself was right; the rest answer as they do with any good body.
ANSWERS: dict[tuple[str, str], tuple[int, str]] = {
    ("login", "*"): (401, "wrong_credentials"),
    ("update_run", "*"): (409, "wrong_state"),
    ("refresh", "*"): (401, "session_ended"),
    ("change_password", "*"): (401, "wrong_credentials"),
    ("reset_password", "*"): (422, "invalid_code"),
    ("verify_email", "*"): (422, "invalid_code"),
    ("create_secret", "kind"): (422, "invalid_secret"),
    ("update_secret", "origins"): (422, "invalid_secret"),
    ("update_secret", "username"): (422, "invalid_secret"),
    ("update_secret", "password"): (422, "invalid_secret"),
    ("update_secret", "totp"): (422, "invalid_secret"),
    ("capture_profile", "*"): (404, "not_found"),
    ("restore_workflow", "version"): (404, "not_found"),
    ("retry_run", "from_step"): (422, "no_such_step"),
    ("decide_approval", "*"): (404, "not_found"),
    ("create_computer", "profile_id"): (404, "not_found"),
    ("create_run", "tools"): (422, "invalid_workflow"),  # whose names differ
    ("create_run", "workflow_id"): (404, "not_found"),
    ("create_run", "computer_id"): (404, "not_found"),
    ("create_run", "profile_id"): (404, "not_found"),
    ("create_run", "thread_id"): (404, "not_found"),
    ("create_schedule", "workflow_id"): (404, "not_found"),
    ("create_schedule", "run.profile_id"): (404, "not_found"),
    ("create_schedule", "run.thread_id"): (404, "not_found"),
    ("update_schedule", "run.profile_id"): (404, "not_found"),
    ("update_schedule", "run.thread_id"): (404, "not_found"),
    ("create_schedule", "cron"): (422, "invalid_schedule"),
    ("update_schedule", "cron"): (422, "invalid_schedule"),
    ("preview_cron", "cron"): (422, "invalid_schedule"),
    ("*", "cursor"): (422, "invalid_cursor"),
}


def _email(length: int) -> str:
    return f"{uuid4().hex}@{'x' * (length - 37)}.com" if length > 40 else ""


def _host(length: int) -> str:
    """Names of at most 63 letters, 253 together (RFC 1035, 2.3.4), and a port for what is left."""
    if length > 259:
        return "a" * length
    name = "".join("." if place % 64 == 63 else "a" for place in range(min(length, 253)))
    return name + ":44300"[: length - len(name)]


PATTERNS: dict[str, Callable[[int], str]] = {
    r"^[^@\s\x00-\x1f]{1,64}@[^@\s\x00-\x1f]+\.[^@\s.\x00-\x1f]+$": _email,
    r"^https?://\S+$": lambda length: "https://example.com/".ljust(length, "x"),
    r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$": lambda length: "s" * length,
    r"(?i)^https?://[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?$": lambda length: "https://x".ljust(
        length, "x"
    ),
    r"(?i)^[a-z0-9_-]+(\.[a-z0-9_-]+)*(:[0-9]{1,5})?$": _host,
    r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$": lambda length: "de" + ("-abcdefgh" * 10)[: length - 2],
    r"^[a-zA-Z0-9_-]+$": lambda length: "x" * length,
    r"^[\x20-\x7e]+$": lambda length: "x" * length,
    r"^(\*|[a-z_]+(\.[a-z_]+)*\.?)$": lambda length: "x" * length,
}
"""Text of each pattern, as long as asked."""

NAMED: dict[str, Callable[[int], str | None]] = {
    "time_zone": lambda _length: None,  # a list, whose own limits are names
    "cron": lambda length: ("0" + ",0" * length)[: length - 8 - length % 2] + " " * (length % 2) + " 0 * * *",
    "totp": lambda length: "A" * length,
}
LONGEST_IN_PATTERN = {r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$": 64}


# What is asked of each field ----------------------------------------------------------------------


@dataclass(frozen=True)
class Place:
    """A field of an operation's body or query; `0` is a list's item, `*` an object's value, `~` its name."""

    route: APIRoute
    where: str
    path: tuple[str, ...]
    schema: Mapping[str, Any]
    required: bool

    def __str__(self) -> str:
        return f"{self.route.name}-{'.'.join(self.path)}"

    @property
    def named(self) -> list[str]:
        """The part of its path that every answer must name."""
        return [name for name in self.path if name not in ("0", "*", "~")]


def _shapes(route: APIRoute) -> Iterator[tuple[str, Any]]:
    for where, fields in (("body", route.dependant.body_params), ("query", route.dependant.query_params)):
        for field in fields:
            kind = field.field_info.annotation
            if (isinstance(kind, type) and issubclass(kind, BaseModel)) or (
                where == "body" and field.name == "body"
            ):
                yield where, kind


def _fields(
    schema: Mapping[str, Any], defs: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], Any, bool]]:
    """Each field below a schema, with what is inside it."""
    schema = _plain(schema, defs)
    inside = {
        **{name: (part, name in schema.get("required", ())) for name, part in schema.get("properties", {}).items()},
        **({"0": (schema["items"], False)} if "items" in schema else {}),
        **{
            name: (schema[key], False)
            for name, key in (("*", "additionalProperties"), ("~", "propertyNames"))
            if isinstance(schema.get(key), dict)
        },
    }  # fmt: skip
    for name, (part, required) in inside.items():
        yield (name,), _plain(part, defs), required
        for path, deeper, needed in _fields(part, defs):
            yield (name, *path), deeper, needed


def _plain(schema: Mapping[str, Any], defs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without references and the choice of null."""
    if "$ref" in schema:
        return _plain(defs[schema["$ref"].split("/")[-1]], defs)
    choices = [choice for choice in schema.get("anyOf", ()) if choice.get("type") != "null"]
    return _plain(choices[0], defs) if len(choices) == 1 else schema


def _places() -> Iterator[Place]:
    for route in ROUTES:
        for where, kind in _shapes(route):
            schema = TypeAdapter(kind).json_schema()
            for path, part, required in _fields(schema, schema.get("$defs", {})):
                if path != ("fallbacks",):  # whose items are texts or objects: tests/test_models.py
                    yield Place(route, where, path, part, required)


PLACES = list(_places())


def good_values(place: Place) -> Iterator[Any]:
    """Values that are just within the limits."""
    schema = place.schema
    if "enum" in schema:
        yield from schema["enum"]
    elif schema.get("format") == "uuid":
        yield MISSING
    elif schema.get("format") == "date-time":
        yield LATER if place.where == "body" else (datetime.now(UTC) - timedelta(days=1)).isoformat()
    elif schema.get("type") == "array":
        sizes = {schema.get("minItems", 0), schema.get("maxItems", 0)}
        yield from (_list(place, size) for size in sizes)
    elif schema.get("type") == "object" and "maxProperties" in schema:
        yield {f"k{number}": "v" for number in range(schema["maxProperties"])}
    elif schema.get("type") in ("integer", "number"):
        yield from _bounds(schema, within=True)
    elif schema.get("type") == "string" or "minLength" in schema:
        sizes = {schema.get("minLength"), _longest(schema)} - {None, 0}
        yield from (text for size in sizes if (text := _text(place, size)))
    elif schema.get("type") == "boolean":
        yield from (True, False)


def bad_values(place: Place) -> Iterator[Any]:
    """Values of another type, and just beyond the limits."""
    schema = place.schema
    kind = schema.get("type")
    if "enum" in schema or schema.get("format") in ("uuid", "date-time"):
        yield from ("nothing", "")
    elif kind == "string" or "minLength" in schema:
        yield from _wrong_texts(place)
    elif kind == "array":
        yield from _wrong_lists(place)
    elif kind == "object" and "maxProperties" in schema:
        yield {f"k{number}": "v" for number in range(schema["maxProperties"] + 1)}
    elif kind in ("integer", "number"):
        yield from (*_bounds(schema, within=False), "many", *((1.5,) if kind == "integer" else ()))
    if schema.get("format") == "date-time":
        yield from ("2126-01-01T00:00:00", "2126-02-30T00:00:00Z")
    if place.where == "body" and kind is not None and place.path[-1] != "~":
        yield {"a": {}} if kind != "object" else ["a"]


def _wrong_texts(place: Place) -> Iterator[str]:
    if least := place.schema.get("minLength"):
        yield "x" * (least - 1)
    if (most := _longest(place.schema)) is not None:
        yield _text(place, most + 1) or "x" * (most + 1)
    if "pattern" in place.schema:
        yield "\x01"


def _wrong_lists(place: Place) -> Iterator[list[Any]]:
    for name, step in (("minItems", -1), ("maxItems", 1)):
        if name in place.schema:
            yield _list(place, place.schema[name] + step)


def _list(place: Place, size: int) -> list[Any]:
    items = place.schema["items"]
    inside = Place(place.route, place.where, (*place.path, "0"), items, required=False)
    one = ITEMS.get((place.route.name, place.path[0])) or next(good_values(inside), "x")
    return ([*items.get("enum", ())] + [one] * size)[:size]


def _bounds(schema: Mapping[str, Any], *, within: bool) -> Iterator[float]:
    for name, step in (("minimum", -1), ("maximum", 1)):
        if name in schema:
            yield int(schema[name]) + (0 if within else step)
        exclusive = f"exclusive{name.capitalize()}"
        if exclusive in schema:
            yield int(schema[exclusive]) - (step if within else 0)


def _longest(schema: Mapping[str, Any]) -> int | None:
    longest: int | None = schema.get("maxLength", LONGEST_IN_PATTERN.get(schema.get("pattern", "")))
    return longest


def _text(place: Place, length: int) -> str | None:
    if place.path[-1] in NAMED and "pattern" not in place.schema:
        return NAMED[place.path[-1]](length)
    if "pattern" in place.schema:
        return PATTERNS[place.schema["pattern"]](length)
    return "x" * length


# Asking -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def idle(module_data: Path) -> AsyncIterator[Backend]:
    """A server on which nothing is carried out."""
    backend = Backend(module_data, free_port(), {"WORKER": "off", "ACCESS_TOKEN_SECONDS": "3600"})
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture(scope="module")
async def chief(idle: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """The administrator: whose account was the first."""
    async with idle.sign_up() as client:
        yield client


@pytest.fixture(scope="module")
async def person(idle: Backend, chief: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """Whose things are changed."""
    async with idle.sign_up() as client:
        yield client


@pytest.fixture(scope="module")
async def targets(idle: Backend, person: httpx.AsyncClient) -> dict[str, str]:
    """One thing under each path; an approval and what only browsers make are missing."""
    async with idle.sign_up() as other:
        somebody = (await other.get("/api/me")).json()["data"]
    run = await make.run(person, run_after=LATER)
    ended = await make.run(person, run_after=LATER)
    assert (await person.post(f"/api/runs/{ended['id']}/cancel")).status_code == 200
    made = {
        "/api/secrets": await make.secret(person),
        "/api/profiles": await make.profile(person),
        "/api/threads": await make.thread(person),
        "/api/schedules": await make.schedule(person),
        "/api/keys": await make.key(person),
        "/api/files": await make.file(person),
        "/api/workflows": await make.workflow(person),
        "/api/webhooks": await make.webhook(person),
        "/api/runs": ended,
        "/api/runs/{id}/messages": run,
        "/api/admin/users": somebody,
        "/api/computers": await make.computer(person),
    }
    return {path: thing["id"] for path, thing in made.items()}


def with_value(place: Place, value: Any, targets: Mapping[str, str]) -> dict[str, Any]:
    """The least body, with this value in its place."""
    top = ".".join(place.named)
    body = deepcopy(BODIES.get(place.route.name, {})) | BESIDE.get((place.route.name, top), {})
    body = {name: _named(given, targets) for name, given in body.items()}
    if place.route.name == "register" and place.path != ("email",):
        body["email"] = _email(50)
    _put(body, place.path, value, ITEMS.get((place.route.name, place.path[0]), {}))
    return {name: given for name, given in body.items() if given is not None or name in place.path}


def _named(given: Any, targets: Mapping[str, str]) -> Any:
    """With the ids of the things that stand by their lists' addresses."""
    if isinstance(given, dict):
        return {name: _named(item, targets) for name, item in given.items()}
    return targets.get(given, given) if isinstance(given, str) else given


def _put(holder: dict[str, Any], path: tuple[str, ...], value: Any, beside: Mapping[str, Any]) -> None:
    name, *rest = path
    if not rest:
        holder[name] = value
    elif rest[0] == "0":
        inner: dict[str, Any] = {"0": {**beside}}
        _put(inner, tuple(rest), value, {})
        holder[name] = [inner["0"]]
    elif rest == ["~"]:
        holder[name] = {value: "v"}
    elif rest == ["*"]:
        holder[name] = {"k": value}
    else:
        holder.setdefault(name, {})
        _put(holder[name], tuple(rest), value, {})


async def ask(
    route: APIRoute, client: httpx.AsyncClient, targets: Mapping[str, str], where: str, value: Any
) -> httpx.Response:
    path = route.path
    owned = max((prefix for prefix in targets if path.startswith(prefix)), key=len, default="")
    target = targets.get(owned, MISSING)
    path = path.replace("{user:path}", target).replace("{run}", MISSING).replace("{id}", target)
    method = min(route.methods or ())
    asked = {"params": value} if where == "query" else {"json": value}
    return await client.request(method, path, **asked)


async def tidy(client: httpx.AsyncClient, reply: httpx.Response) -> None:
    """Delete what was made, so that nobody has too much of it."""
    location = reply.headers.get("location", "")
    if location.startswith("/api/runs/") and not location.endswith("/messages"):
        assert (await client.post(f"{location}/cancel")).status_code == 200
    elif location and not location.endswith("/messages"):
        assert (await client.delete(location)).status_code == 200


@pytest.mark.parametrize("place", PLACES, ids=str)
async def test_a_field_within_its_limits_is_taken_and_beyond_them_is_named(
    place: Place, person: httpx.AsyncClient, chief: httpx.AsyncClient, targets: dict[str, str]
) -> None:
    client = chief if place.route.path.startswith("/api/admin/") else person
    route, top = place.route, ".".join(place.named)
    answers: set[tuple[int, str | None]] = {(route.status_code or 200, None)}
    for key in ((route.name, "*"), (route.name, top), ("*", top)):
        answers |= {ANSWERS[key]} if key in ANSWERS else set()
    for value in good_values(place):
        asked = {place.path[0]: value} if place.where == "query" else with_value(place, value, targets)
        reply = await ask(route, client, targets, place.where, asked)
        given = (reply.status_code, reply.json().get("code"))
        assert given in answers, (str(value)[:300], reply.text)
        await tidy(client, reply)
    for value in bad_values(place):
        asked = {place.path[0]: value} if place.where == "query" else with_value(place, value, targets)
        reply = await ask(route, client, targets, place.where, asked)
        problem = assert_problem(reply, 422, "invalid")
        wanted = [place.where, *place.named]
        named = [[part for part in error["loc"] if not isinstance(part, int)] for error in problem["errors"]]
        assert any(loc[: len(wanted)] == wanted for loc in named), (value, problem)


@pytest.mark.parametrize(
    "place", [place for place in PLACES if place.required and len(place.path) == 1], ids=str
)
async def test_a_field_that_is_needed_is_missed_by_name(
    place: Place, person: httpx.AsyncClient, targets: dict[str, str]
) -> None:
    body = with_value(place, None, targets)
    del body[place.path[0]]
    reply = await ask(place.route, person, targets, place.where, body)
    problem = assert_problem(reply, 422, "invalid")
    assert ["body", *place.path] in [error["loc"] for error in problem["errors"]]


OPERATIONS = [(route, where) for route in ROUTES for where, _ in _shapes(route)]


@pytest.mark.parametrize(("route", "where"), OPERATIONS, ids=lambda value: getattr(value, "name", value))
async def test_an_unknown_name_is_refused_by_name(
    route: APIRoute,
    where: str,
    person: httpx.AsyncClient,
    chief: httpx.AsyncClient,
    targets: dict[str, str],
) -> None:
    if route.name == "replace_preferences":
        return  # which are whatever a client likes
    client = chief if route.path.startswith("/api/admin/") else person
    body = BODIES.get(route.name, {}) if where == "body" else {}
    reply = await ask(route, client, targets, where, {**body, "nmae": "x"})
    problem = assert_problem(reply, 422, "invalid")
    assert [where, "nmae"] in [error["loc"] for error in problem["errors"]]
    if where == "body":
        value: object
        for value in ([], "x", 7):
            problem = assert_problem(await ask(route, client, targets, where, value), 422, "invalid")
            assert problem["errors"][0]["loc"][0] == "body"


NULLS = [
    (route, kind, name)
    for route in ROUTES
    for where, kind in _shapes(route)
    if where == "body" and isinstance(kind, type) and issubclass(kind, Patch)
    if route.name != "update_run"  # of a run that goes on: tests/test_agent.py
    for name in kind.model_fields
]


@pytest.mark.parametrize(
    ("route", "kind", "name"),
    NULLS,
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", value)),
)
async def test_null_empties_what_may_be_empty_and_is_refused_by_name_elsewhere(
    route: APIRoute,
    kind: type[Patch],
    name: str,
    person: httpx.AsyncClient,
    chief: httpx.AsyncClient,
    targets: dict[str, str],
) -> None:
    client = chief if route.path.startswith("/api/admin/") else person
    reply = await ask(route, client, targets, "body", {name: None})
    if name in kind.clearable:
        assert reply.status_code == 200, reply.text
        assert reply.json()["data"].get(name) is None
    else:
        problem = assert_problem(reply, 422, "invalid")
        assert ["body", name] in [error["loc"] for error in problem["errors"]]


BY_ID = [
    (route, method) for route in ROUTES if "{id}" in route.path for method in sorted(route.methods or ())
]


@pytest.mark.parametrize(("route", "method"), BY_ID, ids=lambda value: getattr(value, "name", value))
async def test_an_id_that_is_none_is_refused_by_name(
    route: APIRoute, method: str, person: httpx.AsyncClient
) -> None:
    path = route.path.replace("{number}", "1").replace("{id}", "nobody")
    problem = assert_problem(await person.request(method, path), 422, "invalid")
    assert ["path", "id"] in [error["loc"] for error in problem["errors"]]
