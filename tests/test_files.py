"""Files of users: uploaded as forms, told by their bytes, downloaded in ranges and by links."""

import asyncio
import base64
import hashlib
import io
import os
import time
import zipfile
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.requests import Request

import db
from infra import sniff
from infra.bus import LocalBus
from infra.storage import TooLarge, open_directory
from infra.vault import Vault
from models import File, Quota, User
from runs import files
from schemas import clean_file_name
from tests import make
from tests.conftest import Backend, Buckets, free_port
from tests.test_api import assert_problem

MIB = 1 << 20
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
)
HTML = b"<!doctype html><script>alert(document.domain)</script>"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>'


async def kept(server: Backend, client: httpx.AsyncClient) -> list[Path]:
    """What the server's store holds of the client's user, whole or in the making."""
    user_id = (await client.get("/api/me")).json()["data"]["id"]
    place = server.data / "files" / files.place_of(user_id) / "files"
    return sorted(place.iterdir()) if place.exists() else []


async def nothing_is_left(server: Backend, client: httpx.AsyncClient) -> None:
    assert (await client.get("/api/files")).json()["data"] == []
    async with asyncio.timeout(10):
        while await kept(server, client):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def form(*parts: tuple[str, bytes], boundary: str = "b0und") -> bytes:
    """A form of parts, each its headers and its bytes."""
    lines = b"".join(
        b"--%s\r\n%s\r\n\r\n%s\r\n" % (boundary.encode(), head.encode(), data) for head, data in parts
    )
    return lines + b"--%s--\r\n" % boundary.encode()


def named(field: str, file_name: str | None = None, *more: str) -> str:
    name = f'; filename="{file_name}"' if file_name is not None else ""
    return "\r\n".join([f'Content-Disposition: form-data; name="{field}"{name}', *more])


async def send(
    client: httpx.AsyncClient, body: Any, kind: str = "multipart/form-data; boundary=b0und"
) -> httpx.Response:
    return await client.post("/api/files", content=body, headers={"Content-Type": kind})


# In -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5 * MIB, 40 * MIB])
async def test_an_upload_is_kept_byte_for_byte(size: int, alice: httpx.AsyncClient) -> None:
    data = os.urandom(size)
    reply = await alice.post("/api/files", files={"file": ("data.bin", data)})
    assert reply.status_code == 201, reply.text
    made = reply.json()["data"]
    assert made | {"id": "", "created_at": "", "updated_at": "", "content_type": ""} == {
        "id": "",
        "run_id": None,
        "computer_id": None,
        "kind": "upload",
        "name": "data.bin",
        "content_type": "",
        "size": size,
        "sha256": hashlib.sha256(data).hexdigest(),
        "created_at": "",
        "updated_at": "",
    }
    assert reply.headers["location"] == f"/api/files/{made['id']}"
    assert (await alice.get(reply.headers["location"])).json()["data"] == made
    content = await alice.get(f"/api/files/{made['id']}/content")
    assert (content.status_code, hashlib.sha256(content.content).hexdigest()) == (200, made["sha256"])
    event = (await alice.get("/api/events", params={"kind": "file.created"})).json()["data"][-1]
    assert event["data"] == made


async def test_a_form_may_come_in_any_pieces(alice: httpx.AsyncClient) -> None:
    data = b"\r\n--b0un\r\n--b0und?--b0und\r\n-" * 3
    body = form((named("name"), b"renamed.txt"), (named("file", "own.txt", "Content-Type: text/html"), data))

    async def by_byte() -> AsyncIterator[bytes]:
        for position in range(len(body)):
            yield body[position : position + 1]

    for pieces in (body, by_byte()):
        reply = await send(alice, pieces)
        assert reply.status_code == 201, reply.text
        made = reply.json()["data"]
        assert (made["name"], made["content_type"]) == ("renamed.txt", "text/plain")
        assert (await alice.get(f"/api/files/{made['id']}/content")).content == data


async def test_an_upload_whose_key_was_deleted_meanwhile_is_refused(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    key = await make.key(alice, scopes=["run"])
    body = form((named("file", "own.txt"), b"a,b\n"))

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:-10]
        await alice.get("/api/me")  # by now the server reads the body
        assert (await alice.delete(f"/api/keys/{key['id']}")).status_code == 200
        yield body[-10:]

    async with httpx.AsyncClient(base_url=server.url, headers={"X-API-Key": key["key"]}) as sender:
        assert_problem(await send(sender, slowly()), 401, "unauthorized")
    assert (await alice.get("/api/files")).json()["data"] == []


