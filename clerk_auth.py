"""A credential becomes a user: a token is verified strictly, by the keys and rules of exactly one issuer.

Whoever a token or an API key speaks for, the database has the last word on who may come in.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import (
    Annotated,
    Any,
    Concatenate,
    Literal,
    NamedTuple,
    NoReturn,
    ParamSpec,
    Protocol,
    TypeVar,
    get_args,
)
from uuid import UUID

import httpx
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from fastapi import Depends, Header, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from jwt import PyJWK, PyJWTError
from jwt.algorithms import RSAAlgorithm
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.responses import Response

import api_keys
import db
import identity
from models import Base
from schemas import Scope
from settings import Settings, settings

log = structlog.get_logger()
T = TypeVar("T")

TOKEN_CHARS = 8192
CLOCK_SKEW = 5  # seconds
LIFETIME = 3600  # seconds, the longest a token may live
CACHED_TOKENS = 10_000
ADMITTED_FRESH = 30  # seconds that the database's word about a caller is good for
NEVER = 253402300799  # Unix seconds, the end of the year 9999: when a key without an end expires

JWKS_BYTES = 256 * 1024
JWKS_KEYS = 16
JWKS_FRESH = 300  # seconds; a refresh begins in the background after 80 % of them
JWKS_STALE = 3600  # seconds keys outlive the issuer's absence, so the longest a withdrawn key may be used
JWKS_UNKNOWN = 30  # seconds between refetches for keys nobody knows
JWKS_ABSENT = 256  # names of keys remembered as unknown to the issuer


class NotSignedIn(Exception):
    """The credential is refused. Every refusal gets the same 401; the reason is for the log alone."""


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


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had, so nobody can be judged: 503, again in `retry_after` seconds."""

    def __init__(self, retry_after: float) -> None:
        super().__init__("The sign-in service cannot be reached. Try again in a moment.")
        self.retry_after = max(1, math.ceil(retry_after))


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
    `verified_email` is one that the issuer vouches for. An API key has no session and is the actor
    `key:<id>`. `checked_at` is when the database let the credential, known by its SHA-256 `digest`, in.
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


# Tokens ---------------------------------------------------------------------------------------

_COMPACT = re.compile(r"([A-Za-z0-9_-]{2,})\.([A-Za-z0-9_-]{2,})\.([A-Za-z0-9_-]{40,1024})")
_BEARER = re.compile(r"bearer ([A-Za-z0-9._~+/=-]{1,8192})", re.IGNORECASE | re.ASCII)
_IDEMPOTENCY_KEY = re.compile(r"[\x20-\x7e]{1,255}")
_KID = re.compile(r"[\x20-\x7e]{1,128}")
_TEXT = re.compile(r"[^\x00-\x1f\x7f\ud800-\udfff]{1,2048}")
_REFUSED_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "b64", "crit", "zip", "enc", "p2c"})


