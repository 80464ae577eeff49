"""AG-UI: agents for clients that others wrote, by the events that they understand."""

import asyncio
import hashlib
import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from ag_ui.core import BaseEvent

import db
from live import agui
from live.agui_events import ANSWER, Telling
from models import Message, RunStatus, Step, StepStatus, Turn
from models import Run as RunRow
from runs import engine
from schemas import AgentInput, DeltaMessage
from tests import make
from tests.conftest import Backend
from tests.pages import Site
from tests.test_api import assert_problem
from tests.workers import ended, start

CLIENT = Path(__file__).parent / "agui_client"
Events = list[dict[str, Any]]


@pytest.fixture
async def ann(server: Backend) -> AsyncIterator[httpx.AsyncClient]:
    """A signed-in client."""
    async with server.sign_up() as client:
        yield client


def asked(*lines: str, thread: str = "Shopping", **more: Any) -> dict[str, Any]:
    """The body of a request that says these lines to the demo model."""
    said = [{"id": uuid4().hex, "role": "user", "content": "\n".join(lines)}] if lines else []
    body = {"threadId": thread, "runId": uuid4().hex, "messages": said, "tools": [], "context": []}
    return body | {"state": {"model": "demo"}, "forwardedProps": {}} | more


async def talk(client: httpx.AsyncClient, body: dict[str, Any]) -> Events:
    """Everything that the server answers."""
    async with asyncio.timeout(120):
        reply = await client.post("/api/agent", json=body, timeout=120)
    assert reply.status_code == 200, reply.text
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    events = [line.removeprefix("data: ") for line in reply.text.split("\n\n") if line.startswith("data: ")]
    return [json.loads(event) for event in events]


def answer(events: Events, payload: Any = None, **more: Any) -> list[dict[str, Any]]:
    """What resolves the interrupts that a run has ended with."""
    resolved = {"status": "resolved", "payload": payload} | more
    return [{"interruptId": it["id"], **resolved} for it in events[-1]["outcome"]["interrupts"]]


def run_of(events: Events) -> dict[str, Any]:
    """The run's last state."""
    states = [event["snapshot"] for event in events if event["type"] == "STATE_SNAPSHOT"]
    return dict(states[-1]["run"])


def types(events: Events) -> list[str]:
    """What the events are, those that tell of the state and of the browser left out."""
    return [event["type"] for event in events if event["type"] not in ("STATE_SNAPSHOT", "CUSTOM")]


async def asking(client: httpx.AsyncClient, *steps: dict[str, Any]) -> dict[str, Any]:
    """What a client forwards to start a workflow of these steps."""
    made = await make.workflow(client, definition={"title": "Buy", "steps": [*steps]})
    return {"forwardedProps": {"workflow_id": made["id"]}}


APPROVE = {
    "type": "approve",
    "title": "Pay?",
    "name": "pay",
    "arguments": {"amount": 12},
    "schema": {"type": "object", "properties": {"amount": {"type": "number", "maximum": 20}}},
}
PAUSE = {"type": "pause", "title": "Sign in, please"}


# A task -------------------------------------------------------------------------------------------


