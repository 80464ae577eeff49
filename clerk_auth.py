"""A credential becomes a user: a token is verified strictly, by the keys and rules of exactly one issuer.

Whoever a token or an API key speaks for, the database has the last word on who may come in.
"""

import base64
import hashlib
import hmac
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from typing import (
    Annotated,
    Any,
    Concatenate,
    Literal,
    NamedTuple,
    ParamSpec,
    Protocol,
    TypeVar,
    get_args,
)
from uuid import UUID

import structlog
from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from jwt import PyJWK
from limits import RateLimitItem
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.responses import Response
from structlog.contextvars import bind_contextvars

import api_keys
import db
import identity
from infra import rates
from jwks import (
    Keys,
    KeySet,
    KeysUnavailable,
    NotSignedIn,
    PemKeys,
    SignedToken,
    check_signature,
    claim,
    is_safe_url,
    json_object,
    read_token,
    require,
    usable_keys,
)
from models import Base
from schemas import AuthConfig, AuthMode, IssuerRead, Scope
from settings import Settings, settings

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
LONG_LIFETIME = 86400  # the same at issuers whose tokens are no sessions of ours
CACHED_TOKENS = 10_000
VERIFIED_FRESH = 300  # seconds after which a token is verified again, so that a withdrawn key is found out
ADMITTED_FRESH = 30  # seconds that the database's word about a caller is good for
NEVER = 253402300799  # Unix seconds, the end of the year 9999: when a key without an end expires


class Revoked(NotSignedIn):
    """The token was good until its session or its user's sign-ins were ended."""

    def __init__(self, caller: "Caller") -> None:
        super().__init__("revoked")
        self.caller = caller


class MissingScope(Exception):
    """The API key may not do this; the sentence names the scope that may."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(f"This needs the scope `{scope}`, which the key does not have.")


class OnlySignedIn(Exception):
    """An API key was used for what only a person who has signed in may do."""

    def __init__(self) -> None:
        super().__init__("An API key cannot do this; sign in.")


class NotAdmin(Exception):
    """Only administrators may do this."""

    def __init__(self) -> None:
        super().__init__("Only administrators may do this.")


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
    are there when the token carries them, and prove nothing. `verified_email` is an address in lower case
    that the issuer vouches for: never Clerk, where it would be a custom claim, nor Supabase, whose only word
    on it is in the metadata that users write. An API key has no session and is the actor `key:<id>`.
    `checked_at` is when the database let the credential, known by its SHA-256 `digest`, in.
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
    verified_email: str | None = None
    scopes: frozenset[Scope] = frozenset(get_args(Scope))
    requests_per_minute: int | None = field(default=None, compare=False)
    checked_at: float = field(default=0, compare=False)
    digest: bytes = field(default=b"", repr=False, compare=False)

    @property
    def is_key(self) -> bool:
        """Whether it is a program with an API key, and nobody who has signed in."""
        return self.actor.startswith("key:")


# Claims ---------------------------------------------------------------------------------------

_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,2048}")
_EMAIL = re.compile(r"[\x21-\x3f\x41-\x7e]{1,64}@[\x21-\x3f\x41-\x7e]{1,189}")
_MACHINE_CATEGORIES = ("cl_B7d4PD222AAA", "cl_B7d4PD333AAA")  # Clerk's JWT templates and M2M tokens
# Claims of ID tokens (OpenID Connect Core, 2 and 3.3.2.11), security events (RFC 8417), and tokens that
# need a proof beside them (RFC 7800): none of them is an access token that its bearer may use.
_NO_ACCESS = frozenset({"nonce", "at_hash", "c_hash", "s_hash", "events", "cnf"})


class Rules(Protocol):
    """What one kind of issuer means by its claims, whose signature has been verified."""

    def __call__(
        self, verifier: "Verifier", header: Mapping[str, Any], claims: Mapping[str, Any], /
    ) -> Caller:
        """The caller that the claims speak for; raises `NotSignedIn`."""


def clerk_session(verifier: "Verifier", header: Mapping[str, Any], claims: Mapping[str, Any]) -> Caller:
    """Clerk's session tokens: https://clerk.com/docs/guides/sessions/session-tokens"""
    require(header.get("typ", "JWT") == "JWT", "not a session token")
    require(header.get("cat") not in _MACHINE_CATEGORIES, "not a session token")
    require("v" not in claims or claim(claims, "v", int) == 2, "unknown token version")
    require(claims.get("sts", "active") == "active", "session is not active")
    require("aud" not in claims, "meant for another audience")
    require(not verifier.parties or claim(claims, "azp", str) in verifier.parties, "azp is not authorized")
    issued_at, expires_at = _lifetime(claims, verifier.lifetime)
    metadata = claim(claims, "public_metadata", dict)
    return Caller(
        user_id=_user_id(verifier, claims),
        session_id=_session_id(verifier, claims, "sid"),
        issued_at=issued_at,
        expires_at=expires_at,
        role="admin" if metadata.get("role") == "admin" else "user",
        impersonator=_impersonator(claims),
        organization=_organization(claims),
        email=_text(claims.get("email")),
        name=_text(claims.get("name")),
        image_url=_text(claims.get("image_url")),
    )


