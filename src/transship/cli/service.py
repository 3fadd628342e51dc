"""The service that a command turns to."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING

from transship.client.client import reached
from transship.errors import ServiceUnavailable

if TYPE_CHECKING:
    import argparse
    from contextlib import AbstractAsyncContextManager

    from transship.client.client import Client
    from transship.config import Settings


def found(options: argparse.Namespace, settings: Settings) -> AbstractAsyncContextManager[Client | None]:
    """Yield a client of the service that keeps its journal where ``settings`` say; None if there is none, or with ``--direct``.

    Raises AccessDenied, ServiceUnavailable.
    """
    if getattr(options, "direct", False):
        return nullcontext()
    return reached(settings.service.socket, settings.run.state_dir)


def missing(settings: Settings, remedy: str) -> ServiceUnavailable:
    """Return the error of a command that cannot do without the service."""
    return ServiceUnavailable(
        f"no service on {settings.service.socket} that keeps its journal in {settings.run.state_dir}", remedy=remedy
    )
