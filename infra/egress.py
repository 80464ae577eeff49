"""The browsers' filtering forward proxy: one loopback port per computer, public and allowed hosts only.

Each name is looked up once, every address it has must be public, and the connection goes to one of those very
addresses, so a name that changes its mind between check and use gains nothing.
"""

import asyncio
import html
import ipaddress
import re
import socket
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from urllib.parse import urlsplit

import h11
import idna
import structlog

log = structlog.get_logger()

Address = IPv4Address | IPv6Address
Lookup = Callable[[str, int], Awaitable[Sequence[str]]]
Headers = list[tuple[bytes, bytes]]

PROXY_NAME = "cua-egress"
REASONS = 32  # hosts that could not be reached, remembered by a gate
HEAD_LIMIT = 64 * 2**10  # bytes
CHUNK = 64 * 2**10  # bytes
MAX_CONNECTIONS = 512  # Chromium opens 32 to a proxy and 255 for WebSockets
IDLE_SECONDS = 120.0
HEAD_SECONDS = 15.0
LOOKUP_SECONDS = 10.0
CONNECT_SECONDS = 15.0
NEXT_ADDRESS_SECONDS = 3.0
ANSWER_SECONDS = 300.0
STALL_SECONDS = 120.0
HALF_CLOSED_SECONDS = 60.0
LINGER_SECONDS = 5.0

METADATA: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in ("169.254.0.0/16", "168.63.129.16", "100.100.100.200", "192.0.0.192", "fd00:ec2::/64")
)
"""Where clouds tell a machine its credentials: refused even when private addresses are allowed."""

NOT_PUBLIC: tuple[IPv4Network | IPv6Network, ...] = tuple(
    ipaddress.ip_network(network)
    for network in ("192.88.99.0/24", "64:ff9b:1::/48", "2001::/23", "3fff::/20", "5f00::/16", "fec0::/10")
)
"""Special-purpose networks (IANA registries) that `is_global` of some supported Python calls global."""

NAT64 = IPv6Network("64:ff9b::/96")
LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection".split()
    + b"te transfer-encoding upgrade".split()
)

_resolvers = ThreadPoolExecutor(64, "dns")


class Refused(Exception):
    """The policy forbids this host; the text says why."""


