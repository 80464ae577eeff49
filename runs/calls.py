"""What the model of an `agent` step says and calls: one after the other, until it has finished.

A call that fails is told to the model, which goes on; only what no model could go on from ends the run.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol, TypeVar, cast
from uuid import UUID

import orjson
import structlog
from playwright.async_api import Page
from sqlalchemy.exc import NoResultFound

import db
from browser import actions
from browser.actions import Action, ActionFailed
from infra.redaction import cut
from infra.storage import FileMissing, StorageUnavailable
from models import File, Message, Role, Run, Step, StepStatus, Turn, uuid7
from runs import agent, files, providers, secrets, sensitivity, tools, usage, workflows
from runs.agent import MAY_HAVE_LANDED, Call, Conversation, ModelFailed, Reply, fenced
from runs.asking import Models
from runs.computers import Held
from runs.deeds import Deed
from runs.deltas import Deltas
from runs.endings import Failed
from runs.filling import address, filling, refuse_script
from runs.parameters import in_words
from runs.replay import Fields, StepFailed, filled
from runs.sensitivity import Assessment
from runs.steps import Agent
from runs.trail import FINISH
from runs.walk import Finished, Place
from runs.workflows import Flow
from schemas import MessageRead
from settings import settings

log = structlog.get_logger()

T = TypeVar("T")
More = Callable[[db.Tx], Awaitable[None]]

MAX_BEFORE, MAX_SAID = 20, 2_000  # messages of the thread that a model is told first, and characters of each
MAX_CONTEXT = 64_000  # characters of what a model may know beside its task
MAX_STUMBLES = 5  # calls in a row that no tool takes


class Driver(Protocol):
    """What the calls need of the drive that does the run; wishes and ends are its own."""

    run: Run
    purse: secrets.Purse
    main: Page | None
    waiting: str | None
    short: str | None

    @property
    def computer(self) -> Held: ...

    # The run
    def active(self) -> float: ...
    def shown(self, value: Any) -> Any: ...
    async def say(self, message: str) -> None: ...
    async def write(self, more: More | None = None, **values: Any) -> None: ...
    async def boundary(self) -> None: ...
    async def repeat(self, work: Callable[[], Coroutine[Any, Any, T]]) -> T: ...

    # A step
    async def begin(self, place: Place, what: dict[str, Any], *, safe: bool) -> Step: ...
    async def perform(self, attempt: Deed, *, safe: bool, matter: dict[str, Any] | None = None) -> Any: ...
    async def reveal(self, fields: Fields, addresses: tuple[str, ...]) -> Mapping[str, Mapping[str, str]]: ...
    async def approved(self, title: str, action: dict[str, Any], step: Step) -> dict[str, Any]: ...
    async def spend(self, tx: db.Tx) -> None: ...
    async def look(self) -> tuple[UUID | None, str]: ...
    async def finish(self, values: dict[str, Any], more: More, **columns: Any) -> None: ...
    def weigh(self, output: Any) -> None: ...
    def crash(self) -> Failed | None: ...
    def step_failure(self, code: str, detail: str, **more: Any) -> Failed: ...


class Calls:
    """Those of one run, however many of its steps are left to a model; `close` it with its drive.

    `made` counts them.
    """

    def __init__(self, drive: Driver) -> None:
        self.made = 0
        self._drive = drive
        self._models = Models(
            [providers.Choice(**one) for one in drive.run.agent.get("models", ())] or [providers.default()],
            drive.purse,
            repeat=drive.repeat,
            say=drive.say,
            spend=self._count_reply,
        )
        self._others = {tool["name"]: tool for tool in drive.run.agent.get("tools", ())}  # its user's own
        self._talk: Conversation | None = None
        self._news: list[str] = []  # what the model has not been told yet
        self._heard: list[Message] = []  # what it is told now
        self._pictures: dict[str, bytes] = {}  # of the last request, most of which come again
        self._unpriced: set[str] = set()
        self._deed: Deed | None = None
        self._pressing: Deed | None = None  # what holds a button down

    @property
    def _run(self) -> Run:
        return self._drive.run

    def tell(self, news: str) -> None:
        """Let the model hear something before it is asked again, once however often it is told."""
        self._news.append(news)

    async def close(self) -> None:
        """Let the connections to models go."""
        await self._models.close()

    async def do(self, flow: Flow, place: Place) -> Any:
        """Do what the model wants next, and keep what came of it.

        Returns what the call has brought: a `Finished` ends the step. Raises Failed, and what a browser
        raises that is at fault.
        """
        talk = await self._conversation(flow, place)
        call = await self._next_call(talk)
        step = await self._drive.begin(
            place, _called(call), safe=call.tool in tools.REPEATABLE or call.tool in self._others
        )
        self.made += 1
        began = self._drive.active()
        outcome, values, told = await self._try(talk, call, step)
        blind = call.tool in tools.LOOKING or call.tool in self._others
        picture_id, page = (None, "") if blind else await self._drive.look()
        if self._deed is not None and values["status"] == StepStatus.succeeded:
            values["recorded"] = await self._deed.recorded() or None
        values |= {"screenshot_id": picture_id, "duration_ms": round((self._drive.active() - began) * 1000)}
        picture = str(picture_id) if picture_id else None
        page = self._drive.shown(page)  # before it is cut: half a secret is not known for one
        await self._keep_result(talk, agent.result(call, page=page, picture_id=picture, **told), values)
        return outcome

    async def _next_call(self, talk: Conversation) -> Call:
        """What the model waits for; it is asked for more when all is done."""
        while (call := talk.call) is None:
            await self._stay_within_budget()
            self._tell_news(talk)
            await self._take_turn(talk)
        await self._stay_within_budget()
        return call

    async def _try(
        self, talk: Conversation, call: Call, step: Step
    ) -> tuple[Any, dict[str, Any], dict[str, str]]:
        """Do one call: what it has brought, the columns of its step, and what the model is told of it."""
        try:
            outcome = await self._answer(talk, call, step)
            output = self._drive.shown(outcome.result if isinstance(outcome, Finished) else outcome)
            if isinstance(outcome, Finished):
                self._drive.weigh(output)
        except (StepFailed, ActionFailed) as failure:
            if (crash := self._drive.crash()) is not None:
                raise crash from None
            error = {"code": failure.code, "detail": self._drive.shown(failure.detail)}
            refused = failure.code in ("approval_denied", "approval_expired")
            told = {
                "outcome": "denied" if refused else "failed",
                "text": f"{failure.code}: {failure.detail}",
            }
            return None, {"status": StepStatus.failed, "error": error}, told
        told = {"outcome": "success", "text": orjson.dumps(output).decode()}
        if isinstance(outcome, Finished):
            return Finished(output), {"status": StepStatus.succeeded, "output": {"result": output}}, told
        return output, {"status": StepStatus.succeeded, "output": output}, told

    async def _keep_result(self, talk: Conversation, result: dict[str, Any], values: dict[str, Any]) -> None:
        """Write the outcome of a call where the timeline and the model find it, in one transaction."""
        turn: list[Turn] = []

        async def keep(tx: db.Tx) -> None:
            turn[:] = await self._add_result(tx, talk, result)
            await self._take_heard(tx)
            if result["tool"] == "request_approval":
                await self._drive.spend(tx)
            if values["status"] == StepStatus.succeeded and result["tool"] == FINISH and result["id"]:
                await self._tell_user(tx, _as_text(values["output"]["result"]), uuid7())

        await self._drive.finish(values, keep)
        talk.turns[-1] = turn[0]
        self._heard = []

    async def _add_result(self, tx: db.Tx, talk: Conversation, result: dict[str, Any]) -> list[Turn]:
        """Keep what came of the call that the model waits for; returns its turn, which has it now."""
        turn = talk.turns[-1]
        return await tx.change(Turn, {"id": turn.id}, results=[*turn.results, self._drive.shown(result)])

    # What was said ------------------------------------------------------------------------------

    async def _conversation(self, flow: Flow, place: Place) -> Conversation:
        """What was said in the step so far; a call whose worker died in it is answered with what is known."""
        if self._talk is None or self._talk.step != place.agent:
            raw = dict(workflows.each(flow.steps))[place.pointer.rpartition("/calls/")[0]]
            step = cast("Agent", filled(raw, place.scope))
            turns, steps, before = await self._drive.repeat(lambda: self._turns(place.agent))
            self._drive.computer.computer.listen()
            context = self._run.agent.get("context", ())
            task = _first_words(step.task, before, context, self._drive.purse.told)
            others = [*self._others.values()]
            self._talk = Conversation(place.agent, task, step.json_schema, turns, others)
            for landed in steps:
                await self._tell_landed(self._talk, landed)
        return self._talk

    async def _tell_landed(self, talk: Conversation, landed: Step) -> None:
        """Answer the call of a step that its worker did not see the end of."""
        if (call := talk.call) is None or call.id != (landed.call or {}).get("id"):
            return
        result = agent.result(call, MAY_HAVE_LANDED, outcome="interrupted")
        turn: list[Turn] = []

        async def keep(tx: db.Tx) -> None:
            turn[:] = await self._add_result(tx, talk, result)

        await self._drive.write(keep)
        talk.turns[-1] = turn[0]

    def _tell_news(self, talk: Conversation) -> None:
        for news in dict.fromkeys(self._news):
            talk.tell(news)
        self._news.clear()

    async def _turns(self, step: int) -> tuple[list[Turn], list[Step], list[Message]]:
        """The step's turns, its run's calls that may have landed, and what was said in the thread before."""
        before: list[Message] = []
        async with db.as_user(self._run.user_id) as tx:
            turns = await tx.find(Turn, run_id=self._run.id, step=step)
            landed = await tx.find(Step, run_id=self._run.id, status=StepStatus.may_have_landed)
            if self._run.thread_id is not None:
                place = (self._run.user_id, self._run.thread_id, self._run.id, MAX_BEFORE)
                before = [Message(**row) for row in await tx.call("said_before", *place)]
        return turns, landed, before

    # The model ----------------------------------------------------------------------------------

    async def _take_turn(self, talk: Conversation) -> None:
        """Ask the model, and keep its reply before any of it is done."""
        if talk.stumbles >= MAX_STUMBLES:
            raise Failed("model_confused", f"The model called tools wrongly {MAX_STUMBLES} times in a row")
        self._heard = await self._drive.repeat(self._unheard)
        for message in self._heard:
            talk.tell(message.text)
        if talk.turns and talk.turns[-1].input_tokens > settings.agent_context_tokens and talk.condense():
            await self._drive.say("The conversation has become long; the model is told less of what is past")
        began, message_id = self._drive.active(), uuid7()
        reply, model = await self._ask_model(talk, message_id)
        turn: list[Turn] = []

        async def keep(tx: db.Tx) -> None:
            await self._take_heard(tx)
            if reply.text:
                await self._tell_user(tx, reply.text, message_id)
            turn[:] = [
                await tx.add(
                    Turn,
                    run_id=self._run.id,
                    number=len(talk.turns) + 1,
                    step=talk.step,
                    model_name=model,
                    told=self._drive.shown(talk.told),
                    response=self._drive.shown(reply.response),
                    duration_ms=round((self._drive.active() - began) * 1000),
                    **reply.used,
                )
            ]
            await usage.add(tx, **reply.used)

        await self._drive.write(keep, **self._spent_with(reply))
        self._heard = []
        talk.add(turn[0])

    async def _take_heard(self, tx: db.Tx) -> None:
        """The model knows it now, for good."""
        for message in self._heard:
            for row in await tx.change(Message, {"id": message.id}, taken_at=datetime.now(UTC)):
                tx.announce("message.updated", row, MessageRead, run_id=self._run.id)

    async def _tell_user(self, tx: db.Tx, text: str, message_id: UUID) -> None:
        place = {"run_id": self._run.id, "thread_id": self._run.thread_id}
        said = await tx.add(
            Message, id=message_id, role=Role.assistant, text=self._drive.shown(text), **place
        )
        tx.announce("message.created", said, MessageRead, run_id=self._run.id)

    async def _unheard(self) -> list[Message]:
        """What the user has said to the run since the last turn."""
        async with db.as_user(self._run.user_id) as tx:
            rows = await tx.call("unheard_messages", self._run.user_id, self._run.id)
        return [Message(**row) for row in rows]

    async def _ask_model(self, talk: Conversation, message_id: UUID) -> tuple[Reply, str]:
        """One reply, and the name of the model that gave it; where none gives one, the user is waited for."""
        while True:
            try:
                reply, choice = await self._models.ask(
                    talk,
                    lambda: self._shown_pictures(talk),
                    lambda: Deltas(self._run, message_id, self._drive.purse.redactor),
                )
            except ModelFailed as failure:
                if failure.code == "model_refused":
                    raise Failed(failure.code, failure.detail) from failure
                self._drive.waiting = failure.code
                await self._drive.boundary()
            else:
                await self._note_price(talk, reply, choice.name)
                return reply, choice.name

    async def _note_price(self, talk: Conversation, reply: Reply, model: str) -> None:
        """Say once that nobody knows what a model costs."""
        known = {turn.model_name for turn in talk.turns} | self._unpriced
        if reply.cost_micros is None and model not in known:
            self._unpriced.add(model)
            await self._drive.say(f"The price of {model} is not known; it is counted as nothing")

    async def _count_reply(self, reply: Reply) -> None:
        """Count a reply that is not kept."""

        async def count(tx: db.Tx) -> None:
            await usage.add(tx, **reply.used)

        await self._drive.write(count, **self._spent_with(reply))

    def _spent_with(self, reply: Reply) -> dict[str, Any]:
        return {name: getattr(self._run, name) + count for name, count in reply.used.items()}

    async def _shown_pictures(self, talk: Conversation) -> dict[str, bytes]:
        """The pictures of the next request; one that is gone is left out."""
        shown: dict[str, bytes] = {}
        for picture_id in talk.pictures():
            picture = self._pictures.get(picture_id)
            if picture is None:
                picture = await self._drive.repeat(partial(self._file, picture_id))
            shown |= {picture_id: picture} if picture else {}
        self._pictures = shown
        return shown

    async def _file(self, file_id: str) -> bytes | None:
        try:
            async with db.as_user(self._run.user_id) as tx:
                file = await tx.one(File, id=UUID(file_id))
            return await files.read_part(file, 0, file.size)
        except (NoResultFound, FileMissing, StorageUnavailable) as error:
            log.warning("picture_not_read", file_id=file_id, error=repr(error))
            return None

    # What it wants ------------------------------------------------------------------------------

    async def _answer(self, talk: Conversation, call: Call, step: Step) -> Any:
        """Do one call. Raises StepFailed, ActionFailed."""
        self._deed = None
        if (other := self._others.get(call.tool)) is not None:
            return await self._use_other(other, call, step)
        try:
            wanted = tools.parse(call.tool, call.arguments)
        except tools.InvalidArguments as error:
            raise StepFailed(agent.INVALID_ARGUMENTS, str(error)) from error
        match wanted:
            case tools.Finish():
                return self._finish(talk, wanted)
            case tools.AskUser():
                return await self._ask_user(wanted.question, step)
            case tools.RequestApproval():
                action = {"type": call.tool, "title": wanted.title, "arguments": wanted.arguments}
                return {"approved": True, "arguments": await self._drive.approved(wanted.title, action, step)}
        allowed, matter = await self._allowed(call, wanted, step)
        self._deed = await self._deed_of(allowed)
        return await self._drive.perform(self._deed, safe=step.safe and matter is None, matter=matter)

    async def _deed_of(self, wanted: Action) -> Deed:
        """How an action is done; no script comes near a secret, before or after. Raises StepFailed."""
        computer = self._drive.computer.computer
        await refuse_script(computer, wanted)
        if isinstance(wanted, actions.Evaluate):
            await self._note_script(secrets.origin(address(computer, wanted)))
        fills = filling(computer, wanted, self._reveal_to_model)
        press = self._pressing.press if self._pressing else None
        deed = Deed(computer, wanted, self._drive.main, self._drive.shown, fills, press)
        if isinstance(wanted, actions.MouseDown | actions.MouseUp):
            self._pressing = deed if isinstance(wanted, actions.MouseDown) else None
        return deed

    async def _note_script(self, where: str) -> None:
        """Remember where a script may go on, before it runs: for the run, and for others of its computer."""
        self._drive.computer.scripted.add(where)
        known = self._run.agent.get("scripted", [])
        if where not in known:
            await self._drive.write(agent=self._run.agent | {"scripted": [*known, where]})

    async def _reveal_to_model(
        self, fields: Fields, addresses: tuple[str, ...]
    ) -> Mapping[str, Mapping[str, str]]:
        """As every step, but not where a script of the model's may lie in wait. Raises StepFailed."""
        for scripted in self._drive.computer.scripted.union(self._run.agent.get("scripted", ())):
            blank = not scripted.startswith(("http://", "https://"))  # it may be of any origin
            if blank or any(secrets.same_origin(scripted, place) for place in addresses):
                raise StepFailed(
                    "secret_refused", "A script has run on this site; no secret is filled in there"
                )
        return await self._drive.reveal(fields, addresses)

    async def _allowed(self, call: Call, wanted: Action, step: Step) -> tuple[Action, dict[str, Any] | None]:
        """The action as its user wants it, and what their yes was to, if they had to be asked.

        Raises StepFailed for a no.
        """
        computer, policy = self._drive.computer.computer, self._run.agent["approval"]
        seen = await self._drive.repeat(lambda: sensitivity.examine(computer, wanted))
        acts = sensitivity.acts(wanted)
        if not sensitivity.needs_approval(policy, seen.reasons, *seen.hosts, acts=acts):
            return wanted, None
        title = cut(f"{tools.in_words(call.tool, call.arguments)}: {seen.subject}", 500)
        arguments = await self._drive.approved(title, _matter(call, seen), step)
        # A yes is to what was there when it was asked for.
        seen = await self._drive.repeat(lambda: sensitivity.examine(computer, wanted))
        try:
            return cast("Action", tools.parse(call.tool, arguments)), self._drive.shown(_matter(call, seen))
        except tools.InvalidArguments as error:
            raise StepFailed("invalid_arguments", str(error)) from error

    async def _ask_user(self, question: str, step: Step) -> dict[str, Any]:
        """Wait for what only a person can tell."""

        async def ask(tx: db.Tx) -> None:
            await self._tell_user(tx, question, step.id)

        return {"answer": await self._reply(step, question, ask)}

    async def _use_other(self, tool: dict[str, Any], call: Call, step: Step) -> dict[str, Any]:
        """Wait for what comes of a tool that the run's user brings. Raises StepFailed."""
        schema = tool["parameters"] or agent.NO_ARGUMENTS
        if broken := await asyncio.to_thread(workflows.violations, schema, call.arguments):
            raise StepFailed(agent.INVALID_ARGUMENTS, in_words(broken))

        async def ask(tx: db.Tx) -> None:
            place = {"run_id": self._run.id, "thread_id": self._run.thread_id}
            said = await tx.add(Message, id=step.id, role=Role.system, text=f"Calls {call.tool}", **place)
            tx.announce("message.created", said, MessageRead, run_id=self._run.id)

        return {"result": await self._reply(step, call.tool, ask)}

    async def _reply(self, step: Step, why: str, ask: More) -> str | None:
        """What the user says to what is asked once, however many workers wait for it."""
        if not await self._drive.repeat(lambda: self._was_asked(step)):
            await self._drive.write(ask)
            self._drive.waiting = cut(why, 500)
        await self._drive.boundary()
        self._heard = await self._drive.repeat(self._unheard)
        return "\n".join(message.text for message in self._heard) or None

    async def _was_asked(self, step: Step) -> bool:
        async with db.as_user(self._run.user_id) as tx:
            return bool(await tx.find(Message, id=step.id))

    def _finish(self, talk: Conversation, said: tools.Finish) -> Finished:
        """The model's result, if it is one that the task takes. Raises StepFailed."""
        if not said.success:
            why = _as_text(said.result or "The agent could not do it")
            raise self._drive.step_failure("agent_gave_up", why)
        if talk.schema is not None and (broken := workflows.violations(talk.schema, said.result)):
            raise StepFailed("invalid_result", f"The result does not fit its schema: {in_words(broken)}")
        return Finished(said.result)

    # Its budget ---------------------------------------------------------------------------------

    async def _stay_within_budget(self) -> None:
        """Pause while the run has used up what it may use."""
        while (short := self._used_up() or await self._drive.repeat(self._month_used_up)) is not None:
            self._drive.short = short.replace("max", "budget", 1)
            await self._drive.boundary()
        await self._drive.boundary()

    async def _month_used_up(self) -> str | None:
        async with db.as_user(self._run.user_id) as tx:
            active_ms = round(self._drive.active() * 1000)
            return await usage.month_used_up(tx, steps=self._run.step_count, active_ms=active_ms)

    def _used_up(self) -> str | None:
        """The part of the run's budget that is used up."""
        used = {
            "max_steps": self.made,
            "max_tokens": self._run.input_tokens + self._run.output_tokens,
            "max_cost_usd": self._run.cost_usd,
            "max_seconds": self._drive.active(),
        }
        budget = {"max_steps": settings.max_agent_steps} | self._run.budget
        return next((name for name, most in budget.items() if used[name] >= most), None)


