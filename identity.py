"""The embedded issuer: accounts, their sign-ins, and the keys that sign their tokens."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import time
import unicodedata
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from typing import Any, Literal, NamedTuple, Self, TypeVar
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.exc import NoResultFound

import db
from infra import rates
from infra.mail import BadMail, Mail
from infra.vault import Unsealable, Vault
from models import Account, AuthCode, AuthSession, SigningKey, User, uuid7
from schemas import Credentials, RefreshRequest, Registration, SessionRead, Tokens
from settings import settings

log = structlog.get_logger()
T = TypeVar("T")

ISSUER_NAME = "local"
# Ed25519 signs in microseconds and has one parameter set; the name is PyJWT's (RFC 8037).
ALGORITHM = "EdDSA"

REUSE_GRACE = timedelta(seconds=10)
SESSIONS_PER_ACCOUNT = 100
HASHING_THREADS = 2
HASHING_QUEUE = 64
ERRANDS = 100  # forgotten passwords that are looked into after their answer
MAILS_PER_HOUR = 5  # to one account
VERIFY_LIFE = timedelta(hours=24)
RESET_LIFE = timedelta(hours=1)
KEYS_FRESH = 30  # seconds between looks for keys that other processes made
KEY_LIFE = timedelta(days=30)
KEY_NOTICE = timedelta(minutes=5)  # a new key is published this long before it signs
KEY_AFTERLIFE = timedelta(hours=2)  # longer than any access token lives
KEYS_LOCK = int.from_bytes(b"identity")


class IdentityConflict(Exception):
    """The embedded issuer does not run beside a third-party one; the sentence names the setting."""


class IssuerOff(Exception):
    """People sign in elsewhere: the embedded issuer does not run here."""

    def __init__(self) -> None:
        super().__init__("This server does not sign people in itself.")


class WrongCredentials(Exception):
    """No such account, or not its password; nobody learns which."""

    def __init__(self) -> None:
        super().__init__("The email address or the password is wrong.")


class RegistrationClosed(Exception):
    """Sign-up is off."""

    def __init__(self) -> None:
        super().__init__("Registration is closed on this server; its operator can set REGISTRATION=open.")


class EmailTaken(Exception):
    """The address has an account already."""

    def __init__(self) -> None:
        super().__init__("There is already an account with this email address.")


class AccountDisabled(Exception):
    """An administrator has disabled the account; said only to who proved to own it."""

    def __init__(self) -> None:
        super().__init__("This account is disabled.")


class SessionEnded(Exception):
    """The refresh token is not, or no longer, good for anything."""

    def __init__(self) -> None:
        super().__init__("This sign-in has ended. Sign in again.")


class InvalidCode(Exception):
    """The code was never made, was used, has expired, or a newer one took its place."""

    def __init__(self) -> None:
        super().__init__("This code is not valid, or no longer. Ask for a new one.")


class SignInBusy(Exception):
    """More passwords wait to be checked than can be checked soon.

    Another try may be made in `retry_after` seconds.
    """

    retry_after = 2

    def __init__(self) -> None:
        super().__init__("Too many people are signing in at this moment. Try again in a few seconds.")


# Keys ---------------------------------------------------------------------------------------------


class Key:
    """A signing key; it signs until `retired_at` and is published for `KEY_AFTERLIFE` longer."""

    def __init__(self, private: Ed25519PrivateKey, created_at: datetime, retired_at: datetime | None) -> None:
        self.private, self.created_at, self.retired_at = private, created_at, retired_at
        x = base64.urlsafe_b64encode(private.public_key().public_bytes_raw()).rstrip(b"=").decode()
        public = {"crv": "Ed25519", "kty": "OKP", "x": x}
        thumbprint = hashlib.sha256(json.dumps(public, separators=(",", ":")).encode()).digest()  # RFC 7638
        self.kid = base64.urlsafe_b64encode(thumbprint).rstrip(b"=").decode()
        self.jwk = public | {"kid": self.kid, "alg": ALGORITHM, "use": "sig"}
        self._refresh = HKDF(SHA256(), 32, None, b"refresh token").derive(private.private_bytes_raw())

    @property
    def signs(self) -> bool:
        return self.retired_at is None or self.retired_at > datetime.now(UTC)

    def successor(self, secret: bytes) -> bytes:
        """The secret that follows this one: the same for everyone who submits it twice."""
        return hmac.digest(self._refresh, secret, "sha256")


def _over(row: SigningKey) -> bool:
    return row.retired_at is not None and row.retired_at + KEY_AFTERLIFE < datetime.now(UTC)


def _due(rows: Sequence[SigningKey]) -> bool:
    youngest = datetime.now(UTC) - KEY_LIFE
    return not any(row.retired_at is None and row.created_at > youngest for row in rows)


async def _load_keys(vault: Vault) -> list[Key]:
    """The keys, oldest first; the one that finds the last of them too old makes its successor."""
    async with db.as_system() as tx:
        rows = await tx.find(SigningKey)
        if _due(rows):
            await tx.call("pg_advisory_xact_lock", KEYS_LOCK)
            rows = await tx.find(SigningKey)
            if _due(rows):
                await _replace_key(tx, rows, vault)
                rows = await tx.find(SigningKey)
    return [_open_key(row, vault) for row in sorted(rows, key=lambda row: row.created_at) if not _over(row)]


def _open_key(row: SigningKey, vault: Vault) -> Key:
    try:
        seed = vault.unseal(row.private_key, table="signing_keys", column="private_key", row=row.id, user="")
    except Unsealable as error:
        raise Unsealable(f"The key that signs tokens cannot be read. {error}") from error
    return Key(Ed25519PrivateKey.from_private_bytes(seed), row.created_at, row.retired_at)


async def _replace_key(tx: db.Tx, rows: Sequence[SigningKey], vault: Vault) -> None:
    now = datetime.now(UTC)
    for row in rows:
        if row.retired_at is None:
            await tx.change(SigningKey, {"id": row.id}, retired_at=now + KEY_NOTICE)
        elif _over(row):
            await tx.remove(SigningKey, id=row.id)
    key = Key(Ed25519PrivateKey.generate(), now, None)
    seed = key.private.private_bytes_raw()
    sealed = vault.seal(seed, table="signing_keys", column="private_key", row=key.kid, user="")
    await tx.add(SigningKey, id=key.kid, private_key=sealed, created_at=now)
    log.info("signing_key_made", kid=key.kid)


# The running issuer -------------------------------------------------------------------------------

_passwords = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))


@dataclass(slots=True)
class _Issuer:
    """What runs between `start` and `stop`; `decoy` is the hash of a password that nobody has."""

    vault: Vault
    mail: Mail
    keys: list[Key]
    looked_at: float
    decoy: str
    threads: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(HASHING_THREADS, thread_name_prefix="password")
    )
    waiting: int = 0
    looking: asyncio.Lock = field(default_factory=asyncio.Lock)
    errands: set[asyncio.Task[None]] = field(default_factory=set)
    errand: asyncio.Lock = field(
        default_factory=asyncio.Lock
    )  # one at a time: none takes others' connections

    async def hash(self, password: str) -> str:
        return await self._in_thread(partial(_passwords.hash, _normal(password)))

    async def verify(self, password: str, hashed: str) -> tuple[bool, str | None]:
        """Whether it is the password, and a new hash if this one was made with weaker parameters."""
        return await self._in_thread(partial(_passwords.verify_and_update, _normal(password), hashed))

    async def _in_thread(self, work: Callable[[], T]) -> T:
        if self.waiting >= HASHING_QUEUE:
            raise SignInBusy
        self.waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self.threads, work)
        finally:
            self.waiting -= 1

    def after_the_answer(self, work: Coroutine[Any, Any, None]) -> None:
        """Begin work that nobody waits for. Raises SignInBusy."""
        if len(self.errands) >= ERRANDS:
            work.close()
            raise SignInBusy
        task = asyncio.create_task(self._run(work))
        self.errands.add(task)
        task.add_done_callback(self.errands.discard)

    async def _run(self, work: Coroutine[Any, Any, None]) -> None:
        async with self.errand:
            try:
                await work
            except db.AWAY as error:
                log.error("errand_failed", error=repr(error)[:300])


_issuer: _Issuer | None = None


def _running() -> _Issuer:
    if _issuer is None:
        raise IssuerOff
    return _issuer


def _normal(password: str) -> str:
    """The same password typed on another keyboard is the same bytes (NIST SP 800-63B, section 3.1.1.2)."""
    return unicodedata.normalize("NFKC", password)


async def start(vault: Vault, mail: Mail) -> None:
    """Load or make the signing key. Raises IdentityConflict, db.Unavailable, infra.vault.Unsealable."""
    global _issuer  # noqa: PLW0603 - one issuer a process
    for name, value in settings:
        if name.startswith(("clerk_", "supabase_", "oidc_")) and value:
            raise IdentityConflict(
                f"{name.upper()} is set, so people sign in elsewhere: "
                "the embedded issuer does not run beside a third-party one."
            )
    keys = await _load_keys(vault)
    decoy = await asyncio.to_thread(_passwords.hash, os.urandom(32))
    _issuer = _Issuer(vault, mail, keys, time.monotonic(), decoy)


async def stop() -> None:
    """Forget the keys and let go of the threads; what was begun after an answer has a moment to end."""
    global _issuer
    if _issuer is not None:
        running, _issuer = _issuer, None
        running.threads.shutdown(wait=False, cancel_futures=True)
        if running.errands:
            _, late = await asyncio.wait(running.errands, timeout=5)
            for errand in late:
                errand.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def issuer() -> str:
    """The `iss` of the tokens: the address people use."""
    return settings.address


def registration_open() -> bool:
    """Whether anyone may make an account; by default only where the server is this machine's own."""
    if settings.registration:
        return settings.registration == "open"
    return is_loopback(settings.host) and is_loopback(urlsplit(issuer()).hostname or "")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches the address."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def discovery() -> dict[str, Any]:
    """What OpenID Connect Discovery 1.0, section 3, asks for, as far as it is true here. Raises IssuerOff."""
    _running()
    return {
        "issuer": issuer(),
        "jwks_uri": f"{issuer()}/.well-known/jwks.json",
        "response_types_supported": ["none"],
        "subject_types_supported": ["public"],
        "id_token_signing_alg_values_supported": [ALGORITHM],
        "claims_supported": ["iss", "sub", "sid", "iat", "nbf", "exp", "jti"],
    }


