"""Secrets: sealed values, each pinned to the origins of the pages that are told it."""

import asyncio
import hashlib
import re
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Self
from urllib.parse import parse_qsl, urlsplit

import orjson
import pyotp
import structlog
from starlette.responses import Response

import db
from infra.redaction import Redactor, cut
from infra.vault import Unsealable
from models import Secret, SecretKind, uuid7
from runs.parameters import Invalid, Problem
from schemas import SecretCreate, SecretRead, SecretUpdate

log = structlog.get_logger()

FIELDS = {  # of each kind; the first one is needed
    SecretKind.password: ("password", "username", "totp"),
    SecretKind.totp: ("totp",),
    SecretKind.text: ("text",),
}
ALL_FIELDS = ("username", "password", "totp", "text")
HIDDEN = ("password", "totp", "text")  # a username is shown, as sites show it
LEAST_SECONDS = 3.0  # that a code has to be good for


class InvalidSecret(Invalid):
    """The values do not make a secret of that kind."""


async def create(tx: db.Tx, body: SecretCreate) -> Response:
    """Seal the values and answer 201 without them. Raises InvalidSecret."""
    secret_id = uuid7()
    values = _checked(body.kind, body.model_dump(include=set(ALL_FIELDS), exclude_none=True))
    return await tx.create(
        Secret,
        SecretRead,
        id=secret_id,
        name=body.name,
        kind=body.kind,
        origins=list(dict.fromkeys(body.origins)),
        fields=list(values),
        sealed=tx.seal(Secret, "sealed", secret_id, orjson.dumps(values)),
    )


async def update(tx: db.Tx, secret: Secret, body: SecretUpdate) -> Response:
    """Replace the values sent and keep the others. Raises InvalidSecret, infra.vault.Unsealable.

    Another origin needs every value again: whoever could add one alone could have the secret typed there.
    """
    sent = body.model_dump(exclude_unset=True)
    changed = {name: sent.pop(name) for name in ALL_FIELDS if name in sent}
    if "origins" in sent:
        sent["origins"] = list(dict.fromkeys(sent["origins"]))
        missing = [name for name in secret.fields if name not in changed]
        if missing and not set(sent["origins"]) <= set(secret.origins):
            raise InvalidSecret([Problem(f"/{name}", "Another origin needs it again") for name in missing])
    if changed:
        kept = orjson.loads(tx.unseal(Secret, "sealed", secret.id, secret.sealed))
        merged = {name: value for name, value in (kept | changed).items() if value is not None}
        values = _checked(SecretKind(secret.kind), merged)
        sealed = tx.seal(Secret, "sealed", secret.id, orjson.dumps(values))
        sent |= {"fields": list(values), "sealed": sealed}
    return await tx.update(Secret, SecretRead, secret.id, **sent)


def _checked(kind: SecretKind, values: Mapping[str, str]) -> dict[str, str]:
    """The values in the order of their kind, once they are found to make one."""
    fields = FIELDS[kind]
    problems = [
        Problem(f"/{name}", f"A secret of the kind {kind} has no {name}")
        for name in values
        if name not in fields
    ]
    if fields[0] not in values:
        problems.append(Problem(f"/{fields[0]}", f"A secret of the kind {kind} needs a {fields[0]}"))
    if "totp" in values and (problem := _seed_problem(values["totp"])) is not None:
        problems.append(Problem("/totp", problem))
    if problems:
        raise InvalidSecret(problems)
    return {name: values[name] for name in fields if name in values}


# In a run -----------------------------------------------------------------------------------------


class NotForThem(Exception):
    """A page is at an address that a secret is not for."""


async def missing(tx: db.Tx, named: Iterable[str]) -> list[str]:
    """Which of these names are those of no secret of the user."""
    return [name for name in named if not await tx.find(Secret, name=name)]


def in_words(kept: Iterable[Secret]) -> str:
    """What a model is told of them: how each is named, and where it may be filled in."""
    lines = [
        f"- {secret.name} ({secret.kind}): "
        + ", ".join(f"{{{{ secrets.{secret.name}.{field} }}}}" for field in secret.fields)
        + f" for {', '.join(secret.origins)}"
        for secret in kept
        if secret.origins
    ]
    return "\n".join(["<secrets>", *lines, "</secrets>"]) if lines else ""


def same_origin(one: str, other: str) -> bool:
    """Whether two origins, or addresses, are of the same scheme, host and port (RFC 6454)."""
    return origin(one) == origin(other)


