"""The workflow language: a Chrome DevTools Recorder user flow plus our own steps, checked and filled in."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import islice
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import quote
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError
from starlette.responses import JSONResponse, Response

import db
from browser.selectors import selector_problem
from models import Run, Workflow, WorkflowVersion, uuid7
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
    masked,
    paths,
    written,
)
from runs.secrets import ALL_FIELDS
from schemas import (
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

MAX_SCREEN = 2**26  # pixels of the device
MAX_STEPS, MAX_DEPTH, MAX_TEXT, MAX_VALUES, MAX_PROBLEMS = 1_000, 32, 100_000, 200_000, 100
MAX_PARTS = 1_000  # of one step: fields, attributes, asserted events, and things that are wrong with it
MAX_ROUNDS = 10_000  # of one loop
MAX_SCHEMAS = 10_000  # values in the schemas of all steps together
OWN_PREFIX = "cua."
DAY = 86_400_000  # milliseconds

NAMED_KEY = re.compile(
    r"""Abort|Accept|Alt(Graph|Left|Right)?|Arrow(Down|Left|Right|Up)|Attn|AudioVolume(Down|Mute|Up)|Backquote
    |Backslash|Backspace|Bracket(Left|Right)|Call|Camera|Cancel|CapsLock|Clear|Comma|ContextMenu
    |Control(Left|Right)?|Convert|CrSel|Delete|Digit[0-9]|Eject|End|EndCall|Enter|Equal|EraseEof|Escape|ExSel
    |Execute|F([1-9]|1[0-9]|2[0-4])|Help|Home|Insert|Key[A-Z]|Media(PlayPause|Stop|TrackNext|TrackPrevious)
    |Meta(Left|Right)?|Minus|ModeChange|NonConvert|NumLock
    |Numpad([0-9]|Add|Decimal|Divide|Enter|Equal|Multiply|Subtract)|Open|Page(Down|Up)|Pause|Period|Play|Power
    |Print|PrintScreen|Props|Quote|ScrollLock|Select|Semicolon|Shift(Left|Right)?|Slash|Soft(Left|Right)|Space
    |Tab|Volume(Down|Up)|ZoomOut
    # names of https://www.w3.org/TR/uievents-key/ that no reference keyboard has, and a recording may hold
    |Again|AllCandidates|Alphanumeric|Brightness(Down|Up)
    |Browser(Back|Favorites|Forward|Home|Refresh|Search|Stop)|Close|CodeInput|Compose|Copy|Cut|Dead|Eisu
    |FinalMode|Find|Fn(Lock)?|Group(First|Last|Next|Previous)|Ha(njaMode|ngulMode|nkaku)|Hibernate
    |Hiragana(Katakana)?|Hyper|JunjaMode|Ka(naMode|njiMode|takana)|Launch[A-Z][A-Za-z]*[0-9]?
    |Media(Close|FastForward|Pause|Play|Record|Rewind)|(Next|Previous|Single)Candidate|New|Paste|PowerOff
    |Process|Redo|Romaji|Save|Standby|Super|Symbol(Lock)?|Undo|Unidentified|WakeUp|Zenkaku(Hankaku)?""",
    re.VERBOSE,
)
NEW_TAB = re.compile(r"(?:chrome|edge|brave)://(?:newtab|new-tab-page)/?|chrome-search://local-ntp/.*")


class InvalidWorkflow(Invalid):
    """The definition or its parameters cannot be used; pointers lead into the definition or `/parameters`."""


# Steps --------------------------------------------------------------------------------------------


def _selector(value: object) -> object:
    """One alternative as its list of parts, each part checked for what can be known without a page."""
    parts = [value] if isinstance(value, str) else value
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        raise PydanticCustomError("selector", "A selector is a text or a list of texts")
    for part in parts:
        if (problem := selector_problem(masked(part))) is not None:
            raise PydanticCustomError("selector", "{problem}", {"problem": problem})
    return parts


def _key(value: str) -> str:
    if len(value) != 1 and not NAMED_KEY.fullmatch(value) and not is_whole(value):
        raise PydanticCustomError(
            "key", "Unknown key; use a single character or a name such as Enter or KeyA"
        )
    return value


def _truth(value: object) -> object:
    return str(value).lower() if isinstance(value, bool) else value


def _web(url: str) -> str:
    if NEW_TAB.fullmatch(url):  # where a recording begins that was started on an empty tab
        return "about:blank"
    if not url.startswith(("http://", "https://", "{{")) and url != "about:blank":
        raise PydanticCustomError("url", "Only http:// and https:// addresses can be opened")
    return url


def _endless(value: object) -> object:
    if value is not None:
        raise PydanticCustomError("endless", "A pause has no timeout: it ends when its user resumes the run")
    return value


def _timeless(value: object) -> object:
    if value is not None:
        raise PydanticCustomError("timeless", "A loop has no timeout: its steps have their own")
    return value


def _exactly_one(step: BaseModel, *names: str) -> None:
    if len(step.model_fields_set & {*names}) != 1:
        raise PydanticCustomError("either", "Give exactly one of {names}", {"names": ", ".join(names)})


def _variable(name: str) -> str:
    if name in ROOTS:
        raise PydanticCustomError("variable", "{name} has a meaning already", {"name": name})
    return name


Selector = Annotated[list[str], BeforeValidator(_selector), Field(max_length=20)]
Selectors = Annotated[list[Selector], Field(min_length=1, max_length=50)]
Milliseconds = Annotated[float, Field(ge=1, le=600_000)]
Pixels = Annotated[float, Field(ge=-1_000_000, le=1_000_000)]
OutputName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,63}$")]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$"), AfterValidator(_variable)]


class AssertedEvent(BaseModel):
    """A navigation that the step must cause; `url` and `title` bind only where they hold a `*`."""

    model_config = ConfigDict(extra="allow")
    type: Literal["navigation"]
    url: str | None = None
    title: str | None = None


class Step(BaseModel):
    """What every step has. A subclass listed in `STEPS` is all the language needs for a new step type."""

    model_config = ConfigDict(alias_generator=to_camel, extra="allow", coerce_numbers_to_str=True)
    repeatable: ClassVar[bool] = False
    inner: ClassVar[tuple[str, ...]] = ()  # fields that hold further steps
    type: str
    timeout: Milliseconds | None = None
    asserted_events: list[AssertedEvent] = Field([], max_length=MAX_PARTS)


class TargetStep(Step):
    """A step on a page: `main`, or the URL of another tab, popup or out-of-process frame."""

    target: str | None = None


class FrameStep(TargetStep):
    """A step in a frame, given as the path of child frame indexes from the page's main frame."""

    frame: list[Annotated[int, Field(ge=0, le=1_000)]] = Field([], max_length=MAX_DEPTH)


