"""Backup and restore: everything a server keeps, as one file that any other server can take in.

The file is a tar: `manifest.json`, `tables/<name>.copy` (PostgreSQL's COPY text of one snapshot),
`files/<key>`, and `vault.key` where keys are kept in the data directory. It depends neither on the version of
PostgreSQL nor on where files are stored, so it also moves a server from the embedded database to another one.
"""

import argparse
import asyncio
import io
import os
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import asyncpg
import orjson

import db
import process
from infra.storage import CHUNK_BYTES, FileMissing, Storage
from models import Base
from settings import settings

FORMAT = 1
MANIFEST, KEY_FILE = "manifest.json", "vault.key"
TABLES = tuple(str(table.name) for table in Base.metadata.sorted_tables)


class CannotRestore(Exception):
    """The backup cannot be taken in here; nothing was changed."""


@asynccontextmanager
async def _connected(dsn: str) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(dsn, server_settings={"app.system": "on", "timezone": "UTC"})
    try:
        yield connection
    finally:
        await connection.close()


# Out ----------------------------------------------------------------------------------------------


async def create(dsn: str, storage: Storage, target: Path) -> dict[str, Any]:
    """Write a backup of a running or a stopped server and return its manifest.

    The database is read in one snapshot; a file that is deleted meanwhile is left out. Raises OSError,
    db.OutOfDate, db.Unavailable, infra.storage.StorageUnavailable.
    """
    await db.require_latest(dsn, exactly=True)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            with tarfile.open(fileobj=file, mode="w|", format=tarfile.PAX_FORMAT) as tar:
                manifest = await _write(dsn, storage, tar)
            file.flush()
            os.fsync(file.fileno())
        partial.rename(target)
    finally:
        partial.unlink(missing_ok=True)
    return manifest


