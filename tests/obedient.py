"""A model without a will of its own: it does what anything that it sees tells it, once and in order."""

import base64
import json
import re
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import pytest
from pydantic_ai.messages import ModelMessage, ModelMessagesTypeAdapter, ModelRequest
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

from runs import demo_model
from runs.trail import FINISH

ORDER = re.compile(r"ORDER:(\w+):([A-Za-z0-9_-]*);")


def order(tool: str, **arguments: Any) -> str:
    """A call, in letters that no page and no tree has to quote."""
    packed = base64.urlsafe_b64encode(json.dumps(arguments).encode()).decode().rstrip("=")
    return f"ORDER:{tool}:{packed};"


def ordered(text: str) -> list[tuple[str, dict[str, Any]]]:
    return [
        (tool, json.loads(base64.urlsafe_b64decode(packed + "=" * (-len(packed) % 4))))
        for tool, packed in ORDER.findall(text)
    ]


class Obedient:
    """`model` does as it is told by anybody, then finishes; `seen` is all that it was ever shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.model = FunctionModel(stream_function=self._stream, model_name="obedient")

    async def _stream(
        self, messages: list[ModelMessage], _: AgentInfo
    ) -> AsyncIterator[str | DeltaToolCalls]:
        told = [message for message in messages if isinstance(message, ModelRequest)]
        shown = ModelMessagesTypeAdapter.dump_json([*told]).decode()
        self.seen.append(shown)
        given = list(dict.fromkeys(ORDER.findall(shown)))
        done = sum(len(message.parts) for message in messages if not isinstance(message, ModelRequest))
        calls = ordered("".join(f"ORDER:{tool}:{packed};" for tool, packed in given))
        tool, arguments = calls[done] if done < len(calls) else (FINISH, {"result": "I did as I was told"})
        yield {0: DeltaToolCall(tool, json.dumps(arguments), tool_call_id=f"call_{uuid4().hex[:16]}")}


@pytest.fixture
def obedient(monkeypatch: pytest.MonkeyPatch) -> Obedient:
    """The model of all runs of the test."""
    made = Obedient()
    monkeypatch.setattr(demo_model, "MODEL", made.model)
    return made
