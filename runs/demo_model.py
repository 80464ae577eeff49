"""A model that needs no key: it follows instructions, one on a line, and always does the same.

    open https://example.com/shop        click "Add to cart"          press Enter
    type "tea" into "Search"             choose "Large" in "Size"     check "Gift wrap"
    scroll down                          wait for "Thank you"         read "Total"
    ask "Which colour?"                  approve "Pay 12 euros"       say "Nearly there"
    use showChart {"kind":"bar"}         finish "Ordered"

What it reads and is answered is its result, unless `finish` says another. When its browser was lost, it
fills in again what it had filled in since it last went on; what may have happened is taken for done.
"""

import json
import re
import shlex
from collections import deque
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from runs.agent import REOPENED
from runs.trail import FINISH

TASK = re.compile(r"<task>\n(.*?)\n</task>", re.DOTALL)
USE = re.compile(r"use\s+([\w-]+)\s*(\{.*\})?", re.IGNORECASE)
FIELDS = ("textbox", "searchbox", "combobox", "spinbutton", "listbox", "slider")
CLICKED = ("button", "link", "checkbox", "radio", "menuitem", "tab", "option", "switch", "summary")
MOVING = ("open", "click", "press")
FILLING = ("type", "choose", "check", "uncheck")
TRIES = 5


@dataclass(frozen=True, slots=True)
class _Wish:
    """The next call, and what is said before it."""

    tool: str
    arguments: dict[str, Any]
    said: str = ""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What came of a call."""

    failed: bool
    text: str

    @property
    def output(self) -> dict[str, Any]:
        first = self.text.split("\n", 1)[0]
        found = json.loads(first) if first.startswith("{") else {}
        return found if isinstance(found, dict) else {}


Calls = Generator[_Wish, _Seen, None]


class _Failed(Exception):
    """An instruction could not be followed."""


@dataclass
class _Demo:
    lines: deque[str]
    result: dict[str, Any] = field(default_factory=dict)
    done: list[str] = field(default_factory=list)

    def hear(self, text: str) -> None:
        """What people say comes before what is left to do."""
        task = TASK.search(text)
        if text == REOPENED:
            self.lines.extendleft(reversed(self._filled_in()))
        elif task or _is_instruction(text):
            self.lines.extendleft(reversed((task[1] if task else text).splitlines()))

    def _filled_in(self) -> list[str]:
        """The fields since the last step that may have led to another page."""
        verbs = [line.split(" ", 1)[0].lower() for line in self.done]
        moved = max((at for at, verb in enumerate(verbs) if verb in MOVING), default=-1)
        return [
            line
            for line, verb in zip(self.done[moved + 1 :], verbs[moved + 1 :], strict=True)
            if verb in FILLING
        ]

    def follow(self) -> Calls:
        """Every call in order; the last one finishes."""
        said = ""
        try:
            while self.lines:
                line = self.lines.popleft().strip()
                if line:
                    own = USE.fullmatch(line)
                    yield from self._use(*own.groups()) if own else self._instruction(line)
                    self.done.append(line)
        except _Failed as failure:
            said = str(failure)
            yield _Wish(FINISH, {"result": said, "success": False}, said)
        yield _Wish(FINISH, {"result": self.result})

    def _instruction(self, line: str) -> Calls:
        verb, words = _words(line)
        match verb, words:
            case "open", [url]:
                yield from self._do(line, "navigate", url=url)
            case "click", [name]:
                yield from self._at(line, name, CLICKED, "left_click")
            case "check" | "uncheck", [name]:
                yield from self._at(line, name, CLICKED, "form_input", value=verb == "check")
            case "type", [text, "into", name]:
                yield from self._at(line, name, FIELDS, "form_input", value=text)
            case "choose", [option, "in", name]:
                yield from self._at(line, name, FIELDS, "form_input", value=option)
            case "press", [keys]:
                yield from self._do(line, "key", keys=keys)
            case "scroll", ["down" | "up" as where]:
                yield from self._do(line, "scroll", dy=600 if where == "down" else -600)
            case "wait", ["for", text]:
                yield from self._read(line, text)
            case "read", [text]:
                self.result[text] = yield from self._read(line, text)
            case "say", [_]:
                yield _Wish("screenshot", {}, words[0])
            case "ask" | "approve" | "finish", [text]:
                yield from self._speak(verb, text)
            case _:
                raise _Failed(f"I am the demo model and do not understand: {line}")

    def _speak(self, verb: str, text: str) -> Calls:
        if verb == "finish":
            yield _Wish(FINISH, {"result": text})
        elif verb == "approve":
            seen = yield _Wish("request_approval", {"title": text})
            if seen.failed:
                raise _Failed(f"Not approved: {text}")
        else:
            seen = yield _Wish("ask_user", {"question": text})
            self.result[text] = seen.output.get("answer")

    def _use(self, tool: str, given: str | None) -> Calls:
        """A tool that the run's user brings."""
        try:
            arguments = json.loads(given or "{}")
        except ValueError:
            raise _Failed(f"This is no JSON: {given}") from None
        seen = yield _Wish(tool, arguments)
        if seen.failed:
            raise _Failed(f"{tool} did not work: {seen.text}")
        self.result[tool] = seen.output.get("result")

    def _do(self, line: str, tool: str, **arguments: Any) -> Calls:
        seen = yield _Wish(tool, arguments, f"I {line}.")
        if seen.failed:
            raise _Failed(f"This did not work: {line}. {seen.text}")

    def _at(self, line: str, name: str, roles: tuple[str, ...], tool: str, **arguments: Any) -> Calls:
        match = yield from self._find(line, name, roles)
        yield from self._do(line, tool, target={"ref": match["ref"]}, **arguments)

    def _read(self, line: str, words: str) -> Generator[_Wish, _Seen, str]:
        """The first line of the page that has the words."""
        for _ in range(TRIES):
            seen = yield _Wish("get_page_text", {})
            lines = str(seen.output.get("text", "")).splitlines()
            if found := [each.strip() for each in lines if words.lower() in each.lower()]:
                return found[0]
            yield _Wish("wait", {"duration_ms": 500})
        raise _Failed(f"The page does not say {words!r}: {line}")

    def _find(self, line: str, name: str, roles: tuple[str, ...]) -> Generator[_Wish, _Seen, dict[str, str]]:
        for _ in range(TRIES):
            seen = yield _Wish("find", {"query": name})
            matches = seen.output.get("matches", [])
            if matches:
                return min(matches, key=lambda match: _rank(match["element"], name, roles))
            yield _Wish("wait", {"duration_ms": 500})
        raise _Failed(f"There is no {name!r} for: {line}")