async def test_a_task_is_told_from_its_start_to_its_result(ann: httpx.AsyncClient, site: Site) -> None:
    body = asked(f"open {site.url('/second')}", "finish 'All done'", state={"model": "demo", "tab": 3})
    events = await talk(ann, body)
    place = {"threadId": "Shopping", "runId": body["runId"]}
    assert events[0] == {"type": "RUN_STARTED", **place, "protocolVersion": "1.0"}
    assert events[-1] == {
        "type": "RUN_FINISHED",
        **place,
        "result": {"outputs": {"result": "All done"}},
        "outcome": {"type": "success"},
    }
    run = (await ann.get(f"/api/runs/{run_of(events)['id']}")).json()["data"]
    steps = (await ann.get(f"/api/runs/{run['id']}/steps")).json()["data"]
    messages = (await ann.get(f"/api/runs/{run['id']}/messages")).json()["data"]
    said = next(message for message in messages if message["role"] == "assistant")
    assert types(events)[:3] == ["RUN_STARTED", "STEP_STARTED", "STEP_FINISHED"]
    told = [event for event in events if said["id"] == event.get("messageId")]
    assert {(event["type"], event.get("role")) for event in told} == {
        ("TEXT_MESSAGE_START", "assistant"),
        ("TEXT_MESSAGE_CONTENT", None),
        ("TEXT_MESSAGE_END", None),
    }
    assert "".join(event.get("delta", "") for event in told) == said["text"]
    calls = [event for event in events if event.get("toolCallId") == steps[1]["id"]]
    shown = {name: steps[1][name] for name in ("number", "status", "url", "screenshot_id")}
    named = {"toolCallId": steps[1]["id"]}
    result = json.loads(calls[3].pop("content"))
    assert result == steps[1]["output"]
    assert calls == [
        {
            "type": "TOOL_CALL_START",
            **named,
            "toolCallName": "navigate",
            "parentMessageId": f"{steps[1]['id']}-call",
        },
        {
            "type": "TOOL_CALL_ARGS",
            **named,
            "delta": json.dumps({"url": site.url("/second")}).replace(" ", ""),
        },
        {"type": "TOOL_CALL_END", **named},
        {
            "type": "TOOL_CALL_RESULT",
            **named,
            "messageId": f"{steps[1]['id']}-result",
            "role": "tool",
            "metadata": shown,
        },
    ]
    assert "All done" in [event.get("delta") for event in events]  # for a chat that shows only messages
    kept = ("id", "thread_id", "title", "status", "reason", "computer_id")
    last = next(event for event in reversed(events) if event["type"] == "STATE_SNAPSHOT")["snapshot"]
    assert last == {"model": "demo", "tab": 3, "run": last["run"]}
    assert {name: last["run"][name] for name in kept} == {name: run[name] for name in kept}
    assert run["computer_id"] is not None


async def test_a_run_that_fails_or_is_cancelled_ends_so(ann: httpx.AsyncClient) -> None:
    events = await talk(ann, asked("dance"))
    assert events[-1] == {
        "type": "RUN_ERROR",
        "code": "agent_gave_up",
        "message": "I am the demo model and do not understand: dance",
    }
    events = await talk(ann, asked(**await asking(ann, PAUSE)))
    [entry] = answer(events, status="cancelled")
    events = await talk(ann, asked(resume=[entry]))
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert run_of(events)["status"] == "cancelled"


async def test_a_client_that_leaves_stops_nothing(ann: httpx.AsyncClient, site: Site) -> None:
    body = asked(f"open {site.url('/second')}", "finish 'All done'")
    async with ann.stream("POST", "/api/agent", json=body) as reply:
        async for line in reply.aiter_lines():
            if "STATE_SNAPSHOT" in line:
                run_id = json.loads(line.removeprefix("data: "))["snapshot"]["run"]["id"]
                break
    run = (await ann.get(f"/api/runs/{run_id}", params={"wait": 60}, timeout=70)).json()["data"]
    assert run["status"] == "succeeded", run


