"""One line for everything that happens in a process, in one form: ours, uvicorn's and other libraries'."""

import logging
import re
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from settings import settings

PLAIN = (str, int, float, bool, list, dict, type(None))
QUIET = ("httpcore", "httpx", "asyncio", "websockets")  # they tell each step of their own work
OURS = ("level", "timestamp", "run_id", "user_id", "request_id")
redactor: ContextVar[Callable[[Any], Any] | None] = ContextVar("redactor", default=None)
"""What must not be in the lines of the task at hand is taken out of them by this."""
_QUERY = re.compile(r"\?[^\s\"']+")


def configure() -> None:
    """Render every line to standard output: JSON in production, for people elsewhere."""
    level = logging.getLevelName(settings.log_level.upper())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    rendering: list[Processor] = [structlog.processors.format_exc_info, _without_secrets]
    if settings.environment == "production":
        rendering.append(structlog.processors.JSONRenderer())
    else:
        # The other formatter shows local variables, and one of them may be a secret.
        plain = structlog.dev.plain_traceback
        rendering.append(structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain))
    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        cache_logger_on_first_use=False,
    )
    lines = _Lines()
    lines.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, _without_queries],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [lines]
    root.setLevel(level)
    _take_over(level)


def _take_over(level: int) -> None:
    """uvicorn tells when it starts and stops at any level; its line of each request is ours to tell."""
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
    access = logging.getLogger("uvicorn.access")
    access.handlers, access.propagate = [], False
    for name in QUIET:
        logging.getLogger(name).setLevel(max(level, logging.WARNING))


def _without_secrets(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """The values of a line as they may be shown; whom it is about stays, whatever somebody calls a secret."""
    if (redact := redactor.get()) is None:
        return line
    return {
        key: value if key in OURS else redact(value if isinstance(value, PLAIN) else repr(value))
        for key, value in line.items()
    }


def _without_queries(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A library's line may quote an address, and a query may hold a secret."""
    line["event"] = _QUERY.sub("?…", str(line["event"]))
    return line


class _Lines(logging.Handler):
    """Writes where standard output is at that moment, as structlog's own printing does."""

    def emit(self, record: logging.LogRecord) -> None:
        sys.stdout.write(self.format(record) + "\n")
        sys.stdout.flush()
