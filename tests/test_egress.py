"""The filtering proxy: its rules by table, its protocol against real servers, and a real Chromium behind it."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.async_api import Error as BrowserError
from playwright.async_api import async_playwright
from websockets.asyncio.client import connect as connect_websocket
from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.http11 import Request, Response

from infra import egress
from infra.egress import Gate, Policy, Refused, check_url, is_public, open_gate, resolve
from settings import settings
from tests.receivers import serving

DEBIAN = Path("/usr/lib/chromium/chromium")
CHROMIUM = DEBIAN if DEBIAN.exists() else None  # else Playwright's own
DEVELOPMENT = Policy(allow_private=True)
OpenGate = Callable[..., Awaitable[Gate]]


class Names:
    """A resolver of its own: answers from a table, in turn when a name has several, and counts."""

    def __init__(self, **answers: list[list[str]]) -> None:
        self.answers = {name.replace("_", "."): itertools.cycle(turns) for name, turns in answers.items()}
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> list[str]:
        self.asked.append(host)
        if host not in self.answers:
            raise OSError("no such name")
        return next(self.answers[host])


@pytest.fixture
async def gate_of() -> AsyncIterator[OpenGate]:
    async with AsyncExitStack() as stack:

        async def gate_of(policy: Policy = DEVELOPMENT, *arguments: object) -> Gate:
            gate = await open_gate(policy, *(arguments or (lambda host, reason: None,)))  # type: ignore[arg-type]
            stack.push_async_callback(gate.close)
            return gate

        yield gate_of


async def connect(gate: Gate) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", urlsplit(gate.url).port)


async def exchange(gate: Gate, request: str, end: bool = False) -> str:
    """Send bytes as they are and read until the proxy closes."""
    reader, writer = await connect(gate)
    writer.write(request.encode())
    if end:
        writer.write_eof()
    try:
        return (await asyncio.wait_for(reader.read(), 20)).decode()
    finally:
        writer.close()


async def until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


# Rules ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "93.184.215.14",
        "2606:4700:4700::1111",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ],
)
def test_a_public_address_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "10.0.0.1",
        "100.64.0.1",
        "100.100.100.200",
        "127.0.0.1",
        "127.9.9.9",
        "168.63.129.16",
        "169.254.169.254",
        "172.16.0.1",
        "172.31.255.255",
        "192.0.0.192",
        "192.0.2.1",
        "192.88.99.1",
        "192.168.1.1",
        "198.18.0.1",
        "198.51.100.1",
        "203.0.113.1",
        "224.0.0.1",
        "239.255.255.255",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::7f00:1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::1",
        "100::1",
        "2001::1",
        "2001:db8::1",
        "2002:7f00:1::1",
        "2002:a00:1::1",
        "3fff::1",
        "5f00::1",
        "fc00::1",
        "fd00:ec2::254",
        "fe80::1",
        "fe80::1%1",
        "fec0::1",
        "ff02::1",
        "ff0e::1",
    ],
)
def test_an_address_of_a_private_or_special_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("https://example.com/a?b#c", None),
        ("https://bücher.example/", None),
        ("http://8.8.8.8/", None),
        ("https://[2606:4700:4700::1111]:8443/", None),
        ("https://a_b.example.com./", None),
        ("file:///etc/passwd", "only http and https pages are opened"),
        ("data:text/html,x", "only http and https pages are opened"),
        ("javascript:alert(1)", "only http and https pages are opened"),
        ("chrome://settings", "only http and https pages are opened"),
        ("blob:https://example.com/1", "only http and https pages are opened"),
        ("example.com", "only http and https pages are opened"),
        ("https://example.com@evil.example/", "an address with a user name in it is not opened"),
        ("https://example.com\\@evil.example/", "this is not a plain URL"),
        ("java\nscript:alert(1)", "this is not a plain URL"),
        (" https://example.com", "this is not a plain URL"),
        ("http://2130706433/", "write an IPv4 address as four decimal numbers"),
        ("http://0x7f.1/", "write an IPv4 address as four decimal numbers"),
        ("http://0x/", "write an IPv4 address as four decimal numbers"),
        ("http://017700000001/", "write an IPv4 address as four decimal numbers"),
        ("http://127.1/", "write an IPv4 address as four decimal numbers"),
        ("http://127.0.0.01/", "write an IPv4 address as four decimal numbers"),
        ("http://127.0.0.1./", "127.0.0.1 is not a public address"),
        ("http://127。0。0。1/", "127.0.0.1 is not a public address"),
        ("http://%31%32%37.0.0.1/", "this is not a host name"),
        ("http://[::1]/", "[::1] is not a public address"),
        ("http://[::ffff:127.0.0.1]/", "[::ffff:7f00:1] is not a public address"),
        ("http://[fe80::1%25eth0]/", "this is not a host name"),
        ("http://[::1/", "Invalid IPv6 URL"),
        ("http:///path", "this is not a host name"),
        ("http://example..com/", "this is not a host name"),
        (f"http://{'a' * 64}.com/", "this is not a host name"),
        ("http://example.com:0/", "this is not a port"),
        ("http://example.com:65536/", "this is not a port"),
        ("http://example.com:" + "9" * 5000, "this is not a port"),
        ("http://example.com:x/", "this is not a host name"),
    ],
)
def test_a_url_is_judged_before_it_is_opened(url: str, reason: str | None) -> None:
    assert check_url(url, Policy()) == reason


@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://example.com/", True),
        ("https://EXAMPLE.com./", True),
        ("https://www.example.com/", True),
        ("https://example.com.evil.org/", False),
        ("https://notexample.com/", False),
        ("https://com/", False),
        ("https://bücher.example/", True),
        ("https://xn--bcher-kva.example/", True),
        ("http://shop.test:8080/", True),
        ("http://shop.test/", False),
        ("http://intranet/", True),
        ("http://a.intranet/", False),
        ("https://8.8.8.8/", True),
        ("https://8.8.4.4/", False),
        ("https://[2606:4700::1]/", True),
    ],
)
def test_allowed_domains_hold_a_host_and_its_subdomains(url: str, allowed: bool) -> None:
    names = ("Example.com", "bücher.example", "shop.test:8080", "intranet", "8.8.8.8", "[2606:4700::1]")
    assert (check_url(url, Policy(names)) is None) == allowed


@pytest.mark.parametrize(
    "entry", ["*.example.com", "", "https://example.com", "a b", "x@y.z", "127.1", "a.b:99999"]
)
def test_an_allowed_domain_that_is_no_host_is_refused_with_a_sentence(entry: str) -> None:
    with pytest.raises(ValueError, match="write a host such as"):
        Policy((entry,))


def test_private_addresses_need_permission_and_metadata_services_stay_shut() -> None:
    assert check_url("http://10.0.0.1:9000/", DEVELOPMENT) is None
    assert check_url("http://169.254.169.254/latest/", DEVELOPMENT) is not None
    assert check_url("http://[::ffff:169.254.169.254]/", DEVELOPMENT) is not None
    assert check_url("http://169.254.170.2/v2/credentials", DEVELOPMENT) is not None
    assert check_url("http://[fd00:ec2::23]/v1/credentials", DEVELOPMENT) is not None


async def test_one_private_answer_refuses_the_whole_name() -> None:
    names = Names(
        mixed_example=[["93.184.215.14", "10.0.0.7"]], good_example=[["93.184.215.14", "2606:4700::1"]]
    )
    with pytest.raises(Refused, match=r"mixed\.example leads to 10\.0\.0\.7"):
        await resolve("mixed.example", 443, Policy(), names)
    assert [str(address) for address in await resolve("good.example", 443, Policy(), names)] == [
        "93.184.215.14",
        "2606:4700::1",
    ]


async def test_the_systems_resolver_is_asked_by_default() -> None:
    with pytest.raises(Refused, match=r"localhost leads to (127\.0\.0\.1|::1)"):
        await resolve("localhost", 443, Policy())


# Protocol -------------------------------------------------------------------------------------


async def test_a_request_is_passed_on_without_what_belongs_to_the_hop(gate_of: OpenGate) -> None:
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(
            b"HTTP/1.1 200 Fine\r\nConnection: keep-alive, X-Hop\r\nKeep-Alive: timeout=5\r\nX-Hop: 1\r\n"
            b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\n\r\nhello"
        )

    names = Names(shop_example=[["127.0.0.1"]])
    gate = await gate_of(DEVELOPMENT, lambda host, reason: None, names)
    async with serving(answer) as port:
        got = await exchange(
            gate,
            f"GET http://Shop.example:{port}/a%20b?c=d HTTP/1.1\r\nHost: other.example\r\nX-Kept: 1\r\n"
            "Proxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nX-Secret: 1\r\n"
            "Connection: close, X-Secret\r\nTE: trailers\r\n\r\n",
        )
    assert seen == [
        f"GET /a%20b?c=d HTTP/1.1\r\nHost: shop.example:{port}\r\nX-Kept: 1\r\nConnection: close\r\n\r\n".encode()
    ]
    assert got == (
        "HTTP/1.1 200 Fine\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    )
    assert names.asked == ["shop.example"]


async def test_a_request_with_two_lengths_is_passed_on_with_one(gate_of: OpenGate) -> None:
    """Content-Length beside Transfer-Encoding is how requests are smuggled (RFC 9112 section 6.3)."""
    seen: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append((await reader.readuntil(b"0\r\n\r\n")).lower())
        writer.write(
            b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"
        )

    gate = await gate_of()
    async with serving(answer) as port:
        got = await exchange(
            gate,
            f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 3\r\n"
            "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        )
    assert b"content-length" not in seen[0]
    assert seen[0].endswith(b"\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
    assert "content-length" not in got.lower()
    assert got.endswith("2\r\nok\r\n0\r\n\r\n")


async def test_the_checked_address_is_the_one_connected_to(gate_of: OpenGate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    names = Names(rebind_example=[["127.0.0.1"], ["169.254.169.254"]])
    refused: list[tuple[str, str]] = []
    gate = await gate_of(DEVELOPMENT, lambda host, reason: refused.append((host, reason)), names)
    async with serving(answer) as port, httpx.AsyncClient(proxy=gate.url) as client:
        url = f"http://rebind.example:{port}/"
        assert (await client.get(url)).text == "hi"
        assert names.asked == ["rebind.example"]
        assert (await client.get(url)).status_code == 403
    assert refused == [("rebind.example", "rebind.example leads to 169.254.169.254")]


async def test_the_next_address_is_tried_when_the_first_refuses(gate_of: OpenGate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")

    gate = await gate_of(DEVELOPMENT, lambda h, r: None, Names(two_example=[["127.0.0.2", "127.0.0.1"]]))
    async with serving(answer) as port, httpx.AsyncClient(proxy=gate.url) as client:
        assert (await client.get(f"http://two.example:{port}/")).status_code == 204


async def test_a_browser_connection_serves_many_requests(gate_of: OpenGate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + line)

    gate = await gate_of()
    async with serving(answer) as port:
        reader, writer = await connect(gate)
        for number in range(20):
            writer.write(f"GET http://127.0.0.1:{port}/{number} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
            assert b"Transfer-Encoding: chunked" in head
            body = await asyncio.wait_for(reader.readuntil(b"\r\n0\r\n\r\n"), 10)
            assert f"GET /{number} HTTP/1.1".encode() in body
        writer.close()


async def test_a_head_request_is_answered_by_a_head(gate_of: OpenGate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n")

    gate = await gate_of()
    async with serving(answer) as port, httpx.AsyncClient(proxy=gate.url) as client:
        assert (await client.head(f"http://127.0.0.1:{port}/")).headers["content-length"] == "5000"
        assert (await client.head("http://169.254.169.254/")).status_code == 403


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_body_streams_both_ways_at_once(gate_of: OpenGate, framing: str) -> None:
    """The server echoes each piece before it has seen the next one."""
    received = asyncio.Semaphore(0)

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert (b"content-length: 12" in head) == (framing == "length")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n")
        for _ in range(3):
            if framing == "chunked":
                assert await reader.readline() == b"4\r\n"
            writer.write(await reader.readexactly(4))
            if framing == "chunked":
                assert await reader.readline() == b"\r\n"
            received.release()
        if framing == "chunked":
            assert await reader.readexactly(5) == b"0\r\n\r\n"

    async def body() -> AsyncIterator[bytes]:
        for piece in (b"one.", b"two.", b"end."):
            yield piece
            await asyncio.wait_for(received.acquire(), 10)

    gate = await gate_of()
    headers = {"Content-Length": "12"} if framing == "length" else {}
    async with serving(echo) as port, httpx.AsyncClient(proxy=gate.url) as client:
        reply = await client.post(f"http://127.0.0.1:{port}/", content=body(), headers=headers)
    assert reply.text == "one.two.end."


async def test_early_hints_and_the_final_response_both_arrive(gate_of: OpenGate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    gate = await gate_of()
    async with serving(answer) as port:
        got = await exchange(
            gate, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        )
    assert "103" in got.split("\r\n")[0]
    assert "Link: </a.css>" in got
    assert got.endswith("\r\n\r\nok")


async def test_an_answer_before_the_end_of_the_upload_arrives(gate_of: OpenGate) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 3\r\n\r\nbig")
        await writer.drain()
        await reader.read(10)

    gate = await gate_of()
    async with serving(refuse) as port:
        reader, writer = await connect(gate)
        writer.write(
            f"POST http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nxxx".encode()
        )
        got = await asyncio.wait_for(reader.read(), 10)
        assert got.startswith(b"HTTP/1.1 413")
        assert got.endswith(b"big")
        writer.close()


async def test_a_server_that_breaks_off_is_a_broken_response_not_a_short_one(gate_of: OpenGate) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1]
        if path == b"/body":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
            await writer.drain()

    gate = await gate_of()
    async with serving(break_off) as port, httpx.AsyncClient(proxy=gate.url) as client:
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get(f"http://127.0.0.1:{port}/body")
        reply = await client.get(f"http://127.0.0.1:{port}/head")
    assert reply.status_code == 502
    assert "127.0.0.1 broke off" in reply.text


async def test_a_tunnel_half_closed_by_the_browser_still_carries_the_answer(gate_of: OpenGate) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        question = await reader.read()
        writer.write(b"%d bytes" % len(question))

    gate = await gate_of()
    async with serving(answer) as port:
        got = await exchange(
            gate, f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n" + "x" * 300_000, end=True
        )
    head, _, body = got.partition("\r\n\r\n")
    assert head.startswith("HTTP/1.1 200 ")
    assert body == "300000 bytes"


@pytest.mark.parametrize("request_line", ["CONNECT 127.0.0.1:{port}", "POST http://127.0.0.1:{port}/"])
async def test_a_server_that_does_not_read_stops_the_browser(gate_of: OpenGate, request_line: str) -> None:
    async def ignore(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(60)

    gate = await gate_of()
    async with serving(ignore) as port:
        _, writer = await connect(gate)
        head = f"{request_line.format(port=port)} HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        if head.startswith("CONNECT"):
            head = head.replace("Content-Length: 1000000000\r\n", "")
        writer.write(head.encode())
        sent = 0
        with pytest.raises(TimeoutError):
            while sent < 100_000_000:
                writer.write(bytes(100_000))
                await asyncio.wait_for(writer.drain(), 2)
                sent += 100_000
        assert sent < 100_000_000
        writer.transport.abort()


async def test_a_websocket_passes_by_upgrade_and_by_tunnel(gate_of: OpenGate) -> None:
    async def echo(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send(message)

    gate = await gate_of()
    async with serve(echo, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with connect_websocket(f"ws://127.0.0.1:{port}/", proxy=gate.url) as tunnelled:
            await tunnelled.send("tunnelled")
            assert await tunnelled.recv() == "tunnelled"
        reader, writer = await connect(gate)
        writer.write(
            f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.startswith(b"HTTP/1.1 101 ")
        assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head
        writer.write(b"\x81\x82\0\0\0\0hi")
        assert await asyncio.wait_for(reader.readexactly(4), 10) == b"\x81\x02hi"
        writer.transport.abort()


# Refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_line", "status", "said", "refused"),
    [
        ("GET http://10.0.0.1/", 403, "10.0.0.1 is not a public address", ["10.0.0.1"]),
        ("CONNECT 127.0.0.1:443", 403, "127.0.0.1 is not a public address", ["127.0.0.1"]),
        ("CONNECT localhost:443", 403, "localhost leads to 127.0.0.1", ["localhost"]),
        ("CONNECT [::ffff:127.0.0.1]:443", 403, "is not a public address", ["[::ffff:7f00:1]"]),
        ("CONNECT private.example:443", 403, "private.example leads to 10.1.1.1", ["private.example"]),
        ("GET http://2130706433/", 400, "four decimal numbers", []),
        ("GET http://user@example.com/", 400, "user name", []),
        ("GET http://<script>/", 400, "not a host name", []),
        ("GET https://example.com/", 400, "this is a proxy", []),
        ("GET /", 400, "this is a proxy", []),
        ("CONNECT example.com", 400, "CONNECT needs a port", []),
        ("GET http://missing.example/", 502, "missing.example has no address", []),
        ("CONNECT slow.example:443", 504, "looking up slow.example took too long", []),
    ],
)
async def test_what_is_not_served_says_why(
    gate_of: OpenGate, request_line: str, status: int, said: str, refused: list[str]
) -> None:
    names = Names(private_example=[["10.1.1.1"]], localhost=[["127.0.0.1"]])

    async def lookup(host: str, port: int) -> list[str]:
        if host == "slow.example":
            raise TimeoutError
        return await names(host, port)

    seen: list[str] = []
    gate = await gate_of(Policy(), lambda host, reason: seen.append(host), lookup)
    got = await exchange(gate, f"{request_line} HTTP/1.1\r\nHost: x\r\n\r\n", end=True)
    assert got.startswith(f"HTTP/1.1 {status} ")
    assert said in got
    assert seen == refused


@pytest.mark.parametrize(
    ("public_url", "own"),
    [
        ("", ""),
        ("http://127.0.0.1:8000", ""),  # the API itself, which trusts this machine more
        ("http://127.0.0.1:3000/", "127.0.0.1:3000"),
        ("https://Cua.example.com", "cua.example.com:443"),
        ("http://[::1]:3000", "[::1]:3000"),
    ],
)
def test_the_web_app_is_what_people_open_unless_that_is_the_api(public_url: str, own: str) -> None:
    assert settings.model_copy(update={"public_url": public_url, "port": 8000}).web_app == own


async def test_the_web_app_may_be_private_and_nothing_beside_it() -> None:
    names = Names(cua_example=[["10.0.0.7"]], localhost=[["127.0.0.1"]])
    policy = Policy(own="127.0.0.1:3000")
    assert check_url("http://127.0.0.1:3000/sample", policy) is None
    for url in ("http://127.0.0.1:8000/metrics", "http://127.0.0.2:3000/", "http://localhost:3000/"):
        with pytest.raises(Refused):
            await resolve(urlsplit(url).hostname or "", urlsplit(url).port or 80, policy, names)
    assert await resolve("cua.example", 443, Policy(own="cua.example:443"), names)
    with pytest.raises(Refused):
        await resolve("169.254.169.254", 80, Policy(own="169.254.169.254:80"), names)
    with pytest.raises(Refused):
        await resolve("127.0.0.1", 3000, Policy(("shop.example",), own="127.0.0.1:3000"), names)


async def test_a_host_outside_the_allowed_domains_is_refused_without_a_lookup(gate_of: OpenGate) -> None:
    names = Names(evil_example=[["127.0.0.1"]])
    gate = await gate_of(Policy(("good.example",), allow_private=True), lambda h, r: None, names)
    got = await exchange(gate, "CONNECT evil.example:443 HTTP/1.1\r\nHost: good.example\r\n\r\n", end=True)
    assert "evil.example is not among the allowed domains" in got
    assert names.asked == []


async def test_a_closed_port_is_a_502(gate_of: OpenGate) -> None:
    async def nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None: ...

    async with serving(nothing) as port:
        pass
    gate = await gate_of()
    got = await exchange(gate, f"GET http://127.0.0.1:{port}/ HTTP/1.1\r\nHost: x\r\n\r\n", end=True)
    assert got.startswith("HTTP/1.1 502 ")
    assert f"127.0.0.1 accepts no connection on port {port}" in got


async def test_an_oversized_head_and_garbage_are_answered_and_cut(gate_of: OpenGate) -> None:
    gate = await gate_of()
    got = await exchange(gate, "GET http://a/ HTTP/1.1\r\nHost: x\r\nX: " + "y" * 200_000)
    assert got.startswith("HTTP/1.1 431 ")
    assert (await exchange(gate, "\x16\x03\x01 not http\r\n\r\n")).startswith("HTTP/1.1 400 ")


async def test_a_head_that_trickles_in_is_cut(gate_of: OpenGate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(egress, "HEAD_SECONDS", 0.5)
    gate = await gate_of()
    _, writer = await connect(gate)
    with pytest.raises(ConnectionError):
        async with asyncio.timeout(15):
            while True:
                writer.write(b"X")
                await writer.drain()
                await asyncio.sleep(0.05)
    writer.transport.abort()


async def test_a_closed_gate_cuts_its_connections_and_listens_no_more(gate_of: OpenGate) -> None:
    gone = asyncio.Event()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.read()
        finally:
            gone.set()

    gate = await gate_of()
    async with serving(wait) as port:
        idle, idle_writer = await connect(gate)
        reader, writer = await connect(gate)
        writer.write(f"CONNECT 127.0.0.1:{port} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        await gate.close()
        for stream in (idle, reader):
            with suppress(ConnectionResetError):
                assert await asyncio.wait_for(stream.read(), 10) == b""
        await asyncio.wait_for(gone.wait(), 10)
        with pytest.raises(ConnectionRefusedError):
            await connect(gate)
        idle_writer.close()
        writer.close()
    await gate.close()


def listening_on(port: int) -> list[str]:
    """Local addresses of listening sockets, as the kernel writes them."""
    tables = [table for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if table.exists()]
    rows = [line.split() for table in tables for line in table.read_text().splitlines()[1:]]
    return [row[1] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]


async def test_a_gate_listens_on_loopback_alone(gate_of: OpenGate) -> None:
    port = urlsplit((await gate_of()).url).port
    assert port is not None
    assert listening_on(port) == [f"0100007F:{port:04X}"]


# Chromium -------------------------------------------------------------------------------------


async def test_chromium_reaches_what_is_allowed_and_nothing_else(gate_of: OpenGate) -> None:
    size = 50 * 2**20

    def respond(connection: ServerConnection, request: Request) -> Response | None:
        if request.path == "/ws":
            return None
        headers = Headers(
            {"Content-Type": "text/html", "Access-Control-Allow-Origin": "*", "Connection": "close"}
        )
        if request.path == "/away":
            headers["Location"] = f"http://evil.example:{port}/"
            return Response(302, "Found", headers, b"")
        body = bytes(size) if request.path == "/download" else b"<title>Shop</title>"
        headers["Content-Length"] = str(len(body))
        return Response(200, "OK", headers, body)

    async def echo(websocket: ServerConnection) -> None:
        async for message in websocket:
            await websocket.send(message)

    refused: list[str] = []
    names = Names(
        shop_example=[["127.0.0.1"]], cdn_shop_example=[["127.0.0.1"]], evil_example=[["127.0.0.1"]]
    )
    policy = Policy(("shop.example",), allow_private=True)
    gate = await gate_of(policy, lambda host, reason: refused.append(host), names)
    async with (
        serve(echo, "127.0.0.1", 0, process_request=respond) as server,
        async_playwright() as playwright,
    ):
        port = server.sockets[0].getsockname()[1]
        shop = f"http://shop.example:{port}"
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        try:
            context = await browser.new_context(proxy={"server": gate.url})
            page = await context.new_page()
            page.set_default_timeout(20_000)
            await page.goto(f"{shop}/")
            assert await page.title() == "Shop"
            fetch = "url => fetch(url).then(r => r.status, error => 'blocked')"
            assert await page.evaluate(fetch, f"http://cdn.shop.example:{port}/") == 200
            assert await page.evaluate(fetch, f"http://evil.example:{port}/") == "blocked"
            assert await page.evaluate(fetch, f"http://127.0.0.1:{port}/") == "blocked"
            assert await page.evaluate(fetch, f"http://localhost:{port}/") == "blocked"
            assert refused == ["evil.example", "127.0.0.1", "localhost"]
            socket = """url => new Promise(done => {
                const socket = new WebSocket(url)
                socket.onopen = () => socket.send('hi')
                socket.onmessage = message => done(message.data)
                socket.onerror = () => done('blocked')
            })"""
            assert await page.evaluate(socket, f"ws://shop.example:{port}/ws") == "hi"
            assert await page.evaluate(socket, f"ws://evil.example:{port}/ws") == "blocked"
            length = "url => fetch(url).then(r => r.arrayBuffer()).then(b => b.byteLength)"
            assert await page.evaluate(length, f"{shop}/download") == size
            refused.clear()
            reply = await page.goto(f"{shop}/away")
            assert reply is not None
            assert reply.status == 403
            assert "evil.example is not among the allowed domains" in await page.inner_text("body")
            with pytest.raises(BrowserError, match="ERR_TUNNEL_CONNECTION_FAILED"):
                await page.goto(f"https://evil.example:{port}/")
            assert set(refused) == {"evil.example"}
            assert set(names.asked) == {"shop.example", "cdn.shop.example"}
        finally:
            await browser.close()
