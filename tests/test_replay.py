"""Replay on a real Chromium: step types, selectors, frames, shadow roots, popups, and everything that goes wrong."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from uuid import uuid4

import pytest

from browser import selectors
from browser.chromium import Browsers, Computer, Options
from runs.replay import Attempt, StepFailed
from runs.workflows import Flow

Step = dict[str, Any]


class Site(BaseHTTPRequestHandler):
    """Answers `pages`; `/hang` says nothing until the tests end; `/strict` forbids evaluating strings."""

    pages: ClassVar[dict[str, str]] = {}
    over = threading.Event()
    hangs = threading.Semaphore(0)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/hang":
            self.hangs.release()
            self.over.wait(60)
            return
        found = path in self.pages
        body = self.pages.get(path, "<title>missing</title>").encode()
        self.send_response(200 if found else 404)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        if path.startswith("/strict"):
            self.send_header("Content-Security-Policy", "script-src 'none'")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The tests' output stays readable."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True


@pytest.fixture(scope="session")
def origin() -> Iterator[str]:
    server = Server(("127.0.0.1", 0), Site)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    Site.over.set()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
async def shared_computer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Computer]:
    browsers = Browsers()
    await browsers.start()
    options = Options(downloads=tmp_path_factory.mktemp("downloads"))
    yield await browsers.open("replay", uuid4(), options, lambda _kind, _data: None)
    await browsers.close()


@pytest.fixture
async def computer(shared_computer: Computer) -> AsyncIterator[Computer]:
    """The computer with one fresh tab."""
    yield shared_computer
    fresh = await shared_computer.new_tab()
    for tab in shared_computer.tabs():
        if tab["id"] != fresh.id:
            await shared_computer.close_tab(tab["id"])


class Runner:
    """Plays steps on pages that a test writes."""

    def __init__(self, computer: Computer, origin: str) -> None:
        self.computer, self.origin = computer, origin
        self.saved: dict[str, bytes] = {}
        self.scope: dict[str, Any] = {"params": {}, "outputs": {}}
        self.number = 0

    async def save(self, name: str, content: bytes, content_type: str) -> str:
        self.saved[name] = content
        return f"{content_type} {name}"

    def attempt(self, step: Step, timeout: float | None = None) -> Attempt:
        flow = Flow("test", timeout, (step,), {})
        return Attempt(self.computer, flow, step, self.scope, self.save)

    async def play(self, *steps: Step, timeout: float | None = None) -> Any:
        output = None
        for step in steps:
            attempt = self.attempt(step, timeout)
            await attempt.find()
            await attempt.act()
            output = await attempt.settle()
        return output

    async def fails(self, step: Step, timeout: float = 600) -> StepFailed:
        """The step's failure, which has to come within its time."""
        started = time.monotonic()
        with pytest.raises(StepFailed) as caught:
            await self.play(step, timeout=timeout)
        assert time.monotonic() - started < timeout / 1000 * 3 + 2
        return caught.value

    def serve(self, html: str, path: str | None = None) -> str:
        self.number += 1
        path = path or f"/{uuid4().hex}"
        Site.pages[path] = f"<!doctype html><meta charset=utf-8><title>page</title>{html}"
        return self.origin + path

    async def open(self, html: str, path: str | None = None) -> str:
        url = self.serve(html, path)
        await self.play({"type": "navigate", "url": url})
        return url

    async def js(self, expression: str) -> Any:
        async with asyncio.timeout(5):
            return await self.computer.page.evaluate(expression)


@pytest.fixture
def run(computer: Computer, origin: str) -> Runner:
    return Runner(computer, origin)


# Selectors ----------------------------------------------------------------------------------------

BUTTONS = """<p>Other text</p><button hidden>Go</button>
<div id=box><span>before</span><button id=go class="a b" aria-label="Go now" data-x='a"b'>Press</button></div>
<img id=pic alt="A  picture" width=20 height=20 src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">
<label for=mail>Your mail</label><input id=mail> <label>Wrapped <input id=wrapped type=checkbox></label>
<span id=one>First</span> <span id=two>second</span><input id=both aria-labelledby="one two">
<input id=place placeholder="Search here"><a id=link href="#x" title="Titled"></a><h2 id=head>A <b>big</b> head</h2>
<input id=sub type=submit value="Send it"><select id=choice aria-label=Choice><option>1</select>
<button id=nested><span>Add</span> <span>to cart</span></button><table id=tab><caption>Prices</caption><tr><td>5</table>
<my-box></my-box><script>
class Box extends HTMLElement { connectedCallback() { this.attachShadow({mode: 'open'}).innerHTML =
 '<button id=inner>Inside</button><my-deep></my-deep><slot></slot>' } }
class Deep extends HTMLElement { connectedCallback() { this.attachShadow({mode: 'open'}).innerHTML =
 '<p><button id=deep>Deep inside</button></p>' } }
customElements.define('my-box', Box); customElements.define('my-deep', Deep)
addEventListener('click', event => { window.hit = event.composedPath()[0].closest("[id]")?.id }, true)
</script>"""


