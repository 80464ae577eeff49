"""Whether a reply is one that the OpenAPI document declares."""

import re
from functools import cache
from typing import Any

import httpx
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

import backend_websocket_server as module

DOCUMENT = module.app.openapi()
_EDGE = {405}  # said before an operation is found, as NUL in an address is
_SOMETIMES = {"Link", "Idempotency-Replayed", "RateLimit-Limit", "RateLimit-Remaining", "RateLimit-Reset"}
_SOMETIMES |= {"RateLimit-Policy", "Retry-After"}
_TOLD = ("ETag", "Location", "Link", "Idempotency-Replayed", "Content-Range", "WWW-Authenticate")


def resolved(part: dict[str, Any]) -> dict[str, Any]:
    """What a reference stands for."""
    while "$ref" in part:
        _, section, name = part["$ref"].removeprefix("#/").split("/")
        part = DOCUMENT["components"][section][name]
    return part


@cache
def operations() -> list[tuple[re.Pattern[str], dict[str, Any]]]:
    """Every path with what its methods do; those with fewer parameters come first."""
    found = []
    for path in sorted(DOCUMENT["paths"], key=lambda path: path.count("{")):
        pattern = re.sub(r"\\{(\w+)\\}", lambda name: ".+" if name[1] == "user" else "[^/]+", re.escape(path))
        found.append((re.compile(pattern), DOCUMENT["paths"][path]))
    return found


def operation_of(method: str, path: str) -> dict[str, Any] | None:
    """The operation of an address; PUT is PATCH's twin, and HEAD GET's."""
    path = re.sub("^/api/v1/", "/api/", path).replace("/api/users/me", "/api/me")
    for pattern, methods in operations():
        if pattern.fullmatch(path):
            twin = {"PUT": "patch", "HEAD": "get"}.get(method, "")
            found: dict[str, Any] | None = methods.get(method.lower()) or methods.get(twin)
            return found
    return None


@cache
def validator(reference: str) -> Draft202012Validator:
    """Judges JSON by one schema of the document."""
    whole = DRAFT202012.create_resource(DOCUMENT)
    return Draft202012Validator(
        {"$ref": f"document{reference}"}, registry=Registry().with_resource("document", whole)
    )


async def check(reply: httpx.Response) -> None:
    """Fail unless status, media type, headers, body and code are declared. An event hook of httpx."""
    request = reply.request
    operation = operation_of(request.method, request.url.path)
    if operation is None or reply.status_code in _EDGE or b"%00" in request.url.raw_path:
        return
    name = operation["operationId"]
    told = f"{name} answered {reply.status_code}"
    assert str(reply.status_code) in operation["responses"], told
    declared = resolved(operation["responses"][str(reply.status_code)])
    headers = declared["headers"].keys()
    missing = {header for header in headers - _SOMETIMES if header not in reply.headers}
    assert not missing, f"{told} without {missing}"
    unexpected = {header for header in _TOLD if header in reply.headers and header not in headers}
    assert not unexpected, f"{told} with {unexpected}"
    kind = reply.headers.get("content-type", "").split(";")[0]
    content = declared.get("content", {})
    if request.method == "HEAD" or not content:
        return
    assert kind in content or "*/*" in content, f"{told} with {kind}"
    schema = content.get(kind, {}).get("schema", {})
    if kind == "application/problem+json":
        await reply.aread()
        code = reply.json()["code"]
        assert code in content[kind]["examples"], f"{told} {code}"
        validator("#/components/schemas/ProblemRead").validate(reply.json())
    elif kind == "application/json" and "$ref" in schema:
        await reply.aread()
        validator(schema["$ref"]).validate(reply.json())