def embedded_session(verifier: "Verifier", header: Mapping[str, Any], claims: Mapping[str, Any]) -> Caller:
    """The embedded issuer's access tokens, which are as Clerk's, and name an address once it is proven."""
    return replace(clerk_session(verifier, header, claims), verified_email=_verified_email(claims))


def supabase_session(
    verifier: "Verifier", header: Mapping[str, Any], claims: Mapping[str, Any], *, anonymous: bool = False
) -> Caller:
    """Supabase's access tokens of people: https://supabase.com/docs/guides/auth/jwt-fields

    Not its API keys, ID tokens, or what its users gave to other applications; those without an account only
    where `anonymous` says so. `user_metadata` is written by the users themselves, so it only describes them.
    """
    require(header.get("typ", "JWT") == "JWT", "not an access token")
    require(claims.get("role") == "authenticated", "not a signed-in person's role")
    require(_audiences(claims) & verifier.parties, "meant for another audience")
    require(not claims.get("client_id"), "given to another application")
    require(anonymous or not claim(claims, "is_anonymous", bool), "anonymous")
    issued_at, expires_at = _lifetime(claims, verifier.lifetime, decimal=True)
    admin = claim(claims, "app_metadata", dict).get("role") == "admin"
    profile = claim(claims, "user_metadata", dict)
    return Caller(
        user_id=_user_id(verifier, claims),
        session_id=_session_id(verifier, claims, "session_id"),
        issued_at=issued_at,
        expires_at=expires_at,
        role="admin" if admin else "user",
        email=_text(claims.get("email")),
        name=_text(profile.get("full_name")) or _text(profile.get("name")),
        image_url=_text(profile.get("avatar_url")),
    )


def oidc_access(verifier: "Verifier", _header: Mapping[str, Any], claims: Mapping[str, Any]) -> Caller:
    """Access tokens of an OpenID provider (RFC 9068, and those of before it); `token_use` is Cognito's word
    and `typ` among the claims Keycloak's. Nobody is an administrator by what they say.
    """
    kinds = claims.get("token_use", "access"), claims.get("typ", "Bearer")
    require(not _NO_ACCESS & claims.keys() and kinds == ("access", "Bearer"), "not an access token")
    require(_audiences(claims) & verifier.parties, "meant for another audience")
    issued_at, expires_at = _lifetime(claims, verifier.lifetime, decimal=True)
    session = _session_id(verifier, claims, "sid") if "sid" in claims else None
    return Caller(
        user_id=_user_id(verifier, claims),
        session_id=session and f"{verifier.name}|{session}",
        issued_at=issued_at,
        expires_at=expires_at,
        impersonator=_impersonator(claims),
        email=_text(claims.get("email")),
        name=_text(claims.get("name")),
        image_url=_text(claims.get("picture")),
        verified_email=_verified_email(claims),
    )


@dataclass(frozen=True, slots=True)
class Verifier:
    """The keys and rules of one issuer; `issuer` is compared with `iss` exactly, `name` keeps its ids apart.

    `parties` are whom tokens must be made for: `azp` at Clerk, where none means any, `aud` elsewhere.
    """

    issuer: str
    keys: Keys
    algorithms: frozenset[str]
    subject: re.Pattern[str]
    session: re.Pattern[str]
    name: str = ""
    parties: frozenset[str] = frozenset()
    rules: Rules = clerk_session
    lifetime: int = LIFETIME

    async def verify(self, token: SignedToken, claims: dict[str, Any]) -> Caller:
        """The caller that the token speaks for; raises `NotSignedIn` or `KeysUnavailable`."""
        require(token.header["alg"] in self.algorithms, "algorithm refused")
        check_signature(token, await self.keys.find(token.header.get("kid")))
        return self.rules(self, token.header, claims)


