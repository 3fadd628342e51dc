"""What the service is at, written down so that it goes on with it after a crash.

Runs that someone cancelled, or began without the service, are nobody's business at the next start; the journal alone
cannot tell these from one that a kill or a power cut stopped.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from transship.api.models import Order
from transship.engine import state_file

if TYPE_CHECKING:
    from pathlib import Path

FILE_NAME = "unfinished.json"


class Migration(msgspec.Struct, frozen=True, tag="migration"):
    """A migration that goes on until it ends."""

    order: Order


class Return(msgspec.Struct, frozen=True, tag="rollback"):
    """A rollback of ``run``."""

    run: str


Task = Migration | Return


class _Pledge(msgspec.Struct, frozen=True):
    task: Task


def give(state_dir: Path, task: Task) -> None:
    """Write down that ``task`` has begun. Raises JournalError."""
    state_file.write(state_dir / FILE_NAME, _Pledge(task))


def given(state_dir: Path) -> Task | None:
    """Return what has begun and not ended, None if nothing. Raises JournalError."""
    pledge = state_file.read(state_dir / FILE_NAME, _Pledge)
    return None if pledge is None else pledge.task


def redeem(state_dir: Path) -> None:
    """It has ended. Raises JournalError."""
    state_file.remove(state_dir / FILE_NAME)