@pytest.mark.parametrize(
    ("selector", "hit"),
    [
        ("#go", "go"),
        ("button.a.b", "go"),
        (["#box", "button"], "go"),
        ("[data-x='a\"b']", "go"),
        ("xpath///*[@id='box']/button", "go"),
        ("xpath//html/body/div/button", "go"),
        (["#box", "xpath/./button"], "go"),
        ("text/Press", "go"),
        ("aria/Go now", "go"),
        ('aria/Go now[role="button"]', "go"),
        ("aria/[name='Go now'][role='button']", "go"),
        ("aria/A picture", "pic"),
        ("aria/Your mail", "mail"),
        ('aria/Wrapped[role="checkbox"]', "wrapped"),
        ("aria/First second", "both"),
        ("aria/Search here", "place"),
        ("aria/Send it", "sub"),
        ("aria/Add to cart", "nested"),
        ('aria/A big head[role="heading"]', "head"),
        ("text/Send it", "sub"),
        ("pierce/#deep", "deep"),
        ("aria/Deep inside", "deep"),
        ("text/Deep inside", "deep"),
        (["my-box", "#inner"], "inner"),
        (["my-box", "my-deep", "#deep"], "deep"),
        (["my-box", "my-deep", "xpath///button"], "deep"),
        (["my-box", "text/Inside"], "inner"),
        (["my-box", "aria/Inside"], "inner"),
    ],
)
async def test_each_kind_of_selector_finds_its_element(run: Runner, selector: Any, hit: str) -> None:
    await run.open(BUTTONS)
    await run.play({"type": "click", "selectors": [selector]})
    assert await run.js("window.hit") == hit


async def test_alternatives_are_tried_in_order_until_one_fits(run: Runner) -> None:
    await run.open(
        """<button id=first disabled onclick="hit='first'">1</button><button id=second hidden onclick="hit='second'">2</button>
        <script>setTimeout(() => { second.hidden = false }, 400)</script>"""
    )
    await run.play({"type": "click", "selectors": ["#none", "!!", "#first", "#second"]})
    assert await run.js("hit") == "second"


@pytest.mark.parametrize(
    ("html", "code", "state"),
    [
        ("<p>nothing here", "element_not_found", "nothing matches"),
        ("<b id=x style='display:none'>x</b>", "element_not_ready", "hidden"),
        ("<b id=x style='visibility:hidden'>x</b>", "element_not_ready", "hidden"),
        ("<div style='visibility:hidden'><b id=x>x</b></div>", "element_not_ready", "hidden"),
        ("<b id=x></b>", "element_not_ready", "hidden"),
        ("<fieldset disabled><button id=x>x</button></fieldset>", "element_not_ready", "disabled"),
        ("<b id=x style='position:fixed;left:-500px'>x</b>", "element_not_ready", "outside the viewport"),
        (
            "<button id=x>x</button><div class=veil style='position:fixed;inset:0'></div>",
            "element_not_ready",
            'covered by <div class="veil" style="position:fixed;inset:0">',
        ),
        (
            "<style>@keyframes m{to{margin-left:700px}}</style><button id=x style='animation:m 2s linear infinite'>x</button>",
            "element_not_ready",
            "moving",
        ),
    ],
)
async def test_an_unusable_element_is_reported_with_what_it_is(
    run: Runner, html: str, code: str, state: str
) -> None:
    await run.open(html + "<script>addEventListener('click', () => { window.hit = 1 })</script>")
    failure = await run.fails({"type": "click", "selectors": ["#none", "#x"]})
    assert (failure.code, failure.tried[1]["state"]) == (code, state)
    assert failure.tried[0] == {"selector": "#none", "found": 0, "state": "nothing matches"}
    assert await run.js("window.hit ?? 0") == 0


async def test_selectors_that_only_the_page_can_refuse_are_named(run: Runner) -> None:
    await run.open("<p>x")
    failure = await run.fails({"type": "click", "selectors": ["p:nonsense(2)", "xpath///p[unknown()]"]})
    assert (failure.code, [trial["state"] for trial in failure.tried]) == (
        "invalid_selector",
        ["not a valid selector"] * 2,
    )


async def test_of_many_matches_the_first_visible_one_is_used(run: Runner) -> None:
    await run.open("<i hidden onclick='hit=0'>a</i><i onclick='hit=1'>b</i><i onclick='hit=2'>c</i>")
    await run.play({"type": "click", "selectors": ["i"]})
    assert await run.js("hit") == 1


