"""The database: sessions bound to one user, one-statement reads, and the event log.

Every statement on a table is built here with its owner in it, compiled once for each set of names
present, and run on raw asyncpg; PostgreSQL returns what goes over the wire as JSON text.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias, TypeVar, cast
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import orjson
import structlog
from pydantic import BaseModel
from sqlalchemy import (
    URL,
    ColumnElement,
    DateTime,
    Executable,
    FromClause,
    Integer,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    make_url,
    select,
    true,
    update,
)
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

from models import Base, Event, IdempotencyKey, Quota, Stream, User, uuid7
from schemas import EventRead, PageQuery

log = structlog.get_logger()

M = TypeVar("M", bound=Base)
Publish: TypeAlias = Callable[[str, bytes], None]
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
RESTRICTED_ROLE = "cua_app"
_HERE = Path(__file__).parent
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_PAGING = {"limit", "cursor", "order", "q"}
_DIALECT = PGDialect_asyncpg(json_serializer=lambda value: orjson.dumps(value).decode())  # type: ignore[no-untyped-call]


class Unavailable(Exception):
    """The database is away, or all its connections stayed busy."""


class Unsafe(Exception):
    """The login would see every user's rows, and cannot be restricted."""


class OutOfDate(Exception):
    """The database lacks migrations that this server needs."""


class InvalidCursor(Exception):
    """The `cursor` of a list was not one that this server gave."""


class KeyReused(Exception):
    """An `Idempotency-Key` came again with another request."""


class KeyBusy(Exception):
    """The first request with this `Idempotency-Key` still runs."""


class Repeat(Exception):
    """The request was already done; `reply` is what was answered then."""

    def __init__(self, reply: Response) -> None:
        super().__init__()
        self.reply = reply


@dataclass(frozen=True, slots=True)
class Idempotency:
    """A request's `Idempotency-Key` and the fingerprint of what it asks."""

    key: str
    fingerprint: str


AWAY = (
    Unavailable,
    OSError,
    asyncpg.InterfaceError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.TransactionRollbackError,
)
"""What a statement raises while PostgreSQL is away, restarts or asks to try again."""


# Statements ---------------------------------------------------------------------------------------


class Statement:
    """A Core statement, compiled once and run with named values on raw asyncpg."""

    def __init__(self, statement: Executable) -> None:
        compiled = cast("Any", statement).compile(dialect=_DIALECT)
        self.sql: str = compiled.string
        self._constants: dict[str, Any] = compiled.params
        self._binds = [
            (name, compiled.binds[name].type.dialect_impl(_DIALECT).bind_processor(_DIALECT))
            for name in compiled.positiontup or ()
        ]

    def values(self, given: Mapping[str, Any]) -> list[Any]:
        """The positional arguments, converted as their columns' types say."""
        merged = {**self._constants, **given}
        return [
            merged[name] if convert is None or merged[name] is None else convert(merged[name])
            for name, convert in self._binds
        ]


def _literal(value: str | None) -> str:
    return "null" if value is None else "'" + value.replace("'", "''") + "'"


def _owner(model: type[Base]) -> ColumnElement[str]:
    table = _table(model)
    return table.c.id if model is User else table.c.user_id


def _table(model: type[Base]) -> Table:
    return cast("Table", model.__table__)


def _value(model: type[Base], name: str, prefix: str = "") -> ColumnElement[Any]:
    return bindparam(prefix + name, type_=_table(model).c[name].type)


def _wire(model: type[Base], read: type[BaseModel], rows: FromClause) -> Iterable[ColumnElement[Any]]:
    """The Read schema's fields as columns; instants as RFC 3339 in UTC with microseconds."""
    for name in read.model_fields:
        expression = model.__expressions__.get(name)
        column = expression(rows) if expression else rows.c[name]
        if isinstance(column.type, DateTime):
            column = func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        yield column.label(name)


def _json(rows: FromClause) -> ColumnElement[str]:
    return func.row_to_json(literal_column(rows.name)).cast(Text)  # type: ignore[attr-defined]


def _matches(model: type[Base], names: Iterable[str]) -> Iterable[ColumnElement[bool]]:
    for name in names:
        yield _table(model).c[name] == _value(model, name, "where_")