def _user_id(verifier: Verifier, claims: Mapping[str, Any]) -> str:
    subject = claim(claims, "sub", str)
    require(verifier.subject.fullmatch(subject), "malformed sub")
    return f"{verifier.name}|{subject}" if verifier.name else subject


def _session_id(verifier: Verifier, claims: Mapping[str, Any], name: str) -> str:
    session = claim(claims, name, str)
    require(verifier.session.fullmatch(session), f"malformed {name}")
    return session


def _impersonator(claims: Mapping[str, Any]) -> str | None:
    impersonator = _text(claim(claims, "act", dict).get("sub"))
    require(impersonator or claims.get("act") is None, "malformed act")
    return impersonator


def _audiences(claims: Mapping[str, Any]) -> frozenset[str]:
    audience = claims.get("aud")
    audiences = [audience] if isinstance(audience, str) else claim(claims, "aud", list)
    require(all(isinstance(name, str) for name in audiences), "malformed aud")
    return frozenset(audiences)


def _verified_email(claims: Mapping[str, Any]) -> str | None:
    """ASCII only: letters of other scripts become another person's in lower case."""
    email = claims.get("email")
    vouched = claims.get("email_verified") is True and isinstance(email, str) and _EMAIL.fullmatch(email)
    return email.lower() if isinstance(email, str) and vouched else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and _TEXT.fullmatch(value) else None


def _lifetime(claims: Mapping[str, Any], longest: int, *, decimal: bool = False) -> tuple[int, int]:
    now = time.time()
    issued_at, expires_at = (_instant(claims, name, decimal) for name in ("iat", "exp"))
    not_before = _instant(claims, "nbf", decimal) if "nbf" in claims else issued_at
    begins_at = max(issued_at, not_before)
    require(min(issued_at, not_before) > 0 and begins_at <= expires_at, "impossible instants")
    require(expires_at - issued_at <= longest, "lives too long")
    require(begins_at <= now + CLOCK_SKEW, "not valid yet")
    require(now < expires_at + CLOCK_SKEW, "expired")
    return issued_at, expires_at


def _instant(claims: Mapping[str, Any], name: str, decimal: bool) -> int:
    """Unix seconds, rounded down; `decimal` ones may have a fraction (RFC 7519, section 2)."""
    value = claims.get(name)
    if decimal and isinstance(value, float) and math.isfinite(value):
        return math.floor(value)
    return claim(claims, name, int)


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


# Issuers --------------------------------------------------------------------------------------

_CLERK_SUBJECT = re.compile(r"user_[A-Za-z0-9]{1,64}")
_CLERK_SESSION = re.compile(r"sess_[A-Za-z0-9]{1,64}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{1,255}")
_HOST = re.compile(rb"[a-z0-9.-]{1,253}(:[0-9]{1,5})?\$")
_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
_SUPABASE_NAME = "supabase"
_RESERVED_NAMES = ("clerk", _SUPABASE_NAME, identity.ISSUER_NAME)
_OIDC_ALGORITHMS = frozenset(
    {f"{family}{bits}" for family in ("RS", "PS", "ES") for bits in (256, 384, 512)} | {"EdDSA"}
)

_verifiers: dict[str, Verifier] = {}
_verified: OrderedDict[bytes, tuple[Caller, float]] = OrderedDict()  # and until when to believe it
_admitted: OrderedDict[bytes, Caller] = OrderedDict()  # by digest
_revoked: dict[str, float] = {}  # session id or `user:<id>` -> Unix seconds


class EmbeddedKeys:
    """The keys of the embedded issuer, asked of the issuer itself."""

    async def find(self, kid: str | None) -> PyJWK:
        key = usable_keys({"keys": await identity.public_keys()}).get(kid or "")
        if key is None:
            raise NotSignedIn("unknown key")
        return key


class OidcIssuer(NamedTuple):
    """One of `OIDC_ISSUERS`; `jwks_url` is empty where discovery finds the keys."""

    name: str
    issuer: str
    audiences: frozenset[str]
    client_id: str
    jwks_url: str


