"""Runs on pages that fail, flood, hang or lie: each ends with a clear word, and the next run is none the worse."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from models import Run
from tests import pages
from tests.pages import Page, Site
from tests.workers import Steps, ended, new_user, start, steps_of

pytestmark = pytest.mark.usefixtures("one_chromium")

CLICK = {"type": "click", "selectors": [["text/Go on"]], "timeout": 900}
READ = {"type": "extract", "name": "read", "fields": {"text": {"selectors": ["#end"]}}, "timeout": 900}
PATIENT = {"timeout": 20_000}
HURT = ("timeout", "page_crashed")  # failures after which a browser may not be the same
END = "<button>Go on</button><p id=end>the end"


def raw(head: str, body: str = "") -> Callable[[asyncio.StreamWriter], Awaitable[None]]:
    async def answer(writer: asyncio.StreamWriter) -> None:
        writer.write(f"HTTP/1.1 {head}\nConnection: close\n\n".replace("\n", "\r\n").encode() + body.encode())
        await writer.drain()

    return answer


def html(page: str) -> str:
    return f"<!doctype html><meta charset=utf-8><title>Hostile</title>{page}"


HOSTILE: dict[str, Page] = {
    "/around": raw("302 Found\nLocation: /around\nContent-Length: 0"),
    "/bounce": html("<script>location = '/bounce?' + Math.random()</script>"),
    "/nothing": raw("204 No Content"),
    "/closed": raw('401 Unauthorized\nWWW-Authenticate: Basic realm="x"\nContent-Length: 0'),
    "/busy": html("<script>for (;;);</script>"),
    "/asks": html("<script>while (true) alert('again')</script>"),
    "/asks-later": html('<button onclick="while (true) alert(1)">Go on</button><p id=end>the end'),
    "/stays": html("<script>onbeforeunload = () => { for (;;); }</script>" + END),
    "/hangs": html("<button onclick='for (;;);'>Go on</button><p id=end>the end"),
    "/taken": html("<img name=querySelectorAll>" + END),
    "/lies": html("<script>NodeList.prototype[Symbol.iterator] = undefined</script>" + END),
    "/several": html(
        """<p class=many hidden>a</p><p class=many hidden>b</p><button id=off disabled>c</button>
        <div style="position:relative;width:90px"><button id=under>d</button><i style="position:absolute;inset:0"></i></div>"""
    ),
    "/rows": html("<ul><li><b>Tea</b><i>cheap</i></ul>"),
    "/throws": html("<script>window.fail = () => { throw Error('no \\u0000 \\ud800 luck') }</script>"),
    # These hinder nobody.
    "/plain": html(END),
    "/floods-late": html("<button onclick='for (let i = 0; i < 300; i++) window.open(\"/second\")'>Go on</button>")
    + "<p id=end>the end",
    "/floods-on": html("<button onclick='setInterval(() => window.open(\"/second\"), 5)'>Go on</button>")
    + "<p id=end>the end",
    "/scriptless": raw("200 OK\nContent-Type: text/html\nContent-Security-Policy: sandbox", html(END)),
    "/timeless": html("<script>setTimeout = requestAnimationFrame = () => 0</script>" + END),
    "/mootools": html("<script>Array.from = (item) => [item]</script>" + END),
    "/prototype": html(
        "<script>for (const kind of [Array, String]) kind.prototype.toJSON = () => 'mine'; Object.prototype.each = () => 0</script>"
        + END
    ),
    "/named": html(
        "<form><input name=children><input name=title><input name=id><input name=labels><input name=host></form>"
        + END
    ),
    "/prints": html("<button onclick='print()'>Go on</button><p id=end>the end"),
    "/chooses": html("<button onclick='file.click()'>Go on</button><input id=file type=file hidden><p id=end>the end"),
    "/closes": html("<button onclick=\"window.open('', '_self'); window.close()\">Go on</button><p id=end>the end"),
    "/leads-out": html("<a href='unknown:app'>Go on</a><p id=end>the end"),
    "/downloads": html("<a href=/endless>Go on</a><p id=end>the end"),
    "/begs": html(
        """<button onclick="Notification.requestPermission(); navigator.geolocation.getCurrentPosition(() => 0);
        navigator.mediaDevices?.getUserMedia({video: true}).catch(() => 0)">Go on</button><p id=end>the end"""
    ),
    "/broken-text": html("<button>Go on</button><p id=end><script>end.textContent = 'the\\u0000end\\ud800'</script>"),
}  # fmt: skip

HARMLESS = {
    "/scriptless": "aria/Go on",
    "/timeless": "aria/Go on",
    "/mootools": "xpath///button",
    "/prototype": "aria/Go on[role='button']",
    "/named": "aria/Go on",
    "/prints": "text/Go on",
    "/chooses": "text/Go on",
    "/closes": "text/Go on",
    "/leads-out": "text/Go on",
    "/downloads": "text/Go on",
    "/begs": "text/Go on",
    "/broken-text": "text/Go on",
}


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    async with pages.serve(HOSTILE) as running:
        yield running


@pytest.fixture(scope="module")
async def user(database: str) -> str:
    """Whose browser has to bear it all."""
    return await new_user()


async def run(user: str, site: Site, path: str, steps: Steps, timeout: int = 1500, **more: Any) -> Run:
    """How a run of the steps on the page, which has so long to open, ends."""
    first = {"type": "navigate", "url": site.url(path), "timeout": timeout}
    return await ended(user, await start(user, [first, *steps], timeout_seconds=60, **more), 60)