async def public_keys() -> list[dict[str, Any]]:
    """The JWKs (RFC 7517) of every key whose tokens may still be good. Raises IssuerOff, db.Unavailable.

    Another process's new key is known here before it signs: at most one look-up every `KEYS_FRESH` seconds.
    """
    return [key.jwk for key in await _keys()]


async def _keys() -> list[Key]:
    running = _running()
    async with running.looking:
        if time.monotonic() - running.looked_at >= KEYS_FRESH:
            running.keys = await _load_keys(running.vault)
            running.looked_at = time.monotonic()
    return running.keys


# Tokens -------------------------------------------------------------------------------------------


class RefreshToken(NamedTuple):
    """Where its session is, a family secret that stays, and a secret that is replaced at each use.

    Whoever has the family secret without the newest one holds a token that was used before.
    """

    account_id: UUID
    session_id: UUID
    family: bytes
    secret: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises SessionEnded."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{128}", text):
            raise SessionEnded
        raw = base64.urlsafe_b64decode(text)
        return cls(UUID(bytes=raw[:16]), UUID(bytes=raw[16:32]), raw[32:64], raw[64:])

    def __str__(self) -> str:
        raw = self.account_id.bytes + self.session_id.bytes + self.family + self.secret
        return base64.urlsafe_b64encode(raw).decode()


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()


