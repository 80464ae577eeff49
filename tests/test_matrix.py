"""Every Recorder step type with every kind of selector in every place, as the pages themselves observed it."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from playwright.async_api import Frame

from browser import selectors
from browser.chromium import Browsers, Options
from runs.replay import StepFailed
from runs.workflows import import_recorder, parse, problems
from tests.test_replay import Runner, Step, origin  # noqa: F401 - a fixture

# Each document has the same things twice: in the light, and below two shadow roots.
STAGE = """<style>body { margin: 4px; font: 13px sans-serif } .box { width: 90px; height: 40px; overflow: auto }
.box div { width: 900px; height: 900px }</style>
<button id=hit-light>Hit light</button><input id=field-light aria-label="Field light" value="Old light">
<div id=box-light class=box role=region aria-label="Box light">Box light<div></div></div>
<my-host id=host></my-host><div style="width:3000px;height:3000px"></div>
<script>
const things = `<style>.box { width: 90px; height: 40px; overflow: auto } .box div { width: 900px; height: 900px }</style>
 <i>before</i><button>Other</button><button id=hit-deep>Hit deep</button>
 <input id=field-deep aria-label="Field deep" value="Old deep">
 <div id=box-deep class=box role=region aria-label="Box deep">Box deep<div></div></div>`
customElements.define('my-inner', class extends HTMLElement { connectedCallback() {
 this.attachShadow({mode: 'open'}).innerHTML = things } })
customElements.define('my-host', class extends HTMLElement { connectedCallback() {
 this.attachShadow({mode: 'open'}).innerHTML = '<b>x</b><p><my-inner id=inner></my-inner></p>' } })
