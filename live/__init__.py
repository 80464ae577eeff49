"""Events, frames and control over `/ws`, and events over SSE: one hub follows each connected user's log.

Events are pulled: a subscription is a cursor, and all cursors of a user read one ring of its newest events,
or the database where the ring no longer reaches. A slow client therefore costs no more than its cursor.
"""

from live.agui import AgentStream, run_agent
from live.hub import TooManyConnections, start, stop
from live.session import serve
from live.stream import EventStream, event_stream
from live.transport import TransportAccess

__all__ = [
    "AgentStream",
    "EventStream",
    "TooManyConnections",
    "TransportAccess",
    "event_stream",
    "run_agent",
    "serve",
    "start",
    "stop",
]
