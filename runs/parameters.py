"""JSON Schema (draft 2020-12) for a workflow's parameters and outputs, made safe for strangers' schemas."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import re2  # type: ignore[import-untyped]
from jsonschema import Draft202012Validator, ValidationError
from jsonschema.protocols import Validator
from jsonschema.validators import extend
from referencing import Registry

from runs.placeholders import escape

MAX_WEIGHT, MAX_PROBLEMS = 2_000, 100
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


class Invalid(Exception):
    """Somebody's document cannot be used; `problems` says everything that is wrong with it."""

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__(
            "; ".join(f"{problem.pointer or '/'}: {problem.message}" for problem in problems[:3])
        )
        self.problems = problems


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
    """Where `value` breaks a schema that has passed `schema_problems`, at most a hundred places."""
    errors: Iterator[ValidationError] = _Checked(schema, registry=Registry()).iter_errors(value)
    return [
        Problem(pointer_to(*error.absolute_path), _short(error.message))
        for error in islice(errors, MAX_PROBLEMS)
    ]


def schema_problems(schema: Any, at: str) -> list[Problem]:
    """What makes `schema` unusable; `at` is the pointer to it.

    Refused beside invalid schemas: references out of the schema, in circles or so often that checking would
    explode, and patterns outside RE2, whose time is linear (https://github.com/google/re2/wiki/Syntax).
    """
    errors = islice(Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema), MAX_PROBLEMS)
    if problems := [
        Problem(at + pointer_to(*error.absolute_path), _short(error.message)) for error in errors
    ]:
        return problems
    problems = [
        problem for pointer, part in _parts(schema, at) for problem in _part_problems(schema, part, pointer)
    ]
    if not problems and (weight := _weight(schema, schema, ())) > MAX_WEIGHT:
        circle = "refers to itself" if weight == float("inf") else f"has more than {MAX_WEIGHT} parts"
        problems.append(Problem(at, f"The schema {circle}; write it without that"))
    return problems


def pointer_to(*parts: str | int) -> str:
    """A JSON pointer from its reference tokens."""
    return "".join(f"/{escape(str(part))}" for part in parts)


def _part_problems(root: Any, part: dict[str, Any], at: str) -> Iterator[Problem]:
    for keyword in NOT_SUPPORTED:
        if keyword in part:
            yield Problem(f"{at}/{keyword}", f"{keyword} is not supported here")
    if part.get("$schema", DIALECT).rstrip("#") != DIALECT:
        yield Problem(f"{at}/$schema", "Only JSON Schema draft 2020-12 is supported")
    if "$ref" in part and not isinstance(_referred(root, part["$ref"]), dict | bool):
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
    total = 1.0
    for pointer, child in _children(part):
        if not pointer.startswith("/$defs/") and total <= MAX_WEIGHT:
            total += _weight(root, child, above)
    if "$ref" in part and total <= MAX_WEIGHT:
        ref = part["$ref"]
        total += float("inf") if ref in above else _weight(root, _referred(root, ref), (*above, ref))
    return total


def _referred(root: Any, ref: Any) -> Any:
    if ref == "#":
        return root
    if not isinstance(ref, str) or not ref.startswith("#/"):
        return None
    value = root
    for token in ref[2:].split("/"):
        value = value.get(token.replace("~1", "/").replace("~0", "~")) if isinstance(value, dict) else None
    return value


def _compiled(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern, options)
    except re2.error:
        return None


def _pattern(_validator: Validator, pattern: str, value: Any, _schema: Any) -> Iterator[ValidationError]:
    expression = _compiled(pattern)
    if isinstance(value, str) and (expression is None or expression.search(value) is None):
        yield ValidationError(f"{value!r} does not match {pattern!r}")


def _short(message: str) -> str:
    return message if len(message) <= 300 else f"{message[:200]} … {message[-90:]}"


_Checked = extend(Draft202012Validator, {"pattern": _pattern})  # type: ignore[no-untyped-call]