async def test_an_element_far_away_is_scrolled_to_even_in_a_box_and_a_frame(run: Runner) -> None:
    inner = run.serve(
        """<div style="height:3000px"></div><div style="height:100px;overflow:auto"><div style="height:900px"></div>
        <button onclick="parent.postMessage('hit', '*')">deep</button></div>"""
    )
    await run.open(
        f"<div style='height:4000px'></div><iframe src='{inner}'></iframe><script>onmessage = e => {{ window.hit = e.data }}</script>"
    )
    await run.play({"type": "click", "selectors": ["aria/deep"], "frame": [0]})
    await run.play({"type": "waitForExpression", "expression": "window.hit"})
    assert await run.js("hit") == "hit"


async def test_a_click_lands_at_its_offset_in_nested_frames_of_other_sites(run: Runner) -> None:
    leaf = run.serve(
        "<canvas id=c width=200 height=150></canvas><script>c.onclick = e => top.postMessage([e.offsetX, e.offsetY], '*')</script>"
    )
    middle = run.serve(
        f"<p>x<iframe></iframe><iframe width=400 height=300 src='{leaf.replace('127.0.0.1', 'localhost')}'></iframe>"
    )
    await run.open(
        f"<p>y<iframe width=500 height=400 src='{middle}'></iframe><script>onmessage = e => {{ window.hit = e.data }}</script>"
    )
    await run.play({"type": "click", "selectors": ["canvas"], "frame": [0, 1], "offsetX": 31, "offsetY": 17})
    await run.play({"type": "waitForExpression", "expression": "window.hit"})
    assert await run.js("hit") == [31, 17]


async def test_a_missing_frame_and_a_missing_tab_are_named(run: Runner) -> None:
    await run.open("<p>x")
    assert (await run.fails({"type": "click", "selectors": ["p"], "frame": [2]})).code == "frame_not_found"
    assert (
        await run.fails({"type": "click", "selectors": ["p"], "target": "https://x.test/"})
    ).code == "target_not_found"


async def test_a_popup_is_driven_by_its_address_and_closed_while_main_goes_on(run: Runner) -> None:
    popup = run.serve("<button onclick='opener.hit = 7'>in popup</button>")
    main = await run.open(f"<button onclick=\"window.open('{popup}')\">open</button>")
    await run.play(
        {"type": "click", "selectors": ["text/open"]},
        {"type": "click", "selectors": ["text/in popup"], "target": popup},
    )
    assert run.computer.page.url == popup
    await run.play(
        {"type": "close", "target": popup},
        {"type": "waitForExpression", "expression": "hit === 7", "target": "main"},
    )
    assert [page.url for page in run.computer.pages] == [main]


async def test_a_click_that_closes_its_own_tab_is_no_failure(run: Runner) -> None:
    popup = run.serve("<button onclick='close()'>bye</button>")
    await run.open(f"<button onclick=\"window.open('{popup}')\">open</button>")
    await run.play(
        {"type": "click", "selectors": ["text/open"]},
        {"type": "click", "selectors": ["text/bye"], "target": popup},
    )
    await run.play({"type": "click", "selectors": ["text/open"]})


# Step types ---------------------------------------------------------------------------------------

RECORDER = """<div id=pad style="width:200px;height:100px;background:#eee">pad</div><script>window.seen = []
for (const type of ['pointerdown','pointerup','click','dblclick','auxclick','contextmenu','mouseover','keydown','keyup','touchstart'])
 addEventListener(type, e => { if (e.type != 'mouseover' || e.target.id == 'pad')
  seen.push([e.type, e.pointerType ?? e.key ?? '', e.button ?? -1].join(':')) })
</script>"""


@pytest.mark.parametrize(
    ("step", "seen"),
    [
        ({"type": "click"}, ["pointerdown:mouse:0", "pointerup:mouse:0", "click:mouse:0"]),
        (
            {"type": "click", "button": "auxiliary"},
            ["pointerdown:mouse:1", "pointerup:mouse:1", "auxclick:mouse:1"],
        ),
        (
            {"type": "click", "button": "secondary"},
            ["pointerdown:mouse:2", "contextmenu:mouse:2", "pointerup:mouse:2"],
        ),
        ({"type": "click", "button": "forward"}, ["pointerdown:mouse:4", "pointerup:mouse:4"]),
        ({"type": "click", "deviceType": "pen"}, ["pointerdown:pen:0", "pointerup:pen:0", "click:pen:0"]),
        (
            {"type": "click", "deviceType": "touch"},
            ["pointerdown:touch:0", "touchstart::-1", "pointerup:touch:0", "click:touch:0"],
        ),
        ({"type": "doubleClick"}, ["click:mouse:0", "click:mouse:0", "dblclick::0"]),
        ({"type": "hover"}, ["mouseover::0"]),
    ],
)
async def test_the_page_sees_the_pointer_that_was_recorded(run: Runner, step: Step, seen: list[str]) -> None:
    await run.open(RECORDER)
    await run.play(step | {"selectors": ["#pad"]})
    await run.play({"type": "waitForExpression", "expression": f"seen.some(s => s == {seen[-1]!r})"})
    assert [event for event in await run.js("seen") if event in seen] == seen


