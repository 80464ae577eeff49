"""A real HTTP server on loopback that speaks the protocols of model providers, as a script tells it to.

Like theirs it refuses what does not fit: calls without results, results without calls, arguments that are no
objects, texts that are empty, tools whose schemas are none.
"""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from jsonschema import Draft202012Validator

from tests.receivers import serving

Event = tuple[str, dict[str, Any]]
PROTOCOLS = ("anthropic", "openai", "openai-compatible")
PATHS = {
    "/v1/messages": "anthropic",
    "/v1/responses": "openai",
    "/v1/chat/completions": "openai-compatible",
}
NAMES = {
    "anthropic": "anthropic:claude-sonnet-5-5",
    "openai": "openai:gpt-5",
    "openai-compatible": "openai-compatible:gpt-5",
}
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


@dataclass(frozen=True)
class Says:
    """A reply; a call is a tool's name and its arguments, which are sent as they are when they are a text.

    `cut` ends the stream in its middle, by closing the connection or as if all was said; `hangs` never ends it.
    The second half of its text `waits` for an event.
    """

    text: str = ""
    calls: tuple[tuple[str, Any], ...] = ()
    refusal: str = ""
    tokens: tuple[int, int] = (100, 10)
    cut: str = ""
    hangs: bool = False
    too_long: bool = False
    waits: asyncio.Event | None = None


@dataclass(frozen=True)
class Fails:
    """An error, one of those of `ERRORS`, as the provider sends it; `in_stream` after a good beginning."""

    kind: str
    headers: tuple[str, ...] = ()
    in_stream: bool = False
    says: str = ""


@dataclass(frozen=True)
class Silent:
    """The request is taken, and nothing comes back."""


Reply = Says | Fails | Silent

# status, Anthropic's type, OpenAI's type and code, what is said
ERRORS: dict[str, tuple[int, str, str, str | None, str]] = {
    "overloaded": (529, "overloaded_error", "server_error", "server_is_overloaded", "Overloaded"),
    "limited": (429, "rate_limit_error", "requests", "rate_limit_exceeded", "Too many requests"),
    "broken": (500, "api_error", "server_error", None, "Internal server error"),
    "key": (401, "authentication_error", "invalid_request_error", "invalid_api_key", "invalid x-api-key"),
    "quota": (429, "billing_error", "insufficient_quota", "insufficient_quota", "You exceeded your quota"),
    "missing": (404, "not_found_error", "invalid_request_error", "model_not_found", "model: no-such-model"),
    "rejected": (400, "invalid_request_error", "invalid_request_error", None, "This makes no sense"),
    "long": (
        400,
        "invalid_request_error",
        "invalid_request_error",
        "context_length_exceeded",
        "prompt is too long: 210000 tokens > 200000 maximum",
    ),
    "large": (413, "request_too_large", "invalid_request_error", None, "Request exceeds the maximum size"),
    "moved": (307, "api_error", "server_error", None, "Look elsewhere"),
}


@dataclass(frozen=True)
class Asked:
    """A request, as it came."""

    protocol: str
    headers: dict[str, str]
    body: dict[str, Any]

    @property
    def key(self) -> str:
        return self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")

    @property
    def text(self) -> str:
        return json.dumps(self.body, ensure_ascii=False)

    @property
    def pictures(self) -> int:
        return len(re.findall(r'"(?:image|image_url|input_image)"(?=[,}])', self.text))


