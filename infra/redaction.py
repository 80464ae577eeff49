"""Known secret values kept out of what is stored, sent or logged."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

LEAST = 3  # a shorter value would take half of every text with it
WORD = 6  # a shorter one is a value only where it stands alone
PIECE = 200  # of a long line, each looked for by itself
CUT = "…"  # where `cut` has ended a text
HALF = re.compile(
    r"(?:%[0-9A-Fa-f]{2}){0,3}(?:%[0-9A-Fa-f]{0,2})?|&#?\w{0,5}|\\u?[0-9A-Fa-f]{0,3}"
)  # a character
HALF_AT_END = re.compile(rf"(?:{HALF.pattern})\Z")
ENTITIES = {"&": "amp|#38", "<": "lt|#60", ">": "gt|#62", '"': "quot|#34", "'": "apos|#39|#x27"}
SPACES = r"(?:\s|\+|%20|%0[9AaDd]|&nbsp;|&#160;|%[Cc]2%[Aa]0|\\[nrt])+"


def cut(text: str, most: int) -> str:
    """The text, of at most so many characters; one that is longer says that it was cut."""
    return text if len(text) <= most else text[: most - 1] + CUT


class Redactor:
    """Replaces the values that it was told of by what they are called, in texts and numbers however deep.

    However an address, HTML, JSON or a page's layout spells them, line by line, and the beginning of one at
    the end of a text or before a cut.
    """

    def __init__(self) -> None:
        self.known: dict[str, str] = {}
        self._pieces: dict[str, str] = {}
        self._names: list[str] = []
        self._whole: re.Pattern[str] | None = None
        self._heads: re.Pattern[str]

    def add(self, value: str, name: str) -> None:
        """From now on `value` is shown as `name`; one of fewer than three characters stays."""
        if value not in self.known:
            self.known[value] = name
            for piece in _pieces(value):
                self._pieces.setdefault(piece, name)
            self._whole = None

    def learn(self, known: Mapping[str, str]) -> None:
        """Add values by their names, as `known` of another one has them."""
        for value, name in known.items():
            self.add(value, name)

    def __call__(self, value: Any) -> Any:
        """The JSON value without what is secret; names of its fields are taken for texts of a page too."""
        if not self._pieces or value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._redacted(value)
        if isinstance(value, int | float):
            written = str(int(value) if isinstance(value, float) and value.is_integer() else value)
            return value if (shown := self._redacted(written)) == written else shown
        if isinstance(value, list):
            return [self(item) for item in value]
        if isinstance(value, dict):
            return {self(key): self(item) for key, item in value.items()}
        return value

    def settled(self, text: str, start: int) -> int:
        """Where a text that is still to go on may be cut, at `start` or later: no value reaches over it."""
        if not self._pieces:
            return len(text)
        end = max(start, min(_unfinished(piece, text) for piece in self._pieces))
        for match in self._expressions().finditer(text, start):
            if match.start() < end < match.end():
                return match.start()
        return end

    def part(self, text: str, start: int, end: int) -> str:
        """The text between two places where it may be cut, without what is secret."""
        if not self._pieces:
            return text[start:end]
        shown, at = [], start
        for match in self._expressions().finditer(text, start):
            if match.end() > end:
                break
            shown += [text[at : match.start()], self._names[(match.lastindex or 1) - 1]]
            at = match.end()
        return "".join([*shown, text[at:end]])

    def _expressions(self) -> re.Pattern[str]:
        """Every whole value; a group for each, in the order of their names."""
        if self._whole is None:
            longest_first = sorted(self._pieces, key=len, reverse=True)
            named = (f"({_expression(piece)})" for piece in longest_first)
            self._names = [self._pieces[piece] for piece in longest_first]
            self._whole = re.compile("|".join(named))
            self._heads = re.compile("|".join({_head(piece) for piece in longest_first}))
        return self._whole

    def _redacted(self, text: str) -> str:
        whole = self._expressions()
        if self._heads.search(text) is None:
            return text
        text = whole.sub(lambda match: self._names[(match.lastindex or 1) - 1], text)
        return self._without_beginnings(text) if self._heads.search(text) else text

    def _without_beginnings(self, text: str) -> str:
        """The text without a value's beginning that stands at its end, or where it was cut."""
        ends = [*(match.start() for match in re.finditer(CUT, text)), len(text)]
        for end in reversed(ends):
            for piece, name in self._pieces.items():
                if (start := _beginning(piece, text, end)) is not None:
                    text = text[:start] + name + text[end:]
                    break
        return text


def _pieces(value: str) -> Iterator[str]:
    """The lines of a value without the spaces around them, long ones in parts."""
    lines = [line.strip() for line in value.splitlines()]
    for line in lines:
        if len(line) >= (LEAST if len(lines) == 1 else WORD):
            yield line[:PIECE]
            yield from (line[at : at + PIECE] for at in range(PIECE, len(line) - WORD, PIECE))


def _head(piece: str) -> str:
    return "".join(_spellings(char) for char in islice(_characters(piece), WORD))


def _expression(piece: str) -> str:
    spelt = "".join(_spellings(char) for char in _characters(piece))
    return rf"(?<![^\W_]){spelt}(?![^\W_])" if len(piece) < WORD else spelt


def _characters(piece: str) -> list[str]:
    """A run of spaces counts as one, as pages collapse it."""
    return re.findall(r"\s+|\S", piece)


@lru_cache(1024)
def _spellings(char: str) -> str:
    """An expression for the ways in which a character is written."""
    if char.isspace():
        return SPACES
    if char.isascii() and char.isalnum():
        return char
    percent = "".join(f"%{byte:02x}" for byte in char.encode())
    ways = [rf"\\?{re.escape(char)}", f"(?i:{percent})"]
    ways += [rf"(?i:\\u{unit:04x})" for unit in [ord(char)] if unit < 2**16]
    if char in ENTITIES:
        ways.insert(0, f"&(?:{ENTITIES[char]});")
    return f"(?:{'|'.join(ways)})"


@lru_cache(1024)
def _one(char: str) -> re.Pattern[str]:
    return re.compile(_spellings(char))


def _beginning(piece: str, text: str, end: int) -> int | None:
    """Where the piece begins, if `end` falls into it."""
    characters = _characters(piece)
    if len(characters) <= WORD:
        return None
    for match in re.compile(_head(piece)).finditer(text, max(0, end - 12 * len(piece)), end):
        at = match.end()
        for char in characters[WORD:]:
            if (found := _one(char).match(text, at, end)) is None:
                break
            at = found.end()
        if at == end or HALF.fullmatch(text, at, end):
            return match.start()
    return None


def _unfinished(piece: str, text: str) -> int:
    """Where the piece begins that the text's end may have cut off, or has just ended; else its length."""
    characters = _characters(piece)
    for match in _one(characters[0]).finditer(text, max(0, len(text) - 12 * len(piece))):
        at = match.end()
        for char in characters[1:]:
            if HALF.fullmatch(text, at):
                return match.start()
            if (found := _one(char).match(text, at)) is None:
                break
            at = found.end()
        else:
            if at == len(text):
                return match.start()
    half = HALF_AT_END.search(text)
    return half.start() if half else len(text)
