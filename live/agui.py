"""`POST /api/agent`: agents as AG-UI 1.0 speaks of them (https://docs.ag-ui.com), over server-sent events.

A thread of AG-UI is one of ours. A run of AG-UI is a stretch of one of ours, from its start or from an answer
to its end or to where it waits for a person: the next one takes the answer and goes on with the same run.
"""

import hashlib
from collections import deque
from collections.abc import AsyncIterator, Iterable
from datetime import UTC, datetime
from typing import Any, TypeVar
from uuid import UUID

import orjson
from ag_ui.core import (
    AssistantMessage,
    BaseEvent,
    ContentPart,
    ResumeEntry,
    RunErrorEvent,
    TextPart,
    ToolMessage,
    UserMessage,
)
from ag_ui.encoder import EventEncoder
from asyncpg import UniqueViolationError
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field, StrictBool, ValidationError
from sqlalchemy.exc import NoResultFound
from starlette.responses import StreamingResponse

import db
from clerk_auth import Caller
from infra.redaction import cut
from live import endings, limits
from live.agui_events import Telling
from live.endings import Ending
from live.hub import Hub, TooManyConnections, running
from live.stream import EventStream
from live.subscription import Subscription
from models import (
    Approval,
    ApprovalStatus,
    Base,
    Control,
    Message,
    Role,
    Run,
    RunStatus,
    Step,
    Stream,
    Thread,
)
from runs import approvals, engine
from runs.calls import MAX_BEFORE, MAX_SAID
from runs.computers import wait_for
from schemas import (
    AgentInput,
    ApprovalDecision,
    ApprovalRead,
    Budget,
    DeltaMessage,
    MessageCreate,
    MessageRead,
    RunCreate,
    RunRead,
    RunUpdate,
    StepRead,
    ThreadRead,
)

M = TypeVar("M", bound=BaseModel)

LABEL = "agui"  # of a thread: what AG-UI calls it
MAX_LABEL = 500
FORWARDED = {*RunCreate.model_fields} - {"task", "thread_id", "definition", "parameters", "run_after"}
OF_STATE = {"model", "allowed_domains", *Budget.model_fields}
SHAPES: dict[str, tuple[type[Base], type[BaseModel]]] = {
    "run": (Run, RunRead),
    "step": (Step, StepRead),
    "message": (Message, MessageRead),
    "approval": (Approval, ApprovalRead),
}
WAITING = (RunStatus.waiting_user, RunStatus.waiting_approval)
HALTED = (RunStatus.paused, RunStatus.waiting_user)
NO_ANSWER = "The user gives no answer."


class _Decision(BaseModel):
    """The payload that answers an approval."""

    approved: StrictBool
    edited_args: dict[str, Any] | None = Field(None, alias="editedArgs")
    reason: str | None = Field(None, max_length=2000)


class _Answer(BaseModel):
    """The payload that answers a question."""

    model_config = ConfigDict(extra="forbid")

    answer: str


class _Begun(BaseModel):
    """What a request came to: its run, the end of the log before it, and whether the run was answered."""

    run_id: UUID
    after: int = 0
    answered: bool = False


async def run_agent(caller: Caller, body: AgentInput) -> StreamingResponse:
    """Start a run, or go on with the one that the thread has, and tell of it until it ends or waits.

    A `runId` that the thread has seen within a day begins nothing and tells the same again. Raises what
    `engine.enqueue`, `engine.guide` and `approvals.decide` raise, RequestValidationError, TooManyConnections.
    """
    hub = running()
    if hub.followers(caller.user_id) >= limits.CONNECTIONS_PER_USER:
        raise TooManyConnections(endings.TOO_MANY.detail)
    return AgentStream(hub, caller, body, await _begin_once(caller, body))


# What a request asks for ----------------------------------------------------------------------------


