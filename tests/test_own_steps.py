# ruff: noqa: F811 - fixtures of another file
"""Our own steps on a real Chromium: conditions, loops, files in and out, drags, questions with arguments."""

import asyncio
import signal
from typing import Any
from uuid import UUID

import orjson
import pytest

import db
from models import Approval, File, Run
from runs import approvals, engine, files
from runs.approvals import NotEditable
from runs.workflows import export_recorder, import_recorder, problems
from schemas import ApprovalDecision, RunRetry
from settings import settings
from tests.pages import Site
from tests.test_approvals import question
from tests.test_replay import Runner, computer, origin, shared_computer  # noqa: F401
from tests.test_replay import run as runner  # noqa: F401
from tests.workers import Steps, ended, expire, other_worker, start, step_begun, steps_of

pytestmark = pytest.mark.usefixtures("one_chromium", "unrecorded")

ROWS = "<ul><li class=row><b>tea</b><i>3</i></li><li class=row><b>jam</b><i>5</i></li></ul>"


def read(name: str, selector: str, kind: str = "text") -> dict[str, Any]:
    return {"type": "extract", "name": name, "fields": {"x": {"selectors": [selector], "type": kind}}}


def extract_rows(**more: Any) -> dict[str, Any]:
    fields = {"name": {"selectors": ["b"]}, "price": {"selectors": ["i"], "type": "number"}}
    return {"type": "extract", "name": "rows", "selectors": [".row"], "many": True, "fields": fields} | more


async def met(runner: Runner, **condition: Any) -> bool:
    output = await runner.play({"type": "if", "timeout": 300, **condition})
    assert isinstance(output, dict)
    assert set(output) == {"met"}
    return bool(output["met"])


# Conditions -----------------------------------------------------------------------------------------


async def test_a_condition_is_an_element_that_is_seen(runner: Runner) -> None:
    await runner.open("<p>seen</p><p id=no hidden>x</p><iframe srcdoc='<a>in</a>'></iframe>")
    assert await met(runner, selectors=["#none", "p"])
    assert not await met(runner, selectors=["#no"])
    assert not await met(runner, selectors=["#none"])
    assert await met(runner, selectors=["a"], frame=[0])
    assert not await met(runner, selectors=["a"], frame=[3])
    assert not await met(runner, selectors=["a"], target="https://closed.example/")
    await runner.js("setTimeout(() => { document.body.append(document.createElement('h1')) }, 200)")
    assert await met(runner, selectors=["xpath///body/h1", "h1"], timeout=5000) is False  # it has no box
    await runner.js("setTimeout(() => { document.querySelector('h1').textContent = 'late' }, 200)")
    assert await met(runner, selectors=["h1"], timeout=5000)


async def test_a_condition_is_an_expression_in_the_page(runner: Runner) -> None:
    await runner.open("<script>document.title = 'Shop'</script>")
    runner.scope["params"]["title"] = "Shop"
    assert await met(runner, expression="document.title === {{ params.title }}")
    assert not await met(runner, expression="document.title === 'Other';")
    assert await met(runner, expression="new Promise(done => setTimeout(done, 100, 1))")
    for expression, said in (("nothing.there", "nothing is not defined"), ("for (;;)", "")):
        failure = await runner.fails({"type": "if", "expression": expression, "timeout": 300})
        assert failure.code == "expression_failed"
        assert said in failure.detail


@pytest.mark.parametrize(
    ("value", "operator", "than", "holds"),
    [
        ("x", None, None, True),
        ("", None, None, False),
        ([], None, None, False),
        (None, None, None, False),
        (1, "==", 1.0, True),
        (1, "==", True, False),
        ("1", "==", 1, False),
        ({"a": [1]}, "==", {"a": [1]}, True),
        (1, "!=", 2, True),
        (3, ">", 2, True),
        (2, ">", 2, False),
        (2, ">=", 2, True),
        ("a", "<", "b", True),
        (2, "<=", 1, False),
        ([1, 2], "contains", 2, True),
        ([True], "contains", 1, False),
        ("green tea", "contains", "tea", True),
        ({"a": 1}, "contains", "a", True),
        (1, "<", "2", "1 < \"2\" cannot be decided"),
        (True, "<", 2, "true < 2 cannot be decided"),
        (5, "contains", 5, "5 contains 5 cannot be decided"),
    ],
)  # fmt: skip
async def test_a_condition_compares_as_json_does(
    runner: Runner,
    value: Any,
    operator: str | None,
    than: Any,
    holds: bool | str,
) -> None:
    runner.scope["params"]["it"] = value
    compared = {"operator": operator, "than": than} if operator else {}
    if isinstance(holds, bool):
        assert await met(runner, value="{{ params.it }}", **compared) is holds
    else:
        failure = await runner.fails({"type": "if", "value": "{{ params.it }}", **compared})
        assert (failure.code, failure.detail) == ("invalid_step", holds)


