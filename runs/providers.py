"""The models there are, by name: whose they are, with which key, and over which way to the network.

`anthropic:<name>`, `openai:<name>` (Responses), `openai-chat:<name>` (Chat Completions),
`openai-compatible:<name>` with a `base_url` (Ollama, vLLM, llama.cpp, …), and `demo`, which needs none.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any
from urllib.parse import urlsplit

import httpx2
from pydantic_ai.models import Model
from pydantic_ai.models.anthropic import AnthropicModel
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.anthropic import AnthropicProvider
from pydantic_ai.providers.openai import OpenAIProvider

from infra.egress import Policy, check_url, open_gate
from runs import demo_model
from settings import settings

DEMO = "demo"
HOMES = {
    "anthropic": "https://api.anthropic.com",
    "openai": "https://api.openai.com/v1",
    "openai-chat": "https://api.openai.com/v1",
}
PROVIDERS = (*HOMES, "openai-compatible")
CONNECT_SECONDS, SILENT_SECONDS = 10.0, 300.0
NO_KEY = "none"  # local servers take any


class NoModel(Exception):
    """There is no such model here, or no key for it."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A model as a run names it; `secret` is the name of the user's secret that holds its key."""

    name: str
    base_url: str | None = None
    secret: str | None = None

    @property
    def provider(self) -> str:
        return self.name.partition(":")[0]

    @property
    def address(self) -> str:
        """Where its requests go."""
        return self.base_url or _served_at(self.provider)


def default() -> Choice:
    """The model of a run that names none."""
    if settings.model:
        return Choice(settings.model)
    if settings.anthropic_api_key:
        return Choice("anthropic:claude-sonnet-5-5")
    if settings.openai_api_key:
        return Choice("openai:gpt-5.5")
    return Choice(DEMO)


def problem(choice: Choice) -> str | None:
    """Why such a model cannot be asked, as far as can be known without asking; None when it can."""
    if choice.name == DEMO:
        return "The demo model has neither base_url nor secret" if choice.base_url or choice.secret else None
    if choice.provider not in PROVIDERS or not choice.name.partition(":")[2]:
        return f"Write a model as {', '.join(f'{name}:<name>' for name in PROVIDERS)}, or {DEMO}"
    if not choice.address:
        return "A model of openai-compatible needs its base_url"
    if choice.base_url and (why := _refusal(choice.base_url)):
        return f"The base_url cannot be used: {why}"
    if choice.secret is None and not choice.base_url and not _key_of_server(choice.provider):
        return f"The server has no key for {choice.provider}; name a secret that holds yours"
    return None


def _refusal(url: str) -> str | None:
    if why := check_url(url, Policy(allow_private=settings.allow_private_network)):
        return why
    parts = urlsplit(url)
    if parts.scheme != "https" and not settings.allow_private_network:
        return "only https addresses are told a key"
    return "it has a query or a fragment" if parts.query or parts.fragment else None


def _served_at(provider: str) -> str:
    own = {"anthropic": settings.anthropic_base_url, "openai-compatible": settings.model_base_url}
    return own.get(provider, settings.openai_base_url) or HOMES.get(provider, "")


def _key_of_server(provider: str) -> str:
    if provider == "openai-compatible":
        return settings.model_api_key or (NO_KEY if settings.model_base_url else "")
    return settings.anthropic_api_key if provider == "anthropic" else settings.openai_api_key


@asynccontextmanager
async def opened(choice: Choice, key: str | None) -> AsyncIterator[Model[Any]]:
    """The model, ready to be asked; `key` is what the user's secret holds.

    The server's key goes only where the server's settings say, never to an address of a user's. Raises NoModel.
    """
    if why := problem(choice):
        raise NoModel(why)
    if choice.name == DEMO:
        yield demo_model.MODEL
        return
    server_key = "" if choice.base_url else _key_of_server(choice.provider)
    async with _client(of_user=choice.base_url is not None) as client:
        yield _model(choice, key or server_key or NO_KEY, client)


def _model(choice: Choice, key: str, client: httpx2.AsyncClient) -> Model[Any]:
    provider, _, name = choice.name.partition(":")
    if provider == "anthropic":
        return AnthropicModel(
            name, provider=AnthropicProvider(api_key=key, base_url=choice.address, http_client=client)
        )
    served = OpenAIProvider(api_key=key, base_url=choice.address, http_client=client)
    if provider == "openai":
        return OpenAIResponsesModel(name, provider=served)
    return OpenAIChatModel(name, provider=served)


@asynccontextmanager
async def _client(*, of_user: bool) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of one run; one that goes to a user's address goes through a filtering proxy."""
    policy = Policy(allow_private=settings.allow_private_network)
    gate = await open_gate(policy, lambda _host, _reason: None) if of_user else None
    try:
        async with httpx2.AsyncClient(
            proxy=gate.url if gate else None,
            trust_env=not of_user,
            follow_redirects=False,
            timeout=httpx2.Timeout(SILENT_SECONDS, connect=CONNECT_SECONDS),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
        ) as client:
            yield client
    finally:
        if gate is not None:
            await gate.close()
