"""The way of a run through its flow: branches, loops, what their steps know, and finding the place again."""

from typing import Any

import pytest

from models import Run, Step
from runs.trail import Trail, landed_earlier
from runs.walk import Place, TooManySteps, Walk
from runs.workflows import Flow

READ: dict[str, Any] = {"type": "extract", "name": "found", "fields": {"x": {}}}
CLICK: dict[str, Any] = {"type": "click", "selectors": ["a"]}
Outcomes = dict[str, Any]


def loop(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"type": "forEach", "items": "{{ params.list }}", "steps": list(steps)} | more


def way(steps: list[dict[str, Any]], outcomes: Outcomes, first: int = 1) -> list[tuple[int, str, int]]:
    """Number, pointer and outermost step of every place, with the outcome of each type of step."""
    walk, places = Walk(steps, {}, {}, first), []
    while (place := walk.place) is not None:
        places.append((place.number, place.pointer, place.top))
        walk.go_on(outcomes.get(place.step["type"]))
    return places


def test_a_branch_is_taken_or_its_other_one() -> None:
    flow = [{"type": "if", "value": 1, "then": [CLICK, CLICK], "else": [READ]}, CLICK]
    then = [(1, "/steps/0", 1), (2, "/steps/0/then/0", 1), (3, "/steps/0/then/1", 1), (4, "/steps/1", 2)]
    assert way(flow, {"if": {"met": True}}) == then
    assert way(flow, {"if": {"met": False}}) == [
        (1, "/steps/0", 1),
        (2, "/steps/0/else/0", 1),
        (3, "/steps/1", 2),
    ]
    assert way([{"type": "if", "value": 1}], {"if": {"met": False}}) == [(1, "/steps/0", 1)]


def test_a_loop_does_its_steps_once_for_each_item() -> None:
    flow = [loop(CLICK, READ), CLICK]
    assert way(flow, {"forEach": ["a", "b"]}) == [
        (1, "/steps/0", 1),
        (2, "/steps/0/steps/0", 1),
        (3, "/steps/0/steps/1", 1),
        (4, "/steps/0/steps/0", 1),
        (5, "/steps/0/steps/1", 1),
        (6, "/steps/1", 2),
    ]
    assert way(flow, {"forEach": []}) == [(1, "/steps/0", 1), (2, "/steps/1", 2)]
    assert way(flow, {"forEach": ["a"]}, first=2) == [(2, "/steps/1", 2)]


def test_what_a_round_brings_is_seen_until_it_ends_and_collected() -> None:
    inner = loop(READ, name="inner", **{"as": "cell"})
    flow = [READ, loop(inner, READ, name="outer", **{"as": "row"}), CLICK]
    walk, seen, number = Walk(flow, {"list": 1}, {}, 1), [], 0
    while (place := walk.place) is not None:
        seen.append((place.pointer, dict(place.scope), walk.kept))
        number += 1
        outcome = {"extract": number, "forEach": ["x"], "click": None}[place.step["type"]]
        walk.go_on(outcome)
    base: dict[str, Any] = {"params": {"list": 1}}
    row = {"row": "x", "row_index": 0}
    one = {"found": 1}
    assert seen == [
        ("/steps/0", base | {"outputs": {}}, {}),
        ("/steps/1", base | {"outputs": one}, one),
        ("/steps/1/steps/0", base | row | {"outputs": one}, one),
        ("/steps/1/steps/0/steps/0", base | row | {"cell": "x", "cell_index": 0, "outputs": one}, one),
        ("/steps/1/steps/1", base | row | {"outputs": one | {"inner": [{"found": 4}]}}, one),
        ("/steps/2", base | {"outputs": walk.kept}, walk.kept),
    ]
    assert walk.kept == one | {"outer": [{"inner": [{"found": 4}], "found": 5}]}
    assert walk.outputs == walk.kept


def test_the_same_outcomes_lead_to_the_same_place() -> None:
    flow = [loop({"type": "if", "value": 1, "then": [READ], "else": [CLICK]}, name="all"), READ]
    outcomes: list[Any] = [[1, 2, 3], {"met": True}, "a", {"met": False}, None, {"met": True}, "b", "c"]
    walk = Walk(flow, {}, {}, 1)
    for done, outcome in enumerate(outcomes):
        again = Walk(flow, {}, {}, 1)
        for known in outcomes[:done]:
            again.go_on(known)
        assert (again.place, again.outputs, again.kept) == (walk.place, walk.outputs, walk.kept)
        walk.go_on(outcome)
    assert (walk.place, walk.kept) == (None, {"all": [{"found": "a"}, {}, {"found": "b"}], "found": "c"})


