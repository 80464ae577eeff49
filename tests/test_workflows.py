"""The workflow language: what is accepted, what is refused and where, how placeholders and params resolve."""

import json
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from runs import steps, workflows
from runs.parameters import DIALECT, pointer_to, schema_problems
from runs.workflows import InvalidParams, InvalidWorkflow, PlaceholderMissing, Problem

PARAMETERS = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "default": "Paris", "pattern": "^[A-Z][a-z]+$"},
        "guests": {"type": "integer", "minimum": 1},
        "room": {
            "type": "object",
            "properties": {"size": {"type": "string", "default": "double"}},
            "default": {},
        },
    },
    "required": ["guests"],
}
RECORDED: dict[str, Any] = {
    "title": "Recorded",
    "timeout": 5000,
    "selectorAttribute": "data-testid",
    "steps": [
        {
            "type": "setViewport",
            "width": 1042,
            "height": 978,
            "deviceScaleFactor": 1,
            "isMobile": False,
            "hasTouch": False,
            "isLandscape": False,
        },
        {
            "type": "navigate",
            "url": "https://example.com/",
            "assertedEvents": [{"type": "navigation", "url": "https://example.com/", "title": "Example"}],
        },
        {
            "type": "click",
            "target": "main",
            "selectors": [["aria/More[role=\"link\"]"], ["#more > a:nth-of-type(2)"], ["xpath///*[@id=\"more\"]/a"]],
            "offsetX": 24.5,
            "offsetY": 9,
            "frame": [0, 1],
            "button": "secondary",
            "duration": 120.5,
        },
        {"type": "doubleClick", "selectors": ["text/More"], "offsetX": 1, "offsetY": 1, "deviceType": "pen"},
        {"type": "hover", "selectors": [["my-app", "pierce/#menu"]]},
        {"type": "change", "selectors": ["#city"], "value": "Rome"},
        {"type": "keyDown", "target": "main", "key": "Enter"},
        {"type": "keyUp", "target": "main", "key": "Enter"},
        {"type": "scroll", "x": 0, "y": 300.5},
        {"type": "scroll", "selectors": ["#list"], "y": 40},
        {"type": "emulateNetworkConditions", "download": 50000, "upload": 50000, "latency": 2000},
        {
            "type": "waitForElement",
            "selectors": ["li"],
            "operator": "==",
            "count": 3,
            "visible": True,
            "properties": {"textContent": "x"},
            "attributes": {"class": "done"},
        },
        {"type": "waitForExpression", "expression": "[{a: {b: 1}}].length === 1"},
        {"type": "customStep", "name": "somebody", "parameters": {"any": ["thing", None]}},
        {"type": "close", "target": "https://example.com/popup", "recordedBy": "a later DevTools"},
    ],
}  # fmt: skip


def flow(*steps: Any, **header: Any) -> dict[str, Any]:
    return {"title": "A flow", "steps": list(steps)} | header


def pointers(definition: Any, parameters: dict[str, Any] | None = None) -> list[str]:
    return [problem.pointer for problem in workflows.problems(definition, parameters)]


def test_every_step_that_the_recorder_exports_is_accepted_and_kept_as_it_is() -> None:
    assert workflows.problems(RECORDED, None) == []
    assert workflows.import_recorder(json.dumps(RECORDED).encode()) == RECORDED
    parsed = workflows.parse(RECORDED, None)
    assert (parsed.title, parsed.timeout, list(parsed.steps)) == ("Recorded", 5000, RECORDED["steps"])
    assert {step["type"] for step in parsed.steps} == set(steps.RECORDER_STEPS)