let seen = []
const note = event => seen.push(`${event.type} ${event.key ?? event.composedPath()[0].id ?? ''}`)
for (const type of ['click', 'dblclick', 'mousemove', 'change', 'keydown', 'keyup']) addEventListener(type, note, true)
const inner = document.querySelector('my-host').shadowRoot.querySelector('my-inner').shadowRoot
inner.addEventListener('change', note)  // which does not leave its shadow root
const one = name => document.getElementById(name) ?? inner.getElementById(name)
function reset() {
 for (const depth of ['light', 'deep']) {
  const field = one('field-' + depth), box = one('box-' + depth), hit = one('hit-' + depth)
  field.value = 'Old ' + depth; box.scrollTo(0, 0); delete hit.dataset.ready
  clearTimeout(hit.timer); hit.timer = setTimeout(() => { hit.dataset.ready = 'yes' }, 30)
 }
 scrollTo(0, 0); document.activeElement?.blur(); seen = []
}
function state(depth) {
 const box = one('box-' + depth)
 return {seen: [...new Set(seen)], value: one('field-' + depth).value, box: [box.scrollLeft, box.scrollTop],
  ready: one('hit-' + depth).dataset.ready ?? null, page: [scrollX, scrollY], url: location.href}
}
</script>"""


@dataclass(frozen=True)
class Place:
    """A document: what a step says to reach it, and the frame itself to ask what it saw."""

    step: Step
    frame: Callable[[], Frame]


@dataclass(frozen=True)
class Stage:
    """One main tab with a frame in a frame, a frame of another site, and a popup."""

    run: Runner
    places: dict[str, Place]
    main: str
    popup: str


@pytest.fixture(scope="module")
async def stage(origin: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:  # noqa: F811
    browsers = Browsers()
    await browsers.start()
    options = Options(downloads=tmp_path_factory.mktemp("downloads"))
    run = Runner(await browsers.open("matrix", uuid4(), options, lambda _kind, _data: None), origin)
    leaf, other, popup = (run.serve(STAGE) for _ in range(3))
    foreign = other.replace("127.0.0.1", "localhost")
    middle = run.serve(f"<p>middle<iframe width=420 height=200 src='{leaf}'></iframe>")
    frames = f"<iframe width=460 height=240 src='{middle}'></iframe><iframe width=460 height=240 src='{foreign}'></iframe>"
    main = await run.open(STAGE.replace("<my-host", frames + "<my-host", 1))
    await run.js(f"window.open('{popup}') && null")
    await run.play({"type": "waitForElement", "selectors": ["#hit-light"], "target": popup})

    def framed(url: str) -> Callable[[], Frame]:
        return lambda: next(
            frame
            for page in run.computer.pages
            for frame in page.frames
            if frame.url.partition("#")[0] == url
        )

    # Only a frame in a process of its own has a session of its own.
    await (await run.computer.page.context.new_cdp_session(framed(foreign)())).detach()
    places = {
        "main": Place({"target": "main"}, framed(main)),
        "frame": Place({"target": "main", "frame": [0, 0]}, framed(leaf)),
        "foreign frame": Place({"frame": [1]}, framed(foreign)),
        "foreign target": Place({"target": foreign}, framed(foreign)),
        "popup": Place({"target": popup}, framed(popup)),
    }
    yield Stage(run, places, main, popup)
    await browsers.close()


def by_kind(name: str, label: str, text: str) -> dict[str, Any]:
    """The selectors of one thing as DevTools writes them, by kind."""
    light = {
        "css": f"#{name}-light",
        "aria": f"aria/{label} light",
        "text": f"text/{text} light",
        "xpath": f'xpath///*[@id="{name}-light"]',
        "pierce": f"pierce/#{name}-light",
    }
    deep = {
        "deep css": ["#host", "#inner", f"#{name}-deep"],
        "deep aria": [f"aria/{label} deep"],
        "deep text": [f"text/{text} deep"],
        "deep xpath": ['xpath///*[@id="host"]', "xpath//p/my-inner", f'xpath///*[@id="{name}-deep"]'],
        "deep pierce": ["pierce/#inner", f"pierce/#{name}-deep"],
        "deep mixed": ["pierce/my-inner", f"aria/{label} deep"],
    }
    return light | deep


HITS, FIELDS, BOXES = (
    by_kind("hit", "Hit", "Hit"),
    by_kind("field", "Field", "Old"),
    by_kind("box", "Box", "Box"),
)

# What the step is, what it is done to, and what the page must then tell.
ON_ELEMENTS: dict[str, tuple[Step, dict[str, Any], Callable[[dict[str, Any], str], bool]]] = {
    "click": ({}, HITS, lambda page, at: f"click hit-{at}" in page["seen"]),
    "doubleClick": ({}, HITS, lambda page, at: f"dblclick hit-{at}" in page["seen"]),
    "hover": ({}, HITS, lambda page, at: f"mousemove hit-{at}" in page["seen"]),
    "change": (
        {"value": "new"},
        FIELDS,
        lambda page, at: page["value"] == "new" and f"change field-{at}" in page["seen"],
    ),
    "scroll": ({"x": 7, "y": 11}, BOXES, lambda page, at: page["box"] == [7, 11]),
    "waitForElement": ({"attributes": {"data-ready": "yes"}}, HITS, lambda page, at: page["ready"] == "yes"),
}
PLACES = ["main", "frame", "foreign frame", "foreign target", "popup"]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ON_ELEMENTS)
async def test_every_kind_of_selector_leads_a_step_to_its_element(
    stage: Stage, place: str, kind: str
) -> None:
    where, (step, alternatives, landed) = stage.places[place], ON_ELEMENTS[kind]
    fates: dict[str, Any] = {}
    for name, selector in alternatives.items():
        depth = "deep" if name.startswith("deep") else "light"
        frame = where.frame()
        await frame.evaluate("reset()")
        try:
            await stage.run.play(
                {"type": kind, "selectors": [selector], **where.step, **step}, timeout=10_000
            )
            page = await frame.evaluate("depth => state(depth)", depth)
            fates[name] = landed(page, depth) or page
        except StepFailed as failure:
            fates[name] = failure.detail
    assert fates == dict.fromkeys(alternatives, True)


async def seen_by(place: Place) -> dict[str, Any]:
    page: dict[str, Any] = await place.frame().evaluate("state('light')")
    return page


async def reach(stage: Stage, place: Place) -> None:
    """Give the place's document the keyboard, and forget what it has seen."""
    await stage.run.play({"type": "click", "selectors": ["#field-light"], **place.step})
    await place.frame().evaluate("seen = []")