async def _begin_once(caller: Caller, body: AgentInput) -> _Begun:
    named = hashlib.sha256(orjson.dumps([body.thread_id, body.run_id])).hexdigest()
    try:
        async with db.as_user(caller.user_id, caller.actor, db.Idempotency(f"agui:{named}", "agui")) as tx:
            begun = await _begin(tx, body)
            tx.reply(begun.model_dump_json())
    except db.Repeat as repeat:
        begun = _Begun.model_validate(orjson.loads(bytes(repeat.reply.body))["data"])
    except db.KeyBusy:
        raise engine.ThreadBusy("Another request begins this runId at the moment; repeat yours") from None
    return begun


async def _begin(tx: db.Tx, body: AgentInput) -> _Begun:
    said = _said(body)
    thread = await _thread(tx, body.thread_id, said[:-1])
    head = max((stream.last_seq for stream in await tx.find(Stream)), default=0)
    asked, wanted = said[-1][1] if said else None, _wanted(body)
    news = bool(asked) and body.messages[-1].role == "user"
    if body.resume:
        run = [await _resume(tx, thread, entry) for entry in body.resume][-1]
        if not (RunStatus(run.status).ended and news):
            return _Begun(run_id=run.id, after=head, answered=True)
    if (told := await _take_result(tx, thread, body.messages)) is not None:
        return _Begun(run_id=told.id, after=head, answered=True)
    for run in await tx.find(Run, id=named, thread_id=thread.id) if (named := _uuid(body.run_id)) else ():
        return _Begun(run_id=run.id)
    if "workflow_id" not in wanted:
        for run in await _going_on(tx, thread, waiting=news):
            question = await engine.question(tx, run)
            if news:
                await engine.guide(tx, run, _checked(MessageCreate, ("messages",), text=asked))
            return _Begun(run_id=run.id, after=head, answered=news and question is not None)
        if not asked:
            raise _invalid(("messages",), "there is nothing to do: say it in a message of the user's")
        wanted["task"] = asked
    given = _checked(RunCreate, ("forwardedProps",), **wanted, thread_id=thread.id)
    reply = await engine.enqueue(tx, given)
    return _Begun(run_id=orjson.loads(bytes(reply.body))["data"]["id"])


async def _take_result(tx: db.Tx, thread: Thread, messages: list[Any]) -> Run | None:
    """Tell a run what came of the client's own tool, if it waits for that."""
    last = messages[-1] if messages else None
    if not isinstance(last, ToolMessage) or (called := _uuid(last.tool_call_id)) is None:
        return None
    for step in await tx.find(Step, id=called):
        for run in await tx.find(Run, lock=True, id=step.run_id, thread_id=thread.id):
            question = await engine.question(tx, run)
            if question is not None and question.id == called:
                text = "\n".join(filter(None, (_text(last.content), last.error and f"Failed: {last.error}")))
                await engine.guide(tx, run, _checked(MessageCreate, ("messages",), text=text or "Done"))
                return run
    return None


async def _going_on(tx: db.Tx, thread: Thread, *, waiting: bool) -> list[Run]:
    """The thread's runs that have not ended, or only those that wait for a person."""
    rows = await tx.call("thread_runs", tx.user_id, thread.id)
    runs = [await tx.one(Run, lock=True, id=row["id"]) for row in rows]
    return [run for run in runs if not waiting or run.status in WAITING]


async def _thread(tx: db.Tx, name: str, said: Iterable[tuple[Role, str]] = ()) -> Thread:
    """The user's thread of this id, or the one labelled with it. Raises NoResultFound for a foreign one.

    In one that is made now, this was `said` before; any other one has messages of its own.

    Ours are UUIDs of version 7; clients that make up a thread take other ones.
    """
    if (ours := _uuid(name)) is not None and ours.version == 7:
        return await tx.one(Thread, id=ours)
    if not 0 < len(name) <= MAX_LABEL:
        raise _invalid(("threadId",), f"it has 1 to {MAX_LABEL} characters")
    for row in await tx.call("labelled_threads", tx.user_id, name):
        return await tx.one(Thread, id=row["id"])
    try:
        async with tx.savepoint():
            thread = await tx.add(Thread, name="Thread", labels={LABEL: name})
            tx.announce("thread.created", thread, ThreadRead)
            for role, text in [each for each in said if each[1]][-MAX_BEFORE:]:
                message = await tx.add(Message, thread_id=thread.id, role=role, text=cut(text, MAX_SAID))
                tx.announce("message.created", message, MessageRead)
            return thread
    except UniqueViolationError:  # another request made it at the same moment
        [row] = await tx.call("labelled_threads", tx.user_id, name)
        return await tx.one(Thread, id=row["id"])


