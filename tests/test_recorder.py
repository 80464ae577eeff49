"""What a model did is recorded as a flow that does the same again without it."""

from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID, uuid4

import orjson
import pytest
from playwright.async_api import ElementHandle

import db
from browser import actions, recorder, selectors
from browser.chromium import Browsers, Computer, Options
from demo.shop import Shop
from infra.redaction import Redactor
from models import Run, Step, Workflow
from runs import engine, workflows
from runs.deeds import Deed, Press
from runs.replay import Attempt
from runs.workflows import Flow, InvalidWorkflow
from schemas import RunRetry, RunToWorkflow
from tests import flow_site
from tests.pages import Site, serve
from tests.test_agent import begin
from tests.workers import ACTION, ended, read, start, steps_of, until

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

PAGE = """<title>Page</title><h1>Teas</h1>
<button id=go>Go</button><button id=":r1:" class="css-1a2b3c">Made up</button>
<input name=q aria-label=Search><input data-testid=mail><label>Gift <input type=checkbox name=gift></label>
<a href="/second" target=_blank>Other tab</a>
<button type=button onclick="location='/second'"><span id=inner><b>Leave</b></span></button>
<ul><li><h2>Assam</h2><button>Add</button></li><li><h2>Sencha</h2><button>Add</button></li></ul>
<div class=x1y2><p></p><p></p></div>
<x-box></x-box><iframe srcdoc="<iframe srcdoc='<input aria-label=Deep>'></iframe>"></iframe>
<div id=list style="height:80px;overflow:auto"><p style="height:900px">long</p></div>
<select aria-label=City><option value="">None<option value=r>Rome</select><textarea aria-label=Note></textarea>
<p style="height:3000px"><script>
  customElements.define('x-box', class extends HTMLElement { connectedCallback() {
    this.attachShadow({mode: 'open'}).innerHTML = '<button class=star aria-label="Rate 5">*</button><i></i>';
  }});
  window.told = [];
  for (const kind of ['click', 'dblclick', 'change', 'keydown', 'drop'])
    addEventListener(kind, e => told.push([kind, e.key ?? e.composedPath()[0].tagName, e.target.value ?? '']), true);
</script>"""


@pytest.fixture(scope="module")
async def pages() -> AsyncIterator[Site]:
    async with serve({"/page": PAGE}) as site:
        yield site


@pytest.fixture(scope="module")
async def shared_computer(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Computer]:
    browsers = Browsers()
    await browsers.start()
    options = Options(downloads=tmp_path_factory.mktemp("downloads"))
    yield await browsers.open("recorder", uuid4(), options, lambda _kind, _data: None)
    await browsers.close()


@pytest.fixture
async def computer(shared_computer: Computer, pages: Site) -> Computer:
    """The computer with one tab, on the page."""
    fresh = await shared_computer.new_tab()
    for tab in shared_computer.tabs():
        if tab["id"] != fresh.id:
            await shared_computer.close_tab(tab["id"])
    await fresh.page.goto(pages.url("/page"))
    return shared_computer


async def element(computer: Computer, css: str) -> ElementHandle:
    return await computer.page.locator(css).element_handle()


async def selectors_of(computer: Computer, css: str) -> selectors.Selectors:
    seen = await recorder.describe(await element(computer, css))
    assert seen is not None
    for parts in seen.selectors:
        found = await selectors.find(computer.page.main_frame, [parts], attached=True)
        assert isinstance(found, selectors.Found), (parts, found)
        assert await found.element.evaluate("(found, wanted) => found === wanted", seen.element), parts
    return seen.selectors


async def do(
    computer: Computer,
    shown: Callable[[Any], Any] = lambda told: told,
    press: Press | None = None,
    /,
    **action: Any,
) -> list[dict[str, Any]]:
    """Do one action and return what was recorded of it."""
    return await recorded(computer, Deed(computer, ACTION.validate_python(action), None, shown, press=press))


