"""``transship resume``: go on with a run that was stopped."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.api.models import MAX_RUNS
from transship.cli.display import shown
from transship.cli.migrate import followed, told
from transship.cli.options import add_direct, add_json, add_socket, add_state_dir, overridden
from transship.cli.service import found
from transship.daemon import history
from transship.engine.records import RunState
from transship.errors import ExitCode, RunNotFound
from transship.legs.migrate import migrate
from transship.legs.request import Request
from transship.legs.targets import LEGS

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from transship.config import Settings
    from transship.engine.records import RunRecord

_STOPPED = {RunState.RUNNING, RunState.INTERRUPTED, RunState.INCOMPLETE}


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "resume",
        help="go on with a migration that was stopped or is incomplete",
        description="Goes on with a migration that was stopped or ended incomplete, with the options that it was begun with:"
        " what is done is not done twice. If the transship service runs, or its socket is there to start it, the service does"
        " the work.",
    )
    parser.add_argument(
        "run_id", nargs="?", metavar="RUN", help="its ID (default: the last one that was stopped or is incomplete)"
    )
    add_socket(parser)
    add_direct(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event, and one at the end")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Resume; return DONE or INCOMPLETE. Raises TransshipError."""
    settings = overridden(options, settings)
    async with found(options, settings) as client, shown(as_json=options.json) as display:
        if client is None:
            record = await to_thread.run_sync(_stopped, settings.run.state_dir, options.run_id)
            report = await migrate(Request.of_run(record, settings), display)
        else:
            since = time.time()
            stopped = [each.id for each in await client.runs() if each.leg in LEGS and each.state in _STOPPED]
            report = await followed(client, await client.resume(_chosen(options.run_id, stopped)), since, display)
    return told(report, as_json=options.json)


def _stopped(state_dir: Path, run_id: str | None) -> RunRecord:
    runs, _ = history.runs(state_dir, 0, MAX_RUNS)
    stopped = [record.id for record in runs if record.leg in LEGS and record.state in _STOPPED]
    return history.record(state_dir, _chosen(run_id, stopped))


def _chosen(run_id: str | None, stopped: list[str]) -> str:
    if run_id is not None:
        return run_id
    if not stopped:
        raise RunNotFound(
            "there is no migration that was stopped or is incomplete", remedy="see the runs with `transship status`"
        )
    return stopped[0]
