"""The tools of models: small schemas, and no argument that a schema allows is refused."""

from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from browser.actions import EXAMPLES
from runs import tools
from runs.tools import TOOLS, InvalidArguments, Tool

MAX_BYTES = 16 * 1024
each_tool = pytest.mark.parametrize("tool", TOOLS.values(), ids=TOOLS)


def values(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """What fits a schema of those that tools have."""
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if "anyOf" in schema:
        return st.one_of(*map(values, schema["anyOf"]))
    match schema.get("type"):
        case "object" if "properties" in schema:
            return objects(schema)
        case "array":
            least, most = schema.get("minItems", 0), min(schema.get("maxItems", 3), 3)
            return st.lists(values(schema["items"]), min_size=least, max_size=most)
        case "string" if "pattern" in schema:
            return st.from_regex(schema["pattern"], fullmatch=True)
        case "string":
            letters = st.characters(codec="utf-8", exclude_characters="\0")
            return st.text(
                letters, min_size=schema.get("minLength", 0), max_size=min(schema.get("maxLength", 20), 20)
            )
        case "integer":
            return st.integers(schema.get("minimum"), schema.get("maximum"))
        case "number":
            return st.floats(
                schema.get("minimum"), schema.get("maximum"), allow_nan=False, allow_infinity=False
            )
        case "boolean":
            return st.booleans()
        case "object":
            return st.dictionaries(st.text("ab"), st.integers())
    return st.none() | st.booleans() | st.text("ab") | st.dictionaries(st.text("ab"), st.integers())


def objects(schema: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    fields = {name: values(kind) for name, kind in schema["properties"].items()}
    if schema.get("maxProperties") == 1:
        return st.one_of(*(st.fixed_dictionaries({name: kind}) for name, kind in fields.items()))
    needed = {name: fields.pop(name) for name in schema.get("required", ())}
    return st.fixed_dictionaries(needed, optional=fields)


@each_tool
def test_a_schema_is_plain(tool: Tool) -> None:
    schema = tool.schema()
    Draft202012Validator.check_schema(schema)
    assert (schema["type"], schema["additionalProperties"]) == ("object", False)
    text = orjson.dumps(schema).decode()
    assert not [word for word in ('"$ref"', '"$defs"', '"null"', ":null", '"title":"') if word in text]


def test_all_tools_together_are_small() -> None:
    told = [
        {"name": tool.name, "description": tool.about, "parameters": tool.schema()} for tool in TOOLS.values()
    ]
    assert len(orjson.dumps(told)) < MAX_BYTES


@each_tool
def test_what_a_schema_allows_is_taken(tool: Tool) -> None:
    schema = tool.schema()
    judge = Draft202012Validator(schema)

    @settings(max_examples=40, deadline=None, database=None, derandomize=True)
    @given(objects(schema))
    def takes(arguments: dict[str, Any]) -> None:
        judge.validate(arguments)
        tools.parse(tool.name, arguments)

    takes()


@pytest.mark.parametrize("action", EXAMPLES, ids=lambda action: action["action"])
def test_what_an_action_takes_a_schema_allows(action: dict[str, Any]) -> None:
    for tool in TOOLS.values():
        named = tool.model.model_fields.get("action")
        if named is None or action["action"] not in getattr(named.annotation, "__args__", ()):
            continue
        arguments = {name: value for name, value in action.items() if name not in (*tools.OURS, *tool.fixed)}
        Draft202012Validator(tool.schema()).validate(arguments)
        tools.parse(tool.name, arguments)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("left_click", {"target": {}}),
        ("left_click", {"target": {"ref": "ref_e1", "selector": "a"}}),
        ("left_click", {}),
        ("left_click", {"target": {"ref": "ref_e1"}, "button": "right"}),
        ("find", {"query": "tea", "timeout_ms": 5}),
        ("find", {"query": "tea", "speed": 5}),
        ("find", "tea"),
        ("teleport", {}),
    ],
)
def test_other_arguments_are_refused(name: str, arguments: Any) -> None:
    with pytest.raises(InvalidArguments):
        tools.parse(name, arguments)
    assert name not in TOOLS or not Draft202012Validator(TOOLS[name].schema()).is_valid(arguments)


def test_what_is_null_counts_as_left_out() -> None:
    target = {"coordinate": None, "ref": "ref_e1", "selector": None}
    assert tools.parse("left_click", {"target": target, "tab": None}) == tools.parse(
        "left_click", {"target": {"ref": "ref_e1"}}
    )
