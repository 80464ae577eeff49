"""A credential becomes a user: a token is verified strictly, by the keys and rules of exactly one issuer."""

import base64
import hashlib
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Concatenate, Literal, ParamSpec, TypeVar
from uuid import UUID

import httpx
import structlog
from fastapi import Depends, Header, Request, Security
from fastapi.security import HTTPBearer
from jwt import PyJWK
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import Response

import db
import identity
from jwks import (
    Keys,
    KeySet,
    KeysUnavailable,
    NotSignedIn,
    PemKeys,
    SignedToken,
    check_signature,
    claim,
    json_object,
    read_token,
    require,
    usable_keys,
)
from models import Base
from settings import Settings

log = structlog.get_logger()

__all__ = (  # whoever knocks need not know where these live
    "KeySet",
    "KeysUnavailable",
    "NotSignedIn",
    "SignedToken",
    "check_signature",
    "read_token",
    "usable_keys",
)
CLOCK_SKEW = 5  # seconds
LIFETIME = 3600  # seconds, the longest a token may live
CACHED_TOKENS = 10_000


class BadIdempotencyKey(Exception):
    """The `Idempotency-Key` of a request is not one."""


class Misconfigured(Exception):
    """The settings contradict themselves; the sentence says which one to change."""


@dataclass(frozen=True, slots=True)
class Organization:
    """The organization active in a Clerk session; `role` and `permissions` begin with `org:`."""

    id: str
    slug: str
    role: str
    permissions: frozenset[str]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who a verified credential speaks for.

    `user_id` is Clerk's `sub` as it is, `<issuer name>|<sub>` for other issuers. `issued_at` and `expires_at`
    are Unix seconds. `impersonator` is who acts as the user (RFC 8693 `act`). `email`, `name` and `image_url`
    are there when the token carries them as custom claims; nothing says that the address was verified.
    """

    user_id: str
    session_id: str | None
    issued_at: int
    expires_at: int
    actor: str = "user"
    role: Literal["user", "admin"] = "user"
    impersonator: str | None = None
    organization: Organization | None = None
    email: str | None = None
    name: str | None = None
    image_url: str | None = None


# Claims ---------------------------------------------------------------------------------------

_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,2048}")
_MACHINE_CATEGORIES = ("cl_B7d4PD222AAA", "cl_B7d4PD333AAA")  # Clerk's JWT templates and M2M tokens


@dataclass(frozen=True, slots=True)
class Verifier:
    """The keys and rules of one issuer; `issuer` is compared with `iss` exactly, `name` keeps its ids apart.

    The rules are those of Clerk's session tokens, which the embedded issuer follows:
    https://clerk.com/docs/guides/sessions/session-tokens
    """

    issuer: str
    keys: Keys
    algorithms: frozenset[str]
    subject: re.Pattern[str]
    session: re.Pattern[str]
    name: str = ""
    parties: frozenset[str] = frozenset()

    async def verify(self, token: SignedToken, claims: dict[str, Any]) -> Caller:
        """The caller that the token speaks for; raises `NotSignedIn` or `KeysUnavailable`."""
        require(token.header["alg"] in self.algorithms, "algorithm refused")
        check_signature(token, await self.keys.find(token.header.get("kid")))
        require(token.header.get("cat") not in _MACHINE_CATEGORIES, "not a session token")
        require("v" not in claims or claim(claims, "v", int) == 2, "unknown token version")
        require(claims.get("sts", "active") == "active", "session is not active")
        require("aud" not in claims, "meant for another audience")
        require(not self.parties or claim(claims, "azp", str) in self.parties, "azp is not authorized")
        issued_at, expires_at = _lifetime(claims)
        subject, session_id = claim(claims, "sub", str), claim(claims, "sid", str)
        require(self.subject.fullmatch(subject), "malformed sub")
        require(self.session.fullmatch(session_id), "malformed sid")
        impersonator = _text(claim(claims, "act", dict).get("sub"))
        require(impersonator or claims.get("act") is None, "malformed act")
        metadata = claim(claims, "public_metadata", dict)
        return Caller(
            user_id=f"{self.name}|{subject}" if self.name else subject,
            session_id=session_id,
            issued_at=issued_at,
            expires_at=expires_at,
            role="admin" if metadata.get("role") == "admin" else "user",
            impersonator=impersonator,
            organization=_organization(claims),
            email=_text(claims.get("email")),
            name=_text(claims.get("name")),
            image_url=_text(claims.get("image_url")),
        )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and _TEXT.fullmatch(value) else None


def _lifetime(claims: Mapping[str, Any]) -> tuple[int, int]:
    now = time.time()
    issued_at, expires_at = claim(claims, "iat", int), claim(claims, "exp", int)
    not_before = claim(claims, "nbf", int) if "nbf" in claims else issued_at
    begins_at = max(issued_at, not_before)
    require(min(issued_at, not_before) > 0 and begins_at <= expires_at, "impossible instants")
    require(expires_at - issued_at <= LIFETIME, "lives too long")
    require(begins_at <= now + CLOCK_SKEW, "not valid yet")
    require(now < expires_at + CLOCK_SKEW, "expired")
    return issued_at, expires_at


def _organization(claims: Mapping[str, Any]) -> Organization | None:
    if "v" in claims:
        o = claim(claims, "o", dict)
        found, slug, role = (claim(o, name, str) for name in ("id", "slg", "rol"))
        role = role and f"org:{role}"
        names, bitmaps = claim(o, "per", str), claim(o, "fpm", str)
        permissions = _permissions(claim(claims, "fea", str), names, bitmaps)
    else:
        found, slug, role = (claim(claims, name, str) for name in ("org_id", "org_slug", "org_role"))
        permissions = claim(claims, "org_permissions", list)
    texts = (found, slug, role, *permissions)
    require(all(text == "" or _text(text) for text in texts), "malformed organization")
    return Organization(found, slug, role, frozenset(permissions)) if found else None


def _permissions(features: str, names: str, bitmaps: str) -> list[str]:
    """Clerk's compact form: a number for each organization feature, whose lowest bit is the first name's."""
    require(re.fullmatch(r"([0-9]{1,9}(,[0-9]{1,9})*)?", bitmaps), "malformed permissions")
    scoped = (feature.partition(":") for feature in features.split(","))
    owned = (feature for scope, _, feature in scoped if "o" in scope)
    return [
        f"org:{feature}:{name}"
        for feature, bitmap in zip(owned, bitmaps.split(","), strict=False)
        for bit, name in enumerate(names.split(","))
        if int(bitmap or 0) >> bit & 1
    ]


# The door -------------------------------------------------------------------------------------

_CLERK_SUBJECT = re.compile(r"user_[A-Za-z0-9]{1,64}")
_CLERK_SESSION = re.compile(r"sess_[A-Za-z0-9]{1,64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_HOST = re.compile(rb"[a-z0-9.-]{1,253}(:[0-9]{1,5})?\$")
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/=-]{1,8192})", re.IGNORECASE | re.ASCII)

_verifiers: dict[str, Verifier] = {}
_verified: OrderedDict[bytes, Caller] = OrderedDict()
_revoked: dict[str, float] = {}  # session id or `user:<id>` -> Unix seconds


class EmbeddedKeys:
    """The keys of the embedded issuer, asked of the issuer itself."""

    async def find(self, kid: str | None) -> PyJWK:
        key = usable_keys({"keys": await identity.public_keys()}).get(kid or "")
        if key is None:
            raise NotSignedIn("unknown key")
        return key


def configure(settings: Settings) -> None:
    """Choose the issuers; raises `Misconfigured`. The embedded one serves only where no other is named."""
    if issuer := clerk_issuer(settings):
        jwks_url = settings.clerk_jwks_url or f"{issuer}/.well-known/jwks.json"
        pem = settings.clerk_jwt_key
        verifier = Verifier(
            issuer=issuer,
            keys=_pem_keys(pem) if pem else KeySet(_safe_url("CLERK_JWKS_URL", jwks_url)),
            algorithms=frozenset({"RS256"}),
            subject=_CLERK_SUBJECT,
            session=_CLERK_SESSION,
            parties=frozenset(settings.clerk_authorized_parties),
        )
    else:
        verifier = Verifier(
            issuer=identity.issuer(),
            keys=EmbeddedKeys(),
            algorithms=frozenset({identity.ALGORITHM}),
            subject=_UUID,
            session=_UUID,
            name=identity.ISSUER_NAME,
        )
    _verified.clear()
    _revoked.clear()
    _verifiers.clear()
    _verifiers[verifier.issuer] = verifier


def clerk_issuer(settings: Settings) -> str:
    """Clerk's `iss` from `CLERK_ISSUER` or `CLERK_PUBLISHABLE_KEY`, empty without; raises `Misconfigured`."""
    named = settings.clerk_issuer and _safe_url("CLERK_ISSUER", settings.clerk_issuer.rstrip("/"))
    derived = settings.clerk_publishable_key and _publishable_issuer(settings.clerk_publishable_key)
    if named and derived and named != derived:
        raise Misconfigured(f"CLERK_ISSUER is {named}, but CLERK_PUBLISHABLE_KEY belongs to {derived}.")
    others = settings.clerk_jwks_url or settings.clerk_jwt_key or settings.clerk_authorized_parties
    if others and not (named or derived):
        raise Misconfigured("Set CLERK_PUBLISHABLE_KEY or CLERK_ISSUER: the other CLERK_ settings need it.")
    if any(party.endswith("/") for party in settings.clerk_authorized_parties):
        raise Misconfigured(
            "CLERK_AUTHORIZED_PARTIES are origins (https://app.example.com), no / at the end."
        )
    if settings.clerk_jwks_url and settings.clerk_jwt_key:
        raise Misconfigured("Set CLERK_JWKS_URL or CLERK_JWT_KEY, not both.")
    return named or derived


