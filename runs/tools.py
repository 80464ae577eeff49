"""The tools of a model: everything that a computer can be told to do, and what speaks to people."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from browser import actions
from browser.actions import Action
from runs.trail import FINISH

OURS = ("action", "timeout_ms")  # fields of an action that no model sets
DROPPED = ("title", "examples", "additionalProperties")  # of a field's schema
HISTORY: dict[str, type[BaseModel]] = {
    "back": actions.Back,
    "forward": actions.Forward,
    "reload": actions.Reload,
}
"""What `navigate` also takes for an address."""


class InvalidArguments(Exception):
    """A model called a tool that there is not, or in a way that it does not take."""


class _Said(BaseModel):
    model_config = ConfigDict(extra="forbid")


class AskUser(_Said):
    """Ask the user something that only they can tell, and wait for the answer."""

    question: str = Field(min_length=1, max_length=2_000)


class RequestApproval(_Said):
    """Ask the user to allow something before you do it; they may change the arguments."""

    title: str = Field(min_length=1, max_length=500, description="What you are about to do, in one sentence.")
    arguments: dict[str, Any] = Field({}, description="What they may look at and change.")


class Finish(_Said):
    """Say that the task is done, or that it cannot be done, with its result."""

    result: Any = Field(None, description="What the task asked for.")
    success: bool = Field(True, description="False when the task could not be done; say why in the result.")


Said = AskUser | RequestApproval | Finish


@dataclass(frozen=True, slots=True)
class Tool:
    """What a model calls by `name`: an action with some of its fields `fixed`, or something to say."""

    name: str
    model: type[BaseModel]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""

    @property
    def about(self) -> str:
        """What the model is told that it does."""
        return self.description or " ".join((self.model.__doc__ or "").split())

    def schema(self) -> dict[str, Any]:
        """JSON Schema of its arguments, as small as it can be: every request holds those of all tools."""
        whole = self.model.model_json_schema()
        hidden = {*OURS, *self.fixed}
        kinds = {name: kind for name, kind in whole["properties"].items() if name not in hidden}
        if "tab" in kinds:
            kinds["tab"] = {**kinds["tab"], "description": None}  # results say which tabs there are
        needed = [name for name in whole.get("required", ()) if name not in hidden]
        shown = {name: _plain(kind, whole.get("$defs", {})) for name, kind in kinds.items()}
        return {"type": "object", "properties": shown, "required": needed, "additionalProperties": False}


def _plain(kind: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """A field's schema without titles, references and nulls, which leaving it out says as well."""
    if (reference := kind.get("$ref")) is not None:
        name = reference.rpartition("/")[2]
        more = {"minProperties": 1, "maxProperties": 1} if name == actions.Target.__name__ else {}
        return (
            _plain({**named[name], "description": None}, named) | more | _plain({**kind, "$ref": None}, named)
        )
    kept = {name: part for name, part in kind.items() if name not in DROPPED and part not in (None, [], {})}
    if "anyOf" in kept:
        ways = [_plain(way, named) for way in kept.pop("anyOf") if way != {"type": "null"}]
        kept = (ways[0] | kept) if len(ways) == 1 else kept | {"anyOf": ways}
    if "items" in kept:
        kept["items"] = _plain(kept["items"], named)
    if "properties" in kept:
        parts = {name: {**part, "description": None} for name, part in kept["properties"].items()}
        kept["properties"] = {name: _plain(part, named) for name, part in parts.items()}
    return kept


def _click(name: str, about: str, **fixed: Any) -> Tool:
    return Tool(name, actions.Click, {"button": "left", "count": 1} | fixed, about)