async def test_a_server_that_stops_says_so(own_server: Backend) -> None:
    async with own_server.sign_up() as client:
        body = asked(**await asking(client, {"type": "waitForExpression", "expression": "false"}))
        talking = asyncio.create_task(talk(client, body))
        async with asyncio.timeout(60):
            while not (await client.get("/api/runs", params={"status": "running"})).json()["data"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await own_server.stop()
        assert (await talking)[-1] == {
            "type": "RUN_ERROR",
            "code": "shutting_down",
            "message": "The server stops. Connect again and resume from `upto`.",
        }


# People -------------------------------------------------------------------------------------------


async def test_a_run_that_waits_for_an_approval_goes_on_with_the_answer(ann: httpx.AsyncClient) -> None:
    body = asked(**await asking(ann, APPROVE))
    events = await talk(ann, body)
    [approval] = (await ann.get("/api/approvals")).json()["data"]
    shown = {name: approval[name] for name in ("run_id", "action", "digest", "url", "screenshot_id")}
    assert events[-1] == {
        "type": "RUN_FINISHED",
        "threadId": "Shopping",
        "runId": body["runId"],
        "outcome": {
            "type": "interrupt",
            "interrupts": [
                {
                    "id": approval["id"],
                    "reason": "confirmation",
                    "message": "Pay?",
                    "responseSchema": {
                        "type": "object",
                        "properties": {
                            "approved": {"type": "boolean"},
                            "reason": {"type": "string"},
                            "editedArgs": APPROVE["schema"],
                        },
                        "required": ["approved"],
                    },
                    "expiresAt": approval["expires_at"],
                    "metadata": shown,
                }
            ],
        },
    }
    assert types(events) == ["RUN_STARTED", "STEP_STARTED", "STEP_FINISHED", "RUN_FINISHED"]
    again = await talk(ann, asked())
    assert again[-1]["outcome"] == events[-1]["outcome"]
    assert types(again) == ["RUN_STARTED", "RUN_FINISHED"]

    payload = {"approved": True, "editedArgs": {"amount": 9}, "reason": "Fine"}
    ended = await talk(ann, asked(resume=answer(events, payload)))
    outcome = {
        "approval_id": approval["id"],
        "decided_by": "user",
        "note": "Fine",
        "arguments": {"amount": 9},
    }
    assert ended[-1]["result"] == {"outputs": {"pay": outcome}}
    assert types(ended) == ["RUN_STARTED", "RUN_FINISHED"]
    assert run_of(ended)["id"] == run_of(events)["id"]


async def test_a_no_is_a_no(ann: httpx.AsyncClient) -> None:
    for entry, detail in (
        ({"payload": {"approved": False, "reason": "Too dear"}}, "Denied: Too dear"),
        ({"status": "cancelled"}, "The answer was no"),
    ):
        events = await talk(ann, asked(**await asking(ann, APPROVE)))
        ended = await talk(ann, asked(resume=answer(events, **entry)))
        assert ended[-1] == {"type": "RUN_ERROR", "code": "approval_denied", "message": detail}
        late = await ann.post("/api/agent", json=asked(resume=answer(events, {"approved": True})))
        assert_problem(late, 409, "already_decided")
        moved_on = await talk(ann, asked("finish 'Next'", resume=answer(events, status="cancelled")))
        assert moved_on[-1]["result"] == {"outputs": {"result": "Next"}}


async def test_a_run_that_waits_for_its_user_goes_on_when_told(ann: httpx.AsyncClient) -> None:
    events = await talk(ann, asked(**await asking(ann, PAUSE)))
    run = run_of(events)
    assert events[-1]["outcome"]["interrupts"] == [
        {
            "id": run["id"],
            "reason": "input_required",
            "message": "Sign in, please",
            "responseSchema": {"type": "object"},
            "metadata": {"run_id": run["id"], "status": "waiting_user"},
        }
    ]
    ended = await talk(ann, asked(resume=answer(events, {})))
    assert ended[-1]["outcome"] == {"type": "success"}


async def test_a_wrong_answer_is_a_problem_and_the_question_stays(
    ann: httpx.AsyncClient, alice: httpx.AsyncClient
) -> None:
    events = await talk(ann, asked(**await asking(ann, APPROVE)))
    for payload, status, code in (
        (None, 422, "invalid"),
        ({"approved": "yes"}, 422, "invalid"),
        ({"approved": True, "editedArgs": {"amount": 21}}, 422, "not_editable"),
        ({"approved": True, "editedArgs": {"what": 1}}, 422, "not_editable"),
    ):
        reply = await ann.post("/api/agent", json=asked(resume=answer(events, payload)))
        assert_problem(reply, status, code)
    resume = answer(events, {"approved": True})
    assert_problem(await ann.post("/api/agent", json=asked(resume=resume, thread="Other")), 404, "not_found")
    assert_problem(await alice.post("/api/agent", json=asked(resume=resume)), 404, "not_found")
    nothing = [resume[0] | {"interruptId": "x"}]
    assert_problem(await ann.post("/api/agent", json=asked(resume=nothing)), 404, "not_found")
    assert (await talk(ann, asked(resume=resume)))[-1]["outcome"] == {"type": "success"}


async def question(user: str) -> tuple[UUID, UUID, str]:
    """A run whose model asks its user something; the run, the step, and the thread's name."""
    name = uuid4().hex
    async with db.as_user(user, "user") as tx:
        thread = await agui._thread(tx, name)
    run_id = await start(user, [PAUSE], thread_id=str(thread.id))
    async with db.as_user(user) as tx:
        step = await tx.add(
            Step,
            run_id=run_id,
            number=1,
            pointer="/steps/0/calls/0",
            type="ask_user",
            title="ask user Which?",
            attempt=1,
            safe=True,
            status=StepStatus.started,
            call={"id": "1", "tool": "ask_user", "arguments": {"question": "Which?"}},
        )
        await tx.change(RunRow, {"id": run_id}, status=RunStatus.waiting_user, reason="Which?")
    return run_id, step.id, name


@pytest.mark.parametrize(
    ("payload", "text"),
    [({"answer": "The red one"}, "The red one"), ("The red one", "The red one"), (None, agui.NO_ANSWER)],
)
async def test_a_question_is_answered_by_resuming(user: str, idle: None, payload: Any, text: str) -> None:
    run_id, step_id, thread = await question(user)
    status = "resolved" if payload else "cancelled"
    entry = {"interruptId": str(step_id), "status": status, "payload": payload}
    body = AgentInput.model_validate(asked(thread=thread, resume=[entry]))
    async with db.as_user(user, "user") as tx:
        begun = await agui._begin(tx, body)
        [message] = await tx.find(Message, run_id=run_id)
    assert (begun.run_id, begun.answered, message.text) == (run_id, True, text)
    async with db.as_user(user) as tx:
        await tx.change(Step, {"id": step_id}, status=StepStatus.succeeded)
    with pytest.raises(engine.WrongState):
        async with db.as_user(user, "user") as tx:
            await agui._begin(tx, body)


async def test_a_question_is_answered_by_the_next_message(user: str, idle: None) -> None:
    run_id, _, thread = await question(user)
    body = AgentInput.model_validate(asked("The red one", thread=thread))
    async with db.as_user(user, "user") as tx:
        begun = await agui._begin(tx, body)
        [message] = await tx.find(Message, run_id=run_id)
    assert (begun.run_id, begun.answered, message.text) == (run_id, True, "The red one")


def test_a_question_is_an_interrupt_of_its_call() -> None:
    telling = Telling("thread", "run", {})
    run = dict.fromkeys(("thread_id", "title", "step_count", "input_tokens", "output_tokens", "cost_usd"))
    run |= {
        "id": "r",
        "status": "waiting_user",
        "control": "pause",
        "reason": "Which?",
        "computer_id": None,
        "error": None,
    }
    call = {"id": "1", "tool": "ask_user", "arguments": {"question": "Which?"}}
    step = {"number": 1, "title": "ask user Which?", "type": "ask_user", "call": call}
    list(telling.tell({"kind": "run.step.started", "resource": {"type": "step", "id": "s"}, "data": step}))
    list(telling.tell({"kind": "run.waiting", "resource": {"type": "run", "id": "r"}, "data": run}))
    [finished] = telling.wait()
    assert finished.model_dump(mode="json", by_alias=True)["outcome"]["interrupts"] == [
        {
            "id": "s",
            "reason": "input_required",
            "message": "Which?",
            "toolCallId": "s",
            "responseSchema": ANSWER,
            "metadata": {"run_id": "r", "status": "waiting_user"},
        }
    ]


# Threads and runs -----------------------------------------------------------------------------------


async def test_a_run_id_begins_one_run_however_often_it_comes(ann: httpx.AsyncClient, site: Site) -> None:
    body = asked(f"open {site.url('/second')}", "finish 'All done'")
    first, second = await asyncio.gather(talk(ann, body), talk(ann, body))
    third = await talk(ann, body)
    assert len((await ann.get("/api/runs")).json()["data"]) == 1
    assert first[-1] == second[-1] == third[-1]
    assert [it for it in types(third) if it != "TEXT_MESSAGE_CONTENT"] == [
        it for it in types(first) if it != "TEXT_MESSAGE_CONTENT"
    ]
    other = await talk(ann, body | {"threadId": "Other"})
    assert other[-1]["outcome"] == {"type": "success"}
    assert len((await ann.get("/api/runs")).json()["data"]) == 2


async def test_a_thread_is_known_by_its_name_or_its_id(
    ann: httpx.AsyncClient, alice: httpx.AsyncClient
) -> None:
    name = str(uuid4())
    both = await asyncio.gather(*(talk(ann, asked("finish 'Done'", thread=name)) for _ in range(2)))
    [thread] = (await ann.get("/api/threads")).json()["data"]
    assert thread["labels"] == {"agui": name}
    assert {run_of(events)["thread_id"] for events in both} == {thread["id"]}
    ours = await talk(ann, asked("finish 'Done'", thread=thread["id"]))
    assert run_of(ours)["thread_id"] == thread["id"]
    assert_problem(await alice.post("/api/agent", json=asked("x", thread=thread["id"])), 404, "not_found")
    theirs = await talk(alice, asked("finish 'Done'", thread=name))
    assert run_of(theirs)["thread_id"] != thread["id"]


async def first_told(user: str, body: dict[str, Any]) -> list[str]:
    """What the run that a request begins tells its model first."""
    async with db.as_user(user, "user") as tx:
        begun = await agui._begin(tx, AgentInput.model_validate(body))
    assert (await ended(user, begun.run_id)).status == "succeeded"
    async with db.as_user(user) as tx:
        return (await tx.one(Turn, run_id=begun.run_id, number=1)).told


async def test_what_a_client_knows_and_has_said_before_is_told_to_the_model(user: str, worker: UUID) -> None:
    before = [
        {"id": "1", "role": "system", "content": "You are kind."},
        {"id": "2", "role": "user", "content": [{"type": "text", "text": "Which tea?"}]},
        {"id": "3", "role": "assistant", "toolCalls": []},
        {"id": "4", "role": "assistant", "content": "Green"},
    ]
    first = asked("finish 'Sencha'", context=[{"description": "shop", "value": "https://tea.example"}])
    first["messages"] = before + first["messages"]
    earlier = "<earlier>\nuser: Which tea?\nassistant: Green\n"
    context = "<context>\nshop: https://tea.example\n</context>\n"
    assert await first_told(user, first) == [
        f"{earlier}</earlier>\n{context}<task>\nfinish 'Sencha'\n</task>"
    ]
    again = asked("finish 'Matcha'")  # what it has said now is known here already
    again["messages"] = first["messages"] + again["messages"]
    earlier += "user: finish 'Sencha'\nassistant: Sencha\n"
    assert await first_told(user, again) == [f"{earlier}</earlier>\n<task>\nfinish 'Matcha'\n</task>"]


async def test_a_run_of_the_thread_is_attached_to_by_its_id(ann: httpx.AsyncClient) -> None:
    thread = await make.thread(ann)
    definition = {"title": "Wait", "steps": [PAUSE]}
    run = await make.run(ann, definition=definition, thread_id=thread["id"])
    for body in (asked(thread=thread["id"], runId=run["id"]), asked(thread=thread["id"])):
        events = await talk(ann, body)
        assert run_of(events)["id"] == run["id"]
        assert [it["id"] for it in events[-1]["outcome"]["interrupts"]] == [run["id"]]


async def test_what_cannot_begin_is_a_problem(ann: httpx.AsyncClient) -> None:
    for body, field in (
        ({}, "threadId"),
        (asked(), "messages"),
        (asked("x", thread=""), "threadId"),
        (asked("x", thread="x" * 501), "threadId"),
        (asked("x", forwardedProps={"max_steps": 0}), "forwardedProps"),
    ):
        problem = assert_problem(await ann.post("/api/agent", json=body), 422, "invalid")
        assert problem["errors"][0]["loc"][:2] == ["body", field]
    reply = await ann.post("/api/agent", json=asked("x", state={"model": "nobody:nothing"}))
    assert_problem(reply, 422, "invalid_model")
    assert (await ann.get("/api/threads")).json()["data"] == []


async def test_what_is_too_large_for_the_log_is_told_whole(ann: httpx.AsyncClient) -> None:
    step = {"type": "approve", "title": "Pay?", "name": "pay", "arguments": {"text": "x" * 40_000}}
    events = await talk(ann, asked(**await asking(ann, step)))
    [interrupt] = events[-1]["outcome"]["interrupts"]
    assert interrupt["metadata"]["action"]["arguments"] == step["arguments"]
    ended = await talk(ann, asked(resume=answer(events, {"approved": True})))
    assert ended[-1]["result"]["outputs"]["pay"]["arguments"] == step["arguments"]


# Messages in pieces ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "parts"),
    [
        ([], ["Nearly there"]),
        ([(0, "Nearly")], ["Nearly", " there"]),
        ([(0, "Nearly"), (6, " there")], ["Nearly", " there"]),
        ([(0, "Near"), (6, " there")], ["Near", "ly there"]),
        ([(6, " there")], ["Nearly there"]),
        ([(0, "Nearly"), (0, "Near"), (4, "ly")], ["Nearly", " there"]),
        ([(0, "Never")], ["Never", "Nearly there"]),
    ],
)
def test_a_message_is_told_once_however_its_pieces_come(
    pieces: list[tuple[int, str]], parts: list[str]
) -> None:
    telling, message_id = Telling("thread", "run", {}), uuid4()
    where = {"run_id": uuid4(), "message_id": message_id}
    told: list[BaseEvent] = []
    for offset, text in pieces:
        told += telling.hear(DeltaMessage(offset=offset, text=text, **where))
    said = {"kind": "message.created", "resource": {"type": "message", "id": str(message_id)}}
    told += telling.tell(said | {"data": {"role": "assistant", "text": "Nearly there"}})
    told += telling.hear(DeltaMessage(offset=12, text="late", **where))
    events: Events = [event.model_dump(mode="json", by_alias=True) for event in told]
    assert [event["delta"] for event in events if "delta" in event] == parts
    opened: dict[str, str] = {}
    texts = []
    for event in events:
        match event["type"]:
            case "TEXT_MESSAGE_START":
                opened[event["messageId"]] = ""
            case "TEXT_MESSAGE_CONTENT":
                opened[event["messageId"]] += event["delta"]
            case "TEXT_MESSAGE_END":
                texts.append(opened.pop(event["messageId"]))
    assert not opened
    assert texts[-1] == "Nearly there"