async def test_the_name_may_follow_the_file(alice: httpx.AsyncClient) -> None:
    reply = await send(
        alice, form((named("file", "own.txt"), b"a,b\n"), (named("name"), "späť.csv".encode()))
    )
    assert reply.json()["data"]["name"] == "späť.csv"
    assert reply.json()["data"]["content_type"] == "text/csv"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "cut short"),
        (b"no form at all", "cannot be read"),
        (b"--b0und\r\n", "cut short"),
        (form((named("file", "a"), b"x" * 100))[:-20], "cut short"),
        (form((named("file", "a"), b"x"))[:-6], "cut short"),
        (form(), "file: Exactly one file is needed"),
        (form((named("name"), b"a")), "file: Exactly one file is needed"),
        (form((named("file", "a"), b"x"), (named("file", "b"), b"y")), "file: Exactly one is allowed"),
        (form((named("file", "a"), b"x"), (named("name"), b"b"), (named("name"), b"c")), "name: Exactly one"),
        (form((named("file", "a"), b"x"), (named("kind"), b"screenshot")), "kind: This field is not known"),
        (form((named("file", "a"), b"x"), (named("name"), b"n" * 5000)), "name: At most 4096 bytes"),
        (form((named("file", "a", "Content-Transfer-Encoding: base64"), b"eA==")), "file: Send its bytes"),
        (form(("Content-Type: text/plain", b"x")), "does not say which field"),
        (form(('Content-Disposition: attachment; name="file"', b"x")), "does not say which field"),
        (form((f"X: {'x' * 5000}", b"x")), "header size exceeded"),
        (form(("\r\n".join(f"X{n}: x" for n in range(20)), b"x")), "header count exceeded"),
        (form(("bad header", b"x")), "invalid character"),
    ],
)
async def test_a_broken_form_is_said_and_leaves_nothing(
    body: bytes, said: str, server: Backend, alice: httpx.AsyncClient
) -> None:
    problem = assert_problem(await send(alice, body), 422, "invalid")
    assert said in problem["detail"]
    field = said.partition(":")[0]
    assert [error["loc"] for error in problem.get("errors", [])] == ([[field]] if ": " in said else [])
    await nothing_is_left(server, alice)


async def test_only_a_form_with_a_boundary_is_taken(alice: httpx.AsyncClient) -> None:
    body = form((named("file", "a"), b"x"))
    for kind in (
        "application/json",
        "application/x-www-form-urlencoded",
        "multipart/mixed; boundary=b0und",
        "",
    ):
        assert_problem(await send(alice, body, kind), 415, "unsupported_media_type")
    for kind in (
        "multipart/form-data",
        "multipart/form-data; boundary=",
        f"multipart/form-data; boundary={'b' * 300}",
    ):
        assert_problem(await send(alice, body, kind), 422, "invalid")
    compressed = {"Content-Type": "multipart/form-data; boundary=b0und", "Content-Encoding": "gzip"}
    assert (await alice.post("/api/files", content=body, headers=compressed)).status_code == 201


async def test_nobody_uploads_without_signing_in(server: Backend) -> None:
    async with httpx.AsyncClient(base_url=server.url) as nobody:
        assert_problem(await send(nobody, form((named("file", "a"), b"x"))), 401, "unauthorized")


async def test_other_routes_still_take_json_alone(alice: httpx.AsyncClient) -> None:
    for path in ("/api/workflows", "/api/files/x", "/api/files/"):
        assert_problem(await alice.post(path, files={"file": b"x"}), 415, "unsupported_media_type")
    large = b'{"name":"' + b"x" * (1 << 20) + b'"}'
    assert_problem(await alice.patch("/api/files", content=large), 413, "too_large")
    reply = await alice.post("/api/v1/files", files={"file": ("a.txt", b"x")})
    assert reply.status_code == 201


@pytest.mark.parametrize(
    ("name", "kept_as"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\temp\\x.txt", "x.txt"),
        ("a\r\nX: y", "aX: y"),
        ('"quote".txt', '"quote".txt'),
        ("a\0b\x1b[31m.txt", "ab[31m.txt"),
        ("👩‍👩‍👧 photo.png", "👩‍👩‍👧 photo.png"),
        ("l" * 300, "l" * 200),
        ("l" * 300 + ".pdf", "l" * 196 + ".pdf"),
        ("a." + "l" * 300, "a." + "l" * 198),
        ("harmless\u202egpj.exe", "harmlessgpj.exe"),
        ("\ud800.txt", ".txt"),
        ("..", "file"),
        (".", "file"),
        ("", "file"),
        (" / ", "file"),
        ("dir/", "file"),
        (".bashrc", ".bashrc"),
        ("  spaced  ", "spaced"),
    ],
)
def test_names_lose_their_path_and_what_cannot_be_seen(name: str, kept_as: str) -> None:
    assert clean_file_name(name) == kept_as
    assert clean_file_name(kept_as) == kept_as


