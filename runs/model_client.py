"""One model over the network: a conversation as its provider takes it, and what comes back as ours.

What speaks to providers takes seconds to import; so this module is imported where a model is first asked.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from uuid import uuid4

import httpx2
from anthropic import AsyncAnthropic
from openai import AsyncOpenAI
from pydantic_ai.direct import model_request_stream
from pydantic_ai.exceptions import (
    ContentFilterError,
    ModelAPIError,
    ModelAuthenticationError,
    ModelConnectionError,
    ModelContextWindowExceededError,
    ModelNotFoundError,
    ModelOverloadedError,
    ModelQuotaExceededError,
    ModelRateLimitError,
    ModelRequestTimeout,
    ModelServerError,
    ModelTimeoutError,
    ModelUnavailableError,
    UnexpectedModelBehavior,
)
from pydantic_ai.messages import (
    BinaryContent,
    ModelMessage,
    ModelMessagesTypeAdapter,
    ModelRequest,
    ModelResponse,
    PartDeltaEvent,
    PartStartEvent,
    TextPart,
    TextPartDelta,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models import Model, ModelRequestParameters
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel, OpenAIResponsesModelSettings
from pydantic_ai.profiles.openai import OpenAIModelProfile
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider
from pydantic_ai.settings import ModelSettings
from pydantic_ai.tools import ToolDefinition

from infra.egress import Policy, open_gate
from infra.redaction import cut
from runs import demo_model
from runs.agent import INSTRUCTIONS, Conversation, ModelFailed, Reply, Shown, TooLong, calls_of, text_of
from runs.providers import DEMO, NO_KEY, Choice
from settings import settings

SETTINGS = ModelSettings(
    max_tokens=8_192, max_retries=0, request_timeout=600, first_event_timeout=120, cache=True
)
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 120.0
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # that every provider takes back
HEADERS = frozenset(
    (
        *("host", "accept", "accept-encoding", "connection", "content-type", "content-length", "user-agent"),
        *("anthropic-version", "anthropic-beta"),
    )
)
"""All that a user's address is told beside its key: the environment may name more for the providers' own."""


class Client:
    """A model that a run asks, over connections of its own; `close` it when the run has ended."""

    def __init__(self, choice: Choice, key: str | None) -> None:
        """Without a `key` it is asked with none, as local servers like it."""
        self._choice = choice
        self._key = key or NO_KEY
        self._refused: list[str] = []
        self._stack = AsyncExitStack()
        self._model: Model[Any]

    async def open(self) -> "Client":
        """Make it ready to be asked; nothing is sent yet."""
        self._model = demo_model.MODEL if self._choice.name == DEMO else self._made(await self._connections())
        return self

    async def close(self) -> None:
        """Let its connections go."""
        await self._stack.aclose()

    async def ask(
        self, talk: Conversation, pictures: Mapping[str, bytes], heard: Callable[[str], None]
    ) -> Reply:
        """One request; `heard` gets the text as it comes. Raises ModelFailed."""
        self._refused.clear()
        wanted = ModelRequestParameters(function_tools=[*_definitions(talk)], allow_text_output=True)
        try:
            async with model_request_stream(
                self._model,
                _messages(talk, pictures),
                model_settings=SETTINGS,
                model_request_parameters=wanted,
            ) as stream:
                async for event in stream:
                    match event:
                        case PartStartEvent(part=TextPart(content=text)) if text:
                            heard(text)
                        case PartDeltaEvent(delta=TextPartDelta(content_delta=text)):
                            heard(text)
                response = stream.get()
        except (ModelAPIError, UnexpectedModelBehavior, httpx2.TransportError) as error:
            raise self._failure(error) from error
        if self._choice.name != DEMO and _was_cut(response):
            raise ModelFailed("model_unreadable", "The answer broke off", again=True)
        return _reply(response, free=self._choice.name == DEMO)

    def _failure(self, error: Exception) -> ModelFailed:
        if self._refused:
            return ModelFailed("model_unusable", self._refused[-1])
        return _failed(error, _detail(error).replace(self._key, "(the key)"))

    async def _connections(self) -> httpx2.AsyncClient:
        """To a user's address through a filtering proxy, with nothing that the environment adds."""
        gate, of_user = None, self._choice.base_url is not None
        if of_user:
            policy = Policy(allow_private=settings.allow_private_network)
            gate = await open_gate(policy, lambda _host, reason: self._refused.append(reason))
            self._stack.push_async_callback(gate.close)
        client = httpx2.AsyncClient(
            proxy=gate.url if gate else None,
            trust_env=not of_user,
            follow_redirects=False,
            timeout=httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            event_hooks={"request": [self._tell_only_its_key]} if of_user else None,
        )
        return await self._stack.enter_async_context(client)

    async def _tell_only_its_key(self, request: httpx2.Request) -> None:
        for name in {*request.headers} - HEADERS:
            del request.headers[name]
        if self._choice.provider == "anthropic":
            request.headers["x-api-key"] = self._key
        else:
            request.headers["authorization"] = f"Bearer {self._key}"

    def _made(self, client: httpx2.AsyncClient) -> Model[Any]:
        provider, _, name = self._choice.name.partition(":")
        where: dict[str, Any] = {
            "api_key": self._key,
            "base_url": self._choice.address,
            "http_client": client,
        }
        if provider == "anthropic":
            return AnthropicModel(name, provider=AnthropicProvider(anthropic_client=AsyncAnthropic(**where)))
        served = OpenAIProvider(openai_client=AsyncOpenAI(**where))
        if provider == "openai":
            return OpenAIResponsesModel(
                name, provider=served, settings=OpenAIResponsesModelSettings(openai_store=False)
            )
        whole = OpenAIModelProfile(openai_chat_streaming_requires_finish_reason=True)
        return OpenAIChatModel(name, provider=served, profile=whole)