class ElementStep(FrameStep):
    """A step on an element, given as alternative selectors of which the first that fits is used."""

    selectors: Selectors


class Click(ElementStep):
    """`offset_x` and `offset_y` in CSS pixels from the element's top left, default its centre."""

    offset_x: Pixels | None = None
    offset_y: Pixels | None = None
    button: Literal["primary", "auxiliary", "secondary", "back", "forward"] = "primary"
    device_type: Literal["mouse", "pen", "touch"] = "mouse"
    duration: float = Field(0, ge=0, le=600_000, description="Milliseconds between press and release.")


class DoubleClick(Click):
    """Two clicks of one button that the page sees as a double click."""


class Hover(ElementStep):
    """Moves the pointer over the element."""

    repeatable = True


class Change(ElementStep):
    """Gives a form control its value, as a person would; `true` and `false` set check boxes."""

    repeatable = True
    value: Annotated[str, BeforeValidator(_truth)]


class KeyDown(TargetStep):
    """Presses a key and holds it."""

    key: Annotated[str, BeforeValidator(lambda value: _key(value) if isinstance(value, str) else value)]


class KeyUp(KeyDown):
    """Releases a key."""


class Scroll(FrameStep):
    """Scrolls the page, or the element when there are selectors, to absolute `x`, `y` in CSS pixels."""

    repeatable = True
    selectors: Selectors | None = None
    x: Pixels = 0
    y: Pixels = 0


class SetViewport(TargetStep):
    """Size in CSS pixels and the device that the page sees."""

    repeatable = True
    width: int = Field(ge=1, le=10_000)
    height: int = Field(ge=1, le=10_000)
    device_scale_factor: float = Field(1, ge=0, le=10, validate_default=True)
    is_mobile: bool = False
    has_touch: bool = False
    is_landscape: bool = False

    @field_validator("device_scale_factor")
    @classmethod
    def _drawable(cls, factor: float, info: ValidationInfo) -> float:
        if info.data.get("width", 0) * info.data.get("height", 0) * (factor or 1) ** 2 > MAX_SCREEN:
            raise PydanticCustomError("screen", "A screen has at most {most} pixels", {"most": MAX_SCREEN})
        return factor


class EmulateNetworkConditions(TargetStep):
    """Throughput in bytes per second (-1: unlimited) and added latency in milliseconds."""

    repeatable = True
    download: float = Field(ge=-1)
    upload: float = Field(ge=-1)
    latency: float = Field(ge=0, le=600_000)


class Navigate(TargetStep):
    """Opens a web address."""

    repeatable = True
    url: Annotated[str, AfterValidator(_web)]


