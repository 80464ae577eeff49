"""The way of one run through its flow: which step comes next, told what the steps before it brought."""

from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from runs.steps import CALL, KNOWN_STEPS
from runs.workflows import alone, brings_output

MAX_STEPS = 10_000  # of one run, all rounds of its loops counted


class TooManySteps(Exception):
    """The loops of the flow go on for longer than a run may."""


@dataclass(frozen=True, slots=True)
class Finished:
    """The outcome of the call by which a model says that it is done, with what it brought."""

    result: Any


@dataclass(frozen=True, slots=True)
class Place:
    """A step at its turn; `number` counts up in the order of the run and `top` names its outermost step.

    `step` is without the steps that it holds, which have places of their own; `scope` is what its
    placeholders know, but for secrets. `agent` is the number of the step whose model calls there.
    """

    number: int
    pointer: str
    top: int
    step: dict[str, Any]
    scope: Mapping[str, Any]
    agent: int = 0

    @property
    def decides(self) -> bool:
        """Whether it only decides which steps come next."""
        return KNOWN_STEPS[self.step["type"]].opens

    @property
    def is_call(self) -> bool:
        """Whether a model says what is to be done there."""
        return bool(self.step["type"] == CALL)

    @property
    def unknown_inside(self) -> bool:
        """Whether it stands for steps inside of it that nobody knows to have been done or not."""
        return any(self.step.get(name) for name in KNOWN_STEPS[self.step["type"]].inner)


class Walk:
    """Goes from step to step; the same outcomes lead the same way, so that another worker finds its place.

    `outputs` is what a step after this place may name; `kept` is that without what ends with a loop's round.
    """

    def __init__(
        self,
        steps: Iterable[dict[str, Any]],
        params: Mapping[str, Any],
        outputs: Mapping[str, Any],
        first: int,
    ) -> None:
        """Begin at the outermost step `first`, counted from 1, with what those before it have brought."""
        self.outputs = dict(outputs)
        self.kept = dict(outputs)
        self._params = params
        self._number = first - 1
        self._rounds: list[dict[str, Any]] = []  # what each round under way has brought, outermost first
        self._steps = list(steps)
        self._way = self._outermost(first)
        self.place: Place | None = next(self._way, None)

    def go_on(self, output: Any, *, brought: bool = True) -> None:
        """Go to the next step; `output` is what the step at this place has brought, if it has.

        An `if` brings `{"met": bool}`, a `forEach` the list of its items, and the last call of an `agent`
        what it `Finished` with. Raises TooManySteps.
        """
        if (place := self.place) is None:
            raise RuntimeError("the walk is over")
        if brought and brings_output(place.step) and not place.decides:
            self._bring(place.step["name"], output)
        try:
            self.place = self._way.send(output)
        except StopIteration:
            self.place = None

    def retrace(self, outcomes: Iterable[tuple[Any, bool]]) -> Iterator[Place]:
        """The places of steps that are done, told the outcomes `(output, brought)` of each."""
        for output, brought in outcomes:
            if (place := self.place) is not None:
                yield place
                self.go_on(output, brought=brought)

    def _bring(self, name: str, output: Any) -> None:
        self.outputs = self.outputs | {name: output}
        if self._rounds:
            self._rounds[-1][name] = output
        else:
            self.kept = self.outputs

    def _outermost(self, first: int) -> Generator[Place, Any, None]:
        for index in range(first - 1, len(self._steps)):
            yield from self._do(self._steps[index], f"/steps/{index}", index + 1, {})

    def _all(
        self, steps: Iterable[dict[str, Any]], at: str, top: int, variables: Mapping[str, Any]
    ) -> Generator[Place, Any, None]:
        for index, step in enumerate(steps):
            yield from self._do(step, f"{at}/{index}", top, variables)

    def _do(
        self, step: dict[str, Any], pointer: str, top: int, variables: Mapping[str, Any]
    ) -> Generator[Place, Any, None]:
        self._count(top)
        scope = {"params": self._params, "outputs": self.outputs, **variables}
        outcome = yield Place(self._number, pointer, top, alone(step), scope)
        if step["type"] == "if":
            way = "then" if outcome and outcome["met"] else "else"
            yield from self._all(step.get(way, ()), f"{pointer}/{way}", top, variables)
        elif step["type"] == "forEach":
            yield from self._loop(step, outcome or [], pointer, top, variables)
        elif step["type"] == "agent":
            yield from self._calls(step, pointer, top, scope)

    def _count(self, top: int) -> None:
        self._number += 1
        if self._number - top > MAX_STEPS:
            raise TooManySteps(f"A run takes at most {MAX_STEPS:,} steps")

    def _calls(
        self, step: dict[str, Any], pointer: str, top: int, scope: Mapping[str, Any]
    ) -> Generator[Place, Any, None]:
        """One place after the other, as many as it takes until the model has finished."""
        outcome, made, agent = None, 0, self._number
        while not isinstance(outcome, Finished):
            self._count(top)
            place = Place(self._number, f"{pointer}/calls/{made}", top, {"type": CALL}, scope, agent)
            outcome = yield place
            made += 1
        if brings_output(step):
            self._bring(step["name"], outcome.result)

    def _loop(
        self, step: dict[str, Any], items: list[Any], pointer: str, top: int, variables: Mapping[str, Any]
    ) -> Generator[Place, Any, None]:
        name, before, collected = step.get("as", "item"), self.outputs, []
        for index, item in enumerate(items):
            self._rounds.append({})
            known = {**variables, name: item, f"{name}_index": index}
            yield from self._all(step["steps"], f"{pointer}/steps", top, known)
            collected.append(self._rounds.pop())
            self.outputs = before
        if brings_output(step):
            self._bring(step["name"], collected)
