"""Where a run stands in its flow: what is done, what comes next, and what came since its page opened."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from models import Run, Step, StepStatus
from runs.walk import Finished, Place, Walk
from runs.workflows import Flow, each, safe

ENVIRONMENT = ("setViewport", "emulateNetworkConditions")
DONE = (StepStatus.succeeded, StepStatus.may_have_landed)
FINISH = "finish"  # the tool by which a model ends its step


def is_done(step: Step) -> bool:
    """Whether the run is past it; a model goes on behind what has failed."""
    return step.status in DONE or (step.call is not None and step.status == StepStatus.failed)


class Trail:
    """The walk of one run, gone once more by each worker that takes it over.

    A run that retries another begins behind the steps that the other one has done.
    """

    def __init__(
        self, flow: Flow, run: Run, steps: list[Step], done: int, before: tuple[Run, list[Step]] | None
    ) -> None:
        """`steps` are the run's own, those up to the number `done` are; `before` is what it retries."""
        self._run, self._first = run, run.first_step
        self._walk = Walk(flow.steps, run.params, run.outputs if self._first > 1 else {}, self._first)
        self._trodden = [*self._way_before(flow, before)]
        self._ahead = len(self._trodden)
        self._trodden += self._walk.retrace(_outcomes(steps, done))
        self._landed = 0

    @property
    def place(self) -> Place | None:
        """The step whose turn it is; None at the end."""
        return self._walk.place

    @property
    def scope(self) -> Mapping[str, Any]:
        """What placeholders know now, but for secrets."""
        if (place := self._walk.place) is not None:
            return place.scope
        return {"params": self._run.params, "outputs": self._walk.outputs}

    @property
    def outputs(self) -> dict[str, Any]:
        """What the run has brought, without what ends with a loop's round."""
        return self._walk.kept

    @property
    def anything_done(self) -> bool:
        """Whether there is anything that a page may have to be brought back to."""
        return bool(self._trodden)

    def go_on(self, output: Any) -> None:
        """The step whose turn it is, is done and has brought this. Raises TooManySteps."""
        if (place := self._walk.place) is None:
            raise RuntimeError("there are more steps than the flow has")
        self._trodden.append(place)
        self._walk.go_on(output)

    # The page -----------------------------------------------------------------------------------

    def land(self) -> None:
        """Its page has been opened: what is done by now need not be done again there."""
        before, self._landed = self._landed, len(self._trodden)
        for at in range(before, self._landed):
            place = self._trodden[at]
            if place.step["type"] not in ENVIRONMENT:  # which is all that is done again behind a landing
                self._trodden[at] = replace(place, scope={})

    @property
    def until_landing(self) -> list[Place]:
        """What was done before the page was opened."""
        return self._trodden[: self._landed]

    @property
    def since_landing(self) -> list[Place]:
        """What was done in the page."""
        return self._trodden[self._landed :]

    def landing(self) -> dict[str, Any]:
        """When the page was opened, for a checkpoint: a number of this run, or how far another one was."""
        own = self._landed - self._ahead
        step = self._trodden[self._landed - 1].top if self._landed else 0
        where = {"landed_at": own + self._first - 1} if own > 0 else {"landed_ahead": self._landed}
        return where | {"landed_step": step}

    def land_as(self, checkpoint: Mapping[str, Any]) -> None:
        """The page is that of the checkpoint, perhaps one of the run before."""
        ahead = sum(place.top <= checkpoint.get("landed_step", 0) for place in self._trodden[: self._ahead])
        self._landed = min(int(checkpoint.get("landed_ahead", ahead)), self._ahead)  # it may be gone
        if "landed_at" in checkpoint:
            self._landed = self._ahead + int(checkpoint["landed_at"]) - self._first + 1

    def _way_before(self, flow: Flow, before: tuple[Run, list[Step]] | None) -> Iterator[Place]:
        """What was done before the run's first step; as far as nobody knows, the flow's steps in a row."""
        begun = min(before[0].first_step, self._first) if before else self._first
        for top, step in enumerate(flow.steps[: begun - 1], 1):
            yield Place(top, f"/steps/{top - 1}", top, step, self.scope)
        if before is not None and begun < self._first:
            run, steps = before
            walk = Walk(flow.steps, run.params, run.outputs if begun > 1 else {}, begun)
            done = max((step.number for step in steps if is_done(step)), default=0)
            yield from (place for place in walk.retrace(_outcomes(steps, done)) if place.top < self._first)


def landed_earlier(checkpoint: dict[str, Any], flow: Flow, done: int) -> dict[str, Any] | None:
    """The checkpoint as one of a run that begins behind the first `done` steps; None where none is better.

    One of a later page keeps only its sign-ins.
    """
    state = {name: value for name, value in checkpoint.items() if name not in ("landed_at", "landed_ahead")}
    if state["landed_step"] <= done:
        return state | ({"landed_ahead": checkpoint["landed_at"]} if "landed_at" in checkpoint else {})
    steps = flow.steps[:done]
    if all(safe(step) for _, step in each(steps)):
        return None
    opened = [number for number, step in enumerate(steps) if step["type"] == "navigate"]
    return state | {"tabs": [], "landed_step": opened[-1] if opened else 0}


def _outcomes(steps: list[Step], done: int) -> Iterator[tuple[Any, bool]]:
    """What each step has brought, and whether it has."""
    return ((_outcome(step), step.status == StepStatus.succeeded) for step in steps if step.number <= done)


def _outcome(step: Step) -> Any:
    finished = step.call and step.call["tool"] == FINISH and step.status == StepStatus.succeeded
    return Finished((step.output or {}).get("result")) if finished else step.output
