"""Mail over a real SMTP server, into files without one, and never in anybody's way."""

import asyncio
import ipaddress
import os
import re
import ssl
import stat
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from infra import mail
from infra.mail import BadMail, BadMailSettings, Mail, open_mail
from settings import settings
from tests.conftest import Backend, free_port

SENDER = "CUA <no-reply@example.com>"
LOGIN = LoginPassword(b"me@example.com", b"p@ss:word/%")


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not fact():  # noqa: ASYNC110 - a fact of the outside has no event
            await asyncio.sleep(0.01)


# A server -------------------------------------------------------------------------------------


@dataclass
class Post:
    """An SMTP server that keeps what it gets; `answers` are said first, one for each recipient named."""

    port: int = 0
    got: list[EmailMessage] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    answers: list[str] = field(default_factory=list)
    connections: int = 0
    secure: list[bool] = field(default_factory=list)
    signed_in: list[bool] = field(default_factory=list)

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: SMTP, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        self.connections += session.ssl is None
        session.host_name = hostname
        return responses

    async def handle_RCPT(  # noqa: N802
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if self.answers:
            return self.answers.pop(0)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.got.append(message)
        self.envelopes.append(envelope)
        assert server.transport is not None
        self.secure.append(server.transport.get_extra_info("sslcontext") is not None)
        self.signed_in.append(bool(session.authenticated))
        return "250 OK"


@asynccontextmanager
async def post_office(
    host: str = "127.0.0.1", *, implicit: bool = False, **options: Any
) -> AsyncIterator[Post]:
    post = Post()
    context = options.get("tls_context") if implicit else None
    if implicit:
        options.pop("tls_context")
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: SMTP(post, hostname="mail.example.com", loop=loop, **options), host, 0, ssl=context
    )
    post.port = server.sockets[0].getsockname()[1]
    try:
        yield post
    finally:
        server.close()
        await server.wait_closed()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a key and its certificate for loopback."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail")])
    addresses = [x509.IPAddress(ipaddress.ip_address(it)) for it in ("127.0.0.1", "127.0.0.2")]
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "mail.pem"
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(private + made.public_bytes(Encoding.PEM))
    return file