def _matter(call: Call, seen: Assessment) -> dict[str, Any]:
    """What an approval of a call is about."""
    asked = {"type": call.tool, "arguments": call.arguments, "schema": tools.TOOLS[call.tool].schema()}
    return asked | {"reasons": list(seen.reasons), "subject": seen.subject}


def _first_words(
    task: str, before: Iterable[Message], context: Iterable[dict[str, str]], secrets_told: str
) -> str:
    """What a model is told first: the task, after what it may know, and before its secrets."""
    said = "\n".join(_indented(f"{message.role}: {cut(message.text, MAX_SAID)}") for message in before)
    known = "\n".join(_indented(f"{entry['description']}: {entry['value']}") for entry in context)
    earlier = f"<earlier>\n{fenced(said)}\n</earlier>\n" if said else ""
    beside = f"<context>\n{fenced(cut(known, MAX_CONTEXT))}\n</context>\n" if known else ""
    return f"{earlier}{beside}<task>\n{fenced(task)}\n</task>\n{secrets_told}".rstrip()


def _indented(text: str) -> str:
    """One entry, none of whose lines looks like the beginning of another."""
    return "\n  ".join(text.splitlines())


def _as_text(result: Any) -> str:
    """A result as people read it."""
    return result if isinstance(result, str) and result else orjson.dumps(result).decode()


def _called(call: Call) -> dict[str, Any]:
    """The columns of a step that does what a model wants."""
    kept = {"id": call.id, "tool": call.tool, "arguments": call.arguments}
    return {"type": call.tool[:100], "title": tools.in_words(call.tool, call.arguments), "call": kept}
