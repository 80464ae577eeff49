"""The embedded issuer: accounts, rotating sign-ins, keys that are replaced, and what thieves and floods get."""

import asyncio
import json
import math
import re
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy.exc import NoResultFound

import clerk_auth
import db
import identity
from infra.bus import LocalBus
from infra.mail import Mail, open_mail
from infra.vault import Unsealable, Vault, load_vault
from models import Account, AuthCode, AuthSession, Quota, SigningKey, Stream, User
from schemas import Credentials, RefreshRequest, Registration, Tokens
from settings import settings

PASSWORD = "correct horse battery"


@pytest.fixture
def vault() -> Vault:
    return load_vault(settings.data_dir, settings.secret_keys)


@pytest.fixture
async def mail(tmp_path: Path) -> AsyncIterator[Mail]:
    """Mail that is written to `tmp_path`."""
    mail = open_mail("", "", tmp_path)
    yield mail
    await mail.close()


@pytest.fixture(autouse=True)
async def _issuer(database: str, vault: Vault, mail: Mail) -> AsyncIterator[None]:
    await identity.start(vault, mail)
    clerk_auth.configure(settings)
    yield
    await identity.stop()


@pytest.fixture
def revoked(bus: LocalBus) -> Iterator[list[str]]:
    """The ids of sessions that the topic `revoked` has told of."""
    told: list[str] = []
    unsubscribe = bus.subscribe("revoked", lambda payload: told.append(payload.decode()))
    yield told
    unsubscribe()


def fresh_email() -> str:
    return f"{uuid4().hex}@example.com"


async def register(email: str = "", password: str = PASSWORD) -> Tokens:
    return await identity.register(Registration(email=email or fresh_email(), password=password))


async def login(email: str, password: str = PASSWORD) -> Tokens:
    return await identity.login(Credentials(email=email, password=password))


async def refresh(refresh_token: str | Tokens) -> Tokens:
    text = refresh_token.refresh_token if isinstance(refresh_token, Tokens) else refresh_token
    return await identity.refresh(RefreshRequest(refresh_token=text))


def claims(tokens: Tokens) -> dict[str, Any]:
    return jwt.decode(tokens.access_token, options={"verify_signature": False})


def owner(tokens: Tokens) -> str:
    return f"local|{claims(tokens)['sub']}"


def session(tokens: Tokens) -> UUID:
    return UUID(claims(tokens)["sid"])


async def sessions(user_id: str) -> set[UUID]:
    async with db.as_user(user_id) as tx:
        return {row.id for row in await tx.find(AuthSession)}


async def events(user_id: str) -> list[tuple[str, dict[str, Any]]]:
    return [(event.kind, json.loads(event.text)["data"]) for event in await db.events(user_id, 0)]


async def age(tokens: Tokens, **changes: Any) -> None:
    """Set columns of the session, as time would."""
    async with db.as_user(owner(tokens)) as tx:
        assert await tx.change(AuthSession, {"id": session(tokens)}, **changes)


async def until(fact: Callable[[], object]) -> None:
    async with asyncio.timeout(5):
        while not fact():  # noqa: ASYNC110 - a fact of the outside has no event
            await asyncio.sleep(0.005)


async def until_it_waits(task: asyncio.Task[Any]) -> None:
    """Return when the task waits for a lock in the database, or is done without."""
    async with asyncio.timeout(10):
        while not task.done():
            async with db.as_system() as tx:
                if await tx.connection.fetchval("select exists (select from pg_locks where not granted)"):
                    return
            await asyncio.sleep(0.005)


def ago(**units: float) -> datetime:
    return datetime.now(UTC) - timedelta(**units)


# Accounts


async def test_an_account_is_counted_before_its_first_request() -> None:
    tokens = await identity.register(Registration(email=fresh_email(), password=PASSWORD))
    async with db.as_user(owner(tokens)) as tx:
        assert (await tx.one(Quota)).stored_bytes == 0
        assert (await tx.one(Stream)).last_seq >= 1


async def test_a_registered_person_is_signed_in_with_a_token_that_the_door_accepts() -> None:
    email = fresh_email()
    tokens = await identity.register(
        Registration(email=email.upper(), password=PASSWORD, name="Ada"),
        address="192.0.2.7",
        user_agent="Tester/1.0 " + "x" * 1000,
    )
    caller = await clerk_auth.verify(tokens.access_token)
    assert (caller.user_id, caller.session_id) == (owner(tokens), str(session(tokens)))
    assert (tokens.token_type, tokens.expires_in) == ("Bearer", settings.access_token_seconds)
    async with db.as_user(caller.user_id) as tx:
        user, row = await tx.one(User), await tx.one(AuthSession)
    assert (user.email, user.name) == (email, "Ada")
    assert (row.address, len(row.user_agent or "")) == ("192.0.2.7", 500)
    assert row.expires_at - row.created_at == pytest.approx(
        timedelta(days=settings.session_days), abs=timedelta(minutes=1)
    )
    [(kind, data)] = await events(caller.user_id)
    assert (kind, data["id"], data["address"]) == ("auth.signed_in", str(row.id), "192.0.2.7")


