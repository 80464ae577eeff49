"""The AsyncAPI document of `/ws`: what its messages are, who may send which, and how it ends."""

import struct
from typing import Any, get_args

from pydantic import BaseModel, TypeAdapter
from pydantic.json_schema import models_json_schema

import api
import clerk_auth
from browser.actions import InputEvent
from live import endings, session
from schemas import SocketMessage, SocketRequest

_REF = "#/components/schemas/{model}"
_ANSWERS = {
    "auth": "ready",
    "subscribe": "subscribed",
    "unsubscribe": "unsubscribed",
    "watch": "watching",
    "unwatch": "unwatched",
    "control": "controlled",
}
_HEADERS = {
    "Authorization": "`Bearer` and a token or API key; else `auth` is the first message.",
    "X-API-Key": "An API key, in place of `Authorization`.",
    "Origin": "Of a page: the server's own, or one of `CORS_ORIGINS`.",
}


def document() -> dict[str, Any]:
    """AsyncAPI 3.0, as seen from the server: it receives requests, and sends the rest."""
    requests, messages = _models(SocketRequest), _models(SocketMessage)
    named = {**requests, **messages}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "CUA Backend: the socket",
            "version": api.VERSION,
            "description": "Everything that happens to a user's things, the pictures of their computers, and "
            "their hands on them. Text frames are JSON; binary frames are pictures.",
            "license": {"name": "MIT"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "server": {
                "host": "{host}",
                "protocol": "wss",
                "description": "Any of its processes; `ws` on a laptop.",
                "variables": {"host": {"default": "127.0.0.1:8000"}},
                "security": [
                    {"$ref": f"#/components/securitySchemes/{name}"} for name in ("bearer", "apiKey")
                ],
            }
        },
        "channels": {"socket": _channel([*named, "frame"])},
        "operations": {
            **{name: _request(name, model) for name, model in requests.items()},
            **{f"send_{name}": _message(name, model) for name, model in messages.items()},
            "send_frame": _operation("send", "frame", "A picture of a computer that is watched."),
        },
        "components": {
            "messages": {**{name: _payload(name, model) for name, model in named.items()}, "frame": _frame()},
            "schemas": _schemas(requests, messages),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "apiKey": {"type": "httpApiKey", "name": "X-API-Key", "in": "header"},
            },
        },
    }


def _models(union: Any) -> dict[str, type[BaseModel]]:
    """The members of a union of messages by their `type`."""
    return {
        get_args(model.model_fields["type"].annotation)[0]: model for model in get_args(get_args(union)[0])
    }


def _channel(names: list[str]) -> dict[str, Any]:
    headers = {name: {"type": "string", "description": text} for name, text in _HEADERS.items()}
    protocol = {"type": "string", "const": session.SUBPROTOCOL}
    return {
        "address": "/ws",
        "description": f"Subprotocol `{session.SUBPROTOCOL}`. Close codes are in `x-close-codes`: where "
        "`retryable`, connect again and subscribe after the newest `upto`.",
        "messages": {name: {"$ref": f"#/components/messages/{name}"} for name in names},
        "bindings": {
            "ws": {
                "method": "GET",
                "headers": {"type": "object", "properties": {**headers, "Sec-WebSocket-Protocol": protocol}},
                "bindingVersion": "0.1.0",
            }
        },
        "x-close-codes": _close_codes(),
    }


def _close_codes() -> list[dict[str, Any]]:
    known = [it for it in vars(endings).values() if isinstance(it, endings.Ending)]
    known.append(endings.bad_message("Not a message of this protocol."))
    codes: dict[tuple[int, str], dict[str, Any]] = {}
    for ending in known:
        told = {"code": ending.code, "error": ending.name, "retryable": ending.retryable, "details": []}
        codes.setdefault((ending.code, ending.name), told)["details"].append(ending.detail)
    return [codes[key] for key in sorted(codes)]


def _operation(action: str, name: str, summary: str) -> dict[str, Any]:
    return {
        "action": action,
        "channel": {"$ref": "#/channels/socket"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/socket/messages/{name}"}],
    }


def _request(name: str, model: type[BaseModel]) -> dict[str, Any]:
    operation = _operation("receive", name, _summary(name, model))
    answers = ([_ANSWERS[name]] if name in _ANSWERS else []) + ["error"]
    operation["reply"] = {
        "channel": {"$ref": "#/channels/socket"},
        "messages": [{"$ref": f"#/channels/socket/messages/{answer}"} for answer in answers],
    }
    if scope := clerk_auth.SOCKET_SCOPES.get(name):
        operation["x-scope"] = scope
        operation["description"] = f"API keys need the scope `{scope}`."
    return operation


def _message(name: str, model: type[BaseModel]) -> dict[str, Any]:
    return _operation("send", name, _summary(name, model))


def _summary(name: str, model: type[BaseModel]) -> str:
    own = model.__doc__ if model.__doc__ and "__doc__" in vars(model) else None
    return own or f"{name.replace('_', ' ').capitalize()}."


def _payload(name: str, model: type[BaseModel]) -> dict[str, Any]:
    message = {
        "name": name,
        "summary": _summary(name, model),
        "payload": {"$ref": _REF.format(model=model.__name__)},
    }
    if "id" in model.model_fields:
        message["correlationId"] = {"location": "$message.payload#/id"}
    return message


def _frame() -> dict[str, Any]:
    offset, header = 0, []
    for name, kind in session.FRAME_LAYOUT.items():
        size = struct.calcsize(kind)
        header.append({"name": name, "type": f"u{size * 8}", "offset": offset})
        offset += size
    return {
        "name": "frame",
        "summary": "A picture of a computer that is watched.",
        "description": f"A header of {offset} bytes, big-endian (`x-header`), and the image. `version` is 1, "
        "`kind` 1 is JPEG, `captured_us` counts microseconds since 1970.",
        "contentType": "application/octet-stream",
        "payload": {"type": "string", "format": "binary"},
        "x-header": header,
    }


def _schemas(requests: dict[str, type[BaseModel]], messages: dict[str, type[BaseModel]]) -> dict[str, Any]:
    """Every model that the messages are made of; what the server sends may gain fields."""
    asked = [(model, "validation") for model in requests.values()]
    told = [(model, "serialization") for model in messages.values()]
    found: dict[str, Any] = models_json_schema([*asked, *told], ref_template=_REF)[1]["$defs"]  # type: ignore[list-item]
    for name in _names(messages):
        found[name].pop("additionalProperties", None)
    event = TypeAdapter(InputEvent).json_schema(ref_template=_REF)
    found |= event.pop("$defs")
    found["InputRequest"]["properties"]["event"] = event
    return dict(sorted(found.items()))


def _names(messages: dict[str, type[BaseModel]]) -> set[str]:
    told = [(model, "serialization") for model in messages.values()]
    return set(models_json_schema(told, ref_template=_REF)[1]["$defs"])  # type: ignore[arg-type]