def modes(settings: Settings) -> list[AuthMode]:
    """Where people sign in, the first for choice; raises `Misconfigured`."""
    named: dict[AuthMode, object] = {
        "clerk": clerk_issuer(settings),
        "supabase": supabase_issuer(settings),
        "oidc": oidc_issuers(settings),
    }
    return [mode for mode, issuers in named.items() if issuers] or ["embedded"]


def configure(settings: Settings) -> None:
    """Choose the issuers; raises `Misconfigured`. The embedded one serves only where no other is named."""
    verifiers = [*_clerk(settings), *_supabase(settings), *_oidc(settings)] or [_embedded()]
    issuers = [verifier.issuer for verifier in verifiers]
    for issuer in issuers:
        if issuers.count(issuer) > 1:
            raise Misconfigured(f"{issuer} is named as an issuer twice.")
    _verified.clear()
    _admitted.clear()
    _revoked.clear()
    _verifiers.clear()
    _verifiers.update({verifier.issuer: verifier for verifier in verifiers})


def public_config(settings: Settings) -> AuthConfig:
    """What a web client needs to sign people in; raises `Misconfigured`."""
    mode = modes(settings)[0]
    return AuthConfig(
        mode=mode,
        publishable_key=settings.clerk_publishable_key or None,
        supabase_url=settings.supabase_url.rstrip("/") or None,
        supabase_key=settings.supabase_publishable_key or None,
        issuers=[
            IssuerRead(name=it.name, issuer=it.issuer, client_id=it.client_id or None)
            for it in oidc_issuers(settings)
        ],
        registration=mode == "embedded" and identity.registration_open(),
    )


def _embedded() -> Verifier:
    return Verifier(
        issuer=identity.issuer(),
        keys=EmbeddedKeys(),
        algorithms=frozenset({identity.ALGORITHM}),
        subject=_UUID,
        session=_UUID,
        name=identity.ISSUER_NAME,
        rules=embedded_session,
    )


def _clerk(settings: Settings) -> Iterator[Verifier]:
    if issuer := clerk_issuer(settings):
        jwks_url = settings.clerk_jwks_url or f"{issuer}/.well-known/jwks.json"
        pem = settings.clerk_jwt_key
        yield Verifier(
            issuer=issuer,
            keys=_pem_keys(pem) if pem else KeySet(_safe_url("CLERK_JWKS_URL", jwks_url)),
            algorithms=frozenset({"RS256"}),
            subject=_CLERK_SUBJECT,
            session=_CLERK_SESSION,
            parties=frozenset(settings.clerk_authorized_parties),
        )


def _supabase(settings: Settings) -> Iterator[Verifier]:
    if issuer := supabase_issuer(settings):
        yield Verifier(
            issuer=issuer,
            keys=KeySet(f"{issuer}/.well-known/jwks.json"),
            algorithms=frozenset({"ES256", "RS256", "EdDSA"}),
            subject=_UUID,
            session=_UUID,
            name=_SUPABASE_NAME,
            parties=frozenset({"authenticated"}),
            rules=partial(supabase_session, anonymous=settings.supabase_allow_anonymous),
            lifetime=LONG_LIFETIME,
        )


def _oidc(settings: Settings) -> Iterator[Verifier]:
    for name, issuer, audiences, _, jwks_url in oidc_issuers(settings):
        discovery = f"{issuer.rstrip('/')}/.well-known/openid-configuration"
        yield Verifier(
            issuer=issuer,
            keys=KeySet(jwks_url) if jwks_url else KeySet(discovery, issuer),
            algorithms=_OIDC_ALGORITHMS,
            subject=_PRINTABLE,
            session=_PRINTABLE,
            name=name,
            parties=audiences,
            rules=oidc_access,
            lifetime=LONG_LIFETIME,
        )


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


def supabase_issuer(settings: Settings) -> str:
    """Supabase's `iss` from `SUPABASE_URL`, empty without; raises `Misconfigured`."""
    url, key = settings.supabase_url.rstrip("/"), settings.supabase_publishable_key
    if not url:
        if key or settings.supabase_allow_anonymous:
            raise Misconfigured("Set SUPABASE_URL: the other SUPABASE_ settings need it.")
        return ""
    if "/auth/v1" in _safe_url("SUPABASE_URL", url):
        raise Misconfigured("SUPABASE_URL is the project's own address, without /auth/v1.")
    if key and not key.startswith("sb_publishable_") and _payload(key).get("role") != "anon":
        raise Misconfigured(
            "SUPABASE_PUBLISHABLE_KEY is shown to everybody, so it takes the project's publishable key "
            "(sb_publishable_…) or anon key, never a secret or service_role one."
        )
    return f"{url}/auth/v1"