# A client that others wrote -------------------------------------------------------------------------


@pytest.fixture(scope="session")
def client_library() -> Path:
    """`@ag-ui/client` beside the script that uses it, installed once for each lockfile."""
    lock = (CLIENT / "package-lock.json").read_bytes()
    place = Path(tempfile.gettempdir()) / f"agui-client-{hashlib.sha256(lock).hexdigest()[:16]}"
    if not place.exists():
        fresh = Path(tempfile.mkdtemp(prefix="agui-client-"))
        shutil.copytree(CLIENT, fresh, dirs_exist_ok=True)
        subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=fresh, check=True, capture_output=True)
        fresh.rename(place)
    shutil.copy(CLIENT / "converse.mjs", place)
    return place


async def converse(library: Path, client: httpx.AsyncClient, *runs: dict[str, Any]) -> Events:
    """What AG-UI's own client makes of these runs of one thread."""
    token = client.headers["authorization"].removeprefix("Bearer ")
    arguments = ("converse.mjs", str(client.base_url).rstrip("/"), token, json.dumps(runs))
    process = await asyncio.create_subprocess_exec("node", *arguments, cwd=library, stdout=-1, stderr=-1)
    async with asyncio.timeout(180):
        told, complaints = await process.communicate()
    assert process.returncode == 0, complaints.decode()
    assert not complaints, complaints.decode()
    return list(json.loads(told))


