"""What an agent may do by itself: told from the action and from what it meets, on real pages."""

import statistics
import time
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic import TypeAdapter, ValidationError

import db
from browser.actions import Action, ActionFailed, perform
from browser.chromium import Browsers, Computer, Options
from models import Run
from runs import engine, telling_words
from runs.sensitivity import REASONS, acts, assess, examine, needs_approval
from schemas import RunCreate
from tests import pages
from tests.pages import Site

ACTION: TypeAdapter[Any] = TypeAdapter(Action)

SHOP = """<title>Shop</title><style>body {margin: 0} .bar {height: 30px}</style>
<div class=bar><button id=more type=button>Show more</button></div>
<form method=post action=/second><input id=note name=note><button id=go>Go on</button><div id=roll role=button>Roll</div></form>
<form id=search action=/second role=search><input id=q name=q><textarea id=big></textarea><button id=find>Find</button></form>
<form action=/second><input id=user name=user><input id=pass type=password><button id=in>Enter</button></form>
<form action=/second><input id=card autocomplete=cc-number><input id=tick type=checkbox><button id=next>Next</button></form>
<form action=/second><input id=plain><button id=over formmethod=post formaction=/pay>Over</button></form>
<form action=/second><input id=file type=file><button id=give>Give</button></form>
<form method=post id=outer><input name=method><input name=getAttribute><input name=parentNode><input name=elements>
 <button id=clobbered>Onward</button></form>
<button id=lies aria-label="Read more">Jetzt kaufen</button><button id=drawn><img alt="Pay now" src=""></button>
<button id=titled title="Delete this">x</button><div id=made><span>Place order</span></div>
<a id=leads href=/second>Second</a><a id=file_link href=/second download>Paper</a><a id=outside href=https://elsewhere.example/>Away</a>
<a id=buys href=/second>Buy</a><a id=headline href=/second>How to buy a house in nine easy steps</a><a id=script href="javascript:1">Buy it when you have thought about it</a>
<label id=named for=go>Onward</label><label id=label for=agree>I agree to everything</label><input id=agree type=checkbox>
<textarea id=chat></textarea><div id=rich contenteditable>rich</div><input id=loose aria-label="Reply to Ann"><input id=calm aria-label="Name">
<input id=otp autocomplete=one-time-code><input id=cardish name=card_number><input id=pin placeholder="Verification code"><p id=text>Some words</p>
<x-pay id=closed style="display:block;width:80px;height:20px"></x-pay><x-open id=open></x-open>
<button id=deep style="margin-top:3000px">Cancel subscription</button>
<script>
  for (const name of ['type', 'form', 'formMethod']) {
    for (const kind of [HTMLButtonElement, HTMLInputElement])
      Object.defineProperty(kind.prototype, name, {get() { return name === 'form' ? null : 'button' }});
  }
  Element.prototype.getAttribute = () => ''; Element.prototype.closest = () => null; JSON.stringify = () => '{}';
  customElements.define('x-pay', class extends HTMLElement {
    constructor() { super(); this.attachShadow({mode: 'closed'}).innerHTML = '<button>Pay</button>' } });
  customElements.define('x-open', class extends HTMLElement {
    constructor() { super(); this.attachShadow({mode: 'open'}).innerHTML = '<button>Pay</button>' } });
</script>"""
FRAMES = """<title>Frames</title><style>body {margin: 0} iframe {position: absolute; left: 40px; top: 50px; border: 3px solid; padding: 7px}</style>
<button>Top</button><script>
  const frame = document.createElement('iframe'); frame.src = location.origin.replace('127.0.0.1', 'localhost') + '/pay';
  document.body.append(frame);
</script>"""
PAY = """<title>Pay</title><style>body {margin: 0}</style><form method=post><button style="width: 100px; height: 40px">Pay 12 €</button>
<input id=cc autocomplete=cc-number autofocus></form>"""


@pytest.fixture(scope="module")
async def site() -> AsyncIterator[Site]:
    async with pages.serve({"/shop": SHOP, "/frames": FRAMES, "/pay": PAY}) as running:
        yield running


@pytest.fixture(scope="module")
async def computer(site: Site, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Computer]:
    """One whose user allows the site, by both its names."""
    browsers = Browsers()
    await browsers.start()

    def check(url: str) -> str | None:
        return None if url.startswith((site.url(""), site.other(""))) else "it is elsewhere"

    options = Options(downloads=tmp_path_factory.mktemp("downloads"), check_url=check)
    yield await browsers.open("alice", uuid4(), options, lambda *_: None)
    await browsers.close()