def _user_id(account_id: UUID) -> str:
    return f"{ISSUER_NAME}|{account_id}"


def _tokens(keys: Sequence[Key], refresh_token: RefreshToken) -> Tokens:
    key = next(key for key in keys if key.signs)
    now = int(time.time())
    claims: dict[str, Any] = {
        "iss": issuer(),
        "sub": str(refresh_token.account_id),
        "sid": str(refresh_token.session_id),
        "iat": now,
        "nbf": now,
        "exp": now + settings.access_token_seconds,
        "jti": str(uuid4()),
    }
    return Tokens(
        access_token=jwt.encode(claims, key.private, ALGORITHM, {"kid": key.kid}),
        refresh_token=str(refresh_token),
        expires_in=settings.access_token_seconds,
    )


# Accounts -----------------------------------------------------------------------------------------


async def register(
    body: Registration, *, address: str | None = None, user_agent: str | None = None
) -> Tokens:
    """Make an account, sign it in and mail a link that proves its address; the first is the administrator's.

    Raises RegistrationClosed, EmailTaken, SignInBusy, IssuerOff, db.Unavailable.
    """
    running = _running()
    if not registration_open():
        raise RegistrationClosed
    keys = await _keys()
    hashed = await running.hash(body.password)
    account_id = uuid7()
    user_id = _user_id(account_id)
    async with db.as_system("user") as tx:
        tx.act_for(user_id)
        [(is_first,)] = await tx.call("is_first_account")
        role = "admin" if is_first else "user"
        await tx.add(User, id=user_id, email=body.email, name=body.name, role=role)
        await tx.call("ensure_user", user_id, None, None, None, None)
        try:
            await tx.add(Account, id=account_id, email=body.email, password_hash=hashed)
        except asyncpg.UniqueViolationError as error:
            raise EmailTaken from error
        code = await _add_code(tx, account_id, "verify")
        refresh_token = await _open_session(tx, account_id, address, user_agent)
    log.info("account_made", user=user_id, role=role)
    _post(running, body.email, "verify", code)
    return _tokens(keys, refresh_token)