async def test_a_long_press_lasts_and_held_keys_count(run: Runner) -> None:
    await run.open(
        "<p id=p>press</p><script>p.onmousedown = () => t = Date.now(); p.onclick = e => { hit = [Date.now() - t >= 290, e.shiftKey] }</script>"
    )
    await run.play(
        {"type": "keyDown", "key": "Shift"},
        {"type": "click", "selectors": ["#p"], "duration": 300},
        {"type": "keyUp", "key": "Shift"},
    )
    assert await run.js("hit") == [True, True]


@pytest.mark.parametrize(
    "key", ["Enter", "a", "KeyA", "ArrowDown", "F13", "ä", "Numpad5", "AudioVolumeUp", "Help", " "]
)
async def test_keys_go_down_and_up(run: Runner, key: str) -> None:
    await run.open(RECORDER)
    await run.play({"type": "keyDown", "key": key}, {"type": "keyUp", "key": key})
    assert [event.partition(":")[0] for event in await run.js("seen")] == ["keydown", "keyup"]


FORM = """<form><input id=text value=old><input id=number type=number><textarea id=area></textarea><input id=pass type=password>
<select id=one><option value=a>Apple<option value=b>Bear</select><input id=check type=checkbox><input id=radio type=radio name=r value=x>
<input id=color type=color><input id=range type=range min=0 max=100><input id=date type=date><input id=time type=time>
<input id=local type=datetime-local><div id=edit contenteditable>old text</div></form>
<script>window.seen = []; for (const type of ['input', 'change']) document.addEventListener(type, e => seen.push(e.target.id + ':' + type))
</script>"""


@pytest.mark.parametrize(
    ("field", "value", "expression", "expected"),
    [
        ("text", "new", "text.value", "new"),
        ("text", "old and more", "text.value", "old and more"),
        ("text", "", "text.value", ""),
        ("text", "x" * 5000, "text.value.length", 5000),
        ("text", "naïve 漢字 😀", "text.value", "naïve 漢字 😀"),
        ("number", "12.5", "number.value", "12.5"),
        ("area", "two\nlines", "area.value", "two\nlines"),
        ("pass", "secret", "pass.value", "secret"),
        ("one", "b", "one.value", "b"),
        ("one", "Bear", "one.value", "b"),
        ("check", "true", "check.checked", True),
        ("radio", "x", "radio.checked", True),
        ("color", "#ff8800", "color.value", "#ff8800"),
        ("range", "70", "range.value", "70"),
        ("date", "2026-02-03", "date.value", "2026-02-03"),
        ("time", "12:30", "time.value", "12:30"),
        ("local", "2026-02-03T12:30", "local.value", "2026-02-03T12:30"),
        ("edit", "new text", "edit.textContent", "new text"),
    ],
)
async def test_every_kind_of_field_takes_its_value_and_tells_the_page(
    run: Runner, field: str, value: str, expression: str, expected: Any
) -> None:
    await run.open(FORM)
    await run.play({"type": "change", "selectors": [f"#{field}"], "value": value})
    assert await run.js(expression) == expected
    assert {f"{field}:input", f"{field}:change"} <= set(await run.js("seen"))
    await run.js("document.activeElement.blur()")
    assert (await run.js("seen")).count(f"{field}:change") == 1


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [("one", "zebra", "element_not_ready"), ("date", "tomorrow", "value_refused")],
)
async def test_a_value_that_a_field_cannot_take_is_refused(
    run: Runner, field: str, value: str, code: str
) -> None:
    await run.open(FORM)
    failure = await run.fails({"type": "change", "selectors": [f"#{field}"], "value": value})
    assert failure.code == code and value in failure.detail


async def test_a_file_field_and_a_paragraph_take_no_text(run: Runner) -> None:
    await run.open("<input type=file><p>x")
    assert (
        await run.fails({"type": "change", "selectors": ["input"], "value": "/etc/passwd"})
    ).code == "value_refused"
    assert (await run.fails({"type": "change", "selectors": ["p"], "value": "x"})).code == "value_refused"


async def test_pages_and_elements_scroll_to_absolute_places(run: Runner) -> None:
    await run.open(
        "<style>*{scroll-behavior:smooth}</style><div id=box style='height:90px;width:90px;overflow:auto'><div style='height:999px;width:999px'></div></div><div style='height:9999px;width:9999px'>"
    )
    await run.play(
        {"type": "scroll", "selectors": ["#box"], "x": 20, "y": 30}, {"type": "scroll", "x": 40, "y": 500}
    )
    assert await run.js("[box.scrollLeft, box.scrollTop, scrollX, scrollY]") == [20, 30, 40, 500]