@pytest.fixture
async def shop(computer: Computer, site: Site) -> Computer:
    await computer.page.goto(site.url("/shop"))
    return computer


def made(action: str, **fields: Any) -> Any:
    return ACTION.validate_python({"action": action, **fields})


def at(selector: str) -> dict[str, Any]:
    return {"target": {"selector": selector}}


async def reasons(computer: Computer, action: str, **fields: Any) -> tuple[str, ...]:
    return await assess(computer, made(action, **fields))


@pytest.mark.parametrize(
    ("selector", "wanted"),
    [
        ("#more", ()),
        ("#go", ("submit",)),
        ("#roll", ()),
        ("#find", ()),
        ("#in", ("credentials",)),
        ("#next", ("payment",)),
        ("#over", ("submit",)),
        ("#give", ()),
        ("#clobbered", ("submit",)),
        ("#lies", ("payment",)),
        ("#drawn", ("payment",)),
        ("#titled", ("delete",)),
        ("#made", ("payment",)),
        ("#leads", ()),
        ("#file_link", ("download",)),
        ("#outside", ("leave_site",)),
        ("#buys", ("payment",)),
        ("#headline", ()),
        ("#script", ("payment",)),
        ("#label", ("confirm",)),
        ("#named", ("submit",)),
        ("#note", ()),
        ("#pass", ()),
        ("#text", ()),
        ("#closed", ("unknown",)),
        ("#open", ("payment",)),
        ("x-open >> css=button", ("payment",)),
        ("#deep", ("delete",)),
    ],
)  # fmt: skip
async def test_a_click_matters_for_what_it_sets_going(
    shop: Computer, selector: str, wanted: tuple[str, ...]
) -> None:
    assert await reasons(shop, "click", **at(selector)) == wanted


async def test_a_click_at_a_place_is_judged_by_what_lies_there(shop: Computer) -> None:
    for selector, wanted in (
        ("#go", ("submit",)),
        ("#in", ("credentials",)),
        ("#more", ()),
        ("#open", ("payment",)),
    ):
        await shop.page.locator(selector).scroll_into_view_if_needed()
        box = await shop.page.locator(selector).bounding_box()
        assert box is not None
        place = {"x": box["x"] + box["width"] / 2, "y": box["y"] + box["height"] / 2}
        assert await reasons(shop, "click", target={"coordinate": place}) == wanted
        assert await reasons(shop, "mouse_down", coordinate=place) == wanted
        assert await reasons(shop, "mouse_up", coordinate=place) == wanted
        somewhere = {"coordinate": {"x": 900, "y": 5}}
        assert await reasons(shop, "drag", start={"coordinate": place}, end=somewhere) == wanted
        assert await reasons(shop, "drag", start=somewhere, end={"coordinate": place}) == wanted
        assert await reasons(shop, "click", button="right", target={"coordinate": place}) == ()
        assert await reasons(shop, "hover", target={"coordinate": place}) == ()


async def test_frames_of_other_sites_are_looked_into(computer: Computer, site: Site) -> None:
    await computer.page.goto(site.url("/frames"))
    inside = {"x": 40 + 3 + 7 + 50, "y": 50 + 3 + 7 + 20}
    seen = await examine(computer, made("click", target={"coordinate": inside}))
    assert (seen.reasons, seen.hosts) == (("payment", "submit"), ("127.0.0.1", "localhost"))
    assert seen.subject == (
        f"button 'Pay 12 €' in a form that sends to {site.other('/pay')} (POST) on {site.other('/pay')}"
    )
    tree = (await perform(computer, made("read_page"))).output["tree"]
    ref = tree.split('button "Pay 12 €" [ref=', 1)[1].split("]", 1)[0]
    assert await reasons(computer, "click", target={"ref": ref}) == ("payment", "submit")
    assert await reasons(computer, "click", **at("iframe")) == ()  # in its middle there is nothing
    await computer.page.frames[1].locator("#cc").focus()
    assert await reasons(computer, "key", keys="Enter") == ("payment", "submit")
    assert await reasons(computer, "type", text="4111") == ("payment",)
    assert await reasons(computer, "click", target={"coordinate": {"x": 5, "y": 5}}) == ()