async def _resume(tx: db.Tx, thread: Thread, entry: ResumeEntry) -> Run:
    """Answer an interrupt: an approval, a model's question, or a run that waits. Returns the run.

    An approval that is answered already, or by nobody in time, can still be cancelled: that changes nothing.
    """
    if (asked := _uuid(entry.interrupt_id)) is None:
        raise NoResultFound
    resolved = entry.status == "resolved"
    for approval in await tx.find(Approval, id=asked):
        run = await tx.one(Run, lock=True, id=approval.run_id, thread_id=thread.id)
        if resolved or (
            approval.status == ApprovalStatus.pending and approval.expires_at > datetime.now(UTC)
        ):
            await approvals.decide(tx, asked, _decision(entry))
        return run
    for step in await tx.find(Step, id=asked):
        run = await tx.one(Run, lock=True, id=step.run_id, thread_id=thread.id)
        question = await engine.question(tx, run)
        if question is None or question.id != step.id:
            raise engine.WrongState("The question is answered already")
        await engine.guide(tx, run, MessageCreate(text=_answer(entry)))
        return run
    run = await tx.one(Run, lock=True, id=asked, thread_id=thread.id)
    more = _mapping(entry.payload) if resolved else {}
    if budget := {name: more[name] for name in Budget.model_fields if name in more}:
        await engine.change_budget(tx, run, _checked(RunUpdate, ("resume", "payload"), **budget))
        run = await tx.one(Run, id=asked)
    if run.status in HALTED or not resolved:
        await engine.wish(tx, run, Control.run if resolved else Control.cancel)
    return run


def _decision(entry: ResumeEntry) -> ApprovalDecision:
    if entry.status == "cancelled":
        return ApprovalDecision(decision="deny")
    given = _checked(_Decision, ("resume", "payload"), **_mapping(entry.payload))
    changed = given.edited_args if given.approved else None
    verdict = "approve" if given.approved else "deny"
    return ApprovalDecision(decision=verdict, arguments=changed, note=given.reason)


def _answer(entry: ResumeEntry) -> str:
    if entry.status == "cancelled":
        return NO_ANSWER
    payload = {"answer": entry.payload} if isinstance(entry.payload, str) else _mapping(entry.payload)
    answer = _checked(_Answer, ("resume", "payload"), **payload).answer
    return _checked(MessageCreate, ("resume", "payload"), text=answer).text


def _wanted(body: AgentInput) -> dict[str, Any]:
    """What the new run is to be, beside its task: what else a client keeps in these places is its own."""
    state, forwarded = _mapping(body.state), _mapping(body.forwarded_props)
    context = [{"description": one.description, "value": one.value} for one in body.context or ()]
    tools = [
        {"name": one.name, "description": one.description[:2_000], "parameters": one.parameters}
        for one in body.tools or ()
    ]
    return (
        {name: state[name] for name in OF_STATE & state.keys()}
        | {name: forwarded[name] for name in FORWARDED & forwarded.keys()}
        | {"context": context, "tools": tools}
    )


def _said(body: AgentInput) -> list[tuple[Role, str]]:
    """The texts of the conversation, up to the user's last message."""
    said = [
        (Role(message.role), _text(message.content))
        for message in body.messages
        if isinstance(message, UserMessage | AssistantMessage)
    ]
    while said and said[-1][0] is not Role.user:
        said.pop()
    return said