_TOOLS = (
    Tool(
        "navigate",
        actions.Navigate,
        {"wait_until": "load"},
        "Open a web address; or go back, forward, reload.",
    ),
    Tool("list_tabs", actions.ListTabs, {"tab": None}),
    Tool("new_tab", actions.NewTab, {"tab": None}),
    Tool("switch_tab", actions.SwitchTab),
    Tool("close_tab", actions.CloseTab),
    Tool("read_page", actions.ReadPage),
    Tool("get_page_text", actions.GetPageText),
    Tool("read_console", actions.ReadConsole),
    Tool("read_network", actions.ReadNetwork),
    Tool("find", actions.Find),
    Tool("form_input", actions.FormInput),
    Tool(
        "file_upload",
        actions.FileUpload,
        {},
        "Choose files, by their ids, in a file field, behind a button, or in the chooser that is open.",
    ),
    Tool("scroll_to", actions.ScrollTo),
    Tool("screenshot", actions.Screenshot, {"full_page": False, "format": "jpeg"}, "Look at the page again."),
    Tool("zoom", actions.Zoom),
    _click("left_click", "Click."),
    _click("right_click", "Click with the right button.", button="right", modifiers=()),
    _click("middle_click", "Click with the middle button.", button="middle", modifiers=()),
    _click("double_click", "Click twice.", count=2, modifiers=()),
    _click("triple_click", "Click three times, which selects a line of text.", count=3, modifiers=()),
    Tool("hover", actions.Hover),
    Tool("left_click_drag", actions.Drag),
    Tool("left_mouse_down", actions.MouseDown, {"button": "left"}),
    Tool("left_mouse_up", actions.MouseUp, {"button": "left"}),
    Tool("mouse_move", actions.MouseMove),
    Tool("scroll", actions.Scroll),
    Tool("type", actions.Type, {"delay_ms": 0}),
    Tool("key", actions.Key),
    Tool("hold_key", actions.HoldKey),
    Tool("wait", actions.Wait),
    Tool("javascript_exec", actions.Evaluate),
    Tool("ask_user", AskUser),
    Tool("request_approval", RequestApproval),
    Tool(FINISH, Finish),
)
TOOLS = {tool.name: tool for tool in _TOOLS}
LOOKING = frozenset(
    (
        *("list_tabs", "read_page", "get_page_text", "read_console", "read_network", "find", "zoom"),
        *("ask_user", "request_approval", FINISH),
    )
)
"""Tools after which a model is not shown the page: they bring what it wanted to see."""
REPEATABLE = LOOKING | {
    "navigate",
    "screenshot",
    "hover",
    "scroll",
    "scroll_to",
    "wait",
    "mouse_move",
    "switch_tab",
}
"""Tools that may be used again without doing anything twice."""


def parse(name: str, arguments: Any) -> Action | Said:
    """What a model wants done. Raises InvalidArguments."""
    if (tool := TOOLS.get(name)) is None:
        raise InvalidArguments(f"There is no tool {name[:100]!r}; the tools are {', '.join(TOOLS)}")
    if not isinstance(arguments, dict):
        raise InvalidArguments("The arguments are not a JSON object")
    if taken := sorted({*arguments} & {*OURS, *tool.fixed}):
        raise InvalidArguments(f"{name} takes no {', '.join(taken)}")
    if name == "navigate" and isinstance(url := arguments.get("url"), str) and url in HISTORY:
        return _validated(HISTORY[url], {"action": url, "tab": arguments.get("tab")})
    given = {key: value for key, value in arguments.items() if value is not None}
    return _validated(tool.model, _named(tool.model) | dict(tool.fixed) | given)


def _validated(model: type[BaseModel], values: dict[str, Any]) -> Action | Said:
    try:
        return cast("Action | Said", model.model_validate(values))
    except ValidationError as error:
        found = ((".".join(map(str, detail["loc"])), detail["msg"]) for detail in error.errors()[:5])
        raise InvalidArguments("; ".join(f"{at or 'arguments'}: {why}" for at, why in found)) from None


@cache
def _named(model: type[BaseModel]) -> dict[str, str]:
    """The field by which an action is told from others."""
    named = model.model_fields.get("action")
    return {"action": named.annotation.__args__[0]} if named is not None and named.annotation else {}


def in_words(name: str, arguments: Any) -> str:
    """A call in a few words, for the timeline."""
    given = arguments if isinstance(arguments, dict) else {}
    target = given.get("target") or given.get("start") or {}
    what = given.get("url") or given.get("question") or given.get("title") or given.get("query")
    what = what or given.get("text") or given.get("keys") or given.get("value") or given.get("result")
    where = (
        target.get("selector") or target.get("ref") or target.get("coordinate")
        if isinstance(target, dict)
        else ""
    )
    if isinstance(where, dict):
        where = f"at {where.get('x')}, {where.get('y')}"
    words = (name.replace("_", " "), str(what) if what not in (None, "") else "", str(where or ""))
    return re.sub(r"\s+", " ", " ".join(word for word in words if word))[:200]
