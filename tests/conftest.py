"""Real parts for tests: an embedded PostgreSQL in this process, and a whole server in one of its own."""

import asyncio
import contextlib
import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

_DATA = Path(tempfile.mkdtemp(prefix="cua-test-"))
_DATA.chmod(0o711)  # the account that PostgreSQL runs as may pass through
_ISSUERS = ("CLERK_ISSUER", "CLERK_PUBLISHABLE_KEY", "SUPABASE_URL", "OIDC_ISSUERS")
_CHOSEN = (
    "DATABASE_URL",
    "REDIS_URL",
    "SECRET_KEYS",
    "SMTP_URL",
    "FILES_URL",
    "CLERK_WEBHOOK_SIGNING_SECRET",
)
_LIMITS = ("RATE_LIMIT", "SIGN_IN_LIMIT", "REFRESH_LIMIT", "AUTH_FAILURE_LIMIT")
for _name in (*_CHOSEN, *_ISSUERS):
    os.environ.pop(_name, None)
os.environ |= {"DATA_DIR": str(_DATA / "own"), "ALLOW_PRIVATE_NETWORK": "1", "LOG_LEVEL": "warning"}
os.environ |= dict.fromkeys(_LIMITS, "off")

import httpx  # noqa: E402 - settings are read at import
import pytest  # noqa: E402
import structlog  # noqa: E402

import db  # noqa: E402
from infra import postgres  # noqa: E402
from infra.bus import LocalBus  # noqa: E402
from infra.vault import load_vault  # noqa: E402
from settings import settings  # noqa: E402
from tests import conformance, make  # noqa: E402
from tests.obedient import obedient  # noqa: E402, F401 - a fixture
from tests.workers import idle, new_user, one_chromium, site, unrecorded, vault, worker  # noqa: E402, F401 - fixtures

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session", autouse=True)
def _data_directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    yield
    for link in (*_DATA.rglob("postgres"), *tmp_path_factory.getbasetemp().rglob("postgres")):
        if link.is_symlink():  # root's databases below a closed directory live elsewhere
            shutil.rmtree(link.resolve(), ignore_errors=True)
    shutil.rmtree(_DATA, ignore_errors=True)


@pytest.fixture(autouse=True)
def _every_log_line() -> None:
    """The application logs as its settings say; tests look at every line."""
    structlog.reset_defaults()


# In this process ----------------------------------------------------------------------------------


@pytest.fixture(scope="session")
async def postgres_server() -> AsyncIterator[postgres.Server]:
    """The embedded PostgreSQL of this test run."""
    server = await postgres.start(settings.data_dir)
    yield server
    await postgres.stop(server)


@pytest.fixture(scope="session")
async def bus() -> AsyncIterator[LocalBus]:
    """The bus on which `database` publishes its commits."""
    local = LocalBus()
    await local.start()
    yield local
    await local.close()


@pytest.fixture(scope="session")
async def dsn(postgres_server: postgres.Server) -> str:
    """A migrated database."""
    await db.migrate(postgres_server.dsn)
    return postgres_server.dsn


@pytest.fixture(scope="session")
async def database(dsn: str, bus: LocalBus) -> AsyncIterator[str]:
    """The module `db`, open on a migrated database; yields its address."""
    await db.open_database(dsn, size=8, publish=bus.publish, vault=load_vault(settings.data_dir, ()))
    yield dsn
    await db.close_database()


@pytest.fixture
async def user(database: str) -> str:
    """The id of a user nobody else has."""
    return await new_user()


@pytest.fixture
async def other_user(database: str) -> str:
    """The id of another user."""
    return await new_user()


# Stand-ins for outside parties ------------------------------------------------------------------


