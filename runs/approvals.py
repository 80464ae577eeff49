"""Approvals: a run asks about exactly one action and waits for the answer."""

from starlette.responses import Response

import db
from models import Approval
from schemas import ApprovalDecision


async def decide(tx: db.Tx, approval: Approval, body: ApprovalDecision) -> Response:
    raise NotImplementedError
