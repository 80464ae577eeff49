"""Why the server closes a connection, and what it says before."""

from dataclasses import dataclass

from live import limits


@dataclass(frozen=True, slots=True)
class Ending:
    """Why the server closes a connection: the close code, and the `error` message before it."""

    code: int
    name: str
    detail: str
    retryable: bool = False
    retry_after_ms: int | None = None


REFUSED = Ending(4401, "unauthorized", "The token is not valid. Get a new one and connect again.", True)
EXPIRED = Ending(4401, "expired", "The token has expired. Get a new one and connect again.", True)
SLOW = Ending(4008, "slow_consumer", "Messages wait too long. Connect again and resume from `upto`.", True)
STOPPING = Ending(
    4009, "shutting_down", "The server stops. Connect again and resume from `upto`.", True, 1000
)
LOST = Ending(4010, "position_lost", "The log no longer reaches back to here. Read state anew.", True)
FLOOD = Ending(4013, "rate_limited", "Too many messages. Send fewer.", True, 1000)
CROWDED = Ending(4013, "rate_limited", "Too many connections wait for their sign-in.", True, 5000)
DISTRUSTED = Ending(
    4013, "rate_limited", "Too many refused credentials from this address. Wait.", True, 10_000
)
FOREIGN_ORIGIN = Ending(4403, "forbidden", "Pages of this origin may not connect.")
OTHER_USER = Ending(4403, "forbidden", "A connection belongs to one user. Open another one.")
REVOKED = Ending(4403, "forbidden", "The sign-in has ended.")
DISABLED = Ending(4403, "forbidden", "The account is disabled.")
SILENT = Ending(4408, "auth_timeout", "No `auth` message came in time.")
TOO_MANY = Ending(
    4429, "too_many_connections", f"At most {limits.CONNECTIONS_PER_USER} connections per user."
)
TOO_BIG = Ending(1009, "too_big", f"Messages are at most {limits.MESSAGE_BYTES} bytes.")
UNAVAILABLE = Ending(1013, "unavailable", "The server cannot reach its database. Try again.", True, 2000)
FAULT = Ending(1011, "internal", "The server made a mistake. Connect again and resume from `upto`.", True)


def bad_message(detail: str) -> Ending:
    """The client does not speak the protocol."""
    return Ending(4400, "bad_message", detail)


class Ended(Exception):
    """The connection is to be closed."""

    def __init__(self, ending: Ending) -> None:
        super().__init__(ending.detail)
        self.ending = ending