async def recorded(computer: Computer, deed: Deed) -> list[dict[str, Any]]:
    await deed.find()
    await deed.act()
    await deed.settle()
    await actions.rest(computer)
    steps = await deed.recorded()
    definition = {"title": "Recorded", "steps": steps or [{"type": "navigate", "url": "about:blank"}]}
    assert workflows.problems(definition, {}) == []
    return steps


async def replay(computer: Computer, steps: list[dict[str, Any]]) -> None:
    async def save(*_: Any) -> str:
        raise AssertionError

    for step in steps:
        attempt = Attempt(
            computer, Flow("test", 3_000, (step,), {}), step, {"params": {}, "outputs": {}}, save
        )
        await attempt.find()
        await attempt.act()
        await attempt.settle()


# Elements -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("css", "expected"),
    [
        (
            "#go",
            [['aria/Go[role="button"]'], ["#go"], ['xpath///button[@id="go"]'], ["pierce/#go"], ["text/Go"]],
        ),
        (
            "button.css-1a2b3c",
            [
                ['aria/Made up[role="button"]'],
                ['xpath///button[normalize-space()="Made up"]'],
                ["text/Made up"],
            ],
        ),
        (
            "[name=q]",
            [
                ['aria/Search[role="textbox"]'],
                ['input[name="q"]'],
                ['xpath///input[@name="q"]'],
                ['pierce/input[name="q"]'],
            ],
        ),
        (
            "[data-testid]",
            [
                ['[data-testid="mail"]'],
                ['xpath///input[@data-testid="mail"]'],
                ['pierce/[data-testid="mail"]'],
            ],
        ),
        (
            "x-box button",
            [['aria/Rate 5[role="button"]'], ["x-box", "button.star"], ["pierce/button.star"], ["text/*"]],
        ),
        (
            "li:nth-of-type(2) button",
            [['xpath///li[.//*[normalize-space()="Sencha"]]//button[normalize-space()="Add"]']],
        ),
        (
            "div p:nth-of-type(2) >> nth=0",
            [["html > body > div:nth-of-type(1) > p:nth-of-type(2)"], ["xpath//html/body/div[1]/p[2]"]],
        ),
    ],
)
async def test_the_selectors_of_an_element_lead_to_it_alone_the_most_telling_first(
    computer: Computer, css: str, expected: selectors.Selectors
) -> None:
    assert await selectors_of(computer, css) == expected


async def test_an_element_in_a_frame_is_named_inside_of_it(computer: Computer) -> None:
    frame = computer.page.main_frame.child_frames[0].child_frames[0]
    field = await frame.wait_for_selector("input")
    assert field is not None
    seen = await recorder.describe(field)
    assert seen is not None
    assert (seen.frame, seen.selectors) == ([0, 0], [['aria/Deep[role="textbox"]']])
    box = await field.bounding_box()
    assert box is not None
    at = await recorder.describe_at(computer.page, box["x"] + 5, box["y"] + 6)
    assert at is not None
    assert (at.frame, at.selectors, at.offset) == (seen.frame, seen.selectors, (5, 6))


async def test_a_place_names_the_control_that_a_click_there_uses(computer: Computer) -> None:
    box = await (await element(computer, "#inner")).bounding_box()
    assert box is not None
    seen = await recorder.describe_at(computer.page, box["x"] + 2, box["y"] + 2, used=True)
    assert seen is not None
    assert seen.selectors[0] == ['aria/Leave[role="button"]']


# Actions --------------------------------------------------------------------------------------------


def on(name: str, role: str) -> dict[str, Any]:
    return {"selector": f'role={role}[name="{name}"]'}


GO = {"type": "click", "target": "main", "selectors": [['aria/Go[role="button"]'], ["#go"], ['xpath///button[@id="go"]'], ["pierce/#go"], ["text/Go"]]}  # fmt: skip


ANY: dict[str, Any] = {"parameters": {"properties": {"site": {}, "what": {}, "count": {}}}}


def brief(steps: list[dict[str, Any]]) -> list[Any]:
    """The steps with the first selector of each."""
    return [
        {
            **{name: value for name, value in step.items() if name != "selectors"},
            **({"selectors": step["selectors"][0][0]} if "selectors" in step else {}),
        }
        for step in steps
    ]


