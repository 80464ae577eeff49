"""A whole session with the generated client, which stands beside this file as `cua_client`; argv: the address.

Only tests/test_client.py runs it, from where the client was generated.
"""

import sys
from io import BytesIO
from typing import TypeVar
from uuid import uuid4

from cua_client import AuthenticatedClient, Client
from cua_client.api.auth import register
from cua_client.api.events import list_events
from cua_client.api.files import create_file, read_file_content
from cua_client.api.runs import create_run, list_steps, read_run
from cua_client.api.workflows import create_workflow, read_workflow
from cua_client.models import (
    CreateFileBody,
    ProblemRead,
    Registration,
    RunCreate,
    RunStatus,
    WorkflowCreate,
    WorkflowCreateDefinition,
)
from cua_client.types import File, Response

T = TypeVar("T")
FLOW = {
    "title": "Read nothing",
    "steps": [
        {"type": "navigate", "url": f"{sys.argv[1]}/problems"},
        {"type": "extract", "name": "page", "fields": {"heading": {"selectors": ["h1"]}}},
    ],
}


def good(reply: Response[ProblemRead | T]) -> T:
    """What was answered, which is no problem."""
    assert reply.parsed is not None and not isinstance(reply.parsed, ProblemRead), reply.content
    return reply.parsed


def main() -> None:
    anonymous = Client(base_url=sys.argv[1])
    body = Registration(email=f"{uuid4().hex}@example.com", password="correct horse battery", name="Ann")
    tokens = good(register.sync_detailed(client=anonymous, body=body)).data
    client = AuthenticatedClient(base_url=sys.argv[1], token=tokens.access_token, timeout=None)

    definition = WorkflowCreateDefinition.from_dict(FLOW)
    wanted = WorkflowCreate(name="Look", definition=definition)
    key = uuid4().hex
    made = [
        good(create_workflow.sync_detailed(client=client, body=wanted, idempotency_key=key)).data.id
        for _ in range(2)
    ]
    assert made[0] == made[1]
    missing = read_workflow.sync_detailed(uuid4(), client=client).parsed
    assert isinstance(missing, ProblemRead) and missing.code == "not_found"

    run = good(create_run.sync_detailed(client=client, body=RunCreate(workflow_id=made[0]))).data
    assert run.status is RunStatus.QUEUED
    ended = good(read_run.sync_detailed(run.id, client=client, wait=60)).data
    assert ended.status is RunStatus.SUCCEEDED, ended.error
    assert ended.result is not None and ended.result["outputs"] == {"page": {"heading": "Problems"}}
    steps = good(list_steps.sync_detailed(run.id, client=client)).data
    assert [step.number for step in steps] == [1, 2]
    events = good(list_events.sync_detailed(client=client, kind="run.")).data
    assert [event.kind for event in events][-1] == "run.succeeded"

    upload = CreateFileBody(file=File(BytesIO(b"bytes"), file_name="a.txt"))
    file = good(create_file.sync_detailed(client=client, body=upload)).data
    content = good(read_file_content.sync_detailed(file.id, client=client))
    assert isinstance(content, File) and content.payload.read() == b"bytes"


main()