class Unreachable(Exception):
    """The host has no address or none answers; `status` is the gateway error for it."""

    def __init__(self, status: HTTPStatus, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class BadRequest(Exception):
    """Not a request that a proxy can serve."""


# Policy ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Policy:
    """Which hosts a computer may reach.

    `allowed_domains`: host names, each with its subdomains, or addresses, either optionally with `:port`;
    none means every public host. A name of one label means that host alone, so `com` opens nothing else.
    Raises ValueError on an entry that is neither. `own` is the `host:port` of the web app, which may be
    private: who is let to it from anywhere may as well be from here.
    """

    allowed_domains: tuple[str, ...] = ()
    allow_private: bool = False
    own: str = ""

    def __post_init__(self) -> None:
        for entry in self.allowed_domains:
            try:
                _authority(entry)
            except BadRequest as error:
                raise ValueError(f"allowed domain {entry!r}: write a host such as example.com") from error

    def check(self, host: str, port: int) -> None:
        """Raise Refused unless the canonical host may be asked for; its addresses are judged by `resolve`."""
        if self.allowed_domains and not any(
            (allowed_port is None or allowed_port == port) and within(host, allowed)
            for allowed, allowed_port in map(_authority, self.allowed_domains)
        ):
            raise Refused(f"{host} is not among the allowed domains")
        if (address := _literal(host)) is not None:
            self.check_address(host, port, address)

    def check_address(self, host: str, port: int, address: Address) -> None:
        """Raise Refused unless the address may be connected to."""
        allowed = self.allow_private or is_public(address) or f"{host}:{port}" == self.own
        if _tells_credentials(_embedded(address)) or not allowed:
            raise Refused(
                f"{host} is not a public address" if _literal(host) else f"{host} leads to {address}"
            )


def within(host: str, allowed: str) -> bool:
    """Whether a host is an allowed one, or a subdomain of it; both canonical."""
    return host == allowed or ("." in allowed and _literal(allowed) is None and host.endswith("." + allowed))


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for (mapped, RFC 6052 NAT64, RFC 3056 6to4), or itself."""
    if isinstance(address, IPv6Address):
        if address in NAT64:
            return IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _tells_credentials(address: Address) -> bool:
    return any(address in network for network in METADATA)


def is_public(address: Address | str) -> bool:
    """Whether the address is one of the public Internet, judged by the IPv4 address it stands for, if any."""
    address = _embedded(ipaddress.ip_address(address))
    return (
        address.is_global
        and not address.is_multicast
        and not address.is_reserved
        and not _tells_credentials(address)
        and not any(address in network for network in NOT_PUBLIC)
    )


def _literal(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


def _canonical(text: str) -> str:
    """A host as we compare it: ASCII, lower case, no final dot, IPv6 in brackets; raises BadRequest."""
    if text.startswith("[") and text.endswith("]") and "%" not in text:
        try:
            return f"[{IPv6Address(text[1:-1])}]"
        except ValueError:
            raise BadRequest("this is not an IPv6 address") from None
    try:
        host = text if text.isascii() else idna.encode(text, uts46=True).decode()
    except idna.IDNAError:
        raise BadRequest("this is not a host name") from None
    host = host.lower().removesuffix(".")
    labels = host.split(".")
    if len(host) > 253 or not all(LABEL.fullmatch(label) for label in labels):
        raise BadRequest("this is not a host name")
    if labels[-1].isdigit() or re.fullmatch(r"0x[0-9a-f]*", labels[-1]):  # an IPv4 address, says WHATWG URL
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise BadRequest("write an IPv4 address as four decimal numbers") from None
    return host


def _authority(text: str) -> tuple[str, int | None]:
    """Split `host[:port]`; raises BadRequest."""
    if "@" in text:
        raise BadRequest("an address with a user name in it is not opened")
    host, colon, port = text.rpartition(":") if re.search(r":\d*$", text) else (text, "", "")
    if port and not 0 < int(port[:6]) < 65536:
        raise BadRequest("this is not a port")
    return _canonical(host), int(port) if colon and port else None


def check_url(url: str, policy: Policy) -> str | None:
    """Say why a page may not be opened, or None; its name is looked up only when it is opened."""
    if re.search(r"[\x00-\x20\x7f\\]", url):
        return "this is not a plain URL"
    try:
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"}:
            return "only http and https pages are opened"
        host, port = _authority(parts.netloc)
        policy.check(host, port or (443 if parts.scheme == "https" else 80))
    except (ValueError, BadRequest) as error:
        return str(error)
    except Refused as refusal:
        return str(refusal)
    return None


# Names and connections ------------------------------------------------------------------------


async def system_lookup(host: str, port: int) -> list[str]:
    """Ask the system's resolver, in threads that nothing else waits for."""
    getaddrinfo = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_resolvers, getaddrinfo)
    return [str(sockaddr[0]) for *_, sockaddr in found]


async def resolve(host: str, port: int, policy: Policy, lookup: Lookup = system_lookup) -> list[Address]:
    """The addresses of a canonical host, looked up once; every one must be permitted.

    Raises Refused, or Unreachable when the name has no address (502) or the resolver does not answer (504).
    """
    policy.check(host, port)
    if (literal := _literal(host)) is not None:
        return [literal]
    try:
        found = await asyncio.wait_for(lookup(host, port), LOOKUP_SECONDS)
    except TimeoutError:
        raise Unreachable(HTTPStatus.GATEWAY_TIMEOUT, f"looking up {host} took too long") from None
    except (OSError, UnicodeError):
        found = []
    addresses = [ipaddress.ip_address(address) for address in dict.fromkeys(found)]
    if not addresses:
        raise Unreachable(HTTPStatus.BAD_GATEWAY, f"{host} has no address")
    for address in addresses:
        policy.check_address(host, port, address)
    return addresses


