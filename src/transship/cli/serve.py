"""``transship serve``: the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transship import config
from transship.cli.options import add_socket, add_state_dir, overridden
from transship.daemon.serve import serve
from transship.errors import ExitCode

if TYPE_CHECKING:
    import argparse

    from transship.config import Settings

HEEDS_SIGNALS = True
"""It knows by itself what they mean."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "serve",
        help="run as a service that migrates, and tells how it goes, on a Unix socket",
        description="Answers HTTP requests on a Unix socket (see docs/reference/api.md), one migration at a time. Takes its"
        " socket from systemd, or makes one. SIGTERM stops it, and it goes on with an unfinished run at its next start; SIGHUP"
        " has it read its configuration again.",
    )
    add_socket(parser)
    add_state_dir(parser)
    return parser


async def run(options: argparse.Namespace, settings: Settings) -> ExitCode:
    """Serve until told to stop; return DONE. Raises TransshipError."""

    def reread() -> Settings:
        return overridden(options, config.load(options.config))

    await serve(overridden(options, settings), reread)
    return ExitCode.DONE
