"""The workflow language: a Chrome DevTools Recorder user flow plus our own steps, checked and filled in."""

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Any
from urllib.parse import quote
from uuid import UUID

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails
from starlette.responses import JSONResponse, Response

import db
from models import Computer, Run, Workflow, WorkflowVersion, uuid7
from models import Step as StepRow
from runs.parameters import (
    Invalid,
    InvalidParams,
    Problem,
    count_values,
    pointer_to,
    resolve_params,
    schema_problems,
    violations,
)
from runs.placeholders import (
    ROOTS,
    BadPlaceholder,
    PlaceholderMissing,
    fill,
    is_whole,
    literal,
    paths,
    written,
)
from runs.secrets import ALL_FIELDS
from runs.steps import KNOWN_STEPS, MAX_DEPTH, MAX_PARTS, OWN_STEPS, STEPS, Milliseconds, Step
from schemas import (
    ComputerSettings,
    RunToWorkflow,
    WorkflowCheck,
    WorkflowCreate,
    WorkflowDetail,
    WorkflowImport,
    WorkflowProblem,
    WorkflowUpdate,
    WorkflowVerdict,
)

__all__ = [
    "STEPS",
    "Flow",
    "InvalidParams",
    "InvalidWorkflow",
    "PlaceholderMissing",
    "Problem",
    "as_recording",
    "brings_output",
    "checked",
    "create",
    "export_recorder",
    "fill",
    "from_recording",
    "from_run",
    "import_recorder",
    "judge",
    "parse",
    "parse_aside",
    "problems",
    "resolve_params",
    "restore",
    "safe",
    "update",
    "violations",
]

MAX_STEPS, MAX_TEXT, MAX_VALUES, MAX_PROBLEMS = 1_000, 100_000, 200_000, 100
MAX_SCHEMAS = 10_000  # values in the schemas of all steps together
OWN_PREFIX = "cua."
NAMES = (("name",), ("as",))
WITH_SCHEMA = ("extract", "approve", "agent")


class InvalidWorkflow(Invalid):
    """The definition or its parameters cannot be used; pointers lead into the definition or `/parameters`."""


class Header(BaseModel):
    """A user flow without its steps."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow")
    title: str = Field(min_length=1, max_length=500)
    timeout: Milliseconds | None = None
    selector_attribute: str | None = None


# Checking -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Flow:
    """A checked workflow; `steps` are still as written, with their placeholders."""

    title: str
    timeout: float | None
    steps: tuple[dict[str, Any], ...]
    parameters: dict[str, Any]


def parse(definition: dict[str, Any], parameters: dict[str, Any] | None, *, any_params: bool = False) -> Flow:
    """The workflow ready to run; raises InvalidWorkflow with every problem.

    With `any_params` nothing is said of params that the parameters do not name: a run has its values already.
    """
    if found := problems(definition, parameters, any_params=any_params):
        raise InvalidWorkflow(found)
    header = Header.model_validate(definition)
    steps = tuple(_native(step) for step in definition["steps"])
    return Flow(header.title, header.timeout, steps, parameters or {})


def each(steps: Iterable[dict[str, Any]], at: str = "/steps") -> Iterator[tuple[str, dict[str, Any]]]:
    """All steps of a checked workflow with their pointers, those inside of others after these."""
    for index, step in enumerate(steps):
        yield f"{at}/{index}", step
        for name in STEPS[step["type"]].inner:
            yield from each(step.get(name, ()), f"{at}/{index}/{name}")


def alone(step: dict[str, Any]) -> dict[str, Any]:
    """The step without the steps that it holds."""
    inner = STEPS[step["type"]].inner
    return {name: [] if name in inner else value for name, value in step.items()} if inner else step


def problems(
    definition: dict[str, Any], parameters: dict[str, Any] | None, *, any_params: bool = False
) -> list[Problem]:
    """Everything that is wrong, at most a hundred things, each with its JSON pointer (RFC 6901).

    Pointers lead into the definition; those that start with `/parameters` lead into the parameters.
    """
    for document, at in ((definition, ""), (parameters, "/parameters")):
        if found := _excesses(document, at):
            return found
    found = _schema_and_defaults(parameters) if parameters else []
    found += [_problem("", definition, error) for error in _errors(Header, definition)]
    steps = definition.get("steps")
    if not isinstance(steps, list) or not steps:
        return [*found, Problem("/steps", "A workflow needs a list of steps, at least one")]
    count, schemas = _measure(steps)
    if count > MAX_STEPS:
        return [*found, Problem("/steps", f"{count:,} steps are too many; at most {MAX_STEPS:,}")]
    if schemas > MAX_SCHEMAS:
        return [
            *found,
            Problem("/steps", f"The schemas are too large; at most {MAX_SCHEMAS:,} values together"),
        ]
    known = None if any_params else set((parameters or {}).get("properties", {}))
    names = _Names(known, set(), frozenset())
    found += islice(_list_problems(steps, "/steps", names), MAX_PROBLEMS)
    return found[:MAX_PROBLEMS]


def safe(step: dict[str, Any] | Step) -> bool:
    """Whether the step may be repeated blindly: it reads, waits, or leads to the same state again."""
    kind = step.type if isinstance(step, Step) else _native(step)["type"]
    return KNOWN_STEPS[kind].repeatable


def brings_output(step: dict[str, Any]) -> bool:
    """Whether a step of a checked workflow has a name that later steps know its output by."""
    return step["type"] in OWN_STEPS and step.get("name") is not None


def named_outputs(steps: Iterable[dict[str, Any]]) -> Iterator[str]:
    """The names that the steps of a checked workflow may leave outputs under, when its loops are over."""
    for step in steps:
        if brings_output(step):
            yield step["name"]
        if step["type"] == "if":
            yield from named_outputs([*step.get("then", ()), *step.get("else", ())])


def named_secrets(steps: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The secrets that a checked workflow fills in, each with the pointer of its first step."""
    named: dict[str, str] = {}
    for at, step in each(steps):
        for name, _ in secret_fields(step):
            named.setdefault(name, at)
    return named


