"""The private PostgreSQL: creation, sharing, crashes, adoption, and every refusal, with real servers."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from infra import postgres
from infra.postgres import PostgresUnavailable, Server
from settings import settings

PROJECT = Path(__file__).parent.parent
DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")
NOBODY = 65534
only_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")

USER_OF_IT = """
import asyncio, sys
from pathlib import Path
from infra import postgres

async def main():
    server = await postgres.start(Path(sys.argv[1]))
    print("dsn", server.dsn, flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    await postgres.stop(server)

asyncio.run(main())
"""

ORDINARY_USER = """
import asyncio, os, sys
from pathlib import Path
import asyncpg
from infra import postgres

async def main():
    mine, foreign, closed = (Path(argument) for argument in sys.argv[1:])
    server = await postgres.start(foreign)
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
    ours = await postgres.start(mine)
    connection = await asyncpg.connect(ours.dsn)
    assert await connection.fetchval("select current_user") == "cua"
    await connection.close()
    await postgres.stop(ours)
    for refused in (foreign, closed):
        try:
            await postgres.start(refused)
        except postgres.PostgresUnavailable as error:
            assert "Permission denied" in str(error) and "DATA_DIR" in str(error), error
        else:
            raise AssertionError(refused)
    server.claim.close()

asyncio.run(main())
"""


def postmaster(home: Path) -> int:
    return int((home / "cluster/postmaster.pid").read_text().split()[0])


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every account may enter; whatever still runs below it is ended."""
    with tempfile.TemporaryDirectory(prefix="cua-test-") as name:
        place = Path(name)
        place.chmod(0o755)
        yield place
        for home in place.rglob("postgres"):
            if not (home / "start.lock").exists():
                continue
            if postgres._alive(home):
                os.kill(postmaster(home), signal.SIGQUIT)
            if home.is_symlink():
                shutil.rmtree(home.resolve())


@asynccontextmanager
async def running(data_dir: Path) -> AsyncIterator[Server]:
    server = await postgres.start(data_dir)
    try:
        yield server
    finally:
        await postgres.stop(server)


async def query(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def second_process(
    data_dir: Path, **environment: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """Another process that uses the database until its stdin says a line; yields its dsn."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", USER_OF_IT, str(data_dir)),
        cwd=PROJECT,
        env=os.environ | environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            while not (line := await process.stdout.readline()).startswith(b"dsn "):
                assert line, "the second process ended early"
        yield line.decode().split()[1], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def leave(process: asyncio.subprocess.Process) -> None:
    async with asyncio.timeout(30):
        await process.communicate(b"\n")
    assert process.returncode == 0


@pytest.fixture(scope="module")
async def made(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """A data directory whose database was made and stopped, to be copied."""
    data = tmp_path_factory.mktemp("made") / "data"
    await postgres.stop(await postgres.start(data))
    yield data
    shutil.rmtree((data / "postgres").resolve())


@pytest.fixture
def data_dir(place: Path, made: Path) -> Path:
    """A data directory with a database of its own that does not run."""
    (place / "data").mkdir()
    subprocess.run(["cp", "-a", f"{made}/postgres/.", place / "data/postgres"], check=True, timeout=60)
    return place / "data"


async def test_a_fresh_start_gives_a_plain_role_that_owns_its_database(place: Path) -> None:
    async with running(place / "data") as server:
        connection = await asyncpg.connect(server.dsn)
        role = await connection.fetchrow("select * from pg_roles where rolname = current_user")
        assert role
        assert role["rolname"] == "cua"
        powers = ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication")
        assert [role[power] for power in powers] == [False] * 5
        await connection.execute("drop schema public cascade; create schema public; create table t (id int)")
        shown = {name: await connection.fetchval(f"show {name}") for name in ("listen_addresses", "timezone")}
        assert shown == {"listen_addresses": "", "timezone": "UTC"}
        assert (
            await connection.fetchval("select lower('ÉÄ') || current_setting('server_encoding')") == "éäUTF8"
        )
        await connection.close()


async def test_only_we_can_reach_its_files_and_its_socket(place: Path) -> None:
    async with running(place / "data") as server:
        for name in ("passwords.json", "postgres.log", "start.lock", "users.lock", "server.lock"):
            assert stat.S_IMODE((server.home / name).stat().st_mode) == 0o600, name
        for name in ("cluster", "run", "run/.s.PGSQL.5432"):
            assert stat.S_IMODE((server.home / name).stat().st_mode) == 0o700, name
        assert "cua:" not in repr(server)
        assert not (server.home / "initdb.password").exists()


async def test_nobody_enters_without_the_password(data_dir: Path) -> None:
    async with running(data_dir) as server:
        host = server.dsn.split("?")[1]
        for dsn in (
            f"postgresql://cua:guess@/cua?{host}",
            f"postgresql://postgres:guess@/postgres?{host}",
            f"postgresql://postgres:@/postgres?{host}",
        ):
            with pytest.raises(asyncpg.InvalidPasswordError):
                await query(dsn, "select 1")


async def test_a_restart_keeps_what_was_written(data_dir: Path) -> None:
    async with running(data_dir) as server:
        await query(server.dsn, "create table t as select 42 as n")
        home = server.home
    assert not postgres._alive(home)
    async with running(data_dir) as server:
        assert await query(server.dsn, "select n from t") == 42


async def test_sqlalchemy_takes_the_same_address_whatever_the_environment_says(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGHOST", "nowhere.invalid")
    monkeypatch.setenv("PGPORT", "6666")
    async with running(data_dir) as server:
        engine = create_async_engine(server.dsn.replace("postgresql:", "postgresql+asyncpg:"))
        async with engine.connect() as connection:
            assert (await connection.execute(text("select current_database()"))).scalar_one() == "cua"
        await engine.dispose()


async def test_starts_at_the_same_moment_make_one_database(place: Path) -> None:
    servers = await asyncio.gather(*(postgres.start(place / "data") for _ in range(3)))
    try:
        begun = {await query(server.dsn, "select pg_postmaster_start_time()") for server in servers}
        assert len(begun) == 1
    finally:
        for server in servers:
            await postgres.stop(server)
    assert not postgres._alive(servers[0].home)


async def test_two_processes_share_it_and_the_last_one_out_stops_it(data_dir: Path) -> None:
    server = await postgres.start(data_dir)
    await query(server.dsn, "create table t as select 42 as n")
    async with second_process(data_dir) as (dsn, process):
        assert dsn == server.dsn
        await postgres.stop(server)
        assert await query(dsn, "select n from t") == 42
        await leave(process)
    assert not postgres._alive(server.home)


async def test_a_process_that_leaves_first_disturbs_nobody(data_dir: Path) -> None:
    async with second_process(data_dir) as (_, process), running(data_dir) as server:
        await leave(process)
        assert await query(server.dsn, "select 1") == 1
    assert not postgres._alive(server.home)


async def test_it_outlives_a_killed_process_and_is_adopted(data_dir: Path) -> None:
    async with second_process(data_dir) as (dsn, process):
        await query(dsn, "create table t as select 42 as n")
        begun = await query(dsn, "select pg_postmaster_start_time()")
        os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
    async with running(data_dir) as server:
        assert await query(server.dsn, "select pg_postmaster_start_time()") == begun
        assert await query(server.dsn, "select n from t") == 42
    assert not postgres._alive(server.home)


async def test_a_killed_postgres_recovers_what_was_committed(data_dir: Path) -> None:
    server = await postgres.start(data_dir)
    await query(server.dsn, "create table t as select n from generate_series(1, 1000) n")
    os.kill(postmaster(server.home), signal.SIGKILL)
    async with running(data_dir) as again:
        assert again.dsn == server.dsn
        assert await query(again.dsn, "select count(*) from t") == 1000
        assert "not properly shut down" in (again.home / "postgres.log").read_text()
    await postgres.stop(server)


async def test_while_it_is_kept_a_killed_postgres_comes_back_for_those_who_use_it(data_dir: Path) -> None:
    async with running(data_dir) as server:
        keeping = asyncio.create_task(postgres.keep(server))
        await query(server.dsn, "create table t as select 42 as n")
        for _ in range(2):
            dead = postmaster(server.home)
            os.kill(dead, signal.SIGKILL)
            async with asyncio.timeout(20):
                while True:
                    try:
                        assert await query(server.dsn, "select n from t") == 42
                        break
                    except (OSError, asyncpg.PostgresError):
                        await asyncio.sleep(0.05)
            assert postmaster(server.home) != dead
        keeping.cancel()


async def test_a_stranger_with_the_pid_of_a_dead_postgres_is_no_obstacle_and_comes_to_no_harm(
    data_dir: Path,
) -> None:
    server = await postgres.start(data_dir)
    pid_file = server.home / "cluster/postmaster.pid"
    pid, *rest = pid_file.read_text().splitlines()
    os.kill(int(pid), signal.SIGKILL)
    await postgres._until_gone(server.home, 20)
    account = postgres._account(server.home)
    stranger = await asyncio.create_subprocess_exec("sleep", "60", **account._asdict())
    try:
        pid_file.write_text("\n".join([str(stranger.pid), *rest]))
        await postgres.stop(server)
        pid_file.write_text("\n".join([str(stranger.pid), *rest]))
        async with running(data_dir) as server:
            assert await query(server.dsn, "select 1") == 1
        assert stranger.returncode is None
    finally:
        stranger.kill()
        await stranger.wait()


async def test_a_half_made_cluster_is_made_anew(place: Path) -> None:
    (place / "data/postgres").mkdir(parents=True)
    (place / "data/postgres/cluster.partial").mkdir()
    (place / "data/postgres/cluster.partial/PG_VERSION").write_text("18")
    async with running(place / "data") as server:
        assert await query(server.dsn, "select 1") == 1


async def test_a_postgres_that_cannot_start_says_why(data_dir: Path) -> None:
    async with running(data_dir) as server:
        pass
    with (server.home / "cluster/postgresql.conf").open("a") as file:
        file.write("nonsense = 1\n")
    with pytest.raises(PostgresUnavailable, match='unrecognized configuration parameter "nonsense"'):
        await postgres.start(data_dir)


async def test_a_cluster_of_another_version_is_refused_with_advice(data_dir: Path) -> None:
    async with running(data_dir) as server:
        version = server.home / "cluster/PG_VERSION"
    version.write_text("14\n")
    with pytest.raises(PostgresUnavailable, match=r"made by PostgreSQL 14 but .* POSTGRES_BIN"):
        await postgres.start(data_dir)


async def test_lost_passwords_are_named_and_no_second_database_is_made(data_dir: Path) -> None:
    async with running(data_dir) as server:
        pass
    (server.home / "passwords.json").unlink()
    with pytest.raises(PostgresUnavailable, match=r"passwords\.json.* is missing"):
        await postgres.start(data_dir)
    (server.home / "passwords.json").write_text('{"postgres": "wrong", "cua": "wrong"}')
    with pytest.raises(PostgresUnavailable, match=r"password authentication failed.*passwords\.json"):
        await postgres.start(data_dir)


@pytest.mark.parametrize("name", ["x" * 120, "a,b 'c' ü"])
async def test_any_name_of_the_data_directory_works(place: Path, name: str) -> None:
    async with running(place / name / "data") as server:
        assert await query(server.dsn, "select 1") == 1
        sockets = postgres._socket_dir(server.home)
        assert sockets.parent == Path("/tmp")
        assert stat.S_IMODE(sockets.stat().st_mode) == 0o700
    assert not sockets.exists()


@pytest.mark.parametrize("fault", ["open to others", "a link", "another owner"])
async def test_a_socket_directory_that_others_control_is_refused(place: Path, fault: str) -> None:
    async with running(place / ("x" * 120)) as server:
        pass
    sockets = postgres._socket_dir(server.home)
    owner = (server.home / "cluster").stat()
    if fault == "a link":
        sockets.symlink_to(server.home / "cluster")
    else:
        sockets.mkdir(0o700)
        sockets.chmod(0o770 if fault == "open to others" else 0o700)
        if os.geteuid() == 0:
            other = NOBODY if fault == "another owner" else owner.st_uid
            os.chown(sockets, other, other)
        elif fault == "another owner":
            pytest.skip("only root can be somebody else")
    try:
        with pytest.raises(PostgresUnavailable, match="another user's"):
            await postgres.start(place / ("x" * 120))
    finally:
        sockets.unlink() if fault == "a link" else sockets.rmdir()


async def test_the_log_is_put_aside_when_it_has_grown(data_dir: Path) -> None:
    async with running(data_dir) as server:
        pass
    (server.home / "postgres.log").write_bytes(b"x" * (2 << 20))
    async with running(data_dir):
        assert (server.home / "postgres.log").stat().st_size < 10_000
        assert (server.home / "postgres.log.1").stat().st_size == 2 << 20


async def test_a_postgres_that_will_not_stop_fast_is_stopped_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres, "STOP_SECONDS", {signal.SIGTERM: 0.2, signal.SIGQUIT: 5})
    server = await postgres.start(data_dir)
    lingering = await asyncpg.connect(server.dsn)
    await postgres.stop(server)
    assert not postgres._alive(server.home)
    lingering.terminate()


async def test_stopping_after_the_files_were_removed_is_quiet(data_dir: Path) -> None:
    server = await postgres.start(data_dir)
    pid = postmaster(server.home)
    shutil.rmtree(data_dir)
    await postgres.stop(server)
    os.kill(pid, signal.SIGQUIT)


async def test_further_databases_belong_to_the_role_and_copy_a_template(data_dir: Path) -> None:
    async with running(data_dir) as server:
        await query(
            await postgres.create_database(server, "template_one"), "create table t as select 42 as n"
        )
        copy = await postgres.create_database(server, "copy_1", template="template_one")
        assert await query(copy, "select n from t") == 42
        await query(copy, "drop table t")
        with pytest.raises(asyncpg.DuplicateDatabaseError):
            await postgres.create_database(server, "copy_1")
        for name in ('x"; drop database cua; --', "", "A", "x" * 64):
            with pytest.raises(ValueError, match="not a plain database name"):
                await postgres.create_database(server, name)


@pytest.mark.skipif(not DEBIAN_15.exists(), reason="PostgreSQL 15 is not installed")
async def test_programs_of_postgresql_15_serve_as_well(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "settings", settings.model_copy(update={"postgres_bin": str(DEBIAN_15)}))
    async with running(place / "data") as server:
        await query(server.dsn, "create table t as select 42 as n")
        assert str(await query(server.dsn, "show server_version")).startswith("15.")
    async with running(place / "data") as server:
        assert await query(server.dsn, "select n || lower('É') from t") == "42é"


async def test_wrong_programs_are_refused_by_name(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres, "settings", settings.model_copy(update={"postgres_bin": str(place)}))
    with pytest.raises(PostgresUnavailable, match=r"POSTGRES_BIN is .* no program named postgres"):
        await postgres.start(place / "data")
    (place / "postgres").write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 14.9'\n")
    (place / "postgres").chmod(0o755)
    with pytest.raises(PostgresUnavailable, match="holds PostgreSQL 14; 15 or newer"):
        await postgres.start(place / "data")


@only_root
async def test_root_runs_it_as_somebody_else_even_below_private_directories(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(0o700)
    async with running(closed / "data") as server:
        await query(server.dsn, "create table t as select 42 as n")
        assert (server.home / "cluster").stat().st_uid != 0
        assert server.home.parent == Path("/var/lib/cua")
    async with running(closed / "data") as server:
        assert await query(server.dsn, "select n from t") == 42


@pytest.fixture
def private_wheel(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation whose files nobody else may read, as a strict umask leaves it."""
    wheel = postgres._find_programs().parent.parent
    private = place / "private" / wheel.name
    private.mkdir(parents=True)
    for source, target in (
        (wheel / "__init__.py", private),
        (wheel / "pginstall18", private),
        (wheel.with_suffix(".libs"), private.parent),
    ):
        subprocess.run(["cp", "-a", source, target], check=True, timeout=60)
    subprocess.run(["chmod", "-R", "go-rwx", private.parent], check=True, timeout=60)
    monkeypatch.syspath_prepend(private.parent)


@only_root
@pytest.mark.usefixtures("private_wheel")
async def test_root_copies_programs_that_others_may_not_reach(place: Path) -> None:
    for _ in range(2):
        async with running(place / "data") as server:
            assert await query(server.dsn, "select 1") == 1
            copies = list(server.home.glob("programs-*"))
            assert len(copies) == 1
            program = (server.home / "cluster/postmaster.opts").read_text()
            assert program.startswith(str(copies[0]))


@only_root
async def test_a_cluster_given_to_root_is_refused(data_dir: Path) -> None:
    async with running(data_dir) as server:
        owner = (server.home / "cluster").stat()
    os.chown(server.home / "cluster", 0, 0)
    with pytest.raises(PostgresUnavailable, match="belongs to root"):
        await postgres.start(data_dir)
    os.chown(server.home / "cluster", owner.st_uid, owner.st_gid)


@only_root
async def test_an_ordinary_user_has_a_database_of_their_own_and_no_other(place: Path) -> None:
    mine, closed = place / "mine", place / "closed"
    mine.mkdir()
    os.chown(mine, NOBODY, NOBODY)
    closed.mkdir(0o700)
    arguments = [str(mine), str(place / "data"), str(closed / "data")]
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", ORDINARY_USER, *arguments],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert (mine / "postgres/cluster").stat().st_uid == NOBODY
    assert not postgres._alive(mine / "postgres")
