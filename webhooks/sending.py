"""One signed request to an address of somebody's choice: where it may go, what is kept of the reply."""

import asyncio
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from urllib.parse import urlsplit

import httpx
from standardwebhooks import Webhook as Signer

from infra import egress
from infra.egress import Lookup, Policy, check_url, open_gate, system_lookup
from settings import settings

REQUEST_SECONDS = 15.0
CONNECT_SECONDS = 5.0
DRAIN_SECONDS = 1.0
DRAIN_BYTES = 16 * 2**10  # of a reply's body, thrown away so that its connection serves again
HEADERS = 20
HEADER_CHARS = 256
ERROR_CHARS = 300
USER_AGENT = "CUA-Backend"

_PLAIN = {"accept": "*/*", "accept-encoding": "identity"}
_TUNNEL = {
    "403": "the address may not be reached from here",
    "502": "no connection could be made",
    "504": "no connection could be made in time",
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a request: `status` is missing where no reply came, and `error` then says why.

    `retry_after` is in seconds.
    """

    at: datetime
    duration_ms: int
    status: int | None
    error: str | None
    headers: dict[str, str]
    retry_after: float | None = None

    @property
    def accepted(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


def not_sent(reason: str) -> Outcome:
    """The outcome of a request that was not made."""
    return Outcome(datetime.now(UTC), 0, None, reason, {})


def refusal(url: str) -> str | None:
    """Say why nothing is sent to this address, or None; its name is looked up only when something is."""
    private = settings.allow_private_network
    if reason := check_url(url, Policy(allow_private=private)):
        return reason
    try:
        parts, host = urlsplit(url), httpx.URL(url).host.rstrip(".")
    except (ValueError, httpx.InvalidURL):
        return "this is not a plain URL"
    if private:
        return None
    if parts.scheme != "https":
        return "only https addresses are told"
    if host == "localhost" or host.endswith(".localhost"):
        return f"{host} is not a public address"
    if (port := parts.port or 443) != 443 and port < 1024:
        return "ports below 1024 other than 443 are not told"
    return None


@asynccontextmanager
async def client(lookup: Lookup = system_lookup) -> AsyncIterator[httpx.AsyncClient]:
    """A client behind a filtering proxy, which looks a name up once and connects to that very address."""
    gate = await open_gate(
        Policy(allow_private=settings.allow_private_network), lambda _host, _reason: None, lookup
    )
    try:
        async with httpx.AsyncClient(
            proxy=gate.url,
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(REQUEST_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_keepalive_connections=20),
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),  # it serves many users
        ) as made:
            yield made
    finally:
        await gate.close()


def signed(message_id: str, payload: str, secrets: list[str]) -> dict[str, str]:
    """The headers of Standard Webhooks, with a signature by each secret, the newest first."""
    now = datetime.now(UTC)
    return {
        "content-type": "application/json",
        "user-agent": USER_AGENT,
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": " ".join(Signer(secret).sign(message_id, now, payload) for secret in secrets),
    }


async def post(sender: httpx.AsyncClient, url: str, headers: Mapping[str, str], payload: str) -> Outcome:
    """Send the payload; whatever happens is the outcome. A redirect is a failure, a body is never kept."""
    if reason := refusal(url):
        return not_sent(reason)
    at, began = datetime.now(UTC), time.monotonic()
    status, error, kept, retry_after = None, None, {}, None
    try:
        async with (
            asyncio.timeout(REQUEST_SECONDS),
            sender.stream("POST", url, content=payload.encode(), headers={**headers, **_PLAIN}) as reply,
        ):
            error = _of_gate(reply)
            if error is None:
                status, kept = reply.status_code, _kept(reply.headers)
                retry_after = _retry_after(reply.headers.get("retry-after", ""))
                await _drain(reply)
    except (TimeoutError, httpx.TimeoutException):
        error = f"no reply within {REQUEST_SECONDS:g} seconds"
    except httpx.ProxyError as failure:
        error = _of_tunnel(str(failure))
    except (httpx.HTTPError, httpx.InvalidURL) as failure:
        error = _printable(f"{type(failure).__name__}: {failure}", ERROR_CHARS)
    taken = round((time.monotonic() - began) * 1000)
    return Outcome(at, taken, status, None if status else error, kept, retry_after)


async def _drain(reply: httpx.Response) -> None:
    """Read the end of a short body; a longer or slower one costs the connection, and nothing else."""
    read = 0
    with suppress(TimeoutError, httpx.HTTPError):
        async with asyncio.timeout(DRAIN_SECONDS):
            async for chunk in reply.aiter_raw():
                read += len(chunk)
                if read > DRAIN_BYTES:
                    return


def _kept(headers: httpx.Headers) -> dict[str, str]:
    shown = [(name, value) for name, value in headers.items() if name != "set-cookie"]
    return {
        _printable(name, HEADER_CHARS): _printable(value, HEADER_CHARS) for name, value in shown[:HEADERS]
    }


def _printable(text: str, most: int) -> str:
    return re.sub(r"[^\x20-\x7e]", "?", text)[:most]


def _retry_after(value: str) -> float | None:
    """Seconds from a `Retry-After` (RFC 9110, section 10.2.3): a number of them, or a date."""
    if re.fullmatch(r"[0-9]{1,9}", value):
        return float(value)
    try:
        date = parsedate_to_datetime(value)
    except (ValueError, OverflowError):  # the latter of numbers that no date has
        return None
    return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - datetime.now(UTC)).total_seconds())


def _of_gate(reply: httpx.Response) -> str | None:
    """Why the proxy answered in the receiver's place, which it can only where there is no TLS."""
    if reply.url.scheme == "https":
        return None
    reason = egress.refusal(reply.headers.get("proxy-status", ""))
    return reason and _printable(reason, ERROR_CHARS)


def _of_tunnel(said: str) -> str:
    """The proxy's refusal of a tunnel begins with its status."""
    return _TUNNEL.get(said[:3], "the connection was not made")