def _publishable_issuer(key: str) -> str:
    """Clerk's form: `pk_test_` or `pk_live_`, then base64 of the Frontend API's host and a dollar sign."""
    encoded = re.fullmatch(r"pk_(?:test|live)_([A-Za-z0-9+/]+)=*", key)
    try:
        host = base64.b64decode(f"{encoded[1]}==") if encoded else b""
    except ValueError:
        host = b""
    if not _HOST.fullmatch(host):
        raise Misconfigured("CLERK_PUBLISHABLE_KEY is not Clerk's publishable key (pk_test_… or pk_live_…).")
    return f"https://{host[:-1].decode()}"


def _pem_keys(pem: str) -> PemKeys:
    try:
        return PemKeys(pem)
    except ValueError as error:
        raise Misconfigured(f"CLERK_JWT_KEY is {error}.") from error


def _safe_url(name: str, url: str) -> str:
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL:
        parts = httpx.URL()
    secure = parts.scheme == "https" or (parts.scheme == "http" and parts.host in _LOOPBACK)
    if not secure or not parts.host or parts.userinfo or parts.query or parts.fragment:
        raise Misconfigured(f"{name} must be an https:// address without user, query or fragment.")
    return url


async def open() -> None:  # noqa: A001 - read as clerk_auth.open()
    """Begin to load the issuers' keys; the start does not wait for them."""
    for verifier in _verifiers.values():
        if isinstance(verifier.keys, KeySet):
            verifier.keys.refresh()