@lru_cache(1024)
def _read_statement(
    model: type[Base],
    read: type[BaseModel],
    names: tuple[str, ...],
    *,
    search: bool = False,
    after: bool = False,
    newest: bool = True,
    extra: tuple[str, ...] = (),
) -> Statement:
    """One round trip with row-level security on: the LIMIT fences `me`, which therefore runs first."""
    table = _table(model)
    order = table.c[model.__order__]
    me = select(
        func.set_config(literal_column("'app.user_id'"), bindparam("me", type_=Text), true()).label("id")
    ).subquery("me")
    chosen = select(table).where(_owner(model) == me.c.id, *_matches(model, names))
    if search:
        chosen = chosen.where(table.c.name.ilike(bindparam("pattern", type_=Text)))
    if after:
        last = bindparam("after", type_=order.type)
        chosen = chosen.where(order < last if newest else order > last)
    rows = (
        chosen.order_by(order.desc() if newest else order)
        .limit(bindparam("limit", type_=Integer))
        .lateral("r")
    )
    shape = select(*_wire(model, read, rows)).correlate(rows).lateral("t")
    position = rows.c[model.__order__]
    return Statement(
        select(_json(shape), position, *(rows.c[name] for name in extra))
        .select_from(me.join(rows, true()).join(shape, true()))
        .order_by(position.desc() if newest else position)
    )


@lru_cache(1024)
def _write_statement(
    verb: str, model: type[Base], read: type[BaseModel] | None, sets: tuple[str, ...], names: tuple[str, ...]
) -> Statement:
    """An insert, update or delete that returns its rows, whole or as the Read schema's JSON text."""
    table = _table(model)
    values = {name: _value(model, name) for name in sets}
    matches = list(_matches(model, names))
    if model is User or "user_id" in table.c:
        matches.append(_owner(model) == bindparam("me", type_=Text))
    statement: Any
    if verb == "insert":
        statement = insert(table).values(values)
    elif verb == "update":
        if "updated_at" in table.c:
            values.setdefault("updated_at", func.clock_timestamp())
        statement = update(table).where(*matches).values(values)
    else:
        statement = delete(table).where(*matches)
    written = statement.returning(*table.c).cte("r")
    if read is None:
        return Statement(select(written))
    shown = select(*_wire(model, read, written)).subquery("t")
    return Statement(select(_json(shown), literal_column("1")).select_from(shown))


@lru_cache(1024)
def _row_statement(model: type[Base], names: tuple[str, ...], *, owned: bool, lock: bool) -> Statement:
    table = _table(model)
    statement = select(table).where(*_matches(model, names))
    if owned:
        statement = statement.where(_owner(model) == bindparam("me", type_=Text))
    if model.__order__ in table.c:
        statement = statement.order_by(table.c[model.__order__])
    return Statement(statement.with_for_update() if lock else statement)


# Connections --------------------------------------------------------------------------------------


class _Database:
    """The process's connections; `restrict` is the begin of a login that would bypass the policies."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], wait: float, publish: Publish) -> None:
        self.pool, self.wait, self.publish = pool, wait, publish
        self.restrict = ""
        self.known_users: set[str] = set()

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Connection]:
        try:
            connection = await self.pool.acquire(timeout=self.wait)
        except (TimeoutError, *_BROKEN) as error:
            log.warning("database_unavailable", error=repr(error))
            raise Unavailable("no connection to the database") from error
        try:
            yield connection
        except asyncpg.InternalClientError as error:  # asyncpg's word for a connection that is being lost
            raise Unavailable("the connection to the database broke") from error
        finally:
            # What broke the connection was raised where it was used, or came after the commit.
            with suppress(*_BROKEN):
                try:
                    if connection.is_in_transaction():
                        await connection.execute("rollback")
                finally:
                    await self.pool.release(connection)


_open: _Database | None = None


def _database() -> _Database:
    if _open is None:
        raise Unavailable("the database is not open")
    return _open


async def _prepare_connection(connection: asyncpg.Connection[asyncpg.Record], /) -> None:
    for name in ("json", "jsonb"):
        await connection.set_type_codec(name, schema="pg_catalog", encoder=str, decoder=orjson.loads)


async def _keep(_connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """Stands in for asyncpg's reset query: settings here live and die with their transaction."""