@pytest.mark.parametrize(
    ("focus", "keys", "wanted"),
    [
        ("#note", "Enter", ("submit",)),
        ("#note", "a", ()),
        ("#note", "space", ()),
        ("#note", "Delete", ()),
        ("#q", "Return", ()),
        ("#big", "Enter", ()),
        ("#pass", "Enter", ("credentials",)),
        ("#card", "NumpadEnter", ("payment",)),
        ("#tick", "Enter", ("payment",)),
        ("#tick", "space", ()),
        ("#chat", "Enter", ("send",)),
        ("#chat", "ctrl+Enter", ("send",)),
        ("#rich", "Enter", ("send",)),
        ("#loose", "Enter", ("post",)),
        ("#calm", "Enter", ()),
        ("#go", "space", ("submit",)),
        ("#go", "shift+Enter", ("submit",)),
        ("#go", "ArrowDown", ()),
        ("#more", "Enter", ()),
        ("#deep", "Enter", ("delete",)),
        ("#more", "Delete", ("delete",)),
        ("#more", "Tab+Enter", ("unknown",)),
    ],
)
async def test_a_key_matters_for_what_has_the_focus(
    shop: Computer, focus: str, keys: str, wanted: tuple[str, ...]
) -> None:
    await shop.page.locator(focus).focus()
    assert await reasons(shop, "key", keys=keys) == wanted
    assert await reasons(shop, "hold_key", keys=keys, duration_ms=10) == wanted


@pytest.mark.parametrize(
    ("selector", "text", "wanted"),
    [
        ("#note", "tea", ()),
        ("#note", "tea\n", ("submit",)),
        ("#q", "tea\n", ()),
        ("#pass", "x", ("credentials",)),
        ("#otp", "1", ("credentials",)),
        ("#pin", "1", ("credentials",)),
        ("#card", "4", ("payment",)),
        ("#cardish", "4", ("payment",)),
        ("#go", "x", ("submit",)),
        ("#lies", " ", ("payment",)),
    ],
)
async def test_what_is_typed_matters_for_its_field_and_its_line_breaks(
    shop: Computer, selector: str, text: str, wanted: tuple[str, ...]
) -> None:
    assert await reasons(shop, "type", text=text, **at(selector)) == wanted
    if selector not in ("#go", "#lies"):
        await shop.page.locator(selector).focus()
        assert await reasons(shop, "type", text=text) == wanted


async def test_values_that_are_set_matter_for_their_field(shop: Computer) -> None:
    for selector, value, wanted in (
        ("#note", "tea", ()),
        ("#pass", "x", ("credentials",)),
        ("#cardish", "4", ("payment",)),
        ("#agree", True, ("confirm",)),
        ("#tick", True, ()),
    ):
        assert await reasons(shop, "form_input", value=value, **at(selector)) == wanted


async def test_files_in_a_form_go_with_it(shop: Computer) -> None:
    await shop.page.locator("#file").set_input_files({"name": "a", "mimeType": "text/plain", "buffer": b"a"})
    assert await reasons(shop, "click", **at("#give")) == ("upload",)
    assert await reasons(shop, "file_upload", files=["a"]) == ("upload",)


async def test_what_the_action_alone_tells(shop: Computer, site: Site) -> None:
    assert await reasons(shop, "evaluate", expression="1") == ("script",)
    assert await reasons(shop, "navigate", url=site.url("/second")) == ()
    assert await reasons(shop, "navigate", url="https://elsewhere.example/") == ("leave_site",)
    assert await reasons(shop, "new_tab", url="https://elsewhere.example/") == ("leave_site",)
    assert await reasons(shop, "new_tab") == ()
    looks = [made("read_page"), made("screenshot"), made("scroll", dy=9), made("list_tabs"), made("wait")]
    assert [await assess(shop, look) for look in looks] == [()] * 5
    assert not any(map(acts, looks))
    assert acts(made("navigate", url=site.url("/"))) and acts(made("click", **at("#more")))


async def test_what_is_not_there_is_not_judged(shop: Computer) -> None:
    for target in ({"selector": "#nowhere"}, {"ref": "ref_e999"}):
        with pytest.raises(ActionFailed) as failed:
            await reasons(shop, "click", target=target, timeout_ms=500)
        assert failed.value.code == "not_found"


async def test_another_element_is_another_subject(shop: Computer) -> None:
    go = made("click", **at("#go"))
    before = await examine(shop, go)
    assert await examine(shop, go) == before
    await shop.page.evaluate("document.getElementById('named').textContent = 'Go away'")
    renamed = await examine(shop, go)
    await shop.page.evaluate("document.forms[0].action = '/elsewhere'")
    led = await examine(shop, go)
    assert len({before.subject, renamed.subject, led.subject}) == 3


async def test_a_page_sees_nothing_of_the_look(shop: Computer) -> None:
    await shop.page.evaluate(
        "window.seen = []; new MutationObserver(all => seen.push(...all.map(one => one.type)))"
        ".observe(document, {subtree: true, childList: true, attributes: true})"
    )
    await reasons(shop, "click", **at("#go"))
    assert await shop.page.evaluate("[seen, Object.keys(window).filter(name => name.includes('cua'))]") == [
        [],
        [],
    ]


