"""``transship status``: the runs, and how the last one stands."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.cli.options import add_json, add_state_dir, overridden
from transship.cli.output import duration, say, say_json, size
from transship.engine.journal import FILE_NAME, Journal
from transship.engine.step import State
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from transship.config import Settings
    from transship.engine.records import RunRecord, StepRecord


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "status", help="show the runs, and how the last one stands", description="Shows the runs, and how the last one stands."
    )
    add_state_dir(parser)
    add_json(parser, "print one JSON object")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Show runs; return DONE. Raises JournalError."""
    state_dir = overridden(options, settings).run.state_dir
    runs, steps = await to_thread.run_sync(_read, state_dir)
    if options.json:
        say_json({"runs": [_document(record) for record in runs], "last": _last(steps) if runs else None})
    elif runs:
        _describe(runs, steps)
    else:
        say(f"no runs yet (state directory {state_dir})")
    return ExitCode.DONE


def _read(state_dir: Path) -> tuple[list[RunRecord], list[StepRecord]]:
    if not (state_dir / FILE_NAME).exists():
        return [], []
    with Journal.read_only(state_dir) as journal:
        runs = journal.runs()
        return runs, journal.steps(runs[0].id) if runs else []


def _document(record: RunRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "leg": record.leg,
        "state": record.state.value,
        "started": record.started,
        "ended": record.ended,
        "attempts": record.attempts,
        "bytes": record.bytes,
        "options": dict(record.options),
    }


def _last(steps: list[StepRecord]) -> dict[str, Any]:
    return {
        "steps": dict(Counter(step.state.value for step in steps)),
        "failed": [
            {"key": step.key, "message": step.error.message, "remedy": step.error.remedy}
            for step in steps
            if step.state is State.FAILED and step.error
        ],
    }


def _describe(runs: list[RunRecord], steps: list[StepRecord]) -> None:
    say(f"{'RUN':22}{'WHAT':12}{'STATE':13}{'STARTED (UTC)':21}{'TOOK':>12}{'READ':>10}")
    for record in runs:
        started = datetime.fromtimestamp(record.started, UTC).strftime("%Y-%m-%d %H:%M:%S")
        took = duration(record.ended - record.started) if record.ended else "-"
        say(f"{record.id:22}{record.leg:12}{record.state.value:13}{started:21}{took:>12}{size(record.bytes):>10}")
    counts = Counter(step.state.value for step in steps)
    say(f"last run: {', '.join(f'{count} {state}' for state, count in counts.items()) or 'no steps yet'}")
    for step in steps:
        if step.state is State.FAILED and step.error:
            say(f"  FAILED {step.key}: {step.error.message}")