async def test_the_viewport_and_the_device_are_emulated(run: Runner) -> None:
    await run.open("<p>x")
    await run.play(
        {
            "type": "setViewport",
            "width": 390,
            "height": 700,
            "deviceScaleFactor": 2,
            "isMobile": True,
            "hasTouch": True,
            "isLandscape": False,
        }
    )
    await run.open("<meta name=viewport content='width=device-width'><p>x")
    assert await run.js("[innerWidth, innerHeight, devicePixelRatio, navigator.maxTouchPoints > 0]") == [
        390,
        700,
        2,
        True,
    ]
    await run.play(
        {
            "type": "setViewport",
            "width": 800,
            "height": 600,
            "deviceScaleFactor": 1,
            "isMobile": False,
            "hasTouch": False,
            "isLandscape": True,
        }
    )
    await run.open("<p>x")
    assert await run.js("[innerWidth, innerHeight, devicePixelRatio]") == [800, 600, 1]


async def test_network_conditions_hold_until_lifted(run: Runner) -> None:
    await run.open("<p>x")
    slow = {"type": "emulateNetworkConditions", "download": 1_000_000, "upload": 1_000_000, "latency": 700}
    measure = (
        "(async () => { const t = performance.now(); await fetch('?' + t); return performance.now() - t })()"
    )
    await run.play(slow)
    assert await run.js(measure) > 600
    await run.play(slow | {"download": -1, "upload": -1, "latency": 0})
    assert await run.js(measure) < 500


@pytest.mark.parametrize(
    ("wait", "fits"),
    [
        ({"selectors": ["li"]}, True),
        ({"selectors": ["li"], "count": 3, "operator": "=="}, True),
        ({"selectors": ["li"], "count": 2, "operator": "=="}, False),
        ({"selectors": ["li"], "count": 2, "operator": "<="}, False),
        ({"selectors": ["li"], "count": 4}, False),
        ({"selectors": ["li"], "count": 2, "operator": "==", "visible": True}, True),
        ({"selectors": ["#hid"], "visible": True}, False),
        ({"selectors": ["#hid"], "visible": False}, True),
        ({"selectors": ["#gone"], "visible": False}, True),
        ({"selectors": ["#gone"], "count": 0, "operator": "=="}, True),
        ({"selectors": ["li.a"], "visible": False}, False),
        ({"selectors": ["li.a"], "attributes": {"class": "a"}, "properties": {"textContent": "one", "dataset": {"x": "1"}}}, True),
        ({"selectors": ["li.a"], "attributes": {"class": "b"}}, False),
        ({"selectors": ["li.a"], "properties": {"dataset": {"x": "2"}}}, False),
        ({"selectors": ["#gone", "aria/one[role='listitem']", "li"], "count": 3}, True),
        ({"selectors": ["#later"]}, True),
    ],
)  # fmt: skip
async def test_wait_for_element_compares_what_is_there(run: Runner, wait: Step, fits: bool) -> None:
    await run.open(
        "<ul><li class=a data-x=1>one<li>two<li id=hid hidden>three</ul><script>setTimeout(() => document.body.append(Object.assign(document.createElement('p'), {id: 'later'})), 200)</script>"
    )
    step = {"type": "waitForElement"} | wait
    if fits:
        await run.play(step)
    else:
        assert (await run.fails(step)).code == "element_not_found"


@pytest.mark.parametrize(
    "expression",
    [
        "window.ready === 1",
        "new Promise(r => setTimeout(r, 100, true))",
        "1 // yes",
        "document.title == 'page';",
    ],
)
async def test_an_expression_is_waited_for(run: Runner, expression: str) -> None:
    await run.open("<script>setTimeout(() => window.ready = 1, 300)</script>")
    await run.play({"type": "waitForExpression", "expression": expression})


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("window.never", "never became true"),
        ("nothing.at.all", "nothing is not defined"),
        ("throw 1", "SyntaxError"),
        ("new Promise(() => {})", "does not end"),
        ("(() => { while (true); })()", "does not end"),
        ("Promise.reject(new Error('no luck'))", "no luck"),
    ],
)
async def test_an_expression_that_cannot_come_true_fails_in_time(
    run: Runner, expression: str, said: str
) -> None:
    await run.open("<p>x")
    failure = await run.fails({"type": "waitForExpression", "expression": expression})
    assert failure.code == "expression_failed" and said in failure.detail, failure.detail


async def test_strict_content_security_policies_do_not_hinder(run: Runner) -> None:
    await run.open("<button>go</button><input>", "/strict")
    await run.play(
        {"type": "click", "selectors": ["aria/go"]},
        {"type": "change", "selectors": ["input"], "value": "x"},
        {"type": "waitForExpression", "expression": "document.querySelector('input').value == 'x'"},
    )


async def test_foreign_custom_steps_are_passed_over(run: Runner) -> None:
    assert await run.play({"type": "customStep", "name": "somebody", "parameters": {}}) is None


