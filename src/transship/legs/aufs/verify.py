"""The check of an old root whose layers were relocated: whether anything is still where Docker 0.6 had it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.legs.aufs.steps import plan_relocation
from transship.legs.left_out import LeftOut, lost_step

if TYPE_CHECKING:
    from pathlib import Path

    from transship.engine.step import Step
    from transship.files.ledger import Ledger


def plan_check(root: Path, ledger: Ledger) -> list[Step]:
    """Return a step that fails for each thing in the data root ``root`` that is not where it is to be. Raises SourceError."""
    remaining, left_out = plan_relocation(root, ledger)
    remedy = "run `transship migrate --target graph` again"
    found = [LeftOut(step.key, "is still where Docker 0.6 had it", remedy, lost=True) for step in remaining]
    return [lost_step(left) for left in (*found, *left_out) if left.lost]
