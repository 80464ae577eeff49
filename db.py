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
from functools import cache, lru_cache
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
    BigInteger,
    ColumnElement,
    DateTime,
    Executable,
    FromClause,
    Integer,
    LargeBinary,
    Table,
    Text,
    bindparam,
    delete,
    func,
    insert,
    literal_column,
    make_url,
    or_,
    select,
    true,
    tuple_,
    update,
)
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.exc import NoResultFound
from starlette.responses import Response

import metrics
from infra.vault import Unsealable, Vault
from models import (
    Base,
    Event,
    IdempotencyKey,
    Profile,
    Run,
    Secret,
    SigningKey,
    Stream,
    User,
    Webhook,
    uuid7,
)
from schemas import EventRead, PageQuery

log = structlog.get_logger()

M = TypeVar("M", bound=Base)
Publish: TypeAlias = Callable[[str, bytes], None]
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"
RESTRICTED_ROLE = "cua_app"
RESEALED_AT_ONCE = 100
DATA_BYTES = 32 * 1024  # of one event
_HERE = Path(__file__).parent
_BROKEN = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
_PAGING = {"limit", "cursor", "order", "q"}
_DIALECT = PGDialect_asyncpg(json_serializer=lambda value: orjson.dumps(value).decode())  # type: ignore[no-untyped-call]


class Unavailable(Exception):
    """The database is away, or all its connections stayed busy."""


class Unsafe(Exception):
    """The login would see every user's rows, and cannot be restricted."""


class OutOfDate(Exception):
    """The database lacks migrations that this server needs, or has some that it does not know."""


class InvalidCursor(Exception):
    """The `cursor` of a list was not one that this server gave."""


class Changed(Exception):
    """The row is not, or no longer, the one that `If-Match` names."""


class KeyReused(Exception):
    """An `Idempotency-Key` came again with another request."""


class KeyBusy(Exception):
    """The first request with this `Idempotency-Key` still runs."""


class MayHaveLanded(Exception):
    """Nobody knows what has become of work outside the database; its `Idempotency-Key` stays taken."""


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


def _value(model: type[Base], name: str) -> ColumnElement[Any]:
    return bindparam(name, type_=_table(model).c[name].type)


def _field(model: type[Base], rows: FromClause, name: str) -> ColumnElement[Any]:
    """A column of the rows, or what the model computes under this name."""
    expression = model.__expressions__.get(name)
    return expression(rows) if expression else rows.c[name]