@pytest.mark.parametrize(
    ("definition", "expected"),
    [
        ({}, ["/title", "/steps"]),
        ({"title": 3, "steps": {}}, ["/title", "/steps"]),
        (flow(), ["/steps"]),
        (flow("click"), ["/steps/0"]),
        (flow({"type": 1}), ["/steps/0/type"]),
        (flow({"type": "clik"}), ["/steps/0/type"]),
        (flow({"type": "click"}), ["/steps/0/selectors"]),
        (flow({"type": "click", "selectors": []}), ["/steps/0/selectors"]),
        (flow({"type": "click", "selectors": ["a", 5]}), ["/steps/0/selectors/1"]),
        (flow({"type": "click", "selectors": ["a", ["b", 5]]}), ["/steps/0/selectors/1"]),
        (flow({"type": "click", "selectors": ["a", ["b", ""]]}), ["/steps/0/selectors/1"]),
        (flow({"type": "click", "selectors": ["a[href='x'"]}), ["/steps/0/selectors/0"]),
        (flow({"type": "click", "selectors": ["a[href=\"x]"]}), ["/steps/0/selectors/0"]),
        (flow({"type": "click", "selectors": ["xpath/"]}), ["/steps/0/selectors/0"]),
        (flow({"type": "click", "selectors": ["aria/Go[level=\"2\"]"]}), ["/steps/0/selectors/0"]),
        (flow({"type": "click", "selectors": ["a"], "offsetX": "3"}), ["/steps/0/offsetX"]),
        (flow({"type": "click", "selectors": ["a"], "offsetX": True}), ["/steps/0/offsetX"]),
        (flow({"type": "click", "selectors": ["a"], "button": "left"}), ["/steps/0/button"]),
        (flow({"type": "click", "selectors": ["a"], "frame": [-1]}), ["/steps/0/frame/0"]),
        (flow({"type": "click", "selectors": ["a"], "duraton": 3}), ["/steps/0/duraton"]),
        (flow({"type": "click", "selectors": ["a"], "timeout": 0}), ["/steps/0/timeout"]),
        (flow({"type": "change", "selectors": ["a"]}), ["/steps/0/value"]),
        (flow({"type": "keyDown", "key": "Entr"}), ["/steps/0/key"]),
        (flow({"type": "keyDown", "key": None}), ["/steps/0/key"]),
        (flow({"type": "setViewport", "width": 10_000, "height": 10_000}), ["/steps/0/deviceScaleFactor"]),
        (flow({"type": "setViewport", "width": 3_840, "height": 2_160, "deviceScaleFactor": 4}), ["/steps/0/deviceScaleFactor"]),
        (flow({"type": "navigate", "url": "file:///etc/passwd"}), ["/steps/0/url"]),
        (flow({"type": "navigate", "url": "javascript:alert(1)"}), ["/steps/0/url"]),
        (flow({"type": "close", "assertedEvents": [{"type": "reload"}]}), ["/steps/0/assertedEvents/0/type"]),
        (flow({"type": "waitForElement", "selectors": ["a"], "operator": ">"}), ["/steps/0/operator"]),
        (flow({"type": "extract", "name": "a b", "fields": {"x": {}}}), ["/steps/0/name"]),
        (flow({"type": "extract", "name": "a", "fields": {}}), ["/steps/0/fields"]),
        (flow({"type": "extract", "name": "a", "fields": {"x/y": {"type": "int"}}}), ["/steps/0/fields/x~1y/type"]),
        (flow({"type": "extract", "name": "a", "fields": {"x": {}}, "schema": {"type": "lst"}}), ["/steps/0/schema/type"]),
        (flow({"type": "extract", "name": "a", "fields": {"x": {}}, "maney": True}), ["/steps/0/maney"]),
        (flow({"type": "customStep", "name": "cua.screenshot", "parameters": {"name": 5}}), ["/steps/0/parameters/name"]),
        (flow({"type": "customStep", "name": "cua.nothing", "parameters": {}}), ["/steps/0/type"]),
        (flow({"type": "close"}, timeout="long"), ["/timeout"]),
        (flow({"type": "close"}, timeout="{{ params.city }}"), ["/timeout"]),
        (flow({"type": "close", "target": "a\0b"}), ["/steps/0/target"]),
        (flow({"type": "close", "target": "a\ud800"}), ["/steps/0/target"]),
        (flow({"type": "clik"}, {"type": "click"}, title=""), ["/title", "/steps/0/type", "/steps/1/selectors"]),
    ],
)  # fmt: skip
def test_each_problem_is_named_with_its_pointer(definition: dict[str, Any], expected: list[str]) -> None:
    assert pointers(definition) == expected