async def _write(dsn: str, storage: Storage, tar: tarfile.TarFile) -> dict[str, Any]:
    async with (
        _connected(dsn) as connection,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        columns = {table: await _columns(connection, table) for table in TABLES}
        stored = await connection.fetch("select storage_key from files order by storage_key")
        manifest = {
            "format": FORMAT,
            "revision": db.latest_revision(),
            "created_at": datetime.now(UTC).isoformat(),
            "columns": columns,
            "files": len(stored),
        }
        _add(tar, MANIFEST, orjson.dumps(manifest, option=orjson.OPT_INDENT_2))
        for table in TABLES:
            query = f"select {_listed(columns[table])} from {table}"  # noqa: S608 - names of our own
            with tempfile.TemporaryFile() as rows:
                await connection.copy_from_query(query, output=rows)
                _add_file(tar, f"tables/{table}.copy", rows)
    key_file = settings.data_dir / KEY_FILE
    if key_file.exists():
        _add(tar, KEY_FILE, key_file.read_bytes())
    for row in stored:
        await _add_stored(tar, storage, row["storage_key"])
    return manifest


async def _add_stored(tar: tarfile.TarFile, storage: Storage, key: str) -> None:
    try:
        chunks = await storage.read(key)
    except FileMissing:
        return
    with tempfile.TemporaryFile() as file:
        async for chunk in chunks:
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(_add_file, tar, f"files/{key}", file)


async def _columns(connection: "asyncpg.Connection[asyncpg.Record]", table: str) -> list[str]:
    rows = await connection.fetch(
        "select column_name from information_schema.columns "
        "where table_schema = current_schema() and table_name = $1 order by ordinal_position",
        table,
    )
    return [row[0] for row in rows]


def _listed(columns: list[str]) -> str:
    return ", ".join(f'"{column}"' for column in columns)


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    _add_file(tar, name, io.BytesIO(data), len(data))


def _add_file(tar: tarfile.TarFile, name: str, file: Any, size: int | None = None) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = file.seek(0, io.SEEK_END) if size is None else size
    entry.mode = 0o600
    file.seek(0)
    tar.addfile(entry, file)


# In -----------------------------------------------------------------------------------------------


def read_manifest(source: Path) -> dict[str, Any]:
    """What the backup says of itself. Raises CannotRestore."""
    try:
        with tarfile.open(source) as tar:
            first = tar.next()
            data = tar.extractfile(first) if first is not None and first.name == MANIFEST else None
            manifest: dict[str, Any] = orjson.loads(data.read()) if data is not None else {}
    except (OSError, tarfile.TarError, ValueError) as error:
        raise CannotRestore(f"{source} cannot be read as a backup: {error}") from error
    if manifest.get("format") != FORMAT:
        raise CannotRestore(f"{source} is not a backup that this version can read.")
    if manifest["revision"] > db.latest_revision():
        raise CannotRestore("The backup is of a newer version; update this server first.")
    return manifest


def restore_key(source: Path, data_dir: Path) -> None:
    """Put the backup's key file, if it has one, where the vault looks for it. Raises CannotRestore."""
    with tarfile.open(source) as tar:
        kept = next((entry for entry in tar if entry.name == KEY_FILE), None)
        data = tar.extractfile(kept) if kept is not None else None
        if data is None:
            return
        key, place = data.read(), data_dir / KEY_FILE
    if place.exists() and place.read_bytes() != key:
        raise CannotRestore(f"{place} has another key; restore into an empty DATA_DIR.")
    place.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(key)


async def restore(source: Path, dsn: str, storage: Storage) -> dict[str, Any]:
    """Take a backup into an empty database and file store; returns its manifest.

    The rows come whole or not at all. Files that came before it broke off stay; a repeat writes them again.

    Raises CannotRestore, db.Unavailable, infra.storage.StorageUnavailable.
    """
    manifest = read_manifest(source)
    await db.migrate(dsn, manifest["revision"])
    async with _connected(dsn) as connection:
        if await connection.fetchval("select exists (select from users)"):
            raise CannotRestore("The database has users already; restore into an empty one.")
        async with connection.transaction():
            with tarfile.open(source) as tar:
                for entry in tar:
                    await _take(tar, entry, manifest, connection, storage)
            await connection.execute(
                "select setval(pg_get_serial_sequence('users', 'number'), "
                "coalesce((select max(number) from users), 0) + 1, false)"
            )
    await db.migrate(dsn)
    return manifest


async def _take(
    tar: tarfile.TarFile,
    entry: tarfile.TarInfo,
    manifest: dict[str, Any],
    connection: "asyncpg.Connection[asyncpg.Record]",
    storage: Storage,
) -> None:
    data = tar.extractfile(entry)
    if data is None or entry.name in (MANIFEST, KEY_FILE):
        return
    kind, _, name = entry.name.partition("/")
    if kind == "files":
        await storage.put(name, _chunks(data), limit=entry.size)
        return
    table = name.removesuffix(".copy")
    if table not in TABLES:
        raise CannotRestore(f"The backup has a table {table} that this version does not know.")
    # COPY does not work under row-level security, and what the triggers would count is in the backup.
    await connection.execute(f"alter table {table} no force row level security, disable trigger user")
    await connection.copy_to_table(table, source=cast(BinaryIO, data), columns=manifest["columns"][table])
    await connection.execute(f"alter table {table} force row level security, enable trigger user")


async def _chunks(data: IO[bytes]) -> AsyncIterator[bytes]:
    while chunk := await asyncio.to_thread(data.read, CHUNK_BYTES):
        yield chunk


# The command --------------------------------------------------------------------------------------


async def _run(arguments: argparse.Namespace) -> str:
    if arguments.command == "restore":
        read_manifest(arguments.file)
        restore_key(arguments.file, settings.data_dir)
    async with process.stores(migrated=arguments.command == "create") as (dsn, storage):
        if arguments.command == "create":
            manifest = await create(dsn, storage, arguments.file)
            return f"Wrote {arguments.file}, with {manifest['files']} files. It holds keys: keep it safe."
        manifest = await restore(arguments.file, dsn, storage)
        return f"Restored what was backed up at {manifest['created_at']}."


def main() -> None:
    """`create FILE` or `restore FILE`, for the server that the settings describe."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("command", choices=("create", "restore"))
    parser.add_argument("file", type=Path)
    try:
        print(asyncio.run(_run(parser.parse_args())))  # noqa: T201 - a command answers
    except (CannotRestore, OSError, *process.START_FAILURES) as failure:
        sys.exit(str(failure))


if __name__ == "__main__":
    main()