def _wire(model: type[Base], read: type[BaseModel], rows: FromClause) -> Iterable[ColumnElement[Any]]:
    """The Read schema's fields as columns; instants as RFC 3339 in UTC with microseconds."""
    for name in read.model_fields:
        column = _field(model, rows, name)
        if isinstance(column.type, DateTime):
            column = func.to_char(func.timezone("UTC", column), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
        yield column.label(name)


def _json(rows: FromClause) -> ColumnElement[str]:
    return func.row_to_json(literal_column(rows.name)).cast(Text)  # type: ignore[attr-defined]


def _matches(model: type[Base], names: Iterable[str]) -> Iterable[ColumnElement[bool]]:
    for name in names:
        column = _field(model, _table(model), name)
        yield column == bindparam(f"where_{name}", type_=column.type)


@lru_cache(1024)
def _read_statement(
    model: type[Base],
    read: type[BaseModel],
    names: tuple[str, ...],
    *,
    begins: tuple[str, ...] = (),
    search: bool = False,
    after: bool = False,
    newest: bool = True,
    extra: tuple[str, ...] = (),
    everyone: bool = False,
    by: str = "",
) -> Statement:
    """One round trip with row-level security on: the LIMIT fences `me`, which therefore runs first.

    Columns `begins` begin with their values; rows are ordered `by` another key than the model's.
    """
    table = _table(model)
    by = by or model.__order__
    order = table.c[by]
    setting = "'app.system'" if everyone else "'app.user_id'"
    me = select(
        func.set_config(literal_column(setting), bindparam("me", type_=Text), true()).label("id")
    ).subquery("me")
    mine = me.c.id == "on" if everyone else _owner(model) == me.c.id
    chosen = select(table).where(mine, *_matches(model, names))
    for name in begins:
        chosen = chosen.where(func.starts_with(table.c[name], bindparam(f"where_{name}", type_=Text)))
    if search:
        pattern = bindparam("pattern", type_=Text)
        chosen = chosen.where(or_(*(table.c[name].ilike(pattern) for name in model.__search__)))
    if after:
        last = bindparam("after", type_=order.type)
        chosen = chosen.where(order < last if newest else order > last)
    rows = (
        chosen.order_by(order.desc() if newest else order)
        .limit(bindparam("limit", type_=Integer))
        .lateral("r")
    )
    shape = select(*_wire(model, read, rows)).correlate(rows).lateral("t")
    position = rows.c[by]
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
    shape = select(*_wire(model, read, written)).correlate(written).lateral("t")
    extra = [written.c.updated_at] if model.__tagged__ else []
    return Statement(select(_json(shape), *extra).select_from(written.join(shape, true())))


@lru_cache(1024)
def _row_statement(model: type[Base], names: tuple[str, ...], *, owned: bool, lock: bool) -> Statement:
    table = _table(model)
    statement = select(table).where(*_matches(model, names))
    if owned:
        statement = statement.where(_owner(model) == bindparam("me", type_=Text))
    if model.__order__ in table.c:
        statement = statement.order_by(table.c[model.__order__])
    # As strong as an update's own lock: rows that refer to this one may be written meanwhile.
    return Statement(statement.with_for_update(key_share=True) if lock else statement)


# Connections --------------------------------------------------------------------------------------


class _Database:
    """The process's connections; `restrict` is the begin of a login that would bypass the policies."""

    def __init__(
        self, pool: asyncpg.Pool[asyncpg.Record], wait: float, publish: Publish, vault: Vault | None
    ) -> None:
        self.pool, self.wait, self.publish, self.vault = pool, wait, publish, vault
        self.restrict = ""
        self.lent = 0

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[Connection]:
        if self.lent >= self.pool.get_max_size():
            metrics.POOL_WAITS.inc()
        try:
            connection = await self.pool.acquire(timeout=self.wait)
        except (TimeoutError, *_BROKEN) as error:
            log.warning("database_unavailable", error=repr(error))
            raise Unavailable("no connection to the database") from error
        self.lent += 1
        try:
            yield connection
        except asyncpg.InternalClientError as error:  # asyncpg's word for a connection that is being lost
            raise Unavailable("the connection to the database broke") from error
        finally:
            self.lent -= 1
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
    dsn: str,
    *,
    size: int = 8,
    wait: float = 5,
    publish: Publish = lambda _topic, _payload: None,
    vault: Vault | None = None,
) -> None:
    """Open the process's pool of `size` connections and check that policies bind the login.

    `publish` is told `user:<id>` and `logged` after each commit that logged events; `vault` seals replies
    that show a secret. Raises Unsafe, Unavailable.
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
    database = _Database(pool, wait, publish, vault)
    try:
        database.restrict = await _restriction(database)
    except BaseException:
        await pool.close()
        raise
    metrics.POOL_SIZE.set(size)
    metrics.POOL_IN_USE.set_function(lambda: database.lent)
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


@cache
def latest_revision() -> str:
    """The newest revision of the migrations."""
    return max(path.name.split("_")[0] for path in (_HERE / "migrations" / "versions").glob("[0-9]*.py"))


async def migrate(dsn: str, revision: str | None = None) -> None:
    """Bring the database to a revision, by default the newest, for one query where it is there or beyond.

    Raises Unavailable.
    """
    found, wanted = await _revision(dsn) or "", revision or latest_revision()
    if found < wanted:
        await asyncio.to_thread(_upgrade, dsn, wanted)


async def require_latest(dsn: str, *, exactly: bool = False) -> None:
    """Raise OutOfDate where the migrations have not run, and Unavailable where nothing answers.

    A newer release's may have: they come before its processes do. What must know every table says `exactly`.
    """
    revision = await _revision(dsn) or ""
    if exactly and revision > latest_revision():
        raise OutOfDate(
            f"The database is at revision {revision}, newer than this version's {latest_revision()}."
        )
    if revision < latest_revision():
        raise OutOfDate(
            f"The database is at revision {revision or 'none'}, this server needs {latest_revision()}: "
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


def _upgrade(dsn: str, revision: str) -> None:
    from alembic import command  # noqa: PLC0415 - half a second of import that a warm start does not need
    from alembic.config import Config  # noqa: PLC0415

    config = Config(str(_HERE / "alembic.ini"))
    config.set_main_option("script_location", str(_HERE / "migrations"))
    config.attributes["dsn"] = dsn
    command.upgrade(config, revision)


async def close_database() -> None:
    """Wait for running transactions, then close every connection."""
    global _open  # noqa: PLW0603 - one database a process
    if _open is not None:
        pool = _open.pool
        try:
            async with asyncio.timeout(10):
                await pool.close()
        except TimeoutError:
            pool.terminate()
        _open = None  # only now: whoever commits meanwhile still publishes


async def state() -> tuple[bool, bool]:
    """Whether the database answers, and has all the migrations this server needs; it may have newer ones."""
    try:
        async with _database().lease() as connection:
            revision = await connection.fetchval("select version_num from alembic_version")
    except asyncpg.UndefinedTableError:
        return True, False
    except (Unavailable, OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False, False
    return True, (revision or "") >= latest_revision()


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
    return await _ask(statement.sql, *statement.values({**values, "me": user_id}))


async def _ask(sql: str, *arguments: object) -> list[asyncpg.Record]:
    """One statement that says itself whom it is for: one round trip, unless the login must be restricted."""
    database = _database()
    async with database.lease() as connection:
        if database.restrict:
            await connection.execute(f"begin; {database.restrict}")
            rows = await connection.fetch(sql, *arguments)
            await connection.execute("commit")
            return rows
        return await connection.fetch(sql, *arguments)


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
    A `kind` that ends in a dot is the beginning of kinds.
    Raises InvalidCursor, NoResultFound, Unavailable.
    """
    reply, found = await _page(user_id, model, read, query, equals)
    if within is not None and not found:
        await _require(user_id, within, next(iter(equals.values())))
    return reply