def test_parse_raises_every_problem_at_once() -> None:
    with pytest.raises(InvalidWorkflow) as caught:
        workflows.parse(flow({"type": "clik"}, {"type": "hover"}), None)
    assert caught.value.problems == [
        Problem("/steps/0/type", "Unknown step type 'clik'; did you mean 'click'?"),
        Problem("/steps/1/selectors", "Field required"),
    ]


def nested(levels: int) -> Any:
    value: Any = "x"
    for _ in range(levels):
        value = [value]
    return value


MONSTERS: dict[str, Callable[[], Any]] = {
    "a long text": lambda: flow({"type": "change", "selectors": ["a"], "value": "x" * 10_000_000}),
    "a long name": lambda: flow({"type": "close", "k" * 10_000_000: 1}),
    "many steps": lambda: flow(*[{"type": "close"}] * 100_000),
    "many wrong steps": lambda: flow(*[{"type": "clik"}] * 1_000),
    "deep nesting": lambda: flow({"type": "customStep", "name": "x", "parameters": nested(10_000)}),
    "many values": lambda: flow({"type": "customStep", "name": "x", "parameters": [0] * 1_000_000}),
    "a long selector": lambda: flow({"type": "click", "selectors": [["a"] * 100_000]}),
    "open placeholders": lambda: flow({"type": "change", "selectors": ["a"], "value": "{{" * 50_000}),
    "a long path": lambda: flow({"type": "keyUp", "key": "{{ params" + ".a" * 40_000 + " }}"}),
    "a long key": lambda: flow({"type": "keyDown", "key": "F1" * 40_000}),
}


@pytest.mark.parametrize("monster", MONSTERS)
@pytest.mark.timeout(20)
def test_monstrous_definitions_are_refused_in_bounded_time_and_words(monster: str) -> None:
    found = workflows.problems(MONSTERS[monster](), None)
    assert 0 < len(found) <= workflows.MAX_PROBLEMS
    assert all(len(problem.message) < 500 and len(problem.pointer) < 500 for problem in found)


@pytest.mark.parametrize(
    "step",
    [
        {"type": "waitForExpression", "expression": "{{ params." * 10_000},
        {"type": "click", "selectors": ["aria/" + "[name=" * 1_600]},
        {"type": "click", "selectors": ["a" + "[b='" * 2_000 + "x" + "']" * 2_000]},
    ],
)
@pytest.mark.timeout(20)
def test_texts_that_are_hard_to_read_are_read_in_linear_time(step: dict[str, Any]) -> None:
    assert len(workflows.problems(flow(step), None)) <= 1


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"type": "array"}, ["/parameters/type"]),
        ({"type": "objct"}, ["/parameters/type"]),
        ({"properties": {"a": {"type": "string", "pattern": "(?=x)"}}}, ["/parameters/properties/a/pattern"]),
        ({"properties": {"a": {"pattern": "["}}}, ["/parameters/properties/a/pattern"]),
        ({"properties": {"a": {"$ref": "https://example.com/schema"}}}, ["/parameters/properties/a/$ref"]),
        ({"properties": {"a": {"$ref": "#/$defs/gone"}}}, ["/parameters/properties/a/$ref"]),
        ({"properties": {"a": {"patternProperties": {"(a+)+$": True}}}}, ["/parameters/properties/a/patternProperties"]),
        ({"properties": {"a": {"$ref": "#"}}}, ["/parameters"]),
        ({"default": {}, "properties": {"a": {"$ref": "#/default"}}}, ["/parameters/properties/a/$ref"]),
        ({"properties": {"a": {"$schema": DIALECT}}}, ["/parameters/properties/a/$schema"]),
        ({"properties": {"a": {"enum": list(range(2_000))}}}, ["/parameters"]),
        ({"allOf": [{}] * 50_000}, ["/parameters"]),
        (
            {"$defs": {f"d{n}": {"allOf": [{"$ref": f"#/$defs/d{n + 1}"}] * 2} for n in range(30)} | {"d30": {}},
             "properties": {"a": {"$ref": "#/$defs/d0"}}},
            ["/parameters"],
        ),
    ],
)  # fmt: skip
def test_schemas_that_are_wrong_or_dangerous_are_refused(
    parameters: dict[str, Any], expected: list[str]
) -> None:
    assert pointers(flow({"type": "close"}), parameters) == expected