def _payload(token: str) -> dict[str, Any]:
    try:
        return json_object(read_token(token).payload)
    except (NotSignedIn, ValueError, RecursionError):
        return {}


def oidc_issuers(settings: Settings) -> list[OidcIssuer]:
    """Every entry of `OIDC_ISSUERS`; raises `Misconfigured`."""
    found = [_oidc_issuer(entry) for entry in settings.oidc_issuers]
    names = [issuer.name for issuer in found]
    for name in names:
        if names.count(name) > 1 or name in _RESERVED_NAMES:
            raise Misconfigured(f"OIDC_ISSUERS cannot use the name {name}: it is taken.")
    return found


def _oidc_issuer(entry: str) -> OidcIssuer:
    """`name=issuer;audience`, then more audiences, `client=` an id and `jwks=` an address."""
    name, _, rest = entry.partition("=")
    issuer, *others = (part.strip() for part in rest.split(";"))
    options = {"client": "", "jwks": ""}
    audiences = set()
    for part in others:
        option, _, value = part.partition("=")
        if option in options:
            options[option] = value
        else:
            audiences.add(part)
    if not _NAME.fullmatch(name) or not audiences or "" in audiences:
        raise Misconfigured(
            f"OIDC_ISSUERS is a list of name=https://issuer;audience, but {entry} is not of that form."
        )
    _safe_url(f"The issuer of {name} in OIDC_ISSUERS", issuer)
    if options["jwks"]:
        _safe_url(f"The jwks of {name} in OIDC_ISSUERS", options["jwks"], query=True)
    return OidcIssuer(name, issuer, frozenset(audiences), options["client"], options["jwks"])


def _safe_url(name: str, url: str, *, query: bool = False) -> str:
    if not is_safe_url(url, query=query):
        raise Misconfigured(f"{name} must be an https:// address without user, query or fragment.")
    return url


# The door -------------------------------------------------------------------------------------

_BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/=-]{1,8192})", re.IGNORECASE | re.ASCII)


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
    """The caller a token speaks for, believed for a while.

    Raises `NotSignedIn`, `KeysUnavailable`, and, for the embedded issuer's, `db.Unavailable`.
    """
    try:
        digest = hashlib.sha256(token.encode(errors="surrogatepass")).digest()
        caller, until = _verified.pop(digest, (None, 0.0))
        if caller is None or until <= time.time():
            caller = await _verify(token)
            until = min(caller.expires_at + CLOCK_SKEW, time.time() + VERIFIED_FRESH)
        if revoked(caller):
            raise Revoked(caller)
    except NotSignedIn as refusal:
        fingerprint = hashlib.sha256(token.rpartition(".")[0].encode(errors="surrogatepass")).hexdigest()[:12]
        log.info("token_refused", reason=str(refusal), token=fingerprint)
        raise
    _verified[digest] = caller, until
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
    return await verifier.verify(signed, claims)


def revoked(caller: Caller) -> bool:
    """Whether the caller's session, key or user's sign-ins have ended since its credential was verified."""
    since = caller.checked_at if caller.is_key else caller.issued_at
    return caller.session_id in _revoked or any(
        _revoked.get(ended, 0) >= since for ended in (f"user:{caller.user_id}", caller.actor)
    )


def on_revoked(payload: bytes) -> None:
    """Refuse a session's tokens from now on, or of `user:<id>` those issued up to this second.

    What was known of `key:<id>` is asked of the database again. The bus's topic `revoked` brings them, from
    this process and others.
    """
    now = time.time()
    _revoked[payload.decode(errors="replace")] = now
    longest = max((verifier.lifetime for verifier in _verifiers.values()), default=LIFETIME)
    for forgotten in [it for it, at in _revoked.items() if at + longest + 2 * CLOCK_SKEW < now]:
        del _revoked[forgotten]


def peer_address(connection: HTTPConnection) -> str:
    """Whose refused credentials count together."""
    return rates.address(connection.client.host) if connection.client else ""


# Admission ------------------------------------------------------------------------------------


