"""Logs, on standard error: for people on a terminal, JSON otherwise, with priorities where journald reads.

One entry a line, whatever is in it. What libraries log with the standard library's ``logging`` comes out in the same form.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from transship.text import printable

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor

_PRIORITIES = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
"""The levels of sd-daemon(3), which are syslog's."""

_INFO = 6

_LONGEST = 40 << 10
"""Characters of a line of JSON; journald cuts lines into pieces at 48 KiB (LineMax= in journald.conf(5))."""

_MAX_FRAMES = 20


def configure(level: str) -> None:
    """Set up logs for the process: entries from ``level`` (debug, info, warning, error) on. May be called again."""
    threshold = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _Handler(sys.stderr)
    handler.setLevel(threshold)  # libraries set levels of their own loggers
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers()],
        )
    )
    root = logging.getLogger()
    for earlier in [each for each in root.handlers if isinstance(each, _Handler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(threshold)


class _Handler(logging.StreamHandler[Any]):
    """The handler that is ours, to be told from those of others."""


def _renderers() -> list[Processor]:
    """Return what turns an entry into text, as suits who reads standard error."""
    if sys.stderr.isatty():
        return [_exception_in_brief, _escape, structlog.dev.ConsoleRenderer()]
    exceptions = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False, max_frames=_MAX_FRAMES))
    return [exceptions, _render_for_journal if _is_journal() else _render_json]


def _is_journal() -> bool:
    """Whether standard error leads to journald: JOURNAL_STREAM then names its device and inode, see systemd.exec(5)."""
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):  # no file is behind it
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def _render_json(_logger: object, _method: str, entry: EventDict) -> str:
    text = json.dumps(entry, default=str)
    if len(text) <= _LONGEST:
        return text
    kept = {name: entry[name] for name in ("level", "logger", "timestamp") if name in entry}
    return json.dumps({"event": str(entry.get("event"))[: _LONGEST // 12], **kept, "shortened_from": len(text)})


def _render_for_journal(logger: object, method: str, entry: EventDict) -> str:
    return f"<{_PRIORITIES.get(entry['level'], _INFO)}>{_render_json(logger, method, entry)}"


def _exception_in_brief(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Put an exception and the lines that it passed into one line, the innermost first."""
    if error := _exception(entry.pop("exc_info", None)):
        frames = reversed(traceback.extract_tb(error.__traceback__))
        places = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in list(frames)[:_MAX_FRAMES])
        entry["caused_by"] = f"{type(error).__name__}: {error} ({places})"
    return entry


def _exception(info: object) -> BaseException | None:
    if isinstance(info, BaseException):
        return info
    if isinstance(info, tuple):
        return info[1] if isinstance(info[1], BaseException) else None
    return sys.exception() if info else None


def _escape(_logger: object, _method: str, entry: EventDict) -> EventDict:
    """Escape what would move the cursor or begin a line: names may come from inside an image."""
    return {name: printable(value) if isinstance(value, str) else value for name, value in entry.items()}