def test_what_would_take_long_to_check_or_to_tell_is_one_problem() -> None:
    """The library would compare each item with each, and build each problem, for half a minute."""
    alike = [{"a": number} for number in range(4_900)]
    assert [problem.pointer for problem in schema_problems({"type": alike}, "")] == ["/type"]
    assert [problem.pointer for problem in schema_problems({"required": ["a", "a"]}, "")] == ["/required"]
    step = {"type": "click", "selectors": ["a"], "assertedEvents": [1] * 150_000}
    assert pointers(flow(step)) in (["/steps/0"], ["/steps/0/assertedEvents"])
    wrong = EXTRACT | {f"x{number}": 1 for number in range(1_001)}
    assert pointers(flow(wrong)) == ["/steps/0"]


def test_the_schemas_of_all_steps_have_one_limit() -> None:
    schema = {"properties": {f"p{n}": {"type": "string"} for n in range(1_900)}}
    assert pointers(flow(EXTRACT | {"schema": schema})) == []
    began = time.perf_counter()
    assert pointers(flow(*[EXTRACT | {"schema": schema}] * 16)) == ["/steps"]
    assert time.perf_counter() - began < 1.5


@pytest.mark.parametrize(
    "schema",
    [
        {"type": ["string", "null"], "minLength": 1, "format": "email", "title": "T", "contentEncoding": "base64"},
        {"type": ["string", "string"]},
        {"minLength": -1, "maxItems": 1.5, "required": ["a", "a"], "multipleOf": 0},
        {"properties": {"$dynamicRef": {"type": "lst"}, "a": 5}, "$defs": {"b": {"items": [{}]}}},
        {"allOf": [], "not": {"enum": 1}, "if": [], "dependentRequired": {"a": "b"}, "dependentSchemas": {"a": 1}},
        {"$comment": 1, "deprecated": "yes", "examples": 1, "unevaluatedItems": "x", "propertyNames": {"anyOf": [1]}},
        {"definitions": {"a": 1}, "dependencies": {"a": 1}, "$anchor": "1", "$id": "a#b", "$ref": 1},
    ],
)  # fmt: skip
def test_schemas_are_judged_as_the_dialect_judges_them(schema: dict[str, Any]) -> None:
    official = Draft202012Validator(Draft202012Validator.META_SCHEMA).iter_errors(schema)
    ours = {"uniqueItems": "The list holds equal items"}  # without the whole list
    expected = {
        (pointer_to(*error.absolute_path), ours.get(str(error.validator), error.message))
        for error in official
    }
    assert {(found.pointer, found.message) for found in schema_problems(schema, "")} == expected


def test_a_property_may_be_called_like_a_keyword() -> None:
    names = ["pattern", "$ref", "patternProperties", "default", "required"]
    assert (
        pointers(flow({"type": "close"}), {"properties": {name: {"type": "string"} for name in names}}) == []
    )


@pytest.mark.timeout(20)
def test_a_pattern_that_explodes_elsewhere_is_checked_in_linear_time() -> None:
    schema = {"properties": {"a": {"type": "string", "pattern": "^(a+)+$"}}}
    assert pointers(flow({"type": "close"}), schema) == []
    with pytest.raises(InvalidParams):
        workflows.resolve_params(schema, {"a": "a" * 50_000 + "!"})