async def close() -> None:
    """Let go of connections and tasks."""
    for verifier in _verifiers.values():
        if isinstance(verifier.keys, KeySet):
            await verifier.keys.close()


def strict_bearer(headers: Headers) -> str:
    """The token of the one `Authorization: Bearer` header (RFC 6750 §2.1); anything else is `NotSignedIn`."""
    values = headers.getlist("authorization")
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise NotSignedIn("not exactly one bearer token")
    return match[1]


async def verify(token: str) -> Caller:
    """The caller a token speaks for, kept until it expires.

    Raises `NotSignedIn`, `KeysUnavailable`, and, for the embedded issuer's, `db.Unavailable`.
    """
    try:
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        caller = _verified.get(digest)
        if caller is None:
            caller = await _verify(token)
        elif caller.expires_at + CLOCK_SKEW <= time.time():
            del _verified[digest]
            raise NotSignedIn("expired")
        if revoked(caller):
            raise NotSignedIn("revoked")
    except NotSignedIn as refusal:
        fingerprint = hashlib.sha256(token.rpartition(".")[0].encode(errors="surrogatepass")).hexdigest()[:12]
        log.info("token_refused", reason=str(refusal), token=fingerprint)
        raise
    _verified[digest] = caller
    _verified.move_to_end(digest)
    if len(_verified) > CACHED_TOKENS:
        _verified.popitem(last=False)
    return caller


