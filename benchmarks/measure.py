"""Timing of alternating rounds, so that a machine's drift falls on all variants alike."""

import asyncio
import os
import platform
import statistics
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

Work = Callable[[], Awaitable[object]]


def describe_machine() -> str:
    """Where and when the figures were taken."""
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}, {datetime.now(UTC):%Y-%m-%d}"


async def compare(
    variants: Mapping[str, Work], *, rounds: int = 5, calls: int = 200, at_once: int = 1
) -> None:
    """Print microseconds per call of each variant, and the ratio to the first, as min, median and max."""
    taken: dict[str, list[float]] = {name: [] for name in variants}
    for work in variants.values():
        await _round(work, calls // 4 + 1, at_once)
    for _ in range(rounds):
        for name, work in variants.items():
            taken[name].append(await _round(work, calls, at_once))
    first = next(iter(variants))
    for name, times in taken.items():
        ratios = [mine / base for mine, base in zip(times, taken[first], strict=True)]
        print(
            f"  {name:<42} {statistics.median(times) * 1e6:8.0f} us  "
            f"ratio {min(ratios):.2f} / {statistics.median(ratios):.2f} / {max(ratios):.2f}"
        )


async def _round(work: Work, calls: int, at_once: int) -> float:
    async def loop() -> None:
        for _ in range(calls):
            await work()

    began = time.perf_counter()
    await asyncio.gather(*(loop() for _ in range(at_once)))
    return (time.perf_counter() - began) / (calls * at_once)
