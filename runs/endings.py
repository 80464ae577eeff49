"""How what a run does is broken off, and how it ends."""

from typing import Any, Literal

from runs.computers import clean


class Fenced(Exception):
    """The run belongs to another worker now."""


class Interrupted(Exception):
    """A wish came while something was under way."""


class Cancelled(Exception):
    """The run's user wants it to end."""


class Leaving(Exception):
    """This worker lets the run go: `handed_over` to another one, or `parked` because it has waited long."""

    def __init__(self, how: Literal["handed_over", "parked"]) -> None:
        super().__init__(how)
        self.how = how


class Failed(Exception):
    """The run cannot go on; `error` is what it shows."""

    def __init__(self, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.error: dict[str, Any] = clean({"code": code, "detail": detail, **more})
