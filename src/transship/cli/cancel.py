"""``transship cancel``: stop what the service is at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transship.api.models import Phase
from transship.cli.options import add_socket, add_state_dir, overridden
from transship.cli.output import say
from transship.cli.service import found
from transship.client.follow import under_way
from transship.engine.records import RunState
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from transship.client.client import Client
    from transship.config import Settings


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "cancel",
        help="stop the run that the service is at",
        description="Stops the migration or rollback that the service is at, and waits until it has stopped. What was moved"
        " stays in the target: `transship resume` goes on from there, `transship rollback` removes it. A run that a command"
        " does by itself, without the service, is stopped with Ctrl-C in its terminal.",
    )
    parser.add_argument("run_id", nargs="?", metavar="RUN", help="its ID (default: whichever the service is at)")
    add_socket(parser)
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Cancel; return DONE, also if nothing goes on. Raises TransshipError."""
    async with found(options, overridden(options, settings)) as client:
        if client is None:
            say("no service is running, so there is nothing to cancel")
        else:
            say(await _cancelled(client, options.run_id))
    return ExitCode.DONE


async def _cancelled(client: Client, run_id: str | None) -> str:
    """Cancel, and return what to say of it."""
    if run_id is None:
        current = await under_way(client)
        if current is None or current.run is None:
            return "the service is idle: there is nothing to cancel"
        run_id = current.run.id
    rolling_back = (await client.status()).state is Phase.ROLLING_BACK
    run = await client.cancel(run_id)
    if rolling_back:
        if run.state is RunState.ROLLED_BACK:
            return f"run {run.id} was rolled back before it could be stopped"
        return f"the rollback of run {run.id} has stopped. Do the rest of it: transship rollback {run.id}"
    if run.state is RunState.INTERRUPTED:
        return f"run {run.id} has stopped. Go on with it: transship resume. Remove what it moved: transship rollback {run.id}"
    return f"run {run.id} came to its end ({run.state.value}) before it could be stopped"