async def open_database(
    dsn: str, *, size: int = 8, wait: float = 5, publish: Publish = lambda _topic, _payload: None
) -> None:
    """Open the process's pool of `size` connections and check that policies bind the login.

    `publish` is told `user:<id>` after each commit that logged events. Raises Unsafe, Unavailable.
    """
    global _open  # noqa: PLW0603 - one database a process
    try:
        pool = await asyncpg.create_pool(
            dsn,
            init_size=1,
            min_size=0,
            max_size=size,
            init=_prepare_connection,
            reset=_keep,
            statement_cache_size=512,
            # Literals in the commit message are escaped for standard strings, which a server may have off.
            server_settings={
                "timezone": "UTC",
                "application_name": "cua",
                "standard_conforming_strings": "on",
            },
        )
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Unavailable(f"cannot connect to the database: {error}") from error
    database = _Database(pool, wait, publish)
    try:
        database.restrict = await _restriction(database)
    except BaseException:
        await pool.close()
        raise
    _open = database


async def _restriction(database: _Database) -> str:
    """What a transaction must begin with so that row-level security holds for this login."""
    async with database.lease() as connection:
        bypasses = await connection.fetchval(
            "select rolsuper or rolbypassrls from pg_roles where rolname = current_user"
        )
        if not bypasses:
            return ""
        member = await connection.fetchval(
            "select coalesce((select pg_has_role(current_user, oid, 'MEMBER')"
            " from pg_roles where rolname = $1), false)",
            RESTRICTED_ROLE,
        )
    if not member:
        raise Unsafe(
            f"The database login bypasses row-level security and cannot become {RESTRICTED_ROLE!r}. "
            "Use a login without SUPERUSER and BYPASSRLS, or run the migrations with this one."
        )
    return f"select set_config('role', '{RESTRICTED_ROLE}', true); "


def sqlalchemy_url(dsn: str) -> URL:
    """The address as SQLAlchemy's asyncpg dialect wants it; accepts what PaaS vendors write."""
    url = make_url(re.sub(r"^postgres(ql)?(\+\w+)?://", "postgresql+asyncpg://", dsn))
    query = dict(url.query)
    if "sslmode" in query:
        query["ssl"] = query.pop("sslmode")
    return url.set(query=query)


def _latest_revision() -> str:
    return max(path.name.split("_")[0] for path in (_HERE / "migrations" / "versions").glob("[0-9]*.py"))


async def migrate(dsn: str) -> None:
    """Bring the database to the newest revision, for one query where it is there. Raises Unavailable."""
    if await _revision(dsn) != _latest_revision():
        await asyncio.to_thread(_upgrade, dsn)


async def require_latest(dsn: str) -> None:
    """Raise OutOfDate where the migrations have not run, and Unavailable where nothing answers."""
    revision = await _revision(dsn)
    if revision != _latest_revision():
        raise OutOfDate(
            f"The database is at revision {revision or 'none'}, this server needs {_latest_revision()}: "
            "run `make migrate` (the Procfile's release step)."
        )


async def _revision(dsn: str) -> str | None:
    try:
        connection = await asyncpg.connect(dsn)
    except (OSError, TimeoutError, asyncpg.PostgresError) as error:
        raise Unavailable(f"cannot connect to the database: {error}") from error
    try:
        if not await connection.fetchval("select to_regclass('alembic_version') is not null"):
            return None
        return cast("str | None", await connection.fetchval("select version_num from alembic_version"))
    finally:
        await connection.close()


def _upgrade(dsn: str) -> None:
    from alembic import command  # noqa: PLC0415 - half a second of import that a warm start does not need
    from alembic.config import Config  # noqa: PLC0415

    config = Config(str(_HERE / "alembic.ini"))
    config.set_main_option("script_location", str(_HERE / "migrations"))
    config.attributes["dsn"] = dsn
    command.upgrade(config, "head")


async def close_database() -> None:
    """Wait for running transactions, then close every connection."""
    global _open
    if _open is not None:
        database, _open = _open, None
        try:
            async with asyncio.timeout(10):
                await database.pool.close()
        except TimeoutError:
            database.pool.terminate()


