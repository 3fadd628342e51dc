"""``transship cancel``: stop what the service is at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transship.cli.options import add_socket, add_state_dir, overridden
from transship.cli.output import say
from transship.client.client import reached
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cancel",
        help="stop the run that the service is at",
        description="Stops the run that the service is at, and waits until it has stopped. What it moved stays;"
        " `transship resume` goes on with it, `transship rollback` removes it.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="the run (default: the one that goes on, if one does)")
    add_socket(parser)
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Cancel; return DONE, also if nothing goes on. Raises TransshipError."""
    settings = overridden(options, settings)
    async with reached(settings.service.socket, settings.run.state_dir) as client:
        current = (await client.status()).current if client else None
        run_id = options.run_id or (current.run.id if current and current.run else None)
        if client is None or run_id is None:
            say("the service is at nothing" if client else "there is no service, so it is at nothing")
            return ExitCode.DONE
        run = await client.cancel(run_id)
    say(f"run {run.id} is {run.state.value}; go on with it: transship resume")
    return ExitCode.DONE