async def test_access_tokens_have_the_claims_of_clerks_session_tokens() -> None:
    tokens = await register()
    head, body = jwt.get_unverified_header(tokens.access_token), claims(tokens)
    assert head == {"alg": "EdDSA", "typ": "JWT", "kid": (await identity.public_keys())[0]["kid"]}
    assert body.keys() == {"iss", "sub", "sid", "iat", "nbf", "exp", "jti"}
    assert body["iss"] == identity.issuer()
    assert body["exp"] - body["iat"] == settings.access_token_seconds
    assert body["iat"] == body["nbf"] == pytest.approx(time.time(), abs=5)
    again = claims(await refresh(tokens))
    assert (again["sub"], again["sid"]) == (body["sub"], body["sid"])
    assert again["jti"] != body["jti"]


async def test_login_opens_a_session_of_its_own() -> None:
    email = fresh_email()
    first = await register(email)
    second = await login(email.upper())
    assert owner(first) == owner(second)
    assert await sessions(owner(first)) == {session(first), session(second)}
    assert [kind for kind, _ in await events(owner(first))] == ["auth.signed_in"] * 2


class Recorder(PasswordHash):
    """The real hasher, which also remembers how often and how many at once."""

    def __init__(self) -> None:
        super().__init__((Argon2Hasher(time_cost=2, memory_cost=19 * 1024, parallelism=1),))
        self.verified, self.now, self.most = 0, 0, 0
        self._lock = threading.Lock()

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._lock:
            self.verified += 1
            self.now += 1
            self.most = max(self.most, self.now)
        yield
        with self._lock:
            self.now -= 1

    def verify_and_update(self, password: str | bytes, hash: str | bytes) -> tuple[bool, str | None]:
        with self._working():
            return super().verify_and_update(password, hash)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    recorder = Recorder()
    monkeypatch.setattr(identity, "_passwords", recorder)
    return recorder


async def test_an_unknown_account_costs_and_answers_the_same_as_a_wrong_password(recorder: Recorder) -> None:
    email = fresh_email()
    await register(email)
    answers = []
    for name in (email, fresh_email()):
        before = recorder.verified
        with pytest.raises(identity.WrongCredentials) as refusal:
            await login(name, "wrong horse battery")
        assert recorder.verified == before + 1
        answers.append(str(refusal.value))
    assert answers[0] == answers[1]


async def test_the_decoy_is_as_costly_as_a_real_hash() -> None:
    email = fresh_email()
    await register(email)
    async with db.as_system() as tx:
        stored = (await tx.one(Account, email=email)).password_hash
    assert stored.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    assert identity._issuer is not None
    assert identity._issuer.decoy.split("$")[:4] == stored.split("$")[:4]


async def test_a_hash_made_with_weaker_parameters_is_renewed_at_the_next_login() -> None:
    email = fresh_email()
    await register(email)
    weak = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),)).hash(PASSWORD)
    async with db.as_system() as tx:
        account = await tx.one(Account, email=email)
        tx.act_for(account.user_id)
        await tx.change(Account, {"id": account.id}, password_hash=weak)
    await login(email)
    async with db.as_system() as tx:
        assert "$m=19456,t=2,p=1$" in (await tx.one(Account, email=email)).password_hash
    await login(email)


async def test_a_password_is_the_same_on_every_keyboard() -> None:
    email = fresh_email()
    await register(email, "cafe\u0301 au lait")
    await login(email, "caf\u00e9 au lait")


async def test_one_of_many_who_take_an_address_at_once_gets_it() -> None:
    email = fresh_email()
    results = await asyncio.gather(*(register(email) for _ in range(8)), return_exceptions=True)
    assert [type(result).__name__ for result in results].count("Tokens") == 1
    assert sum(isinstance(result, identity.EmailTaken) for result in results) == 7
    async with db.as_system() as tx:
        assert len(await tx.find(User, email=email)) == 1


async def no_accounts() -> None:
    async with db.as_system() as tx:
        await tx.connection.execute("delete from accounts")
        await tx.connection.execute("delete from users where id like 'local|%'")


async def roles() -> list[str]:
    async with db.as_system() as tx:
        accounts = await tx.find(Account)
        return sorted([(await tx.one(User, id=account.user_id)).role for account in accounts])


async def test_of_many_first_accounts_made_at_once_one_is_the_administrators() -> None:
    await no_accounts()
    made = await asyncio.gather(*(register() for _ in range(6)))
    assert await roles() == ["admin"] + ["user"] * 5
    callers = [await clerk_auth.authenticate(tokens.access_token) for tokens in made]
    assert sorted([await clerk_auth.role_of(caller) for caller in callers]) == ["admin"] + ["user"] * 5


async def test_the_second_account_waits_to_see_whether_the_first_comes_about() -> None:
    for is_kept in (False, True):
        await no_accounts()
        first = f"local|{uuid4()}"
        async with db.as_system() as tx:
            tx.act_for(first)
            assert [row[0] for row in await tx.call("is_first_account")] == [True]
            await tx.add(User, id=first, role="admin")
            if is_kept:
                await tx.add(Account, email=fresh_email(), password_hash="")
            second = asyncio.create_task(register())
            await until_it_waits(second)
        caller = await clerk_auth.authenticate((await second).access_token)
        assert await clerk_auth.role_of(caller) == ("user" if is_kept else "admin")


async def test_nobody_inherits_the_administrators_place() -> None:
    await no_accounts()
    admin, _ = await register(), await register()
    async with db.as_user(owner(admin)) as tx:
        await tx.remove(User, id=owner(admin))
    await register()
    assert await roles() == ["user", "user"]


