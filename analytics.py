"""How runs went, counted by PostgreSQL."""

from schemas import (
    AnalyticsQuery,
    AnalyticsSummary,
    StatsRead,
    TimelinePoint,
    TimelineQuery,
    WorkflowCounts,
)


async def summary(user_id: str, query: AnalyticsQuery) -> AnalyticsSummary:
    raise NotImplementedError


async def timeline(user_id: str, query: TimelineQuery) -> list[TimelinePoint]:
    raise NotImplementedError


async def workflows(user_id: str, query: AnalyticsQuery) -> list[WorkflowCounts]:
    raise NotImplementedError


async def stats() -> StatsRead:
    raise NotImplementedError