def secret_fields(step: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """The secrets that a step fills in, each as its name and field."""
    for key, _, text in _texts(alone(step), "", ""):
        yield from ((str(path[1]), str(path[2])) for path in paths(key, text) if path[0] == "secrets")


def typed(step: dict[str, Any]) -> Step:
    """A step whose placeholders are filled in, as its model; raises InvalidWorkflow."""
    try:
        return STEPS[step["type"]].model_validate(step)
    except ValidationError as error:
        raise InvalidWorkflow([_problem("", step, detail) for detail in error.errors()]) from None


def _schema_and_defaults(parameters: dict[str, Any]) -> list[Problem]:
    found = schema_problems(parameters, "/parameters")
    if not found and parameters.get("type", "object") != "object":
        found.append(Problem("/parameters/type", "The parameters of a workflow are an object"))
    return found


def _excesses(document: Any, at: str) -> list[Problem]:
    """Documents too large to look at more closely, and text that no database and no page takes."""
    found: list[Problem] = []
    waiting: list[tuple[str, Any, int]] = [(at, document, 0)]
    seen = 0
    while waiting and len(found) < MAX_PROBLEMS:
        pointer, value, depth = waiting.pop()
        seen += 1
        if seen > MAX_VALUES:
            return [Problem(at, f"The document is too large; at most {MAX_VALUES:,} values")]
        if depth > MAX_DEPTH:
            found.append(Problem(pointer, f"Nested too deep; at most {MAX_DEPTH} levels"))
        elif isinstance(value, dict):
            for key, item in value.items():
                found += _text_problems(key[:100] if len(key) <= MAX_TEXT else key, pointer)
                waiting.append((pointer + pointer_to(key[:100]), item, depth + 1))
        elif isinstance(value, list):
            waiting += [
                (f"{pointer}/{index}", item, depth + 1) for index, item in enumerate(value[: MAX_VALUES + 1])
            ]
        elif isinstance(value, str):
            found += _text_problems(value, pointer)
    return found


def _text_problems(text: str, pointer: str) -> Iterator[Problem]:
    if len(text) > MAX_TEXT:
        yield Problem(pointer, f"A text of {len(text):,} characters is too long; at most {MAX_TEXT:,}")
    elif "\0" in text or any("\ud800" <= char <= "\udfff" for char in text):
        yield Problem(pointer, "The text holds a NUL or half a character")


def _measure(steps: Any) -> tuple[int, int]:
    """How many steps there are, those inside of others too, and how many values in all their schemas."""
    count = schemas = 0
    waiting = [steps]
    while waiting:
        for step in waiting.pop():
            count += 1
            native = _native(step) if isinstance(step, dict) else {}
            schemas += count_values(native["schema"]) if "schema" in native else 0
            waiting += [native[name] for name in _inner(native) if isinstance(native.get(name), list)]
    return count, schemas


def _inner(step: dict[str, Any]) -> tuple[str, ...]:
    kind = step.get("type")
    return STEPS[kind].inner if isinstance(kind, str) and kind in STEPS else ()


@dataclass(slots=True)
class _Names:
    """What placeholders may name at one place of a workflow."""

    params: set[str] | None  # any, when there are none
    outputs: set[str]
    variables: frozenset[str]


def _list_problems(steps: list[Any], at: str, names: _Names) -> Iterator[Problem]:
    for index, step in enumerate(steps):
        yield from _step_problems(step, f"{at}/{index}", names)


def _inner_problems(step: dict[str, Any], at: str, names: _Names) -> Iterator[Problem]:
    """What is wrong with the steps that a step holds."""
    within = names
    if step["type"] == "forEach":
        given = step.get("as", "item")
        variables = {given, f"{given}_index"} if isinstance(given, str) else set()
        within = _Names(names.params, set(names.outputs), names.variables | variables)
        if step.get("steps") == []:
            yield Problem(f"{at}/steps", "A loop needs steps, at least one")
    for name in _inner(step):
        if isinstance(steps := step.get(name), list):
            yield from _list_problems(steps, f"{at}/{name}", within)


def _step_problems(step: Any, at: str, names: _Names) -> Iterator[Problem]:
    if not isinstance(step, dict) or not isinstance(step.get("type"), str):
        yield Problem(f"{at}/type" if isinstance(step, dict) else at, "A step is an object with a type")
        return
    native = _native(step)
    kind = native["type"]
    inside = at if kind == step["type"] else f"{at}/parameters"
    if kind not in STEPS:
        close = get_close_matches(kind, STEPS, 1)
        yield Problem(
            f"{at}/type",
            f"Unknown step type {kind[:50]!r}" + (f"; did you mean {close[0]!r}?" if close else ""),
        )
        return
    if len(native) > MAX_PARTS:
        yield Problem(inside, f"A step of {len(native):,} fields is too large; at most {MAX_PARTS:,}")
        return
    for error in _errors(STEPS[kind], native):
        filled_in = isinstance(error["input"], str) and is_whole(error["input"])
        if filled_in and error["loc"] not in NAMES and error["loc"][0] not in STEPS[kind].inner:
            continue  # only the run can tell what the placeholder brings
        yield _problem(at if {*error["loc"][:1]} & {*BASE_FIELDS} else inside, native, error)
    yield from _misspelt(STEPS[kind], native, inside)
    if isinstance(schema := native.get("schema"), dict) and kind in WITH_SCHEMA:
        yield from schema_problems(schema, f"{inside}/schema")
    yield from _placeholder_problems(alone(native), inside, names)
    yield from _inner_problems(native, inside, names)
    if kind in OWN_STEPS and isinstance(native.get("name"), str):
        names.outputs.add(native["name"])


def _errors(model: type[BaseModel], value: dict[str, Any]) -> list[ErrorDetails]:
    try:
        model.model_validate(value, strict=True)
    except ValidationError as error:
        if error.error_count() <= MAX_PARTS:
            return error.errors()
        # To build them all is one call that holds the whole process.
        told = f"More than {MAX_PARTS:,} things are wrong here"
        return [ErrorDetails(type="too_many", loc=(), msg=told, input=None)]
    return []


def _problem(at: str, value: dict[str, Any], error: ErrorDetails) -> Problem:
    return Problem(at + pointer_to(*_real(error["loc"], value)), error["msg"])


def _real(loc: tuple[int | str, ...], value: Any) -> Iterator[int | str]:
    """The location without what the model adds to it: names of union members and validators."""
    for index, part in enumerate(loc):
        listed = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if listed or (isinstance(value, dict) and part in value):
            value = value[part]
            yield part
        else:
            if isinstance(value, dict) and index == len(loc) - 1:  # left out, or filled in by its default
                yield to_camel(part) if isinstance(part, str) else part
            return


def _misspelt(model: type[Step], step: dict[str, Any], at: str) -> Iterator[Problem]:
    names = {field.alias or name for name, field in model.model_fields.items()}
    for key in step.keys() - names if model.model_config.get("extra") == "allow" else ():
        if close := get_close_matches(key, names, 1, 0.8):
            yield Problem(at + pointer_to(key), f"Unknown field; did you mean {close[0]!r}?")


def _placeholder_problems(step: dict[str, Any], at: str, names: _Names) -> Iterator[Problem]:
    for key, pointer, text in _texts(step, "", at):
        try:
            for path in paths(key, text, {*ROOTS, *names.variables}):
                if problem := _path_problem(
                    path, names, fillable=key == "value" and step["type"] == "change"
                ):
                    yield Problem(pointer, problem)
        except BadPlaceholder as error:
            yield Problem(pointer, str(error))


def _path_problem(path: tuple[str | int, ...], names: _Names, *, fillable: bool) -> str | None:
    """Why a placeholder cannot stand there, as far as can be known before the run."""
    placeholder = f"{{{{ {written(path)} }}}}"
    root = str(path[0])
    if root == "secrets":
        if not fillable:
            return f"{placeholder}: a secret can only be filled into a field, by the value of a change step"
        known = ", ".join(ALL_FIELDS)
        return None if path[2] in ALL_FIELDS else f"{placeholder}: a secret has only {known}"
    if root not in ROOTS:
        roots = ", ".join(sorted({*ROOTS, *names.variables}))
        return None if root in names.variables else f"{placeholder} has to start with one of {roots}"
    there = names.params if root == "params" else names.outputs
    if there is None or path[1] in there:
        return None
    listed = f"there are {', '.join(sorted(there)[:20])[:200]}" if there else "there are none"
    return f"{placeholder} is not known before this step; {listed}"


def _texts(value: Any, key: str, at: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(value, str):
        yield key, at, value
    elif isinstance(value, dict):
        for name, item in value.items():
            if name != "schema":
                yield from _texts(item, name, at + pointer_to(name))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(item, key, f"{at}/{index}")


# Exchange with DevTools ---------------------------------------------------------------------------

BASE_FIELDS = ("type", "timeout", "assertedEvents", "target", "frame")


def import_recorder(document: bytes | str | dict[str, Any]) -> dict[str, Any]:
    """The definition to store for a flow that DevTools exported as JSON; raises InvalidWorkflow.

    Our own steps, which travel as the Recorder's `customStep`, become themselves again; all else is kept.
    """
    try:
        flow = document if isinstance(document, dict) else orjson.loads(document)
    except orjson.JSONDecodeError:
        raise InvalidWorkflow([Problem("", "Not JSON; in DevTools choose Export, then JSON")]) from None
    if not isinstance(flow, dict) or not isinstance(flow.get("steps"), list):
        raise InvalidWorkflow([Problem("/steps", "Not a recording: it has no list of steps")])
    return flow | {"steps": [_native(step) for step in flow["steps"]]}


def export_recorder(definition: dict[str, Any]) -> dict[str, Any]:
    """The definition as DevTools opens it: our own steps become the Recorder's `customStep`."""
    return definition | {"steps": [_foreign(step) for step in definition["steps"]]}


def _native(step: Any) -> Any:
    match step:
        case {"type": "customStep", "name": str(name), "parameters": dict(parameters)} if name.startswith(
            OWN_PREFIX
        ):
            base = {key: step[key] for key in BASE_FIELDS[1:] if key in step}
            step = {"type": name.removeprefix(OWN_PREFIX), **base, **parameters}
    if isinstance(step, dict) and (inner := _inner(step)):
        held = {name: step[name] for name in inner if isinstance(step.get(name), list)}
        return step | {name: [_native(one) for one in steps] for name, steps in held.items()}
    return step


def _foreign(step: dict[str, Any]) -> dict[str, Any]:
    if step.get("type") not in OWN_STEPS:
        return step
    base = {key: step[key] for key in BASE_FIELDS[1:] if key in step}
    parameters = {key: value for key, value in step.items() if key not in BASE_FIELDS}
    return {"type": "customStep", **base, "name": OWN_PREFIX + step["type"], "parameters": parameters}


# On the wire --------------------------------------------------------------------------------------


async def parse_aside(
    definition: dict[str, Any], parameters: dict[str, Any] | None, *, any_params: bool = False
) -> Flow:
    """The same as `parse`, in a thread: a large workflow takes longer than others should wait."""
    return await asyncio.to_thread(parse, definition, parameters, any_params=any_params)


async def judge(body: WorkflowCheck) -> WorkflowVerdict:
    """What is wrong with a definition that nobody stores."""
    found = [
        WorkflowProblem(pointer=problem.pointer, message=problem.message)
        for problem in await asyncio.to_thread(problems, body.definition, body.parameters)
    ]
    return WorkflowVerdict(valid=not found, problems=found)


async def checked(body: WorkflowCreate) -> WorkflowCreate:
    """The same, once it has been found right; raises InvalidWorkflow."""
    await parse_aside(body.definition, body.parameters)
    return body


async def from_recording(body: WorkflowImport) -> WorkflowCreate:
    """A workflow from what DevTools exports, named after the recording; raises InvalidWorkflow."""
    definition = import_recorder(body.recording)
    flow = await parse_aside(definition, body.parameters)
    name = body.name or flow.title.strip()[:200] or "Recording"
    return WorkflowCreate(name=name, definition=definition, parameters=body.parameters)


def as_recording(workflow: Workflow) -> Response:
    """The workflow as a file that DevTools opens."""
    name = quote(f"{workflow.name}.json", safe="")
    headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{name}"}
    return JSONResponse(export_recorder(workflow.definition), headers=headers)


async def create(tx: db.Tx, body: WorkflowCreate) -> Response:
    """Store a checked workflow as its first version."""
    workflow_id = uuid7()
    response = await tx.create(Workflow, WorkflowDetail, body, id=workflow_id)
    await _keep_version(tx, workflow_id, 1, body.definition, body.parameters)
    return response


async def update(tx: db.Tx, workflow: Workflow, body: WorkflowUpdate) -> Response:
    """Set the fields sent; a definition or parameters, right as a whole, are a new version.

    Raises InvalidWorkflow.
    """
    if body.definition is None and body.parameters is None:
        return await tx.update(Workflow, WorkflowDetail, workflow.id, body)
    definition = workflow.definition if body.definition is None else body.definition
    parameters = workflow.parameters if body.parameters is None else body.parameters
    await parse_aside(definition, parameters)
    version = workflow.version + 1
    await _keep_version(tx, workflow.id, version, definition, parameters)
    return await tx.update(Workflow, WorkflowDetail, workflow.id, body, version=version)


async def restore(tx: db.Tx, workflow: Workflow, version: int) -> Response:
    """Save what a version was as the newest one. Raises NoResultFound."""
    kept = await tx.one(WorkflowVersion, workflow_id=workflow.id, version=version)
    body = WorkflowUpdate(definition=kept.definition, parameters=kept.parameters)
    return await update(tx, workflow, body)


def of_task(task: str, schema: dict[str, Any] | None) -> dict[str, Any]:
    """The definition of a run that has nothing but a task in words."""
    step = {"type": "agent", "task": literal(task), "name": "result"}
    title = " ".join(task.split())[:200] or "Task"
    return {"title": title, "steps": [step | ({"schema": schema} if schema is not None else {})]}


async def from_run(tx: db.Tx, run: Run, body: RunToWorkflow) -> Response:
    """Store a run's whole definition as a workflow, also the steps that it failed at or never came to.

    In place of an `agent` step stand the steps that do again what its model has done there: inside of a loop
    what it did when the run first came to it. One that the run never came to stays. Raises InvalidWorkflow.
    """
    definition = await _without_models(tx, run)
    parameters = _parameters_of(definition, run.params)
    name = body.name or run.title.strip()[:200] or "Run"
    made = WorkflowCreate(name=name, definition=definition, parameters=parameters)
    return await create(tx, await checked(made))


async def _without_models(tx: db.Tx, run: Run) -> dict[str, Any]:
    """The run's definition with what its models did in their place. Raises InvalidWorkflow."""
    done = await _done_by_models(tx, run)
    if not done:
        return run.definition
    if not any(done.values()):
        told = "The agent did nothing here that can be done again without it"
        raise InvalidWorkflow([Problem(at, told) for at in done])
    native = [_native(step) for step in run.definition["steps"]]
    known = {"params": run.params, "outputs": run.outputs}
    tasks = {at: _told(step["task"], known) for at, step in each(native) if step["type"] == "agent"}
    done = {at: [_retold(step, tasks[at]) for step in steps] for at, steps in done.items()}
    steps = [*_put_in(done, native, "/steps")]
    if all(step["type"] != "setViewport" for _, step in each(steps)):
        steps.insert(0, await _viewport(tx, run))
    return run.definition | {"steps": steps}


async def _done_by_models(tx: db.Tx, run: Run) -> dict[str, list[dict[str, Any]]]:
    """What was recorded when the run first came to each `agent` step, by its pointer."""
    done: dict[str, list[dict[str, Any]]] = {}
    for before in await tx.find(Run, id=run.retry_of) if run.retry_of and run.first_step > 1 else ():
        earlier = await _done_by_models(tx, before)
        done = {at: steps for at, steps in earlier.items() if int(at.split("/")[2]) + 1 < run.first_step}
    over = {*done}
    for row in await tx.find(StepRow, run_id=run.id):
        at = row.pointer.rpartition("/calls/")[0]
        if row.call is not None and at not in over:
            done[at] += row.recorded or []
        elif row.call is None and row.type == "agent":
            over |= {row.pointer} & {*done}
            done.setdefault(row.pointer, [])
    return done


def _put_in(
    done: dict[str, list[dict[str, Any]]], steps: list[dict[str, Any]], at: str
) -> Iterator[dict[str, Any]]:
    """The steps with what was done in their place; no address is opened twice in a row."""
    before: dict[str, Any] = {}
    for index, whole in enumerate(steps):
        pointer = f"{at}/{index}"
        inner = {
            name: [*_put_in(done, whole[name], f"{pointer}/{name}")]
            for name in _inner(whole)
            if name in whole
        }
        for step in done.get(pointer, [whole | inner]):
            if step["type"] != "navigate" or step != before:
                yield step
            before = step


def _told(task: str, known: dict[str, Any]) -> dict[str, str]:
    """The placeholders of a task by what they stood for, where that is a text or a number."""
    told: dict[str, str] = {}
    for path in paths("task", task):
        placeholder = f"{{{{ {written(path)} }}}}"
        try:
            value = fill(placeholder, known)
        except PlaceholderMissing:  # of a round of a loop, which is over
            continue
        if isinstance(value, str | int | float) and not isinstance(value, bool) and value != "":
            told.setdefault(literal(str(value)), placeholder)
    return told


def _retold(step: dict[str, Any], told: dict[str, str]) -> dict[str, Any]:
    """A recorded step that gives a field, or opens, what its task was told, by its placeholder."""
    if step["type"] == "change":
        return step | {"value": told.get(step["value"], step["value"])}
    if step["type"] == "navigate":
        for value, placeholder in told.items():
            if value.startswith(("http://", "https://")) and step["url"].startswith(value):
                return step | {"url": placeholder + step["url"].removeprefix(value)}
    return step


async def _viewport(tx: db.Tx, run: Run) -> dict[str, Any]:
    """The step that gives the page the size that the run's computer had."""
    found = await tx.find(Computer, id=run.computer_id) if run.computer_id else []
    size = ComputerSettings.model_validate(found[0].settings if found else {}).viewport
    flags = {"deviceScaleFactor": 1, "isMobile": False, "hasTouch": False, "isLandscape": False}
    return {"type": "setViewport", "width": size.width, "height": size.height, **flags}


def _parameters_of(definition: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    """The run's params as defaults; what its steps name beside them has to be given."""
    properties: dict[str, Any] = {
        name: {"default": value} | ({"type": kind} if (kind := _json_type(value)) else {})
        for name, value in params.items()
    }
    named = {
        str(path[1])
        for _, step in each([_native(step) for step in definition["steps"]])
        for key, _, text in _texts(alone(step), "", "")
        for path in paths(key, text)
        if path[0] == "params"
    }
    missing = sorted(named - properties.keys())
    if not (properties or missing):
        return {}
    properties |= {name: {} for name in missing}
    return {"type": "object", "properties": properties} | ({"required": missing} if missing else {})


def _json_type(value: object) -> str | None:
    """The JSON Schema type of a value; null says nothing about what else may stand there."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array", dict: "object"}
    return kinds.get(type(value))


async def _keep_version(
    tx: db.Tx, workflow_id: UUID, version: int, definition: dict[str, Any], parameters: dict[str, Any]
) -> None:
    await tx.add(
        WorkflowVersion,
        workflow_id=workflow_id,
        version=version,
        definition=definition,
        parameters=parameters,
        actor=tx.actor,
    )
