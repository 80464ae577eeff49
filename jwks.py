"""Signed tokens taken apart strictly, and the published keys that prove them (RFC 7515, 7517, 8725)."""

import asyncio
import base64
import json
import math
import re
import time
from collections import OrderedDict
from collections.abc import Mapping
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import httpx
import structlog
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key
from jwt import PyJWK, PyJWTError
from jwt.algorithms import RSAAlgorithm

log = structlog.get_logger()
T = TypeVar("T")

TOKEN_CHARS = 8192

READ_SECONDS = 3  # silence that ends a conversation with an issuer
LOAD_SECONDS = 5  # all that loading keys may take
JWKS_BYTES = 256 * 1024
JWKS_KEYS = 16
JWKS_FRESH = 300  # seconds; a refresh begins in the background after 80 % of them
JWKS_STALE = 3600  # seconds keys outlive the issuer's absence, so the longest a withdrawn key may be used
JWKS_UNKNOWN = 30  # seconds between refetches for keys nobody knows
JWKS_ABSENT = 256  # names of keys remembered as unknown to the issuer


class NotSignedIn(Exception):
    """The credential is refused. Every refusal gets the same 401; the reason is for the log alone."""


class KeysUnavailable(Exception):
    """The issuer's keys cannot be had, so nobody can be judged.

    Another try may be made in `retry_after` seconds.
    """

    def __init__(self, retry_after: float) -> None:
        super().__init__("The sign-in service cannot be reached. Try again in a moment.")
        self.retry_after = max(1, math.ceil(retry_after))


def require(fact: object, reason: str) -> None:
    """Raise `NotSignedIn` for this reason unless the fact holds."""
    if not fact:
        raise NotSignedIn(reason)


def claim(claims: Mapping[str, Any], name: str, kind: type[T]) -> T:
    """The claim of exactly this type, its empty value without; raises `NotSignedIn` for any other type."""
    value = claims.get(name)
    if value is None:
        return kind()
    if type(value) is not kind:
        raise NotSignedIn(f"malformed {name}")
    return value


# Tokens ---------------------------------------------------------------------------------------

_COMPACT = re.compile(r"([A-Za-z0-9_-]{2,})\.([A-Za-z0-9_-]{2,})\.([A-Za-z0-9_-]{40,1024})")
_KID = re.compile(r"[\x20-\x7e]{1,128}")
_TYPES = ("JWT", "at+jwt", "application/at+jwt")  # the last two are access tokens' (RFC 9068 §4)
_REFUSED_HEADERS = frozenset({"jku", "jwk", "x5u", "x5c", "b64", "crit", "zip", "enc", "p2c"})


class SignedToken(NamedTuple):
    """The parts of a compact JWS (RFC 7515 §3.1), decoded, nothing verified."""

    header: dict[str, Any]
    payload: bytes
    signed: bytes
    signature: bytes


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
    require(not _REFUSED_HEADERS & header.keys(), "header parameter refused")
    require(header.get("typ", "JWT") in _TYPES, "not of a known type")
    require("kid" not in header or _KID.fullmatch(claim(header, "kid", str)), "malformed kid")
    require(claim(header, "alg", str), "no algorithm")
    return SignedToken(header, payload, token.rpartition(".")[0].encode(), signature)


def check_signature(token: SignedToken, key: PyJWK) -> None:
    """Raise `NotSignedIn` unless `key` made the signature, by the algorithm bound to it (RFC 8725 §3.1)."""
    require(key.algorithm_name == token.header["alg"], "algorithm is not the key's")
    require(key.Algorithm.verify(token.signed, key.key, token.signature), "bad signature")


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


_LOOPBACK = ("127.0.0.1", "::1", "localhost")


def is_safe_url(url: str, *, query: bool = False, plain: bool = True) -> bool:
    """Whether keys may come from here: https, or `plain` http on loopback; no user, no fragment."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        return False
    secure = parts.scheme == "https" or (plain and parts.scheme == "http" and parts.host in _LOOPBACK)
    reachable = bool(parts.host) and 0 < (parts.port or 443) < 65536
    return secure and reachable and not (parts.userinfo or parts.fragment or (parts.query and not query))


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
    """One RSA public key in PEM (Clerk's JWT key): no network. Its line ends may be `\\n`, or lost.

    Raises `ValueError`.
    """

    def __init__(self, pem: str) -> None:
        body = re.sub(r"-----(BEGIN|END) PUBLIC KEY-----|\\n|\s", "", pem)
        try:
            key = load_der_public_key(base64.b64decode(body, validate=True))
        except (ValueError, UnsupportedAlgorithm):
            key = None
        jwk = RSAAlgorithm.to_jwk(key, as_dict=True) | {"kid": "pem"} if isinstance(key, RSAPublicKey) else {}
        found = _public_key(jwk)
        if found is None:
            raise ValueError("not an RSA public key of at least 2048 bits in PEM format")
        self._key = found

    async def find(self, kid: str | None) -> PyJWK:  # noqa: ARG002 - one key has no need of a name
        return self._key


class KeySet:
    """An issuer's JWKS, fetched when needed, shared by everyone who waits, and kept while the issuer is away.

    `url` is the set's own or, where `issuer` is given, that of its discovery document, which must name just
    this issuer and is read at every refresh (OpenID Connect Discovery 1.0, section 4.3). Keys are used for
    `JWKS_FRESH` seconds, up to `JWKS_STALE` while refreshing them fails. Only a complete answer with a usable
    key replaces them. Unknown keys cause at most one refresh per `JWKS_UNKNOWN` seconds.
    """

    def __init__(self, url: str, issuer: str = "") -> None:
        self.url, self.issuer = url, issuer
        self._client = httpx.AsyncClient(
            follow_redirects=False,
            trust_env=False,
            headers={"Accept": "application/json", "Accept-Encoding": "identity"},
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
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
            async with asyncio.timeout(LOAD_SECONDS):
                keys = usable_keys(await self._download(await self._address()))
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

    async def _address(self) -> str:
        """Where the keys are; raises `ValueError` for a discovery document that is not the issuer's."""
        if not self.issuer:
            return self.url
        document = await self._download(self.url)
        if document.get("issuer") != self.issuer:
            raise ValueError("the discovery document names another issuer")
        url = document.get("jwks_uri")
        # An issuer beyond this machine has no business with what listens on it.
        plain = self.issuer.startswith("http:")
        if not isinstance(url, str) or not is_safe_url(url, query=True, plain=plain):
            raise ValueError("the discovery document names no safe jwks_uri")
        return url

    async def _download(self, url: str) -> dict[str, Any]:
        body = bytearray()
        timeout = httpx.Timeout(READ_SECONDS, connect=2)
        async with self._client.stream("GET", url, timeout=timeout) as response:
            if response.status_code != 200:
                raise ValueError(f"status {response.status_code}")
            async for chunk in response.aiter_raw():  # raw: a compressed answer is never unpacked
                body += chunk
                if len(body) > JWKS_BYTES:
                    raise ValueError("too large")
        return json_object(bytes(body))