@pytest.mark.parametrize(
    ("changes", "is_open"),
    [
        ({}, True),
        ({"host": "::1"}, True),
        ({"host": "localhost"}, True),
        ({"host": "0.0.0.0"}, False),
        ({"host": "192.0.2.1"}, False),
        ({"public_url": "https://cua.example.com"}, False),
        ({"public_url": "http://localhost:3000/"}, True),
        ({"host": "0.0.0.0", "registration": "open"}, True),
        ({"registration": "closed"}, False),
    ],
)
async def test_registration_is_open_where_only_this_machine_can_reach_it_or_the_operator_says_so(
    changes: dict[str, str], is_open: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "settings", settings.model_copy(update=changes))
    assert identity.registration_open() is is_open
    if is_open:
        await register()
    else:
        with pytest.raises(identity.RegistrationClosed, match="REGISTRATION=open"):
            await register()


async def test_a_disabled_account_is_told_so_only_after_its_password() -> None:
    email = fresh_email()
    tokens = await register(email)
    async with db.as_user(owner(tokens)) as tx:
        await tx.change(User, {}, disabled_at=datetime.now(UTC))
    with pytest.raises(identity.AccountDisabled):
        await login(email)
    with pytest.raises(identity.AccountDisabled):
        await refresh(tokens)
    with pytest.raises(identity.WrongCredentials):
        await login(email, "wrong horse battery")


async def test_a_flood_of_logins_keeps_to_its_threads_and_the_rest_is_told_to_come_back(
    recorder: Recorder,
) -> None:
    flood = [asyncio.create_task(login(fresh_email())) for _ in range(identity.HASHING_QUEUE + 40)]
    turns = 0
    while not all(task.done() for task in flood):
        await asyncio.sleep(0.001)
        turns += 1
    answers = [type(task.exception()).__name__ for task in flood]
    assert answers.count("SignInBusy") + answers.count("WrongCredentials") == len(flood)
    assert answers.count("SignInBusy") >= 1
    assert answers.count("WrongCredentials") == recorder.verified >= identity.HASHING_QUEUE
    assert 1 <= recorder.most <= identity.HASHING_THREADS
    assert turns > recorder.verified  # the loop was never held for as long as a hash takes
    email = fresh_email()
    await register(email)
    await login(email)


async def test_passwords_of_callers_who_left_are_not_checked(recorder: Recorder) -> None:
    assert identity._issuer is not None
    running = identity._issuer
    left = [asyncio.create_task(running.verify(PASSWORD, running.decoy)) for _ in range(40)]
    await until(lambda: running.waiting == 40)
    for task in left:
        task.cancel()
    await asyncio.wait(left)
    assert running.waiting == 0
    await until(lambda: not recorder.now)
    assert recorder.verified < 40


# Passwords


async def test_a_new_password_ends_the_other_sessions_and_the_old_password(revoked: list[str]) -> None:
    email = fresh_email()
    own, *others = await register(email), await login(email), await login(email)
    await identity.change_password(owner(own), session(own), PASSWORD, "another long sentence")
    assert await sessions(owner(own)) == {session(own)}
    ended = {str(session(tokens)) for tokens in others}
    await until(lambda: ended <= set(revoked))
    assert str(session(own)) not in revoked
    for tokens in others:
        with pytest.raises(identity.SessionEnded):
            await refresh(tokens)
    await refresh(own)
    with pytest.raises(identity.WrongCredentials):
        await login(email)
    await login(email, "another long sentence")
    kinds = [kind for kind, _ in await events(owner(own))]
    assert kinds == [
        *["auth.signed_in"] * 3,
        "auth.password_changed",
        *["auth.session_revoked"] * 2,
        "auth.signed_in",
    ]


async def test_a_password_is_not_changed_without_the_old_one() -> None:
    email = fresh_email()
    own, other = await register(email), await login(email)
    with pytest.raises(identity.WrongCredentials):
        await identity.change_password(owner(own), session(own), "wrong horse battery", "another sentence")
    with pytest.raises(identity.WrongCredentials):
        await identity.change_password("user_of_someone_else", session(own), PASSWORD, "another sentence")
    assert await sessions(owner(own)) == {session(own), session(other)}
    await login(email)


async def test_of_two_password_changes_at_once_one_is_refused() -> None:
    email = fresh_email()
    own = await register(email)
    results = await asyncio.gather(
        *(identity.change_password(owner(own), session(own), PASSWORD, f"new sentence {n}") for n in "ab"),
        return_exceptions=True,
    )
    assert sorted(type(result).__name__ for result in results) == ["NoneType", "WrongCredentials"]
    await login(email, f"new sentence {'ab'[results.index(None)]}")


async def test_a_login_that_a_password_change_overtakes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    email = fresh_email()
    own = await register(email)
    checked, go_on = asyncio.Event(), asyncio.Event()
    hold = identity._hold

    async def delayed(tx: db.Tx, account: Account) -> None:
        checked.set()
        await go_on.wait()
        await hold(tx, account)

    monkeypatch.setattr(identity, "_hold", delayed)
    late = asyncio.create_task(login(email))
    await asyncio.wait_for(checked.wait(), 10)
    monkeypatch.setattr(identity, "_hold", hold)
    await identity.change_password(owner(own), session(own), PASSWORD, "another long sentence")
    go_on.set()
    with pytest.raises(identity.WrongCredentials):
        await late
    assert await sessions(owner(own)) == {session(own)}