async def test_ag_uis_own_client_has_a_conversation(
    ann: httpx.AsyncClient, site: Site, client_library: Path
) -> None:
    task = "\n".join((f"open {site.url('/second')}", "say 'Nearly there'", "finish 'All done'"))
    first, second, third = await converse(
        client_library,
        ann,
        {"message": task, "state": {"model": "demo"}},
        await asking(ann, APPROVE),
        {"payload": {"approved": True, "editedArgs": {"amount": 9}}},
    )
    assert first["events"][0] == "RUN_STARTED"
    assert first["events"][-1] == "RUN_FINISHED"
    assert first["result"] == {"outputs": {"result": "All done"}}
    assert [
        (it["role"], it.get("content") or it["toolCalls"][0]["function"]["name"])
        for it in first["messages"]
        if it["role"] != "tool"
    ] == [
        ("assistant", f"I open {site.url('/second')}."),
        ("assistant", "navigate"),
        ("assistant", "Nearly there"),
        ("assistant", "screenshot"),
        ("assistant", "finish"),
        ("assistant", "All done"),
    ]
    calls = [it["toolCalls"][0]["id"] for it in first["messages"] if it.get("toolCalls")]
    assert [it["toolCallId"] for it in first["messages"] if it["role"] == "tool"] == calls
    assert first["state"]["run"]["status"] == "succeeded"
    [approval] = (await ann.get("/api/approvals")).json()["data"]
    assert [it["id"] for it in second["interrupts"]] == [approval["id"]]
    assert (second["result"], second["state"]["run"]["status"]) == (None, "waiting_approval")
    assert third["interrupts"] == []
    assert third["result"]["outputs"]["pay"]["arguments"] == {"amount": 9}
    assert third["state"]["run"]["id"] == second["state"]["run"]["id"] == approval["run_id"]
    assert re.fullmatch(r"[0-9a-f-]{36}", third["state"]["run"]["thread_id"])


