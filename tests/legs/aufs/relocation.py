"""Relocating a data root and taking that back, without the rest of the program."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import anyio

from tests.legs.containerd.trees_on_disk import sail
from tests.real.trees import MTIME, listing
from transship.engine.journal import Journal
from transship.engine.plan import Plan
from transship.engine.rollback import rollback
from transship.files.ledger import Ledger
from transship.legs.aufs.steps import KINDS, plan_relocation, touched
from transship.legs.left_out import lost_step

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.trees import Tree
    from transship.engine.events import Event
    from transship.engine.step import Context
    from transship.engine.summary import Summary
    from transship.legs.left_out import LeftOut


NO_ENGINE = cast("Context", None)
"""What a step is given that asks nothing of the engine."""


def ledger_of(root: Path, run: str = "undo") -> Ledger:
    """Return the ledger of a run, beside the data root; it has the times of directories."""
    ledger = Ledger(root, root.with_name(f"{root.name}-{run}"))
    ledger.remember_times(touched(root))
    return ledger


def relocate(root: Path, state: str = "state") -> tuple[Summary, list[LeftOut]]:
    """Do all steps of a run."""
    steps, left_out = plan_relocation(root, ledger_of(root))
    lost = [lost_step(left) for left in left_out if left.lost]
    return sail(Plan([*steps, *lost]), root.with_name(f"{root.name}-{state}")), left_out


def relocated(root: Path) -> list[str]:
    """Do all steps, of which none may fail, in this thread; return their keys."""
    steps, left_out = plan_relocation(root, ledger_of(root))
    assert left_out == []
    for step in Plan(steps).ordered():
        step.run(NO_ENGINE)
        assert step.check({})
    return [step.key for step in steps]


def take_back(root: Path, state: str = "state") -> list[str]:
    """Roll back the run; return the keys of what was kept."""
    ledger = ledger_of(root)

    async def ignore(_: Event) -> None:
        """Nobody watches."""

    with Journal.open(root.with_name(f"{root.name}-{state}")) as journal:
        [run] = journal.runs()
        undo = dict.fromkeys(KINDS, lambda key, _: ledger.take_back(key))
        result = anyio.run(rollback, run.id, journal, undo, ignore)
    ledger.restore_times()
    assert result.failed == ()
    return list(result.kept)


def timeless(tree: Tree) -> Tree:
    """Return a tree without the times of anything."""
    return {name: [*entry[:MTIME], *entry[MTIME + 1 :]] for name, entry in tree.items()}


def state_of(root: Path) -> Tree:
    """Describe a data root, but for times."""
    return timeless(listing(root))