def origin(address: str) -> str:
    """Its scheme, host and port; of what is no address of a host, the scheme alone."""
    parts = urlsplit(address)
    if not (host := parts.hostname or ""):
        return f"{parts.scheme}:"
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


class Purse:
    """The secrets that one run fills in: opened when a step asks for them, and hidden everywhere else."""

    def __init__(self, user_id: str, redactor: Redactor) -> None:
        self.names: tuple[str, ...] = ()
        self.told = ""
        self.redactor = redactor
        self._user_id = user_id

    async def name_all(self) -> None:
        """An agent may fill in any secret of its user, and is `told` their names."""
        async with db.as_user(self._user_id) as tx:
            kept = await tx.find(Secret)
        self.names = tuple(secret.name for secret in kept)
        self.told = in_words(kept)

    async def know(self) -> None:
        """Hide what the secrets of `names` hold before any of it is filled in."""
        for name in self.names:
            try:
                await self._open(name)
            except Unsealable as error:
                log.warning("secret_unreadable", secret=name, error=str(error))

    async def reveal(
        self, fields: Iterable[tuple[str, str]], addresses: Iterable[str]
    ) -> dict[str, dict[str, str]]:
        """The fields that there are, for a page at all these addresses. Raises NotForThem, Unsealable."""
        values: dict[str, dict[str, str]] = {}
        for name, field in fields:
            secret, kept = await self._open(name)
            if secret is None:
                continue
            for address in addresses:
                if not any(same_origin(address, origin) for origin in secret.origins):
                    meant = ", ".join(secret.origins[:5]) or "no origin"
                    there = cut("/".join(address.split("/")[:3]), 300)
                    raise NotForThem(f"secrets.{name} is for {meant}, and the field is in {there}")
            if field in kept:
                value = await _code(kept[field]) if field == "totp" else kept[field]
                self._hide(name, field, value)
                values.setdefault(name, {})[field] = value
        return values

    async def _open(self, name: str) -> tuple[Secret | None, dict[str, str]]:
        async with db.as_user(self._user_id) as tx:
            for secret in await tx.find(Secret, name=name):
                kept: dict[str, str] = orjson.loads(tx.unseal(Secret, "sealed", secret.id, secret.sealed))
                for field, value in kept.items():
                    self._hide(name, field, value)
                return secret, kept
        return None, {}

    def _hide(self, name: str, field: str, value: str) -> None:
        if field in HIDDEN:
            self.redactor.add(value, f"{{{{ secrets.{name}.{field} }}}}")


async def _code(seed: str) -> str:
    """A one-time code that is not about to end."""
    code = OneTimeCode.of(seed)
    left = code.interval - time.time() % code.interval
    if left < min(LEAST_SECONDS, code.interval / 2):
        await asyncio.sleep(left)
    return code.now()


async def used(tx: db.Tx, named: Iterable[str]) -> None:
    """Keep when they were last filled in."""
    for name in named:
        await tx.change(Secret, {"name": name}, used_at=datetime.now(UTC))


# Codes --------------------------------------------------------------------------------------------


class OneTimeCode(pyotp.TOTP):
    """A time-based code (RFC 6238); sites still hand out seeds of 80 bits, which pyotp finds too short."""

    min_secret_length_bits = 40

    @classmethod
    def of(cls, seed: str) -> Self:
        """The code of a base32 seed or of an otpauth:// address of one. Raises ValueError."""
        if not seed.startswith("otpauth:"):
            return cls(re.sub(r"[\s-]", "", seed))
        address = urlsplit(seed)
        given = dict(parse_qsl(address.query))
        digest = {"SHA1": hashlib.sha1, "SHA256": hashlib.sha256, "SHA512": hashlib.sha512}.get(
            given.get("algorithm", "SHA1").upper()
        )
        interval = int(given.get("period", "30"))
        if address.netloc != "totp" or digest is None or not 1 <= interval <= 3600:
            raise ValueError("not an address of a time-based code")
        return cls(
            given.get("secret", ""), digits=int(given.get("digits", "6")), digest=digest, interval=interval
        )


def _seed_problem(seed: str) -> str | None:
    """Why no one-time code can be made of this seed, or None."""
    try:
        OneTimeCode.of(seed).now()
    except ValueError:
        return "It is neither a base32 seed nor an otpauth:// address of a time-based code"
    return None