EXPENSIVE: dict[str, tuple[dict[str, Any], Any]] = {
    "many checks of each item": ({"items": {"allOf": [{"type": "integer"}] * 300}}, [0] * 100_000),
    "many empty checks": ({"allOf": [{"items": {}}] * 600}, [0] * 100_000),
    "one of many": ({"items": {"enum": list(range(1_900))}}, [-1] * 50_000),
    "many long complaints": ({"anyOf": [{"type": "string"}] * 500}, [list(range(100_000))]),
    "names left over": ({"additionalProperties": True, "unevaluatedProperties": False}, {f"a{n}": 1 for n in range(50_000)}),
    "branches left over": (
        {"items": {"unevaluatedProperties": False, "anyOf": [{"properties": {f"a{n}": True}} for n in range(300)]}},
        [{"a1": 1}] * 2_000,
    ),
    "a heavy pattern": ({"items": {"pattern": "(.*a.*){200}b"}}, ["a" * 50_000] * 20),
    "nested lists": ({"contains": {"contains": {"contains": {"const": 1}}}}, [[[0] * 100] * 100] * 20),
    "many lists": ({"uniqueItems": True}, [[n] for n in range(100_000)]),
}  # fmt: skip


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", EXPENSIVE)
def test_a_check_that_would_take_long_is_given_up(name: str) -> None:
    schema, value = EXPENSIVE[name]
    parameters = {"properties": {"a": schema}}
    assert pointers(flow({"type": "close"}), parameters) == []
    with pytest.raises(InvalidParams) as caught:
        workflows.resolve_params(parameters, {"a": value})
    assert "too much" in caught.value.problems[-1].message


@pytest.mark.timeout(20)
def test_a_check_of_thousands_of_rows_is_not_given_up() -> None:
    names = ["city", "hotel", "price", "stars", "link"]
    row = {
        "type": "object",
        "required": names,
        "properties": {name: {"type": "string", "pattern": "^[a-z0-9 ]+$"} for name in names},
    }
    rows = [{name: f"{name} {number}" for name in names} for number in range(3_000)]
    assert workflows.violations({"type": "array", "uniqueItems": True, "items": row}, rows) == []


@pytest.mark.parametrize(
    "items", [[1, True], [0, False], ["1", 1], [{}, []], [[1], [True]], [{"a": 1}, {"a": 2}]]
)
def test_different_items_are_unique(items: list[Any]) -> None:
    assert workflows.violations({"uniqueItems": True}, items) == []


@pytest.mark.parametrize(
    "items", [[1, 1.0], [[1], [1.0]], [{"a": 1, "b": []}, {"b": [], "a": 1}], [True, True]]
)
def test_equal_items_are_not_unique(items: list[Any]) -> None:
    assert len(workflows.violations({"uniqueItems": True}, items)) == 1


def test_params_get_their_defaults_and_are_checked() -> None:
    assert workflows.resolve_params(PARAMETERS, {"guests": 2}) == {
        "city": "Paris",
        "guests": 2,
        "room": {"size": "double"},
    }
    with pytest.raises(InvalidParams) as caught:
        workflows.resolve_params(PARAMETERS, {"guests": 0, "city": "paris", "room": {"size": 4}})
    assert sorted(problem.pointer for problem in caught.value.problems) == ["/city", "/guests", "/room/size"]


@pytest.mark.parametrize("params", [{}, {"guests": True}, {"guests": 1, "gests": 1}])
def test_missing_mistyped_and_undeclared_params_are_refused(params: dict[str, Any]) -> None:
    with pytest.raises(InvalidParams):
        workflows.resolve_params(PARAMETERS, params)


def test_a_workflow_without_parameters_takes_none() -> None:
    assert workflows.resolve_params(None, None) == {}
    with pytest.raises(InvalidParams):
        workflows.resolve_params({}, {"a": 1})


SCOPE = {
    "params": {"city": "Rome", "n": 3, "ok": True},
    "outputs": {"rows": [{"name": 'A "B"'}], "big": {"x": None}},
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", "plain"),
        ("{{ params.city }}", "Rome"),
        ("{{params.n}}", 3),
        ("{{ params.ok }}", True),
        ("in {{ params.city }}, {{ params.n }} of {{ params.ok }}", "in Rome, 3 of true"),
        ("{{ outputs.rows[0].name }}", 'A "B"'),
        ("{{ outputs.rows }}", [{"name": 'A "B"'}]),
        ("{{ outputs.big }}!", '{"x": null}!'),
        ('{{ "{{" }} params.city }}', "{{ params.city }}"),
        ("}} {", "}} {"),
    ],
)
def test_placeholders_become_values(text: str, expected: Any) -> None:
    assert workflows.fill({"value": [text]}, SCOPE) == {"value": [expected]}