def _words(line: str) -> tuple[str, list[str]]:
    try:
        verb, *words = shlex.split(line)
    except ValueError:
        return "", []
    return verb.lower(), words


def _rank(element: str, name: str, roles: tuple[str, ...]) -> tuple[bool, bool]:
    role = element.split(" ", 1)[0]
    return bool(roles) and role not in roles, f'"{name}"' not in element


def _program(messages: list[ModelMessage]) -> _Wish:
    """What comes next after all that has been done, which is gone through again."""
    demo, calls, wish = _Demo(deque()), None, None
    for part in _parts(messages):
        if isinstance(part, UserPromptPart):
            demo.hear(_text(part))
        elif wish is not None and calls is not None:
            wish = calls.send(_seen(part))
        if calls is None:
            calls = demo.follow()
            wish = next(calls)
    if wish is None:
        raise ValueError("nobody has told the model anything")
    return wish


def _parts(messages: list[ModelMessage]) -> Iterator[UserPromptPart | ToolReturnPart]:
    """Within a request people come before results: what they say counts from the next call on."""
    for message in messages:
        if isinstance(message, ModelRequest):
            told = [part for part in message.parts if isinstance(part, UserPromptPart)]
            yield from told
            yield from (part for part in message.parts if isinstance(part, ToolReturnPart))


def _text(part: UserPromptPart) -> str:
    return part.content if isinstance(part.content, str) else " ".join(map(str, part.content))


def _is_instruction(text: str) -> bool:
    return bool(
        re.match(r"\s*(open|click|type|choose|check|uncheck|press|read|say|finish)\b", text, re.IGNORECASE)
    )


def _seen(part: ToolReturnPart) -> _Seen:
    content = part.content if isinstance(part.content, list) else [part.content]
    text = next((item for item in content if isinstance(item, str)), "")
    return _Seen(part.outcome in ("failed", "denied"), text)


async def _stream(messages: list[ModelMessage], _: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
    wish = _program(messages)
    for word in wish.said.split():
        yield f"{word} "
    call = DeltaToolCall(wish.tool, json.dumps(wish.arguments), tool_call_id=f"call_{uuid4().hex[:16]}")
    yield {1: call}


MODEL = FunctionModel(stream_function=_stream, model_name="demo")
