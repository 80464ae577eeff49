"""Clerk's own events, signed by Svix: profiles mirrored, users erased, sign-ins ended."""

import base64
import binascii
import re
from datetime import UTC, datetime
from typing import Annotated, Any

import asyncpg
import orjson
import structlog
from pydantic import BaseModel, Field, StringConstraints, ValidationError
from standardwebhooks import Webhook as Verifier
from standardwebhooks.webhooks import WebhookVerificationError
from starlette.datastructures import Headers

import clerk_auth
import db
import users
from models import Inbox, User
from runs import engine
from schemas import Profiled
from settings import Settings, settings

log = structlog.get_logger()

SECRET_BYTES = 24  # the fewest that Standard Webhooks allows
NAME_CHARS = 200
URL_CHARS = 2000

_TIMESTAMP = re.compile(r"[0-9]{10}")
_MESSAGE_ID = re.compile(r"[!-~]{1,256}")
_SIGNATURES = re.compile(r"[!-~ ]{1,4096}")
_SESSION_ENDS = frozenset({"session.ended", "session.removed", "session.revoked"})


class ClerkEventsOff(Exception):
    """No secret is set by which Clerk's events could be told from forged ones."""


class InvalidSignature(Exception):
    """The message is not Clerk's, is too old, or was altered."""


class InvalidEvent(Exception):
    """The message is Clerk's, but not of a form that this server knows."""


# Messages -----------------------------------------------------------------------------------------

UserId = Annotated[str, StringConstraints(pattern=r"^user_[A-Za-z0-9]{1,64}$")]
SessionId = Annotated[str, StringConstraints(pattern=r"^sess_[A-Za-z0-9]{1,64}$")]


class _Event(BaseModel):
    type: str
    data: dict[str, Any]


class _Deleted(BaseModel):
    id: UserId


class _Session(BaseModel):
    id: SessionId


class _Verification(BaseModel):
    status: str | None = None


class _Address(BaseModel):
    id: str
    email_address: str
    verification: _Verification | None = None


class _Profile(BaseModel):
    """What is mirrored of a user; `updated_at` is in milliseconds."""

    id: UserId
    updated_at: int = Field(ge=0, lt=2**43)
    email_addresses: list[_Address] = []
    primary_email_address_id: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    username: str | None = None
    image_url: str | None = None
    banned: bool = False

    @property
    def at(self) -> datetime:
        return datetime.fromtimestamp(self.updated_at / 1000, UTC)

    def shown(self) -> dict[str, str | None]:
        """The columns of the user; an address that nobody has proved to own is left out."""
        proved = (
            address.email_address.lower()
            for address in self.email_addresses
            if address.id == self.primary_email_address_id
            and address.verification is not None
            and address.verification.status == "verified"
        )
        name = " ".join(filter(None, (self.first_name, self.last_name))) or self.username
        return {
            "email": _text(next(proved, None), 254),
            "name": _text(name, NAME_CHARS),
            "image_url": _text(self.image_url, URL_CHARS),
        }


def _text(value: str | None, most: int) -> str | None:
    """One line that the database can hold, or nothing."""
    kept = re.sub(r"[\x00-\x1f\x7f]+", " ", value or "").strip()[:most]
    return kept or None


def check_settings(chosen: Settings) -> None:
    """Raise Misconfigured unless the signing secret, where there is one, can be used."""
    secret = chosen.clerk_webhook_signing_secret
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except binascii.Error:
        key = b""
    if secret and len(key) < SECRET_BYTES:
        raise clerk_auth.Misconfigured(
            "CLERK_WEBHOOK_SIGNING_SECRET is not a signing secret (whsec_…) as Clerk's dashboard shows it."
        )


# Taking in ----------------------------------------------------------------------------------------


async def receive(headers: Headers, body: bytes) -> None:
    """Do once what the message says; repeats, old news and unknown types change nothing.

    Raises ClerkEventsOff, InvalidSignature, InvalidEvent, db.Unavailable.
    """
    message_id = _verified(headers, body)
    try:
        event = _Event.model_validate(orjson.loads(body))
        await _take_in(message_id, event)
    except (orjson.JSONDecodeError, ValidationError) as error:
        log.warning("clerk_event_invalid", message=message_id, error=str(error)[:500])
        raise InvalidEvent("The event is not of the form that Clerk documents.") from error