def test_a_placeholder_in_an_expression_becomes_a_literal_and_never_code() -> None:
    filled = workflows.fill({"expression": "[{a: {{outputs.rows[0].name}}}, {{ other }}]"}, SCOPE)
    assert filled == {"expression": '[{a: "A \\"B\\""}, {{ other }}]'}


def test_a_placeholder_is_filled_in_by_the_rules_that_it_is_checked_by() -> None:
    theirs: dict[str, Any] = {
        "expression": "{{ other }} + {{ params.n }}",
        "schema": {"description": "see {{ docs }}"},
    }
    step = {"type": "customStep", "name": "theirs", "parameters": theirs}
    assert pointers(flow(step), {"properties": {"n": {}}}) == []
    assert workflows.fill(step, SCOPE)["parameters"] == theirs | {"expression": "{{ other }} + 3"}


@pytest.mark.parametrize(
    "path", ["params.town", "outputs.rows[1].name", "outputs.rows.name", "params.city[0].x", "params.n.x"]
)
def test_a_placeholder_without_a_value_says_where(path: str) -> None:
    with pytest.raises(PlaceholderMissing) as caught:
        workflows.fill({"a/b": ["x", f"{{{{ {path} }}}}"]}, SCOPE)
    assert (caught.value.pointer, caught.value.path) == ("/a~1b/1", path)


EXTRACT = {"type": "extract", "name": "rows", "fields": {"x": {"selectors": ["td"]}}}


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("{{ params.city }}", True),
        ("{{ outputs.rows[0].x }}", True),
        ("{{ params.town }}", False),
        ("{{ outputs.later }}", False),
        ("{{ city }}", False),
        ("{{ params }}", False),
        ("{{ params.city | upper }}", False),
        ("{{ params.__class__.x }}", False),
        ("{{ params.city", False),
        ("{{}}", False),
        ('{{ "unfinished }}', False),
    ],
)
def test_unknown_placeholders_are_problems(text: str, known: bool) -> None:
    later = {"type": "screenshot", "name": "later"}
    definition = flow(EXTRACT, {"type": "change", "selectors": ["a"], "value": text}, later)
    assert pointers(definition, PARAMETERS) == ([] if known else ["/steps/1/value"])


def test_a_placeholder_may_stand_where_a_number_or_a_flag_is_wanted() -> None:
    step = {
        "type": "waitForElement",
        "selectors": ["a"],
        "count": "{{ params.guests }}",
        "timeout": "{{ params.city }}",
    }
    assert pointers(flow(step), PARAMETERS) == []
    filled = workflows.typed(workflows.fill(step, {"params": {"guests": 2, "city": 900}}))
    assert (filled.timeout, filled.model_dump()["count"]) == (900, 2)
    with pytest.raises(InvalidWorkflow):
        workflows.typed(workflows.fill(step, {"params": {"guests": -1, "city": 900}}))


def test_numbers_and_flags_become_text_where_text_is_wanted() -> None:
    for value, written in ((3, "3"), (2.5, "2.5"), (True, "true")):
        step = workflows.typed({"type": "change", "selectors": ["a"], "value": value})
        assert step.model_dump()["value"] == written


def test_our_steps_travel_as_custom_steps_and_come_back_without_loss() -> None:
    own = EXTRACT | {"timeout": 900, "frame": [1], "target": "main", "schema": {"type": "object"}}
    definition = flow(own, RECORDED["steps"][-1], RECORDED["steps"][-2], note="kept")
    exported = workflows.export_recorder(definition)
    assert exported["steps"][0] == {
        "type": "customStep",
        "timeout": 900,
        "frame": [1],
        "target": "main",
        "name": "cua.extract",
        "parameters": {"name": "rows", "fields": EXTRACT["fields"], "schema": {"type": "object"}},
    }
    assert exported["steps"][1:] == definition["steps"][1:]
    assert workflows.import_recorder(exported) == definition
    assert workflows.problems(exported, None) == []


