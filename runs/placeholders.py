"""`{{ params.city }}` in the strings of a workflow: its grammar, and how a run's values replace it."""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

ROOTS = ("params", "outputs", "secrets")
PARTS = {"params": 2, "outputs": 2, "secrets": 3}  # the fewest of a path; a loop's variable may stand alone
Part = str | int

_PART = re.compile(r"\.([A-Za-z_][A-Za-z0-9_-]{0,99})|\[(\d{1,6})\]")
_IN_EXPRESSION = re.compile(
    r"\{\{ {0,9}(([A-Za-z_][A-Za-z0-9_]{0,63})[.\[]?[A-Za-z0-9_.\[\]-]{0,300}) {0,9}\}\}"
)


class BadPlaceholder(ValueError):
    """The text between `{{` and `}}` is not a placeholder."""


class PlaceholderMissing(Exception):
    """A placeholder names a value that the run does not have; `pointer` (RFC 6901) leads into the step."""

    def __init__(self, pointer: str, path: str) -> None:
        super().__init__(f"{{{{ {path} }}}} has no value")
        self.pointer, self.path = pointer, path


def parse_path(text: str) -> tuple[Part, ...]:
    """`outputs.rows[0].name` as `("outputs", "rows", 0, "name")`; raises BadPlaceholder."""
    parts: list[Part] = []
    dotted, at = "." + text, 0
    while at < len(dotted):
        if (match := _PART.match(dotted, at)) is None:
            raise BadPlaceholder(f"{{{{ {text[:100]} }}}} is not of the form name.name[0].name")
        parts.append(match[1] if match[1] is not None else int(match[2]))
        at = match.end()
    if len(parts) < PARTS.get(str(parts[0]), 1):
        raise BadPlaceholder(f"{{{{ {text[:100]} }}}} ends too early; name what of {parts[0]} is meant")
    return tuple(parts)


def split(text: str) -> Iterator[str | tuple[Part, ...]]:
    """The literal texts and the placeholders' paths of `text`, in order; `{{ "…" }}` is the literal `…`."""
    at = 0
    while (start := text.find("{{", at)) >= 0:
        end = text.find("}}", start)
        if end < 0:
            raise BadPlaceholder('A {{ is never closed; write {{ "{{" }} for the two characters themselves')
        if start > at:
            yield text[at:start]
        inner = text[start + 2 : end].strip()
        yield _quoted(inner) if inner.startswith('"') else parse_path(inner)
        at = end + 2
    if at < len(text):
        yield text[at:]


def _quoted(inner: str) -> str:
    try:
        return str(json.loads(inner))
    except ValueError:
        raise BadPlaceholder(f"{inner[:100]} is not a text in quotation marks") from None


def paths(key: str, text: str, roots: Collection[str] = ROOTS) -> Iterator[tuple[Part, ...]]:
    """The placeholders of one string found under `key`; raises BadPlaceholder.

    An expression is somebody's JavaScript, where only what starts with one of the `roots` is a placeholder.
    """
    if key == "expression":
        yield from (parse_path(match[1]) for match in _IN_EXPRESSION.finditer(text) if match[2] in roots)
    else:
        yield from (piece for piece in split(text) if isinstance(piece, tuple))


def is_whole(text: str) -> bool:
    """Whether the string is one placeholder and nothing else, so that its value keeps its type."""
    try:
        pieces = list(split(text))
    except BadPlaceholder:
        return False
    return len(pieces) == 1 and isinstance(pieces[0], tuple)


def masked(text: str) -> str:
    """The string with a harmless word in place of each placeholder."""
    try:
        return "".join(piece if isinstance(piece, str) else "placeholder" for piece in split(text))
    except BadPlaceholder:
        return text


def fill(value: Any, scope: Mapping[str, Any], pointer: str = "", key: str = "") -> Any:
    """`value` with its placeholders replaced, all through objects and lists; raises PlaceholderMissing.

    A string that is one placeholder becomes the value itself; inside a longer string values are written as
    text. Under the key `expression` a placeholder becomes a JSON literal, so a value never becomes code; a
    `schema` is left as it is.
    """
    if isinstance(value, str):
        return (_fill_expression if key == "expression" else _fill)(value, scope, pointer)
    if isinstance(value, list):
        return [fill(item, scope, f"{pointer}/{index}", key) for index, item in enumerate(value)]
    if isinstance(value, dict):
        return {
            name: item if name == "schema" else fill(item, scope, f"{pointer}/{escape(name)}", name)
            for name, item in value.items()
        }
    return value


def literal(text: str) -> str:
    """A text as a workflow has to write it so that it stays what it is."""
    return text.replace("{{", '{{ "{{" }}')


def escape(key: str) -> str:
    """One reference token of a JSON pointer (RFC 6901 section 3)."""
    return key.replace("~", "~0").replace("/", "~1")


def _fill(text: str, scope: Mapping[str, Any], pointer: str) -> Any:
    pieces = [
        (piece, piece if isinstance(piece, str) else _look_up(piece, scope, pointer)) for piece in split(text)
    ]
    if len(pieces) == 1 and isinstance(pieces[0][0], tuple):
        return pieces[0][1]
    return "".join(
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for _, value in pieces
    )


def _fill_expression(text: str, scope: Mapping[str, Any], pointer: str) -> str:
    def filled(match: re.Match[str]) -> str:
        if match[2] not in scope:
            return match[0]
        return json.dumps(_look_up(parse_path(match[1]), scope, pointer))

    return _IN_EXPRESSION.sub(filled, text)


def _look_up(path: tuple[Part, ...], scope: Mapping[str, Any], pointer: str) -> Any:
    value: Any = scope
    for part in path:
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            raise PlaceholderMissing(pointer, written(path)) from None
    return value


def written(path: tuple[Part, ...]) -> str:
    """A path as people write it; a monstrous one is cut."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)[1:200]
