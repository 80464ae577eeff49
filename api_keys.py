"""API keys: programs' credentials, shown once and kept as their SHA-256."""

import hashlib
import re
import secrets
import string
import zlib
from datetime import UTC, datetime
from uuid import UUID

from starlette.responses import Response

import db
from models import ApiKey, Quota
from schemas import KeyCreate, KeyCreated, KeyRead, KeyUpdate

PREFIX = "cua_"
KEYS_PER_USER = 100
SHOWN = 8  # characters that a key is told by

_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_KEY = re.compile(rf"({PREFIX}[0-9A-Za-z]{{43}})([0-9A-Za-z]{{6}})")


class TooManyKeys(Exception):
    """The user has as many keys as one may have."""


# The text -----------------------------------------------------------------------------------------


def make() -> str:
    """A new key: 43 characters of base 62 are 256 random bits, six more tell a typo."""
    random = PREFIX + "".join(secrets.choice(_DIGITS) for _ in range(43))
    return random + _checksum(random)


def is_well_formed(text: str) -> bool:
    """Whether it may be a key, as far as can be told without a look-up."""
    match = _KEY.fullmatch(text)
    return match is not None and match[2] == _checksum(match[1])


def digest(key: str) -> bytes:
    """What is kept of a key: it has too much entropy to be guessed from a fast hash."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def _checksum(text: str) -> str:
    rest, written = zlib.crc32(text.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        written = _DIGITS[digit] + written
    return written


# What routes use ----------------------------------------------------------------------------------


async def create(tx: db.Tx, body: KeyCreate) -> Response:
    """Make a key and show it, this once. Raises TooManyKeys."""
    await tx.find(Quota, lock=True)
    if len(await tx.find(ApiKey)) >= KEYS_PER_USER:
        raise TooManyKeys(f"You have {KEYS_PER_USER} keys, the most there can be; delete one")
    key = make()
    row = await tx.add(ApiKey, start=key[:SHOWN], key_hash=digest(key), **body.model_dump())
    tx.announce("key.created", row, KeyRead)
    shown = KeyCreated(**KeyRead.model_validate(row).model_dump(), key=key)
    return tx.reply(shown, 201, f"/api/keys/{row.id}", secret=True)


async def update(tx: db.Tx, id: UUID, body: KeyUpdate) -> Response:
    """Set the fields sent; with a key that may do less now, sockets close. Raises NoResultFound."""
    before = await tx.one(ApiKey, lock=True, id=id)
    reply = await tx.update(ApiKey, KeyRead, id, body)
    if _is_narrower(before, body):
        _revoke(tx, id)
    return reply


async def delete(tx: db.Tx, id: UUID) -> Response:
    """Delete a key, for every process and socket at once. Raises NoResultFound."""
    _revoke(tx, id)
    return await tx.delete(ApiKey, id)


def _is_narrower(before: ApiKey, body: KeyUpdate) -> bool:
    end = datetime.max.replace(tzinfo=UTC)
    lost = body.scopes is not None and not set(before.scopes) <= set(body.scopes)
    return lost or (body.expires_at or end) < (before.expires_at or end)


def _revoke(tx: db.Tx, id: UUID) -> None:
    tx.hint("revoked", f"key:{id}".encode())