def only_credential(headers: Headers) -> str:
    """The token or key of one `Authorization` or one `X-API-Key` header; anything else is `NotSignedIn`."""
    keys = headers.getlist("x-api-key")
    if not keys:
        return strict_bearer(headers)
    require(len(keys) == 1 and "authorization" not in headers, "more than one credential")
    require(api_keys.is_well_formed(keys[0]), "not an API key")
    return keys[0]


async def authenticate(credential: str, *, address: str = "") -> Caller:
    """Who a token or an API key speaks for, let in by the database at most `ADMITTED_FRESH` seconds ago.

    From an `address` whose credentials were refused too often, only those already known are looked at.
    Raises `NotSignedIn`, `identity.AccountDisabled`, `rates.RateLimited`, `KeysUnavailable`,
    `db.Unavailable`.
    """
    digest = api_keys.digest(credential)
    allowed = rates.limit(settings.auth_failure_limit) if address else None
    if digest not in _verified and _recall(digest) is None:
        await rates.look("auth_failures", address, allowed)
    try:
        return await _authenticate(credential, digest)
    except NotSignedIn:
        with suppress(rates.RateLimited):  # the next attempt hears of it
            await rates.take("auth_failures", address, allowed)
        raise


async def _authenticate(credential: str, digest: bytes) -> Caller:
    if credential.startswith(api_keys.PREFIX):
        return await _authenticate_key(credential, digest)
    try:
        caller = await verify(credential)
    except Revoked as refusal:
        await _admit(refusal.caller)  # whoever is disabled is told so
        raise
    admitted = _recall(digest)
    return await _admit(replace(caller, digest=digest)) if admitted is None else admitted


async def _authenticate_key(key: str, digest: bytes) -> Caller:
    try:
        require(api_keys.is_well_formed(key), "not an API key")
        caller = _recall(digest)
        if caller is None or caller.expires_at <= time.time():
            caller = await _find_key(digest)
        require(time.time() < caller.expires_at, "expired")
    except NotSignedIn as refusal:
        log.info("key_refused", reason=str(refusal), key=digest.hex()[:12])
        raise
    return caller


def is_stale(caller: Caller) -> bool:
    """Whether the database must be asked again."""
    return not 0 <= time.time() - caller.checked_at < ADMITTED_FRESH


async def readmit(caller: Caller) -> Caller:
    """The caller of a connection that lasts, as the database knows it by now.

    Raises `NotSignedIn`, `identity.AccountDisabled`, `db.Unavailable`.
    """
    return _recall(caller.digest) or await _ask_again(caller)


async def _ask_again(caller: Caller) -> Caller:
    return await (_find_key(caller.digest) if caller.is_key else _admit(caller))


async def _admit(caller: Caller) -> Caller:
    began = time.time()
    is_local = caller.user_id.startswith(f"{identity.ISSUER_NAME}|")
    user = await db.ensure_user(
        caller.user_id,
        UUID(caller.session_id) if is_local and caller.session_id else None,
        email=caller.email,
        name=caller.name,
        image_url=caller.image_url,
    )
    try:
        require(user.signed_in, "session has ended")
        _require_open(user)
    except NotSignedIn as refusal:
        log.info("user_refused", reason=str(refusal), user=caller.user_id)
        raise
    return _remember(replace(caller, checked_at=began, requests_per_minute=user.requests_per_minute))


async def _find_key(digest: bytes) -> Caller:
    for _ in range(3):  # again when a revocation has overtaken the look-up
        began = time.time()
        found = [it for it in await db.find_keys(digest) if hmac.compare_digest(it.key_hash, digest)]
        require(len(found) == 1, "no such key")
        key = found[0]
        _require_open(key)
        caller = Caller(
            user_id=key.user_id,
            session_id=None,
            issued_at=int(began),
            expires_at=int(key.expires_at.timestamp()) if key.expires_at else NEVER,
            actor=f"key:{key.id}",
            scopes=frozenset(get_args(Scope)) & frozenset(key.scopes),
            requests_per_minute=key.requests_per_minute,
            checked_at=began,
            digest=digest,
        )
        if not revoked(caller):
            return _remember(caller)
    raise NotSignedIn("revoked")


def _require_open(user: db.Standing | db.FoundKey) -> None:
    require(not user.erased, "erased")
    if user.disabled:
        raise identity.AccountDisabled


