"""What a process counts for Prometheus: each series is declared here and fed by the module that knows.

Names of routes are templates and other labels come from short lists, so the number of series is bounded.
"""

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

__all__ = ["CONTENT_TYPE_LATEST"]

REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


def _counter(name: str, what: str, *labels: str) -> Counter:
    return Counter(f"cua_{name}", what, labels, registry=REGISTRY)


def _gauge(name: str, what: str, *labels: str) -> Gauge:
    return Gauge(f"cua_{name}", what, labels, registry=REGISTRY)


REQUESTS = Histogram(
    "cua_http_request_seconds",
    "Time to the end of a reply; of an event stream, to its beginning.",
    ("method", "route", "status"),
    buckets=_SECONDS,
    registry=REGISTRY,
)
IN_FLIGHT = _gauge("http_requests_in_flight", "Requests that are being answered.")
RATE_LIMITED = _counter("rate_limited", "Requests refused with 429 by a rate limit.", "limit")

SOCKETS = _gauge("sockets_open", "Open sockets of this process.")
STREAMS = _gauge("event_streams_open", "Open event streams of this process.")
SUBSCRIPTIONS = _gauge("subscriptions", "Subscriptions of open sockets and event streams.")
FRAMES = _counter("frames_sent", "Frames sent to sockets.")
EVENTS_PUBLISHED = _counter("events_published", "Events logged by this process.")
EVENTS_READ = _counter("events_read", "Events read from the log for sockets and streams.")

RUNS = _gauge("runs", "Runs of all users by status.", "status")
QUEUE_AGE = _gauge("queue_age_seconds", "How long the oldest run that is due has waited in the queue.")
COMPUTERS = _gauge("computers_open", "Browsers open in this process.")

POOL_SIZE = _gauge("database_pool_size", "Most connections of this process to PostgreSQL.")
POOL_IN_USE = _gauge("database_pool_in_use", "Connections that are lent at this moment.")
POOL_WAITS = _counter("database_pool_waits", "Times somebody found every connection lent.")

DELIVERIES = _counter("webhook_requests", "Requests to webhooks by what became of their delivery.", "status")

BUS = _gauge("bus", "1 for the bus that joins the processes: local, notify or redis.", "kind")
BUS_GAPS = _counter("bus_gaps", "Times messages of other processes may have been lost.")


def observe(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request; a method that nobody should send is `other`."""
    method = method if method in METHODS else "other"
    REQUESTS.labels(method, route, f"{status // 100}xx").observe(seconds)


def render() -> bytes:
    """Everything counted so far, in Prometheus' text form."""
    return generate_latest(REGISTRY)
