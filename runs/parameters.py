"""JSON Schema (draft 2020-12) for a workflow's parameters and outputs, made safe for strangers' schemas."""

from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import re2  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
from referencing import Registry

from runs.placeholders import escape

MAX_WEIGHT, MAX_VALUES, MAX_PROBLEMS = 2_000, 10_000, 100
MAX_WORK = 200_000  # looks at a part of a value, each some microseconds
REGEX_BYTES = 256 * 1024
DIALECT = "https://json-schema.org/draft/2020-12/schema"
NOT_SUPPORTED = ("$id", "$anchor", "$dynamicRef", "$dynamicAnchor", "$vocabulary", "patternProperties")
OF_NAMES = ("properties", "$defs", "dependentSchemas")
OF_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
OF_ONE: tuple[str, ...] = (
    "items",
    "additionalProperties",
    "propertyNames",
    "contains",
    "not",
    "if",
    "then",
    "else",
)
OF_ONE += ("unevaluatedItems", "unevaluatedProperties")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong and where: `pointer` is a JSON pointer (RFC 6901)."""

    pointer: str
    message: str


def in_words(problems: list[Problem]) -> str:
    """The first problems in a line."""
    return "; ".join(f"{problem.pointer or '/'}: {problem.message}" for problem in problems[:5])


class Invalid(Exception):
    """Somebody's document cannot be used; `problems` says everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(in_words(problems))
        self.problems = problems


class _TooMuchWork(Exception):
    """A check has looked at as many things as one check may."""


class InvalidParams(Invalid):
    """The run's `params` do not fit the workflow's `parameters`; pointers lead into `params`."""


def resolve_params(schema: dict[str, Any] | None, params: dict[str, Any] | None) -> dict[str, Any]:
    """`params` with the schema's defaults added; raises InvalidParams with every violation.

    A name that the schema does not declare is refused unless the schema itself allows further properties.
    """
    closed = {"additionalProperties": False} | (schema or {})
    values = _with_defaults(closed, params or {})
    if problems := violations(closed, values):
        raise InvalidParams(problems)
    return dict(values)


def _with_defaults(schema: Any, value: Any) -> Any:
    if not isinstance(value, dict) or not isinstance(schema, dict):
        return value
    filled = dict(value)
    for name, child in schema.get("properties", {}).items():
        if name not in filled and isinstance(child, dict) and "default" in child:
            filled[name] = child["default"]
        if name in filled:
            filled[name] = _with_defaults(child, filled[name])
    return filled


def violations(schema: dict[str, Any], value: Any) -> list[Problem]:
    """Where `value` breaks a schema that has passed `schema_problems`, at most a hundred places.

    A check that would take more than a second or two is given up, which is a problem too.
    """
    _left.set(MAX_WORK)
    found: list[Problem] = []
    try:
        for error in islice(_Checked(schema, registry=Registry()).iter_errors(value), MAX_PROBLEMS):
            found.append(_problem(error, ""))  # noqa: PERF401 - what was found before it is given up counts
    except (_TooMuchWork, RecursionError):
        found.append(Problem("", "There is too much here to check it against its schema"))
    return found


def _flat_meta_schema() -> dict[str, Any]:
    """The dialect's own schema in one piece: its dynamic references take ten times as long to follow."""
    whole = Draft202012Validator.META_SCHEMA
    of_dialect = REGISTRY.resolver(whole["$id"])
    documents = [whole, *(of_dialect.lookup(part["$ref"]).contents for part in whole["allOf"])]
    merged = {
        keyword: {name: part for each in documents for name, part in each.get(keyword, {}).items()}
        for keyword in ("properties", "$defs")
    }
    flat: dict[str, Any] = _with_plain_references({"type": whole["type"], **merged})
    return flat


def _with_plain_references(part: Any) -> Any:
    if part == {"$dynamicRef": "#meta"}:
        return {"$ref": "#"}
    if isinstance(part, dict) and isinstance(part.get("$ref"), str):
        return {**part, "$ref": f"#{part['$ref'].partition('#')[2]}"}
    if isinstance(part, dict):
        return {name: _with_plain_references(inner) for name, inner in part.items()}
    return [_with_plain_references(inner) for inner in part] if isinstance(part, list) else part


def schema_problems(schema: Any, at: str) -> list[Problem]:
    """What makes `schema` unusable; `at` is the pointer to it.

    Refused beside invalid schemas: references out of the schema, in circles or so often that checking would
    explode, and patterns outside RE2, whose time is linear (https://github.com/google/re2/wiki/Syntax).
    """
    if count_values(schema) > MAX_VALUES:
        return [Problem(at, f"The schema is too large; at most {MAX_VALUES:,} values")]
    _left.set(MAX_WORK)
    try:
        if problems := [_problem(error, at) for error in islice(_META.iter_errors(schema), MAX_PROBLEMS)]:
            return problems
    except _TooMuchWork:
        return [Problem(at, "There is too much in lists here to check that no items are equal")]
    parts = list(_parts(schema, at))
    known = {id(part) for _, part in parts}
    problems = [
        problem for pointer, part in parts for problem in _part_problems(schema, known, part, pointer)
    ]
    if not problems and (weight := _weight(schema, schema, ())) > MAX_WEIGHT:
        circle = "refers to itself" if weight == float("inf") else f"has more than {MAX_WEIGHT} parts"
        problems.append(Problem(at, f"The schema {circle}; write it without that"))
    return problems


