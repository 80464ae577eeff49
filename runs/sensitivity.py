"""What an agent may do by itself: why an action matters, told by code from the action and what it meets.

Nothing here asks the model or believes the page: words of a page can only make an action matter more. The
elements are looked at in a world that the page's scripts do not reach (`browser.inspection`).
"""

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from browser import actions, inspection
from browser.actions import Action, Target
from browser.chromium import Computer, Tab
from browser.inspection import Seen
from infra.egress import within
from infra.redaction import cut
from runs import telling_words

REASONS = (
    "payment",
    "credentials",
    "delete",
    "send",
    "post",
    "confirm",
    "submit",
    "upload",
    "download",
    "script",
    "leave_site",
    "unknown",
)
"""Why an action may matter: `submit` is a form sent with POST, `unknown` what cannot be looked into."""
LOOKS = (
    actions.ListTabs,
    actions.SwitchTab,
    actions.MouseMove,
    actions.Hover,
    actions.Scroll,
    actions.ScrollTo,
    actions.Wait,
    actions.Screenshot,
    actions.Zoom,
    actions.ReadPage,
    actions.GetPageText,
    actions.Find,
    actions.ReadConsole,
    actions.ReadNetwork,
)
MODIFIERS = frozenset(("Alt", "Control", "Meta", "Shift", "AltGraph", "ControlOrMeta"))
ENTERS, SPACES, DELETES = ("Enter", "NumpadEnter", "\n", "\r"), ("Space", " "), ("Delete", "Backspace")
MOST_SECONDS = 5.0
_MS = 2_000  # of one look
STRICTNESS = ("never", "sensitive", "always")

Mode = Literal["press", "enter", "space", "write", "set", "erase"]


@dataclass(frozen=True, slots=True)
class Assessment:
    """Why an action matters, if it does; whose pages it concerns; and what it meets, in words.

    `subject` is another one when the element, its form or its page has become another one.
    """

    reasons: tuple[str, ...]
    hosts: tuple[str, ...]
    subject: str


async def assess(computer: Computer, action: Action) -> tuple[str, ...]:
    """Why the action matters, of `REASONS`; empty when it does not. Raises ActionFailed, ComputerClosed."""
    return (await examine(computer, action)).reasons


async def examine(computer: Computer, action: Action) -> Assessment:
    """Look at what the action would meet now.

    Raises ActionFailed, also where its target is not there, and ComputerClosed.
    """
    async with actions.explained(computer, action), asyncio.timeout(MOST_SECONDS):
        await computer.settled()
        tab = computer.tab(action.tab) if action.tab and action.activates else computer.active
        met = await _met(tab, action)
        url = tab.page.url
    found = {*_of_action(computer, action)}
    for seen, mode in met:
        found |= {*_of_seen(computer, seen, mode)}
    addresses = [url, *(address for seen, _ in met for address in (*seen.around, seen.url))]
    if isinstance(action, actions.Navigate | actions.NewTab) and action.url:
        addresses.append(action.url)
    hosts = dict.fromkeys(host for address in addresses if (host := _host(address)))
    subject = "; ".join(dict.fromkeys(_in_words(seen) for seen, _ in met))
    return Assessment(tuple(sorted(found, key=REASONS.index)), tuple(hosts), subject)


def needs_approval(policy: Mapping[str, Any], reasons: Iterable[str], *hosts: str, acts: bool = True) -> bool:
    """Whether a person has to agree first; of several hosts the strictest one's rule holds.

    `policy` is `{"mode": "never" | "sensitive" | "always", "domains": {domain: mode}}`; the longest domain
    that a host is within decides for it. An action that does not act (`acts`) needs nobody's leave.
    """
    mode = max((_mode(policy, host) for host in hosts or ("",)), key=STRICTNESS.index)
    return acts and (mode == "always" or (mode == "sensitive" and any(True for _ in reasons)))


def acts(action: Action) -> bool:
    """Whether it does more than look."""
    return not isinstance(action, LOOKS)


def _mode(policy: Mapping[str, Any], host: str) -> str:
    fitting = [domain for domain in policy.get("domains") or () if within(host, domain)]
    return str(policy["domains"][max(fitting, key=len)] if fitting else policy["mode"])


# What is met ---------------------------------------------------------------------------------------


async def _met(tab: Tab, action: Action) -> list[tuple[Seen, Mode]]:
    """What the action meets, and what it does to each."""
    match action:
        case actions.Click(button="right"):
            return []
        case actions.Click():
            return [(await _pressed(tab, action.target), "press")]
        case actions.MouseDown() | actions.MouseUp():
            return [(await _pressed(tab, Target(coordinate=action.coordinate)), "press")]
        case actions.Drag():
            return [(await _pressed(tab, each), "press") for each in (action.start, action.end)]
        case actions.FormInput():
            return [(await _itself(tab, action.target), "set")]
        case actions.Type():
            return await _typed(tab, action)
        case actions.Key() | actions.HoldKey():
            modes = _modes(actions.key_names(action.keys).split("+"))
            return [(await inspection.focused(tab.page, _MS), mode) for mode in modes]
    return []