async def login(body: Credentials, *, address: str | None = None, user_agent: str | None = None) -> Tokens:
    """Sign in.

    Raises WrongCredentials, AccountDisabled, SignInBusy, IssuerOff, db.Unavailable.
    """
    running = _running()
    keys = await _keys()
    async with db.as_system() as tx:
        account = next(iter(await tx.find(Account, email=body.email)), None)
    hashed = account.password_hash if account else running.decoy
    is_right, renewed = await running.verify(body.password, hashed)
    if account is None or not is_right:
        log.info("sign_in_refused", address=address)
        raise WrongCredentials
    async with db.as_system("user") as tx:
        await _hold(tx, account)
        user = await tx.one(User)
        if user.disabled_at is not None:
            raise AccountDisabled
        if renewed is not None:
            await tx.change(Account, {"id": account.id}, password_hash=renewed)
        await _make_room(tx)
        refresh_token = await _open_session(tx, account.id, address, user_agent)
    return _tokens(keys, refresh_token)


async def change_password(user_id: str, session_id: UUID, old: str, new: str) -> None:
    """Set a new password and end the account's other sessions.

    Raises WrongCredentials, RateLimited, SignInBusy, IssuerOff, db.Unavailable.
    """
    running = _running()
    await rates.take("password", user_id, rates.limit(settings.sign_in_limit))
    async with db.as_system() as tx:
        account = next(iter(await tx.find(Account, user_id=user_id)), None)
    if account is None or not (await running.verify(old, account.password_hash))[0]:
        log.info("password_change_refused", user=user_id)
        raise WrongCredentials
    hashed = await running.hash(new)
    async with db.as_system("user") as tx:
        await _hold(tx, account)
        await tx.change(Account, {"id": account.id}, password_hash=hashed)
        await tx.remove(AuthCode, account_id=account.id, purpose="reset")
        tx.emit("auth.password_changed", ("account", account.id))
        for session in await tx.find(AuthSession):
            if session.id != session_id:
                await end_session(tx, session.id, reason="password_changed")