@pytest.mark.parametrize(
    "document", [b"", b"import puppeteer from 'puppeteer'", b"[]", b"{}", b'{"steps": 3}', b"[" * 100_000]
)
def test_what_is_no_recording_is_refused(document: bytes) -> None:
    with pytest.raises(InvalidWorkflow):
        workflows.import_recorder(document)


def test_only_steps_that_lead_to_the_same_state_again_are_safe() -> None:
    safe = {step["type"] for step in RECORDED["steps"] if workflows.safe(step)}
    assert safe == set(steps.RECORDER_STEPS) - {
        "click",
        "doubleClick",
        "keyDown",
        "keyUp",
        "close",
        "customStep",
    }
    assert workflows.safe(EXTRACT) and workflows.safe(workflows.export_recorder(flow(EXTRACT))["steps"][0])


ASKING = {"type": "approve", "title": "Pay {{ params.total }} €?", "timeout": 1000}


def test_steps_that_wait_for_a_person_travel_as_custom_steps_and_come_back() -> None:
    waiting = flow(ASKING, {"type": "pause", "title": "Sign in, please"})
    exported = workflows.export_recorder(waiting)
    assert [step["name"] for step in exported["steps"]] == ["cua.approve", "cua.pause"]
    assert workflows.import_recorder(exported) == waiting
    assert workflows.problems(exported, {"properties": {"total": True}}) == []
    assert all(workflows.safe(step) for step in waiting["steps"])


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        ({"type": "approve"}, ["/steps/0/title"]),
        ({"type": "approve", "title": ""}, ["/steps/0/title"]),
        ({"type": "approve", "title": "x" * 501}, ["/steps/0/title"]),
        ({"type": "approve", "title": 3}, ["/steps/0/title"]),
        ({"type": "approve", "title": "{{ params.no }}"}, ["/steps/0/title"]),
        ({"type": "approve", "title": "{{ outputs.no }}"}, ["/steps/0/title"]),
        ({"type": "approve", "title": "?", "timeout": 999}, ["/steps/0/timeout"]),
        ({"type": "approve", "title": "?", "timeout": 30 * 86_400_000 + 1}, ["/steps/0/timeout"]),
        ({"type": "approve", "title": "?", "name": "a b"}, ["/steps/0/name"]),
        ({"type": "approve", "title": "?", "schema": {}}, ["/steps/0"]),
        ({"type": "approve", "title": "?", "assertedEvents": [{"type": "navigation"}]}, ["/steps/0/assertedEvents"]),
        ({"type": "aprove", "title": "?"}, ["/steps/0/type"]),
        ({"type": "pause"}, ["/steps/0/title"]),
        ({"type": "pause", "title": "Wait", "timeout": 5000}, ["/steps/0/timeout"]),
        ({"type": "customStep", "name": "cua.approve", "parameters": {"titel": "?"}},
         ["/steps/0/parameters/title", "/steps/0/parameters/titel"]),
    ],
)  # fmt: skip
def test_a_step_that_waits_says_for_what(step: dict[str, Any], expected: list[str]) -> None:
    assert pointers(flow(step)) == expected


@pytest.mark.parametrize("milliseconds", [1000, 30 * 86_400_000, None])
def test_an_answer_may_take_a_second_to_thirty_days(milliseconds: int | None) -> None:
    asking = {"type": "approve", "title": "?"} | ({"timeout": milliseconds} if milliseconds else {})
    assert pointers(flow(asking)) == []


def test_the_reference_names_every_step_and_its_examples_are_valid() -> None:
    text = (Path(__file__).parent.parent / "docs/workflows.md").read_text()
    blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL)]
    steps = [block for block in blocks if "type" in block]
    whole = [block for block in blocks if "steps" in block]
    [parameters] = (block for block in blocks if block not in (*steps, *whole))
    assert (len(whole), len(steps)) == (2, 3)
    for definition in (*whole, *map(flow, steps)):
        properties = parameters["properties"] | {"total": True}
        assert workflows.problems(definition, {"properties": properties}) == []
    assert all(f"`{kind}`" in text for kind in workflows.STEPS)