class WaitForElement(ElementStep):
    """Waits until as many elements as asked match; `visible: false` turns that around."""

    repeatable = True
    operator: Literal[">=", "==", "<="] = ">="
    count: int = Field(1, ge=0, le=1_000_000)
    visible: bool | None = None
    properties: dict[str, Any] = {}
    attributes: dict[str, str] = Field({}, max_length=MAX_PARTS)


class WaitForExpression(FrameStep):
    """Waits until a JavaScript expression, evaluated in the page, is or resolves to something truthy."""

    repeatable = True
    expression: str = Field(min_length=1)


class Close(TargetStep):
    """Closes the tab."""


class CustomStep(FrameStep):
    """A step of somebody else's extension: kept, and passed over in replay as the Recorder does."""

    name: str
    parameters: Any = None


class Value(BaseModel):
    """What `extract` reads: an element's text or attribute, or an object of further values in `fields`."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    selectors: Selectors | None = None
    attribute: str | None = Field(None, min_length=1)
    type: Literal["text", "number", "boolean", "html", "url"] = "text"
    many: bool = False
    fields: dict[str, "Value"] | None = Field(None, min_length=1)


class Extract(FrameStep):
    """Reads an object, or with `many` a list, into `outputs.<name>`, which has to fit `schema`."""

    model_config = ConfigDict(extra="forbid")
    repeatable = True
    name: OutputName
    selectors: Selectors | None = None
    many: bool = False
    optional: bool = False
    fields: dict[str, Value] = Field(min_length=1, max_length=MAX_PARTS)
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


class Screenshot(FrameStep):
    """Saves a picture of the page, or of one element, and puts its id into `outputs.<name>`."""

    model_config = ConfigDict(extra="forbid")
    repeatable = True
    name: OutputName
    selectors: Selectors | None = None
    full_page: bool = False


class Place(BaseModel):
    """Where a drag ends: an element, and a point in it from its top left, default its centre."""

    model_config = ConfigDict(alias_generator=to_camel, extra="forbid")
    selectors: Selectors
    offset_x: Pixels | None = None
    offset_y: Pixels | None = None


class Drag(ElementStep):
    """Presses on one element and releases on another, `to`, or as far away as `by` says in CSS pixels."""

    model_config = ConfigDict(extra="forbid")
    offset_x: Pixels | None = None
    offset_y: Pixels | None = None
    to: Place | None = None
    by: dict[Literal["x", "y"], Pixels] | None = None

    @model_validator(mode="after")
    def _one_end(self) -> "Drag":
        _exactly_one(self, "to", "by")
        return self


class Upload(ElementStep):
    """Chooses files, by their ids, in a file field or in the chooser that the element opens."""

    model_config = ConfigDict(extra="forbid")
    files: list[Annotated[str, Field(min_length=1, max_length=200)]] = Field(min_length=1, max_length=20)


class Download(FrameStep):
    """Waits for the file that a click on the element, an address or an earlier step brings."""

    model_config = ConfigDict(extra="forbid")
    name: OutputName
    selectors: Selectors | None = None
    url: Annotated[str, AfterValidator(_web)] | None = None

    @model_validator(mode="after")
    def _one_start(self) -> "Download":
        if self.selectors is not None and self.url is not None:
            raise PydanticCustomError("either", "Give selectors or url, not both")
        return self


class If(FrameStep):
    """Does the steps of `then` where a condition holds, else those of `else`.

    The condition: an element is visible, an expression is truthy, or `value` compares with `than`; it may
    take `timeout` milliseconds to come true.
    """

    model_config = ConfigDict(extra="forbid")
    repeatable = True
    inner = ("then", "else")
    asserted_events: list[AssertedEvent] = Field([], max_length=0)
    selectors: Selectors | None = None
    expression: str | None = Field(None, min_length=1)
    value: Any = None
    operator: Literal["==", "!=", ">", ">=", "<", "<=", "contains"] | None = None
    than: Any = None
    then: list[Any] = []
    otherwise: list[Any] = Field([], alias="else")

    @model_validator(mode="after")
    def _one_condition(self) -> "If":
        _exactly_one(self, "selectors", "expression", "value")
        if ("operator" in self.model_fields_set) != ("than" in self.model_fields_set):
            raise PydanticCustomError("operator", "`operator` and `than` belong together")
        if self.operator is not None and "value" not in self.model_fields_set:
            raise PydanticCustomError("operator", "Only a `value` is compared")
        return self


class ForEach(Step):
    """Does its steps for each of the `items`, which they know as `{{ item }}` or by the name in `as`.

    What they bring is seen until the round ends; with a `name` it is collected, an object for each round.
    """

    model_config = ConfigDict(extra="forbid")
    repeatable = True
    inner = ("steps",)
    asserted_events: list[AssertedEvent] = Field([], max_length=0)
    timeout: Annotated[None, BeforeValidator(_timeless)] = None
    items: list[Any] = Field(max_length=MAX_ROUNDS)
    variable: VariableName = Field("item", alias="as")
    name: OutputName | None = None
    steps: list[Any]


class WaitingStep(Step):
    """A step that waits for a person, who is told its title."""

    model_config = ConfigDict(extra="forbid")
    repeatable = True
    asserted_events: list[AssertedEvent] = Field([], max_length=0)
    title: str = Field(min_length=1, max_length=500)


class Approve(WaitingStep):
    """Goes on when a person says yes; a no, or `timeout` milliseconds without a word, fails the run.

    `outputs.<name>` is the answer: its `note`, and the `arguments` as the person left or changed them, which
    have to fit `schema`.
    """

    timeout: Annotated[float, Field(ge=1_000, le=30 * DAY)] | None = DAY
    name: OutputName | None = None
    arguments: dict[str, Any] | None = Field(None, max_length=MAX_PARTS)
    json_schema: dict[str, Any] | None = Field(None, alias="schema")

    @model_validator(mode="after")
    def _together(self) -> "Approve":
        if self.arguments is None and self.json_schema is not None:
            raise PydanticCustomError("arguments", "Without `arguments` there is nothing to check")
        return self


class Pause(WaitingStep):
    """Goes on when a person resumes the run."""

    timeout: Annotated[None, BeforeValidator(_endless)] = None


RECORDER_STEPS: dict[str, type[Step]] = {
    "navigate": Navigate,
    "click": Click,
    "doubleClick": DoubleClick,
    "hover": Hover,
    "change": Change,
    "keyDown": KeyDown,
    "keyUp": KeyUp,
    "scroll": Scroll,
    "setViewport": SetViewport,
    "emulateNetworkConditions": EmulateNetworkConditions,
    "waitForElement": WaitForElement,
    "waitForExpression": WaitForExpression,
    "close": Close,
    "customStep": CustomStep,
}
OWN_STEPS: dict[str, type[Step]] = {
    "extract": Extract,
    "screenshot": Screenshot,
    "drag": Drag,
    "upload": Upload,
    "download": Download,
    "if": If,
    "forEach": ForEach,
    "approve": Approve,
    "pause": Pause,
}
STEPS = RECORDER_STEPS | OWN_STEPS
NAMES = (("name",), ("as",))
WITH_SCHEMA = ("extract", "approve")


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


def parse(definition: dict[str, Any], parameters: dict[str, Any] | None) -> Flow:
    """The workflow ready to run; raises InvalidWorkflow with every problem."""
    if found := problems(definition, parameters):
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


def problems(definition: dict[str, Any], parameters: dict[str, Any] | None) -> list[Problem]:
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
    names = _Names(set((parameters or {}).get("properties", {})), set(), frozenset())
    found += islice(_list_problems(steps, "/steps", names), MAX_PROBLEMS)
    return found[:MAX_PROBLEMS]


def safe(step: dict[str, Any] | Step) -> bool:
    """Whether the step may be repeated blindly: it reads, waits, or leads to the same state again."""
    kind = step.type if isinstance(step, Step) else _native(step)["type"]
    return STEPS[kind].repeatable


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

    params: set[str]
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
    for error in _errors(STEPS[kind], native):
        filled_in = isinstance(error["input"], str) and is_whole(error["input"])
        if filled_in and error["loc"] not in NAMES:
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
    if path[1] in there:
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


async def parse_aside(definition: dict[str, Any], parameters: dict[str, Any] | None) -> Flow:
    """The same as `parse`, in a thread: a large workflow takes longer than others should wait."""
    return await asyncio.to_thread(parse, definition, parameters)


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


async def from_run(tx: db.Tx, run: Run, body: RunToWorkflow) -> Response:
    """Store a run's whole definition as a workflow, also the steps that it failed at or never came to."""
    parameters = _parameters_of(run)
    name = body.name or run.title.strip()[:200] or "Run"
    made = WorkflowCreate(name=name, definition=run.definition, parameters=parameters)
    return await create(tx, await checked(made))


def _parameters_of(run: Run) -> dict[str, Any]:
    """The run's params as defaults; what its steps name beside them has to be given."""
    properties: dict[str, Any] = {
        name: {"default": value} | ({"type": kind} if (kind := _json_type(value)) else {})
        for name, value in run.params.items()
    }
    named = {
        str(path[1])
        for _, step in each([_native(step) for step in run.definition["steps"]])
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