# A model that asks ----------------------------------------------------------------------------------


async def test_a_model_is_answered_over_ag_ui(
    ann: httpx.AsyncClient, site: Site, client_library: Path
) -> None:
    """By resuming, and by the next message where a client was reloaded and knows of no interrupt."""
    task = "\n".join((f"open {site.url('/second')}", 'ask "Which colour?"', 'ask "Which size?"'))
    first, second = await converse(
        client_library,
        ann,
        {"message": task, "state": {"model": "demo"}},
        {"payload": {"answer": "Red"}},
    )
    [asks] = first["interrupts"]
    assert (asks["reason"], asks["message"], asks["id"]) == (
        "input_required",
        "Which colour?",
        asks["toolCallId"],
    )
    assert first["messages"][-1] == {"id": asks["id"], "role": "assistant", "content": "Which colour?"}
    [result, *_] = [it for it in second["messages"] if it["role"] == "tool"]
    assert (result["toolCallId"], json.loads(result["content"])) == (asks["id"], {"answer": "Red"})
    assert [it["message"] for it in second["interrupts"]] == ["Which size?"]
    thread = second["state"]["run"]["thread_id"]
    ended = await talk(ann, asked("Large", thread=thread))
    assert ended[-1]["result"] == {"outputs": {"result": {"Which colour?": "Red", "Which size?": "Large"}}}
    late = [{"interruptId": asks["id"], "status": "resolved", "payload": "Blue"}]
    assert_problem(await ann.post("/api/agent", json=asked(thread=thread, resume=late)), 409, "wrong_state")


