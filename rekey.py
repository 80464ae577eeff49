"""Rotation of the keys that encrypt at rest: what older keys have sealed is sealed with the newest.

Put a new key first in SECRET_KEYS, restart every process, run this, and then take the old key away.
"""

import asyncio
import sys

import db
import process
from infra import vault
from settings import settings


async def rekey() -> dict[str, tuple[int, int]]:
    """How many values of each column were sealed anew, and how many no key of the ring can read."""
    return {f"{model.__tablename__}.{column}": await db.reseal(model, column) for model, column in db.SEALED}


async def main() -> None:
    """Beside running servers, or without one."""
    async with process.stores(migrated=True) as (dsn, _):
        ring = vault.load_vault(settings.data_dir, settings.secret_keys)
        await db.open_database(dsn, size=2, vault=ring)
        try:
            outcome = await rekey()
        finally:
            await db.close_database()
    for column, (done, lost) in outcome.items():
        print(f"{column}: {done} sealed anew" + (f", {lost} unreadable" if lost else ""))  # noqa: T201
    if any(lost for _, lost in outcome.values()):
        sys.exit("Some values were sealed with a key that is not in SECRET_KEYS. Add it and run this again.")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except process.START_FAILURES as failure:
        sys.exit(str(failure))
