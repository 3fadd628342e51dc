from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from transship.engine.events import RunEnded, StepDone, StepFailed
from transship.engine.logged import log_event
from transship.engine.records import ErrorInfo, RunState

pytestmark = pytest.mark.anyio


async def test_an_entry_has_the_events_fields_and_a_level_by_its_weight() -> None:
    with capture_logs() as entries:
        await log_event(StepDone("r", 1.0, "blob:1", "layer 1", created=True, skipped=False, bytes=5, seconds=0.5))
        await log_event(StepFailed("r", 2.0, "blob:2", "layer 2", ErrorInfo("LayerMismatch", "changed", "pull it")))
        await log_event(
            RunEnded("r", 3.0, RunState.INCOMPLETE, done=1, skipped=0, failed=1, blocked=0, remaining=0, bytes=5, seconds=2.0)
        )
    assert [(entry["event"], entry["log_level"]) for entry in entries] == [
        ("step_done", "debug"),
        ("step_failed", "warning"),
        ("run_ended", "info"),
    ]
    assert entries[1]["error"]["message"] == "changed"
    assert entries[2]["state"] == "incomplete"