class SignedToken(NamedTuple):
    """The parts of a compact JWS (RFC 7515 §3.1), decoded, nothing verified."""

    header: dict[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes


def strict_bearer(headers: Headers) -> str:
    """The token of the one `Authorization: Bearer` header (RFC 6750 §2.1); anything else is `NotSignedIn`."""
    values = headers.getlist("authorization")
    match = _BEARER.fullmatch(values[0]) if len(values) == 1 else None
    if match is None:
        raise NotSignedIn("not exactly one bearer token")
    return match[1]


def read_token(token: str) -> SignedToken:
    """Take a token apart; raises `NotSignedIn` for any form or header that RFC 8725 teaches to distrust."""
    match = _COMPACT.fullmatch(token) if len(token) <= TOKEN_CHARS else None
    if match is None:
        raise NotSignedIn("not a compact token")
    try:
        encoded, payload, signature = (_base64url(part) for part in match.groups())
        header = json_object(encoded)
    except (ValueError, RecursionError) as error:
        raise NotSignedIn("malformed token") from error
    _require(not _REFUSED_HEADERS & header.keys(), "header parameter refused")
    _require(header.get("typ", "JWT") == "JWT", "not of type JWT")
    _require("kid" not in header or _KID.fullmatch(_claim(header, "kid", str)), "malformed kid")
    _require(_claim(header, "alg", str), "no algorithm")
    return SignedToken(header, payload, token.rpartition(".")[0].encode(), signature)


def check_signature(token: SignedToken, key: PyJWK) -> None:
    """Raise `NotSignedIn` unless `key` made the signature, by the algorithm bound to it (RFC 8725 §3.1)."""
    _require(key.algorithm_name == token.header["alg"], "algorithm is not the key's")
    _require(key.Algorithm.verify(token.signed, key.key, token.signature), "bad signature")


def _base64url(text: str) -> bytes:
    data = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != text.encode():
        raise ValueError("not canonical base64url")
    return data


def json_object(data: bytes) -> dict[str, Any]:
    """Parse UTF-8 JSON with unique names and finite numbers; raises `ValueError` or `RecursionError`."""
    value = json.loads(data.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("duplicate name")
    return names


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


# Keys -----------------------------------------------------------------------------------------

_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
_ALGORITHMS = {  # by kty and crv; a key that names no algorithm has the first
    ("RSA", None): ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    ("EC", "P-256"): ("ES256",),
    ("EC", "P-384"): ("ES384",),
    ("EC", "P-521"): ("ES512",),
    ("OKP", "Ed25519"): ("EdDSA",),
}


class Keys(Protocol):
    """Where a verifier finds the key that a token names."""

    async def find(self, kid: str | None) -> PyJWK:
        """Raises `NotSignedIn` when there is no such key, `KeysUnavailable` when nobody can tell."""


def usable_keys(document: dict[str, Any]) -> dict[str, PyJWK]:
    """The public signature keys of a JWKS (RFC 7517), by name; raises `ValueError` when it is none.

    Left out: keys without or with the same name, symmetric and private ones, other uses, RSA outside 2048 to
    8192 bits or with an exponent other than 65537, and algorithms that do not fit the key.
    """
    jwks = document.get("keys")
    if not isinstance(jwks, list) or len(jwks) > JWKS_KEYS or not all(isinstance(jwk, dict) for jwk in jwks):
        raise ValueError("not a set of keys")
    kids = [jwk.get("kid") for jwk in jwks]
    keys = (
        (jwk["kid"], _public_key(jwk)) for jwk in jwks if kids.count(jwk.get("kid")) == 1 and "kid" in jwk
    )
    return {kid: key for kid, key in keys if key is not None}


def _public_key(jwk: dict[str, Any]) -> PyJWK | None:
    if _PRIVATE & jwk.keys():
        log.error("jwks_publishes_private_key")
        return None
    try:
        algorithms = _ALGORITHMS[jwk["kty"], jwk.get("crv")]
        algorithm = jwk.get("alg", algorithms[0])
        fits = (
            algorithm in algorithms
            and jwk.get("use", "sig") == "sig"
            and "verify" in jwk.get("key_ops", ["verify"])
        )
        if not fits or not _KID.fullmatch(jwk["kid"]):
            return None
        key = PyJWK(jwk, algorithm)
    except (PyJWTError, UnsupportedAlgorithm, KeyError, TypeError, ValueError):
        return None
    if isinstance(key.key, RSAPublicKey):
        sound = 2048 <= key.key.key_size <= 8192 and key.key.public_numbers().e == 65537
        return key if sound else None
    return key


class PemKeys:
    """One RSA public key in PEM (Clerk's JWT key): no network. Its line ends may be `\\n`, or lost."""

    def __init__(self, pem: str) -> None:
        body = re.sub(r"-----(BEGIN|END) PUBLIC KEY-----|\\n|\s", "", pem)
        try:
            key = load_der_public_key(base64.b64decode(body, validate=True))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True) | {"kid": "pem"} if isinstance(key, RSAPublicKey) else {}
        found = _public_key(jwk)
        if found is None:
            raise Misconfigured("CLERK_JWT_KEY is not an RSA public key of at least 2048 bits in PEM format.")
        self._key = found

    async def find(self, kid: str | None) -> PyJWK:  # noqa: ARG002 - one key has no need of a name
        return self._key


class EmbeddedKeys:
    """The keys of the embedded issuer, asked of the issuer itself."""

    async def find(self, kid: str | None) -> PyJWK:
        key = usable_keys({"keys": await identity.public_keys()}).get(kid or "")
        if key is None:
            raise NotSignedIn("unknown key")
        return key


class KeySet:
    """An issuer's JWKS, fetched when needed, shared by everyone who waits, and kept while the issuer is away.

    Keys are used for `JWKS_FRESH` seconds, up to `JWKS_STALE` while refreshing them fails. Only a complete
    answer with a usable key replaces them. Unknown keys cause at most one fetch per `JWKS_UNKNOWN` seconds.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            timeout=httpx.Timeout(3, connect=2),
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
        )
        self._keys: dict[str, PyJWK] = {}
        self._absent: OrderedDict[str, None] = OrderedDict()
        self._loaded_at = self._retry_at = self._asked_at = -math.inf  # monotonic seconds
        self._failures = 0
        self._loading: asyncio.Task[None] | None = None

    async def find(self, kid: str | None) -> PyJWK:
        if kid is None:
            raise NotSignedIn("key not named")
        now = time.monotonic()
        age = now - self._loaded_at
        if age >= JWKS_STALE or (age >= JWKS_FRESH and not self._failures):
            await self._refreshed()
        elif age >= 0.8 * JWKS_FRESH:
            self.refresh()
        if now - self._loaded_at >= JWKS_STALE:
            raise KeysUnavailable(self._retry_at - time.monotonic())
        if kid not in self._keys and self._loaded_at < now:
            await self._ask_for(kid, now)
        if kid not in self._keys:
            raise NotSignedIn("unknown key")
        return self._keys[kid]

    def refresh(self) -> None:
        """Begin to load the keys, unless that is under way or failed a moment ago."""
        if self._loading is None and time.monotonic() >= self._retry_at:
            self._loading = asyncio.create_task(self._load())

    async def close(self) -> None:
        """Stop loading and let go of the connection."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait([self._loading])
        await self._client.aclose()

    async def _refreshed(self) -> None:
        self.refresh()
        if self._loading is not None:
            await asyncio.shield(self._loading)  # a caller who leaves takes nobody's answer away

    async def _ask_for(self, kid: str, now: float) -> None:
        if self._loading is None:
            if kid in self._absent or now - self._asked_at < JWKS_UNKNOWN:
                return
            self._asked_at = now
        await self._refreshed()
        if kid not in self._keys and self._loaded_at >= now:
            self._absent[kid] = None
            if len(self._absent) > JWKS_ABSENT:
                self._absent.popitem(last=False)

    async def _load(self) -> None:
        try:
            keys = usable_keys(json_object(await self._download()))
            if not keys:
                raise ValueError("no usable key")
        except (httpx.HTTPError, TimeoutError, ValueError, RecursionError) as error:
            self._failures += 1
            self._retry_at = time.monotonic() + 2 ** min(self._failures, 5)
            log.warning("jwks_refresh_failed", url=self.url, failures=self._failures, error=repr(error)[:200])
        else:
            self._keys, self._failures, self._loaded_at = keys, 0, time.monotonic()
            log.info("jwks_refreshed", url=self.url, keys=len(keys))
        finally:
            self._loading = None

    async def _download(self) -> bytes:
        body = bytearray()
        async with asyncio.timeout(5), self._client.stream("GET", self.url) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            async for chunk in response.aiter_raw():  # raw: a compressed answer is never unpacked
                body += chunk
                if len(body) > JWKS_BYTES:
                    raise ValueError("too large")
        return bytes(body)


# Claims ---------------------------------------------------------------------------------------

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
        _require(token.header["alg"] in self.algorithms, "algorithm refused")
        check_signature(token, await self.keys.find(token.header.get("kid")))
        _require(token.header.get("cat") not in _MACHINE_CATEGORIES, "not a session token")
        _require("v" not in claims or _claim(claims, "v", int) == 2, "unknown token version")
        _require(claims.get("sts", "active") == "active", "session is not active")
        _require("aud" not in claims, "meant for another audience")
        _require(not self.parties or _claim(claims, "azp", str) in self.parties, "azp is not authorized")
        issued_at, expires_at = _lifetime(claims)
        subject, session_id = _claim(claims, "sub", str), _claim(claims, "sid", str)
        _require(self.subject.fullmatch(subject), "malformed sub")
        _require(self.session.fullmatch(session_id), "malformed sid")
        impersonator = _text(_claim(claims, "act", dict).get("sub"))
        _require(impersonator or claims.get("act") is None, "malformed act")
        metadata = _claim(claims, "public_metadata", dict)
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


def _require(fact: object, reason: str) -> None:
    if not fact:
        raise NotSignedIn(reason)


def _claim(claims: Mapping[str, Any], name: str, kind: type[T]) -> T:
    value = claims.get(name)
    if value is None:
        return kind()
    if type(value) is not kind:
        raise NotSignedIn(f"malformed {name}")
    return value


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and _TEXT.fullmatch(value) else None


def _lifetime(claims: Mapping[str, Any]) -> tuple[int, int]:
    now = time.time()
    issued_at, expires_at = _claim(claims, "iat", int), _claim(claims, "exp", int)
    not_before = _claim(claims, "nbf", int) if "nbf" in claims else issued_at
    begins_at = max(issued_at, not_before)
    _require(min(issued_at, not_before) > 0 and begins_at <= expires_at, "impossible instants")
    _require(expires_at - issued_at <= LIFETIME, "lives too long")
    _require(begins_at <= now + CLOCK_SKEW, "not valid yet")
    _require(now < expires_at + CLOCK_SKEW, "expired")
    return issued_at, expires_at


def _organization(claims: Mapping[str, Any]) -> Organization | None:
    if "v" in claims:
        o = _claim(claims, "o", dict)
        found, slug, role = (_claim(o, name, str) for name in ("id", "slg", "rol"))
        role = role and f"org:{role}"
        names, bitmaps = _claim(o, "per", str), _claim(o, "fpm", str)
        permissions = _permissions(_claim(claims, "fea", str), names, bitmaps)
    else:
        found, slug, role = (_claim(claims, name, str) for name in ("org_id", "org_slug", "org_role"))
        permissions = _claim(claims, "org_permissions", list)
    texts = (found, slug, role, *permissions)
    _require(all(text == "" or _text(text) for text in texts), "malformed organization")
    return Organization(found, slug, role, frozenset(permissions)) if found else None


def _permissions(features: str, names: str, bitmaps: str) -> list[str]:
    """Clerk's compact form: a number for each organization feature, whose lowest bit is the first name's."""
    _require(re.fullmatch(r"([0-9]{1,9}(,[0-9]{1,9})*)?", bitmaps), "malformed permissions")
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

_verifiers: dict[str, Verifier] = {}
_verified: OrderedDict[bytes, Caller] = OrderedDict()
_revoked: dict[str, float] = {}  # session id, `user:<id>` or `key:<id>` -> Unix seconds
_admitted: OrderedDict[bytes, Caller] = OrderedDict()  # by digest


def configure(settings: Settings) -> None:
    """Choose the issuers; raises `Misconfigured`. The embedded one serves only where no other is named."""
    if issuer := clerk_issuer(settings):
        jwks_url = settings.clerk_jwks_url or f"{issuer}/.well-known/jwks.json"
        pem = settings.clerk_jwt_key
        verifier = Verifier(
            issuer=issuer,
            keys=PemKeys(pem) if pem else KeySet(_safe_url("CLERK_JWKS_URL", jwks_url)),
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
    _admitted.clear()
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


async def verify(token: str) -> Caller:
    """The caller a token speaks for by its signature and claims, kept until it expires.

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
            raise Revoked(caller)
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
    for forgotten in [it for it, at in _revoked.items() if at + LIFETIME + 2 * CLOCK_SKEW < now]:
        del _revoked[forgotten]


# Admission ------------------------------------------------------------------------------------


def only_credential(headers: Headers) -> str:
    """The token or key of one `Authorization` or one `X-API-Key` header; anything else is `NotSignedIn`."""
    keys = headers.getlist("x-api-key")
    if not keys:
        return strict_bearer(headers)
    _require(len(keys) == 1 and "authorization" not in headers, "more than one credential")
    _require(api_keys.is_well_formed(keys[0]), "not an API key")
    return keys[0]


async def authenticate(credential: str) -> Caller:
    """Who a token or an API key speaks for, let in by the database at most `ADMITTED_FRESH` seconds ago.

    Raises `NotSignedIn`, `identity.AccountDisabled`, `KeysUnavailable`, `db.Unavailable`.
    """
    digest = api_keys.digest(credential)
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
        _require(api_keys.is_well_formed(key), "not an API key")
        caller = _recall(digest)
        if caller is None or caller.expires_at <= time.time():
            caller = await _find_key(digest)
        _require(time.time() < caller.expires_at, "expired")
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
        _require(user.signed_in, "session has ended")
        _require_open(user)
    except NotSignedIn as refusal:
        log.info("user_refused", reason=str(refusal), user=caller.user_id)
        raise
    return _remember(replace(caller, checked_at=began, requests_per_minute=user.requests_per_minute))


async def _find_key(digest: bytes) -> Caller:
    for _ in range(3):  # again when a revocation has overtaken the look-up
        began = time.time()
        found = [it for it in await db.find_keys(digest) if hmac.compare_digest(it.key_hash, digest)]
        _require(len(found) == 1, "no such key")
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
    _require(not user.erased, "erased")
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
    user = await db.ensure_user(caller.user_id)
    verified = {(email or "").lower() for email in (user.verified_email, caller.verified_email)}
    listed = verified & {email.lower() for email in settings.admin_emails}
    return "admin" if "admin" in (caller.role, user.role) or listed else "user"


# In a route -------------------------------------------------------------------------------------

M = TypeVar("M", bound=Base)
P = ParamSpec("P")


_BEARER_SCHEME = HTTPBearer(
    auto_error=False, bearerFormat="JWT", description="A session token of the issuer, or an API key."
)
_KEY_SCHEME = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key (`cua_…`).")


async def get_current_caller(
    request: Request,
    _bearer: Annotated[object, Security(_BEARER_SCHEME)] = None,
    _key: Annotated[object, Security(_KEY_SCHEME)] = None,
) -> Caller:
    """Who sent this request, and may.

    Raises `NotSignedIn`, `identity.AccountDisabled`, `MissingScope`, `OnlySignedIn`, `KeysUnavailable`,
    `db.Unavailable`.
    """
    caller = await authenticate(only_credential(request.headers))
    return await _permit(caller, scope_of(request.method, request.scope["route"].path))


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


async def _signed_in_transaction(_caller: SignedInCaller, tx: Tx) -> db.Tx:
    return tx


SignedInTx = Annotated[db.Tx, Depends(_signed_in_transaction)]


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