async def test_a_click_is_recorded_with_its_button_its_keys_and_its_place(computer: Computer) -> None:
    assert await do(computer, action="click", target={"selector": "#go"}) == [GO]
    twice = await do(computer, action="click", target={"selector": "#go"}, count=2, button="middle")
    assert twice == [GO | {"type": "doubleClick", "button": "auxiliary"}]
    held = await do(computer, action="click", target={"selector": "#go"}, modifiers=["Control", "Shift"])
    control, shift = ({"type": "keyDown", "target": "main", "key": key} for key in ("Control", "Shift"))
    assert held == [control, shift, GO, shift | {"type": "keyUp"}, control | {"type": "keyUp"}]
    box = await (await element(computer, "#go")).bounding_box()
    assert box is not None
    at = {"coordinate": {"x": box["x"] + 4, "y": box["y"] + 7}}
    assert await do(computer, action="click", target=at) == [GO | {"offsetX": 4, "offsetY": 7}]


async def test_a_click_that_leads_to_another_document_asserts_that(computer: Computer, pages: Site) -> None:
    steps = await do(computer, action="click", target=on("Leave", "button"))
    [event] = steps[0]["assertedEvents"]
    assert event == {"type": "navigation", "url": pages.url("/second"), "title": "Second"}
    await do(computer, action="navigate", url=pages.url("/page"))
    await replay(computer, steps)
    assert computer.page.url == pages.url("/second")


async def test_one_of_many_equal_buttons_is_found_by_its_row_wherever_that_has_moved(
    computer: Computer,
) -> None:
    steps = await do(computer, action="click", target={"selector": "li:nth-of-type(2) button"})
    swapped = "[...document.querySelectorAll('li')].reverse().forEach(row => row.parentNode.append(row))"
    heard = "onclick = event => window.row = event.target.closest('li').innerText"
    await computer.page.evaluate(f"() => {{ {swapped}; {heard} }}")
    await replay(computer, steps)
    assert "Sencha" in await computer.page.evaluate("window.row")


async def test_what_is_typed_is_the_value_that_the_field_was_given(computer: Computer) -> None:
    search, note = on("Search", "textbox"), on("Note", "textbox")
    [first] = await do(computer, action="type", target=search, text="green ")
    assert brief([first]) == [
        {"type": "change", "target": "main", "selectors": 'aria/Search[role="textbox"]', "value": "green "}
    ]
    steps = await do(computer, action="type", text="tea {{ params.x }}\n")
    assert [step.get("value", step.get("key")) for step in steps] == [
        'green tea {{ "{{" }} params.x }}', "Enter", "Enter",
    ]  # fmt: skip
    lines = await do(computer, action="type", target=note, text="one\ntwo")
    assert [step.get("value") for step in lines] == ["one\ntwo"]
    leaving = await do(computer, action="type", target=search, text="black\tx", clear=True)
    assert [step.get("value", step.get("key")) for step in leaving] == ["black", "Tab", "Tab", "x", "x"]
    await computer.page.reload()
    await replay(computer, [first, *steps, *lines])
    assert await computer.page.input_value("[name=q]") == "green tea {{ params.x }}"
    assert await computer.page.input_value("textarea") == "one\ntwo"


async def test_a_secret_stays_what_it_is_called(computer: Computer) -> None:
    given = "{{ secrets.shop.password }} {{"
    for action in ({"action": "type", "text": given}, {"action": "form_input", "value": given}):
        [step] = await do(computer, target={"selector": "[name=q]"}, **action)
        assert step["value"] == '{{ secrets.shop.password }} {{ "{{" }}'