async def ping() -> bool:
    """Whether the database answers."""
    try:
        async with _database().lease() as connection:
            return bool(await connection.fetchval("select true"))
    except (Unavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


# Reads --------------------------------------------------------------------------------------------


def envelope(
    data: str | BaseModel | Sequence[BaseModel],
    *,
    status: int = 200,
    extra: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The success envelope around JSON text, a model or several."""
    if isinstance(data, str):
        text = data
    elif isinstance(data, BaseModel):
        text = data.model_dump_json()
    else:
        text = f"[{','.join(item.model_dump_json() for item in data)}]"
    body = f'{{"success":true,"data":{text}{extra}}}'
    return Response(body, status, headers, "application/json")


async def _fetch(user_id: str, statement: Statement, values: Mapping[str, Any]) -> list[asyncpg.Record]:
    database = _database()
    arguments = statement.values({**values, "me": user_id})
    async with database.lease() as connection:
        if database.restrict:
            await connection.execute(f"begin; {database.restrict}")
            rows = await connection.fetch(statement.sql, *arguments)
            await connection.execute("commit")
            return rows
        return await connection.fetch(statement.sql, *arguments)


async def page(
    user_id: str,
    model: type[Base],
    read: type[BaseModel],
    query: PageQuery,
    *,
    within: type[Base] | None = None,
    **equals: object,
) -> Response:
    """One page of the user's rows in one round trip; fields of `query` and `equals` filter by value.

    `within` is the parent's model, whose id is the only one of `equals`: a list of nobody's is not found.
    Raises InvalidCursor, NoResultFound, Unavailable.
    """
    asked = query.model_dump(exclude_none=True)
    filters = {name: value for name, value in asked.items() if name not in _PAGING} | equals
    after = _cursor_value(model, filters.pop("after", None), query.cursor)
    newest = query.order == "desc"
    statement = _read_statement(
        model, read, tuple(filters), search="q" in asked, after=after is not None, newest=newest
    )
    values = {f"where_{name}": value for name, value in filters.items()}
    values |= {"pattern": _pattern(asked.get("q", "")), "after": after, "limit": query.limit + 1}
    rows = await _fetch(user_id, statement, values)
    if within is not None and not rows:
        await _require(user_id, within, next(iter(equals.values())))
    shown = ",".join(row[0] for row in rows[: query.limit])
    if len(rows) <= query.limit:
        return envelope(f"[{shown}]", extra=',"next_cursor":null')
    cursor = base64.urlsafe_b64encode(str(rows[query.limit - 1][1]).encode()).decode().rstrip("=")
    link = urlencode({**query.model_dump(mode="json", exclude_none=True), "cursor": cursor})
    return envelope(
        f"[{shown}]", extra=f',"next_cursor":"{cursor}"', headers={"Link": f'<?{link}>; rel="next"'}
    )


async def _require(user_id: str, model: type[Base], id: object) -> None:
    async with as_user(user_id) as tx:
        await tx.one(model, id=id)


def _pattern(part: str) -> str:
    return "%" + re.sub(r"([\\%_])", r"\\\1", part) + "%"


def _cursor_value(model: type[Base], after: object, cursor: str | None) -> object:
    if cursor is None:
        return after
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), b"-_", validate=True).decode("ascii")
        if model.__order__ == "id":
            return UUID(raw)
        if re.fullmatch(r"[0-9]{1,18}", raw):
            return int(raw)
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor("the cursor is not one of this list's") from error
    raise InvalidCursor("the cursor is not one of this list's")


async def read(user_id: str, model: type[Base], shape: type[BaseModel], id: UUID | str) -> Response:
    """One of the user's rows in one round trip. Raises NoResultFound, Unavailable."""
    statement = _read_statement(model, shape, ("id",))
    rows = await _fetch(user_id, statement, {"where_id": id, "limit": 1})
    if not rows:
        raise NoResultFound
    return envelope(rows[0][0])


@dataclass(frozen=True, slots=True)
class LoggedEvent:
    """One entry of a user's log; `text` is its wire form, encoded once."""

    seq: int
    kind: str
    run_id: UUID | None
    text: str


async def events(user_id: str, after: int, limit: int = 500, run_id: UUID | None = None) -> list[LoggedEvent]:
    """The user's log beyond `after`, oldest first; of one run if it is named."""
    names = ("run_id",) if run_id else ()
    extra = ("kind", "run_id")
    statement = _read_statement(Event, EventRead, names, after=True, newest=False, extra=extra)
    rows = await _fetch(user_id, statement, {"after": after, "limit": limit, "where_run_id": run_id})
    return [LoggedEvent(seq, kind, run_id, text) for text, seq, kind, run_id in rows]


async def log_bounds(user_id: str) -> tuple[int, int]:
    """The oldest `seq` still kept and the newest; `(1, 0)` for an empty log."""
    async with as_user(user_id) as tx:
        head = await tx.find(Stream)
        oldest = await tx.connection.fetchval(
            "select seq from events where user_id = $1 order by seq limit 1", user_id
        )
    last = head[0].last_seq if head else 0
    return (oldest if oldest is not None else last + 1), last


# Transactions -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Tx:
    """A transaction of one user; what it emits is logged in the message that commits it."""

    connection: Connection
    user_id: str
    actor: str
    _events: list[str] = field(default_factory=list)
    _hints: set[tuple[str, bytes]] = field(default_factory=set)
    _reply: Response | None = None

    def act_for(self, user_id: str) -> None:
        """Bind a system transaction to the one user whose events it logs."""
        if self.user_id not in ("", user_id):
            raise RuntimeError("one transaction logs one user's events")
        self.user_id = user_id

    # Rows

    async def find(self, model: type[M], *, lock: bool = False, **equals: object) -> list[M]:
        """The user's rows with these values, in the model's order; every user's in a system transaction."""
        owned = bool(self.user_id)
        statement = _row_statement(model, tuple(equals), owned=owned, lock=lock)
        rows = await self.connection.fetch(statement.sql, *statement.values(self._where(equals)))
        return [model(**row) for row in rows]

    async def one(self, model: type[M], *, lock: bool = False, **equals: object) -> M:
        """The only such row. Raises NoResultFound."""
        found = await self.find(model, lock=lock, **equals)
        if len(found) != 1:
            raise NoResultFound
        return found[0]

    async def add(self, model: type[M], **values: object) -> M:
        """Insert a row of the user."""
        rows = await self._write("insert", model, None, self._new(model, values), {})
        return model(**rows[0])

    async def change(self, model: type[M], where: Mapping[str, object], **values: object) -> list[M]:
        """Set `values` in the user's rows that have the values `where`; returns the rows changed."""
        return [model(**row) for row in await self._write("update", model, None, values, where)]

    async def remove(self, model: type[M], **equals: object) -> list[M]:
        """Delete the user's rows with these values; returns what they were."""
        return [model(**row) for row in await self._write("delete", model, None, {}, equals)]

    async def call(self, function: str, *arguments: object) -> list[asyncpg.Record]:
        """Run a function of the migrations and return its rows."""
        marks = ", ".join(f"${n}" for n in range(1, len(arguments) + 1))
        return await self.connection.fetch(f"select * from {function}({marks})", *arguments)  # noqa: S608

    def _new(self, model: type[Base], values: Mapping[str, object]) -> dict[str, object]:
        columns = _table(model).c
        new = dict(values)
        if "user_id" in columns and model is not User:
            new.setdefault("user_id", self.user_id)
        if "id" in columns and columns.id.default is not None:
            new.setdefault("id", uuid7())
        return new

    def _where(self, equals: Mapping[str, object]) -> dict[str, object]:
        return {"me": self.user_id} | {f"where_{name}": value for name, value in equals.items()}

    async def _write(
        self,
        verb: str,
        model: type[Base],
        shape: type[BaseModel] | None,
        values: Mapping[str, object],
        where: Mapping[str, object],
    ) -> list[asyncpg.Record]:
        statement = _write_statement(verb, model, shape, tuple(values), tuple(where))
        given = {**values, **self._where(where)}
        return await self.connection.fetch(statement.sql, *statement.values(given))

    # Events

    def emit(
        self,
        kind: str,
        resource: tuple[str, object],
        data: str | Mapping[str, Any] = "{}",
        *,
        run_id: UUID | None = None,
    ) -> None:
        """Log that `kind` happened to `resource` (type, id) when this transaction commits.

        `data` is a mapping or JSON text; over 32 KiB it is replaced by `{"truncated": true}`.
        """
        text = data if isinstance(data, str) else orjson.dumps(data).decode()
        if len(text) > 32 * 1024:
            text = '{"truncated":true}'
        if resource[0] == "run":
            run_id = cast("UUID", resource[1])
        fields = (str(uuid7()), kind, None if run_id is None else str(run_id), resource[0], str(resource[1]))
        self._events.append(", ".join(map(_literal, (*fields, self.actor, text))))

    def announce(self, kind: str, row: Base, shape: type[BaseModel], *, run_id: UUID | None = None) -> None:
        """`emit` with the row in its wire form as data."""
        data = shape.model_validate(row, from_attributes=True).model_dump_json()
        self.emit(kind, (row.resource(), row.id), data, run_id=run_id)  # type: ignore[attr-defined]

    def hint(self, topic: str, payload: bytes = b"") -> None:
        """Publish `topic` on the bus once this transaction has committed."""
        self._hints.add((topic, payload))

    @asynccontextmanager
    async def savepoint(self) -> AsyncIterator[None]:
        """A part that can fail alone: its rows and its events go together."""
        kept = len(self._events)
        await self.connection.execute("savepoint part")
        try:
            yield
        except BaseException:
            del self._events[kept:]
            await self.connection.execute("rollback to savepoint part; release savepoint part")
            raise
        await self.connection.execute("release savepoint part")

    # Replies

    async def create(
        self,
        model: type[Base],
        shape: type[BaseModel],
        body: BaseModel | None = None,
        *,
        event: str = "created",
        status: int = 201,
        **values: object,
    ) -> Response:
        """Insert the body's fields and `values`, log it, and answer with the row and its Location."""
        given = (body.model_dump() if body else {}) | values
        new = self._new(model, given)
        rows = await self._write("insert", model, shape, new, {})
        location = f"/api/{model.__tablename__}/{new['id']}"
        self._log(event, model, new["id"], shape, rows[0][0])
        return self.reply(rows[0][0], status, location)

    async def update(
        self,
        model: type[Base],
        shape: type[BaseModel],
        id: UUID | str,
        body: BaseModel | None = None,
        **values: object,
    ) -> Response:
        """Set exactly the fields sent and `values`, log it, and answer with the row. Raises NoResultFound."""
        given = (body.model_dump(exclude_unset=True) if body else {}) | values
        rows = await self._write("update", model, shape, given, {"id": id})
        if not rows:
            raise NoResultFound
        self._log("updated", model, id, shape, rows[0][0])
        return self.reply(rows[0][0])

    async def delete(self, model: type[Base], id: UUID) -> Response:
        """Delete the row, log it, and answer with nothing. Raises NoResultFound."""
        if not await self.remove(model, id=id):
            raise NoResultFound
        self.emit(f"{model.resource()}.deleted", (model.resource(), id), {"id": str(id)})
        return self.reply("null")

    def _log(self, event: str, model: type[Base], id: object, shape: type[BaseModel], text: str) -> None:
        """Emit the row's wire form, or the smaller shape that its schema is `logged_as`."""
        logged_as: type[BaseModel] | None = getattr(shape, "logged_as", None)
        if logged_as is not None:
            whole = orjson.loads(text)
            text = orjson.dumps({name: whole[name] for name in logged_as.model_fields}).decode()
        self.emit(f"{model.resource()}.{event}", (model.resource(), id), text)

    def reply(self, data: str | BaseModel, status: int = 200, location: str | None = None) -> Response:
        """The answer of this transaction, kept for repeats under the same `Idempotency-Key`."""
        headers = {"Location": location} if location else None
        self._reply = envelope(data, status=status, headers=headers)
        return self._reply

    # The end

    def _commit_message(self, idempotency: Idempotency | None) -> str:
        """Every value is an escaped literal: several statements in one message take no parameters."""
        parts = []
        if idempotency is not None:
            if self._reply is None:
                raise RuntimeError("a transaction with an Idempotency-Key must make its reply")
            body = _literal(bytes(self._reply.body).decode())
            location = _literal(self._reply.headers.get("location"))
            parts.append(
                f"update idempotency_keys set status = {self._reply.status_code:d}, reply = {body}, "  # noqa: S608
                f"location = {location} where user_id = {_literal(self.user_id)} "
                f"and key = {_literal(idempotency.key)}"
            )
        if self._events:
            count = len(self._events)
            rows = ", ".join(f"({n}, {event})" for n, event in enumerate(self._events, 1))
            parts.append(
                "with head as (insert into streams as s (user_id, last_seq) "  # noqa: S608
                f"values ({_literal(self.user_id)}, {count}) "
                f"on conflict (user_id) do update set last_seq = s.last_seq + {count} "
                "returning user_id, last_seq) insert into events "
                "(user_id, seq, id, kind, run_id, resource_type, resource_id, actor, data) "
                f"select user_id, last_seq - {count} + n, e.id::uuid, kind, run_id::uuid, "
                "type, resource, actor, data::json from head, "
                f"(values {rows}) e(n, id, kind, run_id, type, resource, actor, data)"
            )
        parts.append("commit")
        return "; ".join(parts)

    async def commit(self, idempotency: Idempotency | None = None) -> None:
        """Log and commit in one message, then publish. The stream's lock is never held over a round trip."""
        if await self.connection.execute(self._commit_message(idempotency)) != "COMMIT":
            raise RuntimeError("the transaction had failed and was rolled back")
        hints = self._hints | ({(f"user:{self.user_id}", b"")} if self._events else set())
        for topic, payload in hints:
            _database().publish(topic, payload)


@asynccontextmanager
async def as_user(
    user_id: str, actor: str = "system", idempotency: Idempotency | None = None
) -> AsyncIterator[Tx]:
    """A transaction that sees and writes this user's rows only; commits at the end of the block.

    Raises Unavailable, Repeat, KeyReused, KeyBusy, and whatever the database refuses.
    """
    database = _database()
    async with database.lease() as connection:
        begin = _begin(database, user_id)
        if idempotency is None:
            await connection.execute(begin)
        else:
            await _begin_once(connection, begin, user_id, idempotency)
        tx = Tx(connection, user_id, actor)
        yield tx
        await tx.commit(idempotency)


def _begin(database: _Database, user_id: str) -> str:
    return f"begin; {database.restrict}select set_config('app.user_id', {_literal(user_id)}, true)"


async def _begin_once(connection: Connection, begin: str, user_id: str, wanted: Idempotency) -> None:
    """Begin and take the key in one message, or raise the stored reply; a running twin is waited for."""
    take = (
        "insert into idempotency_keys (user_id, key, fingerprint) "  # noqa: S608 - literals are escaped
        f"values ({_literal(user_id)}, {_literal(wanted.key)}, {_literal(wanted.fingerprint)}) "
        "on conflict (user_id, key) do update "
        "set fingerprint = excluded.fingerprint, status = null, reply = null, location = null, "
        "created_at = now() where idempotency_keys.created_at < now() - interval '24 hours'"
    )
    try:
        tag = await connection.execute(f"{begin}; set local lock_timeout = '2s'; {take}")
    except asyncpg.LockNotAvailableError as error:
        raise KeyBusy("the first request with this Idempotency-Key still runs") from error
    if tag != "INSERT 0 0":
        return
    stored = await connection.fetchrow(
        "select fingerprint, status, location, reply from idempotency_keys where user_id = $1 and key = $2",
        user_id,
        wanted.key,
    )
    if stored is not None and stored["fingerprint"] != wanted.fingerprint:
        raise KeyReused("this Idempotency-Key belongs to another request")
    if stored is None or stored["status"] is None:
        raise KeyBusy("the first request with this Idempotency-Key may have landed; look before repeating")
    headers = {"Idempotency-Replayed": "true"}
    if stored["location"]:
        headers["Location"] = stored["location"]
    raise Repeat(Response(stored["reply"], stored["status"], headers, "application/json"))


async def do_once(
    user_id: str, wanted: Idempotency | None, work: Callable[[], Awaitable[BaseModel]]
) -> Response:
    """The enveloped outcome of work outside the database, under a key that is committed first.

    A repeat after a crash is KeyBusy, never a second try; work that fails cleanly frees its key.
    """
    if wanted is None:
        return envelope(await work())
    database = _database()
    async with database.lease() as connection:
        await _begin_once(connection, _begin(database, user_id), user_id, wanted)
        await connection.execute("commit")
    try:
        reply = envelope(await work())
    except Exception:
        async with as_user(user_id) as tx:
            await tx.remove(IdempotencyKey, key=wanted.key)
        raise
    async with as_user(user_id) as tx:
        kept = {"status": reply.status_code, "reply": bytes(reply.body).decode()}
        await tx.change(IdempotencyKey, {"key": wanted.key}, **kept)
    return reply


@asynccontextmanager
async def as_system(actor: str = "system") -> AsyncIterator[Tx]:
    """A transaction across users: for claims, identity and upkeep only. Events need `act_for`."""
    database = _database()
    async with database.lease() as connection:
        tx = Tx(connection, "", actor)
        await connection.execute(f"begin; {database.restrict}select set_config('app.system', 'on', true)")
        yield tx
        await tx.commit()


async def ensure_user(user_id: str, **profile: str | None) -> None:
    """Create the user's row on first sight; remembered by this process."""
    database = _database()
    if user_id in database.known_users:
        return
    async with as_user(user_id) as tx:
        for model, values in ((User, {"id": user_id, **profile}), (Quota, {}), (Stream, {})):
            await _add_once(tx, model, values)
    if len(database.known_users) > 100_000:
        database.known_users.clear()
    database.known_users.add(user_id)


async def _add_once(tx: Tx, model: type[Base], values: dict[str, Any]) -> None:
    if not await tx.find(model):
        try:
            async with tx.savepoint():
                await tx.add(model, **values)
        except asyncpg.UniqueViolationError:
            log.debug("user_made_elsewhere", user=tx.user_id, table=model.__tablename__)


async def heads(user_ids: Iterable[str]) -> dict[str, int]:
    """The newest `seq` of each user, for hubs that look for lost hints."""
    async with as_system() as tx:
        rows = await tx.connection.fetch(
            "select user_id, last_seq from streams where user_id = any($1)", list(user_ids)
        )
    return {row["user_id"]: row["last_seq"] for row in rows}


# Recordings ---------------------------------------------------------------------------------------


async def clock_lead() -> timedelta:
    """How far PostgreSQL's clock, which dates events, is ahead of this machine's."""
    async with _database().lease() as connection:
        before = datetime.now(UTC)
        theirs: datetime = await connection.fetchval("select clock_timestamp()")
        return theirs - before - (datetime.now(UTC) - before) / 2


async def add_frames(tx: Tx, run_id: UUID, file_id: UUID, frames: Sequence[Mapping[str, Any]]) -> None:
    """Append a segment's frames to the run's, each with the newest `seq` of the user's log at its capture.

    `frames` have `captured_at, step, position, length, width, height`. What was captured before the newest
    frame that is stored comes too late, from a worker that had lost the run, and is left out.
    """
    rows = [{"id": uuid7(), **frame} for frame in frames]
    await tx.connection.execute(
        """
        with last as (
          select number, captured_at from frames where user_id = $1 and run_id = $2
           order by number desc limit 1)
        insert into frames (user_id, id, run_id, file_id, number, seq, step, captured_at, position, length,
                            width, height)
        select $1, f.id, $2, $3,
               coalesce((select number from last), 0) + row_number() over (order by f.captured_at),
               (select e.seq from events e where e.user_id = $1 and e.at <= f.captured_at
                 order by e.seq desc limit 1),
               f.step, f.captured_at, f.position, f.length, f.width, f.height
          from json_to_recordset($4) as f(id uuid, captured_at timestamptz, step integer, position bigint,
                                          length integer, width integer, height integer)
         where not exists (select from last where last.captured_at >= f.captured_at)
        """,
        tx.user_id,
        run_id,
        file_id,
        orjson.dumps(rows).decode(),
    )


async def frame_before(user_id: str, run_id: UUID, seq: int) -> int | None:
    """The number of the run's newest frame from before the event `seq`, or else of its first one."""
    async with as_user(user_id) as tx:
        number: int | None = await tx.connection.fetchval(
            """
            select coalesce(
              (select number from frames where user_id = $1 and run_id = $2 and seq < $3
                order by number desc limit 1),
              (select min(number) from frames where user_id = $1 and run_id = $2))
            """,
            user_id,
            run_id,
            seq,
        )
    return number


async def measure_recording(user_id: str, run_id: UUID) -> Mapping[str, Any]:
    """How much of the run is recorded: `frames, segments, bytes, first_at, last_at`."""
    async with as_user(user_id) as tx:
        rows = await tx.connection.fetch(
            """
            select count(*) as frames, count(distinct file_id) as segments,
                   min(captured_at) as first_at, max(captured_at) as last_at,
                   (select coalesce(sum(size), 0)::bigint from files f where f.user_id = $1 and f.id in (
                     select file_id from frames where user_id = $1 and run_id = $2)) as bytes
              from frames where user_id = $1 and run_id = $2
            """,
            user_id,
            run_id,
        )
    return dict(rows[0])