async def _connect(
    host: str, port: int, addresses: list[Address]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the first address that accepts."""
    status = HTTPStatus.BAD_GATEWAY
    for address in addresses:
        seconds = CONNECT_SECONDS if address == addresses[-1] else NEXT_ADDRESS_SECONDS
        try:
            return await asyncio.wait_for(asyncio.open_connection(str(address), port, limit=CHUNK), seconds)
        except TimeoutError:
            status = HTTPStatus.GATEWAY_TIMEOUT
        except OSError:
            status = HTTPStatus.BAD_GATEWAY
    said = "does not answer" if status == HTTPStatus.GATEWAY_TIMEOUT else "accepts no connection"
    raise Unreachable(status, f"{host} {said} on port {port}")


# Exchanges ------------------------------------------------------------------------------------


class _Peer:
    """One side of an exchange: HTTP/1.1 framing over a stream; bodies pass in pieces, never whole."""

    def __init__(
        self, role: type[h11.CLIENT | h11.SERVER], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.http = h11.Connection(role, max_incomplete_event_size=HEAD_LIMIT)
        self.method = b""
        self.reader = reader
        self.writer = writer

    async def receive(self, seconds: float) -> h11.Event:
        """The next event, waiting at most that long; raises OSError (TimeoutError) or RemoteProtocolError."""
        async with asyncio.timeout(seconds):
            while (event := self.http.next_event()) is h11.NEED_DATA:
                self.http.receive_data(await self.reader.read(CHUNK))
        if isinstance(event, type):
            raise h11.RemoteProtocolError("a message follows before the last one is answered")
        return event

    async def request(self) -> h11.Request | None:
        """The next request, or None when the browser has left or has been idle for long."""
        if not self.http.trailing_data[0]:
            try:
                self.http.receive_data(await asyncio.wait_for(self.reader.read(CHUNK), IDLE_SECONDS))
            except TimeoutError:
                return None
        event = await self.receive(HEAD_SECONDS)
        if not isinstance(event, h11.Request):
            return None
        self.method = event.method
        return event

    async def send(self, event: h11.Event) -> None:
        if data := self.http.send(event):
            self.writer.write(data)
            await self.writer.drain()

    async def left(self) -> None:
        """Return when the other side has ended its stream or sent another request."""
        self.http.receive_data(await self.reader.read(CHUNK))

    async def answer(self, status: HTTPStatus, reason: str) -> None:
        """Answer with a small page, and let it arrive although the request may still be on its way."""
        page = (
            f"<!doctype html><meta charset=utf-8><title>{status.phrase}</title>"
            f"<h1>{status.phrase}</h1><p>{html.escape(reason)}"
        ).encode()
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(page)),
            "Content-Security-Policy": "default-src 'none'",
            "Cache-Control": "no-store",
            "Connection": "close",
            "Proxy-Status": f'{PROXY_NAME}; details="{_quotable(reason)}"',
        }
        head = h11.Response(status_code=status, reason=status.phrase.encode(), headers=list(headers.items()))
        await self.send(head)
        if self.method != b"HEAD":
            await self.send(h11.Data(data=page))
        await self.send(h11.EndOfMessage())
        self.writer.write_eof()
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while await self.reader.read(CHUNK):
                    pass


@asynccontextmanager
async def _closing(writer: asyncio.StreamWriter) -> AsyncIterator[None]:
    """Close after a good end, abort after a bad one, so that the other side can tell."""
    try:
        yield
        writer.close()
        with suppress(OSError):
            await asyncio.wait_for(writer.wait_closed(), LINGER_SECONDS)
    finally:
        writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()


async def _tunnel(browser: _Peer, server: _Peer) -> None:
    """Carry bytes both ways until both sides have ended; one that ended waits a minute for the other."""
    server.writer.write(browser.http.trailing_data[0])
    browser.writer.write(server.http.trailing_data[0])
    pumps = {
        asyncio.create_task(_pump(browser.reader, server.writer)),
        asyncio.create_task(_pump(server.reader, browser.writer)),
    }
    try:
        done, pending = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        if pending and not any(pump.exception() for pump in done):
            done, pending = await asyncio.wait(pending, timeout=HALF_CLOSED_SECONDS)
        for pump in done:
            pump.result()
    finally:
        await _cancel(pumps)


async def _cancel(tasks: Iterable[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _end_to_end(headers: Headers, *dropped: bytes) -> Headers:
    """The headers a proxy passes on (RFC 9110 section 7.6.1)."""
    drop = HOP_BY_HOP.union(dropped)
    for name, value in headers:
        if name.lower() == b"connection":
            drop |= {option.strip().lower() for option in value.split(b",")}
        elif name.lower() == b"transfer-encoding":
            drop |= {b"content-length"}
    return [(name, value) for name, value in headers if name.lower() not in drop]


def _wants_websocket(request: h11.Request) -> bool:
    return (b"upgrade", b"websocket") in [(key, value.lower()) for key, value in request.headers]


def _onward(request: h11.Request, host: str, port: int, target: str) -> h11.Request:
    """The request as the server gets it: on a connection of its own, addressed to what was checked."""
    authority = host if port == 80 else f"{host}:{port}"
    headers = [(b"Host", authority.encode()), *_end_to_end(request.headers.raw_items(), b"host")]
    if _wants_websocket(request):
        headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
    else:
        headers += [(b"Connection", b"close")]
    if any(name == b"transfer-encoding" for name, _ in request.headers):
        headers += [(b"Transfer-Encoding", b"chunked")]
    return h11.Request(method=request.method, target=target, headers=headers)


async def _upload(browser: _Peer, server: _Peer) -> None:
    """Carry the request's body, then return when the browser has left."""
    event = await browser.receive(STALL_SECONDS)
    while isinstance(event, h11.Data):
        await server.send(event)
        event = await browser.receive(STALL_SECONDS)
    await server.send(event)
    await browser.left()


async def _download(browser: _Peer, server: _Peer) -> None:
    """Carry the response; returns at its end, or when both sides have switched to the WebSocket protocol."""
    response = await server.receive(ANSWER_SECONDS)
    while isinstance(response, h11.InformationalResponse):
        headers = _end_to_end(response.headers.raw_items())
        switching = response.status_code == HTTPStatus.SWITCHING_PROTOCOLS
        if switching:
            headers += [(b"Connection", b"Upgrade"), (b"Upgrade", b"websocket")]
        await browser.send(h11.InformationalResponse(status_code=response.status_code, headers=headers))
        if switching:
            return
        response = await server.receive(ANSWER_SECONDS)
    if not isinstance(response, h11.Response):
        raise h11.RemoteProtocolError("the server sent no response")
    headers = _end_to_end(response.headers.raw_items())
    await browser.send(
        h11.Response(status_code=response.status_code, headers=headers, reason=response.reason)
    )
    event = await server.receive(STALL_SECONDS)
    while isinstance(event, h11.Data):
        await browser.send(event)
        event = await server.receive(STALL_SECONDS)
    await browser.send(event)


async def _forward(browser: _Peer, server: _Peer, request: h11.Request) -> None:
    """Carry one request and its response, both at once: a server may answer before it has the whole body."""
    await server.send(request)
    upload = asyncio.create_task(_upload(browser, server))
    download = asyncio.create_task(_download(browser, server))
    try:
        await asyncio.wait({upload, download}, return_when=asyncio.FIRST_COMPLETED)
        async with asyncio.timeout(LINGER_SECONDS):
            await download
    finally:
        await _cancel((upload, download))


# Gates ----------------------------------------------------------------------------------------


class Gate:
    """One computer's door to the network: an HTTP proxy on a loopback port of its own."""

    def __init__(self, policy: Policy, on_refused: Callable[[str, str], None], lookup: Lookup) -> None:
        self.url = ""
        self._policy = policy
        self._on_refused = on_refused
        self._lookup = lookup
        self._server: asyncio.Server | None = None
        self._exchanges: set[asyncio.Task[None]] = set()
        self._reasons: OrderedDict[str, str] = OrderedDict()  # by host, the newest last

    def why(self, url: str) -> str | None:
        """Why the address was not reached lately; for one that redirects, why the last one was not."""
        host = urlsplit(url).hostname or ""
        return self._reasons.get(host) or next(reversed(self._reasons.values()), None)

    def _note(self, host: str, reason: str) -> None:
        self._reasons[host] = reason
        self._reasons.move_to_end(host)
        if len(self._reasons) > REASONS:
            self._reasons.popitem(last=False)

    async def open(self) -> None:
        """Start to listen; `url` is what Playwright's proxy option takes."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=CHUNK)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if (server := self._server) is not None:
            self._server = None
            server.close()
            await _cancel(tuple(self._exchanges))
            await server.wait_closed()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._server is None or len(self._exchanges) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        exchange = asyncio.create_task(self._serve(_Peer(h11.SERVER, reader, writer)))
        self._exchanges.add(exchange)
        exchange.add_done_callback(self._exchanges.discard)

    async def _serve(self, browser: _Peer) -> None:
        with suppress(OSError, h11.ProtocolError):
            async with _closing(browser.writer):
                while (request := await self._next(browser)) is not None:
                    if not await self._exchange(browser, request):
                        return
                    browser.http.start_next_cycle()

    async def _next(self, browser: _Peer) -> h11.Request | None:
        try:
            return await browser.request()
        except h11.RemoteProtocolError as error:
            await browser.answer(HTTPStatus(error.error_status_hint), str(error))
            return None

    async def _exchange(self, browser: _Peer, request: h11.Request) -> bool:
        """Serve one request; returns whether another may follow on the connection."""
        try:
            host, port, target = _destination(request)
        except BadRequest as error:
            await browser.answer(HTTPStatus.BAD_REQUEST, str(error))
            return False
        try:
            addresses = await resolve(host, port, self._policy, self._lookup)
            reader, writer = await _connect(host, port, addresses)
        except Refused as refusal:
            log.info("egress_refused", host=host, reason=str(refusal))
            self._note(host, str(refusal))
            self._on_refused(host, str(refusal))
            await browser.answer(HTTPStatus.FORBIDDEN, str(refusal))
            return False
        except Unreachable as error:
            self._note(host, str(error))
            await browser.answer(error.status, str(error))
            return False
        async with _closing(writer):
            return await self._relay(browser, _Peer(h11.CLIENT, reader, writer), request, host, port, target)

    async def _relay(
        self, browser: _Peer, server: _Peer, request: h11.Request, host: str, port: int, target: str
    ) -> bool:
        if request.method == b"CONNECT":
            await browser.receive(HEAD_SECONDS)
            await browser.send(h11.Response(status_code=200, headers=[], reason=b"Connected"))
            await _tunnel(browser, server)
            return False
        try:
            await _forward(browser, server, _onward(request, host, port, target))
        except (OSError, h11.RemoteProtocolError) as error:
            if browser.http.our_state is not h11.SEND_RESPONSE:
                raise
            slow = isinstance(error, TimeoutError)
            status = HTTPStatus.GATEWAY_TIMEOUT if slow else HTTPStatus.BAD_GATEWAY
            await browser.answer(status, f"{host} {'did not answer in time' if slow else 'broke off'}")
            return False
        if browser.http.our_state is h11.SWITCHED_PROTOCOL:
            await _tunnel(browser, server)
        return browser.http.our_state is h11.DONE and browser.http.their_state is h11.DONE


def refusal(proxy_status: str) -> str | None:
    """The reason a gate gave in place of a page, from the reply's `Proxy-Status` (RFC 9209)."""
    found = re.fullmatch(rf'{PROXY_NAME}; details="(.*)"', proxy_status)
    return found[1] if found else None


def _quotable(text: str) -> str:
    """What a quoted string of a structured field may hold (RFC 9651, section 3.3.3)."""
    return re.sub(r'[^\x20-\x7e]|["\\]', "'", text)


def _destination(request: h11.Request) -> tuple[str, int, str]:
    """Canonical host, port and onward target of a proxy request (RFC 9112 section 3.2); raises BadRequest."""
    target = request.target.decode("ascii", "replace")
    if request.method == b"CONNECT":
        host, port = _authority(target)
        if port is None:
            raise BadRequest("CONNECT needs a port")
        return host, port, ""
    scheme, separator, rest = target.partition("://")
    if not separator or scheme.lower() not in {"http", "ws"}:
        raise BadRequest("this is a proxy: ask for http://host/path, or CONNECT")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    host, port = _authority(authority)
    path = rest[len(authority) :].partition("#")[0]
    return host, port or 80, path if path.startswith("/") else f"/{path}"


async def open_gate(
    policy: Policy, on_refused: Callable[[str, str], None], lookup: Lookup = system_lookup
) -> Gate:
    """Open a door with this policy; `on_refused` gets the host and the reason of every refusal."""
    gate = Gate(policy, on_refused, lookup)
    await gate.open()
    return gate