def _text(content: str | list[ContentPart] | None) -> str:
    parts = [content or ""] if isinstance(content, str | None) else content
    return "\n".join(
        part if isinstance(part, str) else part.text for part in parts if isinstance(part, str | TextPart)
    )


def _checked(model: type[M], at: tuple[str, ...], /, **values: Any) -> M:
    try:
        return model.model_validate(values)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        places = [{**it, "loc": ("body", *at, *it["loc"])} for it in found]
        raise RequestValidationError(places) from None


def _invalid(at: tuple[str, ...], message: str) -> RequestValidationError:
    return RequestValidationError([{"loc": ("body", *at), "msg": message, "type": "value_error"}])


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


# What is told of it -----------------------------------------------------------------------------------


class AgentStream(EventStream):
    """A run as AG-UI's events; it ends with the run, or when that waits for a person."""

    def __init__(self, hub: Hub, caller: Caller, body: AgentInput, begun: _Begun) -> None:
        super().__init__(hub, caller, 0, "", run_id=begun.run_id, kinds=None)
        self._begun = begun
        self._telling = Telling(body.thread_id, body.run_id, _mapping(body.state))
        self._deltas: deque[DeltaMessage] = deque(maxlen=limits.QUEUED_DELTAS)
        self._encode = EventEncoder().encode
        self._ending: Ending | None = None

    def hear(self, delta: DeltaMessage) -> None:
        if delta.run_id == self._begun.run_id:
            self._deltas.append(delta)
            self._news.set()

    def end(self, ending: Ending) -> None:
        super().end(ending)
        self._ending = ending

    async def _chunks(self) -> AsyncIterator[str]:
        if self._log is None:
            return
        telling = self._telling
        subscription = Subscription(self._log, self._begin, **self._filters)
        yield self._written([telling.started()])
        while not (self._over or telling.over):
            self._news.clear()
            if events := subscription.take():
                for event in events:
                    yield self._written(await self._tell(event))
            elif subscription.behind:
                await self._load(subscription)
            else:
                yield self._written(self._caught_up())
                if not telling.over and not await wait_for(self._news, limits.HEARTBEAT_SECONDS):
                    yield ": alive\n\n"
        if not telling.over:
            ending = self._ending or endings.STOPPING
            yield self._written([RunErrorEvent(message=ending.detail, code=ending.name)])

    def _written(self, events: Iterable[BaseEvent]) -> str:
        return "".join(self._encode(event) for event in events)

    async def _tell(self, event: db.LoggedEvent) -> list[BaseEvent]:
        """What the log's event is in AG-UI; what was before this stretch of the run only shows what it is."""
        told = orjson.loads(event.text)
        if told["data"] == {"truncated": True}:
            told["data"] = await self._whole(told["resource"])
        if event.seq <= self._begun.after:
            list(self._telling.tell(told))
            return []
        return [*self._opened(), *self._telling.tell(told)]

    def _caught_up(self) -> list[BaseEvent]:
        found = [*self._opened()]
        while self._deltas:
            found += self._telling.hear(self._deltas.popleft())
        return [*found, *self._telling.wait()]

    def _opened(self) -> Iterable[BaseEvent]:
        """Once, when everything before this stretch is known."""
        return () if self._telling.open else self._telling.opening(answered=self._begun.answered)

    async def _whole(self, resource: dict[str, str]) -> dict[str, Any]:
        """What was too large for the log, as it is now; nothing of what is gone."""
        if (shapes := SHAPES.get(resource["type"])) is None:
            return {}
        model, shape = shapes
        async with db.as_user(self.caller.user_id) as tx:
            for row in await tx.find(model, id=UUID(resource["id"])):
                whole: dict[str, Any] = shape.model_validate(row, from_attributes=True).model_dump(
                    mode="json"
                )
                return whole
        return {}