# Navigation ---------------------------------------------------------------------------------------


async def test_asserted_navigations_are_awaited_also_within_the_document_and_slow_ones(run: Runner) -> None:
    there = run.serve("<p id=there>there")
    await run.open(
        f"<a href='{there}?q=1'>go</a><button onclick=\"setTimeout(() => history.pushState(0, '', '#spa'), 300)\">spa</button>"
    )
    await run.play({"type": "click", "selectors": ["text/spa"], "assertedEvents": [{"type": "navigation"}]})
    assert run.computer.page.url.endswith("#spa")
    await run.play(
        {
            "type": "click",
            "selectors": ["text/go"],
            "assertedEvents": [{"type": "navigation", "url": f"{there}?*", "title": "p*e"}],
        }
    )
    assert await run.js("!!document.querySelector('#there')")


@pytest.mark.parametrize(
    ("event", "code"),
    [
        ({"url": "*/elsewhere"}, "navigation_missing"),
        ({"title": "* shop"}, "navigation_missing"),
    ],
)
async def test_an_asserted_navigation_that_ends_elsewhere_fails(run: Runner, event: Step, code: str) -> None:
    there = run.serve("<p>there")
    await run.open(f"<a href='{there}'>go</a>")
    failure = await run.fails(
        {"type": "click", "selectors": ["a"], "assertedEvents": [{"type": "navigation"} | event]}
    )
    assert failure.code == code and "not like" in failure.detail


async def test_an_asserted_navigation_that_does_not_happen_fails(run: Runner) -> None:
    await run.open("<p>x")
    step = {"type": "click", "selectors": ["p"], "assertedEvents": [{"type": "navigation"}]}
    assert (await run.fails(step)).code == "navigation_missing"


async def test_a_recorded_address_is_a_description_and_binds_nobody(run: Runner) -> None:
    url = run.serve("<p>x")
    await run.play(
        {
            "type": "navigate",
            "url": url,
            "assertedEvents": [{"type": "navigation", "url": "https://old.test/", "title": "Old"}],
        }
    )


@pytest.mark.parametrize("host", ["127.0.0.1:1", "does-not-exist.invalid"])
async def test_an_address_that_cannot_be_reached_is_unreachable(run: Runner, host: str) -> None:
    assert (await run.fails({"type": "navigate", "url": f"http://{host}/"}, 5000)).code == "unreachable"
    await run.open(f"<a href='http://{host}/'>go</a>")
    failure = await run.fails(
        {"type": "click", "selectors": ["a"], "assertedEvents": [{"type": "navigation"}]}, 5000
    )
    assert failure.code == "unreachable"


async def test_an_address_that_never_answers_times_out(run: Runner) -> None:
    assert (
        await run.fails({"type": "navigate", "url": run.origin + "/hang", "timeout": 700})
    ).code == "timeout"
    url = run.serve(f"<img src='{run.origin}/hang'>")
    failure = await run.fails({"type": "navigate", "url": url, "timeout": 700})
    assert failure.code == "timeout" and "did not finish loading" in failure.detail


# Our steps ----------------------------------------------------------------------------------------

SHOP = """<table><tbody><tr data-id=1><td class=name>Tea <b>pot</b><td class=price>€ 1.234,50<td><a href="/p/1">see</a>
<td><ul><li>red<li>blue</ul><td><input type=checkbox checked></tr>
<tr data-id=2><td class=name>Cup<td class=price>-3 pieces<td><a href="https://x.test/2">see</a><td><ul></ul><td><input type=checkbox></tr></table>
<my-sum></my-sum><script>customElements.define('my-sum', class extends HTMLElement { connectedCallback() {
 this.attachShadow({mode: 'open'}).innerHTML = '<output>12,345</output>' } })</script>"""


async def test_extract_reads_rows_fields_types_attributes_and_nested_lists(run: Runner) -> None:
    await run.open(SHOP)
    step = {
        "type": "extract",
        "name": "rows",
        "selectors": ["#no", "tbody tr"],
        "many": True,
        "fields": {
            "id": {"attribute": "data-id", "type": "number"},
            "name": {"selectors": [".nothing", ".name"]},
            "price": {"selectors": [".price"], "type": "number"},
            "link": {"selectors": ["a"], "type": "url"},
            "colours": {"selectors": ["li"], "many": True},
            "box": {"selectors": ["input"], "type": "boolean"},
            "cell": {"selectors": [".name"], "type": "html"},
            "absent": {"selectors": [".absent"], "attribute": "title"},
            "deep": {"fields": {"label": {"selectors": ["a"]}}},
        },
        "schema": {
            "type": "array",
            "minItems": 2,
            "items": {"required": ["price"], "properties": {"price": {"type": "number"}}},
        },
    }
    assert await run.play(step) == [
        {"id": 1, "name": "Tea pot", "price": 1234.5, "link": f"{run.origin}/p/1", "colours": ["red", "blue"], "box": True,
         "cell": "Tea <b>pot</b>", "absent": None, "deep": {"label": "see"}},
        {"id": 2, "name": "Cup", "price": -3, "link": "https://x.test/2", "colours": [], "box": False, "cell": "Cup",
         "absent": None, "deep": {"label": "see"}},
    ]  # fmt: skip