async def test_what_has_shown_a_secret_is_left_out(computer: Computer) -> None:
    redactor = Redactor()
    for value in ("hush {{ hush", "Made up"):
        redactor.add(value, "{{ secrets.shop.text }}")
    await computer.page.fill("[name=q]", "hush {{ ")
    [step] = await do(computer, redactor, action="type", text="hush", target=on("Search", "textbox"))
    assert step["value"] == "{{ secrets.shop.text }}"
    await computer.page.evaluate("document.querySelector('[name=q]').value = '{{ secrets.bank.text }}'")
    [step] = await do(computer, redactor, action="type", text="", target=on("Search", "textbox"))
    assert step["value"] == '{{ "{{" }} secrets.bank.text }}'
    assert await do(computer, redactor, action="click", target={"selector": "button.css-1a2b3c"}) == []


async def test_fields_are_changed_to_what_they_hold(computer: Computer) -> None:
    for css, value, expected in (
        ("[name=gift]", True, "true"),
        ("select", "Rome", "r"),
        ("select", "None", "None"),
        ("[name=q]", 5, "5"),
    ):
        [step] = await do(computer, action="form_input", target={"selector": css}, value=value)
        assert (step["type"], step["value"]) == ("change", expected)
    await do(computer, action="form_input", target={"selector": "select"}, value="r")
    await replay(computer, [step])
    assert await computer.page.input_value("[name=q]") == "5"


async def test_keys_go_down_and_up_in_their_order(computer: Computer) -> None:
    steps = await do(computer, action="key", keys="ctrl+a")
    assert [(step["type"], step["key"]) for step in steps] == [
        ("keyDown", "Control"), ("keyDown", "a"), ("keyUp", "a"), ("keyUp", "Control"),
    ]  # fmt: skip
    plus = await do(computer, action="key", keys="+", repeat=2)
    assert [(step["type"], step["key"]) for step in plus] == [("keyDown", "+"), ("keyUp", "+")] * 2


async def test_scrolling_is_recorded_where_it_has_led_to(computer: Computer) -> None:
    assert await do(computer, action="scroll", dy=300) == [
        {"type": "scroll", "target": "main", "x": 0, "y": 300}
    ]
    [inner] = await do(computer, action="scroll", dy=120, target={"selector": "#list"})
    assert (inner["selectors"][0], inner["y"]) == (["#list"], 120)
    assert await do(computer, action="scroll", dy=-5000) != []
    assert await do(computer, action="scroll", dy=-5000) == []


async def test_another_tab_is_named_by_its_address(computer: Computer, pages: Site) -> None:
    second = pages.url("/second")
    steps = await do(computer, action="click", target=on("Other tab", "link"))
    assert computer.page.url == second
    steps += await do(computer, action="wait", target={"selector": "p"})
    steps += await do(computer, action="close_tab")
    steps += await do(computer, action="new_tab", url=pages.url("/static"))
    steps += await do(computer, action="evaluate", expression="const n = 1; document.title = 'Set' + n")
    steps += await do(computer, action="evaluate", expression="document.title += '!'")
    assert [(step["type"], step["target"]) for step in steps] == [
        ("click", "main"),
        ("waitForElement", second),
        ("close", second),
        ("waitForExpression", "main"),
        ("waitForExpression", pages.url("/static")),
        ("waitForExpression", pages.url("/static")),
    ]
    await computer.close_tab(computer.active.id)
    await replay(computer, steps)
    assert [page.url for page in computer.pages] == [pages.url("/page"), pages.url("/static")]
    assert await computer.page.title() == "Set1!"


async def test_an_empty_tab_counts_from_its_first_page_on(computer: Computer, pages: Site) -> None:
    await do(computer, action="navigate", url="about:blank")
    assert await do(computer, action="new_tab") == []
    url = pages.url("/second")
    opened = {"type": "navigate", "target": "main", "url": url}
    assert await do(computer, action="navigate", url=url) == [opened]
    [step] = await do(computer, action="click", target={"selector": "p"})
    assert step["target"] == url
    await do(computer, action="new_tab")
    [step] = await do(computer, action="navigate", url=pages.url("/static"))
    assert "window.open" in step["expression"]


async def test_going_back_opens_the_address_that_it_led_to(computer: Computer, pages: Site) -> None:
    await do(computer, action="navigate", url=pages.url("/second"))
    assert await do(computer, action="back") == [
        {"type": "navigate", "target": "main", "url": pages.url("/page")}
    ]