async def page_all(model: type[Base], read: type[BaseModel], query: PageQuery) -> Response:
    """One page of every user's rows, for administrators only. Raises InvalidCursor, Unavailable."""
    return (await _page(None, model, read, query, {}))[0]


async def _page(
    user_id: str | None,
    model: type[Base],
    read: type[BaseModel],
    query: PageQuery,
    equals: Mapping[str, object],
) -> tuple[Response, int]:
    """The page and how many rows were found; without a user, everyone's."""
    asked = query.model_dump(exclude_none=True)
    filters = {name: value for name, value in asked.items() if name not in _PAGING} | dict(equals)
    after = _cursor_value(model, filters.pop("after", None), query.cursor)
    begins = ("kind",) if str(filters.get("kind", "")).endswith(".") else ()
    statement = _read_statement(
        model,
        read,
        tuple(name for name in filters if name not in begins),
        begins=begins,
        search="q" in asked,
        after=after is not None,
        newest=query.order == "desc",
        everyone=user_id is None,
    )
    values = {f"where_{name}": value for name, value in filters.items()}
    values |= {"pattern": _pattern(asked.get("q", "")), "after": after, "limit": query.limit + 1}
    rows = await _fetch("on" if user_id is None else user_id, statement, values)
    shown = ",".join(row[0] for row in rows[: query.limit])
    if len(rows) <= query.limit:
        return envelope(f"[{shown}]", extra=',"next_cursor":null'), len(rows)
    cursor = base64.urlsafe_b64encode(str(rows[query.limit - 1][1]).encode()).decode().rstrip("=")
    link = urlencode({**query.model_dump(mode="json", exclude_none=True), "cursor": cursor})
    headers = {"Link": f'<?{link}>; rel="next"'}
    return envelope(f"[{shown}]", extra=f',"next_cursor":"{cursor}"', headers=headers), len(rows)


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
        most = 2**63 if isinstance(_table(model).c[model.__order__].type, BigInteger) else 2**31
        if re.fullmatch(r"[0-9]{1,19}", raw) and int(raw) < most:
            return int(raw)
    except (ValueError, binascii.Error) as error:
        raise InvalidCursor("the cursor is not one of this list's") from error
    raise InvalidCursor("the cursor is not one of this list's")


