"""A real key set server on loopback and tokens of Clerk's shape, signed as Clerk would and as an attacker would."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

import clerk_auth
import jwks
from clerk_auth import KeySet, NotSignedIn, verify
from settings import Settings

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
Answer = Callable[["KeyServer", asyncio.StreamWriter], Awaitable[None]]

KEY = rsa.generate_private_key(65537, 2048)
OTHER_KEY = rsa.generate_private_key(65537, 2048)
KID = "ins_2abcDEF"
USER = "user_2NNEqL2nrIRdJ194ndJqAHwEfxC"
SESSION = "sess_2NNEqKuIS8gzTbEMX3Kuu6S8yCc"


def configured(**changes: Any) -> Settings:
    """These settings, and the defaults of all others."""
    return Settings(_env_file=None, **changes)


def values(*of_any_type: Any) -> tuple[Any, ...]:
    """They, for which mypy finds no common type."""
    return of_any_type


def jwk(key: PrivateKey = KEY, kid: Any = KID, **changes: Any) -> dict[str, Any]:
    """The public JWK of a key, as Clerk publishes it; `changes` override members, None removes them."""
    if isinstance(key, rsa.RSAPrivateKey):
        public = RSAAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "RS256"}
    elif isinstance(key, ec.EllipticCurvePrivateKey):
        public = ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "ES256"}
    else:
        public = OKPAlgorithm.to_jwk(key.public_key(), as_dict=True) | {"alg": "EdDSA"}
    public.pop("key_ops", None)
    return {
        name: it for name, it in (public | {"use": "sig", "kid": kid} | changes).items() if it is not None
    }


def claims(issuer: str, **changes: Any) -> dict[str, Any]:
    """The claims of a version 2 session token; `changes` override claims, `...` removes them."""
    now = int(time.time())
    made = {
        "azp": "https://app.example.com",
        "exp": now + 60,
        "fva": [1, -1],
        "iat": now,
        "iss": issuer,
        "jti": "8f1c3a5e7b9d0f2a4c6e",
        "nbf": now - 10,
        "pla": "u:free",
        "sid": SESSION,
        "sts": "active",
        "sub": USER,
        "v": 2,
    }
    return {name: it for name, it in (made | changes).items() if it is not ...}


def header(**changes: Any) -> dict[str, Any]:
    """The header of a session token; `changes` override parameters, `...` removes them."""
    made = {"alg": "RS256", "cat": "cl_B7d4PD111AAA", "kid": KID, "typ": "JWT"}
    return {name: it for name, it in (made | changes).items() if it is not ...}


def base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def sign(
    header: dict[str, Any] | bytes,
    claims: dict[str, Any] | bytes,
    key: PrivateKey | bytes = KEY,
) -> str:
    """A compact JWS over exactly these bytes, whatever they say; bytes as key make an HMAC."""
    parts = [it if isinstance(it, bytes) else json.dumps(it).encode() for it in (header, claims)]
    signed = ".".join(base64url(part) for part in parts)
    return f"{signed}.{base64url(_signature(signed.encode(), key))}"


def _signature(signed: bytes, key: PrivateKey | bytes) -> bytes:
    if isinstance(key, bytes):
        return hmac.new(key, signed, hashlib.sha256).digest()
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(signed, padding.PKCS1v15(), hashes.SHA256())
    if isinstance(key, ec.EllipticCurvePrivateKey):
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")
    return key.sign(signed)


class KeyServer:
    """Serves `keys` at `/.well-known/jwks.json`, or does what `answer` does; counts requests."""

    def __init__(self) -> None:
        self.keys: list[Any] = [jwk()]
        self.answer: Answer = good
        self.requests: list[bytes] = []
        self.issuer = ""
        self.conversations: set[asyncio.Task[None]] = set()

    def token(self, key: PrivateKey = KEY, /, *, head: Any = None, **changes: Any) -> str:
        """A session token of this issuer; `changes` are those of `claims`, `head` those of `header`."""
        return sign(header(**(head or {})), claims(self.issuer, **changes), key)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            await self.answer(self, writer)
            await writer.drain()
        finally:
            writer.close()
            await writer.wait_closed()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.conversations.add(asyncio.create_task(self.serve(reader, writer)))


@asynccontextmanager
async def key_server() -> AsyncIterator[KeyServer]:
    served = KeyServer()
    server = await asyncio.start_server(served.accept, "127.0.0.1", 0)
    served.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield served
    finally:
        server.close()
        await server.wait_closed()
        for conversation in served.conversations:
            conversation.cancel()
        outcomes = await asyncio.gather(*served.conversations, return_exceptions=True)
        for outcome in outcomes:  # clients that go away are what several tests are about
            assert isinstance(outcome, asyncio.CancelledError | ConnectionError | EOFError | None), outcome


def key_set(server: KeyServer) -> KeySet:
    """What the verifier of this server's issuer keeps of it."""
    [keys] = [it.keys for it in clerk_auth._verifiers.values() if it.issuer.startswith(server.issuer)]
    assert isinstance(keys, KeySet)
    return keys


def age(server: KeyServer, seconds: float) -> None:
    """Move everything that the key set remembers into the past."""
    keys = key_set(server)
    keys._loaded_at -= seconds
    keys._asked_at -= seconds
    keys._retry_at -= seconds


@contextmanager
def impatient() -> Iterator[None]:
    """A time in which nobody waits long for an issuer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jwks, "READ_SECONDS", 0.3)
        patch.setattr(jwks, "LOAD_SECONDS", 0.5)
        yield


async def refused(token: str) -> None:
    with pytest.raises(NotSignedIn):
        await verify(token)


def respond(writer: asyncio.StreamWriter, body: bytes, status: str = "200 OK", *extra: str) -> None:
    """Write one whole HTTP response."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *extra]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)


async def good(server: KeyServer, writer: asyncio.StreamWriter) -> None:
    respond(writer, json.dumps({"keys": server.keys}).encode(), "200 OK", "Content-Type: application/json")
