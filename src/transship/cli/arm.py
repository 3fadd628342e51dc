"""``transship arm``: migrate at the next boot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.api import armed
from transship.api.models import Order
from transship.cli.options import add_recipe, add_source_and_target, add_state_dir, request_from
from transship.cli.output import say
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "arm",
        help="migrate at the next boot, before Docker starts",
        description="Has transship-boot.service migrate at the next boot, before Docker starts, with the options given here."
        " When all is moved, the host is disarmed; if something is left out, Docker starts as before, and the next boot"
        " tries again.",
    )
    add_source_and_target(parser)
    add_recipe(parser)
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Arm; return DONE. Raises JournalError, UsageError."""
    request = request_from(options, settings)
    _ = request.recipe  # a level that does not exist is better told now
    await to_thread.run_sync(armed.arm, request.settings.run.state_dir, Order.of(request))
    say("armed: the next boot migrates before Docker starts. `transship disarm` takes it back.")
    return ExitCode.DONE
