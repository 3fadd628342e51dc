"""Putting an old root back as it was before it was upgraded in place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from transship.legs.aufs.steps import KINDS as RELOCATIONS
from transship.legs.graph.images import MAPPING_KEY
from transship.legs.graph.migrate import ledger_of
from transship.legs.trouble import trouble
from transship.stores.docker.busy import ensure_not_in_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.engine.records import RunRecord, StepRecord
    from transship.engine.rollback import Undo
    from transship.engine.step import Value
    from transship.files.ledger import Ledger

_KINDS = ("checksum", "v1-store", "v1-image", "v1-container", "v1-names", *RELOCATIONS)


def undo_of_metadata() -> Undo:
    """Return what takes back steps that made metadata in the state directory: nothing. They serve the next run, and are no
    part of the target.
    """
    return dict.fromkeys(_KINDS, lambda _key, _value: True)


@dataclass(frozen=True)
class Restoration:
    """The taking back of what a run has changed in ``root``."""

    root: Path
    ledger: Ledger
    unfinished: Sequence[StepRecord]

    @classmethod
    def of(cls, state_dir: Path, run: RunRecord, unfinished: Sequence[StepRecord]) -> Self:
        """Return that of ``run``. Of its steps those ``unfinished`` were killed or failed, and may have changed something."""
        root = Path(run.options["source"])
        return cls(root, ledger_of(root, state_dir, run.id), unfinished)

    def begin(self) -> None:
        """Take back what unfinished steps have changed. Raises SourceBusy if a daemon uses the root, TransshipError."""
        ensure_not_in_use(self.root)
        self._take_back_unfinished()

    @property
    def undo(self) -> Undo:
        """What takes back each kind of step."""
        return dict.fromkeys(_KINDS, self._take_back)

    def end(self) -> None:
        """Have the directories look as if nothing had ever been changed in them. Raises TransshipError, OSError."""
        self._take_back_unfinished()  # of directories that they made, in which there was something before
        self.ledger.restore_times()

    def _take_back_unfinished(self) -> None:
        for step in reversed(self.unfinished):
            self._take_back(step.key, {})

    def _take_back(self, key: str, _value: Value) -> bool:
        """Take back what the step ``key`` changed. False if some of it has been changed since by something else."""
        try:
            pages = [key, MAPPING_KEY] if key.startswith("v1-image:") else [key]
            taken = [self.ledger.take_back(page) for page in pages]
            return all(taken)
        except OSError as error:
            raise trouble(error, self.root) from error
