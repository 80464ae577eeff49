"""Rate limits in fixed windows: counted in this process, or for all processes in Redis while it answers."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from zlib import crc32

import structlog
from limits import RateLimitItem, parse
from limits.aio.storage import MemoryStorage, RedisStorage
from limits.errors import StorageError
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

import metrics

log = structlog.get_logger()

ANSWER_SECONDS = 0.25  # what a request waits for Redis, at most
AWAY_SECONDS = 5.0  # how long Redis is left alone after it did not answer
SWEEP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a caller stands: `remaining` of `amount` requests, and seconds to the end of the window."""

    amount: int
    seconds: int
    remaining: int
    reset: int

    @property
    def headers(self) -> Iterator[tuple[bytes, bytes]]:
        """The fields of draft-ietf-httpapi-ratelimit-headers (07)."""
        yield b"ratelimit-limit", b"%d" % self.amount
        yield b"ratelimit-remaining", b"%d" % self.remaining
        yield b"ratelimit-reset", b"%d" % self.reset
        yield b"ratelimit-policy", b"%d;w=%d" % (self.amount, self.seconds)


class RateLimited(Exception):
    """There were too many requests.

    The next may come in `retry_after` seconds.
    """

    def __init__(self, standing: Standing) -> None:
        super().__init__(f"Too many requests. Try again in {standing.reset} s.")
        self.standing, self.retry_after = standing, standing.reset


class _Memory(MemoryStorage):
    """Counters of this process. `limits` looks through all of them at each request; this, once a minute."""

    STORAGE_SCHEME = None  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self._swept = time.time()

    async def incr(self, key: str, expiry: float, amount: int = 1) -> int:
        now = time.time()
        if now - self._swept > SWEEP_SECONDS:
            self._sweep(now)
        if self.expirations.get(key, 0) <= now:
            self.storage[key] = 0
            self.expirations[key] = now + expiry
        self.storage[key] += amount
        return self.storage[key]

    def _sweep(self, now: float) -> None:
        self._swept = now
        for key in [key for key, end in self.expirations.items() if end <= now]:
            del self.expirations[key], self.storage[key]


_own = _Memory()
_shared: RedisStorage | None = None
_away_until = 0.0


async def open_shared(url: str) -> None:
    """Count in Redis for all processes; without it, or while it is away, each process counts for itself."""
    global _shared, _away_until  # noqa: PLW0603 - one place to count a process
    address = f"redis+{url}" if url.startswith("unix") else url
    _shared = RedisStorage(
        f"async+{address}",
        wrap_exceptions=True,
        implementation="redispy",
        key_prefix="cua-limits",
        socket_timeout=ANSWER_SECONDS,
        socket_connect_timeout=ANSWER_SECONDS,
        retry=Retry(NoBackoff(), 0),  # type: ignore[arg-type]
    )
    _away_until = 0.0


async def close_shared() -> None:
    """Let go of Redis."""
    global _shared  # noqa: PLW0603
    if _shared is not None:
        await _shared.bridge.get_connection().aclose()  # type: ignore[attr-defined]
        _shared = None


@lru_cache(256)
def limit(text: str) -> RateLimitItem | None:
    """The limit that a setting names, such as `600/minute`; None for `off`."""
    return None if text == "off" else parse(text)


@lru_cache(4096)
def address(host: str) -> str:
    """Who a client's address stands for: itself, or the /64 that one IPv6 subscriber has."""
    try:
        parsed = ip_address(host)
    except ValueError:
        return host[:64]
    if isinstance(parsed, IPv6Address):
        return str(parsed.ipv4_mapped or f"{IPv6Address(int(parsed) >> 64 << 64)}/64")
    return host


async def take(name: str, who: str, allowed: RateLimitItem | None) -> Standing | None:
    """Count one request of `who` under the limit called `name`. Raises RateLimited."""
    return await _count(name, who, allowed, 1)


async def look(name: str, who: str, allowed: RateLimitItem | None) -> Standing | None:
    """Raise RateLimited where the next `take` would."""
    return await _count(name, who, allowed, 0)


async def _count(name: str, who: str, allowed: RateLimitItem | None, amount: int) -> Standing | None:
    if allowed is None:
        return None
    seconds, bucket = allowed.get_expiry(), f"{name}/{who}"
    # Windows begin at another moment for each bucket, or everybody's would begin at once.
    window, passed = divmod(time.time() + crc32(bucket.encode()) % seconds, seconds)
    used = await _add(f"{bucket}/{seconds}/{window:.0f}", seconds, amount)
    left = allowed.amount - used
    standing = Standing(allowed.amount, seconds, max(left, 0), math.ceil(seconds - passed))
    if left < 0 or (not amount and left < 1):
        metrics.RATE_LIMITED.labels(name).inc()
        raise RateLimited(standing)
    return standing


async def _add(key: str, seconds: int, amount: int) -> int:
    global _away_until  # noqa: PLW0603
    if _shared is not None and (not _away_until or time.monotonic() >= _away_until):
        away = bool(_away_until)
        if away:  # one asks whether it is back, and nobody waits with it
            _away_until = time.monotonic() + AWAY_SECONDS
        try:
            used = await (_shared.incr(key, seconds, amount) if amount else _shared.get(key))
        except (StorageError, OSError) as error:
            if not _away_until:
                log.warning("rate_limits_local", error=str(error))
            _away_until = time.monotonic() + AWAY_SECONDS
        else:
            if away:
                log.warning("rate_limits_shared")
                _away_until = 0.0
            return used
    return await (_own.incr(key, seconds, amount) if amount else _own.get(key))