async def _hold(tx: db.Tx, account: Account) -> None:
    """Lock the account whose password was just checked, unless that has changed since."""
    tx.act_for(account.user_id)
    found = await tx.find(Account, lock=True, id=account.id)
    if not found or found[0].password_hash != account.password_hash:
        raise WrongCredentials


# Codes by mail ------------------------------------------------------------------------------------

Purpose = Literal["verify", "reset"]
_LIVES: dict[Purpose, timedelta] = {"verify": VERIFY_LIFE, "reset": RESET_LIFE}
_MAILS: dict[Purpose, tuple[str, str]] = {  # nothing in them is anybody's own words
    "verify": (
        "Confirm your address",
        """\
Somebody, probably you, made an account with this address at
{issuer}

Confirm within a day that the address is yours:
{link}

If it was not you, nothing needs to be done.
""",
    ),
    "reset": (
        "Set a new password",
        """\
Somebody, probably you, has forgotten the password of the account with this address at
{issuer}

Set a new one within an hour:
{link}

If it was not you, nothing needs to be done: the password stays as it is.
""",
    ),
}


class Code(NamedTuple):
    """Where its row is, and the secret whose hash is there."""

    id: UUID
    secret: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Raises InvalidCode."""
        if not re.fullmatch(r"[A-Za-z0-9_-]{64}", text):
            raise InvalidCode
        raw = base64.urlsafe_b64decode(text)
        return cls(UUID(bytes=raw[:16]), raw[16:])

    def __str__(self) -> str:
        return base64.urlsafe_b64encode(self.id.bytes + self.secret).decode()


def forgot(email: str) -> None:
    """Mail a link that sets a new password, if there is such an account.

    It returns before it has looked, so that neither answer nor time tells. Raises SignInBusy, IssuerOff.
    """
    running = _running()
    running.after_the_answer(_mail_reset(running, email))


async def reset(code: str, password: str) -> None:
    """Set the password that was forgotten and end every session; the address is proven with it.

    Raises InvalidCode, AccountDisabled, SignInBusy, IssuerOff, db.Unavailable.
    """
    running = _running()
    given = Code.parse(code)
    async with db.as_system() as tx:
        await _redeem(tx, given, "reset")
    hashed = await running.hash(password)
    async with db.as_system("user") as tx:
        account = await _redeem(tx, given, "reset")
        tx.act_for(account.user_id)
        if (await tx.one(User)).disabled_at is not None:
            raise AccountDisabled
        await tx.remove(AuthCode, account_id=account.id)
        await tx.change(Account, {"id": account.id}, password_hash=hashed)
        tx.emit("auth.password_reset", ("account", account.id))
        await _prove(tx, account)
        for session in await tx.find(AuthSession):
            await end_session(tx, session.id, reason="password_reset")
    log.info("password_reset", user=account.user_id)


async def verify(code: str) -> None:
    """Note that the account's address is its own. Raises InvalidCode, IssuerOff, db.Unavailable."""
    _running()
    given = Code.parse(code)
    async with db.as_system("user") as tx:
        account = await _redeem(tx, given, "verify")
        tx.act_for(account.user_id)
        await tx.remove(AuthCode, account_id=account.id, purpose="verify")
        await _prove(tx, account)


