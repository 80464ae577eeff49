"""The web app as people meet it: the real proxy before the real server, started as `make run` does."""

import asyncio
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import ROOT, copy_database

PICTURES = ROOT / "test-results" / "web"


@dataclass
class WebApp:
    """`serve.py` with its own data directory."""

    data: Path
    port: int
    web_port: int
    extra: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    said: str = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.web_port}"

    async def start(self, seconds: float = 90) -> None:
        """Return once it has said where to open it."""
        self.data.mkdir(parents=True, exist_ok=True)
        await copy_database(self.data)
        ports = {"PORT": str(self.port), "WEB_PORT": str(self.web_port), "DATA_DIR": str(self.data)}
        self.process = await asyncio.create_subprocess_exec(
            *(sys.executable, "serve.py"),
            cwd=ROOT,
            env={**os.environ, **ports, **self.extra},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        self._reading = asyncio.create_task(self._read(self.process.stdout))
        try:
            async with asyncio.timeout(seconds):
                while f"Open {self.url}" not in self.said:
                    assert not self._reading.done(), self.said
                    await asyncio.sleep(0.05)
        except BaseException:
            await self.stop()
            raise

    async def _read(self, stream: asyncio.StreamReader | None) -> None:
        assert stream is not None
        while line := await stream.readline():
            self.said += line.decode()

    async def stop(self) -> int:
        """End it as Ctrl-C does; returns its exit code."""
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGINT)
        code = await asyncio.wait_for(self.process.wait(), 60)
        await self._reading
        return code
