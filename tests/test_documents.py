"""The documents that are made from the code are what the code says."""

import json
from collections.abc import Iterator
from typing import Any, get_args

import pytest
from jsonschema import Draft202012Validator
from referencing import Registry
from referencing.jsonschema import DRAFT202012

from clerk_auth import SOCKET_SCOPES
from contract import asyncapi
from docs.build import documents
from live import endings, session
from schemas import ErrorMessage, HelloMessage, SocketMessage, SocketRequest
from tests.conftest import ROOT
from tests.test_sockets import socket_page

SOCKET = asyncapi.document()


@pytest.mark.parametrize("name", documents())
def test_a_document_is_as_the_code_says(name: str) -> None:
    written = (ROOT / "docs" / name).read_text(encoding="utf-8")
    assert written == documents()[name], f"docs/{name} is not up to date: make docs"


# AsyncAPI -----------------------------------------------------------------------------------------


def parts(whole: Any) -> Iterator[dict[str, Any]]:
    if isinstance(whole, dict):
        yield whole
        whole = list(whole.values())
    for inner in whole if isinstance(whole, list) else ():
        yield from parts(inner)


def at(reference: str) -> Any:
    """What a reference leads to."""
    found: Any = SOCKET
    for name in reference.removeprefix("#/").split("/"):
        found = found[name]
    return found


def messages(union: Any) -> dict[str, Any]:
    return {get_args(it.model_fields["type"].annotation)[0]: it for it in get_args(get_args(union)[0])}


def validator(model: type) -> Draft202012Validator:
    registry: Registry[Any] = Registry().with_resource("socket", DRAFT202012.create_resource(SOCKET))
    return Draft202012Validator({"$ref": f"socket#/components/schemas/{model.__name__}"}, registry=registry)


def test_the_socket_is_described_in_asyncapi() -> None:
    assert SOCKET["asyncapi"] == "3.0.0"
    assert SOCKET.keys() == {
        *("asyncapi", "info", "defaultContentType", "servers", "channels", "operations", "components")
    }
    assert {"title", "version"} <= SOCKET["info"].keys()
    for server in SOCKET["servers"].values():
        assert {"host", "protocol", "security"} <= server.keys()
    for channel in SOCKET["channels"].values():
        assert channel.keys() <= {"address", "description", "messages", "bindings", "x-close-codes"}
    for operation in SOCKET["operations"].values():
        assert operation["action"] in ("send", "receive")
        assert operation.keys() <= {
            *("action", "channel", "summary", "description", "messages", "reply", "x-scope")
        }
    for message in SOCKET["components"]["messages"].values():
        assert message.keys() <= {
            *("name", "summary", "description", "contentType", "payload", "correlationId", "x-header")
        }


def test_every_reference_leads_somewhere_and_is_alone() -> None:
    references = [part for part in parts(SOCKET) if "$ref" in part]
    assert len(references) > 100
    for part in references:
        assert at(part["$ref"]), part
        assert "components/schemas" in part["$ref"] or len(part) == 1
    for operation in SOCKET["operations"].values():
        for told in (operation, operation.get("reply", operation)):
            for message in told["messages"]:  # of the channel, as the specification asks
                assert message["$ref"].startswith("#/channels/socket/messages/")


def test_every_message_is_there_with_its_operation() -> None:
    requests, answers = messages(SocketRequest), messages(SocketMessage)
    named = SOCKET["components"]["messages"]
    assert named.keys() == SOCKET["channels"]["socket"]["messages"].keys()
    assert named.keys() == {*requests, *answers, "frame"}
    for name, model in {**requests, **answers}.items():
        schema = at(named[name]["payload"]["$ref"])
        fields = {field.serialization_alias or name for name, field in model.model_fields.items()}
        assert schema["properties"].keys() == fields
        assert schema["properties"]["type"]["const"] == name
    for name in requests:
        operation = SOCKET["operations"][name]
        assert operation["action"] == "receive"
        assert operation.get("x-scope") == SOCKET_SCOPES.get(name)
        assert {"$ref": "#/channels/socket/messages/error"} in operation["reply"]["messages"]
    for name in (*answers, "frame"):
        assert SOCKET["operations"][f"send_{name}"]["action"] == "send"


def test_requests_refuse_unknown_fields_and_messages_may_gain_some() -> None:
    for model in messages(SocketRequest).values():
        assert at(f"#/components/schemas/{model.__name__}")["additionalProperties"] is False
    for model in messages(SocketMessage).values():
        assert "additionalProperties" not in at(f"#/components/schemas/{model.__name__}")


def test_what_is_sent_is_as_described() -> None:
    page = socket_page()
    for line in page.split("```json\n")[1].split("```")[0].splitlines():
        request = {"type": "input", "computer_id": "x", "generation": 1, "event": json.loads(line)}
        validator(messages(SocketRequest)["input"]).validate(request)
    error = ErrorMessage(code="not_found", detail="No such stream.", retryable=False)
    validator(ErrorMessage).validate(json.loads(error.model_dump_json(by_alias=True)))
    assert list(validator(HelloMessage).iter_errors({"type": "hello"}))


def test_every_ending_and_the_frames_header_are_told() -> None:
    known = {it for it in vars(endings).values() if isinstance(it, endings.Ending)}
    codes = SOCKET["channels"]["socket"]["x-close-codes"]
    told = {(it["code"], it["error"], it["retryable"]) for it in codes}
    assert told == {(it.code, it.name, it.retryable) for it in known} | {(4400, "bad_message", False)}
    assert {detail for it in codes for detail in it["details"]} >= {it.detail for it in known}
    header = SOCKET["components"]["messages"]["frame"]["x-header"]
    sizes = [int(field["type"][1:]) // 8 for field in header]
    assert [field["offset"] for field in header] == [sum(sizes[:n]) for n in range(len(sizes))]
    assert sum(sizes) == session._FRAME_HEADER.size