def _verified(headers: Headers, body: bytes) -> str:
    """The id of a message whose signature holds and is at most five minutes old."""
    if not settings.clerk_webhook_signing_secret:
        raise ClerkEventsOff("CLERK_WEBHOOK_SIGNING_SECRET is not set.")
    prefix = "svix" if "svix-id" in headers else "webhook"
    given = {name: headers.getlist(f"{prefix}-{name}") for name in ("id", "timestamp", "signature")}
    rules = {"id": _MESSAGE_ID, "timestamp": _TIMESTAMP, "signature": _SIGNATURES}
    try:
        if not all(len(given[name]) == 1 and rule.fullmatch(given[name][0]) for name, rule in rules.items()):
            raise ValueError("a header is missing, repeated or malformed")
        Verifier(settings.clerk_webhook_signing_secret).verify(
            body, {f"webhook-{name}": values[0] for name, values in given.items()}, json_parse=False
        )
    # Bad base64, bytes that are no UTF-8 and signatures of other forms are all ValueErrors.
    except (WebhookVerificationError, ValueError) as error:
        log.info("clerk_event_refused", reason=str(error)[:200])
        raise InvalidSignature("The message is not signed as it should be, or is too old.") from error
    return given["id"][0]


async def _take_in(message_id: str, event: _Event) -> None:
    if event.type == "user.deleted":
        await _erase(message_id, _Deleted.model_validate(event.data).id)
        return
    if event.type in ("user.created", "user.updated"):
        await _follow(message_id, _Profile.model_validate(event.data))
        return
    async with db.as_system() as tx:
        if not await _is_new(tx, message_id):
            return
        if event.type in _SESSION_ENDS:
            tx.hint("revoked", _Session.model_validate(event.data).id.encode())
        else:
            log.info("clerk_event_unknown", type=event.type[:100])


async def _is_new(tx: db.Tx, message_id: str) -> bool:
    """Write the message down; a twin that is being taken in at this moment is waited for."""
    try:
        async with tx.savepoint():
            await tx.add(Inbox, id=f"clerk:{message_id}")
    except asyncpg.UniqueViolationError:
        return False
    return True


async def _erase(message_id: str, user_id: str) -> None:
    """Written down after the erasure, so that one which broke off is done again when Svix repeats it."""
    async with db.as_system() as tx:
        if await _is_known(tx, message_id):
            return
    await users.erase(user_id)
    async with db.as_system() as tx:
        await _is_new(tx, message_id)


async def _is_known(tx: db.Tx, message_id: str) -> bool:
    return bool(await tx.find(Inbox, id=f"clerk:{message_id}"))


# Profiles -----------------------------------------------------------------------------------------


async def _follow(message_id: str, profile: _Profile) -> None:
    """Written down once the runs of a banned user have ended, so that what broke off is done again."""
    async with db.as_system() as tx:
        if await _is_known(tx, message_id):
            return
        banned = await _mirror(tx, profile)
        if not banned:
            await _is_new(tx, message_id)
    if banned:
        await engine.cancel_all(profile.id, "system")
        async with db.as_system() as tx:
            await _is_new(tx, message_id)


async def _mirror(tx: db.Tx, profile: _Profile) -> bool:
    """Whether the user is banned now."""
    (standing,) = await tx.call("ensure_user", profile.id, None, None, None, None)
    tx.act_for(profile.id)
    found = await tx.find(User, lock=True)
    if standing["erased"] or not found:
        log.info("clerk_event_of_erased_user")
        return False
    if found[0].mirrored_at is None or found[0].mirrored_at < profile.at:
        await _apply(tx, found[0], profile)
    return (await tx.one(User)).banned


async def _apply(tx: db.Tx, user: User, profile: _Profile) -> None:
    values: dict[str, Any] = {
        name: value for name, value in profile.shown().items() if value != getattr(user, name)
    }
    if profile.banned and user.disabled_at is None:
        values |= await users.standing(tx, disabled=True, banned=True)
    elif user.banned and not profile.banned:
        values |= await users.standing(tx, disabled=False, banned=False)
    if values:
        await tx.update(User, Profiled, user.id, None, **values, mirrored_at=profile.at)
    else:
        await tx.change(User, {"id": user.id}, mirrored_at=profile.at)