async def test_a_drag_goes_from_one_element_to_another(computer: Computer) -> None:
    start, end = {"selector": "h2 >> nth=0"}, {"selector": "h2 >> nth=1"}
    [step] = await do(computer, action="drag", start=start, end=end)
    assert (step["type"], step["selectors"][0], step["to"]["selectors"][0]) == (
        "drag", ['aria/Assam[role="heading"]'], ['aria/Sencha[role="heading"]'],
    )  # fmt: skip
    await replay(computer, [step])


async def middle(computer: Computer, css: str) -> dict[str, float]:
    box = await (await element(computer, css)).bounding_box()
    assert box is not None
    return {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}


async def pressed_and_released(computer: Computer, start: str, end: str) -> list[dict[str, Any]]:
    """What is recorded of a button that goes down at one thing and up at another."""
    at = await middle(computer, start), await middle(computer, end)
    down = Deed(computer, ACTION.validate_python({"action": "mouse_down", "coordinate": at[0]}))
    assert await recorded(computer, down) == []
    assert await do(computer, action="mouse_move", coordinate=at[1]) == []
    return await do(computer, lambda told: told, down.press, action="mouse_up", coordinate=at[1])


async def test_a_button_that_goes_down_and_up_is_a_drag_or_a_click(computer: Computer) -> None:
    [drag] = await pressed_and_released(computer, "h2 >> nth=0", "h2 >> nth=1")
    assert (drag["type"], drag["selectors"][0], drag["to"]["selectors"][0]) == (
        "drag", ['aria/Assam[role="heading"]'], ['aria/Sencha[role="heading"]'],
    )  # fmt: skip
    [click] = await pressed_and_released(computer, "#go", "#go")
    assert (click["type"], click["selectors"][0]) == ("click", ['aria/Go[role="button"]'])
    await computer.page.evaluate("told.length = 0")
    await replay(computer, [drag, click])
    assert ["click", "BUTTON", ""] in await computer.page.evaluate("told")
    assert await do(computer, action="mouse_up", coordinate=await middle(computer, "#go")) == []


async def test_three_clicks_select_what_a_field_holds(computer: Computer) -> None:
    field = {"selector": "[name=q]"}
    await computer.page.fill("[name=q]", "green tea, loose")
    steps = await do(computer, action="click", target=field, count=3)
    deleted = await do(computer, action="key", keys="Delete")
    assert await computer.page.input_value("[name=q]") == ""
    await computer.page.fill("[name=q]", "green tea, loose")
    await replay(computer, [*steps, *deleted])
    assert await computer.page.input_value("[name=q]") == ""


async def test_each_of_several_choices_is_chosen_again(computer: Computer) -> None:
    options = "".join(f"<option value={name}>{name.title()}</option>" for name in ("paris", "rome", "oslo"))
    made = (
        f"document.querySelector('select').outerHTML = '<select multiple aria-label=City>{options}</select>'"
    )
    chosen = "() => [...document.querySelector('select').selectedOptions].map(option => option.value)"
    await computer.page.evaluate(made)
    given = {"target": {"selector": "select"}, "value": ["Rome", "oslo"]}
    steps = await do(computer, action="form_input", **given)
    assert await computer.page.evaluate(chosen) == ["rome", "oslo"]
    await computer.page.evaluate(made)
    await computer.page.select_option("select", "paris")
    await replay(computer, steps)
    assert await computer.page.evaluate(chosen) == ["rome", "oslo"]


@pytest.mark.parametrize("action", ["screenshot", "read_page", "get_page_text", "list_tabs"])
async def test_looking_leaves_nothing_behind(computer: Computer, action: str) -> None:
    assert await do(computer, action=action) == []


# Runs -----------------------------------------------------------------------------------------------


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with Shop() as shop:
        yield shop


async def turned(user: str, run_id: UUID) -> Workflow:
    """The workflow that the run is turned into."""
    async with db.as_user(user, "user") as tx:
        reply = await workflows.from_run(tx, await tx.one(Run, id=run_id), RunToWorkflow())
    workflow_id = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    async with db.as_user(user) as tx:
        return await tx.one(Workflow, id=workflow_id)