async def test_a_call_is_approved_over_ag_ui(ann: httpx.AsyncClient, client_library: Path) -> None:
    first, second = await converse(
        client_library,
        ann,
        {"message": "approve 'Pay 12 euros'\nfinish 'Paid'", "state": {"model": "demo"}},
        {"payload": {"approved": True}},
    )
    [interrupt] = first["interrupts"]
    assert (interrupt["reason"], interrupt["message"]) == ("tool_call", "Pay 12 euros")
    calls = [it["toolCalls"][0]["id"] for it in first["messages"] if it.get("toolCalls")]
    assert calls == [interrupt["toolCallId"]]
    assert second["result"] == {"outputs": {"result": "Paid"}}


async def test_a_run_that_has_used_up_its_budget_goes_on_with_more(ann: httpx.AsyncClient) -> None:
    lines = ("say 'One'", "say 'Two'", "finish 'Done'")
    events = await talk(ann, asked(*lines, forwardedProps={"max_steps": 1}))
    [interrupt] = events[-1]["outcome"]["interrupts"]
    assert (interrupt["reason"], interrupt["message"]) == ("input_required", "budget_steps")
    assert interrupt["responseSchema"]["properties"].keys() == {
        *("max_steps", "max_tokens", "max_cost_usd", "max_seconds")
    }
    again = await talk(ann, asked(resume=answer(events, {"max_steps": 2})))
    assert again[-1]["outcome"]["interrupts"] == [interrupt]
    ended = await talk(ann, asked(resume=answer(again, {"max_steps": 10})))
    assert ended[-1]["result"] == {"outputs": {"result": "Done"}}
    wrong = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"max_steps": 0}}]
    assert_problem(await ann.post("/api/agent", json=asked(resume=wrong)), 422, "invalid")


