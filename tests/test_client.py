"""A generator makes a client of the OpenAPI document, which is strictly typed and works."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conformance import DOCUMENT
from tests.conftest import ROOT, Backend

BYTES = ("image/jpeg", "application/zip", "*/*")
OPTIONS = {"post_hooks": [], "content_type_overrides": dict.fromkeys(BYTES, "application/octet-stream")}


def run(*command: str, cwd: Path) -> str:
    """What a program of the environment says; it must end well."""
    done = subprocess.run(
        [sys.executable, *command], cwd=cwd, capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the client and the session that uses it."""
    place = tmp_path_factory.mktemp("generated")
    (place / "options.json").write_text(json.dumps(OPTIONS))
    command = ["-m", "openapi_python_client", "generate", "--fail-on-warning", "--meta", "none"]
    command += [
        "--config",
        "options.json",
        "--path",
        str(ROOT / "docs/openapi.json"),
        "--output-path",
        "cua_client",
    ]
    told = run(*command, cwd=place)
    assert "arning" not in told, told
    shutil.copy(ROOT / "tests/client_session.py", place / "client_session.py")
    return place


def test_no_operation_is_left_out(generated: Path) -> None:
    made = {path.stem for path in (generated / "cua_client/api").glob("*/*.py")} - {"__init__"}
    assert made == {
        operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()
    }


def test_it_is_strictly_typed(generated: Path) -> None:
    run("-m", "mypy", "--strict", "--config-file=", "cua_client", "client_session.py", cwd=generated)


async def test_a_session_works_with_it(generated: Path, server: Backend) -> None:
    run("-W", "error", "client_session.py", server.url, cwd=generated)
