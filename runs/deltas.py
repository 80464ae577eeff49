"""What a model says, while it says it: on the bus for whoever watches, kept nowhere."""

import asyncio

from infra.redaction import Redactor
from models import Run
from runs.computers import bus, clean
from schemas import DeltaMessage

PAUSE_SECONDS = 0.05  # between two deltas of a message


def topic(user_id: str) -> str:
    """Where the deltas of a user's runs are published, each a `DeltaMessage` as JSON."""
    return f"deltas:{user_id}"


class Deltas:
    """One message on its way: called with its text as that comes, at least `PAUSE_SECONDS` between deltas.

    Together the deltas make the message, but for its end: what may be the beginning of a secret waits for
    what follows, and what waits when the model is done comes with the message itself.
    """

    def __init__(self, run: Run, message_id: object, redactor: Redactor) -> None:
        self._message = {"run_id": run.id, "message_id": message_id}
        self._topic, self._bus, self._redactor = topic(run.user_id), bus(), redactor
        self._loop = asyncio.get_running_loop()
        self._text = ""
        self._said = self._offset = 0  # how far that is told, and how long what was told is
        self._timer: asyncio.TimerHandle | None = None
        self._next_at = 0.0

    def __call__(self, text: str) -> None:
        self._text += text if self._text else text.lstrip()
        if self._timer is None:
            self._timer = self._loop.call_at(max(self._loop.time(), self._next_at), self._say)

    def _say(self) -> None:
        self._timer, self._next_at = None, self._loop.time() + PAUSE_SECONDS
        start = self._said
        end = start + len(self._text[start : self._redactor.settled(self._text, start)].rstrip())
        if text := clean(self._redactor.part(self._text, start, end)):
            delta = DeltaMessage(offset=self._offset, text=text, **self._message)
            self._bus.publish(self._topic, delta.model_dump_json().encode())
            self._said, self._offset = end, self._offset + len(text)
