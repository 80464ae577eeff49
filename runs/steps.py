"""The steps of the workflow language, those of the Recorder and our own, each a model of its fields."""

import re
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from browser.selectors import selector_problem
from runs.placeholders import ROOTS, is_whole, masked

MAX_SCREEN = 2**26  # pixels of the device
MAX_DEPTH = 32  # of a definition, and of frames inside of frames
MAX_PARTS = 1_000  # of one step: fields, attributes, asserted events, and things that are wrong with it
MAX_ROUNDS = 10_000  # of one loop
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


# What fields hold -----------------------------------------------------------------------------------


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


def _budgeted(value: object) -> object:
    if value is not None:
        raise PydanticCustomError("budgeted", "An agent has no timeout: the run's budget bounds it")
    return value


def _exactly_one(step: BaseModel, *names: str) -> None:
    given = step.model_fields_set & {*names}
    if len([name for name in given if name == "value" or getattr(step, name) is not None]) != 1:
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
    opens: ClassVar[bool] = False  # brings nothing itself: what follows inside of it does
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


class DragEnd(BaseModel):
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
    to: DragEnd | None = None
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
    repeatable = opens = True
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
    repeatable = opens = True
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


class Call(Step):
    """What a model wants done inside of an `agent` step; nobody writes it, and only the run knows it."""


class Agent(Step):
    """Lets a model reach a goal in the browser; `outputs.<name>` is its result, which has to fit `schema`."""

    model_config = ConfigDict(extra="forbid")
    repeatable = opens = True
    asserted_events: list[AssertedEvent] = Field([], max_length=0)
    timeout: Annotated[None, BeforeValidator(_budgeted)] = None
    task: str = Field(min_length=1, max_length=20_000)
    name: OutputName | None = None
    json_schema: dict[str, Any] | None = Field(None, alias="schema")


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
    "agent": Agent,
}
STEPS = RECORDER_STEPS | OWN_STEPS
CALL = "call"
KNOWN_STEPS = STEPS | {CALL: Call}