@dataclass
class ModelServer:
    """Answers each request with the next of `replies`, the last of them again and again."""

    replies: list[Reply]
    port: int = 0
    asked: list[Asked] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)
    connections: int = 0
    broken_off: int = 0

    def url(self, protocol: str) -> str:
        return f"http://127.0.0.1:{self.port}" + ("" if protocol == "anthropic" else "/v1")

    def model(self, protocol: str, **more: str) -> dict[str, str]:
        """A model here, as a run names it."""
        return {"name": NAMES[protocol], "base_url": self.url(protocol)} | more

    async def until(self, count: int, seconds: float = 30) -> list[Asked]:
        """What was asked, once it is so many requests."""
        async with asyncio.timeout(seconds):
            while len(self.asked) < count:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return self.asked

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            first, *lines = head.split("\r\n")
            named = (line.partition(":") for line in lines if line)
            headers = {name.lower(): value.strip() for name, _, value in named}
            body = json.loads(await reader.readexactly(int(headers["content-length"])))
            protocol = PATHS[
                first.split(" ")[1].removeprefix(f"http://127.0.0.1:{self.port}").partition("?")[0]
            ]
            self.asked.append(Asked(protocol, headers, body))
            reply = self.replies[min(len(self.asked), len(self.replies)) - 1]
            if complaint := next(CHECKS[protocol](body), None):
                self.complaints.append(complaint)
                reply = Fails("rejected", says=complaint)
            try:
                if not await self._answer(reader, writer, self.asked[-1], reply):
                    return
            except OSError:
                self.broken_off += 1
                raise

    async def _answer(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: Asked, reply: Reply
    ) -> bool:
        """Whether the connection may be used once more."""
        protocol, model = asked.protocol, asked.body["model"]
        if isinstance(reply, Silent):
            await self._gone(reader)
            return False
        if isinstance(reply, Fails) and not reply.in_stream:
            status, *_ = ERRORS[reply.kind]
            body = json.dumps(_error(protocol, reply)).encode()
            lines = [
                f"HTTP/1.1 {status} Said",
                "Content-Type: application/json",
                f"Content-Length: {len(body)}",
            ]
            writer.write("\r\n".join([*lines, *reply.headers]).encode() + b"\r\n\r\n" + body)
            await writer.drain()
            return True
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        said = reply if isinstance(reply, Says) else Says("Half a")
        events = [*STREAMS[protocol](said, model)]
        if said.cut or said.hangs or isinstance(reply, Fails):
            events = events[: max(3, len(events) // 2)]
        if isinstance(reply, Fails):
            events.append(("error", _error(protocol, reply, in_stream=True)))
        for name, data in events:
            line = f"event: {name}\n" if protocol != "openai-compatible" else ""
            chunk = f"{line}data: {json.dumps(data)}\n\n".encode()
            if said.waits is not None and _pieces(said.text)[1].encode() in chunk:
                await said.waits.wait()
            writer.write(f"{len(chunk):x}\r\n".encode() + chunk + b"\r\n")
            await writer.drain()
        if said.hangs:
            await self._gone(reader)
            return False
        if said.cut == "closed":
            return False
        done = b"data: [DONE]\n\n" if protocol == "openai-compatible" and not said.cut else b""
        writer.write((f"{len(done):x}\r\n".encode() + done + b"\r\n" if done else b"") + b"0\r\n\r\n")
        await writer.drain()
        return True

    async def _gone(self, reader: asyncio.StreamReader) -> None:
        """Wait until whoever asked has gone."""
        await reader.read()
        self.broken_off += 1


@asynccontextmanager
async def model_server(*replies: Reply) -> AsyncIterator[ModelServer]:
    """A running server."""
    served = ModelServer(list(replies))
    async with serving(served.serve) as served.port:
        yield served


def _error(protocol: str, failure: Fails, *, in_stream: bool = False) -> dict[str, Any]:
    _, kind, openai_kind, code, said = ERRORS[failure.kind]
    said = failure.says or said
    if protocol == "anthropic":
        return {"type": "error", "error": {"type": kind, "message": said}, "request_id": "req_1"}
    inner = {"message": said, "type": openai_kind, "param": None, "code": code}
    if in_stream and protocol == "openai":
        return inner | {"type": "error", "sequence_number": 9}
    return {"error": inner}


def _arguments(given: Any) -> str:
    return given if isinstance(given, str) else json.dumps(given)


def _pieces(text: str) -> list[str]:
    return [text[: len(text) // 2], text[len(text) // 2 :]]


# How each provider says it ------------------------------------------------------------------------


def _anthropic(said: Says, model: str) -> Iterator[Event]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
    }
    usage = {"input_tokens": said.tokens[0], "output_tokens": 1}
    message |= {"stop_reason": None, "stop_sequence": None, "usage": usage}
    yield "message_start", {"type": "message_start", "message": message}
    yield "ping", {"type": "ping"}
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = []
    if text := said.text or said.refusal:
        deltas = [{"type": "text_delta", "text": piece} for piece in _pieces(text)]
        blocks.append(({"type": "text", "text": ""}, deltas))
    for number, (name, arguments) in enumerate(said.calls):
        call = {"type": "tool_use", "id": f"toolu_{id(said)}_{number}", "name": name, "input": {}}
        pieces = _pieces(_arguments(arguments))
        blocks.append((call, [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]))
    for index, (block, deltas) in enumerate(blocks):
        yield "content_block_start", {"type": "content_block_start", "index": index, "content_block": block}
        for delta in deltas:
            yield "content_block_delta", {"type": "content_block_delta", "index": index, "delta": delta}
        yield "content_block_stop", {"type": "content_block_stop", "index": index}
    why = (
        "refusal"
        if said.refusal
        else "max_tokens"
        if said.too_long
        else "tool_use"
        if said.calls
        else "end_turn"
    )
    stop = {"stop_reason": why, "stop_sequence": None}
    yield (
        "message_delta",
        {"type": "message_delta", "delta": stop, "usage": {"output_tokens": said.tokens[1]}},
    )
    yield "message_stop", {"type": "message_stop"}


def _chat(said: Says, model: str) -> Iterator[Event]:
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
    deltas += [{"content": piece} for piece in _pieces(said.text) if piece]
    deltas += [{"refusal": piece} for piece in _pieces(said.refusal) if piece]
    for number, (name, arguments) in enumerate(said.calls):
        call = {"index": number, "id": f"call_{id(said)}_{number}", "type": "function"}
        deltas.append({"tool_calls": [call | {"function": {"name": name, "arguments": ""}}]})
        for piece in _pieces(_arguments(arguments)):
            deltas.append({"tool_calls": [{"index": number, "function": {"arguments": piece}}]})
    why = "length" if said.too_long else "tool_calls" if said.calls else "stop"
    whole = {
        "id": "chatcmpl-1",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": model,
    }
    for delta in deltas:
        yield "", whole | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield "", whole | {"choices": [{"index": 0, "delta": {}, "finish_reason": why}]}
    read, written = said.tokens
    usage = {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}
    yield "", whole | {"choices": [], "usage": usage}


def _responses(said: Says, model: str) -> Iterator[Event]:
    """Numbered, as OpenAI numbers them."""
    for number, (name, data) in enumerate(_response_events(said, model)):
        yield name, {"type": name, "sequence_number": number} | data


def _response_events(said: Says, model: str) -> Iterator[Event]:
    usage: dict[str, Any]
    response: dict[str, Any] = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": model,
    }
    response |= {
        "status": "in_progress",
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }
    response |= {"parallel_tool_calls": True, "tool_choice": "auto", "tools": []}
    yield "response.created", {"response": response}
    output: list[dict[str, Any]] = []
    if text := said.text or said.refusal:
        kind, part = ("refusal", "refusal") if said.refusal else ("output_text", "text")
        item: dict[str, Any] = {"id": f"msg_{id(said)}", "type": "message", "role": "assistant"}
        at = {"item_id": item["id"], "output_index": 0, "content_index": 0}
        empty = item | {"status": "in_progress", "content": []}
        whole: dict[str, Any] = {"type": kind, part: text} | ({} if said.refusal else {"annotations": []})
        yield "response.output_item.added", {"output_index": 0, "item": empty}
        yield "response.content_part.added", at | {"part": whole | {part: ""}}
        for piece in _pieces(text):
            yield f"response.{kind}.delta", at | {"delta": piece, "logprobs": []}
        yield f"response.{kind}.done", at | {part: text, "logprobs": []}
        yield "response.content_part.done", at | {"part": whole}
        output.append(item | {"status": "completed", "content": [whole]})
        yield "response.output_item.done", {"output_index": 0, "item": output[-1]}
    for number, (name, arguments) in enumerate(said.calls):
        text = _arguments(arguments)
        item = {
            "id": f"fc_{id(said)}_{number}",
            "type": "function_call",
            "call_id": f"call_{id(said)}_{number}",
        }
        item |= {"name": name, "arguments": "", "status": "in_progress"}
        at = {"item_id": item["id"], "output_index": len(output)}
        yield "response.output_item.added", {"output_index": len(output), "item": item}
        for piece in _pieces(text):
            yield "response.function_call_arguments.delta", at | {"delta": piece}
        yield "response.function_call_arguments.done", at | {"arguments": text, "name": name}
        done = item | {"arguments": text, "status": "completed"}
        yield "response.output_item.done", {"output_index": len(output), "item": done}
        output.append(done)
    read, written = said.tokens
    usage = {"input_tokens": read, "output_tokens": written, "total_tokens": read + written}
    usage |= {"input_tokens_details": {"cached_tokens": 0}, "output_tokens_details": {"reasoning_tokens": 0}}
    response |= {"output": output, "usage": usage}
    if said.too_long:
        response |= {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
        yield "response.incomplete", {"response": response}
    else:
        yield "response.completed", {"response": response | {"status": "completed"}}


STREAMS: dict[str, Callable[[Says, str], Iterator[Event]]] = {
    "anthropic": _anthropic,
    "openai": _responses,
    "openai-compatible": _chat,
}


# What each provider refuses -----------------------------------------------------------------------


def _odd_tool(name: str, schema: Any) -> Iterator[str]:
    if not TOOL_NAME.fullmatch(name):
        yield f"a tool is named {name!r}"
    Draft202012Validator.check_schema(schema)
    if schema.get("type") != "object":
        yield f"the arguments of {name} are no object"


def _no_object(arguments: str) -> Iterator[str]:
    try:
        if not isinstance(json.loads(arguments), dict):
            yield f"these arguments are no object: {arguments}"
    except ValueError:
        yield f"these arguments are no JSON: {arguments}"


def _odd_anthropic(body: dict[str, Any]) -> Iterator[str]:
    for tool in body["tools"]:
        yield from _odd_tool(tool["name"], tool["input_schema"])
    open_calls: list[str] = []
    if body["messages"][0]["role"] != "user" or body["messages"][-1]["role"] != "user":
        yield "the conversation neither begins nor ends with the user"
    for message in body["messages"]:
        content = message["content"]
        blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
        if not blocks:
            yield "a message is empty"
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if results != open_calls:
            yield f"calls {open_calls} are followed by results of {results}"
        open_calls = [block["id"] for block in blocks if block["type"] == "tool_use"]
        for block in blocks:
            if block["type"] == "text" and not block["text"].strip():
                yield "a text is empty"
            if block["type"] == "tool_use" and not isinstance(block["input"], dict):
                yield "the input of a call is no object"
            if block["type"] == "tool_use":
                yield from _odd_tool(block["name"], {"type": "object"})


def _odd_chat(body: dict[str, Any]) -> Iterator[str]:
    for tool in body["tools"]:
        yield from _odd_tool(tool["function"]["name"], tool["function"]["parameters"])
    open_calls: list[str] = []
    for message in body["messages"]:
        if message["role"] == "tool":
            if not open_calls or open_calls.pop(0) != message["tool_call_id"]:
                yield f"the result of {message['tool_call_id']} comes at the wrong place"
            continue
        if open_calls:
            yield f"the calls {open_calls} have no results"
        for call in message.get("tool_calls", ()):
            open_calls.append(call["id"])
            yield from _odd_tool(call["function"]["name"], {"type": "object"})
            yield from _no_object(call["function"]["arguments"])
    if open_calls:
        yield f"the calls {open_calls} have no results"


def _odd_responses(body: dict[str, Any]) -> Iterator[str]:
    for tool in body["tools"]:
        yield from _odd_tool(tool["name"], tool["parameters"])
    open_calls: list[str] = []
    for item in body["input"]:
        match item.get("type"):
            case "function_call":
                open_calls.append(item["call_id"])
                yield from _odd_tool(item["name"], {"type": "object"})
                yield from _no_object(item["arguments"])
            case "function_call_output":
                if item["call_id"] not in open_calls:
                    yield f"the result of {item['call_id']} has no call"
                else:
                    open_calls.remove(item["call_id"])
    if open_calls:
        yield f"the calls {open_calls} have no results"


CHECKS: dict[str, Callable[[dict[str, Any]], Iterator[str]]] = {
    "anthropic": _odd_anthropic,
    "openai": _odd_responses,
    "openai-compatible": _odd_chat,
}