@pytest.mark.parametrize(
    ("sent", "kept_as"),
    [
        (b"../../etc/passwd", "passwd"),
        (b'\\"quote\\".txt', '"quote".txt'),
        ("👋.txt".encode(), "👋.txt"),
        (b"caf\xe9.txt", "café.txt"),
        (b"l" * 300 + b".txt", "l" * 196 + ".txt"),
        (b"a\tb\x01.txt", "ab.txt"),
        (b"", "file"),
    ],
)
async def test_what_a_name_does_to_a_download(sent: bytes, kept_as: str, alice: httpx.AsyncClient) -> None:
    head = b'Content-Disposition: form-data; name="file"; filename="%s"' % sent
    body = b"--b0und\r\n%s\r\n\r\nx\r\n--b0und--\r\n" % head
    made = (await send(alice, body)).json()["data"]
    assert made["name"] == kept_as
    told = (await alice.get(f"/api/files/{made['id']}/content")).headers["content-disposition"]
    plain, whole = told.removeprefix("attachment; ").split("; filename*=UTF-8''")
    assert httpx.QueryParams(f"n={whole}")["n"] == kept_as
    assert plain.isascii()
    assert plain.count('"') == 2
    assert "%" not in plain


async def test_a_name_is_changed_only_to_a_clean_one(alice: httpx.AsyncClient) -> None:
    made = await make.file(alice)
    for bad in ("a/b", "a\\b", "a\nb", "..", "x\u202ey", "", "x" * 201):
        assert_problem(await alice.patch(f"/api/files/{made['id']}", json={"name": bad}), 422, "invalid")
    reply = await alice.patch(f"/api/files/{made['id']}", json={"name": "new 👋.txt"})
    assert reply.json()["data"]["name"] == "new 👋.txt"


# Too much, too slow, cut off --------------------------------------------------------------------


@pytest.fixture(scope="module")
async def small(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Backend]:
    """A server that takes files of one MiB."""
    backend = Backend(
        tmp_path_factory.mktemp("small") / "data", free_port(), {"MAX_UPLOAD_MB": "1", "WORKER": "off"}
    )
    await backend.start()
    yield backend
    await backend.stop()


async def test_a_file_may_be_as_large_as_the_limit_and_not_a_byte_more(small: Backend) -> None:
    async with small.sign_up() as client:
        assert (await make.file(client, b"x" * MIB))["size"] == MIB
        problem = assert_problem(
            await client.post("/api/files", files={"file": ("x", b"x" * (MIB + 1))}), 413, "too_large"
        )
        assert problem["detail"] == f"The file is larger than {MIB} bytes, the most that is allowed here."
        assert len(await kept(small, client)) == 1


async def test_what_says_it_is_too_large_is_refused_before_it_comes(small: Backend) -> None:
    async with small.sign_up() as client:
        reader, writer = await begin(client, small, 10**10)
        async with asyncio.timeout(10):
            assert (await reader.readline()).startswith(b"HTTP/1.1 413 ")
        writer.transport.abort()
        await nothing_is_left(small, client)


async def test_a_stream_without_a_length_is_counted(small: Backend) -> None:
    heard = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal heard
        yield form((named("file", "a"), b""))[:-11]
        while heard < 200:
            heard += 1
            yield b"x" * MIB

    async with small.sign_up() as client:
        assert_problem(await send(client, endless()), 413, "too_large")
        await nothing_is_left(small, client)