# Codes by mail


@pytest.fixture
def outbox(tmp_path: Path) -> Callable[[], list[str]]:
    """The texts of the mails that were sent, in order."""

    def read() -> list[str]:
        files = sorted(tmp_path.glob("*.eml"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_text() for file in files]

    return read


Outbox = Callable[[], list[str]]


def code_in(text: str, purpose: str) -> str:
    found = re.search(
        rf"^{re.escape(identity.issuer())}/{purpose}\?code=([A-Za-z0-9_-]{{64}})$", text, re.MULTILINE
    )
    assert found, text
    return found[1]


async def forget(email: str) -> None:
    """Ask for a new password, and wait for the errand that the answer does not wait for."""
    assert identity._issuer is not None
    identity.forgot(email)
    await asyncio.gather(*identity._issuer.errands)


async def reset_code(email: str, outbox: Outbox) -> str:
    before = len(outbox())
    await forget(email)
    await until(lambda: len(outbox()) > before)
    assert f"To: {email}" in outbox()[-1]
    return code_in(outbox()[-1], "reset")


async def expire_codes(**units: float) -> None:
    """Let all codes be that much older."""
    async with db.as_system() as tx:
        await tx.connection.execute(
            "update auth_codes set created_at = created_at - $1::interval, expires_at = expires_at - $1::interval",
            timedelta(**units),
        )


async def codes(tokens: Tokens) -> list[AuthCode]:
    async with db.as_system() as tx:
        return await tx.find(AuthCode, account_id=UUID(claims(tokens)["sub"]))


async def test_registration_mails_a_link_that_proves_the_address(outbox: Outbox) -> None:
    email = fresh_email()
    tokens = await register(email)
    assert (await db.ensure_user(owner(tokens))).verified_email is None
    await until(outbox)
    [text] = outbox()
    assert f"To: {email}" in text
    code = code_in(text, "verify")
    await identity.verify(code)
    assert (await events(owner(tokens)))[1:] == [("auth.email_verified", {})]
    assert (await db.ensure_user(owner(tokens))).verified_email == email
    with pytest.raises(identity.InvalidCode):
        await identity.verify(code)
    assert await codes(tokens) == []


async def test_a_forgotten_password_is_set_anew_and_ends_every_session(
    outbox: Outbox, revoked: list[str]
) -> None:
    email = fresh_email()
    first, second = await register(email), await login(email)
    await until(outbox)
    code = await reset_code(email, outbox)
    await identity.reset(code, "another long sentence")
    assert await sessions(owner(first)) == set()
    await until(lambda: {str(session(first)), str(session(second))} <= set(revoked))
    for tokens in (first, second):
        with pytest.raises(identity.SessionEnded):
            await refresh(tokens)
    with pytest.raises(identity.WrongCredentials):
        await login(email)
    await login(email, "another long sentence")
    assert (await db.ensure_user(owner(first))).verified_email == email
    ended = ("auth.session_revoked", "password_reset")
    told = [(kind, data.get("reason")) for kind, data in await events(owner(first))]
    assert told == [
        *[("auth.signed_in", None)] * 2,
        *[("auth.password_reset", None), ("auth.email_verified", None), ended, ended],
        ("auth.signed_in", None),
    ]
    with pytest.raises(identity.InvalidCode):
        await identity.reset(code, "a third long sentence")
    await login(email, "another long sentence")


async def test_a_code_is_good_for_its_own_purpose_only(outbox: Outbox) -> None:
    email = fresh_email()
    await register(email)
    await until(outbox)
    proof = code_in(outbox()[0], "verify")
    with pytest.raises(identity.InvalidCode):
        await identity.reset(proof, "another long sentence")
    with pytest.raises(identity.InvalidCode):
        await identity.verify(await reset_code(email, outbox))
    await identity.verify(proof)
    await login(email)


async def test_only_the_newest_code_is_good(outbox: Outbox) -> None:
    email = fresh_email()
    await register(email)
    await until(outbox)
    first, second = await reset_code(email, outbox), await reset_code(email, outbox)
    with pytest.raises(identity.InvalidCode):
        await identity.reset(first, "another long sentence")
    await identity.reset(second, "another long sentence")


@pytest.mark.parametrize(("purpose", "hours"), [("reset", 1), ("verify", 24)])
async def test_codes_expire(purpose: str, hours: int, outbox: Outbox) -> None:
    async def use(code: str) -> None:
        await (
            identity.verify(code) if purpose == "verify" else identity.reset(code, "another long sentence")
        )

    email = fresh_email()
    await register(email)
    await until(outbox)
    code = await reset_code(email, outbox) if purpose == "reset" else code_in(outbox()[0], "verify")
    await expire_codes(hours=hours, seconds=1)
    with pytest.raises(identity.InvalidCode):
        await use(code)
    await expire_codes(seconds=-60)
    await use(code)


@pytest.mark.parametrize(
    "text", ["", "A", "A" * 63, "A" * 64, "A" * 65, "A" * 63 + "=", "A" * 63 + "\n", "é" * 64]
)
async def test_a_malformed_code_is_not_valid(text: str) -> None:
    for attempt in (identity.verify(text), identity.reset(text, "another long sentence")):
        with pytest.raises(identity.InvalidCode):
            await attempt


async def test_who_knows_only_the_id_of_a_code_cannot_use_it(outbox: Outbox) -> None:
    email = fresh_email()
    await register(email)
    await until(outbox)
    real = identity.Code.parse(await reset_code(email, outbox))
    with pytest.raises(identity.InvalidCode):
        await identity.reset(str(real._replace(secret=bytes(32))), "another long sentence")
    await identity.reset(str(real), "another long sentence")


async def test_a_wrong_code_costs_no_hash(monkeypatch: pytest.MonkeyPatch) -> None:
    assert identity._issuer is not None
    monkeypatch.setattr(identity, "HASHING_QUEUE", 0)
    with pytest.raises(identity.InvalidCode):
        await identity.reset("A" * 64, "another long sentence")


async def test_of_two_who_use_a_code_at_once_one_sets_the_password(outbox: Outbox) -> None:
    email = fresh_email()
    await register(email)
    await until(outbox)
    code = await reset_code(email, outbox)
    results = await asyncio.gather(
        *(identity.reset(code, f"new sentence {n}") for n in "ab"), return_exceptions=True
    )
    assert sorted(type(result).__name__ for result in results) == ["InvalidCode", "NoneType"]
    await login(email, f"new sentence {'ab'[results.index(None)]}")


async def test_a_code_that_another_use_overtakes_is_refused(outbox: Outbox) -> None:
    email = fresh_email()
    await register(email)
    await until(outbox)
    code = code_in(outbox()[0], "verify")
    async with db.as_system() as tx:
        await tx.find(Account, lock=True, email=email)
        late = asyncio.create_task(identity.verify(code))
        await until_it_waits(late)
        await tx.remove(AuthCode, id=identity.Code.parse(code).id)
    with pytest.raises(identity.InvalidCode):
        await late


async def test_a_changed_password_makes_the_forgotten_one_moot(outbox: Outbox) -> None:
    email = fresh_email()
    own = await register(email)
    await until(outbox)
    code = await reset_code(email, outbox)
    await identity.change_password(owner(own), session(own), PASSWORD, "another long sentence")
    with pytest.raises(identity.InvalidCode):
        await identity.reset(code, "a third long sentence")
    await identity.verify(code_in(outbox()[0], "verify"))


async def test_an_account_gets_five_mails_an_hour_and_the_last_one_stays_good(outbox: Outbox) -> None:
    email, other = fresh_email(), fresh_email()
    tokens = await register(email)
    assert identity._issuer is not None
    await asyncio.gather(*(identity._mail_reset(identity._issuer, email) for _ in range(12)))
    await until(lambda: len(outbox()) >= 5)
    await register(other)
    await forget(other)
    await until(lambda: len(outbox()) >= 7)
    assert len([text for text in outbox() if f"To: {email}" in text]) == 5
    stored = await codes(tokens)
    assert len(stored) == 5
    assert len([code for code in stored if code.expires_at > datetime.now(UTC)]) == 2  # verify and reset
    await expire_codes(hours=1, seconds=1)
    await reset_code(email, outbox)
    assert {code.purpose for code in await codes(tokens)} == {"verify", "reset"}
    assert len(await codes(tokens)) == 2, "what is over is forgotten"


async def test_the_link_that_proves_an_address_is_sent_again_until_it_has_served(outbox: Outbox) -> None:
    email = fresh_email()
    tokens = await register(email)
    await until(outbox)
    await identity.send_verification(owner(tokens))
    await until(lambda: len(outbox()) >= 2)
    first, second = (code_in(text, "verify") for text in outbox())
    with pytest.raises(identity.InvalidCode):
        await identity.verify(first)
    await identity.verify(second)
    await identity.send_verification(owner(tokens))
    assert await codes(tokens) == []


async def test_nobody_learns_from_time_or_answer_whether_there_is_an_account(outbox: Outbox) -> None:
    email = fresh_email()
    await register(email)
    await until(outbox)
    assert identity._issuer is not None
    async with db.as_system() as tx:
        await tx.find(Account, lock=True, email=email)
        for address in (email, fresh_email()):
            assert identity.forgot(address) is None  # type: ignore[func-returns-value]
        assert len(identity._issuer.errands) == 2, "nothing has been looked up"
    await asyncio.gather(*identity._issuer.errands)
    await until(lambda: len(outbox()) == 2)


async def test_a_disabled_account_gets_no_mail_and_its_codes_are_void(outbox: Outbox) -> None:
    email = fresh_email()
    tokens = await register(email)
    await until(outbox)
    code = await reset_code(email, outbox)
    async with db.as_user(owner(tokens)) as tx:
        await tx.change(User, {}, disabled_at=datetime.now(UTC))
    await forget(email)
    assert len(await codes(tokens)) == 2
    with pytest.raises(identity.AccountDisabled):
        await identity.reset(code, "another long sentence")
    assert await sessions(owner(tokens)) == {session(tokens)}


async def test_a_flood_of_forgotten_passwords_is_told_to_come_back() -> None:
    assert identity._issuer is not None
    async with identity._issuer.errand:
        for _ in range(identity.ERRANDS):
            identity.forgot(fresh_email())
        with pytest.raises(identity.SignInBusy):
            identity.forgot(fresh_email())
    await asyncio.gather(*identity._issuer.errands)
    await forget(fresh_email())


async def test_an_address_that_mail_cannot_reach_may_have_an_account(outbox: Outbox) -> None:
    email = f"j\u00f6rg,{uuid4().hex}@example.com"
    await register(email)
    await forget(email)
    await login(email)
    assert outbox() == []


async def test_the_database_holds_no_code(outbox: Outbox) -> None:
    email = fresh_email()
    tokens = await register(email)
    await until(outbox)
    code = identity.Code.parse(await reset_code(email, outbox))
    async with db.as_system() as tx:
        rows = await tx.connection.fetch("select row_to_json(t)::text from auth_codes t")
        rows += await tx.connection.fetch("select row_to_json(t)::text from events t")
    stored = "".join(row[0] for row in rows)
    assert code.secret.hex() not in stored
    assert str(code) not in stored
    assert identity._digest(code.secret).hex() in stored
    async with db.as_user(owner(tokens)) as tx:
        assert await tx.connection.fetchval("select count(*) from auth_codes") == 0


# Refresh


async def test_each_use_replaces_the_refresh_token_and_prolongs_the_session() -> None:
    tokens = await register()
    seen = {tokens.refresh_token}
    await age(tokens, expires_at=datetime.now(UTC) + timedelta(hours=1))
    for _ in range(5):
        tokens = await refresh(tokens)
        await clerk_auth.verify(tokens.access_token)
        seen.add(tokens.refresh_token)
    assert len(seen) == 6
    async with db.as_user(owner(tokens)) as tx:
        row = await tx.one(AuthSession)
    assert row.expires_at > datetime.now(UTC) + timedelta(days=settings.session_days - 1)


async def test_a_token_submitted_eight_times_at_once_gives_one_successor_that_all_go_on_with() -> None:
    tokens = await register()
    answers = await asyncio.gather(*(refresh(tokens) for _ in range(8)))
    assert len({answer.refresh_token for answer in answers}) == 1
    assert len({answer.access_token for answer in answers}) == 8
    for answer in answers:
        await clerk_auth.verify(answer.access_token)
    await age(tokens, rotated_at=ago(minutes=5))
    following = await asyncio.gather(*(refresh(answer) for answer in answers))
    assert len({answer.refresh_token for answer in following}) == 1
    assert await sessions(owner(tokens)) == {session(tokens)}


async def test_an_old_token_after_the_grace_ends_the_session_for_thief_and_owner(revoked: list[str]) -> None:
    stolen = await register()
    current = await refresh(stolen)
    await age(stolen, rotated_at=ago(seconds=11))
    with pytest.raises(identity.SessionEnded):
        await refresh(stolen)
    with pytest.raises(identity.SessionEnded):
        await refresh(current)
    assert await sessions(owner(stolen)) == set()
    assert (await events(owner(stolen)))[1:] == [
        ("auth.session_revoked", {"id": str(session(stolen)), "reason": "token_reused"})
    ]
    await until(lambda: revoked == [str(session(stolen))])


async def test_a_thief_who_rotates_twice_within_the_grace_is_found_out() -> None:
    stolen = await register()
    thief = await refresh(await refresh(stolen))
    with pytest.raises(identity.SessionEnded):
        await refresh(stolen)
    with pytest.raises(identity.SessionEnded):
        await refresh(thief)


async def test_who_knows_only_the_ids_of_a_session_cannot_end_it() -> None:
    tokens = await register()
    real = identity.RefreshToken.parse(tokens.refresh_token)
    for guess in (real._replace(family=bytes(32)), real._replace(family=bytes(32), secret=bytes(32))):
        with pytest.raises(identity.SessionEnded):
            await refresh(str(guess))
    await refresh(tokens)


async def test_a_refresh_token_is_good_for_its_own_account_and_session_only() -> None:
    mine, theirs = await register(), await register()
    own, foreign = (identity.RefreshToken.parse(it.refresh_token) for it in (mine, theirs))
    for forged in (
        own._replace(account_id=foreign.account_id),
        own._replace(session_id=foreign.session_id),
        own._replace(account_id=foreign.account_id, session_id=foreign.session_id),
        own._replace(account_id=uuid4()),
    ):
        with pytest.raises(identity.SessionEnded):
            await refresh(str(forged))
    await refresh(mine)
    await refresh(theirs)


@pytest.mark.parametrize(
    "text",
    ["", "A", "A" * 127, "A" * 129, "A" * 128, "A" * 127 + "=", "A" * 127 + "\n", "é" * 128, "+/" * 64],
)
async def test_a_malformed_refresh_token_is_an_ended_session(text: str) -> None:
    with pytest.raises(identity.SessionEnded, match="Sign in again"):
        await refresh(text)


async def test_an_expired_session_is_over_and_the_next_login_clears_it_away() -> None:
    email = fresh_email()
    tokens = await register(email)
    await age(tokens, expires_at=ago(seconds=1))
    with pytest.raises(identity.SessionEnded):
        await refresh(tokens)
    fresh = await login(email)
    assert await sessions(owner(fresh)) == {session(fresh)}


async def test_the_longest_unused_session_makes_room_for_a_new_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "SESSIONS_PER_ACCOUNT", 3)
    email = fresh_email()
    first, second, third = await register(email), await login(email), await login(email)
    await refresh(first)
    fourth = await login(email)
    assert await sessions(owner(first)) == {session(it) for it in (first, third, fourth)}
    with pytest.raises(identity.SessionEnded):
        await refresh(second)