def _problem(error: ValidationError, at: str) -> Problem:
    return Problem(at + pointer_to(*error.absolute_path), _short(error.message))


def pointer_to(*parts: str | int) -> str:
    """A JSON pointer from its reference tokens."""
    return "".join(f"/{escape(str(part))}" for part in parts)


def _part_problems(root: Any, known: set[int], part: dict[str, Any], at: str) -> Iterator[Problem]:
    for keyword in NOT_SUPPORTED:
        if keyword in part:
            yield Problem(f"{at}/{keyword}", f"{keyword} is not supported here")
    if "$schema" in part and part is not root:
        yield Problem(f"{at}/$schema", "Only the whole schema has a dialect, not a part of it")
    elif part.get("$schema", DIALECT).rstrip("#") != DIALECT:
        yield Problem(f"{at}/$schema", "Only JSON Schema draft 2020-12 is supported")
    if "$ref" in part and id(_referred(root, part["$ref"])) not in known:
        yield Problem(f"{at}/$ref", "Only references to parts of this schema (#/$defs/…) are supported")
    if "pattern" in part and _compiled(part["pattern"]) is None:
        yield Problem(f"{at}/pattern", "Not a regular expression of RE2 (no look-around, no back-references)")


def _children(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    for keyword in OF_NAMES:
        yield from ((pointer_to(keyword, name), child) for name, child in part.get(keyword, {}).items())
    for keyword in OF_LISTS:
        yield from ((pointer_to(keyword, index), child) for index, child in enumerate(part.get(keyword, [])))
    yield from ((pointer_to(keyword), part[keyword]) for keyword in OF_ONE if keyword in part)


def _parts(schema: Any, at: str) -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(schema, dict):
        yield at, schema
        for pointer, child in _children(schema):
            yield from _parts(child, at + pointer)


def _weight(root: Any, part: Any, above: tuple[str, ...]) -> float:
    """How many parts a check may visit when every reference is written out; infinite for a circle."""
    if not isinstance(part, dict):
        return 1
    total = 1.0 + sum(count_values(part[keyword]) for keyword in ("enum", "const") if keyword in part)
    for pointer, child in _children(part):
        if not pointer.startswith("/$defs/") and total <= MAX_WEIGHT:
            total += _weight(root, child, above)
    if "$ref" in part and total <= MAX_WEIGHT:
        ref = part["$ref"]
        total += float("inf") if ref in above else _weight(root, _referred(root, ref), (*above, ref))
    return total


def count_values(value: Any) -> int:
    """How many values there are in a JSON value."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + sum(map(count_values, inner))


def _referred(root: Any, ref: Any) -> Any:
    if ref == "#":
        return root
    if not isinstance(ref, str) or not ref.startswith("#/"):
        return None
    value = root
    for token in ref[2:].split("/"):
        value = value.get(token.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value


@lru_cache(256)
def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = REGEX_BYTES
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


# Bounded work -------------------------------------------------------------------------------------

Check = Callable[[Validator, Any, Any, Any], Iterator[ValidationError] | None]
_left: ContextVar[int] = ContextVar("left")


def _spend(units: int) -> None:
    left = _left.get() - units
    if left < 0:
        raise _TooMuchWork
    _left.set(left)


def _size(value: Any) -> int:
    return len(value) if isinstance(value, dict | list) else len(value) // 64 if isinstance(value, str) else 0


def _bounded(keyword: str, check: Check) -> Check:
    """The check of a keyword, paid for by what it looks at and by the length of what it says."""

    def bounded(validator: Validator, wanted: Any, value: Any, schema: Any) -> Iterator[ValidationError]:
        size = _size(value)
        _spend(1 + _size(wanted) + (size * size if keyword.startswith("unevaluated") else size))
        for error in check(validator, wanted, value, schema) or ():
            _spend(len(error.message) // 64)
            yield error

    return bounded


def _pattern(_validator: Validator, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if not isinstance(value, str):
        return
    expression = _compiled(pattern)
    if expression is not None:
        _spend(len(value) * expression.programsize // 10_000)
    if expression is None or expression.search(value) is None:
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _unique(_validator: Validator, wanted: bool, value: Any, _schema: Any) -> Iterator[ValidationError]:
    if wanted and isinstance(value, list) and len({_hashable(item) for item in value}) < len(value):
        yield ValidationError("The list holds equal items")


def _hashable(value: Any) -> Any:
    """Equal for what JSON Schema calls equal: 1 and 1.0, but not 1 and true."""
    _spend(1 + _size(value))
    if isinstance(value, dict):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    return (bool, value) if isinstance(value, bool) else value


def _short(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:200]} … {message[-90:]}"


_CHECKS: dict[str, Check] = {**Draft202012Validator.VALIDATORS, "pattern": _pattern, "uniqueItems": _unique}
_Checked = extend(  # type: ignore[no-untyped-call]
    Draft202012Validator, {keyword: _bounded(keyword, check) for keyword, check in _CHECKS.items()}
)
# The library compares each item with each. Beside that the size of a schema bounds the work.
_META = extend(Draft202012Validator, {"uniqueItems": _unique})(  # type: ignore[no-untyped-call]
    _flat_meta_schema(), registry=Registry()
)
