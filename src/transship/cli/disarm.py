"""``transship disarm``: do not migrate at the next boot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.api import armed
from transship.cli.options import add_state_dir, overridden
from transship.cli.output import say
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "disarm",
        help="do not migrate at the next boot",
        description="Takes back `transship arm`: the next boot does not migrate. A migration that goes on already is stopped"
        " with `transship cancel`.",
    )
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Disarm; return DONE. Raises JournalError."""
    was = await to_thread.run_sync(armed.disarm, overridden(options, settings).run.state_dir)
    say("disarmed" if was else "was not armed")
    return ExitCode.DONE
