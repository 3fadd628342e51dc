"""The file that arms a host: at its next boot, what the file orders is migrated before Docker starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.api.models import Order
from transship.engine import state_file

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "armed"


def arm(state_dir: Path, order: Order) -> None:
    """Write down what to do at the next boot. Raises JournalError."""
    state_file.write(state_dir / FILE_NAME, order)


def armed(state_dir: Path) -> Order | None:
    """Return what to do at the next boot, None if nothing. Raises JournalError."""
    return state_file.read(state_dir / FILE_NAME, Order)


def disarm(state_dir: Path) -> bool:
    """Do nothing at the next boot; return whether something was to be done. Raises JournalError."""
    return state_file.remove(state_dir / FILE_NAME)
