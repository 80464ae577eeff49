"""What `make run` starts: the server and the web app beside it, which begin and end together."""

import asyncio
import json
import os
import signal
from pathlib import Path

import httpx
import pytest

import serve
from settings import settings
from tests.conftest import free_port
from tests.web import WebApp


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(each) for each in found]


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def test_both_answer_at_one_address_and_end_together(tmp_path: Path) -> None:
    app = WebApp(tmp_path / "data", free_port(), free_port(), {})
    await app.start()
    assert app.process is not None
    pids = children(app.process.pid)
    async with httpx.AsyncClient(base_url=app.url) as client:
        page = await client.get("/sign-in")
        assert (page.status_code, "text/html" in page.headers["content-type"]) == (200, True)
        assert "script-src 'self' 'nonce-" in page.headers["content-security-policy"]
        assert (await client.get("/api/config")).json()["data"]["auth"]["mode"] == "embedded"
        assert (await client.get("/.well-known/openid-configuration")).json()["issuer"] == app.url
        assert (await client.get("/metrics")).status_code == 404  # which this machine alone may read
    assert await app.stop() == 0
    assert len(pids) == 2
    assert alive(pids) == []


async def test_the_server_knows_who_asks_whatever_they_say(tmp_path: Path) -> None:
    app = WebApp(tmp_path / "data", free_port(), free_port(), {"REGISTRATION": "open"})
    await app.start()
    transport = httpx.AsyncHTTPTransport(
        local_address="127.0.0.2"
    )  # which is not trusted to speak for others
    lie = {"X-Forwarded-For": "192.0.2.1"}
    ann = {"email": "ann@example.com", "password": "correct horse battery"}
    async with httpx.AsyncClient(base_url=app.url, transport=transport, headers=lie) as client:
        text = {"Content-Type": "text/plain"}
        assert (
            await client.post("/session/register", content=json.dumps(ann), headers=text)
        ).status_code == 415
        entered = (await client.post("/session/register", json=ann)).json()
        assert entered.keys() == {"access_token", "expires_in"}
        cookie = next(iter(client.cookies.jar))
        assert (cookie.name, cookie.path, cookie.has_nonstandard_attr("HttpOnly")) == (
            "cua_session",
            "/session",
            True,
        )
        assert (await client.post("/api/auth/login", json=ann)).status_code == 200
        bearer = {"Authorization": f"Bearer {entered['access_token']}"}
        sessions = (await client.get("/api/auth/sessions", headers=bearer)).json()["data"]
        assert [session["address"] for session in sessions] == ["127.0.0.2"] * 2
        renewed = await client.post("/session/refresh", json={})
        assert (renewed.status_code, renewed.json().keys()) == (200, entered.keys())
        assert (await client.post("/session/logout", json={}, headers=bearer)).status_code == 200
        assert (await client.post("/session/refresh", json={})).status_code == 204
        for scheme, secure in (("http", False), ("https", True)):
            entered = await client.post("/session/login", json=ann, headers={"X-Forwarded-Proto": scheme})
            assert ("Secure" in entered.headers["set-cookie"]) is secure
    await app.stop()


def is_web(pid: int) -> bool:
    return "next-server" in Path(f"/proc/{pid}/cmdline").read_text()


def most_memory(pid: int) -> int:
    """What the process has used at most, in MiB."""
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in line]
    return int(line.split()[1]) // 1024


async def test_an_upload_passes_through_the_web_server_without_being_kept_there(tmp_path: Path) -> None:
    app = WebApp(tmp_path / "data", free_port(), free_port(), {"REGISTRATION": "open"})
    await app.start()
    assert app.process is not None
    [web] = [pid for pid in children(app.process.pid) if is_web(pid)]
    ann = {"email": "ann@example.com", "password": "correct horse battery"}
    async with httpx.AsyncClient(base_url=app.url, timeout=60) as client:
        entered = (await client.post("/session/register", json=ann)).json()
        headers = {"Authorization": f"Bearer {entered['access_token']}"}
        before = most_memory(web)
        large = {"file": ("large.bin", bytes(90 * 2**20))}
        kept = await client.post("/api/files", headers=headers, files=large)
        assert (kept.status_code, kept.json()["data"]["size"]) == (201, 90 * 2**20)
        assert most_memory(web) - before < 60
        too_large = {"file": ("larger.bin", bytes(101 * 2**20))}
        refused = await client.post("/api/files", headers=headers, files=too_large)
        assert (refused.status_code, refused.json()["code"]) == (413, "too_large")
    assert await app.stop() == 0


async def test_without_the_server_the_web_app_says_so() -> None:
    port = free_port()
    web = await asyncio.create_subprocess_exec(
        *("node", serve.WEB_APP),
        env=os.environ | {"CUA_API_ORIGIN": f"http://127.0.0.1:{free_port()}", "PORT": str(port)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert web.stdout is not None
    while b"Ready" not in await web.stdout.readline():
        pass
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        reply = await client.get("/api/me")
        assert (reply.status_code, reply.json()["code"]) == (502, "unreachable")
        upgrade = {"Connection": "upgrade", "Upgrade": "websocket"}
        with pytest.raises(httpx.RemoteProtocolError):
            await client.get("/ws", headers=upgrade)
        assert (await client.get("/sign-in")).status_code == 200
    web.terminate()
    await web.wait()


@pytest.mark.parametrize("place", [0, 1])
async def test_when_one_ends_the_other_does_not_stay(place: int, tmp_path: Path) -> None:
    app = WebApp(tmp_path / "data", free_port(), free_port(), {})
    await app.start()
    assert app.process is not None
    pids = children(app.process.pid)
    os.kill(pids[place], signal.SIGKILL)
    assert await app.process.wait() == -signal.SIGKILL % 256
    await app.stop()
    assert alive(pids) == []


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("127.0.0.1", "http://127.0.0.1:80"),
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("cua.local", "http://cua.local:80"),
    ],
)
def test_the_address_from_this_machine(host: str, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(settings.__dict__, "host", host)
    assert serve.from_here(80) == address
