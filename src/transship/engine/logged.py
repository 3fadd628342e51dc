"""Events as log entries: for whoever reads logs instead of watching a run."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import structlog

from transship.engine.events import StepBlocked, StepDone, StepFailed, StepStarted, StepUndone

if TYPE_CHECKING:
    from transship.engine.events import Event

_log = structlog.get_logger()
_OFTEN = (StepStarted, StepDone, StepBlocked, StepUndone)


async def log_event(event: Event) -> None:
    """Log an event: what comes with every step as debug, what fails as warning, the rest as info."""
    level = logging.WARNING if isinstance(event, StepFailed) else logging.DEBUG if isinstance(event, _OFTEN) else logging.INFO
    fields = event.to_json()
    del fields["time"]  # the entry has its own
    _log.log(level, fields.pop("type"), **fields)
