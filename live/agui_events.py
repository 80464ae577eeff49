"""The log of a run as the events of AG-UI 1.0: messages, tool calls, steps, state, interrupts, the end."""

from collections.abc import Iterator
from typing import Any

import orjson
from ag_ui.core import (
    PROTOCOL_VERSION,
    BaseEvent,
    CustomEvent,
    Interrupt,
    RunErrorEvent,
    RunFinishedCancelledOutcome,
    RunFinishedEvent,
    RunFinishedInterruptOutcome,
    RunFinishedSuccessOutcome,
    RunStartedEvent,
    StateSnapshotEvent,
    StepFinishedEvent,
    StepStartedEvent,
    TextMessageContentEvent,
    TextMessageEndEvent,
    TextMessageStartEvent,
    ToolCallArgsEvent,
    ToolCallEndEvent,
    ToolCallResultEvent,
    ToolCallStartEvent,
)

from runs.tools import TOOLS
from schemas import Budget, DeltaMessage

ASK = "ask_user"
OF_PEOPLE = (None, "requested", "control")  # why a run is paused that goes on without an answer
SHOWN = (
    "id",
    "thread_id",
    "title",
    "status",
    "reason",
    "step_count",
    "input_tokens",
    "output_tokens",
    "cost_usd",
)
TOLD = ("run.log", "computer.navigated", "computer.dialog", "computer.download", "control.")  # as CUSTOM
ANSWER = {"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["answer"]}

MORE = {
    "type": "object",
    "properties": {
        name: {"type": "number" if name == "max_cost_usd" else "integer"} for name in Budget.model_fields
    },
}


class Telling:
    """One stretch of a run: events of the log and deltas go in, AG-UI's come out.

    Tool calls and steps are named by our steps' ids, messages by our messages'.
    """

    def __init__(self, thread_id: str, run_id: str, state: dict[str, Any]) -> None:
        """Both ids are the client's; `state` is what it sent, and keeps beside what we say of the run."""
        self.over = self.open = False
        self._place = {"thread_id": thread_id, "run_id": run_id}
        self._state = state
        self._run: dict[str, Any] = {}
        self._computer_id: str | None = None
        self._waits = False
        self._approvals: dict[str, dict[str, Any]] = {}
        self._steps: dict[str, dict[str, Any]] = {}  # under way
        self._open_steps: set[str] = set()  # those that this stretch has begun
        self._messages: dict[str, str] = {}  # what has come of those that a model still says
        self._said: set[str] = set()

    def started(self) -> BaseEvent:
        return RunStartedEvent(**self._place, protocol_version=PROTOCOL_VERSION)

    def opening(self, *, answered: bool) -> Iterator[BaseEvent]:
        """The state before the stretch; a run that was `answered` waits no more."""
        self.open, self.over = True, False
        self._open_steps.clear()
        if answered:
            self._waits = False
        if self._run:
            yield from self._change(self._run, waits=self._waits)

    def tell(self, event: dict[str, Any]) -> Iterator[BaseEvent]:
        """One event of the log."""
        kind, data, of = event["kind"], event["data"], event["resource"]["id"]
        match kind.split("."):
            case ["run", "step", "started"] if data:
                yield from self._begin_step(of, data)
            case ["run", "step", "finished"] if data:
                yield from self._finish_step(of, data)
            case ["message", "created"] if data.get("role") == "assistant":
                yield from self._say(of, data["text"])
            case ["approval", "requested"] if data:
                self._approvals[of] = data
            case ["approval", _]:
                self._approvals.pop(of, None)
            case ["run", "deleted"]:
                yield from self._fail("deleted", "The run was deleted")
            case ["run", _] if kind != "run.log" and data:
                yield from self._change(data)
            case ["computer", "opened"]:
                self._computer_id = of
                yield from [self._snapshot()] if self._run else []
        if kind.startswith(TOLD):
            yield CustomEvent(name=kind, value=data)

    def hear(self, delta: DeltaMessage) -> Iterator[BaseEvent]:
        """A piece of a message; what does not follow from the pieces before comes with the whole message."""
        named = str(delta.message_id)
        if named in self._said or delta.offset != len(self._messages.get(named, "")):
            return
        if named not in self._messages:
            yield TextMessageStartEvent(message_id=named, role="assistant")
        self._messages[named] = self._messages.get(named, "") + delta.text
        yield TextMessageContentEvent(message_id=named, delta=delta.text)

    def wait(self) -> Iterator[BaseEvent]:
        """The end of the stretch, if the run waits for an answer and nothing more is known."""
        if self._waits and (called := self._called_outside()):
            yield from self._finish(outcome=RunFinishedSuccessOutcome(pending_tool_call_ids=called))
        elif self._waits:
            interrupts = [self._to_approve(one) for one in self._approvals] or [self._to_answer()]
            yield from self._finish(outcome=RunFinishedInterruptOutcome(interrupts=interrupts))

    # Steps and what models say

    def _begin_step(self, id: str, step: dict[str, Any]) -> Iterator[BaseEvent]:
        again = id in self._steps
        self._steps[id] = step
        if again:
            return
        if (call := step["call"]) is not None:
            arguments = call["arguments"]
            text = arguments if isinstance(arguments, str) else orjson.dumps(arguments).decode()
            # A question is also a message, which has the id of its step.
            yield ToolCallStartEvent(
                tool_call_id=id, tool_call_name=call["tool"], parent_message_id=f"{id}-call"
            )
            yield ToolCallArgsEvent(tool_call_id=id, delta=text)
            yield ToolCallEndEvent(tool_call_id=id)
        else:
            self._open_steps.add(id)
            yield StepStartedEvent(step_name=_name(step))

    def _finish_step(self, id: str, step: dict[str, Any]) -> Iterator[BaseEvent]:
        began = self._steps.pop(id, step)
        shown = {name: step[name] for name in ("number", "status", "url", "screenshot_id")}
        if step["call"] is not None:
            if _outside(step) and step["error"] is None:
                return  # who called it knows what came of it
            outcome = step["output"] if step["error"] is None else {"error": step["error"]}
            content = orjson.dumps(outcome).decode()
            yield ToolCallResultEvent(
                message_id=f"{id}-result", tool_call_id=id, content=content, role="tool", metadata=shown
            )
        elif id in self._open_steps:
            self._open_steps.remove(id)
            yield StepFinishedEvent(step_name=_name(began), metadata=shown)

    def _say(self, named: str, text: str) -> Iterator[BaseEvent]:
        """A whole message, after as much of it as has come in pieces."""
        self._said.add(named)
        before = self._messages.pop(named, None)
        if before is not None and not text.startswith(before):
            yield TextMessageEndEvent(message_id=named)
            named, before = f"{named}-again", None
        if before is None:
            yield TextMessageStartEvent(message_id=named, role="assistant")
        if rest := text[len(before or "") :]:
            yield TextMessageContentEvent(message_id=named, delta=rest)
        yield TextMessageEndEvent(message_id=named)

    # The run

    def _change(self, run: dict[str, Any], *, waits: bool | None = None) -> Iterator[BaseEvent]:
        self._run = run
        self._computer_id = run["computer_id"] or self._computer_id
        self._waits = _waits(run) if waits is None else waits
        yield self._snapshot()
        if run["status"] == "succeeded":
            yield from self._finish(result=run["result"], outcome=RunFinishedSuccessOutcome())
        elif run["status"] == "cancelled":
            yield from self._finish(outcome=RunFinishedCancelledOutcome())
        elif run["status"] == "failed":
            yield from self._fail(run["error"]["code"], run["error"]["detail"])

    def _snapshot(self) -> BaseEvent:
        shown = {name: self._run[name] for name in SHOWN} | {"computer_id": self._computer_id}
        return StateSnapshotEvent(snapshot=self._state | {"run": shown})

    def _finish(self, **how: Any) -> Iterator[BaseEvent]:
        yield from self._close()
        yield RunFinishedEvent(**self._place, **how)

    def _fail(self, code: str, detail: str) -> Iterator[BaseEvent]:
        yield from self._close()
        yield RunErrorEvent(message=detail, code=code)

    def _close(self) -> Iterator[BaseEvent]:
        """End what is open: a run of AG-UI ends with nothing under way."""
        self.over = True
        for message in self._messages:
            yield TextMessageEndEvent(message_id=message)
        for step in self._open_steps:
            yield StepFinishedEvent(step_name=_name(self._steps[step]))

    # What it waits for

    def _to_approve(self, id: str) -> Interrupt:
        asked = self._approvals[id]
        action, step_id = asked["action"], asked["step_id"]
        call = self._steps.get(step_id, {}).get("call")
        answer: dict[str, Any] = {"approved": {"type": "boolean"}, "reason": {"type": "string"}}
        if "arguments" in action:
            answer["editedArgs"] = action.get("schema") or {"type": "object"}
        shown = ("run_id", "action", "digest", "url", "screenshot_id")
        return Interrupt(
            id=id,
            reason="tool_call" if call else "confirmation",
            message=asked["title"],
            tool_call_id=step_id if call else None,
            response_schema={"type": "object", "properties": answer, "required": ["approved"]},
            expires_at=asked["expires_at"],
            metadata={name: asked[name] for name in shown},
        )

    def _to_answer(self) -> Interrupt:
        questions = [one for one, step in self._steps.items() if step["type"] == ASK]
        asks = bool(questions) and self._run["status"] == "waiting_user"
        return Interrupt(
            id=questions[-1] if asks else self._run["id"],
            reason="input_required",
            message=self._run["reason"],
            tool_call_id=questions[-1] if asks else None,
            response_schema=ANSWER if asks else self._of_wait(),
            metadata={"run_id": self._run["id"], "status": self._run["status"]},
        )

    def _called_outside(self) -> list[str]:
        """The call that waits for its client to do it."""
        waits = self._run["status"] == "waiting_user"
        return [named for named, step in self._steps.items() if waits and _outside(step)]

    def _of_wait(self) -> dict[str, Any]:
        """What may be answered to a run that waits: more to use, where it has used up its budget."""
        short = (self._run["reason"] or "").startswith("budget_")
        return MORE if short else {"type": "object"}


def _waits(run: dict[str, Any]) -> bool:
    """Whether the run goes on only when somebody answers."""
    status = run["status"]
    halted = status == "waiting_user" or (status == "paused" and run["reason"] not in OF_PEOPLE)
    return status == "waiting_approval" or (halted and run["control"] == "pause")


def _outside(step: dict[str, Any]) -> bool:
    """Whether it calls a tool that is none of ours."""
    return step["call"] is not None and step["call"]["tool"] not in TOOLS


def _name(step: dict[str, Any]) -> str:
    """Steps of one run have different names, as AG-UI wants those that overlap to have."""
    return f"{step['number']}. {step['title']}"