@pytest.fixture
def tls(certificate: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def trusted(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries again at once."""
    monkeypatch.setattr(mail, "RETRIES", (0.0, 0.0))


async def send(
    url: str, to: str = "ada@example.com", subject: str = "Hello", text: str = "Hi\n"
) -> list[Any]:
    """Send one mail to its end; returns what was logged."""
    out = open_mail(url, SENDER, Path("unused"))
    with structlog.testing.capture_logs() as logs:
        out.send(to, subject, text)
        await out.close()
    return logs


# Over SMTP ------------------------------------------------------------------------------------


async def test_a_mail_arrives_as_it_was_written() -> None:
    text = "Grüße\n\n.a line that begins with a dot\nhttp://127.0.0.1:8000/reset?code=" + "x" * 64 + "\n"
    async with post_office() as post:
        logs = await send(f"smtp://127.0.0.1:{post.port}", "ada+cua@example.com", "Grüße aus Köln", text)
    [message], [envelope] = post.got, post.envelopes
    assert (envelope.mail_from, envelope.rcpt_tos) == ("no-reply@example.com", ["ada+cua@example.com"])
    assert (message["From"], message["To"]) == (SENDER, "ada+cua@example.com")
    assert (message["Subject"], message["Auto-Submitted"]) == ("Grüße aus Köln", "auto-generated")
    assert message["Message-ID"].endswith("@example.com>")
    assert message["Date"].datetime == pytest.approx(datetime.now(UTC), abs=timedelta(minutes=1))
    assert message.get_content().replace("\r\n", "\n") == text
    assert logs == [
        {"event": "mail_sent", "log_level": "info", "to": "ada+cua@example.com", "subject": "Grüße aus Köln"}
    ]


async def test_a_login_travels_under_starttls(tls: ssl.SSLContext, trusted: None) -> None:
    def check(_server: Any, _session: Any, _envelope: Any, _mechanism: str, told: Any) -> AuthResult:
        return AuthResult(success=told == LOGIN, handled=False)

    options: dict[str, Any] = {
        "tls_context": tls,
        "require_starttls": True,
        "auth_required": True,
        "authenticator": check,
    }
    async with post_office("127.0.0.2", **options) as post:
        await send(f"smtp://me%40example.com:p%40ss%3Aword%2F%25@127.0.0.2:{post.port}")
        assert (post.secure, post.signed_in) == ([True], [True])
        [failure] = await send(f"smtp://me%40example.com:wrong@127.0.0.2:{post.port}")
        assert failure["event"] == "mail_failed"
        assert "wrong" not in str(failure)
        assert len(post.got) == 1


async def test_tls_may_come_first(tls: ssl.SSLContext, trusted: None) -> None:
    async with post_office(implicit=True, tls_context=tls) as post:
        await send(f"smtps://127.0.0.1:{post.port}")
        assert post.secure == [True]


async def test_nothing_leaves_this_machine_in_the_clear(hasty: None) -> None:
    async with post_office("127.0.0.2") as post:
        [failure] = await send(f"smtp://127.0.0.2:{post.port}")
        assert (failure["event"], post.got) == ("mail_failed", [])


@pytest.mark.parametrize("implicit", [False, True])
async def test_a_server_that_cannot_prove_its_name_gets_nothing(
    tls: ssl.SSLContext, hasty: None, implicit: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async with post_office("127.0.0.2", implicit=implicit, tls_context=tls) as post:
        logs = await send(f"smtp{'s' * implicit}://127.0.0.2:{post.port}")
        assert [log["event"] for log in logs][-1] == "mail_failed"
        assert post.got == []


@pytest.mark.parametrize(
    ("answers", "events"),
    [
        (["451 later"], ["mail_delayed", "mail_sent"]),
        (["451 later", "421 busy"], ["mail_delayed", "mail_delayed", "mail_sent"]),
        (["451 later"] * 3, ["mail_delayed", "mail_delayed", "mail_failed"]),
        (["550 nobody here"], ["mail_failed"]),
    ],
    ids=["once", "twice", "always", "never"],
)
async def test_a_server_that_says_later_is_asked_again(
    answers: list[str], events: list[str], hasty: None
) -> None:
    async with post_office() as post:
        post.answers = answers
        logs = await send(f"smtp://127.0.0.1:{post.port}")
        assert [log["event"] for log in logs] == events
        assert len(post.got) == events.count("mail_sent")


async def test_an_absent_server_is_asked_again_and_its_mail_given_up(hasty: None) -> None:
    logs = await send(
        f"smtp://127.0.0.1:{free_port()}", subject="Secret business", text="https://x/reset?code=1"
    )
    assert [log["event"] for log in logs] == ["mail_delayed", "mail_delayed", "mail_failed"]
    assert logs[-1]["to"] == "ada@example.com"
    assert "code=1" not in str(logs)


# In nobody's way ------------------------------------------------------------------------------


def silent() -> tuple[Mail, asyncio.Event, list[str]]:
    """Mail that is delivered once the event is set, and who got it."""
    go_on, got = asyncio.Event(), list[str]()

    async def deliver(message: EmailMessage) -> None:
        await go_on.wait()
        got.append(str(message["To"]))

    return Mail(deliver, open_mail("", SENDER, Path())._sender), go_on, got


async def test_sending_waits_for_nobody_and_few_go_at_once() -> None:
    out, go_on, got = silent()
    for number in range(20):
        out.send(f"a{number}@example.com", "Hello", "Hi")
    await asyncio.sleep(0)
    assert got == []
    go_on.set()
    await out.close()
    assert got == [f"a{number}@example.com" for number in range(20)]


async def test_a_flood_is_dropped_and_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "WAITING", 3)
    out, go_on, got = silent()
    with structlog.testing.capture_logs() as logs:
        for number in range(5):
            out.send(f"a{number}@example.com", "Hello", "Hi")
    assert [(log["event"], log["to"]) for log in logs] == [
        ("mail_dropped", "a3@example.com"),
        ("mail_dropped", "a4@example.com"),
    ]
    go_on.set()
    await out.close()
    assert len(got) == 3


async def test_the_end_waits_a_moment_and_says_what_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mail, "CLOSING", 0.05)
    out, _, got = silent()
    out.send("ada@example.com", "Hello", "Hi")
    with structlog.testing.capture_logs() as logs:
        await out.close()
        await out.close()
    assert logs == [{"event": "mail_abandoned", "log_level": "error", "mails": 1}]
    assert got == []


# Headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to",
    [
        *("", "ada", "@example.com", "ada@", "ada@example.com\n", "ada@example.com\r\nBcc: eve@example.com"),
        *("ada@example.com,eve@example.com", "eve,ada@example.com", "a b@example.com", "<ada@example.com>"),
        *("Ada <ada@example.com>", '"ada"@example.com', "ada(eve)@example.com", "ada;eve@example.com"),
        *(
            "ada@eve@example.com",
            "ada@[127.0.0.1]",
            "a..b@example.com",
            "jörg@example.com",
            "ada@exämple.com",
        ),
        *("ada@example.com\0", "\ud800@example.com", "ada\u2028@example.com", "a" * 65 + "@example.com"),
        "a@" + "b" * 260 + ".com",
    ],
    ids=ascii,
)
async def test_an_address_that_could_be_read_as_another_is_refused(to: str, tmp_path: Path) -> None:
    out = open_mail("", "", tmp_path)
    with pytest.raises(BadMail, match="not an address"):
        out.send(to, "Hello", "Hi")
    await out.close()
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240


@pytest.mark.parametrize(
    "subject",
    ["", "a\nBcc: eve@example.com", "a\rb", "a\0", "a\x85b", "a\u2028b", "\ud800", "x" * 201],
    ids=ascii,
)
async def test_a_subject_of_several_lines_is_refused(subject: str, tmp_path: Path) -> None:
    out = open_mail("", "", tmp_path)
    with pytest.raises(BadMail, match="one line"):
        out.send("ada@example.com", subject, "Hi")
    await out.close()
    assert not any(tmp_path.iterdir())  # noqa: ASYNC240


# Files ----------------------------------------------------------------------------------------


async def test_without_a_server_mail_is_a_file_and_the_log_names_no_secret(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    link = "http://127.0.0.1:8000/reset?code=" + "x" * 64
    out = open_mail("", "", outbox)
    with structlog.testing.capture_logs() as logs:
        out.send("ada@example.com", "Hello", f"Click\n{link}\n")
        await out.close()
    [file] = outbox.iterdir()
    assert re.fullmatch(r"\d{8}T\d{6}-[0-9a-f]{32}\.eml", file.name)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(outbox.stat().st_mode) == 0o700
    assert link in file.read_text().splitlines(), "readable as it is"
    message = message_from_bytes(file.read_bytes(), policy=policy.default)
    assert (message["To"], message["From"]) == ("ada@example.com", "CUA Backend <no-reply@localhost>")
    told = {"to": "ada@example.com", "subject": "Hello", "file": str(file)}
    assert logs == [{"event": "mail_written", "log_level": "info"} | told]


async def test_old_mails_leave_the_outbox(tmp_path: Path) -> None:
    outbox = tmp_path / "outbox"
    outbox.mkdir()
    now = time.time()
    for name, age in (("old", mail.KEPT_SECONDS + 60), ("young", mail.KEPT_SECONDS - 60)):
        (outbox / f"{name}.eml").touch()
        os.utime(outbox / f"{name}.eml", (now - age, now - age))
    post = open_mail("", "", outbox)
    post.send("ann@example.com", "Hello", "Text")
    await post.close()
    assert not (outbox / "old.eml").exists()
    assert len(list(outbox.glob("*.eml"))) == 2


async def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, hasty: None) -> None:
    (tmp_path / "outbox").write_text("in the way")
    out = open_mail("", "", tmp_path / "outbox")
    with structlog.testing.capture_logs() as logs:
        out.send("ada@example.com", "Hello", "Hi")
        await out.close()
    assert logs[-1]["event"] == "mail_failed"
    assert [path.name for path in tmp_path.iterdir()] == ["outbox"]  # noqa: ASYNC240


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    taken = tmp_path / "mail.eml"
    taken.mkdir()
    with pytest.raises(OSError, match="directory"):
        mail._store(taken, b"mail")
    assert list(tmp_path.iterdir()) == [taken]


# Settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "sender", "name"),
    [
        *(
            (url, SENDER, "SMTP_URL")
            for url in ("mail.example.com", "http://mail.example.com", "smtp://", "smtp:25")
        ),
        *(
            (f"smtp://mail.example.com{it}", SENDER, "SMTP_URL")
            for it in (":port", ":99999", "/path", "?tls=no")
        ),
        ("smtp://mail.example.com", "", "Set MAIL_FROM"),
        *(
            ("", it, "MAIL_FROM")
            for it in ("CUA", "CUA <no-reply>", "a@b.c, d@e.f", "<a@b.c", "A\nB <a@b.c>")
        ),
    ],
    ids=ascii,
)
def test_wrong_settings_stop_the_start_with_a_sentence(url: str, sender: str, name: str) -> None:
    with pytest.raises(BadMailSettings, match=name):
        open_mail(url, sender, Path("unused"))


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        ("no-reply@example.com", "no-reply@example.com"),
        ("CUA <no-reply@example.com>", "CUA <no-reply@example.com>"),
        ('"CUA, Inc." <no-reply@example.com>', '"CUA, Inc." <no-reply@example.com>'),
        ("<no-reply@example.com>", "no-reply@example.com"),
    ],
)
def test_the_sender_may_have_a_name(sender: str, shown: str) -> None:
    assert str(open_mail("", sender, Path("unused"))._sender) == shown


# A whole server -------------------------------------------------------------------------------


async def verified(auth: httpx.AsyncClient, person: dict[str, str]) -> bool:
    """Whether the API says so of this person's address."""
    token = (await auth.post("/login", json=person)).json()["data"]["access_token"]
    me = await auth.get(auth.base_url.join("/api/me"), headers={"Authorization": f"Bearer {token}"})
    return bool(me.json()["data"]["email_verified"])


async def test_a_forgotten_password_is_reset_through_the_api(data_dir: Path) -> None:
    assert settings.smtp_url == ""
    async with post_office() as post:
        options = {
            "SMTP_URL": f"smtp://127.0.0.1:{post.port}",
            "MAIL_FROM": SENDER,
            "WORKER": "off",
            "LOG_LEVEL": "info",
        }
        server = Backend(data_dir, free_port(), options)
        await server.start()
        try:
            async with httpx.AsyncClient(base_url=f"{server.url}/api/auth") as client:
                person = {"email": "ada@example.com", "password": "correct horse battery"}
                assert (await client.post("/register", json=person)).status_code == 201
                for address in ("nobody@example.com", "ada@example.com"):
                    reply = await client.post("/forgot", json={"email": address})
                    assert (reply.status_code, reply.json()) == (200, {"success": True, "data": None})
                await until(lambda: len(post.got) == 2)
                links = [
                    re.search(rf"{server.url}/(verify|reset)\?code=(\S+)", message.get_content())
                    for message in post.got
                ]
                codes = {link[1]: link[2] for link in links if link}
                for path, body in [
                    ("/reset", {"code": codes["verify"], "password": "another long sentence"}),
                    ("/reset", {"code": "x", "password": "another long sentence"}),
                    ("/verify", {"code": codes["reset"]}),
                ]:
                    reply = await client.post(path, json=body)
                    assert (reply.status_code, reply.json()["code"]) == (422, "invalid_code")
                short = await client.post("/reset", json={"code": codes["reset"], "password": "short"})
                assert (short.status_code, short.json()["code"]) == (422, "invalid")
                assert not await verified(client, person)
                assert (await client.post("/verify", json={"code": codes["verify"]})).json()["data"] is None
                assert await verified(client, person)
                changed = {"code": codes["reset"], "password": "another long sentence"}
                assert (await client.post("/reset", json=changed)).status_code == 200
                assert (await client.post("/reset", json=changed)).status_code == 422
                assert (await client.post("/login", json=person)).status_code == 401
                person["password"] = "another long sentence"
                assert (await client.post("/login", json=person)).status_code == 200
        finally:
            await server.stop()
        assert not any(code in server.log for code in codes.values())
        assert "mail_sent" in server.log


async def test_a_mail_server_that_hangs_keeps_nobody_waiting(data_dir: Path) -> None:
    gone = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    silence = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = silence.sockets[0].getsockname()[1]
    server = Backend(
        data_dir, free_port(), {"SMTP_URL": f"smtp://127.0.0.1:{port}", "MAIL_FROM": SENDER, "WORKER": "off"}
    )
    await server.start()
    try:
        async with asyncio.timeout(10), server.sign_up() as client:
            assert (await client.get("/api/me")).status_code == 200
    finally:
        await server.stop()
        await asyncio.wait_for(gone.wait(), 10)
        silence.close()
        await silence.wait_closed()
    assert "mail_abandoned" in server.log