async def begin(
    client: httpx.AsyncClient, server: Backend, length: int
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """An upload sent by hand, up to the end of its headers."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    head = (
        "POST /api/files HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        f"Authorization: {client.headers['Authorization']}\r\n"
        f"Content-Type: multipart/form-data; boundary=b0und\r\nContent-Length: {length}\r\n\r\n"
    )
    writer.write(head.encode())
    return reader, writer


async def cut(client: httpx.AsyncClient, server: Backend, length: int, body: bytes) -> bytes:
    """Send `body`, wait half a second for a reply and go away; nothing where the server waits for more."""
    reader, writer = await begin(client, server, length)
    writer.write(body)
    try:
        await writer.drain()
        async with asyncio.timeout(0.5):
            return await reader.read(4096)
    except TimeoutError:
        return b""
    finally:
        writer.transport.abort()


async def test_an_upload_that_is_cut_off_leaves_no_row_and_no_bytes(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    body = form((named("file", "a"), b"x" * (8 * MIB)))
    for sent in (10, 100, 3 * MIB, 7 * MIB, len(body) - 1):
        assert await cut(alice, server, len(body), body[:sent]) == b""
        await nothing_is_left(server, alice)
    assert "Traceback" not in server.log
    assert "request_crashed" not in server.log


async def test_a_length_that_lies_is_found_out(server: Backend, alice: httpx.AsyncClient) -> None:
    body = form((named("file", "a"), b"x" * 1000))
    assert await cut(alice, server, len(body) + 1, body) == b""
    await nothing_is_left(server, alice)
    reply = await cut(alice, server, len(body) - 10, body)
    assert b" 422 " in reply.partition(b"\r\n")[0]
    await nothing_is_left(server, alice)


async def test_a_server_that_is_killed_in_an_upload_keeps_no_row(own_server: Backend) -> None:
    body = form((named("file", "a"), b"x" * (12 * MIB)))
    async with own_server.sign_up() as client:
        _, writer = await begin(client, own_server, len(body))
        writer.write(body[: 11 * MIB])
        await writer.drain()
        await own_server.kill()
        writer.transport.abort()
        await own_server.start()
    async with httpx.AsyncClient(base_url=own_server.url, headers=client.headers) as again:
        assert (await again.get("/api/files")).json()["data"] == []
        assert (await make.file(again))["size"] == 5


async def test_a_sender_that_falls_silent_is_told_so(
    user: str, store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "STALLED_SECONDS", 0.1)

    async def silent() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    request = Request({"type": "http", "method": "POST", "headers": []}, silent)
    with pytest.raises(files.UploadStalled, match=r"Nothing came for 0\.1 seconds"):
        [chunk async for chunk in files._body(request)]


async def test_two_uploads_at_once_are_kept_apart(server: Backend, alice: httpx.AsyncClient) -> None:
    contents = [os.urandom(6 * MIB) for _ in range(4)]
    made = await asyncio.gather(*(make.file(alice, data, f"{n}.bin") for n, data in enumerate(contents)))
    for row, data in zip(made, contents, strict=True):
        assert row["sha256"] == hashlib.sha256(data).hexdigest()
        assert (await alice.get(f"/api/files/{row['id']}/content")).content == data
    assert len(await kept(server, alice)) == 4


async def test_a_user_has_so_many_uploads_at_once(
    server: Backend, alice: httpx.AsyncClient, bob: httpx.AsyncClient
) -> None:
    body = form((named("file", "a"), b"x"))
    uploads = [await begin(alice, server, len(body)) for _ in range(files.UPLOADS_AT_ONCE + 1)]
    for _, writer in uploads:
        writer.write(body[:20])
    answers = [asyncio.create_task(reader.readline()) for reader, _ in uploads]
    refused, waiting = await asyncio.wait(answers, timeout=20, return_when=asyncio.FIRST_COMPLETED)
    assert [answer.result() for answer in refused] == [b"HTTP/1.1 429 Too Many Requests\r\n"]
    assert len(waiting) == files.UPLOADS_AT_ONCE
    await make.file(bob)
    problem = assert_problem(await alice.post("/api/files", files={"file": b"x"}), 429, "too_many_uploads")
    assert problem["detail"] == "At most 8 uploads may go on at once."
    for _, writer in uploads:
        writer.write(body[20:])
    async with asyncio.timeout(20):
        assert {await answer for answer in waiting} == {b"HTTP/1.1 201 Created\r\n"}
    for _, writer in uploads:
        writer.transport.abort()
    await make.file(alice)


# Repeats ------------------------------------------------------------------------------------------


async def test_a_repeat_is_answered_as_before_and_keeps_nothing(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    def again(data: bytes = b"hello", name: str = "a.txt") -> Any:
        headers = {"Idempotency-Key": "k"}
        return alice.post("/api/files", files={"file": (name, data)}, headers=headers)

    first, second = await again(), await again()
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json() == second.json()
    assert second.headers["idempotency-replayed"] == "true"
    assert second.headers["location"] == first.headers["location"]
    assert_problem(await again(b"other"), 422, "idempotency_key_reused")
    assert_problem(await again(name="b.txt"), 422, "idempotency_key_reused")
    assert len((await alice.get("/api/files")).json()["data"]) == 1
    assert [path.name for path in await kept(server, alice)] == [first.json()["data"]["id"]]
    bad = await alice.post("/api/files", files={"file": b"x"}, headers={"Idempotency-Key": "k" * 256})
    assert_problem(bad, 422, "invalid_idempotency_key")


async def test_twins_at_once_make_one_file(server: Backend, alice: httpx.AsyncClient) -> None:
    data = os.urandom(6 * MIB)
    headers = {"Idempotency-Key": "twins"}
    made = await asyncio.gather(*(make.file(alice, data, **headers) for _ in range(4)))
    assert len({row["id"] for row in made}) == 1
    assert len(await kept(server, alice)) == 1


async def test_an_upload_that_failed_may_be_tried_again_under_its_key(alice: httpx.AsyncClient) -> None:
    headers = {"Idempotency-Key": "k", "Content-Type": "multipart/form-data; boundary=b0und"}
    body = form((named("file", "a.txt"), b"x"))
    assert (await alice.post("/api/files", content=body[:-6], headers=headers)).status_code == 422
    assert (await alice.post("/api/files", content=body, headers=headers)).status_code == 201


# What it is ---------------------------------------------------------------------------------------


def zipped(name: str, data: bytes) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, data)
    return archive.getvalue()


WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"


@pytest.mark.parametrize(
    ("data", "name", "kind"),
    [
        (PNG, "a.png", "image/png"),
        (PNG, "a.html", "image/png"),
        (b"\xff\xd8\xff\xe0\0\x10JFIF\0", "a.txt", "image/jpeg"),
        (b"GIF89a\1\0\1\0", "a", "image/gif"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "a.svg", "image/webp"),
        (b"RIFF\x24\0\0\0WAVEfmt ", "a.webp", "application/octet-stream"),
        (HTML, "a.png", "text/html"),
        (HTML, "a.html", "text/html"),
        (b"\xef\xbb\xbf \n<SCRIPT>alert(1)</SCRIPT>", "a.jpg", "text/html"),
        (b"<a/>", "a.xhtml", "application/xhtml+xml"),
        (SVG, "a.jpg", "image/svg+xml"),
        (
            b'<?xml version="1.0"?><!-- c --><x:svg xmlns:x="http://www.w3.org/2000/svg"/>',
            "a.png",
            "image/svg+xml",
        ),
        (b'<?xml version="1.0"?><a/>', "a.gif", "application/xml"),
        (b"alert(1)", "a.png", "text/plain"),
        (b"alert(1)", "a.css", "text/css"),
        (b"GIF89a/*<script>alert(1)</script>", "a.gif", "text/plain"),
        (b"<html>\0", "a.png", "application/octet-stream"),
        (b"\x89PNG", "a.png", "text/plain"),
        (bytes(range(256)), "a.png", "application/octet-stream"),
        (b"a,b\n1,2\n", "a.csv", "text/csv"),
        (b"a;b\xe9\n", "a.csv", "text/csv"),
        (b'{"a": 1}', "a.json", "application/json"),
        ("hello".encode("utf-16"), "a.txt", "text/plain"),
        (b"", "a.png", "text/plain"),
        (b"%PDF-1.7\n", "a.png", "application/pdf"),
        (b"%PDF-1.7\n\xe2\0", "a.html", "application/pdf"),
        (zipped("a", b"x"), "a.docx", WORD),
        (zipped("a", b"x"), "a.png", "application/zip"),
        (b"MZ\x90\0\3\0", "a.png", "application/vnd.microsoft.portable-executable"),
        (b"\x7fELF\2\1\1\0", "a.jpg", "application/octet-stream"),
        (b"BM\x46\0", "a.png", "application/octet-stream"),
        (b"\0\0\0\x20ftypisom\0\0\2\0", "a.png", "video/mp4"),
    ],
)
def test_the_bytes_say_what_a_file_is(data: bytes, name: str, kind: str) -> None:
    assert sniff.content_type(data[: sniff.HEAD_BYTES], name) == kind


@pytest.mark.parametrize(
    ("data", "name", "kind", "shown"),
    [
        (PNG, "a.png", "image/png", True),
        (PNG + HTML, "a.html", "image/png", True),
        (HTML, "a.png", "application/octet-stream", False),
        (SVG, "a.jpg", "application/octet-stream", False),
        (b"alert(1)", "a.js", "application/octet-stream", False),
        (b"alert(1)", "a.gif", "text/plain; charset=utf-8", False),
        (b"%PDF-1.7\n", "a.pdf", "application/pdf", False),
        (bytes(range(256)), "a.png", "application/octet-stream", False),
    ],
)
async def test_only_plain_pictures_are_shown_and_nothing_acts(
    data: bytes, name: str, kind: str, shown: bool, alice: httpx.AsyncClient
) -> None:
    made = await make.file(alice, data, name)
    reply = await alice.get(f"/api/files/{made['id']}/content")
    assert reply.headers["content-type"] == kind
    assert reply.headers["content-disposition"].startswith("inline" if shown else "attachment")
    assert reply.headers["x-content-type-options"] == "nosniff"
    assert reply.headers["content-security-policy"] == "default-src 'none'; sandbox"
    assert reply.content == data


async def test_a_zip_bomb_is_only_its_bytes(alice: httpx.AsyncClient) -> None:
    bomb = zipped("zeros", b"\0" * (200 * MIB))
    assert len(bomb) < MIB
    made = await make.file(alice, bomb, "bomb.zip")
    assert (made["size"], made["content_type"]) == (len(bomb), "application/zip")
    assert (await alice.get(f"/api/files/{made['id']}/content")).content == bomb


# Out ----------------------------------------------------------------------------------------------


@pytest.fixture
async def digits(alice: httpx.AsyncClient) -> str:
    """Where a file of ten digits is."""
    return f"/api/files/{(await make.file(alice, b'0123456789'))['id']}/content"


@pytest.mark.parametrize(
    ("header", "status", "content", "told"),
    [
        (None, 200, b"0123456789", None),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("Bytes=0-0", 206, b"0", "bytes 0-0/10"),
        ("bytes=7-", 206, b"789", "bytes 7-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-99", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=5-999", 206, b"56789", "bytes 5-9/10"),
        ("bytes=0-999999999999999999", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"", "bytes */10"),
        ("bytes=-0", 416, b"", "bytes */10"),
        ("bytes=4-2", 416, b"", "bytes */10"),
        ("bytes=-", 200, b"0123456789", None),
        ("bytes=1-2,4-5", 200, b"0123456789", None),
        ("bytes=1-x", 200, b"0123456789", None),
        ("bytes=٣-٤".encode().decode("latin-1"), 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
        ("", 200, b"0123456789", None),
    ],
)
async def test_ranges(
    header: str | None, status: int, content: bytes, told: str | None, digits: str, alice: httpx.AsyncClient
) -> None:
    headers = [(b"Range", header.encode("latin-1"))] if header is not None else []
    reply = await alice.get(digits, headers=headers)
    assert (reply.status_code, reply.headers.get("content-range")) == (status, told)
    if status == 416:
        assert assert_problem(reply, 416, "range_not_satisfiable")["detail"] == "The file has 10 bytes."
        return
    assert reply.content == content
    assert reply.headers["content-length"] == str(len(content))
    assert reply.headers["accept-ranges"] == "bytes"


async def test_an_empty_file_has_no_ranges(alice: httpx.AsyncClient) -> None:
    path = f"/api/files/{(await make.file(alice, b''))['id']}/content"
    reply = await alice.get(path)
    assert (reply.status_code, reply.content, reply.headers["content-length"]) == (200, b"", "0")
    assert_problem(await alice.get(path, headers={"Range": "bytes=0-"}), 416, "range_not_satisfiable")


async def test_what_a_client_has_is_not_sent_again(digits: str, alice: httpx.AsyncClient) -> None:
    tag = (await alice.get(digits)).headers["etag"]
    assert tag == f'"{hashlib.sha256(b"0123456789").hexdigest()}"'
    for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        reply = await alice.get(digits, headers={"If-None-Match": known, "Range": "bytes=0-1"})
        assert (reply.status_code, reply.content, reply.headers["etag"]) == (304, b"", tag)
        assert "content-length" not in reply.headers
    for known in ('"other"', tag.strip('"'), ""):
        assert (await alice.get(digits, headers={"If-None-Match": known})).status_code == 200


async def test_a_range_of_another_version_is_answered_whole(digits: str, alice: httpx.AsyncClient) -> None:
    tag = (await alice.get(digits)).headers["etag"]
    for version, status in (
        (tag, 206),
        (f"W/{tag}", 200),
        ('"other"', 200),
        ("Mon, 01 Jan 2024 00:00:00 GMT", 200),
    ):
        reply = await alice.get(digits, headers={"Range": "bytes=0-1", "If-Range": version})
        assert reply.status_code == status


async def test_head_tells_what_get_would_send(digits: str, alice: httpx.AsyncClient) -> None:
    whole, head = await alice.get(digits), await alice.head(digits)
    assert (head.status_code, head.content) == (200, b"")
    volatile = {"date", "x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in volatile} == {
        k: v for k, v in whole.headers.items() if k not in volatile
    }
    tag = whole.headers["etag"]
    assert (await alice.head(digits, headers={"If-None-Match": tag})).status_code == 304
    assert (await alice.head(digits, headers={"Range": "bytes=0-1"})).headers["content-length"] == "10"


# Links --------------------------------------------------------------------------------------------


async def test_a_link_gives_the_file_to_anyone_until_the_file_goes(
    server: Backend, alice: httpx.AsyncClient
) -> None:
    made = await make.file(alice, PNG, "a.png")
    reply = await alice.post(f"/api/files/{made['id']}/link")
    assert reply.status_code == 200
    link = reply.json()["data"]
    assert link["url"].startswith(f"{server.url}/api/files/{made['id']}/content?link=")
    assert (await alice.get("/api/me")).json()["data"]["id"] not in link["url"]
    async with httpx.AsyncClient() as anyone:
        got = await anyone.get(link["url"])
        assert (got.status_code, got.content) == (200, PNG)
        part = await anyone.get(link["url"], headers={"Range": "bytes=1-3"})
        assert (part.status_code, part.content) == (206, b"PNG")
        assert (await anyone.head(link["url"])).headers["content-length"] == str(len(PNG))
        assert (await anyone.get(link["url"].replace("/content", ""))).status_code == 401
        assert (await anyone.delete(link["url"].replace("/content", ""))).status_code == 401
        await alice.delete(f"/api/files/{made['id']}")
        assert_problem(await anyone.get(link["url"]), 404, "not_found")


async def test_a_link_that_was_altered_opens_nothing(server: Backend, alice: httpx.AsyncClient) -> None:
    made, other = await make.file(alice), await make.file(alice)
    url = (await alice.post(f"/api/files/{made['id']}/link")).json()["data"]["url"]
    token = url.partition("link=")[2]
    texts = set()
    async with httpx.AsyncClient(base_url=server.url) as anyone:
        assert (
            await anyone.get(f"/api/files/{made['id']}/content", params={"link": token})
        ).status_code == 200
        for file_id, link in [
            (made["id"], ""),
            (made["id"], "x"),
            (made["id"], "é"),
            (made["id"], "AAAA" * 30),
            (made["id"], token[:-1]),
            (made["id"], token + "AA"),
            (made["id"], token[:40] + ("A" if token[40] != "A" else "B") + token[41:]),
            (other["id"], token),
            (str(uuid4()), token),
        ]:
            reply = await anyone.get(f"/api/files/{file_id}/content", params={"link": link})
            problem = assert_problem(reply, 403, "link_invalid")
            texts.add(str(problem | {"request_id": ""}))
        assert_problem(await anyone.get(f"/api/files/{made['id']}/content"), 401, "unauthorized")
    assert len(texts) == 1


async def test_a_link_serves_for_five_minutes(
    user: str, store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = await files.save(user, kind="upload", name="n", data=b"1", limit=4)
    request = Request({"type": "http", "headers": []})
    made = await files.link(user, file.id)
    token = made.url.partition("link=")[2]
    assert await files.get_reader(request, file.id, token) == user
    left = made.expires_at.timestamp() - time.time()
    assert files.LINK_SECONDS - 5 < left <= files.LINK_SECONDS == 300
    monkeypatch.setattr(files, "LINK_SECONDS", -0.001)
    expired = (await files.link(user, file.id)).url.partition("link=")[2]
    with pytest.raises(files.LinkInvalid):
        await files.get_reader(request, file.id, expired)


async def test_a_link_of_a_disabled_user_opens_nothing(user: str, store: None) -> None:
    file = await files.save(user, kind="upload", name="n", data=b"1", limit=4)
    request = Request({"type": "http", "headers": []})
    token = (await files.link(user, file.id)).url.partition("link=")[2]
    for disabled in (datetime.now(UTC), None):
        async with db.as_user(user) as tx:
            await tx.change(User, {}, disabled_at=disabled)
        if disabled:
            with pytest.raises(files.LinkInvalid):
                await files.get_reader(request, file.id, token)
    assert await files.get_reader(request, file.id, token) == user


async def test_a_link_outlives_its_key_only_as_long_as_the_ring_has_it(user: str, store: None) -> None:
    file = await files.save(user, kind="upload", name="n", data=b"1", limit=4)
    request = Request({"type": "http", "headers": []})
    old, new = os.urandom(32), os.urandom(32)
    files.seal_links(Vault([old]))
    token = (await files.link(user, file.id)).url.partition("link=")[2]
    files.seal_links(Vault([new, old]))
    assert await files.get_reader(request, file.id, token) == user
    files.seal_links(Vault([new]))
    with pytest.raises(files.LinkInvalid):
        await files.get_reader(request, file.id, token)


# The store ----------------------------------------------------------------------------------------


@pytest.fixture
async def store(database: str, bus: LocalBus, tmp_path: Path) -> AsyncIterator[None]:
    """Files kept by this process, and a vault for their links."""
    before = files._storage, files._vault
    files.start(await open_directory(tmp_path / "files"))
    files.seal_links(Vault([os.urandom(32)]))
    yield
    files._storage, files._vault = before


async def limit_to(most: int, *users: str) -> None:
    for user in users:
        async with db.as_user(user) as tx:
            await tx.change(Quota, {}, max_storage_bytes=most)


async def test_a_quota_counts_all_of_a_users_files(
    user: str, other_user: str, store: None, tmp_path: Path
) -> None:
    def save(owner: str, data: bytes) -> Any:
        return files.save(owner, kind="upload", name="n", data=data, limit=100)

    await limit_to(10, user, other_user)
    await save(user, b"x" * 6)
    with pytest.raises(files.QuotaExceeded, match="10 bytes in all"):
        await save(user, b"x" * 5)
    await save(user, b"x" * 4)
    await save(other_user, b"x" * 10)
    async with db.as_user(user) as tx:
        assert sorted(file.size for file in await tx.find(File)) == [4, 6]
    assert len([path for path in (tmp_path / "files").rglob("*") if path.is_file()]) == 3


async def test_a_quota_holds_against_uploads_at_once(user: str, store: None) -> None:
    await limit_to(10, user)
    saves = (files.save(user, kind="upload", name="n", data=b"x" * 4, limit=100) for _ in range(6))
    done = await asyncio.gather(*saves, return_exceptions=True)
    assert sum(isinstance(outcome, File) for outcome in done) == 2
    assert sum(isinstance(outcome, files.QuotaExceeded) for outcome in done) == 4


@pytest.mark.parametrize("lost_answers", [1, 2])
async def test_bytes_stay_while_their_row_may_be_there(
    lost_answers: int, user: str, store: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = db.Tx.commit
    commits = 0

    async def lost(self: db.Tx, idempotency: db.Idempotency | None = None) -> None:
        nonlocal commits
        await commit(self, idempotency)
        commits += 1
        if 1 < commits <= 1 + lost_answers:  # the first one tells upkeep of the bytes
            raise db.Unavailable("the connection to the database broke")

    with monkeypatch.context() as patched:
        patched.setattr(db.Tx, "commit", lost)
        with pytest.raises(db.Unavailable):
            await files.save(user, kind="upload", name="n", data=b"1", limit=4)
    assert commits == 3
    async with db.as_user(user) as tx:
        landed = await tx.one(File)
    assert (tmp_path / "files" / landed.storage_key).read_bytes() == b"1"


async def test_an_upload_over_a_row_that_cannot_be_leaves_no_bytes(
    user: str, store: None, tmp_path: Path
) -> None:
    with pytest.raises(TooLarge):
        await files.save(user, kind="upload", name="n", data=b"12345", limit=4)
    with pytest.raises(Exception, match="violates foreign key"):
        await files.save(user, kind="upload", name="n", data=b"1", limit=4, computer_id=uuid4())
    assert [path for path in (tmp_path / "files").rglob("*") if path.is_file()] == []


async def test_files_live_in_a_bucket_as_on_disk(data_dir: Path, s3: Buckets) -> None:
    bucket = s3.make()
    store = {
        "FILES_URL": f"s3://{bucket}/cua",
        "S3_ENDPOINT": s3.url,
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }
    backend = Backend(data_dir, free_port(), store)
    await backend.start()
    async with backend.sign_up() as client:
        data = os.urandom(12 * MIB)
        made = await make.file(client, data, "a.bin")
        assert [key.rpartition("/")[2] for key in s3.holds(bucket)] == [made["id"]]
        path = f"/api/files/{made['id']}/content"
        assert (await client.get(path)).content == data
        assert (await client.get(path, headers={"Range": "bytes=1000000-6000000"})).content == data[
            1000000:6000001
        ]
        body = form((named("file", "a"), b"x" * (12 * MIB)))
        assert await cut(client, backend, len(body), body[: 11 * MIB]) == b""
        await client.delete(f"/api/files/{made['id']}")
        async with asyncio.timeout(10):
            while s3.holds(bucket):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
    await backend.stop()
    assert not (data_dir / "files").exists()


async def test_a_store_that_does_not_serve_stops_the_start(data_dir: Path) -> None:
    dead = {
        "FILES_URL": "s3://bucket",
        "S3_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "key",
    }
    backend = Backend(data_dir, free_port(), dead)
    await backend.start(ready=False)
    assert backend.process is not None
    async with asyncio.timeout(60):
        assert await backend.process.wait() != 0
    assert "Files cannot be kept: the bucket bucket at http://127.0.0.1" in backend.log
    assert "Traceback" not in backend.log
