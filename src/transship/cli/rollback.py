"""``transship rollback``: take back what a run made."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transship.cli.display import shown
from transship.cli.options import add_direct, add_json, add_socket, add_state_dir, overridden
from transship.cli.output import say, say_json
from transship.cli.service import found
from transship.client.follow import follow
from transship.engine.events import RollbackStarted, RunEnded, StepFailed, StepUndone
from transship.engine.observer import Observer
from transship.engine.records import RunState
from transship.errors import ExitCode, RunNotFound, RunStopped
from transship.legs.rollback import rollback
from transship.legs.targets import LEGS

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
        description="Removes from the target the names, snapshots and blobs that a run made, or restores a root that it"
        " upgraded. What was there before, and what something else has come to use or has changed since, stays. If the"
        " transship service runs, or its socket is there to start it, the service does the work.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="its ID (default: the last migration not rolled back)")
    add_socket(parser)
    add_direct(parser)
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event, and one at the end")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Roll back; return DONE, or INCOMPLETE if something could not be removed. Raises TransshipError."""
    settings = overridden(options, settings)
    async with found(options, settings) as client, shown(as_json=options.json) as display:
        watching = _Watching(display)
        if client is None:
            await rollback(options.run_id, settings.run.state_dir, watching)
        else:
            since = time.time()
            run_id = options.run_id if options.run_id is not None else _last(await client.runs())
            watching.run = (await client.rollback(run_id)).id
            await follow(client, watching.run, since, watching)
            watching.ensure_ended()
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
        self._remaining: int | None = None

    def started(self, run: RunRecord) -> None:
        self.run = run.id

    async def emit(self, event: Event) -> None:
        match event:
            case StepUndone(key=key, removed=removed):
                (self.removed if removed else self.kept).append(key)
            case StepFailed(key=key):
                self.failed.append(key)
            case RollbackStarted():  # again, if the service was killed and goes on with it
                self.kept.clear()
                self.failed.clear()
            case RunEnded(remaining=remaining):
                self._remaining = remaining
        await self._display.emit(event)

    def ensure_ended(self) -> None:
        """Raise RunStopped if it was stopped: then there are things that were neither removed nor kept."""
        if self._remaining != len(self.kept):
            raise RunStopped(
                f"the rollback of run {self.run} was stopped before its end: by `transship cancel`, or with the service",
                remedy="roll back again: what is left is removed then",
            )


def _last(runs: list[Run]) -> str:
    candidates = [run.id for run in runs if run.leg in LEGS and run.state is not RunState.ROLLED_BACK]
    if not candidates:
        raise RunNotFound("there is no run to roll back", remedy="see the runs with `transship status`")
    return candidates[0]
