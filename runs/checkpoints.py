"""A run's checkpoint: what opens its page again where it was, sealed for that run alone."""

from typing import Any
from uuid import UUID

import orjson
import structlog

from infra.vault import Unsealable, Vault
from models import Run

log = structlog.get_logger()

MAX_BYTES = 8 * 2**20


def seal(vault: Vault, run: Run, state: dict[str, Any], *, for_id: UUID | None = None) -> bytes:
    """The state for its run, or for another one of its user; where it is large, without what sites keep."""
    data = orjson.dumps(state)
    if len(data) > MAX_BYTES:
        data = orjson.dumps(state | {"origins": []})
    return vault.seal(data, **_place(run, for_id or run.id))


def unseal(vault: Vault, run: Run) -> dict[str, Any] | None:
    """The state that the run has kept; None where it has kept none, or none that can be read."""
    if run.checkpoint is None:
        return None
    try:
        state: dict[str, Any] = orjson.loads(vault.unseal(run.checkpoint, **_place(run, run.id)))
    except Unsealable as error:
        log.warning("checkpoint_unusable", run_id=str(run.id), error=str(error))
        return None
    return state


def _place(run: Run, run_id: UUID) -> dict[str, str]:
    return {"table": "runs", "column": "checkpoint", "row": str(run_id), "user": run.user_id}