# What is asked ------------------------------------------------------------------------------------


def _messages(talk: Conversation, pictures: Mapping[str, bytes]) -> list[ModelMessage]:
    made: list[ModelMessage] = []
    for exchange in talk.exchanges():
        parts: list[Any] = [_returned(shown, pictures) for shown in exchange.results]
        parts += [UserPromptPart(text) for text in exchange.told]
        made.append(ModelRequest(parts=parts, instructions=INSTRUCTIONS))
        if exchange.response is not None:
            made += ModelMessagesTypeAdapter.validate_python([exchange.response])
    return made


def _returned(shown: Shown, pictures: Mapping[str, bytes]) -> Any:
    picture = pictures.get(shown.picture_id or "")
    content: Any = [shown.text, BinaryContent(picture, media_type="image/jpeg")] if picture else shown.text
    if not shown.id:
        return UserPromptPart(content)
    outcome: Any = shown.outcome
    return ToolReturnPart(tool_name=shown.tool, content=content, tool_call_id=shown.id, outcome=outcome)


def _definitions(talk: Conversation) -> Iterator[ToolDefinition]:
    for name, about, schema in talk.tools():
        yield ToolDefinition(
            name=name, description=about, parameters_json_schema=schema, sequential=True, strict=False
        )


# What comes back ----------------------------------------------------------------------------------


def _was_cut(response: ModelResponse) -> bool:
    """Whether the stream ended before the model said why it stops."""
    return response.finish_reason is None and not (response.provider_details or {}).get("finish_reason")


def _reply(response: ModelResponse, *, free: bool) -> Reply:
    told = ModelMessagesTypeAdapter.dump_python([response], mode="json")[0]
    told["parts"] = [_sendable(part) for part in told["parts"]]
    text = text_of(told)
    refused = response.finish_reason == "content_filter"
    why = text or (response.provider_details or {}).get("refusal") or "It does not say why"
    return Reply(
        told,
        text,
        tuple(calls_of(told)),
        cut(str(why), 2_000) if refused else None,
        response.finish_reason == "length",
        response.usage.input_tokens,
        response.usage.output_tokens,
        0 if free else _cost(response),
    )


def _sendable(part: dict[str, Any]) -> dict[str, Any]:
    """A call by a name and an id that its provider takes back; there may be no such tool."""
    if part["part_kind"] != "tool-call":
        return part
    name = part["tool_name"]
    if not TOOL_NAME.fullmatch(name):
        name = re.sub(r"[^a-zA-Z0-9_-]", "_", name)[:64] or "_"
    return part | {"tool_name": name, "tool_call_id": part["tool_call_id"] or f"call_{uuid4().hex[:16]}"}


def _cost(response: ModelResponse) -> int | None:
    """Millionths of a US dollar, by the published prices; None where there are none."""
    try:
        return round(response.cost().total_price * 1_000_000)
    except (LookupError, ValueError):
        return None


FAILURES: tuple[tuple[type[Exception], str, bool], ...] = (
    (ModelRateLimitError, "model_rate_limited", True),
    (ModelOverloadedError, "model_overloaded", True),
    (ModelUnavailableError, "model_unavailable", True),
    (ModelServerError, "model_unavailable", True),
    (ModelTimeoutError, "model_silent", True),
    (ModelRequestTimeout, "model_silent", True),
    (ModelConnectionError, "model_unreachable", True),
    (ModelQuotaExceededError, "model_quota", False),
    (ModelAuthenticationError, "model_key_refused", False),
    (ModelNotFoundError, "model_not_found", False),
    (ContentFilterError, "model_refused", False),
    (UnexpectedModelBehavior, "model_unreadable", True),
    (httpx2.TimeoutException, "model_silent", True),
    (httpx2.TransportError, "model_unreachable", True),
)
TRANSIENT = (408, 409, 425)
TOO_LARGE = 413
REDIRECTS = range(300, 400)


def _failed(error: Exception, detail: str) -> ModelFailed:
    status = getattr(error.__cause__, "status_code", None)
    if status in REDIRECTS:
        return ModelFailed("model_rejected", "It redirects, which nobody follows", status=status)
    status = getattr(error, "status_code", None)
    if isinstance(error, ModelContextWindowExceededError) or status == TOO_LARGE:
        return TooLong("model_context", detail, status=status)
    for kind, code, again in FAILURES:
        if isinstance(error, kind):
            wait = getattr(error, "retry_after", None)
            return ModelFailed(code, detail, again=again, retry_after=wait, status=status)
    if status is None and type(error) is ModelAPIError:
        return ModelFailed("model_unreadable", detail, again=True)
    return ModelFailed("model_rejected", detail, again=status in TRANSIENT, status=status)


def _detail(error: Exception) -> str:
    """What the provider says, if it says something."""
    body = getattr(error, "body", None)
    inner = body.get("error", body) if isinstance(body, dict) else None
    said = inner.get("message") if isinstance(inner, dict) else inner
    return cut(" ".join(str(said or error).split()), 500)