async def test_extract_reads_one_object_also_from_shadow_roots_and_waits_for_it(run: Runner) -> None:
    await run.open(
        SHOP
        + "<script>setTimeout(() => document.body.append(Object.assign(document.createElement('p'), {id: 'late', textContent: 'now'})), 300)</script>"
    )
    step = {"type": "extract", "name": "x", "selectors": ["#late"], "fields": {"text": {}}}
    assert await run.play(step) == {"text": "now"}
    sums = {"sum": {"selectors": [["my-sum", "output"]], "type": "number"}}
    assert await run.play({"type": "extract", "name": "x", "fields": sums}) == {"sum": 12345}


async def test_extract_fails_on_nothing_and_on_a_schema_that_does_not_fit(run: Runner) -> None:
    await run.open("<p>x")
    step = {
        "type": "extract",
        "name": "rows",
        "selectors": ["tr"],
        "many": True,
        "fields": {"a": {"selectors": ["td"]}},
    }
    assert (await run.fails(step)).code == "element_not_found"
    assert await run.play(step | {"optional": True}) == []
    failure = await run.fails(step | {"optional": True, "schema": {"minItems": 1}})
    assert failure.code == "invalid_output" and "rows" in failure.detail


async def test_extract_reads_numbers_beyond_64_bits(run: Runner) -> None:
    numbers = [2**53, 2**63, 2**64, 10**20, -(2**64), 10**400]
    await run.open("".join(f"<p>{number}</p>" for number in numbers))
    step = {
        "type": "extract",
        "name": "n",
        "selectors": ["p"],
        "many": True,
        "fields": {"n": {"type": "number"}},
    }
    read = [row["n"] for row in await run.play(step)]
    assert read == [2**53, 2.0**63, 2.0**64, 1e20, -(2.0**64), None]
    assert [type(number) for number in read[:5]] == [int, float, float, float, float]


async def test_extract_refuses_to_swallow_a_monstrous_page(run: Runner) -> None:
    await run.open("<script>document.write('<p>' + 'x'.repeat(2e6))</script>")
    failure = await run.fails({"type": "extract", "name": "x", "fields": {"p": {"selectors": ["p"]}}}, 3000)
    assert failure.code == "invalid_output"
    fields = {"fields": {"p": {"selectors": [["p"]], "type": "text"}}}
    with pytest.raises(selectors.TooLarge):
        await selectors.read(run.computer.page.main_frame, fields, 1_000_000)


async def test_a_huge_element_is_not_pictured(run: Runner) -> None:
    await run.open("<p style='width:60000px;height:60000px'>x")
    failure = await run.fails({"type": "screenshot", "name": "p", "selectors": ["p"]}, 3000)
    assert failure.code == "too_large"


async def test_screenshots_of_the_page_and_of_an_element_are_saved(run: Runner) -> None:
    await run.open("<div style='height:3000px'></div><p style='width:120px;height:40px'>x")
    assert await run.play({"type": "screenshot", "name": "view"}) == "image/png view.png"
    await run.play({"type": "screenshot", "name": "all", "fullPage": True})
    await run.play({"type": "screenshot", "name": "part", "selectors": ["p"]})
    sizes = {
        name: (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) for name, png in run.saved.items()
    }
    assert sizes["view.png"] == (1280, 720) and sizes["all.png"][1] > 3000 and sizes["part.png"] == (120, 40)


# Placeholders, phases, and pages that misbehave -----------------------------------------------------


async def test_placeholders_are_filled_before_a_step_is_done(run: Runner) -> None:
    await run.open("<input id=a><p>Rome</p>")
    run.scope = {"params": {"city": "Rome", "n": 3}, "outputs": {}}
    await run.play(
        {"type": "change", "selectors": ["#a"], "value": "{{ params.n }}"},
        {"type": "click", "selectors": ["text/{{ params.city }}"]},
        {
            "type": "waitForExpression",
            "expression": "document.querySelector('p').textContent == {{ params.city }}",
        },
    )
    assert await run.js("a.value") == "3"
    assert (await run.fails({"type": "navigate", "url": "{{ outputs.gone }}"})).code == "placeholder_missing"
    assert (await run.fails({"type": "navigate", "url": "{{ params.city }}"})).code == "invalid_step"