async def test_what_an_agent_bought_is_bought_again_without_it(user: str, worker: UUID, shop: Shop) -> None:
    run = await ended(
        user,
        await begin(
            user,
            f"open {shop.url}/",
            "type tea into 'Search the shop'",
            "press Enter",
            "wait for '3 for'",
            "click 'Sencha green tea'",
            "click 'Rate 4 of 5'",
            "type 3 into Quantity",
            "click 'Add to cart'",
            "click 'Go to checkout'",
            "type 'Grace Hopper' into 'Full name'",
            "choose express in Shipping",
            "check 'Wrap it as a gift'",
            "type 4000123456789010 into 'Card number'",
            "click 'Use this card'",
            "wait for 'Card ending in 9010'",
            "click 'Place order'",
            "wait for 'Thank you'",
            approval="never",
        ),
        60,
    )
    assert run.error is None, run.error
    workflow = await turned(user, run.id)
    steps = workflow.definition["steps"]
    assert [step["type"] for step in steps] == [
        *(
            "setViewport",
            "navigate",
            "change",
            "keyDown",
            "keyUp",
            "click",
            "click",
            "change",
            "click",
            "click",
        ),
        *("change", "change", "change", "change", "click", "click"),
    ]
    assert {"agent"} & {step["type"] for step in steps} == set()
    assert [step.get("frame") for step in steps if "frame" in step] == [[0], [0]]
    assert workflows.problems(workflow.definition, workflow.parameters) == []
    assert workflows.import_recorder(workflows.export_recorder(workflow.definition)) == workflow.definition
    again = await ended(user, await start(user, [], definition=workflow.definition), 60)
    assert again.error is None, again.error
    one, other = (visit for visit in shop._visits.values() if visit.order)
    assert one == other
    assert other.cart == {"sencha": 3}
    assert other.order == {"name": "Grace Hopper", "shipping": "express", "gift": "on"}


@pytest.fixture
async def flow_shop() -> AsyncIterator[flow_site.FlowSite]:
    async with flow_site.serve() as site:
        yield site


async def test_late_lists_popups_and_payment_frames_of_another_site_are_gone_through_again(
    user: str, worker: UUID, flow_shop: flow_site.FlowSite
) -> None:
    run = await done(
        user,
        f"open {flow_shop.url}/search",
        "type darjeeling into 'What are you looking for?'",
        "click 'Darjeeling Oolong'",
        "wait for '18,50'",
        f"open {flow_shop.url}/sso",
        "click 'Continue with Acme ID'",
        "type ada into 'Acme name'",
        "click Next",
        "click Allow",
        "wait for 'Signed in as'",
        f"open {flow_shop.url}/pay",
        "type 4242424242424242 into 'Card number'",
        "type 123 into 'Security code'",
        "click 'Pay €'",
        "wait for 'Thank you'",
    )
    told = dict(flow_shop.told)
    flow_shop.told.clear()
    workflow = await turned(user, run.id)
    again = await ended(user, await start(user, [], definition=workflow.definition), 60)
    assert again.error is None, again.error
    assert dict(flow_shop.told) == told
    assert told["teas"] == ["Darjeeling Oolong"]
    assert told["codes"] == ["code-ada"]
    assert told["cards"] == [("4242 4242 4242 4242", "123")]
    assert told["payments"] == ["tok_4242"]


async def test_a_recorded_run_finds_its_way_on_a_page_whose_order_has_changed(
    user: str, worker: UUID, pages: Site
) -> None:
    run = await read(user, (await done(user, f"open {pages.url('/page')}", "click Go", "click Leave")).id)
    workflow = await turned(user, run.id)
    moved = {
        "/page": PAGE.replace("<h1>Teas</h1>", "<div><h1>Teas</h1><button>First</button></div><p>New</p>")
    }
    async with serve(moved) as other:
        text = orjson.dumps(workflow.definition).decode().replace(pages.url(""), other.url(""))
        again = await ended(user, await start(user, [], definition=orjson.loads(text)))
    assert again.error is None, again.error
    assert "/second" in other.asked


