"""A cursor in a user's log and a filter: what is at hand comes from the hub, the rest from the database."""

from collections.abc import Iterable
from uuid import UUID

import db
from live import endings, limits
from live.endings import Ended
from live.hub import Log


class Subscription:
    """A cursor in a user's log and a filter: `take` what is at hand, `load` when the ring is past it."""

    def __init__(self, followed: Log, upto: int, run_id: UUID | None, kinds: Iterable[str] | None) -> None:
        self.upto = upto
        self.caught_up = False
        self.loading = False
        self._log = followed
        self._run_id = run_id
        self._kinds = frozenset(kinds) if kinds is not None else None
        self._beginnings = tuple(kind for kind in self._kinds or () if kind.endswith("."))
        self._page: list[db.LoggedEvent] = []

    @property
    def behind(self) -> bool:
        """Whether the next event is in the database only."""
        return not self._page and self.upto < self._log.start

    def take(self) -> list[db.LoggedEvent]:
        """The next matching events, about `BATCH_BYTES` of them; `upto` moves past them."""
        events: list[db.LoggedEvent] = []
        while not events and not self.behind and (waiting := self._page or self._log.after(self.upto)):
            taken = self._choose(waiting, events)
            del self._page[:taken]
        self.caught_up = self.caught_up or self.upto >= self._log.head
        return events

    def _choose(self, waiting: list[db.LoggedEvent], events: list[db.LoggedEvent]) -> int:
        size = 0
        for taken, event in enumerate(waiting):
            if self.wants(event.kind, event.run_id):
                size += len(event.text)
                if events and size > limits.BATCH_BYTES:
                    return taken
                events.append(event)
            self.upto = event.seq
        return len(waiting)

    async def load(self) -> None:
        """Read the next page from the database. Raises Ended(endings.LOST), db.Unavailable."""
        head = self._log.head
        page = await db.events(self._log.user_id, self.upto, limits.PAGE_EVENTS, run_id=self._run_id)
        if self._run_id is None and (not page or page[0].seq != self.upto + 1):
            raise Ended(endings.LOST)
        self._page = page
        if not page:
            self.upto = head

    def wants(self, kind: str, run_id: UUID | None) -> bool:
        """Whether the filter lets such an event through."""
        return (self._run_id is None or run_id == self._run_id) and (
            self._kinds is None or kind in self._kinds or kind.startswith(self._beginnings)
        )


async def position(user_id: str, after: int | None, followed: Log | None = None) -> tuple[int, int, bool]:
    """Where to begin, the head, and whether nothing is missing, for a client that has all up to `after`."""
    if after is not None and followed is not None and followed.start <= after <= followed.head:
        return after, followed.head, True
    oldest, head = await db.log_bounds(user_id)
    if after is None:
        return head, head, True
    if after > head:
        return head, head, False
    return max(after, oldest - 1), head, after >= oldest - 1