# Tools of the client --------------------------------------------------------------------------------

CHART = {
    "name": "showChart",
    "description": "Shows a chart.",
    "parameters": {"type": "object", "properties": {"kind": {"enum": ["bar"]}}, "required": ["kind"]},
}


async def test_a_tool_of_the_clients_is_used_by_its_client(ann: httpx.AsyncClient) -> None:
    events = await talk(ann, asked('use showChart {"kind": "bar"}', tools=[CHART]))
    called = [event for event in events if event["type"].startswith("TOOL_CALL")]
    assert [event["type"] for event in called] == ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END"]
    assert (called[0]["toolCallName"], json.loads(called[1]["delta"])) == ("showChart", {"kind": "bar"})
    named = called[0]["toolCallId"]
    assert events[-1]["outcome"] == {"type": "success", "pendingToolCallIds": [named]}
    came = {"id": "2", "role": "tool", "toolCallId": named, "content": "Three bars"}
    events = await talk(ann, asked() | {"messages": [came]})
    assert events[-1]["result"] == {"outputs": {"result": {"showChart": "Three bars"}}}
    assert named not in [it["toolCallId"] for it in events if it["type"] == "TOOL_CALL_RESULT"]


async def test_a_clients_tool_is_called_only_as_it_says(ann: httpx.AsyncClient) -> None:
    events = await talk(ann, asked('use showChart {"kind": "pie"}', tools=[CHART]))
    failed, _gave_up = [
        json.loads(it["content"]) for it in events if "content" in it and "error" in it["content"]
    ]
    assert failed["error"]["code"] == "invalid_arguments"
    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", "agent_gave_up")
    for tools, at in (
        ([CHART, CHART], "/tools/0/name"),
        ([CHART | {"name": "navigate"}], "/tools/0/name"),
        ([CHART | {"parameters": {"type": "none"}}], "/tools/0/parameters/type"),
    ):
        reply = await ann.post("/api/agent", json=asked("finish Done", tools=tools))
        assert_problem(reply, 422, "invalid_workflow")
        assert reply.json()["errors"][0]["pointer"] == at


async def test_ag_uis_own_client_brings_a_tool(ann: httpx.AsyncClient, client_library: Path) -> None:
    task = {"message": 'use showChart {"kind": "bar"}', "state": {"model": "demo"}, "tools": [CHART]}
    first, second = await converse(client_library, ann, task, {"returned": "Three bars"})
    assert (first["events"][-1], first["interrupts"]) == ("RUN_FINISHED", [])
    assert second["result"] == {"outputs": {"result": {"showChart": "Three bars"}}}
