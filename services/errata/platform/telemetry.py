"""Structured logs, in the same format in every process."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

from errata.platform.plain import shown


def configure_logging(level: str, log_format: Literal["console", "json"], service: str) -> None:
    """Writes structlog's events to standard error, with time, level and service.

    Payloads (prompts, targets, answers) are never logged: corrections can be confidential.
    """
    renderers: list[structlog.typing.Processor] = (
        [structlog.processors.JSONRenderer()]  # which escapes all but ASCII
        if log_format == "json"
        else [_plain_values, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=_to_stderr,
        cache_logger_on_first_use=False,
    )
    structlog.contextvars.bind_contextvars(service=service)


def _to_stderr(*names: Any) -> structlog.PrintLogger:
    """Writes to what is standard error at the time of the event."""
    return structlog.PrintLogger(sys.stderr)


def _plain_values(
    logger: Any, method: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """The event with nothing in it that a terminal obeys; a bar marks a traceback's lines."""
    for name, value in event.items():
        text = value if isinstance(value, str) else repr(value)
        if name in ("exception", "stack"):
            event[name] = "\n".join(f"│ {shown(line)}" for line in text.split("\n"))
        elif isinstance(value, str) or shown(text) != text:
            event[name] = shown(text)
    return event
