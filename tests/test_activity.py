"""The log in words: every kind that the code can log has its sentence, and nothing in an event breaks one."""

import ast
import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import activity
import db
import models
from models import Base, RunStatus
from runs.computers import WATCHED_KINDS
from schemas import ActivityRead, EventQuery
from tests import make
from tests.test_shape import ROOT, python_files

RESOURCES = {mapper.class_.resource() for mapper in Base.registry.mappers}
KIND = re.compile(rf"({'|'.join(sorted(RESOURCES))}|control|auth)(\.[a-z_]+)+")
NO_KINDS = {"frame.file", "user.created", "user.deleted"}  # of the recorder, and of Clerk
# What an f-string may become; a new one has to be listed here, and so be worded.
WRITTEN: dict[str, set[str]] = {
    "computer.{kind}": {f"computer.{kind}" for kind in WATCHED_KINDS},
    "run.{event}": {f"run.{name}" for name in ("resumed", "waiting", "paused", "queued", "cancelled")}
    | {f"run.{status}" for status in RunStatus if status.ended},
    "delivery.{delivery.status}": {"delivery.succeeded", "delivery.failed"},
    "{model.resource()}.{event}": set(),
    "{model.resource()}.deleted": set(),
}


def emitted(path: Path) -> set[str]:
    """Every kind that a file's code can log."""
    kinds: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            kinds |= {node.value} if KIND.fullmatch(node.value) else set()
            kinds |= {found[1] for found in re.finditer(rf"'({KIND.pattern})'", node.value)}
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            kinds |= _called(node, node.func)
    return kinds - NO_KINDS


def _called(node: ast.Call, called: ast.Attribute) -> set[str]:
    first = node.args[0] if node.args else None
    if called.attr in ("emit", "announce") and isinstance(first, ast.JoinedStr):
        return WRITTEN[ast.unparse(first)[2:-1]]
    if not (isinstance(called.value, ast.Name) and called.value.id == "tx" and isinstance(first, ast.Name)):
        return set()
    model = getattr(models, first.id, None)
    if model is None or called.attr not in ("create", "update", "delete"):
        return set()
    verbs = [
        word.value.value
        for word in node.keywords
        if word.arg == "event" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str)
    ]
    verb = {"create": "created", "update": "updated", "delete": "deleted"}[called.attr]
    return {f"{model.resource()}.{verbs[0] if verbs else verb}"}


def everything_emitted() -> set[str]:
    files = [path for path in python_files() if path.name != "activity.py" and path.parent.name != "demo"]
    return set().union(*map(emitted, [*files, *(ROOT / "migrations/versions").glob("*.py")]))


def test_every_kind_that_the_code_can_log_has_a_sentence() -> None:
    found = everything_emitted()
    assert {
        "run.step.finished",
        "computer.navigated",
        "auth.signed_in",
        "control.taken",
        "run.started",
    } <= found
    assert {"thread.created", "workflow.updated", "run.deleted", "file.created", "run.queued"} <= found
    assert found - activity.SENTENCES.keys() == set()


def test_names_are_quoted_and_cut_and_words_are_plain() -> None:
    assert activity.sentence("workflow.created", {"name": "Find\n tea"}) == "Workflow “Find tea” was created."
    long = activity.sentence("thread.deleted", {"name": "x" * 500})
    assert long == f"Thread “{'x' * 79}…” was deleted."
    assert activity.sentence("computer.closed", {"name": "C", "closed_reason": "worker_died"}) == (
        "Computer “C” closed: worker died."
    )
    failed = {"title": "Buy", "error": {"code": "x", "detail": "No such button"}}
    assert activity.sentence("run.failed", failed) == "Run “Buy” failed: “No such button”."
    step = {"number": 3, "title": "click #go", "status": "may_have_landed"}
    assert activity.sentence("run.step.finished", step) == "Step 3 ended (may have landed): “click #go”."
    assert (
        activity.sentence("run.queued", {"title": "Buy"}, "key:1") == "Run “Buy” was queued with an API key."
    )


def test_what_is_missing_is_left_out_and_a_strange_kind_is_said_as_it_is() -> None:
    assert activity.sentence("run.paused", {"truncated": True}) == "Run paused."
    assert activity.sentence("run.step.finished", {}) == "Step ended."
    assert activity.sentence("thing.happened", {}) == "Something happened: thing.happened."


JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=120),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "title", "error", "detail", "number", "url"]), inner)
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None, database=None)
@given(
    st.sampled_from([*sorted(activity.SENTENCES), "odd"]) | st.text(max_size=50), JSON, st.text(max_size=20)
)
def test_no_data_breaks_a_sentence(kind: str, data: Any, actor: str) -> None:
    text = activity.sentence(kind, data, actor)
    assert text
    assert "\n" not in text
    assert "{" not in activity.sentence(kind, None) or "{" in kind


async def test_the_log_is_paged_filtered_and_told(user: str, other_user: str) -> None:
    things = [str(uuid4()) for _ in range(2)]
    async with db.as_user(user) as tx:
        for number in range(6):
            kind = ("run.started", "run.step.started", "running.late", "file.created")[number % 4]
            tx.emit(
                kind, ("file" if number % 4 == 3 else "thing", things[number % 2]), {"name": f"n{number}"}
            )

    async def told(**query: Any) -> tuple[list[int], str | None]:
        reply = await activity.page(user, EventQuery(**query))
        body = orjson.loads(bytes(reply.body))
        assert ("link" in reply.headers) is (body["next_cursor"] is not None)
        for item in body["data"]:
            assert orjson.loads(ActivityRead.model_validate(item).model_dump_json()) == item
        return [item["seq"] for item in body["data"]], body["next_cursor"]

    assert await told() == ([1, 2, 3, 4, 5, 6], None)
    assert await told(kind="run.") == ([1, 2, 5, 6], None)
    assert await told(kind="run.step.") == ([2, 6], None)
    assert await told(kind="run.started") == ([1, 5], None)
    assert await told(kind="run.%") == ([], None)
    assert await told(kind=".") == ([], None)
    assert await told(resource_id=things[1]) == ([2, 4, 6], None)
    assert await told(resource_type="file", order="desc") == ([4], None)
    seqs, cursor = await told(kind="run.", limit=3)
    assert seqs == [1, 2, 5]
    assert await told(kind="run.", limit=3, cursor=cursor) == ([6], None)
    assert orjson.loads(bytes((await activity.page(other_user, EventQuery())).body))["data"] == []


async def test_one_thing_of_a_long_log_is_found_by_an_index(user: str) -> None:
    async with db.as_user(user) as tx:
        plan = await tx.connection.fetch(
            "explain select * from events where user_id = $1 and resource_id = $2 order by seq limit 50",
            *(user, str(uuid4())),
        )
    assert any("events_user_id_resource_id_seq_ix" in row[0] for row in plan), plan


@pytest.mark.parametrize("query", [{"kind": "x" * 101}, {"resource": "file"}, {"limit": 0}, {"cursor": "?"}])
async def test_bad_questions_are_refused(alice: httpx.AsyncClient, query: dict[str, Any]) -> None:
    reply = await alice.get("/api/activity", params=query)
    assert reply.status_code == 422, reply.text


async def test_activity_over_http(alice: httpx.AsyncClient) -> None:
    workflow = await make.workflow(alice, name="Tea")
    body = (await alice.get("/api/activity", params={"resource_id": workflow["id"]})).json()
    assert [item["text"] for item in body["data"]] == ["Workflow “Tea” was created."]
    assert body["data"][0]["resource"] == {"type": "workflow", "id": workflow["id"]}