# Branches and loops ---------------------------------------------------------------------------------


async def test_a_run_goes_through_its_rows_and_takes_the_branch_of_each(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/second")},
        {"type": "waitForExpression", "expression": f"document.body.innerHTML = {orjson.dumps(ROWS).decode()}"},
        extract_rows(),
        {
            "type": "forEach",
            "items": "{{ outputs.rows }}",
            "as": "row",
            "name": "details",
            "steps": [
                {
                    "type": "if",
                    "value": "{{ row.price }}",
                    "operator": ">",
                    "than": "{{ params.most }}",
                    "then": [{"type": "waitForExpression", "expression": "document.title = 'dear ' + {{ row.name }}"}],
                    "else": [{"type": "waitForExpression", "expression": "document.title = {{ row_index }} + ' cheap'"}],
                },
                read("page", "title"),
            ],
        },
        {"type": "if", "selectors": ["#none"], "else": [read("last", "title")]},
    ]  # fmt: skip
    parameters = {"properties": {"most": {"type": "number"}}}
    run_id = await start(user, flow, params={"most": 4}, parameters=parameters)
    run = await ended(user, run_id)
    assert run.result == {
        "outputs": {
            "rows": [{"name": "tea", "price": 3}, {"name": "jam", "price": 5}],
            "details": [{"page": {"x": "0 cheap"}}, {"page": {"x": "dear jam"}}],
            "last": {"x": "dear jam"},
        }
    }
    steps = await steps_of(user, run_id)
    assert [(step.number, step.pointer) for step in steps] == [
        (1, "/steps/0"),
        (2, "/steps/1"),
        (3, "/steps/2"),
        (4, "/steps/3"),
        (5, "/steps/3/steps/0"),
        (6, "/steps/3/steps/0/else/0"),
        (7, "/steps/3/steps/1"),
        (8, "/steps/3/steps/0"),
        (9, "/steps/3/steps/0/then/0"),
        (10, "/steps/3/steps/1"),
        (11, "/steps/4"),
        (12, "/steps/4/else/0"),
    ]
    assert [step.output for step in steps if step.type == "if"] == [
        {"met": False}, {"met": True}, {"met": False}
    ]  # fmt: skip
    assert run.step_count == 12


async def test_a_param_that_was_not_given_matters_only_where_it_is_needed(user: str, worker: UUID) -> None:
    use = {"type": "if", "value": "{{ params.x }}", "then": []}
    parameters = {"properties": {"x": {}, "wanted": {"type": "boolean"}}}
    flow: Steps = [{"type": "if", "value": "{{ params.wanted }}", "then": [use]}]
    for wanted, error in ((False, None), (True, "placeholder_missing")):
        run_id = await start(user, flow, params={"wanted": wanted}, parameters=parameters)
        run = await ended(user, run_id)
        assert (run.error and run.error["code"]) == error


@pytest.mark.parametrize(
    ("items", "code"), [("tea", "invalid_step"), (3, "invalid_step"), ([0] * 10_001, "invalid_step")]
)
async def test_a_loop_needs_a_list(user: str, worker: UUID, items: Any, code: str) -> None:
    flow: Steps = [{"type": "forEach", "items": "{{ params.items }}", "steps": [{"type": "close"}]}]
    run = await ended(
        user, await start(user, flow, params={"items": items}, parameters={"properties": {"items": {}}})
    )
    assert run.error is not None
    assert (run.error["code"], run.error["pointer"]) == (code, "/steps/0")


