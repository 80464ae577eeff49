"""Mail: sent in the background over SMTP, or written to a directory where no server is configured."""

import asyncio
import os
import re
import ssl
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.errors import HeaderDefect, MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid
from functools import partial
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote, urlsplit
from uuid import uuid4

import aiosmtplib
import structlog

log = structlog.get_logger()

Deliver: TypeAlias = Callable[[EmailMessage], Awaitable[None]]

AT_ONCE = 4  # deliveries
WAITING = 1000  # mails; beyond them a flood is dropped, and logged
RETRIES = (5.0, 60.0)  # seconds before another try where one may help
CLOSING = 5.0  # seconds that the mails on their way have at the end
KEPT_SECONDS = 7 * 86_400  # in the outbox; no code in a mail is valid for longer
SECONDS = 20  # for each step of a conversation with a server
# Readable in a file, too: lines as long as RFC 5322, section 2.1.1, allows need no encoding.
POLICY = SMTP.clone(max_line_length=998)
ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*")
SUBJECT = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,200}")
LOOPBACK = ("127.0.0.1", "::1", "localhost")


class BadMail(Exception):
    """This address or subject cannot stand in a mail's header."""


class BadMailSettings(Exception):
    """SMTP_URL or MAIL_FROM cannot be used; the sentence says why."""


class Mail:
    """Sends mails one after the other has been asked for, never while anyone waits for it."""

    def __init__(self, deliver: Deliver, sender: Address) -> None:
        self._deliver, self._sender = deliver, sender
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, to: str, subject: str, text: str) -> None:
        """Begin to send and return at once; a mail that cannot be delivered is logged. Raises BadMail."""
        message = _message(self._sender, to, subject, text)
        if len(self._tasks) >= WAITING:
            log.error("mail_dropped", to=to, subject=subject)
            return
        task = asyncio.create_task(self._try(message))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Let what is on its way arrive, for a moment."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(self._tasks, timeout=CLOSING)
        for task in late:
            task.cancel()
        if late:
            log.error("mail_abandoned", mails=len(late))
            await asyncio.wait(late)

    async def _try(self, message: EmailMessage) -> None:
        for pause in (*RETRIES, None):
            try:
                async with self._slots:
                    await self._deliver(message)
            except (aiosmtplib.SMTPException, OSError) as error:
                told = _head(message) | {"error": repr(error)[:300]}
                if pause is None or not _may_pass(error):
                    log.error("mail_failed", **told)
                    return
                log.warning("mail_delayed", **told)
                await asyncio.sleep(pause)
            else:
                return


def _head(message: EmailMessage) -> dict[str, str]:
    """What the log may hold of a mail; its text may hold a key to an account."""
    return {"to": str(message["To"]), "subject": str(message["Subject"])}


def _may_pass(error: Exception) -> bool:
    """Whether another try may succeed: no answer, or one that says so (RFC 5321, section 4.2.1)."""
    if isinstance(error, aiosmtplib.SMTPRecipientsRefused):
        return all(400 <= refused.code < 500 for refused in error.recipients)
    if isinstance(error, aiosmtplib.SMTPResponseException):
        return 400 <= error.code < 500
    return isinstance(error, OSError) and not isinstance(error, ssl.SSLError)


def _message(sender: Address, to: str, subject: str, text: str) -> EmailMessage:
    if not SUBJECT.fullmatch(subject):
        raise BadMail("The subject of a mail is one line of at most 200 characters.")
    message = EmailMessage(POLICY)
    message["From"] = sender
    message["To"] = _address(to)
    message["Subject"] = subject
    message["Date"] = format_datetime(datetime.now(UTC))
    message["Message-ID"] = make_msgid(domain=sender.domain)
    message["Auto-Submitted"] = "auto-generated"  # so that nobody's holiday notice answers (RFC 3834)
    message.set_content(text)
    return message


def _address(text: str, name: str = "") -> Address:
    """One plain address; what other programs might read as two, or as another one, is BadMail."""
    try:
        if len(text) <= 254 and ADDRESS.fullmatch(text):
            return Address(name, addr_spec=text)
    except (HeaderDefect, MessageError, ValueError) as error:
        raise BadMail(f"{text!a} is not an address that mail can be sent to.") from error
    raise BadMail(f"{text!a} is not an address that mail can be sent to.")


# Where mail goes ----------------------------------------------------------------------------------


def open_mail(smtp_url: str, mail_from: str, outbox: Path) -> Mail:
    """Mail through the server of `smtp_url`, or into `outbox` without. Raises BadMailSettings."""
    if not smtp_url:
        return Mail(partial(_write, outbox), _sender(mail_from or "CUA Backend <no-reply@localhost>"))
    if not mail_from:
        raise BadMailSettings("Set MAIL_FROM beside SMTP_URL: the address that mail comes from.")
    return Mail(_server(smtp_url), _sender(mail_from))


def _sender(mail_from: str) -> Address:
    name, bracket, address = mail_from.rpartition("<")
    if bracket:
        address = address.removesuffix(">") if address.endswith(">") else ""
    try:
        if name and not SUBJECT.fullmatch(name):
            raise BadMail("a name of several lines")
        return _address(address, name.strip().strip('"'))
    except BadMail as error:
        raise BadMailSettings(
            "MAIL_FROM must be an address: no-reply@example.com, or Example <no-reply@example.com>."
        ) from error


def _server(smtp_url: str) -> Deliver:
    """Delivery over TLS from the start (`smtps:`), or after STARTTLS; in the clear on loopback only."""
    try:
        parts = urlsplit(smtp_url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host, port = None, None
    if not host or parts.scheme not in ("smtp", "smtps") or parts.path.strip("/") or parts.query:
        raise BadMailSettings(
            "SMTP_URL must be smtps://user:password@host:465 or smtp://user:password@host:587."
        )
    implicit = parts.scheme == "smtps"
    clear = host in LOOPBACK and not implicit
    send = partial(
        aiosmtplib.send,
        hostname=host,
        port=port or (465 if implicit else 587),
        username=unquote(parts.username or "") or None,
        password=unquote(parts.password or "") or None,
        use_tls=implicit,
        start_tls=not (implicit or clear),
        tls_context=ssl.create_default_context(),
        timeout=SECONDS,
    )

    async def deliver(message: EmailMessage) -> None:
        await send(message)
        log.info("mail_sent", **_head(message))

    return deliver


async def _write(outbox: Path, message: EmailMessage) -> None:
    file = outbox / f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{uuid4().hex}.eml"
    await asyncio.to_thread(_store, file, bytes(message))
    log.info("mail_written", **_head(message), file=str(file))


def _store(file: Path, data: bytes) -> None:
    """Whole or not at all, and for its owner's eyes only: a reset link is as good as a password."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in file.parent.glob("*.eml"):
        if old.stat().st_mtime < time.time() - KEPT_SECONDS:
            old.unlink(missing_ok=True)
    part = file.with_suffix(".part")
    try:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