async def test_the_database_holds_nothing_to_sign_in_with() -> None:
    tokens = await register()
    given = identity.RefreshToken.parse(tokens.refresh_token)
    async with db.as_system() as tx:
        rows = [
            *await tx.connection.fetch("select row_to_json(t)::text from auth_sessions t"),
            *await tx.connection.fetch("select row_to_json(t)::text from accounts t"),
            *await tx.connection.fetch("select row_to_json(t)::text from events t"),
            *await tx.connection.fetch("select row_to_json(t)::text from signing_keys t"),
        ]
    stored = "".join(row[0] for row in rows)
    assert identity._issuer is not None
    seed = identity._issuer.keys[0].private.private_bytes_raw()
    for secret in (given.secret.hex(), given.family.hex(), seed.hex(), PASSWORD, tokens.refresh_token[64:]):
        assert secret not in stored
    assert identity._digest(given.secret).hex() in stored


# Sign-out


async def test_signing_out_ends_the_session_and_tells_who_knows_its_tokens(revoked: list[str]) -> None:
    tokens = await register()
    for _ in range(2):
        await identity.logout(owner(tokens), session(tokens))
    with pytest.raises(identity.SessionEnded):
        await refresh(tokens)
    assert [kind for kind, _ in await events(owner(tokens))] == ["auth.signed_in", "auth.signed_out"]
    await until(lambda: revoked == [str(session(tokens))])


