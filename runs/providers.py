"""The models there are, by name: whose they are, where they are asked, and with which key.

`anthropic:<name>`, `openai:<name>` (Responses), `openai-chat:<name>` (Chat Completions),
`openai-compatible:<name>` with a `base_url` (Ollama, vLLM, llama.cpp, …), and `demo`, which needs none.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

from infra.egress import Policy, check_url
from settings import settings

DEMO = "demo"
HOMES = {
    "anthropic": "https://api.anthropic.com",
    "openai": "https://api.openai.com/v1",
    "openai-chat": "https://api.openai.com/v1",
}
PROVIDERS = (*HOMES, "openai-compatible")
NO_KEY = "none"  # local servers take any


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
    if choice.secret is None and not choice.base_url and not server_key(choice):
        return f"The server has no key for {choice.provider}; name a secret that holds yours"
    return None


def server_key(choice: Choice) -> str:
    """The server's own key, which goes only where the server's settings say, never to a `base_url`."""
    if choice.base_url or choice.name == DEMO:
        return ""
    if choice.provider == "openai-compatible":
        return settings.model_api_key or (NO_KEY if settings.model_base_url else "")
    return settings.anthropic_api_key if choice.provider == "anthropic" else settings.openai_api_key


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
