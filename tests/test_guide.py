"""docs/api.md does what it says: its commands are run in order against a server of their own."""

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from tests.conformance import DOCUMENT, operation_of
from tests.conftest import ROOT, Backend
from tests.receivers import receiver

GUIDE = (ROOT / "docs/api.md").read_text()
BLOCKS = re.findall(r"^```(sh|sh fails|python)\n(.+?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
STRICT = """set -euo pipefail
curl() { command curl --fail-with-body --max-time 90 "$@"; }
"""


def script() -> str:
    """The guide as one program of bash; what is to fail has to."""
    parts = [STRICT]
    for number, (kind, text) in enumerate(BLOCKS, 1):
        parts.append(f"echo; echo '== {number}'\n")
        if kind == "sh":
            parts.append(text)
        elif kind == "python":
            parts.append(f"{sys.executable} -W error - <<'PYTHON'\n{text}PYTHON\n")
        else:
            commands = text.replace("\\\n", " ").splitlines()
            parts += (
                f"if {command}; then echo '{number} did not fail'; exit 1; fi\n" for command in commands
            )
    return "".join(parts)


@pytest.mark.skipif(not shutil.which("curl"), reason="needs curl")
async def test_every_command_works(own_server: Backend, tmp_path: Path) -> None:
    async with receiver() as hook:
        settings = {"PAGE": f"{own_server.url}/problems", "HOOK": hook.url}
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"API={own_server.url}\n{script()}"),
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if name not in ("API", "KEY")} | settings,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(110):
            said = (await process.communicate())[0].decode()
        assert process.returncode == 0, said
        heard = await hook.until(1)
    assert b"webhook.test" in heard[0].body
    told = dict(re.findall(r"^== (\d+)\n(.*?)(?=^== |\Z)", said, re.MULTILINE | re.DOTALL))
    assert len(told) == len(BLOCKS)
    for expected in (
        "Travel",
        "succeeded",
        "\nProblems",
        "approved",
        "run.queued",
        '"code":"invalid"',
        "tea,3",
        "image/",
    ):
        assert expected in said, said
    assert (tmp_path / "page.jpg").read_bytes().startswith(b"\xff\xd8")
    assert (tmp_path / "export.zip").read_bytes().startswith(b"PK")


def test_the_guide_names_every_section_and_no_address_that_is_not_there() -> None:
    for tag in DOCUMENT["tags"]:
        if tag["name"] != "ops":
            assert re.search(rf"/api/{tag['name']}\b", GUIDE), tag["name"]
    for method, path in re.findall(r"`(GET|POST|PUT|PATCH|DELETE) (/api/[\w{}/.-]+)`", GUIDE):
        assert operation_of(method, path.replace("{id}", "x")), path
    for link in re.findall(r"\]\((?!http)([\w.-]+)\)", GUIDE):
        assert (ROOT / "docs" / link).exists(), link