async def test_a_process_that_has_just_started_knows_who_signed_out_and_who_is_disabled() -> None:
    signed_out, disabled, other = [await register() for _ in range(3)]
    await identity.logout(owner(signed_out), session(signed_out))
    async with db.as_user(owner(disabled)) as tx:
        await tx.change(User, {"id": owner(disabled)}, disabled_at=datetime.now(UTC))
    clerk_auth.configure(settings)  # forgets what was verified and what was revoked
    with pytest.raises(clerk_auth.NotSignedIn, match="session has ended"):
        await clerk_auth.authenticate(signed_out.access_token)
    with pytest.raises(identity.AccountDisabled):
        await clerk_auth.authenticate(disabled.access_token)
    assert (await clerk_auth.authenticate(other.access_token)).user_id == owner(other)


async def test_a_refresh_that_a_sign_out_overtakes_is_refused() -> None:
    tokens = await register()
    async with db.as_user(owner(tokens)) as tx:
        await identity.end_session(tx, session(tokens))
        late = asyncio.create_task(refresh(tokens))
        await until_it_waits(late)
    with pytest.raises(identity.SessionEnded):
        await late


async def test_nobody_ends_the_session_of_another(revoked: list[str]) -> None:
    mine, theirs = await register(), await register()
    with pytest.raises(NoResultFound):
        async with db.as_user(owner(mine)) as tx:
            await identity.end_session(tx, session(theirs))
    await identity.logout(owner(mine), session(theirs))
    await refresh(theirs)
    assert revoked == []