def _show_statement(model: type[Base], shape: type[BaseModel]) -> Statement:
    return _read_statement(model, shape, ("id",), extra=("updated_at",) if model.__tagged__ else ())


async def read(user_id: str, model: type[Base], shape: type[BaseModel], id: UUID | str) -> Response:
    """One of the user's rows in one round trip. Raises NoResultFound, Unavailable."""
    statement = _show_statement(model, shape)
    rows = await _fetch(user_id, statement, {"where_id": id, "limit": 1})
    if not rows:
        raise NoResultFound
    etag = _tag(model, rows[0], 2)
    return envelope(rows[0][0], headers={"ETag": etag} if etag else None)


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TAGS = re.compile(r'(?:\*|(?:W/)?"[\x21\x23-\x7e\x80-\xff]*")(?=[ \t]*(?:,|$))')  # in linear time


def tag(updated_at: datetime) -> str:
    """The strong entity tag (RFC 9110, 8.8.3) of a row: each change moves its `updated_at`."""
    return f'"{(updated_at - _EPOCH) // timedelta(microseconds=1):x}"'


def _tag(model: type[Base], row: asyncpg.Record, place: int) -> str | None:
    return tag(row[place]) if model.__tagged__ else None


def tags(fields: Iterable[str]) -> set[str]:
    """The entity tags of `If-Match` or `If-None-Match` fields, as they are written, or `*`."""
    return set(_TAGS.findall(",".join(fields)))


def require_match(row: Any, if_match: Sequence[str]) -> None:
    """Raise Changed where there are `If-Match` fields and none names the row or is `*` (RFC 9110, 13.1.1)."""
    if if_match and not {"*", tag(row.updated_at)} & tags(if_match):
        raise Changed("It was changed since you read it. Read it again, then repeat your change.")