async def send_verification(user_id: str) -> None:
    """Mail the link that proves the address once more; nothing where it is proven or has had its mails.

    The links before it serve no more. Raises IssuerOff, db.Unavailable.
    """
    running = _running()
    async with db.as_system() as tx:
        account = next(iter(await tx.find(Account, lock=True, user_id=user_id)), None)
        if account is None or account.email_verified_at is not None:
            return
        code = await _new_code(tx, account, "verify")
    if code is not None:
        _post(running, account.email, "verify", code)


async def _prove(tx: db.Tx, account: Account) -> None:
    if account.email_verified_at is None:
        await tx.change(Account, {"id": account.id}, email_verified_at=datetime.now(UTC))
        tx.emit("auth.email_verified", ("account", account.id))


async def _redeem(tx: db.Tx, given: Code, purpose: Purpose) -> Account:
    """The locked account that this code was mailed to. Raises InvalidCode."""
    code = next(iter(await tx.find(AuthCode, id=given.id, purpose=purpose)), None)
    if code is None or not hmac.compare_digest(code.code_hash, _digest(given.secret)):
        raise InvalidCode
    accounts = await tx.find(Account, lock=True, id=code.account_id)
    still = await tx.find(AuthCode, id=given.id)  # whoever held the lock may have used it
    if not accounts or not still or still[0].expires_at <= datetime.now(UTC):
        raise InvalidCode
    return accounts[0]


async def _mail_reset(running: _Issuer, email: str) -> None:
    async with db.as_system() as tx:
        account = next(iter(await tx.find(Account, lock=True, email=email)), None)
        if account is None or (await tx.one(User, id=account.user_id)).disabled_at is not None:
            return
        code = await _new_code(tx, account, "reset")
    if code is not None:
        _post(running, account.email, "reset", code)


async def _new_code(tx: db.Tx, account: Account, purpose: Purpose) -> Code | None:
    """A code in place of those before it, unless the account has had its mails of this hour."""
    if not await _may_mail(tx, account):
        log.warning("mail_withheld", user=account.user_id)
        return None
    await tx.change(AuthCode, {"account_id": account.id, "purpose": purpose}, expires_at=datetime.now(UTC))
    return await _add_code(tx, account.id, purpose)


async def _may_mail(tx: db.Tx, account: Account) -> bool:
    """Whether the account has not had its mails of this hour; forgets codes of before it that are over."""
    now = datetime.now(UTC)
    recent = 0
    for code in await tx.find(AuthCode, account_id=account.id):
        if code.created_at > now - timedelta(hours=1):
            recent += 1
        elif code.expires_at <= now:
            await tx.remove(AuthCode, id=code.id)
    return recent < MAILS_PER_HOUR


async def _add_code(tx: db.Tx, account_id: UUID, purpose: Purpose) -> Code:
    secret = os.urandom(32)
    row = await tx.add(
        AuthCode,
        account_id=account_id,
        purpose=purpose,
        code_hash=_digest(secret),
        expires_at=datetime.now(UTC) + _LIVES[purpose],
    )
    return Code(row.id, secret)


def _post(running: _Issuer, email: str, purpose: Purpose, code: Code) -> None:
    """Begin to send the code, once the transaction that keeps its hash has committed."""
    subject, text = _MAILS[purpose]
    link = f"{issuer()}/{purpose}?code={code}"
    try:
        running.mail.send(email, subject, text.format(issuer=issuer(), link=link))
    except BadMail as refusal:
        log.warning("mail_refused", purpose=purpose, reason=str(refusal))


# Sessions -----------------------------------------------------------------------------------------