async def test_a_revocation_that_is_rolled_back_is_not_told(revoked: list[str], bus: LocalBus) -> None:
    tokens = await register()
    with pytest.raises(ZeroDivisionError):
        async with db.as_user(owner(tokens)) as tx:
            await identity.end_session(tx, session(tokens))
            raise ZeroDivisionError
    await refresh(tokens)
    async with db.as_user(owner(tokens)) as tx:
        await identity.end_session(tx, session(tokens))
    await until(lambda: revoked)
    assert revoked == [str(session(tokens))]
    assert (await events(owner(tokens)))[-1] == (
        "auth.session_revoked",
        {"id": str(session(tokens)), "reason": "revoked"},
    )


# Keys


def test_a_key_is_named_by_its_thumbprint() -> None:
    """RFC 8037, appendix A.1 to A.3."""
    seed = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
    key = identity.Key(Ed25519PrivateKey.from_private_bytes(seed), datetime.now(UTC), None)
    assert key.jwk == {
        "kty": "OKP",
        "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        "kid": "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k",
        "alg": "EdDSA",
        "use": "sig",
    }


async def forget_keys() -> None:
    async with db.as_system() as tx:
        await tx.connection.execute("delete from signing_keys")


async def stored_keys() -> dict[str, datetime | None]:
    async with db.as_system() as tx:
        return {row.id: row.retired_at for row in await tx.find(SigningKey)}


async def age_keys(**units: float) -> None:
    """Let the keys' instants be that much longer ago, and look at them again."""
    async with db.as_system() as tx:
        await tx.connection.execute(
            "update signing_keys set created_at = created_at - $1::interval, retired_at = retired_at - $1::interval",
            timedelta(**units),
        )
    look_again()


def look_again() -> None:
    assert identity._issuer is not None
    identity._issuer.looked_at = -math.inf


async def published() -> list[str]:
    return [jwk["kid"] for jwk in await identity.public_keys()]


async def test_processes_that_start_together_agree_on_one_key(vault: Vault) -> None:
    await forget_keys()
    loaded = await asyncio.gather(*(identity._load_keys(vault) for _ in range(6)))
    assert len({key.kid for keys in loaded for key in keys}) == 1
    assert len(await stored_keys()) == 1


