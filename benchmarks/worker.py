"""This process as a worker on a database of its own, for figures of whole runs."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import db
from infra import postgres
from infra.bus import LocalBus
from infra.storage import open_directory
from infra.vault import load_vault
from models import uuid7
from runs import computers, engine
from settings import settings


@asynccontextmanager
async def working() -> AsyncIterator[None]:
    """Runs that are queued meanwhile are driven here; pages on loopback may be opened."""
    settings.__dict__["allow_private_network"] = True
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory)
        data.chmod(0o711)
        server = await postgres.start(data)
        bus = LocalBus()
        await bus.start()
        await db.migrate(server.dsn)
        vault = load_vault(data, ())
        await db.open_database(server.dsn, publish=bus.publish, vault=vault)
        await computers.start(worker_id := uuid7(), bus, await open_directory(data / "files"))
        await engine.start(worker_id, bus, vault)
        try:
            yield
        finally:
            await engine.stop()
            await computers.stop()
            await db.close_database()
            await bus.close()
            await postgres.stop(server)