def _recall(digest: bytes) -> Caller | None:
    caller = _admitted.get(digest)
    if caller is None or is_stale(caller) or revoked(caller):
        return None
    _admitted.move_to_end(digest)
    return caller


def _remember(caller: Caller) -> Caller:
    if caller.digest:
        _admitted[caller.digest] = caller
        _admitted.move_to_end(caller.digest)
        if len(_admitted) > CACHED_TOKENS:
            _admitted.popitem(last=False)
    return caller


# Permissions ----------------------------------------------------------------------------------

# By the template of the route that matched; the first row that fits is the scope that a key must have, and
# None is for people alone.
_ROUTE_SCOPES: tuple[tuple[str, str, Scope | None], ...] = (
    ("DELETE", r"/api/me", None),
    ("[A-Z]+", r"/api/(auth|keys|admin)(/.*)?", None),
    ("GET|HEAD", r".*", "read"),
    ("POST", r"/api/files/\{id\}/link", "read"),
    ("[A-Z]+", r"/api/(runs|computers|approvals|agent)(/.*)?", "run"),
    ("POST", r"/api/threads/\{id\}/messages|/api/schedules/\{id\}/run|/api/files", "run"),
    ("[A-Z]+", r".*", "write"),
)
SOCKET_SCOPES: Mapping[str, Scope] = {"subscribe": "read", "watch": "read", "control": "run", "input": "run"}


@lru_cache(1024)
def scope_of(method: str, template: str) -> Scope | None:
    """The scope that an API key needs for a route; None where no key will do."""
    return next(
        scope
        for methods, templates, scope in _ROUTE_SCOPES
        if re.fullmatch(methods, method) and re.fullmatch(templates, template)
    )


async def _permit(caller: Caller, scope: Scope | None) -> Caller:
    if scope is None and caller.is_key:
        raise OnlySignedIn
    if scope is not None and scope not in caller.scopes:
        caller = await _ask_again(caller)  # it may have been given the scope a moment ago
        if scope not in caller.scopes:
            raise MissingScope(scope)
    return caller


async def role_of(caller: Caller) -> Literal["user", "admin"]:
    """What the caller is at this moment: by the token, the database, or an address that is verified."""
    return role_in(caller, await db.ensure_user(caller.user_id))


def role_in(caller: Caller, user: db.Standing) -> Literal["user", "admin"]:
    """The same of a caller whose standing is known."""
    listed = verified_emails(caller, user) & {email.lower() for email in settings.admin_emails}
    return "admin" if "admin" in (caller.role, user.role) or listed else "user"


def verified_emails(caller: Caller, user: db.Standing) -> set[str]:
    """The addresses, in lower case, that an issuer has seen to be the caller's."""
    return {email.lower() for email in (user.verified_email, caller.verified_email) if email}


# In a route -------------------------------------------------------------------------------------

M = TypeVar("M", bound=Base)
P = ParamSpec("P")

_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")


_BEARER_SCHEME = HTTPBearer(
    scheme_name="bearer",
    auto_error=False,
    bearerFormat="JWT",
    description="A session token of the issuer, or an API key.",
)
_KEY_SCHEME = APIKeyHeader(
    scheme_name="apiKey", name="X-API-Key", auto_error=False, description="An API key (`cua_…`)."
)


async def get_current_caller(
    request: Request,
    _bearer: Annotated[object, Security(_BEARER_SCHEME)] = None,
    _key: Annotated[object, Security(_KEY_SCHEME)] = None,
) -> Caller:
    """Who sent this request, and may.

    Raises `NotSignedIn`, `identity.AccountDisabled`, `MissingScope`, `OnlySignedIn`, `rates.RateLimited`,
    `KeysUnavailable`, `db.Unavailable`.
    """
    caller = await authenticate(only_credential(request.headers), address=peer_address(request))
    bind_contextvars(user_id=caller.user_id)
    request.state.standing = await rates.take("requests", bucket(caller), limit_for(caller))
    return await _permit(caller, scope_of(request.method, request.scope["route"].path))


def bucket(caller: Caller) -> str:
    """Whose requests count together: those of one API key, or the others of one user."""
    return caller.actor if caller.is_key else f"user:{caller.user_id}"


def limit_for(caller: Caller) -> RateLimitItem | None:
    """How many requests the caller may send: what an administrator gave its user, or the server's own."""
    own = caller.requests_per_minute
    return rates.limit(settings.rate_limit if own is None else f"{own}/minute")


