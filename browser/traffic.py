"""What the pages of a tab have lately written to the console and asked of the network."""

from collections import deque
from typing import Any
from urllib.parse import urlsplit

from playwright.async_api import ConsoleMessage, Page, Request, WebError

from infra.redaction import cut

KEPT = 200  # newest entries of each kind
MAX_TEXT, MAX_URL = 1_000, 2_048


class Traffic:
    """The newest entries of one tab, from when it is made: the browser tells none of this before."""

    def __init__(self, page: Page) -> None:
        self.console: deque[dict[str, Any]] = deque(maxlen=KEPT)
        self.requests: deque[dict[str, Any]] = deque(maxlen=KEPT)
        page.on("console", self._on_console)
        page.on("pageerror", self._on_error)
        page.on("request", self._on_request)
        page.on("response", lambda response: self._note(response.request, status=response.status))
        page.on("requestfailed", lambda request: self._note(request, failure=request.failure or "failed"))
        self._asked: deque[tuple[Request, dict[str, Any]]] = deque(maxlen=KEPT)

    def _on_console(self, message: ConsoleMessage) -> None:
        place = message.location
        at = f"{shown_url(place['url'])}:{place['lineNumber'] + 1}" if place.get("url") else None
        self.console.append({"level": message.type, "text": cut(message.text, MAX_TEXT), "at": at})

    def _on_error(self, error: Exception | WebError) -> None:
        self.console.append({"level": "error", "text": cut(str(error), MAX_TEXT), "at": None})

    def _on_request(self, request: Request) -> None:
        entry: dict[str, Any] = {"method": request.method, "url": shown_url(request.url)}
        entry |= {"type": request.resource_type, "status": None, "failure": None}
        self.requests.append(entry)
        self._asked.append((request, entry))

    def _note(self, request: Request, **what: Any) -> None:
        for asked, entry in reversed(self._asked):
            if asked == request:
                entry.update(what)
                return


def shown_url(url: str) -> str:
    """The address without the name and password in it; data addresses without their data."""
    if not url.startswith(("http://", "https://", "ws://", "wss://")):
        return cut(url, 100)
    parts = urlsplit(url)
    return cut(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl(), MAX_URL)
