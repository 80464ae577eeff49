"""Known secret values kept out of everything that is stored, sent or logged."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, quote_plus

import logs

LEAST = 3  # a shorter value would take half of every text with it
WORD = 6  # a shorter one is a value only where it stands alone
CUT = "…"  # where a text ends that was too long
URI_COMPONENT, URI = "!'()*", "!'()*;,/?:@&=+$#"  # what JavaScript's two ways of encoding leave as it is


class Redactor:
    """Replaces the values that it was told of, in texts however deep, by what they are called.

    Also as addresses, HTML and JSON spell them, and the beginning of one where a text was cut. Every line of
    the log goes through it too, for as long as it is in use.
    """

    def __init__(self) -> None:
        self._names: dict[str, str] = {}
        self._patterns: tuple[re.Pattern[str], re.Pattern[str]] | None = None
        logs.redact_with(self)

    def add(self, value: str, name: str) -> None:
        """From now on `value` is shown as `name`; one of fewer than three characters stays."""
        for form in _forms(value):
            if len(form) >= LEAST and form not in self._names:
                self._names[form] = name
                self._patterns = None

    def __call__(self, value: Any) -> Any:
        """The JSON value without what is secret."""
        if not self._names:
            return value
        if isinstance(value, str):
            return self._redacted(value)
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, dict):
            return {self(key): self(item) for key, item in value.items()}
        return value

    def _redacted(self, text: str) -> str:
        if self._patterns is None:
            longest_first = sorted(self._names, key=len, reverse=True)
            heads = {re.escape(form[:WORD]) for form in longest_first}
            self._patterns = (
                re.compile("|".join(heads)),
                re.compile("|".join(map(_expression, longest_first))),
            )
        head, whole = self._patterns
        if head.search(text) is None:
            return text
        return self._cut(whole.sub(lambda match: self._names[match[0]], text))

    def _cut(self, text: str) -> str:
        """The text without the beginning of a value that it ends in the middle of."""
        for end in {text.find(CUT), len(text)}:
            for form, name in self._names.items() if end > 0 else ():
                start = text.rfind(form[:WORD], 0, end)
                if len(form) > WORD and start >= 0 and form.startswith(text[start:end]):
                    return self._cut(text[:start] + name + text[end:])
        return text


def _expression(form: str) -> str:
    """A short value inside of a word or number is not that value."""
    found = re.escape(form)
    return rf"(?<![^\W_]){found}(?![^\W_])" if len(form) < WORD else found


def _forms(value: str) -> Iterator[str]:
    """The value as it is, its long lines, and how others spell it."""
    yield value
    plain = (
        value.strip(),
        " ".join(value.split()),
        *(line for line in value.splitlines() if len(line) > WORD),
    )
    yield from plain
    for text in {value, *plain}:
        for encoded in (quote(text, safe=""), quote(text), quote_plus(text), *_javascript(text)):
            yield encoded
            yield re.sub("%[0-9A-F]{2}", lambda match: match[0].lower(), encoded)
        yield html.escape(text)
        yield html.escape(text, quote=False)
        yield json.dumps(text)[1:-1]
        yield json.dumps(text, ensure_ascii=False)[1:-1]


def _javascript(text: str) -> Iterator[str]:
    yield quote(text, safe=URI_COMPONENT)
    yield quote(text, safe=URI)
    yield quote_plus(text, safe="*")