@dataclass(frozen=True)
class Buckets:
    """An S3-speaking server at `url`; it believes any credentials unless told to check them."""

    url: str

    def make(self) -> str:
        """The name of a new, empty bucket."""
        name = f"files-{uuid4().hex}"
        assert httpx.put(f"{self.url}/{name}").status_code == 200
        return name

    def holds(self, bucket: str) -> list[str]:
        """The keys of its objects, and of uploads that were neither finished nor aborted."""
        texts = [httpx.get(f"{self.url}/{bucket}?{what}").text for what in ("list-type=2", "uploads")]
        return sorted(re.findall("<Key>([^<]+)</Key>", "".join(texts)))

    @contextmanager
    def checking_credentials(self) -> Iterator[None]:
        """A time in which it knows nobody."""
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"0").raise_for_status()
        yield
        httpx.post(f"{self.url}/moto-api/reset-auth", content=b"inf").raise_for_status()


@pytest.fixture(scope="session")
def s3() -> Iterator[Buckets]:
    """A server of buckets on loopback."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            buckets = Buckets(f"http://127.0.0.1:{port}")
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and process.poll() is None:
                try:
                    httpx.get(f"{buckets.url}/moto-api/data.json").raise_for_status()
                    break
                except httpx.TransportError:
                    time.sleep(0.05)
            yield buckets
        finally:
            process.kill()


# A server of its own --------------------------------------------------------------------------------


PORTS = 20_000  # below those that systems choose by themselves


def free_port() -> int:
    """A TCP port that nothing on loopback listens on, and that no other process of these tests chooses."""
    number = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", PORTS + number * 1_000 + port % 1_000))
            return int(probe.getsockname()[1])
    raise RuntimeError("there is a port for every number")


_ports = itertools.count(os.getpid() * 37)  # so that another run of the tests begins elsewhere


_copying = asyncio.Lock()


async def copy_database(data: Path) -> None:
    """Give a data directory what a start would make there, which takes longer."""
    if not data.is_relative_to(_DATA):  # root's databases below a closed directory live elsewhere
        return
    made = _DATA / "made"
    async with _copying:
        if not made.exists():
            server = await postgres.start(made)
            await db.migrate(server.dsn)
            await postgres.stop(server)
    copy = await asyncio.create_subprocess_exec("cp", "-a", made / "postgres", data / "postgres")
    assert await copy.wait() == 0


@dataclass
class Backend:
    """A server process with its own data directory; `start` may follow `kill`.

    Its first start finds a migrated, empty database, or none when it is to be `fresh`.
    """

    data: Path
    port: int
    extra: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    fresh: bool = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://127.0.0.1:{self.port}/ws"

    @property
    def log(self) -> str:
        return (self.data / "server.log").read_text(errors="replace")

    async def start(self, *, ready: bool = True) -> None:
        self.data.mkdir(parents=True, exist_ok=True)
        if ready and not (self.fresh or "DATABASE_URL" in self.extra or (self.data / "postgres").exists()):
            await copy_database(self.data)
        environment = {**os.environ, "DATA_DIR": str(self.data), "PORT": str(self.port), **self.extra}
        flags = [
            "--http",
            "infra.server:BoundedHttp",
            "--ws-per-message-deflate",
            "false",
            "--ws-max-size",
            "65536",
            "--no-access-log",
            "--no-server-header",
        ]
        with (self.data / "server.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "uvicorn", "backend_websocket_server:app", "--port", str(self.port)),
                *flags,
                cwd=ROOT,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        if ready:
            await self.until_ready()

    async def until_ready(self, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds), httpx.AsyncClient() as client:
            while True:
                assert self.process is not None
                assert self.process.returncode is None, self.log
                try:
                    if (await client.get(f"{self.url}/api/ready")).status_code == 200:
                        return
                except httpx.TransportError:
                    pass
                await asyncio.sleep(0.05)

    async def stop(self) -> None:
        """SIGTERM, and a clean end."""
        assert await self._end(signal.SIGTERM) in (0, -signal.SIGTERM), self.log
        assert "Application shutdown complete." in self.log.rstrip().splitlines()[-2], self.log

    async def kill(self) -> int:
        """SIGKILL of the server alone, as an operator or the kernel does it."""
        return await self._end(signal.SIGKILL)

    async def _end(self, number: signal.Signals) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(30):
            return await self.process.wait()

    @asynccontextmanager
    async def sign_up(self) -> AsyncIterator[httpx.AsyncClient]:
        """A client of a new user, which sees that each reply is one that the API declares."""
        body = {"email": f"{uuid4().hex}@example.com", "password": "correct horse battery"}
        hooks = {"response": [conformance.check]}
        async with httpx.AsyncClient(base_url=self.url, timeout=30, event_hooks=hooks) as client:
            reply = await client.post("/api/auth/register", json=body)
            assert reply.status_code == 201, reply.text
            client.headers["Authorization"] = f"Bearer {reply.json()['data']['access_token']}"
            yield client


@pytest.fixture(scope="session")
async def _served() -> AsyncIterator[tuple[Backend, httpx.AsyncClient]]:
    backend = Backend(_DATA / "server", free_port(), {"ACCESS_TOKEN_SECONDS": "3600", "MAX_RUNS": "6"})
    await backend.start()
    async with backend.sign_up() as first:
        yield backend, first
    await backend.stop()


@pytest.fixture(scope="session")
async def server(_served: tuple[Backend, httpx.AsyncClient]) -> Backend:
    """One running server for all tests that only talk to it."""
    return _served[0]


@pytest.fixture(scope="session")
async def admin(_served: tuple[Backend, httpx.AsyncClient]) -> httpx.AsyncClient:
    """The administrator of `server`: whose account was its first."""
    return _served[1]


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """An empty data directory for a server of the test's own."""
    path = _DATA / uuid4().hex
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def module_data() -> Iterator[Path]:
    """An empty data directory for a server that the tests of one module share."""
    path = _DATA / uuid4().hex
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def session_data() -> Iterator[Path]:
    """An empty data directory for a server that all tests share."""
    path = _DATA / uuid4().hex
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A short place for temporary files, which the account of browsers may enter."""
    path = Path(tempfile.mkdtemp(prefix="cua-", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
async def own_server(data_dir: Path) -> AsyncIterator[Backend]:
    """A server that the test may kill."""
    backend = Backend(data_dir, free_port(), {"ACCESS_TOKEN_SECONDS": "3600"})
    await backend.start()
    yield backend
    await backend.stop()


@pytest.fixture
async def alice(server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """A signed-in client."""
    async with server.sign_up() as client:
        yield client


@pytest.fixture
async def bob(server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """Another signed-in client."""
    async with server.sign_up() as client:
        yield client


@pytest.fixture(scope="session")
async def owner(server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """Who owns `things`."""
    async with server.sign_up() as client:
        yield client


@pytest.fixture(scope="session")
async def thief(server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """Who should see none of them."""
    async with server.sign_up() as client:
        yield client


@pytest.fixture(scope="session")
async def things(owner: httpx.AsyncClient) -> dict[str, str]:
    """One thing of each kind, by the path it is found under."""
    session = (await owner.get("/api/auth/sessions")).json()["data"][0]
    made = {
        "/api/auth/sessions": session,
        "/api/secrets": await make.secret(owner),
        "/api/profiles": await make.profile(owner),
        "/api/threads": await make.thread(owner),
        "/api/schedules": await make.schedule(owner),
        "/api/keys": await make.key(owner),
        "/api/files": await make.file(owner),
        "/api/computers": await make.computer(owner),
        "/api/workflows": await make.workflow(owner),
        "/api/runs": await make.run(owner),
        "/api/webhooks": await make.webhook(owner),
        "/api/deliveries": await make.delivery(owner),
        "/api/approvals": await make.approval(owner),
    }
    return {path: thing["id"] for path, thing in made.items()}


from tests.web import ada, browser, visitor, web  # noqa: E402, F401 - fixtures that stand on what is above