async def test_another_worker_goes_on_in_the_middle_of_a_loop(
    user: str, site: Site, idle: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With what the rounds so far have brought, in a page that was brought to where it was."""
    slow = {"type": "waitForExpression", "expression": "new Promise(done => setTimeout(done, 2500, 1))"}
    flow: Steps = [
        {"type": "navigate", "url": site.url("/")},
        {
            "type": "forEach",
            "items": ["a", "b", "c"],
            "name": "rounds",
            "steps": [
                {"type": "change", "selectors": ["#name"], "value": "{{ item }}{{ item_index }}"},
                {"type": "if", "value": "{{ item_index }}", "operator": "==", "than": 1, "then": [slow]},
                read("typed", "#name"),
            ],
        },
        read("last", "#name"),
    ]
    async with other_worker(LEASE_SECONDS="60") as first:
        run_id = await start(user, flow)
        await step_begun(user, run_id, 8)
        first.send_signal(signal.SIGKILL)
        await first.wait()
    before = await steps_of(user, run_id)
    assert [step.status for step in before] == ["succeeded"] * 7 + ["started"]
    await expire(user)
    monkeypatch.setitem(settings.__dict__, "max_runs", 4)
    run = await ended(user, run_id)
    rounds = [{"typed": {"x": value}} for value in ("a0", "b1", "c2")]
    assert (run.attempt, run.error) == (2, None)
    assert run.result == {"outputs": {"rounds": rounds, "last": {"x": "c2"}}}
    after = await steps_of(user, run_id)
    assert [(step.id, step.attempt) for step in after[:7]] == [(step.id, 1) for step in before[:7]]
    assert [step.number for step in after] == list(range(1, 14))


async def test_a_retry_begins_with_an_outermost_step_whatever_the_loops_before_it_did(
    user: str, site: Site, worker: UUID
) -> None:
    flow: Steps = [
        {"type": "navigate", "url": site.url("/")},
        {"type": "forEach", "items": [1, 2], "name": "rounds", "steps": [read("title", "title")]},
        {"type": "click", "selectors": ["#nowhere"], "timeout": 300},
        read("heading", "h1"),
    ]
    failed = await ended(user, await start(user, flow))
    assert failed.error is not None
    assert (failed.error["step"], failed.error["pointer"]) == (5, "/steps/2")
    again = await ended(user, await retried(user, failed.id, 4))
    assert again.result == {"outputs": {"rounds": [{"title": {"x": "Form"}}] * 2, "heading": {"x": "Form"}}}
    assert [(step.number, step.pointer) for step in await steps_of(user, again.id)] == [(4, "/steps/3")]
    whole = await ended(user, await retried(user, failed.id, 2))
    assert whole.error is not None
    assert [step.number for step in await steps_of(user, whole.id)] == [2, 3, 4, 5]


async def retried(user: str, run_id: UUID, from_step: int) -> UUID:
    async with db.as_user(user, "user") as tx:
        before = await tx.one(Run, lock=True, id=run_id)
        reply = await engine.retry(tx, before, RunRetry(from_step=from_step))
    return UUID(orjson.loads(bytes(reply.body))["data"]["id"])


# Files ----------------------------------------------------------------------------------------------


async def upload(user: str, name: str) -> str:
    file = await files.save(user, kind="upload", name=name, data=b"x" * 42, limit=1000)
    return str(file.id)


async def test_files_are_chosen_in_a_field_and_in_a_chooser(user: str, site: Site, worker: UUID) -> None:
    one, two = await upload(user, "one.txt"), await upload(user, "two.txt")
    seen = {"type": "extract", "name": "seen", "fields": {"x": {"selectors": ["#area"]}}}
    show = {
        "type": "waitForExpression",
        "expression": "area.value = events.filter(e => e.startsWith('file')).join()",
    }
    flow: Steps = [
        {"type": "navigate", "url": site.url("/")},
        {"type": "upload", "selectors": ["#file"], "files": ["{{ params.first }}"]},
        {"type": "waitForExpression", "expression": "(file.hidden = true)"},
        {"type": "upload", "selectors": ["#none", "#ask"], "files": "{{ params.second }}"},
        show,
        seen,
    ]
    parameters = {"properties": {"first": {"type": "string"}, "second": {"type": "array"}}}
    more = {"params": {"first": one, "second": [two]}, "parameters": parameters}
    run = await ended(user, await start(user, flow, **more))
    assert run.result == {"outputs": {"seen": {"x": "file:one.txt42,file:two.txt42"}}}, run.error


async def test_a_file_that_cannot_be_had_and_a_button_that_opens_no_chooser_are_named(
    user: str, other_user: str, site: Site, worker: UUID
) -> None:
    theirs, ours = await upload(other_user, "theirs.txt"), await upload(user, "ours.txt")

    async def fails(selector: str, file: str) -> str:
        step = {"type": "upload", "selectors": [selector], "files": [file], "timeout": 1500}
        flow: Steps = [{"type": "navigate", "url": site.url("/")}, step]
        run = await ended(user, await start(user, flow), 60)
        assert run.error is not None
        return str(run.error["code"])

    codes = await asyncio.gather(
        fails("#file", theirs), fails("#file", "nothing.txt"), fails("#go", ours), fails("#none", ours)
    )
    assert [*codes] == ["file_missing", "file_missing", "chooser_missing", "element_not_found"]


async def test_downloads_are_waited_for_however_they_begin(user: str, site: Site, worker: UUID) -> None:
    link = "document.body.innerHTML = '<a id=a href=/small>a</a><a id=b href=/large>b</a>'"
    flow: Steps = [
        {"type": "navigate", "url": site.url("/second")},
        {"type": "waitForExpression", "expression": link},
        {"type": "download", "name": "clicked", "selectors": ["#a"]},
        {"type": "download", "name": "opened", "url": site.url("/small?2")},
        {"type": "click", "selectors": ["#b"]},
        {"type": "download", "name": "begun"},
        {"type": "navigate", "url": site.url("/small?3")},
        {"type": "download", "name": "navigated"},
    ]
    run = await ended(user, await start(user, flow))
    assert run.result is not None, run.error
    brought = run.result["outputs"]
    assert {name: file["size"] for name, file in brought.items()} == {
        "clicked": 1000, "opened": 1000, "begun": 3_000_000, "navigated": 1000,
    }  # fmt: skip
    async with db.as_user(user) as tx:
        kept = {str(file.id): file for file in await tx.find(File, run_id=run.id, kind="download")}
    assert {file["file_id"] for file in brought.values()} == set(kept)
    assert all(kept[file["file_id"]].size == file["size"] for file in brought.values())


async def test_a_download_that_never_begins_or_ends_or_is_too_large_fails_its_step(
    user: str, site: Site, worker: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(settings.__dict__, "max_upload_mb", 1)

    async def fails(code: str, said: str, **step: Any) -> None:
        flow: Steps = [
            {"type": "navigate", "url": site.url("/")},
            {"type": "download", "name": "file", "timeout": 1500, **step},
        ]
        run = await ended(user, await start(user, flow), 60)
        assert run.error is not None
        assert (run.error["code"], run.error["pointer"]) == (code, "/steps/1")
        assert said in run.error["detail"]

    async with asyncio.TaskGroup() as group:
        for failing in (
            fails("download_missing", "Nothing was downloaded", selectors=["#pad"]),
            fails("timeout", "", url=site.url("/never")),
            fails("download_missing", "Nothing was downloaded", url=site.url("/second")),
            fails("download_failed", "too large", url=site.url("/large"), timeout=20_000),
            fails("unreachable", "browsers do not use its port", url="http://127.0.0.1:9/"),
        ):
            group.create_task(failing)
    monkeypatch.undo()
    endless = {"type": "download", "name": "file", "timeout": 1500, "url": site.url("/endless")}
    run = await ended(user, await start(user, [endless]))
    assert run.error is not None
    assert (run.error["code"], run.error["detail"]) == (
        "download_missing",
        "The download did not end (waited 1.5 s)",
    )


# Drags ----------------------------------------------------------------------------------------------

SLIDER = """<style>body { margin: 0 } #knob { width: 30px; height: 30px; background: red; position: absolute; top: 50px }</style>
<div id=knob></div><p id=item draggable=true style="margin-top:120px;width:80px;height:20px;background:gold">item</p>
<div id=box style="width:200px;height:100px;background:#ddd">box</div><script>
  knob.onpointerdown = e => { knob.setPointerCapture(e.pointerId); knob.onpointermove = e => knob.style.left = e.clientX - 15 + 'px' };
  knob.onpointerup = () => { knob.onpointermove = null };
  item.ondragstart = e => e.dataTransfer.setData('text/plain', 'the item');
  box.ondragover = e => e.preventDefault();
  box.ondrop = e => { e.preventDefault(); box.textContent = e.dataTransfer.getData('text/plain') };
</script>"""


async def test_a_drag_goes_by_pixels_or_to_an_element(runner: Runner) -> None:
    await runner.open(SLIDER)
    await runner.play({"type": "drag", "selectors": ["#knob"], "by": {"x": 200, "y": 0}})
    assert await runner.js("knob.style.left") == "200px"
    await runner.play(
        {
            "type": "drag",
            "selectors": ["aria/none", "#item"],
            "to": {"selectors": ["#box"], "offsetX": 20, "offsetY": 30},
        }
    )
    assert await runner.js("box.textContent") == "the item"
    failure = await runner.fails({"type": "drag", "selectors": ["#knob"], "by": {"x": 5000}})
    assert (failure.code, failure.detail) == (
        "element_not_ready",
        "The two ends of the drag are not in view at once",
    )
    missing = await runner.fails(
        {"type": "drag", "selectors": ["#knob"], "to": {"selectors": ["#none"]}, "timeout": 300}
    )
    assert missing.code == "element_not_found"


# Questions ------------------------------------------------------------------------------------------


def paying(site: Site) -> Steps:
    schema = {"properties": {"amount": {"type": "number", "maximum": 100}, "to": {"type": "string"}}}
    return [
        {"type": "navigate", "url": site.url("/")},
        {
            "type": "approve",
            "title": "Pay?",
            "name": "payment",
            "arguments": {"amount": 90, "to": "{{ params.to }}"},
            "schema": schema,
        },
        {"type": "change", "selectors": ["#name"], "value": "{{ outputs.payment.arguments.amount }} to {{ outputs.payment.arguments.to }}"},
        read("paid", "#name"),
    ]  # fmt: skip


async def test_arguments_are_shown_with_the_question_and_may_be_changed_within_their_schema(
    user: str, site: Site, worker: UUID
) -> None:
    more = {"params": {"to": "ann"}, "parameters": {"properties": {"to": {"type": "string"}}}}
    run_id = await start(user, paying(site), **more)
    asked = await question(user, run_id)
    assert asked.action["arguments"] == {"amount": 90, "to": "ann"}
    assert asked.action["schema"]["properties"]["amount"] == {"type": "number", "maximum": 100}
    for wrong, pointer in (({"amount": 101}, "/arguments/amount"), ({"fee": 1}, "/arguments/fee")):
        with pytest.raises(NotEditable) as refused:
            await decide(user, asked.id, arguments=wrong)
        assert [problem.pointer for problem in refused.value.problems] == [pointer]
    await decide(user, asked.id, arguments={"amount": 70}, note="less")
    run = await ended(user, run_id)
    assert run.result is not None, run.error
    assert run.result["outputs"] == {
        "payment": {
            "approval_id": str(asked.id),
            "decided_by": "user",
            "note": "less",
            "arguments": {"amount": 70, "to": "ann"},
        },
        "paid": {"x": "70 to ann"},
    }
    async with db.as_user(user) as tx:
        kept = await tx.one(Approval, id=asked.id)
    assert (kept.arguments, kept.digest, kept.used_at is not None) == ({"amount": 70}, asked.digest, True)


async def test_arguments_that_do_not_fit_are_not_even_asked_about(
    user: str, site: Site, worker: UUID
) -> None:
    step = paying(site)[1] | {"arguments": {"amount": "{{ params.amount }}"}}
    more = {"params": {"amount": 101}, "parameters": {"properties": {"amount": {}}}}
    run = await ended(user, await start(user, [step], **more))
    assert run.error is not None
    assert (run.error["code"], run.error["detail"]) == (
        "invalid_step",
        "The arguments do not fit their schema: /amount: 101 is greater than the maximum of 100",
    )
    async with db.as_user(user) as tx:
        assert await tx.find(Approval, run_id=run.id) == []


async def decide(user: str, id: UUID, **more: Any) -> None:
    async with db.as_user(user, "user") as tx:
        await approvals.decide(tx, id, ApprovalDecision.model_validate({"decision": "approve", **more}))


# The language ---------------------------------------------------------------------------------------

OWN: Steps = [
    {"type": "drag", "selectors": [["#a"]], "by": {"x": 1}, "timeout": 900, "frame": [1]},
    {"type": "upload", "selectors": [["#a"]], "files": ["x"], "target": "main"},
    {"type": "download", "name": "d", "url": "https://a.example/", "timeout": 1},
    {
        "type": "forEach",
        "items": [1],
        "as": "x",
        "name": "all",
        "steps": [{"type": "if", "value": "{{ x }}", "then": [extract_rows()], "else": [{"type": "close"}]}],
    },
    {"type": "approve", "title": "?", "name": "q", "arguments": {"a": 1}, "schema": {"type": "object"}},
]


def test_our_steps_go_to_devtools_and_come_back_without_loss() -> None:
    flow = {"title": "Own", "steps": OWN}
    assert problems(flow, None) == []
    exported = export_recorder(flow)
    assert {step["type"] for step in exported["steps"]} == {"customStep"}
    assert import_recorder(orjson.dumps(exported)) == flow
    inside: dict[str, Any] = {"type": "if", "value": 1, "then": exported["steps"]}
    assert import_recorder({"title": "Own", "steps": [inside]})["steps"][0]["then"] == OWN


@pytest.mark.parametrize(
    ("step", "pointers"),
    [
        ({"type": "if", "then": []}, ["/steps/0"]),
        ({"type": "if", "value": 1, "expression": "1"}, ["/steps/0"]),
        ({"type": "if", "value": 1, "operator": ">"}, ["/steps/0"]),
        ({"type": "if", "expression": "1", "operator": ">", "than": 1}, ["/steps/0"]),
        ({"type": "if", "value": 1, "than": [{}], "operator": "~"}, ["/steps/0/operator"]),
        ({"type": "if", "selectors": None}, ["/steps/0"]),
        ({"type": "if", "expression": None, "selectors": None}, ["/steps/0"]),
        ({"type": "if", "value": 1, "then": {}}, ["/steps/0/then"]),
        ({"type": "if", "value": 1, "then": "{{ params.steps }}"}, ["/steps/0/then"]),
        ({"type": "if", "value": 1, "else": "{{ anything.at.all }}"}, ["/steps/0/else"]),
        ({"type": "forEach", "items": [1], "steps": "{{ params.steps }}"}, ["/steps/0/steps"]),
        ({"type": "close"} | {f"x{number}": 1 for number in range(1_000)}, ["/steps/0"]),
        ({"type": "if", "value": 1, "then": [{"type": "clik"}]}, ["/steps/0/then/0/type"]),
        ({"type": "if", "value": 1, "else": [{"type": "click"}]}, ["/steps/0/else/0/selectors"]),
        ({"type": "if", "value": 1, "otherwise": []}, ["/steps/0/otherwise"]),
        ({"type": "forEach", "items": [1]}, ["/steps/0/steps"]),
        ({"type": "forEach", "items": [1], "steps": []}, ["/steps/0/steps"]),
        ({"type": "forEach", "items": [1], "steps": [{"type": "close"}], "as": "params"}, ["/steps/0/as"]),
        ({"type": "forEach", "items": "x", "steps": [{"type": "close"}]}, ["/steps/0/items"]),
        ({"type": "forEach", "items": [1], "steps": [{"type": "close"}], "timeout": 5}, ["/steps/0/timeout"]),
        ({"type": "forEach", "items": [1], "steps": [read("{{ item }}", "a")]}, ["/steps/0/steps/0/name"]),
        ({"type": "drag", "selectors": ["a"]}, ["/steps/0"]),
        ({"type": "drag", "selectors": ["a"], "by": {"x": 1}, "to": {"selectors": ["b"]}}, ["/steps/0"]),
        ({"type": "upload", "selectors": ["a"], "files": []}, ["/steps/0/files"]),
        ({"type": "download", "selectors": ["a"]}, ["/steps/0/name"]),
        ({"type": "download", "name": "d", "url": "file:///etc/passwd"}, ["/steps/0/url"]),
        ({"type": "download", "name": "d", "url": "https://a.example", "selectors": ["a"]}, ["/steps/0"]),
    ],
)  # fmt: skip
def test_each_problem_of_our_steps_is_named(step: dict[str, Any], pointers: list[str]) -> None:
    assert [problem.pointer for problem in problems({"title": "T", "steps": [step]}, None)] == pointers


def test_what_a_loop_knows_is_known_inside_of_it_only() -> None:
    use = {
        "type": "change",
        "selectors": ["a"],
        "value": "{{ item.x }} {{ item_index }} {{ outputs.rows[0].name }}",
    }
    inside = {"type": "forEach", "items": [1], "steps": [extract_rows(), use]}
    after = {"type": "change", "selectors": ["a"], "value": "{{ item }}"}
    gone = {"type": "change", "selectors": ["a"], "value": "{{ outputs.rows }}"}
    assert problems({"title": "T", "steps": [inside]}, None) == []
    found = problems({"title": "T", "steps": [inside, after, gone]}, None)
    assert [problem.pointer for problem in found] == ["/steps/1/value", "/steps/2/value"]
    deep: Steps = [{"type": "close"}]
    for _ in range(14):
        deep = [{"type": "if", "value": 1, "then": deep}]
    assert problems({"title": "T", "steps": deep}, None) == []
    many = [{"type": "if", "value": 1, "then": [{"type": "close"}] * 999}]
    assert problems({"title": "T", "steps": many}, None) == []
    over = problems({"title": "T", "steps": [*many, {"type": "close"}]}, None)
    assert [problem.message for problem in over] == ["1,001 steps are too many; at most 1,000"]