async def _typed(tab: Tab, action: actions.Type) -> list[tuple[Seen, Mode]]:
    if action.target is not None:
        field = await _pressed(tab, action.target)
        met: list[tuple[Seen, Mode]] = [(field, "press")]
    else:
        field, met = await inspection.focused(tab.page, _MS), []
    return met + [(field, mode) for mode in ("write", *_modes(action.text))]


def _modes(keys: Iterable[str]) -> list[Mode]:
    """What keys do, besides writing; each of a text, or those of a combination."""
    pressed = {*keys} - MODIFIERS
    found: list[Mode] = []
    if pressed & {*ENTERS}:
        found.append("enter")
    if pressed & {*SPACES}:
        found.append("space")
    if pressed & {*DELETES}:
        found.append("erase")
    return found


async def _pressed(tab: Tab, target: Target) -> Seen:
    if target.coordinate is not None:
        return await inspection.at(tab.page, target.coordinate.x, target.coordinate.y, _MS)
    return await inspection.pressed(tab.page, target.locate(tab), _MS)


async def _itself(tab: Tab, target: Target) -> Seen:
    if target.coordinate is not None:
        return await inspection.at(tab.page, target.coordinate.x, target.coordinate.y, _MS)
    return await inspection.itself(tab.page, target.locate(tab), _MS)


# Why that matters ----------------------------------------------------------------------------------


def _of_action(computer: Computer, action: Action) -> Iterator[str]:
    """What the action alone tells."""
    match action:
        case actions.Evaluate():
            yield "script"
        case actions.FileUpload():
            yield "upload"
        case actions.Navigate(url=str(url)) | actions.NewTab(url=str(url)) if computer.options.check_url(url):
            yield "leave_site"
        case actions.Key(keys=keys) | actions.HoldKey(keys=keys) if _moves_on(actions.key_names(keys)):
            yield "unknown"


def _moves_on(keys: str) -> bool:
    """Whether a combination presses one key after another, the second of which may meet something else."""
    return len({*keys.split("+")} - MODIFIERS) > 1


def _of_seen(computer: Computer, seen: Seen, mode: Mode) -> Iterator[str]:
    facts = seen.facts
    if facts is None or facts["blind"]:
        if facts is not None or seen.around:
            yield "unknown"
        return
    if mode in ("write", "set"):
        yield from _of_field(facts)
    if facts["text"]:
        if mode == "enter":
            yield from _of_enter(facts)
    elif mode == "erase":
        yield "delete"
    elif mode != "write":
        yield from _of_press(computer, facts, enters=mode == "enter")


def _of_field(facts: Mapping[str, Any]) -> Iterator[str]:
    if facts.get("password") or facts.get("code"):
        yield "credentials"
    if facts.get("card"):
        yield "payment"


def _of_press(computer: Computer, facts: Mapping[str, Any], *, enters: bool) -> Iterator[str]:
    link = facts["link"]
    leads = bool(link) and facts["role"] == "link" and link.startswith(("http://", "https://"))
    for words in facts["words"]:
        yield from telling_words.reasons(words, leads=leads)
    if facts["form"] and (facts["submits"] or (enters and facts["input"])):
        yield from _of_form(facts["form"])
    if facts["download"]:
        yield "download"
    if leads and computer.options.check_url(link):
        yield "leave_site"


def _of_enter(facts: Mapping[str, Any]) -> Iterator[str]:
    """Enter in a text field: it sends the form, or what a page without one makes of it."""
    if facts["form"]:
        yield from _of_form(facts["form"])
        for words in facts["form"]["words"]:
            yield from telling_words.reasons(words)
    elif facts["multiline"]:
        yield "send"
    else:
        yield from telling_words.reasons(facts["name"])


def _of_form(form: Mapping[str, Any]) -> Iterator[str]:
    yield from _of_field(form)
    if form["files"]:
        yield "upload"
    if form["method"] == "post":
        yield "submit"


# In words ------------------------------------------------------------------------------------------


def _in_words(seen: Seen) -> str:
    if (facts := seen.facts) is None:
        return f"something on {cut(seen.url, 200)}"
    what = f"{facts['role']} {cut(facts['name'], 100)!r}"
    if form := facts["form"]:
        what += f" in a form that sends to {cut(form['target'], 200)} ({form['method'].upper()})"
    elif facts["link"]:
        what += f" to {cut(facts['link'], 200)}"
    return f"{what} on {cut(seen.url, 200)}"


def _host(address: str) -> str:
    try:
        return (urlsplit(address).hostname or "").removesuffix(".")
    except ValueError:
        return ""
