"""``transship rollback``: take back what a run made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transship.cli.display import shown
from transship.cli.options import add_direct, add_json, add_state_dir, overridden
from transship.cli.output import say, say_json
from transship.client.client import reached
from transship.client.follow import follow
from transship.engine.events import StepFailed, StepUndone
from transship.engine.observer import Observer
from transship.engine.records import RunState
from transship.errors import ExitCode, RunNotFound
from transship.legs.containerd.migrate import rollback
from transship.legs.containerd.voyage import LEG

if TYPE_CHECKING:
    import argparse

    from transship.api.models import Run
    from transship.config import Settings
    from transship.engine.events import Event
    from transship.engine.records import RunRecord


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "rollback",
        help="remove what a run made in the target, and nothing else",
        description="Removes from the target the names, snapshots and blobs that a run made. What was there before, and what"
        " something else has come to use, stays. The source was never changed.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="the run (default: the last one not rolled back)")
    add_direct(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event, and one at the end")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Roll back; return DONE, or INCOMPLETE if something could not be removed. Raises TransshipError."""
    settings = overridden(options, settings)
    async with reached(settings.service.socket, settings.run.state_dir) as client, shown(as_json=options.json) as display:
        watching = _Watching(display)
        if client is None or options.direct:
            await rollback(options.run_id, settings.run.state_dir, watching)
        else:
            since = time.time()
            run = await client.rollback(options.run_id or _last(await client.runs()))
            watching.run = run.id
            await follow(client, run.id, since, watching)
    removed, kept, failed = watching.removed, watching.kept, watching.failed
    if options.json:
        say_json({"type": "report", "run": watching.run, "removed": removed, "kept": kept, "failed": failed})
    else:
        say(f"run {watching.run}: {len(removed)} removed, {len(kept)} kept, {len(failed)} failed")
    return ExitCode.INCOMPLETE if failed else ExitCode.DONE


class _Watching(Observer):
    """Notes what becomes of each thing, and has ``display`` show it."""

    def __init__(self, display: Observer) -> None:
        self._display = display
        self.run = ""
        self.removed: list[str] = []
        self.kept: list[str] = []
        self.failed: list[str] = []

    def started(self, run: RunRecord) -> None:
        self.run = run.id

    async def emit(self, event: Event) -> None:
        match event:
            case StepUndone(key=key, removed=removed):
                (self.removed if removed else self.kept).append(key)
            case StepFailed(key=key):
                self.failed.append(key)
        await self._display.emit(event)


def _last(runs: list[Run]) -> str:
    candidates = [run.id for run in runs if run.leg == LEG and run.state is not RunState.ROLLED_BACK]
    if not candidates:
        raise RunNotFound("there is no run to roll back", remedy="see the runs with `transship status`")
    return candidates[0]
