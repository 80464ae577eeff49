"""Recorder selectors: alternatives, nested parts, and one definition of an element fit to be used."""

import re
from collections.abc import Iterator

CLOSERS = {"[": "]", "(": ")"}
_ARIA_ATTRIBUTE = re.compile(r"\[\s*(\w+)\s*=\s*(?:\"[^\"]*\"|'[^']*')\s*\]")


def selector_problem(part: str) -> str | None:
    """What can be known to be wrong with one part of a selector without a page."""
    if not part.strip() or len(part) > 10_000:
        return "A selector is empty or longer than 10,000 characters"
    kind, slash, text = part.partition("/")
    if not slash or kind not in {"aria", "text", "xpath", "pierce"}:
        kind, text = "css", part
    if not text.strip():
        return f"Nothing follows {kind}/"
    if kind == "aria":
        unknown = [name for name in _ARIA_ATTRIBUTE.findall(text) if name not in {"name", "role"}]
        return f"Unknown attribute {unknown[0]} in {part[:80]}; there are name and role" if unknown else None
    if kind != "text" and not _balanced(text):
        return f"Brackets or quotation marks do not match in {part[:80]}"
    return None


def _balanced(text: str) -> bool:
    expected: list[str] = []
    for char in _unquoted(text):
        if char in CLOSERS:
            expected.append(CLOSERS[char])
        elif (char in CLOSERS.values() and (not expected or expected.pop() != char)) or char == "'":
            return False
    return not expected


def _unquoted(text: str) -> Iterator[str]:
    """The characters outside quotation marks; one quotation mark at the end if a string never ends."""
    quote, escaped = "", False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "\"'":
            quote = char
        else:
            yield char
    if quote:
        yield "'"