async def refresh(
    body: RefreshRequest, *, address: str | None = None, user_agent: str | None = None
) -> Tokens:
    """Exchange a refresh token for the next, and a new access token.

    Submitted again within `REUSE_GRACE`, as two tabs do, it answers with the same next token, so both go on.
    Any other use of an old token ends the session, whose holder cannot be told from a thief (RFC 9700,
    section 4.14.2). Raises SessionEnded, AccountDisabled, IssuerOff, db.Unavailable.
    """
    keys = await _keys()
    given = RefreshToken.parse(body.refresh_token)
    async with db.as_system("user") as tx:
        tx.act_for(_user_id(given.account_id))
        session = next(iter(await tx.find(AuthSession, lock=True, id=given.session_id)), None)
        if session is None or not hmac.compare_digest(session.family_hash, _digest(given.family)):
            raise SessionEnded
        if session.expires_at <= datetime.now(UTC):
            raise SessionEnded
        user = await tx.one(User)
        if user.disabled_at is not None:
            raise AccountDisabled
        secret = await _next_secret(tx, keys, session, given.secret, address, user_agent)
    if secret is None:
        log.warning("refresh_token_reused", user=user.id, session=str(session.id), address=address)
        raise SessionEnded
    return _tokens(keys, given._replace(secret=secret))


async def _next_secret(
    tx: db.Tx,
    keys: Sequence[Key],
    session: AuthSession,
    secret: bytes,
    address: str | None,
    user_agent: str | None,
) -> bytes | None:
    """The secret to answer with; None when this one was used before and the session is therefore over."""
    now = datetime.now(UTC)
    if hmac.compare_digest(session.refresh_hash, _digest(secret)):
        following = next(key for key in keys if key.signs).successor(secret)
        await tx.change(
            AuthSession,
            {"id": session.id},
            refresh_hash=_digest(following),
            rotated_at=now,
            expires_at=now + timedelta(days=settings.session_days),
            address=address,
            user_agent=_shown(user_agent),
        )
        return following
    if now - session.rotated_at <= REUSE_GRACE:
        for following in (key.successor(secret) for key in keys):
            if hmac.compare_digest(session.refresh_hash, _digest(following)):
                return following
    await end_session(tx, session.id, reason="token_reused")
    return None


async def logout(user_id: str, session_id: UUID) -> None:
    """End the session; ending it twice is no error. Raises db.Unavailable."""
    async with db.as_user(user_id, actor="user") as tx:
        if await tx.find(AuthSession, lock=True, id=session_id):
            await end_session(tx, session_id, kind="auth.signed_out", reason="signed_out")


async def end_session(
    tx: db.Tx, session_id: UUID, *, kind: str = "auth.session_revoked", reason: str = "revoked"
) -> None:
    """End one of the user's sessions; the topic `revoked` then tells its id to who knows its access tokens.

    Raises NoResultFound.
    """
    if not await tx.remove(AuthSession, id=session_id):
        raise NoResultFound
    tx.emit(kind, (AuthSession.resource(), session_id), {"id": str(session_id), "reason": reason})
    tx.hint("revoked", str(session_id).encode())


async def _open_session(
    tx: db.Tx, account_id: UUID, address: str | None, user_agent: str | None
) -> RefreshToken:
    family, secret = os.urandom(32), os.urandom(32)
    session = await tx.add(
        AuthSession,
        family_hash=_digest(family),
        refresh_hash=_digest(secret),
        expires_at=datetime.now(UTC) + timedelta(days=settings.session_days),
        address=address,
        user_agent=_shown(user_agent),
    )
    tx.announce("auth.signed_in", session, SessionRead)
    return RefreshToken(account_id, session.id, family, secret)


async def _make_room(tx: db.Tx) -> None:
    """End what has expired, and the longest unused beyond what one account may have."""
    now = datetime.now(UTC)
    sessions = sorted(await tx.find(AuthSession), key=lambda session: session.rotated_at, reverse=True)
    for place, session in enumerate(sessions, 1):
        if session.expires_at <= now:
            await end_session(tx, session.id, reason="expired")
        elif place >= SESSIONS_PER_ACCOUNT:
            await end_session(tx, session.id, reason="too_many")


def _shown(user_agent: str | None) -> str | None:
    return user_agent and user_agent[:500]