async def _verify(token: str) -> Caller:
    signed = read_token(token)
    try:
        claims = json_object(signed.payload)
    except (ValueError, RecursionError) as error:
        raise NotSignedIn("malformed claims") from error
    issuer = claims.get("iss")
    verifier = _verifiers.get(issuer) if isinstance(issuer, str) else None
    if verifier is None:
        raise NotSignedIn("unknown issuer")
    caller = await verifier.verify(signed, claims)
    # A process that has just started knows no revocation; the database does.
    if verifier.name == identity.ISSUER_NAME and not await identity.is_open(
        caller.user_id, caller.session_id
    ):
        raise NotSignedIn("session has ended")
    return caller


def revoked(caller: Caller) -> bool:
    """Whether the caller's session has ended since its token was verified."""
    return caller.session_id in _revoked or _revoked.get(f"user:{caller.user_id}", 0) >= caller.issued_at


def on_revoked(payload: bytes) -> None:
    """Refuse a session's tokens from now on, or of `user:<id>` those issued up to this second.

    The bus's topic `revoked` brings them, from this process and others.
    """
    now = time.time()
    _revoked[payload.decode(errors="replace")] = now
    for forgotten in [it for it, at in _revoked.items() if at + LIFETIME + 2 * CLOCK_SKEW < now]:
        del _revoked[forgotten]


# In a route -------------------------------------------------------------------------------------

M = TypeVar("M", bound=Base)
P = ParamSpec("P")

_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")

_SCHEME = HTTPBearer(auto_error=False, bearerFormat="JWT", description="A session token of the issuer.")


async def get_current_caller(
    request: Request, _documented: Annotated[object, Security(_SCHEME)] = None
) -> Caller:
    """Who sent this request. Raises `NotSignedIn`, `KeysUnavailable`, `db.Unavailable`."""
    caller = await verify(strict_bearer(request.headers))
    await db.ensure_user(caller.user_id, email=caller.email, name=caller.name, image_url=caller.image_url)
    return caller


CurrentCaller = Annotated[Caller, Depends(get_current_caller)]


async def get_current_user(caller: CurrentCaller) -> str:
    """The id of the user who sent this request."""
    return caller.user_id


CurrentUser = Annotated[str, Depends(get_current_user)]


async def _idempotency(request: Request) -> db.Idempotency | None:
    keys = request.headers.getlist("idempotency-key")
    if request.method != "POST" or not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise BadIdempotencyKey("Idempotency-Key takes 1 to 255 printable ASCII characters, once.")
    asked = f"{request.method} {request.scope['path']}\n".encode() + await request.body()
    return db.Idempotency(keys[0], hashlib.sha256(asked).hexdigest())


async def _transaction(
    caller: CurrentCaller, key: Annotated[db.Idempotency | None, Depends(_idempotency)]
) -> AsyncIterator[db.Tx]:
    async with db.as_user(caller.user_id, caller.actor, key) as tx:
        yield tx


# Function scope: the commit happens before the reply leaves, so a failed one is never a success.
Tx = Annotated[db.Tx, Depends(_transaction, scope="function")]


def mine(model: type[M]) -> Callable[[db.Tx, UUID], Awaitable[M]]:
    """A dependency: the caller's row that the path names, locked; another's is not found."""

    async def load(tx: Tx, id: UUID) -> M:
        return await tx.one(model, lock=True, id=id)

    return load


@dataclass(frozen=True, slots=True)
class OnceOnly:
    """Work outside the database for one caller, done once under the request's `Idempotency-Key`."""

    user_id: str
    key: db.Idempotency | None

    async def __call__(
        self, work: Callable[Concatenate[str, P], Awaitable[BaseModel]], *args: P.args, **kwargs: P.kwargs
    ) -> Response:
        """Await `work` for the caller and envelope its outcome."""
        return await db.do_once(self.user_id, self.key, lambda: work(self.user_id, *args, **kwargs))


async def _once(user: CurrentUser, key: Annotated[db.Idempotency | None, Depends(_idempotency)]) -> OnceOnly:
    return OnceOnly(user, key)


Once = Annotated[OnceOnly, Depends(_once)]
LastEventId = Annotated[int | None, Header(ge=0, le=2**62, description="The `seq` to continue from.")]


async def embedded_issuer() -> None:
    """A dependency of the embedded issuer's routes. Raises `identity.IssuerOff` beside another issuer."""
    identity.discovery()