async def rows(
    user_id: str,
    model: type[Base],
    read: type[BaseModel],
    *,
    by: str,
    after: object = None,
    limit: int,
    extra: tuple[str, ...] = (),
) -> list[asyncpg.Record]:
    """The user's rows beyond `after` in the order of `by`: JSON text, `by`, and the columns `extra`."""
    statement = _read_statement(model, read, (), after=after is not None, newest=False, extra=extra, by=by)
    return await _fetch(user_id, statement, {"after": after, "limit": limit})


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
    metrics.EVENTS_READ.inc(len(rows))
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
    _telling: bool = False
    _hooking: bool = False
    _reply: Response | None = None
    _reply_is_secret: bool = False

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

    # Sealed columns

    def seal(self, model: type[Base], column: str, row_id: UUID, plaintext: bytes) -> bytes:
        """The value encrypted for exactly this column of the user's row."""
        return vault().seal(plaintext, **self._place(model, column, row_id))

    def unseal(self, model: type[Base], column: str, row_id: UUID, sealed: bytes) -> bytes:
        """What `seal` has encrypted. Raises infra.vault.Unsealable."""
        return vault().unseal(sealed, **self._place(model, column, row_id))

    def _place(self, model: type[Base], column: str, row_id: UUID) -> dict[str, str]:
        return {"table": model.__tablename__, "column": column, "row": str(row_id), "user": self.user_id}

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
        if len(text) > DATA_BYTES // 4 and len(text.encode()) > DATA_BYTES:
            text = '{"truncated":true}'
        if resource[0] == "run":
            run_id = cast("UUID", resource[1])
        fields = (str(uuid7()), kind, None if run_id is None else str(run_id), resource[0], str(resource[1]))
        self._events.append(", ".join(map(_literal, (*fields, self.actor, text))))
        self._telling |= not kind.startswith("delivery.")  # a webhook is never told of deliveries
        self._hooking |= resource[0] == "webhook"

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
        location = f"/api/{model.collection()}/{new['id']}"
        self._log(event, model, new["id"], shape, rows[0][0])
        return self.reply(rows[0][0], status, location, etag=_tag(model, rows[0], 1))

    async def update(
        self,
        model: type[Base],
        shape: type[BaseModel],
        id: UUID | str,
        body: BaseModel | None = None,
        **values: object,
    ) -> Response:
        """Set exactly the fields sent and `values`, log it, and answer with the row. Raises NoResultFound.

        Where nothing was sent, nothing changes and nothing is logged.
        """
        given = (body.model_dump(exclude_unset=True) if body else {}) | values
        if not given:
            return await self._show(model, shape, id)
        rows = await self._write("update", model, shape, given, {"id": id})
        if not rows:
            raise NoResultFound
        self._log("updated", model, id, shape, rows[0][0])
        return self.reply(rows[0][0], etag=_tag(model, rows[0], 1))

    async def delete(self, model: type[Base], id: UUID) -> Response:
        """Delete the row, log its id and name, and answer with nothing. Raises NoResultFound."""
        gone = await self.remove(model, id=id)
        if not gone:
            raise NoResultFound
        told = {name: getattr(gone[0], name) for name in ("name",) if name in _table(model).c}
        self.emit(f"{model.resource()}.deleted", (model.resource(), id), {"id": str(id), **told})
        return self.reply("null")

    async def _show(self, model: type[Base], shape: type[BaseModel], id: UUID | str) -> Response:
        statement = _show_statement(model, shape)
        asked = {"me": self.user_id, "where_id": id, "limit": 1}
        rows = await self.connection.fetch(statement.sql, *statement.values(asked))
        if not rows:
            raise NoResultFound
        return self.reply(rows[0][0], etag=_tag(model, rows[0], 2))

    def _log(self, event: str, model: type[Base], id: object, shape: type[BaseModel], text: str) -> None:
        """Emit the row's wire form, or the smaller shape that its schema is `logged_as`."""
        logged_as: type[BaseModel] | None = getattr(shape, "logged_as", None)
        if logged_as is not None:
            whole = orjson.loads(text)
            text = orjson.dumps({name: whole[name] for name in logged_as.model_fields}).decode()
        self.emit(f"{model.resource()}.{event}", (model.resource(), id), text)

    def reply(
        self,
        data: str | BaseModel,
        status: int = 200,
        location: str | None = None,
        *,
        secret: bool = False,
        etag: str | None = None,
    ) -> Response:
        """The answer of this transaction, kept for repeats under the same `Idempotency-Key`.

        One that shows a `secret` is kept encrypted.
        """
        given = {"Location": location, "ETag": etag}
        headers = {name: value for name, value in given.items() if value}
        self._reply, self._reply_is_secret = envelope(data, status=status, headers=headers), secret
        return self._reply

    # The end

    def _commit_message(self, idempotency: Idempotency | None) -> str:
        """Every value is an escaped literal: several statements in one message take no parameters."""
        parts = []
        if idempotency is not None:
            if self._reply is None:
                raise RuntimeError("a transaction with an Idempotency-Key must make its reply")
            body = bytes(self._reply.body)
            if self._reply_is_secret:
                sealed = vault().seal(body, **_reply_place(self.user_id, idempotency.key))
                kept = f"sealed_reply = decode('{sealed.hex()}', 'hex')"
            else:
                kept = f"reply = {_literal(body.decode())}"
            location, etag = (_literal(self._reply.headers.get(name)) for name in ("location", "etag"))
            parts.append(
                f"update idempotency_keys set status = {self._reply.status_code:d}, {kept}, "  # noqa: S608
                f"location = {location}, etag = {etag} where user_id = {_literal(self.user_id)} "
                f"and key = {_literal(idempotency.key)}"
            )
        if self._events:
            count = len(self._events)
            hook = ", hooked = true" if self._hooking else ""
            tell = "count(tell_webhooks(user_id, last_seq))" if self._telling else "count(*)"
            rows = ", ".join(f"({n}, {event})" for n, event in enumerate(self._events, 1))
            parts.append(
                "with head as (insert into streams as s (user_id, last_seq, hooked) "  # noqa: S608
                f"values ({_literal(self.user_id)}, {count}, {self._hooking}) "
                f"on conflict (user_id) do update set last_seq = s.last_seq + {count}{hook} "
                "returning user_id, last_seq, hooked), "
                f"told as (select {tell} from head where hooked) "
                "insert into events "
                "(user_id, seq, id, kind, run_id, resource_type, resource_id, actor, data) "
                f"select user_id, last_seq - {count} + n, e.id::uuid, kind, run_id::uuid, "
                "type, resource, actor, data::json from head, told, "
                f"(values {rows}) e(n, id, kind, run_id, type, resource, actor, data)"
            )
        parts.append("commit")
        return "; ".join(parts)

    async def commit(self, idempotency: Idempotency | None = None) -> None:
        """Log and commit in one message, then publish. The stream's lock is never held over a round trip."""
        if await self.connection.execute(self._commit_message(idempotency)) != "COMMIT":
            raise RuntimeError("the transaction had failed and was rolled back")
        if self._events:
            metrics.EVENTS_PUBLISHED.inc(len(self._events))
        hints = self._hints | ({(f"user:{self.user_id}", b"")} if self._events else set())
        if self._telling:
            hints.add(("logged", b""))
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
        "set fingerprint = excluded.fingerprint, status = null, reply = null, sealed_reply = null, "
        "location = null, etag = null, created_at = now() "
        "where idempotency_keys.created_at < now() - interval '24 hours'"
    )
    try:
        tag = await connection.execute(f"{begin}; set local lock_timeout = '2s'; {take}")
    except asyncpg.LockNotAvailableError as error:
        raise KeyBusy("the first request with this Idempotency-Key still runs") from error
    if tag != "INSERT 0 0":
        return
    stored = await connection.fetchrow(
        "select fingerprint, status, location, etag, reply, sealed_reply from idempotency_keys "
        "where user_id = $1 and key = $2",
        user_id,
        wanted.key,
    )
    if stored is not None and stored["fingerprint"] != wanted.fingerprint:
        raise KeyReused("this Idempotency-Key belongs to another request")
    if stored is None or stored["status"] is None:
        raise KeyBusy("the first request with this Idempotency-Key may have landed; look before repeating")
    headers = {"Idempotency-Replayed": "true"}
    kept = {"Location": stored["location"], "ETag": stored["etag"]}
    headers |= {name: value for name, value in kept.items() if value}
    reply = stored["reply"]
    if stored["sealed_reply"] is not None:
        try:
            reply = vault().unseal(stored["sealed_reply"], **_reply_place(user_id, wanted.key))
        except Unsealable as error:
            raise KeyBusy("the first request was answered, but its reply cannot be read any more") from error
    raise Repeat(Response(reply, stored["status"], headers, "application/json"))


