"""A new key takes over, and the old one may go."""

import os
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import pytest

import db
import rekey
from infra.vault import Unsealable, Vault
from models import Base, IdempotencyKey, Profile, Run, Secret, SigningKey, Webhook, uuid7

OLD, NEW = os.urandom(32), os.urandom(32)


@pytest.fixture
async def ring(database: str) -> AsyncIterator[None]:
    """The module `db` with a ring of one key, which the tests turn."""
    before = db.vault()
    turn(OLD)
    yield
    turn_to(before)
    async with db.as_system() as tx:
        for key in await tx.find(SigningKey):
            if key.id.startswith("key of "):
                await tx.remove(SigningKey, id=key.id)


def turn(*keys: bytes) -> None:
    turn_to(Vault(keys))


def turn_to(vault: Vault) -> None:
    db._database().vault = vault


async def seal_everything(user: str) -> dict[Any, UUID]:
    """A row in every table that holds sealed values; returns them by column."""
    async with db.as_user(user) as tx:
        ids = {model: uuid7() for model in (Profile, Run, Secret, Webhook)}

        def sealed(model: Any, column: str) -> bytes:
            return tx.seal(model, column, ids[model], f"{column} of {user}".encode())

        await tx.add(Profile, id=ids[Profile], name="p", state=sealed(Profile, "state"))
        await tx.add(Profile, name="empty")
        run = {"title": "t", "definition": {}, "timeout_seconds": 9, "status": "failed"}
        await tx.add(Run, id=ids[Run], checkpoint=sealed(Run, "checkpoint"), **run)
        secret = {"name": "s", "kind": "text", "fields": ["text"], "origins": []}
        await tx.add(Secret, id=ids[Secret], sealed=sealed(Secret, "sealed"), **secret)
        secrets = {name: sealed(Webhook, name) for name in ("secret", "old_secret")}
        await tx.add(Webhook, id=ids[Webhook], name="w", url="https://x", events=["*"], cursor=0, **secrets)
        place = {"table": "idempotency_keys", "column": "sealed_reply", "row": "k", "user": user}
        await tx.add(IdempotencyKey, key="k", fingerprint="f", sealed_reply=db.vault().seal(b"r", **place))
    kid = f"key of {user}"
    async with db.as_system() as tx:
        seed = db.vault().seal(b"seed", table="signing_keys", column="private_key", row=kid, user="")
        await tx.add(SigningKey, id=kid, private_key=seed)
    return ids


async def opened(user: str, ids: dict[Any, UUID]) -> set[str]:
    """Everything of the user's that the ring opens; raises Unsealable."""
    async with db.as_user(user) as tx:
        found = set()
        for model, column in (
            (Profile, "state"),
            (Run, "checkpoint"),
            (Secret, "sealed"),
            (Webhook, "secret"),
            (Webhook, "old_secret"),
        ):
            row: Any = await tx.one(model, id=ids[model])
            found.add(tx.unseal(model, column, row.id, getattr(row, column)).decode())
        (kept,) = await tx.find(IdempotencyKey)
    place = {"table": "idempotency_keys", "column": "sealed_reply", "row": "k", "user": user}
    found.add(db.vault().unseal(kept.sealed_reply or b"", **place).decode())
    async with db.as_system() as tx:
        key = await tx.one(SigningKey, id=f"key of {user}")
    place = {"table": "signing_keys", "column": "private_key", "row": key.id, "user": ""}
    found.add(db.vault().unseal(key.private_key, **place).decode())
    return found


async def test_after_a_rotation_the_old_key_is_not_needed(user: str, other_user: str, ring: None) -> None:
    ids = {owner: await seal_everything(owner) for owner in (user, other_user)}
    before = {owner: await opened(owner, ids[owner]) for owner in ids}
    async with db.as_user(user) as tx:
        touched = (await tx.one(Secret)).updated_at
    turn(NEW, OLD)
    outcome = await rekey.rekey()
    assert {column for column, (done, _) in outcome.items() if done >= 2} == set(outcome)
    assert len(outcome) == len(db.SEALED) == 7
    turn(NEW)
    for owner, kept in before.items():
        assert len(kept) == 7
        assert await opened(owner, ids[owner]) == kept
    async with db.as_user(user) as tx:
        assert (await tx.one(Secret)).updated_at == touched
    assert all(done == 0 for done, _ in (await rekey.rekey()).values())


async def test_what_no_key_opens_is_counted_and_left_alone(user: str, ring: None) -> None:
    ids = await seal_everything(user)
    turn(NEW)
    outcome = await rekey.rekey()
    assert all(lost >= 1 for _, lost in outcome.values())
    with pytest.raises(Unsealable):
        await opened(user, ids)
    turn(OLD)
    assert len(await opened(user, ids)) == 7


async def test_every_sealed_column_is_rotated() -> None:
    """Columns of bytes that are not sealed are digests."""
    digests = {"code_hash", "family_hash", "refresh_hash", "key_hash"}
    columns = {
        (table.name, column.name)
        for table in Base.metadata.sorted_tables
        for column in table.columns
        if column.type.python_type is bytes and column.name not in digests
    }
    assert columns == {(model.__tablename__, column) for model, column in db.SEALED}


async def test_many_values_are_walked_to_the_end(user: str, ring: None) -> None:
    async with db.as_user(user) as tx:
        for number in range(2 * db.RESEALED_AT_ONCE + 1):
            secret_id = uuid7()
            values = {"name": f"s{number}", "kind": "text", "fields": ["text"], "origins": []}
            await tx.add(Secret, id=secret_id, sealed=tx.seal(Secret, "sealed", secret_id, b"x"), **values)
    turn(NEW, OLD)
    done, _ = await db.reseal(Secret, "sealed")
    assert done >= 2 * db.RESEALED_AT_ONCE + 1
