"""How long a warm `make run` takes until it is ready, database included."""

import os
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

from benchmarks.measure import describe_machine

ROOT = Path(__file__).parent.parent


def start_once(data: str) -> float:
    """Seconds from the command to the first ready answer."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "DATA_DIR": data}
    began = time.monotonic()
    process = subprocess.Popen(
        ["make", "--silent", "run", f"PORT={port}"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/ready"):
                    return time.monotonic() - began
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("the server ended before it was ready")
    finally:
        os.killpg(process.pid, signal.SIGINT)
        process.wait()


def main() -> None:
    """One cold start, then five warm ones."""
    print(f"Start: {describe_machine()}")
    with tempfile.TemporaryDirectory() as data:
        Path(data).chmod(0o711)
        print(f"  cold  {start_once(data):.2f} s")
        warm = [start_once(data) for _ in range(5)]
    print(f"  warm  {min(warm):.2f} / {statistics.median(warm):.2f} / {max(warm):.2f} s")


if __name__ == "__main__":
    main()