async def test_finding_and_settling_can_be_cancelled_at_once_and_done_again(run: Runner) -> None:
    await run.open("<button hidden onclick='hit=1'>x</button>")
    attempt = run.attempt({"type": "click", "selectors": ["button"], "timeout": 30_000})
    for _ in range(2):
        task = asyncio.create_task(attempt.find())
        await asyncio.sleep(0.3)
        task.cancel()
        async with asyncio.timeout(20):
            with pytest.raises(asyncio.CancelledError):
                await task
    await run.js("document.querySelector('button').hidden = false")
    await attempt.find()
    acted = [attempt.acted]
    await attempt.act()
    acted.append(attempt.acted)
    await attempt.settle()
    assert acted == [False, True]
    assert await run.js("hit") == 1


async def test_an_asserted_navigation_is_not_lost_between_two_waits(run: Runner) -> None:
    there = run.serve("<p>there")
    await run.open(f"<button onclick=\"setTimeout(() => location = '{there}', 500)\">x</button>")
    attempt = run.attempt(
        {"type": "click", "selectors": ["button"], "assertedEvents": [{"type": "navigation"}]}
    )
    await attempt.find()
    await attempt.act()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await attempt.settle()
    await run.play({"type": "waitForExpression", "expression": f"location == {json.dumps(there)}"})
    await attempt.settle()


@pytest.mark.parametrize(
    "step",
    [
        {"type": "click"},
        {"type": "hover"},
        {"type": "change", "value": "new"},
        {"type": "drag", "selectors": ["p"], "to": {"selectors": ["input"]}},
    ],
)
async def test_an_element_that_leaves_before_the_action_is_named_and_nothing_has_landed(
    run: Runner, step: Step
) -> None:
    await run.open("<input value=old><p>x")
    attempt = run.attempt({"selectors": ["input"]} | step)
    await attempt.find()
    await run.js("gone = document.querySelector('input'), gone.replaceWith(gone.cloneNode()), 0")
    with pytest.raises(StepFailed) as caught:
        await attempt.act()
    assert (caught.value.code, attempt.acted) == ("element_detached", False)
    assert attempt.may_find_again(caught.value)
    assert await run.js("gone.value") == "old"
    await attempt.find()
    await attempt.act()
    assert attempt.acted and not attempt.may_find_again(caught.value)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "click", "selectors": ["button"]},
        {"type": "change", "selectors": ["input"], "value": "x"},
        {"type": "waitForElement", "selectors": ["p.x"]},
        {"type": "scroll", "y": 5},
        {"type": "extract", "name": "x", "fields": {"a": {}}},
    ],
)
async def test_a_hanging_page_fails_the_step_in_time_and_leaves_the_computer_usable(
    run: Runner, step: Step
) -> None:
    await run.open("<button>x</button><input>")
    await run.js("void setTimeout(() => { for (;;); }, 0)")
    assert (await run.fails(step)).code == "timeout"
    await run.computer.new_tab()


async def test_a_navigation_that_a_crash_breaks_off_is_a_crash_and_no_unreachable_page(run: Runner) -> None:
    await run.open("<p>x")
    attempt = run.attempt({"type": "navigate", "url": f"{run.origin}/hang"})
    await attempt.find()
    while Site.hangs.acquire(blocking=False):  # of earlier tests
        pass
    task = asyncio.create_task(attempt.act())
    assert await asyncio.to_thread(Site.hangs.acquire, timeout=20)
    page = run.computer.page
    crash = asyncio.create_task(page.goto("chrome://crash"))
    with pytest.raises(StepFailed) as caught:
        await task
    assert caught.value.code in ("page_crashed", "page_closed")
    await asyncio.gather(crash, return_exceptions=True)


async def test_a_crashing_page_is_reported_at_once(run: Runner) -> None:
    await run.open("<p>x")
    attempt = run.attempt({"type": "click", "selectors": ["#never"], "timeout": 20_000})
    task = asyncio.create_task(attempt.find())
    async with asyncio.timeout(20):
        while attempt._late.code != "element_not_found":  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    await run.computer.new_tab()
    page = run.computer.pages[0]
    crash = asyncio.create_task(page.goto("chrome://crash"))
    async with asyncio.timeout(10):
        with pytest.raises(StepFailed) as caught:
            await task
    assert caught.value.code in ("page_crashed", "page_closed")
    await asyncio.gather(crash, return_exceptions=True)


async def test_endless_alerts_do_not_hold_a_step(run: Runner) -> None:
    await run.open('<button onclick="for (let i = 0; i < 5; i++) alert(i); hit = 1">x</button>')
    await run.play({"type": "click", "selectors": ["button"]})
    await run.play({"type": "waitForExpression", "expression": "window.hit === 1"})


async def test_a_page_that_breaks_its_own_objects_fails_its_step_clearly(run: Runner) -> None:
    await run.open(
        "<button onclick='hit=1'>x</button><script>Array.prototype.find = () => { throw Error('mine') }</script>"
    )
    assert (await run.fails({"type": "click", "selectors": ["button"]})).code == "page_error"
