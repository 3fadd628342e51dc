"""Putting an old root back as it was before it was upgraded in place."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from transship.legs.aufs.steps import KINDS as RELOCATIONS
from transship.legs.graph.images import MAPPING_KEY, NewImage
from transship.legs.graph.migrate import ledger_of
from transship.legs.graph.uses import Uses
from transship.legs.trouble import trouble
from transship.stores.busy import ensure_not_in_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.engine.records import RunRecord, StepRecord
    from transship.engine.rollback import Undo
    from transship.engine.step import Value

_KINDS = ("checksum", "v1-store", "v1-image", "v1-container", "v1-names", *RELOCATIONS)


def undo_of_metadata() -> Undo:
    """Return what takes back steps that made metadata in the state directory: nothing. They serve the next run, and are no
    part of the target.
    """
    return dict.fromkeys(_KINDS, lambda _key, _value: True)


class Restoration:
    """The taking back of what a run has changed in an old root.

    Docker may have run on it since. What it has changed stays as it is, and so does what this stands on.
    """

    def __init__(self, state_dir: Path, run: RunRecord, made: Sequence[StepRecord], unfinished: Sequence[StepRecord]) -> None:
        """``made`` are the steps of ``run`` that changed something; ``unfinished`` were killed or failed, and may have."""
        self._root = Path(run.options["source"])
        self._driver = str(run.options["driver"])
        self._ledger = ledger_of(self._root, state_dir, run.id)
        self._made = frozenset(_new_image(step.value).image_id for step in made if step.kind == "v1-image")
        self._unfinished = unfinished
        self._uses: Uses | None = None
        self._kept_images = False

    def begin(self) -> None:
        """Take back what unfinished steps have changed. Raises SourceBusy if a daemon uses the root, TransshipError."""
        ensure_not_in_use(self._root)
        self._take_back_unfinished()

    @property
    def undo(self) -> Undo:
        """What takes back each kind of step."""
        special = {"v1-image": self._image, "v1-container": self._changed_alone, "v1-names": self._changed_alone}
        return {**dict.fromkeys(_KINDS, self._take_back), **special}

    def end(self) -> None:
        """Have the directories look as if nothing had ever been changed in them. Raises TransshipError, OSError."""
        if not self._kept_images:
            self._take_back(MAPPING_KEY)
        self._take_back_unfinished()  # of directories that they made, in which there was something before
        self._ledger.restore_times()

    def _image(self, key: str, value: Value) -> bool:
        """Take back an image, unless something else stands on it by now. Containers and names have been taken back before."""
        if self._uses is None:
            self._uses = Uses.of(self._root, self._driver, self._made)
        image = _new_image(value)
        if image.image_id in self._uses.images or image.chain_id in self._uses.chains:
            self._kept_images = True
            return False
        return self._take_back(key)

    def _changed_alone(self, key: str, _value: Value) -> bool:
        """Take back all of what belongs together, or, if some of it has been changed since, nothing."""
        return self._ledger.is_as_made(key) and self._take_back(key)

    def _take_back_unfinished(self) -> None:
        for step in reversed(self._unfinished):
            self._take_back(step.key)

    def _take_back(self, key: str, _value: Value | None = None) -> bool:
        """Take back what the step ``key`` changed. False if some of it has been changed since by something else."""
        try:
            return self._ledger.take_back(key)
        except OSError as error:
            raise trouble(error, self._root) from error


def _new_image(value: Value | None) -> NewImage:
    return msgspec.convert(value, NewImage)