def vault() -> Vault:
    """What seals values at rest in this process."""
    if (ring := _database().vault) is None:
        raise RuntimeError("the database was opened without a vault")
    return ring


def _reply_place(user_id: str, key: str) -> dict[str, str]:
    return {"table": "idempotency_keys", "column": "sealed_reply", "row": key, "user": user_id}


async def do_once(
    user_id: str, wanted: Idempotency | None, work: Callable[[], Awaitable[BaseModel]]
) -> Response:
    """The enveloped outcome of work outside the database, under a key that is committed first.

    A repeat after a crash or MayHaveLanded is KeyBusy, never a second try; work that fails cleanly frees its
    key.
    """
    if wanted is None:
        return envelope(await work())
    database = _database()
    async with database.lease() as connection:
        await _begin_once(connection, _begin(database, user_id), user_id, wanted)
        await connection.execute("commit")
    try:
        reply = envelope(await work())
    except MayHaveLanded:
        raise
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


@dataclass(frozen=True, slots=True)
class Standing:
    """What the database knows of a user: whether to let in, and as what.

    `signed_in` is whether the embedded issuer's session goes on; `verified_email` is an address that the
    issuer has verified.
    """

    erased: bool
    disabled: bool
    signed_in: bool
    role: str
    verified_email: str | None
    requests_per_minute: int | None


async def ensure_user(user_id: str, session_id: UUID | None = None, **profile: str | None) -> Standing:
    """How the user stands, in one round trip; made on first sight, but never again once erased."""
    values = (profile.get(name) for name in ("email", "name", "image_url"))
    rows = await _ask("select * from ensure_user($1, $2, $3, $4, $5)", user_id, session_id, *values)
    return Standing(**rows[0])