async def test_a_restart_keeps_the_key_and_the_tokens(vault: Vault, mail: Mail) -> None:
    tokens, before = await register(), await published()
    await identity.stop()
    await identity.start(vault, mail)
    clerk_auth.configure(settings)
    assert await published() == before
    await clerk_auth.verify(tokens.access_token)
    await refresh(tokens)


async def test_a_key_is_replaced_with_notice_and_published_until_its_tokens_have_expired() -> None:
    await forget_keys()
    look_again()
    [old] = await published()
    tokens = await register()
    await age_keys(days=31)
    [_, new] = await published()
    assert jwt.get_unverified_header((await register()).access_token)["kid"] == old

    await age_keys(minutes=6)
    assert jwt.get_unverified_header((await register()).access_token)["kid"] == new
    assert await published() == [old, new]
    clerk_auth.configure(settings)
    await clerk_auth.verify(tokens.access_token)

    await age_keys(hours=2)
    assert await published() == [new]
    clerk_auth.configure(settings)
    with pytest.raises(clerk_auth.NotSignedIn):
        await clerk_auth.verify(tokens.access_token)

    await age_keys(days=31)
    assert len(await published()) == 2
    assert old not in await stored_keys()


async def test_two_tabs_go_on_while_the_key_is_replaced() -> None:
    await forget_keys()
    look_again()
    tokens = await register()
    await age_keys(days=31)
    first = await refresh(tokens)
    await age_keys(minutes=6)
    assert (await refresh(tokens)).refresh_token == first.refresh_token


async def test_another_processs_key_is_found_with_one_look_in_thirty_seconds(vault: Vault) -> None:
    before = await published()
    await forget_keys()
    await identity._load_keys(vault)
    [made] = await stored_keys()
    assert made not in before
    assert await published() == before
    assert identity._issuer is not None
    identity._issuer.looked_at = time.monotonic() - identity.KEYS_FRESH
    found = await asyncio.gather(*(published() for _ in range(8)))
    assert found == [[made]] * 8


async def test_a_key_sealed_by_another_vault_stops_the_start(mail: Mail) -> None:
    await identity.stop()
    with pytest.raises(Unsealable):
        await identity.start(Vault((bytes(32),)), mail)


async def test_a_key_that_is_over_needs_its_vault_no_more() -> None:
    await forget_keys()
    old, new = Vault((bytes(32),)), Vault((bytes([1]) * 32,))
    await identity._load_keys(old)
    await age_keys(days=31)
    async with db.as_system() as tx:
        await identity._replace_key(tx, await tx.find(SigningKey), new)
    with pytest.raises(Unsealable):
        await identity._load_keys(new)
    await age_keys(hours=3)
    assert len(await identity._load_keys(new)) == 1
    await forget_keys()


async def test_a_token_signed_by_a_stranger_or_renamed_is_refused() -> None:
    tokens = await register()
    [kid, *_] = await published()
    stranger = Ed25519PrivateKey.generate()
    for body in (claims(tokens), claims(tokens) | {"public_metadata": {"role": "admin"}}):
        forged = jwt.encode(body, stranger, "EdDSA", {"kid": kid})
        with pytest.raises(clerk_auth.NotSignedIn):
            await clerk_auth.verify(forged)


async def test_a_refresh_token_is_no_access_token() -> None:
    with pytest.raises(clerk_auth.NotSignedIn):
        await clerk_auth.verify((await register()).refresh_token)


# The issuer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clerk_publishable_key", "pk_test_Y2xlcmsuZXhhbXBsZS5jb20k"),
        ("clerk_issuer", "https://clerk.example.com"),
        ("clerk_jwks_url", "https://clerk.example.com/.well-known/jwks.json"),
        ("clerk_jwt_key", "-----BEGIN PUBLIC KEY-----"),
        ("clerk_authorized_parties", ("https://app.example.com",)),
        ("supabase_url", "https://abcd.supabase.co"),
        ("oidc_issuers", ("corp=https://issuer.example.com;api",)),
    ],
)
async def test_it_does_not_run_beside_a_third_partys_issuer(
    name: str, value: object, vault: Vault, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    await identity.stop()
    monkeypatch.setattr(identity, "settings", settings.model_copy(update={name: value}))
    with pytest.raises(identity.IdentityConflict, match=f"{name.upper()} is set"):
        await identity.start(vault, mail)
    with pytest.raises(identity.IssuerOff):
        await register()


async def test_nothing_is_answered_where_it_does_not_run() -> None:
    tokens = await register()
    await identity.stop()
    for call in (register(), login(fresh_email()), refresh(tokens), identity.public_keys()):
        with pytest.raises(identity.IssuerOff):
            await call
    with pytest.raises(identity.IssuerOff):
        identity.discovery()


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({"port": 8000}, "http://127.0.0.1:8000"),
        ({"host": "::1", "port": 8000}, "http://[::1]:8000"),
        ({"public_url": "https://cua.example.com/"}, "https://cua.example.com"),
    ],
)
async def test_the_issuer_is_the_address_people_use(
    changes: dict[str, Any], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = await register()
    monkeypatch.setattr(identity, "settings", settings.model_copy(update=changes))
    assert identity.issuer() == claims(await refresh(tokens))["iss"] == address
    document = identity.discovery()
    assert (document["issuer"], document["jwks_uri"]) == (address, f"{address}/.well-known/jwks.json")
