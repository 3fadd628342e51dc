"""``transship boot``: what the host was armed for; run by transship-boot.service."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from transship.api import armed
from transship.cli.display import PlainDisplay, showing
from transship.cli.migrate import followed, summarise
from transship.cli.options import add_socket, add_state_dir, overridden
from transship.cli.output import say
from transship.client.client import reached
from transship.daemon.notify import Notifier
from transship.errors import ExitCode, ServiceUnavailable
from transship.text import line

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings
    from transship.engine.progress import Snapshot

_PATIENCE = 120.0
"""Seconds that the service manager is to wait from the last time on that the run advanced."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "boot",
        help="migrate as armed; for transship-boot.service",
        description="Has the service migrate what `transship arm` asked for, and disarms the host when all is moved. For"
        " transship-boot.service, which the service manager lets go on for as long as the migration advances.",
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
    async with reached(settings.service.socket, state_dir) as client:
        if client is None:
            raise ServiceUnavailable(
                f"there is no service at {settings.service.socket} that keeps its journal in {state_dir}",
                remedy="see `systemctl status transship.socket`",
            )
        since = time.time()
        run, begun = await client.start(order)
        async with showing(_BootDisplay(Notifier.from_environment())) as display:
            report = await followed(client, run, since if begun else 0, display)
    summarise(report)
    if not report.complete:
        return ExitCode.INCOMPLETE
    await to_thread.run_sync(armed.disarm, state_dir)
    return ExitCode.DONE


class _BootDisplay(PlainDisplay):
    """Tells the service manager, too."""

    def __init__(self, manager: Notifier) -> None:
        super().__init__()
        self._manager = manager
        self._before: Snapshot | None = None

    def tell(self, now: Snapshot) -> None:
        super().tell(now)
        self._manager.status(line(now))
        if self._before is None or (now.done, now.skipped) != (self._before.done, self._before.skipped):
            self._manager.extend_timeout(_PATIENCE)
        self._before = now