CurrentCaller = Annotated[Caller, Depends(get_current_caller)]


async def require_person(caller: CurrentCaller) -> Caller:
    """The caller who has signed in. Raises `OnlySignedIn` for an API key."""
    if caller.is_key:
        raise OnlySignedIn
    return caller


SignedInCaller = Annotated[Caller, Depends(require_person)]


async def require_admin(caller: SignedInCaller) -> None:
    """Raise `NotAdmin` unless the caller is an administrator at this moment."""
    if await role_of(caller) != "admin":
        raise NotAdmin


async def get_current_user(caller: CurrentCaller) -> str:
    """The id of the user who sent this request."""
    return caller.user_id


CurrentUser = Annotated[str, Depends(get_current_user)]


async def idempotency_key(request: Request) -> str | None:
    """The `Idempotency-Key` of a POST. Raises `BadIdempotencyKey`."""
    keys = request.headers.getlist("idempotency-key")
    if request.method != "POST" or not keys:
        return None
    if len(keys) > 1 or not _IDEMPOTENCY_KEY.fullmatch(keys[0]):
        raise BadIdempotencyKey("Idempotency-Key takes 1 to 255 printable ASCII characters, once.")
    return keys[0]


# For a route that reads its body itself, and makes the fingerprint of what it read.
RepeatKey = Annotated[str | None, Depends(idempotency_key)]


async def _idempotency(request: Request, key: RepeatKey) -> db.Idempotency | None:
    if key is None:
        return None
    asked = f"{request.method} {request.scope['path']}\n".encode() + await request.body()
    return db.Idempotency(key, db.vault().fingerprint(asked))


async def transaction(
    caller: CurrentCaller, key: Annotated[db.Idempotency | None, Depends(_idempotency)]
) -> AsyncIterator[db.Tx]:
    async with db.as_user(caller.user_id, caller.actor, key) as tx:
        yield tx


# Function scope: the commit happens before the reply leaves, so a failed one is never a success.
Tx = Annotated[db.Tx, Depends(transaction, scope="function")]


async def _signed_in_transaction(_caller: SignedInCaller, tx: Tx) -> db.Tx:
    return tx


SignedInTx = Annotated[db.Tx, Depends(_signed_in_transaction)]
IfMatch = Annotated[
    str | None, Header(alias="If-Match", description="The `ETag` of what is to be changed, or `*`.")
]


def mine(model: type[M], *, read_only: bool = False) -> Callable[..., Awaitable[M]]:
    """A dependency: the caller's row that the path names, locked; another's is not found.

    Where rows are tagged, one that `If-Match` does not name raises `db.Changed`. One that is only read is not
    locked, and no transaction stays open behind it.
    """

    async def load_as_it_is(user: CurrentUser, id: UUID) -> M:
        async with db.as_user(user) as tx:
            return await tx.one(model, id=id)

    async def load(tx: Tx, id: UUID) -> M:
        return await tx.one(model, lock=True, id=id)

    async def load_unchanged(tx: Tx, id: UUID, request: Request, _documented: IfMatch = None) -> M:
        row = await tx.one(model, lock=True, id=id)
        db.require_match(row, request.headers.getlist("if-match"))
        return row

    if read_only:
        return load_as_it_is
    return load_unchanged if model.__tagged__ else load


@dataclass(frozen=True, slots=True)
class OnceOnly:
    """Work outside the database for one caller, done once under the request's `Idempotency-Key`."""

    user_id: str
    actor: str
    key: db.Idempotency | None

    async def __call__(
        self, work: Callable[Concatenate[str, P], Awaitable[BaseModel]], *args: P.args, **kwargs: P.kwargs
    ) -> Response:
        """Await `work` for the caller and envelope its outcome."""
        return await db.do_once(self.user_id, self.key, lambda: work(self.user_id, *args, **kwargs))


async def _once(
    caller: CurrentCaller, key: Annotated[db.Idempotency | None, Depends(_idempotency)]
) -> OnceOnly:
    return OnceOnly(caller.user_id, caller.actor, key)


Once = Annotated[OnceOnly, Depends(_once)]
LastEventId = Annotated[int | None, Header(ge=0, le=2**62, description="The `seq` to continue from.")]


async def embedded_issuer() -> None:
    """A dependency of the embedded issuer's routes. Raises `identity.IssuerOff` beside another issuer."""
    identity.discovery()
