"""The log in words."""

import re
from collections.abc import Mapping
from typing import Any

import orjson
from starlette.responses import Response

import db
from models import Event
from schemas import EventQuery, EventRead

MOST_CHARS = 80  # of a text that somebody else chose
FIELD = re.compile(r"\{([a-z_]+(?:\.[a-z_]+)*)(!?)\}")
SPACES = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+")

# A field in braces is quoted if it is text; with `!` it stands as it is. What is missing is left out.
SENTENCES: dict[str, str] = {
    **{
        f"{resource}.{verb}": f"{word} {{name}} was {verb}"
        for resource, word in {
            "key": "API key",
            "secret": "Secret",
            "profile": "Profile",
            "computer": "Computer",
            "thread": "Thread",
            "workflow": "Workflow",
            "schedule": "Schedule",
            "file": "File",
            "webhook": "Webhook",
        }.items()
        for verb in ("created", "updated", "deleted")
    },
    "auth.signed_in": "Somebody signed in from {address!}",
    "auth.signed_out": "A device signed out",
    "auth.session_revoked": "A sign-in was ended: {reason!}",
    "auth.password_changed": "The password was changed",
    "auth.password_reset": "The password was set anew by mail",
    "auth.email_verified": "The email address was proven",
    "user.updated": "The account was updated",
    "message.created": "A message was said: {text}",
    "message.updated": "A message was changed: {text}",
    "message.deleted": "A message was deleted",
    "computer.opened": "Computer {name} opened",
    "computer.navigated": "A computer went to {url}",
    "computer.dialog": "A page showed a dialog: {message}",
    "computer.file_chooser": "A page asked for a file",
    "computer.download": "A computer downloaded {name}",
    "computer.crashed": "A page of a computer crashed",
    "computer.closed": "Computer {name} closed: {closed_reason!}",
    "control.taken": "A person took control of a computer",
    "control.released": "Control of a computer was given back",
    "run.queued": "Run {title} was queued",
    "run.started": "Run {title} started",
    "run.paused": "Run {title} paused: {reason!}",
    "run.resumed": "Run {title} went on",
    "run.waiting": "Run {title} waits for its user: {reason!}",
    "run.succeeded": "Run {title} succeeded",
    "run.failed": "Run {title} failed: {error.detail}",
    "run.cancelled": "Run {title} was cancelled",
    "run.updated": "Run {title} was updated",
    "run.deleted": "A run was deleted",
    "run.log": "A run says: {message}",
    "run.step.started": "Step {number} began: {title}",
    "run.step.finished": "Step {number} ended ({status!}): {title}",
    "approval.requested": "A run asks for approval: {title}",
    "approval.decided": "Approval of {title} was {status!}",
    "approval.expired": "Nobody answered whether to approve {title}",
    "approval.cancelled": "Approval of {title} is no longer needed",
    "schedule.fired": "Schedule {name} started a run",
    "schedule.missed": "Schedule {name} missed its time",
    "webhook.disabled": "Webhook {name} was disabled: {disabled_reason!}",
    "webhook.test": "A webhook was tested",
    "delivery.succeeded": "Webhook delivery of {kind!} succeeded",
    "delivery.failed": "Webhook delivery of {kind!} failed",
}
ACTORS = {"agent": "by the agent", "schedule": "by a schedule", "key": "with an API key"}


async def page(user_id: str, query: EventQuery) -> Response:
    """A page of the log, each event as a sentence. Raises InvalidCursor, db.Unavailable."""
    reply = await db.page(user_id, Event, EventRead, query)
    body = orjson.loads(bytes(reply.body))
    body["data"] = [
        {
            **{name: event[name] for name in ("seq", "id", "at", "kind", "run_id", "resource")},
            "text": sentence(event["kind"], event["data"], event["actor"]),
        }
        for event in body["data"]
    ]
    headers = {"Link": reply.headers["link"]} if "link" in reply.headers else None
    return Response(orjson.dumps(body), headers=headers, media_type="application/json")


def sentence(kind: str, data: Any, actor: str = "user") -> str:
    """What happened, in one sentence, whatever the data is like."""
    template = SENTENCES.get(kind) or f"Something happened: {kind}"
    written = FIELD.sub(lambda field: _field(data, field[1].split("."), quoted=not field[2]), template)
    by = ACTORS.get(actor.partition(":")[0], "")
    text = SPACES.sub(" ", written).replace(" ()", "").strip(" :")
    return f"{text} {by}".rstrip() + ("" if text.endswith((".", "…", "!", "?")) and not by else ".")


def _field(data: Any, path: list[str], *, quoted: bool) -> str:
    for name in path:
        data = data.get(name) if isinstance(data, Mapping) else None
    if isinstance(data, bool) or not isinstance(data, str | int | float):
        return ""
    text = SPACES.sub(" ", str(data)).strip()
    if len(text) > MOST_CHARS:
        text = text[: MOST_CHARS - 1].rstrip() + "…"
    if not quoted:
        return text.replace("_", " ")
    return f"“{text}”" if text and isinstance(data, str) else text