def test_a_step_that_brought_nothing_leaves_no_output() -> None:
    walk = Walk([READ, CLICK], {}, {}, 1)
    walk.go_on(None, brought=False)
    assert walk.outputs == {}


def test_the_rounds_of_loops_together_have_an_end() -> None:
    walk = Walk([loop(loop(CLICK))], {}, {}, 1)
    with pytest.raises(TooManySteps, match="10,000"):
        while walk.place is not None:
            walk.go_on(list(range(200)))
    assert walk.place is not None
    assert walk.place.number == 10_001


# Trails ---------------------------------------------------------------------------------------------


def trail(run: Run, steps: list[Step], before: tuple[Run, list[Step]] | None = None) -> Trail:
    flow = Flow("T", None, tuple(FLOW), {})
    return Trail(flow, run, steps, max((step.number for step in steps), default=0), before)


FLOW: list[dict[str, Any]] = [loop(CLICK), CLICK, READ, CLICK, CLICK]


def rows(*outcomes: tuple[str, Any], first: int = 1) -> list[Step]:
    return [
        Step(number=number, pointer=pointer, output=output, status="succeeded")
        for number, (pointer, output) in enumerate(outcomes, first)
    ]


def pointers(places: list[Place]) -> list[str]:
    return [place.pointer for place in places]


def test_a_checkpoint_says_what_was_done_since_its_page_was_opened_to_the_next_worker() -> None:
    run = Run(first_step=1, params={}, outputs={})
    steps = rows(
        ("/steps/0", [1, 2]), ("/steps/0/steps/0", None), ("/steps/0/steps/0", None), ("/steps/1", None)
    )
    first = trail(run, steps[:3])
    first.land()
    first.go_on(None)
    checkpoint = first.landing()
    assert checkpoint == {"landed_at": 3, "landed_step": 1}
    second = trail(run, steps)
    second.land_as(checkpoint)
    assert pointers(second.since_landing) == pointers(first.since_landing) == ["/steps/1"]
    assert len(second.until_landing) == 3


def test_a_retry_knows_what_the_run_before_has_done_and_goes_without_it_when_that_is_gone() -> None:
    before = Run(first_step=1, params={}, outputs={})
    done = rows(
        ("/steps/0", [1, 2]),
        ("/steps/0/steps/0", None),
        ("/steps/0/steps/0", None),
        ("/steps/1", None),
        ("/steps/2", 5),
    )
    run = Run(first_step=4, params={}, outputs={"found": 5})
    checkpoint = {"landed_ahead": 3, "landed_step": 1}
    known = trail(run, [], (before, done))
    known.land_as(checkpoint)
    assert pointers(known.since_landing) == ["/steps/1", "/steps/2"]
    assert known.landing() == checkpoint
    assert known.place is not None
    assert (known.place.number, known.place.pointer, known.scope["outputs"]) == (4, "/steps/3", {"found": 5})
    own = rows(("/steps/3", None), ("/steps/4", None), first=4)
    gone = trail(run, own)
    gone.land_as({"landed_ahead": 5, "landed_step": 3})
    assert pointers(gone.since_landing) == ["/steps/3", "/steps/4"]
    assert [place.unknown_inside for place in gone.until_landing] == [True, False, False]


def test_a_checkpoint_of_a_later_page_is_of_use_to_a_retry_only_for_its_sign_ins() -> None:
    opened = {"type": "navigate", "url": "https://a.example/"}
    flow = Flow("T", None, (opened, CLICK, opened, CLICK), {})
    later = {"cookies": [1], "tabs": ["x"], "landed_at": 3, "landed_step": 3}
    assert landed_earlier(later, flow, 3) == {
        "cookies": [1],
        "tabs": ["x"],
        "landed_step": 3,
        "landed_ahead": 3,
    }
    assert landed_earlier(later, flow, 2) == {"cookies": [1], "tabs": [], "landed_step": 0}
    assert landed_earlier(later, Flow("T", None, (opened, opened, opened), {}), 2) is None