async def done(user: str, *lines: str) -> Run:
    run = await ended(user, await begin(user, *lines, approval="never"))
    assert run.error is None, run.error
    return run


async def test_a_failed_call_records_nothing_and_a_run_that_did_nothing_is_refused(
    user: str, worker: UUID, pages: Site
) -> None:
    gave_up = await ended(user, await begin(user, f"open {pages.url('/page')}", "check Go"))
    kept = {step.type: (step.status, step.recorded) for step in await steps_of(user, gave_up.id)}
    assert kept["navigate"][1] == [{"type": "navigate", "target": "main", "url": pages.url("/page")}]
    assert kept["form_input"] == ("failed", None)
    run = await done(user, "say 'Nothing to do'", "finish Done")
    assert [step.recorded for step in await steps_of(user, run.id)] == [None] * 3
    with pytest.raises(InvalidWorkflow) as refused:
        await turned(user, run.id)
    assert [problem.pointer for problem in refused.value.problems] == ["/steps/0"]


async def test_what_the_task_was_told_is_told_to_the_workflow_too(
    user: str, worker: UUID, pages: Site
) -> None:
    task = "open {{ params.site }}page\ntype '{{ params.what }}' into Search\nfinish {{ params.count }}"
    params = {"site": pages.url("/"), "what": "{{ tea", "count": 3}
    agent = {"type": "agent", "task": task}
    run = await ended(user, await start(user, [agent], params=params, model="demo", **ANY))
    assert run.error is None, run.error
    workflow = await turned(user, run.id)
    _, opened, typed = workflow.definition["steps"]
    assert (opened["url"], typed["value"]) == ("{{ params.site }}page", "{{ params.what }}")
    assert workflow.parameters["properties"]["what"] == {"default": "{{ tea", "type": "string"}


async def test_a_retry_takes_what_was_done_before_it_from_the_run_that_it_retries(
    user: str, worker: UUID, pages: Site
) -> None:
    agent = {"type": "agent", "task": f"open {pages.url('/page')}\nfinish Done"}
    waits = {"type": "waitForElement", "selectors": ["#never"], "timeout": 300}
    failed = await ended(user, await start(user, [agent, waits], model="demo"))
    assert failed.status == "failed"
    async with db.as_user(user, "user") as tx:
        reply = await engine.retry(tx, await tx.one(Run, id=failed.id), RunRetry(from_step=2))
    again = UUID(orjson.loads(bytes(reply.body))["data"]["id"])
    await until(user, again, status="waiting_user")
    steps = (await turned(user, again)).definition["steps"]
    assert [step["type"] for step in steps] == ["setViewport", "navigate", "waitForElement"]


async def test_what_is_done_inside_of_other_steps_takes_its_place_there(
    user: str, worker: UUID, pages: Site
) -> None:
    url = pages.url("/second")
    task = {"type": "agent", "task": f"open {url}\nopen {url}\nfinish Done", "name": "said"}
    loop = {"type": "forEach", "items": ["one", "two"], "name": "all", "steps": [task]}
    never = {"type": "if", "value": False, "then": [task | {"task": "finish Done"}]}
    run = await ended(user, await start(user, [loop, never], model="demo"), 60)
    assert run.error is None, run.error
    async with db.as_user(user) as tx:
        last = (await tx.find(Step, run_id=run.id))[-2]  # of the second round, before the `if`
        assert last.pointer.startswith("/steps/0/steps/0/calls/")
        await tx.change(Step, {"id": last.id}, recorded=[GO])
    viewport, turned_loop, kept = (await turned(user, run.id)).definition["steps"]
    assert viewport == {
        "type": "setViewport", "width": 1280, "height": 720,
        "deviceScaleFactor": 1, "isMobile": False, "hasTouch": False, "isLandscape": False,
    }  # fmt: skip
    assert turned_loop == loop | {"steps": [{"type": "navigate", "target": "main", "url": url}]}
    assert kept == never