# The step without selectors, and what the page must then tell.
ON_DOCUMENTS: dict[str, tuple[list[Step], Callable[[dict[str, Any]], Any], Any]] = {
    "scroll": ([{"type": "scroll", "x": 13, "y": 170}], lambda page: page["page"], [13, 170]),
    "waitForExpression": (
        [{"type": "waitForExpression", "expression": "seen.push('looked at') > 2"}],
        lambda page: page["seen"],
        ["looked at"],
    ),
    "keyDown, keyUp": (
        [{"type": "keyDown", "key": "F7"}, {"type": "keyUp", "key": "F7"}],
        lambda page: page["seen"],
        ["keydown F7", "keyup F7"],
    ),
    "customStep": ([{"type": "customStep", "name": "x"}], lambda page: page["seen"], []),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", ON_DOCUMENTS)
async def test_a_step_without_selectors_is_done_in_its_document(stage: Stage, place: str, kind: str) -> None:
    where, (steps, observed, wanted) = stage.places[place], ON_DOCUMENTS[kind]
    await where.frame().evaluate("reset()")
    await reach(stage, where)
    await stage.run.play(*({**where.step, **step} for step in steps), timeout=10_000)
    assert observed(await seen_by(where)) == wanted


@pytest.mark.parametrize("place", ["main", "popup"])
async def test_a_step_on_a_tab_is_done_in_its_tab(stage: Stage, place: str) -> None:
    where = stage.places[place]
    elsewhere = stage.places["popup" if place == "main" else "main"]
    size, untouched = (
        "[innerWidth, innerHeight]",
        await elsewhere.frame().evaluate("[innerWidth, innerHeight]"),
    )
    viewport = {"type": "setViewport", "deviceScaleFactor": 1, "isMobile": False, "hasTouch": False}
    before = await where.frame().evaluate(size)
    await stage.run.play(viewport | where.step | {"width": 871, "height": 653, "isLandscape": False})
    assert await where.frame().evaluate(size) == [871, 653]
    assert await elsewhere.frame().evaluate(size) == untouched
    await stage.run.play(
        viewport | where.step | {"width": before[0], "height": before[1], "isLandscape": True}
    )

    reachable = "fetch('?' + Math.random()).then(() => true, () => false)"
    network = {"type": "emulateNetworkConditions", **where.step, "latency": 0}
    await stage.run.play(network | {"download": 0, "upload": 0})
    assert await where.frame().evaluate(reachable) is False
    assert await elsewhere.frame().evaluate(reachable) is True
    await stage.run.play(network | {"download": -1, "upload": -1})
    assert await where.frame().evaluate(reachable) is True


async def test_a_popup_is_led_elsewhere_and_closed_by_its_address(stage: Stage) -> None:
    first, second = stage.run.serve("<p>first"), stage.run.serve("<p>second")
    await stage.places["main"].frame().evaluate(f"window.open('{first}') && null")
    await stage.run.play({"type": "navigate", "url": second, "target": first})
    assert [page.url for page in stage.run.computer.pages] == [stage.main, stage.popup, second]
    await stage.run.play({"type": "close", "target": second})
    assert [page.url for page in stage.run.computer.pages] == [stage.main, stage.popup]


# As DevTools records it ---------------------------------------------------------------------------

RECORDING: dict[str, Any] = {
    "title": "Recording 11/26/2026 at 3:58:39 PM",
    "timeout": 5000,
    "selectorAttribute": "data-qa",
    "steps": [
        {"type": "emulateNetworkConditions", "download": 0, "upload": 0, "latency": 0},
        {
            "type": "setViewport",
            "width": 1280,
            "height": 720,
            "deviceScaleFactor": 1,
            "isMobile": False,
            "hasTouch": False,
            "isLandscape": False,
        },
        {
            "type": "navigate",
            "url": "chrome://new-tab-page/",
            "assertedEvents": [{"type": "navigation", "url": "chrome://new-tab-page/", "title": "New Tab"}],
        },
        {
            "type": "click",
            "target": "main",
            "frame": [0, 1],
            "selectors": [
                ["aria/Sign in", 'aria/[role="generic"]'],
                ["#app > div:nth-of-type(2)", "[data-qa=\"it's\"]"],
                ["xpath///*[@data-qa=\"C:\\\"]"],
                ["pierce/#app"],
                ["text/It's (\"here\")"],
            ],
            "offsetX": 11.5,
            "offsetY": -0.25,
            "duration": 12345.6,
            "deviceType": "touch",
            "button": "secondary",
        },
        {"type": "keyDown", "target": "main", "frame": [0], "key": "Dead"},
        {"type": "keyUp", "target": "main", "key": "Unidentified"},
        {"type": "waitForElement", "selectors": ["#a"], "operator": "<=", "count": 2, "visible": True,
         "properties": {"dataset": {"a": "1"}, "hidden": False}, "attributes": {"lang": "en"}},
        {"type": "waitForElement", "selectors": ["css/#a"]},
        {"type": "waitForExpression", "expression": "document.title === 'x'", "frame": [0]},
        {"type": "scroll", "selectors": [["#a"]], "x": 0, "y": 12.5},
        {"type": "customStep", "name": "their.step", "parameters": None, "target": "main"},
        {"type": "close", "target": "https://shop.example/popup"},
    ],
}  # fmt: skip


async def test_a_recording_with_everything_that_devtools_writes_is_imported_without_complaint() -> None:
    definition = import_recorder(json.dumps(RECORDING))
    assert (problems(definition, None), definition) == ([], RECORDING)


async def test_a_recording_that_begins_on_an_empty_tab_begins_on_an_empty_page(stage: Stage) -> None:
    """What DevTools asserts of the new tab's page describes it and binds nobody."""
    step = parse(RECORDING, None).steps[2]
    tab = stage.run.serve("<p>tab")
    await stage.places["main"].frame().evaluate(f"window.open('{tab}') && null")
    await stage.run.play(step | {"target": tab})
    assert stage.run.computer.page.url == "about:blank"
    await stage.run.play({"type": "close", "target": "about:blank"})


async def test_a_key_that_no_keyboard_layout_has_still_reaches_the_page(stage: Stage) -> None:
    where = stage.places["main"]
    await where.frame().evaluate("reset()")
    await reach(stage, where)
    for key in ("Dead", "BrowserBack", "Power"):
        await stage.run.play({"type": "keyDown", "key": key}, {"type": "keyUp", "key": key})
    assert (await seen_by(where))["seen"] == [
        f"{kind} {key}" for key in ("Dead", "BrowserBack", "Power") for kind in ("keydown", "keyup")
    ]


# Each element has its own role or name; Chromium itself says what they are.
ACCESSIBLE = """<style>#upper { text-transform: uppercase } #each { text-transform: capitalize }
#star::before { content: "★ " } #tail::after { content: "»" } i { display: inline-block }</style>
<button id=star>Starred</button><button id=tail>More</button><button id=upper>Add to cart</button>
<button id=each>every word of it's</button><button id=broken>Two<br>lines</button><button id=blocks><i>In</i><i>line</i></button>
<button id=icon><svg><title>Bin</title></svg></button><button id=labelled aria-labelledby="l1 l2">x</button>
<b id=l1>One</b><b id=l2>Two <s hidden>no</s></b><button id=tip title=Tip></button><button id=partly>Yes<s style="display:none">no</s></button>
<button id=unseen><s aria-hidden=true>x</s>Save</button><a id=link href="#"><p>Block</p><p>link</p></a><a id=pic href="#"><img alt=Map src="data:,"></a>
<label for=mail>Your <u>mail</u></label><input id=mail><label>Days <input id=days type=number value=5></label>
<input id=ph placeholder=Search><input id=titled title=Titled placeholder=no><input id=go type=submit value=Go>
<input id=sw type=checkbox role=switch aria-label=Wifi><textarea id=ta aria-label=Note></textarea><select id=one aria-label=One1><option>1</select>
<select id=many multiple aria-label=Many><option id=opt>First<optgroup id=og label=Group><option id=opt2>Inner</optgroup></select>
<h2 id=head>A <b>big</b> head</h2><details id=det><summary id=sum>Details</summary>x</details><summary>loose</summary>
<table><caption id=cap>Prices</caption><tr id=tr><td id=td>5<th id=th>Head</table><div id=row role=row><div id=gc role=gridcell>Cell</div></div>
<section></section><section id=region aria-label=Part>x</section><header id=banner>x</header><nav id=nav aria-label=Nav>x</nav>
<dl id=dl><dt id=dt>Term<dd id=dd>Def</dl><figure id=fig><figcaption id=fc>Fc</figcaption></figure><fieldset id=fs><legend id=lg>Leg</legend></fieldset>
<em id=em>e</em><strong id=strong>s</strong><code id=code>c</code><time id=time>t</time><blockquote id=bq>b</blockquote><mark id=mark>m</mark>
<img alt="" src="data:,"><svg id=svg aria-label=Logo></svg><div id=two role="nonsense button">Second role</div><div id=upcase role=BUTTON>Upper role</div>
<div id=tab role=tab>Tab</div><div id=cb role=checkbox aria-checked=false>Box</div><span id=plain title=Hint>x</span><hr id=hr><p id=p>x</p>"""


# Text, the document, and what a list shows when it unfolds.
NOT_ELEMENTS = {"StaticText", "InlineTextBox", "LineBreak", "RootWebArea", "MenuListPopup", "option"}


async def test_aria_selectors_find_what_chromium_finds(stage: Stage) -> None:
    url = stage.run.serve(ACCESSIBLE)
    await stage.places["main"].frame().evaluate(f"window.open('{url}') && null")
    await stage.run.play({"type": "click", "selectors": ["#p"], "target": url})
    page = stage.run.computer.page
    cdp = await page.context.new_cdp_session(page)
    root = (await cdp.send("DOM.getDocument"))["root"]["backendNodeId"]
    theirs, ours = {}, {}
    for node in (await cdp.send("Accessibility.getFullAXTree"))["nodes"]:
        role = node.get("role", {}).get("value")
        name = node.get("name", {}).get("value", "")
        if node["ignored"] or role in NOT_ELEMENTS:
            continue
        query = {"backendNodeId": root, "role": role} | ({"accessibleName": name} if name else {})
        nodes = (await cdp.send("Accessibility.queryAXTree", query))["nodes"]
        first = next(found["backendDOMNodeId"] for found in nodes if not found["ignored"])
        selector = f'aria/{name}[role="{role}"]'
        theirs[selector] = (await cdp.send("DOM.describeNode", {"backendNodeId": first}))["node"][
            "attributes"
        ]
        match await selectors.find(page.main_frame, [[selector]], attached=True):
            case selectors.Found(element):
                ours[selector] = await element.evaluate(
                    "(element) => [...element.attributes].flatMap(({name, value}) => [name, value])"
                )
    await stage.run.play({"type": "close", "target": url})
    assert len(theirs) > 55 and ours == theirs


# Fields, and what is peculiar to them -------------------------------------------------------------

FORM = """<p style="width:150px;font:16px/20px monospace">Some words <a id=wrapped onclick="window.pressed = 'wrapped'">and a link that wraps</a></p>
<button id=spaced>Several
  words</button><input id=mixed type=checkbox><div id=switch role=switch aria-checked=false tabindex=0>Dark</div>
<input id=fixed readonly value=old><input id=shy readonly onfocus="readOnly = false" value=old>
<select id=list><option value=a>Apple<option value=b>Bear</select><button id=next>Next</button>
<script>mixed.indeterminate = mixed.checked = true
document.getElementById('switch').onclick = event => { event.target.ariaChecked = event.target.ariaChecked !== 'true' }
next.onclick = () => { window.pressed = list.value }</script>"""


@pytest.fixture
async def form(stage: Stage) -> AsyncIterator[Callable[..., Awaitable[Any]]]:
    """Plays steps in a tab that holds the form, and evaluates what they left there."""
    url = stage.run.serve(FORM)
    await stage.places["main"].frame().evaluate(f"window.open('{url}') && null")

    async def play(left: str, *steps: Step) -> Any:
        await stage.run.play(*(step | {"target": url} for step in steps), timeout=10_000)
        return await stage.run.computer.page.evaluate(left)

    yield play
    await stage.run.play({"type": "close", "target": url})


async def test_boxes_and_switches_end_as_the_step_says(form: Callable[..., Awaitable[Any]]) -> None:
    mixed, switch = ({"type": "change", "selectors": [name]} for name in ("#mixed", "#switch"))
    state = "[mixed.checked, mixed.indeterminate]"
    assert await form(state, mixed | {"value": "true"}) == [True, False]
    assert await form(state, mixed | {"value": "false"}) == [False, False]
    state = "document.getElementById('switch').ariaChecked"
    assert await form(state, switch | {"value": "true"}, switch | {"value": "on"}) == "true"
    assert await form(state, switch | {"value": "false"}) == "false"


async def test_a_field_that_can_only_be_read_is_left_alone(form: Callable[..., Awaitable[Any]]) -> None:
    with pytest.raises(StepFailed) as caught:
        await form("0", {"type": "change", "selectors": ["#fixed"], "value": "new"})
    assert caught.value.code == "value_refused"
    shy = {"type": "change", "selectors": ["#shy"], "value": "new"}
    assert await form("[fixed.value, shy.value]", shy) == ["old", "new"]


async def test_a_list_that_a_click_unfolded_does_not_swallow_the_next_click(
    form: Callable[..., Awaitable[Any]],
) -> None:
    """DevTools records the click on the list and then the choice."""
    steps = [
        {"type": "click", "selectors": ["#list"]},
        {"type": "change", "selectors": ["#list"], "value": "b"},
        {"type": "click", "selectors": ["text/Next"]},
    ]
    assert await form("window.pressed", *steps) == "b"


async def test_an_expression_that_finds_no_elements_gives_way_to_the_next_selector(
    form: Callable[..., Awaitable[Any]],
) -> None:
    click = {"type": "click", "selectors": ["xpath/count(//button)", "pierce/!", "css/#next"]}
    assert await form("window.pressed", click) == "a"


async def test_a_path_in_a_shadow_root_counts_and_a_list_is_known_by_its_value(stage: Stage) -> None:
    """As the reference does: the second of two siblings, and a list's text is the value chosen in it."""
    url = stage.run.serve(
        """<div id=host></div><select id=list><option value=usd>Dollar</select><script>
        const root = host.attachShadow({mode: 'open'}); root.innerHTML = '<button>1</button><button>2</button>'
        root.addEventListener('click', event => { window.hit = event.target.textContent })
        onclick = event => { if (event.target === list) window.hit = 'list' }</script>"""
    )
    await stage.places["main"].frame().evaluate(f"window.open('{url}') && null")
    hits = []
    for selector in (["#host", "xpath//button[2]"], "text/usd"):
        await stage.run.play({"type": "click", "selectors": [selector], "target": url}, timeout=10_000)
        hits.append(await stage.run.computer.page.evaluate("window.hit"))
    await stage.run.play({"type": "close", "target": url})
    assert hits == ["2", "list"]


async def test_a_text_may_wrap_and_be_spaced_otherwise_than_when_it_was_recorded(
    form: Callable[..., Awaitable[Any]],
) -> None:
    corner = {"type": "click", "selectors": ["#wrapped"], "offsetX": 2, "offsetY": 2}
    assert await form("window.pressed", corner) == "wrapped"
    spaced = {"type": "click", "selectors": ["text/Several\n     words"]}
    assert await form("document.activeElement.id", spaced) == "spaced"