@dataclass(frozen=True, slots=True)
class FoundKey:
    """An API key as it is now, and how its user stands."""

    user_id: str
    id: UUID
    key_hash: bytes
    scopes: list[str]
    expires_at: datetime | None
    erased: bool
    disabled: bool
    requests_per_minute: int | None


async def find_keys(key_hash: bytes) -> list[FoundKey]:
    """The API keys with this hash, whoever's, in one round trip; remembers that they were used."""
    return [FoundKey(**row) for row in await _ask("select * from find_key($1)", key_hash)]


async def heads(user_ids: Iterable[str]) -> dict[str, int]:
    """The newest `seq` of each user, for hubs that look for lost hints."""
    async with as_system() as tx:
        rows = await tx.connection.fetch(
            "select user_id, last_seq from streams where user_id = any($1)", list(user_ids)
        )
    return {row["user_id"]: row["last_seq"] for row in rows}


async def run_counts() -> tuple[dict[str, int], float]:
    """All users' runs by status, and seconds the oldest run that is due has waited in the queue."""
    async with as_system() as tx:
        rows = await tx.connection.fetch(
            "select status, count(*) as runs, coalesce(extract(epoch from clock_timestamp() - min(run_after)"
            " filter (where status = 'queued' and run_after <= clock_timestamp())), 0)::float8 as age"
            " from runs group by status"
        )
    return {row["status"]: row["runs"] for row in rows}, max((row["age"] for row in rows), default=0.0)


# Recordings ---------------------------------------------------------------------------------------


async def clock_lead() -> timedelta:
    """How far PostgreSQL's clock, which dates events, is ahead of this machine's: nothing, if that may be."""
    async with _database().lease() as connection:
        before = datetime.now(UTC)
        theirs: datetime = await connection.fetchval("select clock_timestamp()")
        return sorted((theirs - datetime.now(UTC), timedelta(), theirs - before))[1]


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


# Keys at rest -------------------------------------------------------------------------------------

SEALED = (
    (SigningKey, "private_key"),
    (IdempotencyKey, "sealed_reply"),
    (Profile, "state"),
    (Run, "checkpoint"),
    (Secret, "sealed"),
    (Webhook, "secret"),
    (Webhook, "old_secret"),
)
"""Every column that the vault seals."""


async def reseal(model: type[Base], column: str) -> tuple[int, int]:
    """Seal with the newest key what older keys have sealed; returns how many were, and how many cannot be.

    It may run beside servers: a value that is written meanwhile is left to its writer.
    """
    ring, done, lost = vault(), 0, 0
    keys = [key.name for key in _table(model).primary_key]
    after = None
    while True:
        async with as_system() as tx:
            statement = _sealed_statement(model, column, begun=after is not None)
            given = {"version": ring.version, **(after or {})}
            rows = await tx.connection.fetch(statement.sql, *statement.values(given))
            for row in rows:
                key = {name: row[name] for name in keys}
                place = {"table": model.__tablename__, "column": column, "user": key.get("user_id", "")}
                place["row"] = str(key.get("id", key.get("key")))
                try:
                    sealed = ring.seal(ring.unseal(row[column], **place), **place)
                except Unsealable:
                    lost += 1
                    continue
                tx.user_id = place["user"]
                values = {**row, column: sealed}
                done += len(await tx.change(model, key | {column: row[column]}, **values))
                tx.user_id = ""
        if not rows:
            return done, lost
        after = {f"after_{name}": rows[-1][name] for name in keys}


@lru_cache
def _sealed_statement(model: type[Base], column: str, *, begun: bool) -> Statement:
    table = _table(model)
    keys = list(table.primary_key)
    unchanged = [table.c.updated_at] if "updated_at" in table.c else []
    chosen = select(*keys, table.c[column], *unchanged).where(
        func.substr(table.c[column], 1, len(vault().version)) != bindparam("version", type_=LargeBinary)
    )
    if begun:
        last = tuple_(*(bindparam(f"after_{key.name}", type_=key.type) for key in keys))
        chosen = chosen.where(tuple_(*keys) > last)
    return Statement(chosen.order_by(*keys).limit(RESEALED_AT_ONCE))
