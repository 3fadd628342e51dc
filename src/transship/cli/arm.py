"""``transship arm``: migrate at the next boot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.api import armed
from transship.api.models import Order
from transship.cli.options import add_recipe, add_source_and_target, add_state_dir, ensure_usable, request_from
from transship.cli.output import say
from transship.config.settings import DEFAULT_STATE_DIRECTORY
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "arm",
        help="migrate at the next boot, before Docker starts",
        description="Writes down, in the file `armed` of the state directory, that transship-boot.service is to migrate at the"
        " next boot, before Docker starts, with the options given here. When everything has been moved, that file is removed."
        " If something could not be moved, Docker starts as before, and the next boot tries again. Try the same options with"
        " `transship plan` first.",
    )
    add_source_and_target(parser)
    add_recipe(parser)
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Arm; return DONE. Raises JournalError, UsageError."""
    request = request_from(options, settings)
    state_dir = request.settings.run.state_dir
    ensure_usable(request)
    await to_thread.run_sync(armed.arm, state_dir, Order.of(request))
    say("armed: the next boot migrates before Docker starts. `transship disarm` takes this back.")
    if state_dir != DEFAULT_STATE_DIRECTORY:
        say(f"note: transship-boot.service, as it is installed, looks in {DEFAULT_STATE_DIRECTORY}, not in {state_dir}")
        say("  what to do: change its ConditionPathExists=, or arm without --state-dir")
    return ExitCode.DONE
