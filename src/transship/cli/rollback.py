"""``transship rollback``: take back what a run made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transship.cli.display import shown
from transship.cli.options import add_json, add_state_dir, overridden
from transship.cli.output import say, say_json
from transship.errors import ExitCode
from transship.legs.containerd.migrate import rollback

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "rollback",
        help="remove what a run made in the target, and nothing else",
        description="Removes from the target the names, snapshots and blobs that a run made. What was there before, and what"
        " something else has come to use, stays. The source was never changed.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="the run (default: the last one not rolled back)")
    add_state_dir(parser)
    add_json(parser, "print one JSON object per event, and one at the end")
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Roll back; return DONE, or INCOMPLETE if something could not be removed. Raises TransshipError."""
    async with shown(as_json=options.json) as display:
        ended = await rollback(options.run_id, overridden(options, settings).run.state_dir, display)
    if options.json:
        failed = [failure.key for failure in ended.failed]
        say_json({"type": "report", "run": ended.run, "removed": ended.removed, "kept": ended.kept, "failed": failed})
    else:
        say(f"run {ended.run}: {len(ended.removed)} removed, {len(ended.kept)} kept, {len(ended.failed)} failed")
    return ExitCode.INCOMPLETE if ended.failed else ExitCode.DONE
