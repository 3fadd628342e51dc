"""``transship boot``: what the host was armed for; run by transship-boot.service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.api import armed
from transship.cli.display import PlainDisplay, showing
from transship.cli.migrate import report_of, summarise
from transship.cli.options import add_socket, add_state_dir, overridden
from transship.cli.output import say
from transship.cli.service import found, missing
from transship.client.follow import follow, under_way
from transship.daemon.notify import Notifier
from transship.errors import Detached, ExitCode, RunGoesOn, TransshipError
from transship.text import line

if TYPE_CHECKING:
    import argparse

    from transship.api.models import Order, Run
    from transship.client.client import Client
    from transship.config import Settings
    from transship.engine.progress import Snapshot

_PATIENCE = 120.0
"""Seconds that the service manager is to wait from the last time on that the run advanced."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "boot",
        help="migrate as armed; run by transship-boot.service",
        description="Has the service migrate what `transship arm` asked for, and disarms the host when everything has been"
        " moved. Not armed: does nothing. It is there for transship-boot.service; the service manager waits for it as long as"
        " the migration advances.",
    )
    add_socket(parser)
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Migrate and disarm; return DONE or INCOMPLETE. Raises TransshipError."""
    settings = overridden(options, settings)
    state_dir = settings.run.state_dir
    order = await to_thread.run_sync(armed.armed, state_dir)
    if order is None:
        say("not armed: nothing to do")
        return ExitCode.DONE
    async with found(options, settings) as client:
        if client is None:
            raise missing(settings, "see `systemctl status transship.socket`")
        manager = Notifier.from_environment()
        since, (run, begun) = time.time(), await _begun(client, order, manager)
        async with showing(_BootDisplay(manager)) as display:
            report = await report_of(client, run, since if begun else 0, display)
    summarise(report)
    if not report.complete:
        say("still armed: the next boot tries again. `transship disarm` takes this back.")
        return ExitCode.INCOMPLETE
    await to_thread.run_sync(armed.disarm, state_dir)
    say("disarmed: the next boot does not migrate again.")
    return ExitCode.DONE


async def _begun(client: Client, order: Order, manager: Notifier) -> tuple[Run, bool]:
    """Have the migration begun; return its run, and whether it was not going on already. Another that goes on comes first."""
    while True:
        try:
            return await client.start(order)
        except RunGoesOn:
            if (current := await under_way(client)) is not None and current.run is not None:
                await _wait_for(client, current.run.id, current.since, manager)


async def _wait_for(client: Client, run: str, since: float, manager: Notifier) -> None:
    """Wait for what the service goes on with from before a power cut. How that ends does not matter here."""
    say(f"first run {run}, which the service goes on with")
    async with showing(_BootDisplay(manager)) as display:
        try:
            await follow(client, run, since, display)
        except Detached:
            raise
        except TransshipError as error:
            say(f"run {run} did not come to its end: {error.message}")


class _BootDisplay(PlainDisplay):
    """Tells the service manager, too."""

    def __init__(self, manager: Notifier) -> None:
        super().__init__()
        self._manager = manager
        self._before: Snapshot | None = None

    def not_planned(self) -> None:
        self._manager.status("looking at what there is to move")
        self._manager.extend_timeout(_PATIENCE)  # this ends by itself

    def tell(self, now: Snapshot) -> None:
        super().tell(now)
        self._manager.status(line(now))
        if self._before is None or _has_advanced(self._before, now):
            self._manager.extend_timeout(_PATIENCE)
        self._before = now


def _has_advanced(before: Snapshot, now: Snapshot) -> bool:
    """Tell whether anything advanced between the two, also what cannot be counted."""
    return now.quiet < now.elapsed - before.elapsed