@pytest.mark.parametrize(
    ("path", "steps", "step", "code", "words"),
    [
        ("/around", [], 1, "unreachable", "could not be opened: it redirects without end"),
        ("/bounce", [], 1, "timeout", "did not finish loading (waited 1.5 s)"),
        ("/nothing", [], 1, "unreachable", "could not be opened: the page stopped loading"),
        ("/closed", [], 1, "unreachable", "it asks for a name and a password by HTTP authentication"),
        ("/busy", [], 1, "timeout", "did not finish loading (waited 1.5 s)"),
        ("/never", [], 1, "timeout", "The page does not answer (waited 1.5 s)"),
        ("/stalled", [], 1, "timeout", "did not finish loading (waited 1.5 s)"),
        ("/asks", [READ], 1, "page_crashed", "The page had crashed"),
        ("/asks-later", [CLICK | {"timeout": 20_000}, READ], 3, "page_crashed", "The page had crashed"),
        ("/hangs", [CLICK, READ], 2, "timeout", "The page does not answer (waited 0.9 s)"),
        ("/stays", [CLICK, {"type": "navigate", "url": "about:blank", "timeout": 900}], 3, "timeout", "does not answer"),
        ("/taken", [CLICK | {"selectors": ["aria/Go on"]}], 2, "page_error", "The page refused: TypeError: root.querySelectorAll is not a function"),
        ("/lies", [CLICK], 2, "page_error", "The page refused: TypeError"),
        ("/throws", [{"type": "waitForExpression", "expression": "fail()", "timeout": 500}], 2,
         "expression_failed", "The page refused: no \ufffd \ufffd luck (waited 0.5 s)"),
    ],
)  # fmt: skip
async def test_a_page_that_fails_says_how_and_the_next_run_is_none_the_worse(
    user: str, worker: UUID, site: Site, path: str, steps: Steps, step: int, code: str, words: str
) -> None:
    failed = await run(user, site, path, steps, 1500 if "1.5 s" in words else 20_000)
    assert failed.error is not None
    assert (failed.error["code"], failed.error["step"], failed.error["pointer"]) == (
        code,
        step,
        f"/steps/{step - 1}",
    )
    assert words in failed.error["detail"], failed.error["detail"]
    last = (await steps_of(user, failed.id))[-1]
    assert (last.number, last.status) == (step, "failed")
    if code in HURT:
        following = await run(user, site, "/plain", [READ])
        assert (following.error, following.outputs) == (None, {"read": {"text": "the end"}})


async def test_each_selector_of_a_failed_step_says_what_it_found_beside_a_picture(
    user: str, worker: UUID, site: Site
) -> None:
    selectors = ["#none", "p.many", "#off", "#under", "li:nonsense(1)"]
    failed = await run(user, site, "/several", [{"type": "click", "selectors": selectors, "timeout": 500}])
    assert failed.error is not None
    assert [(trial["selector"], trial["found"], trial["state"]) for trial in failed.error["tried"]] == [
        ("#none", 0, "nothing matches"),
        ("p.many", 2, "hidden"),
        ("#off", 1, "disabled"),
        ("#under", 1, 'covered by <i style="position:absolute;inset:0">'),
        ("li:nonsense(1)", 0, "not a valid selector"),
    ]
    assert failed.error["code"] == "element_not_ready"
    assert failed.error["screenshot_id"]


async def test_rows_that_do_not_fit_and_rows_that_are_not_there_are_named(
    user: str, worker: UUID, site: Site
) -> None:
    rows = {"type": "extract", "name": "rows", "selectors": ["li"], "many": True}
    rows["fields"] = {"name": {"selectors": ["b"]}, "price": {"selectors": ["i"], "type": "number"}}
    schema = {"items": {"properties": {"price": {"type": "number"}}}}
    failed = await run(user, site, "/rows", [rows | {"schema": schema}])
    assert failed.error is not None
    assert failed.error["code"] == "invalid_output"
    assert failed.error["detail"].startswith("rows does not fit its schema: /0/price: ")
    assert failed.error["screenshot_id"]
    click = {"type": "click", "selectors": ["text/{{ outputs.rows[7].name }}"]}
    failed = await run(user, site, "/rows", [rows, click])
    assert failed.error is not None
    assert (failed.error["code"], failed.error["step"]) == ("placeholder_missing", 3)
    assert "outputs.rows[7].name" in failed.error["detail"]
    assert "/selectors/0" in failed.error["detail"]


@pytest.mark.parametrize("path", ["/floods-late", "/floods-on"])
async def test_popups_without_end_do_not_hinder_the_page_that_opens_them(
    user: str, worker: UUID, site: Site, path: str
) -> None:
    done = await run(user, site, path, [CLICK | PATIENT, READ | PATIENT])
    assert (done.error, done.outputs) == (None, {"read": {"text": "the end"}})


async def test_what_pages_try_beside_does_not_hinder_a_run_that_goes_through_all_of_them(
    user: str, worker: UUID, site: Site
) -> None:
    steps: Steps = []
    for path, selector in HARMLESS.items():
        steps += [
            {"type": "navigate", "url": site.url(path)},
            CLICK | PATIENT | {"selectors": [selector]},
            READ | PATIENT | {"name": path.strip("/")},
        ]
    done = await run(user, site, "/plain", steps)
    assert done.error is None, (done.error, steps[done.error["step"] - 2])
    assert done.outputs == {
        path.strip("/"): {"text": "the\ufffdend\ufffd" if path == "/broken-text" else "the end"}
        for path in HARMLESS
    }