async def test_a_look_takes_no_time_that_counts(shop: Computer) -> None:
    go, took = made("click", **at("#go")), []
    for _ in range(20):
        began = time.perf_counter()
        await assess(shop, go)
        took.append(time.perf_counter() - began)
    assert statistics.median(took) < 0.05  # a few milliseconds where nothing else runs


# Words ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("Pay", {"payment"}),
        ("PAY 12 €", {"payment"}),
        ("P\u200bay now", {"payment"}),
        ("Jetzt kostenpflichtig bestellen", {"payment"}),
        ("Zur Kasse", {"payment"}),
        ("Acheter", {"payment"}),
        ("Оплатить", {"payment"}),
        ("立即付款", {"payment"}),
        ("注文を確定する", {"payment"}),
        ("결제하기", {"payment"}),
        ("Sipariş ver", {"payment"}),
        ("Löschen", {"delete"}),
        ("Konto löschen", {"delete"}),
        ("Supprimer", {"delete"}),
        ("हटाएं", {"delete"}),
        ("حذف", {"delete"}),
        ("Отправить", {"send"}),
        ("Enviar", {"send"}),
        ("送信", {"send"}),
        ("Sign", {"confirm"}),
        ("Sign the contract", {"confirm"}),
        ("Publish", {"post"}),
        ("Sign in", set()),
        ("Sign out", set()),
        ("Payload", set()),
        ("Postcards", set()),
        ("Sort order", set()),
        ("Accept all cookies", set()),
        ("Show more", set()),
        ("Weiter", set()),
        ("", set()),
    ],
)
def test_words_tell_what_is_done(label: str, wanted: set[str]) -> None:
    assert {*telling_words.reasons(label)} >= wanted
    assert bool({*telling_words.reasons(label)}) is bool(wanted)


def test_every_reason_is_one_of_the_vocabulary() -> None:
    assert {*telling_words.TELLING} <= {*REASONS}


# Whether that needs a yes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "reasons", "acts", "wanted"),
    [
        ("shop.example", ("payment",), True, True),
        ("shop.example", (), True, False),
        ("trusted.example", ("payment",), True, False),
        ("bank.example", (), True, True),
        ("www.bank.example", (), True, True),
        ("www.bank.example", (), False, False),
        ("open.bank.example", ("payment",), True, False),
        ("notbank.example", (), True, False),
        ("", ("payment",), True, True),
    ],
)
def test_the_rule_of_the_most_specific_domain_holds(
    host: str, reasons: tuple[str, ...], acts: bool, wanted: bool
) -> None:
    domains = {"bank.example": "always", "open.bank.example": "never", "trusted.example": "never"}
    policy = {"mode": "sensitive", "domains": domains}
    assert needs_approval(policy, reasons, host, acts=acts) is wanted


def test_of_several_hosts_the_strictest_rule_holds() -> None:
    policy = {"mode": "never", "domains": {"bank.example": "always"}}
    assert needs_approval(policy, (), "shop.example", "bank.example")
    assert not needs_approval(policy, ("payment",), "shop.example")
    assert needs_approval({"mode": "always"}, (), "shop.example")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, {"mode": "sensitive", "domains": {}, "timeout_seconds": 86_400}),
        ({"approval": "never"}, {"mode": "never", "domains": {}, "timeout_seconds": 86_400}),
        (
            {"approval": {"mode": "never", "domains": {"Bank.Example": "always"}, "timeout_seconds": 60}},
            {"mode": "never", "domains": {"bank.example": "always"}, "timeout_seconds": 60},
        ),
    ],
)
async def test_a_run_keeps_when_its_agents_ask(
    user: str, database: str, given: dict[str, Any], kept: dict[str, Any]
) -> None:
    later = {"run_after": "2100-01-01T00:00:00Z"}
    async with db.as_user(user, "user") as tx:
        await engine.enqueue(tx, RunCreate.model_validate({"task": "Do it", "model": "demo"} | later | given))
        (run,) = await tx.find(Run)
    assert run.agent["approval"] == kept


@pytest.mark.parametrize(
    "approval",
    ["sometimes", {"mode": "no"}, {"domains": {"bank.example:443": "never"}}, {"domains": {"a b": "never"}}],
)
def test_a_rule_that_is_none_is_refused(approval: object) -> None:
    with pytest.raises(ValidationError):
        RunCreate.model_validate({"task": "Do it", "approval": approval})
