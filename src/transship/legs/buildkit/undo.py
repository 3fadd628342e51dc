"""Bringing a build cache back to version 1 of its metadata, which were never changed."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from transship.errors import SourceMissing
from transship.legs.buildkit.job import Containerd, Job, job
from transship.legs.buildkit.steps import LABELS, LABELS_FILE, LEASES, LEASES_FILE, METADATA, RECORDS
from transship.legs.trouble import trouble
from transship.stores.buildkit.places import find_caches
from transship.stores.busy import ensure_not_in_use

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.engine.records import RunRecord, StepRecord
    from transship.engine.rollback import Undo
    from transship.engine.step import Value

_CHANGING = {METADATA: "", LABELS: LABELS_FILE, LEASES: LEASES_FILE}
"""Kinds of steps that change something, the last first, with the name of what they have written down."""


class CacheRestoration:
    """The taking back of what a run has changed in build caches.

    BuildKit may have run since. If it has changed the metadata of version 2, all stays as it is, since they need it.
    """

    def __init__(
        self,
        state_dir: Path,
        run: RunRecord,
        made: Sequence[StepRecord],
        unfinished: Sequence[StepRecord],
        containerd: Containerd,
    ) -> None:
        """``made`` are the steps of ``run`` that changed something; ``unfinished`` were killed or failed, and may have."""
        self._root = Path(run.options["source"])
        self._concerned = any(step.kind in _CHANGING for step in (*made, *unfinished))
        self._job = partial(job, state_dir=state_dir, run=run.id, containerd=containerd)
        self._unfinished = {step.key for step in unfinished if step.kind in _CHANGING}
        self._kept: set[str] = set()

    def begin(self) -> None:
        """Take back what unfinished steps have changed. Raises SourceBusy if a daemon uses the cache, TransshipError."""
        if self._concerned:
            ensure_not_in_use(self._root)
        for kind in _CHANGING:
            for key in sorted(self._unfinished):
                if key.startswith(f"{kind}:"):
                    self._take_back(key)

    @property
    def undo(self) -> Undo:
        """What takes back each kind of step."""
        return {RECORDS: lambda _key, _value: True, **dict.fromkeys(_CHANGING, self._take_back)}

    def _take_back(self, key: str, _value: Value | None = None) -> bool:
        kind, _, name = key.partition(":")
        if name in self._kept:
            return False
        whole = self._taken_back(self._found(name), kind, key)
        if not whole and kind == METADATA:
            self._kept.add(name)
        return whole

    def _taken_back(self, found: Job, kind: str, key: str) -> bool:
        try:
            if kind == METADATA:
                return found.ledger.take_back(key)
            with found.holder() as holder:
                whole = True
                for file in reversed(found.changes(_CHANGING[kind])):
                    whole &= holder.revert(file.read_bytes())
                return whole
        except OSError as error:
            raise trouble(error, found.cache.place) from error

    def _found(self, name: str) -> Job:
        for cache in find_caches(self._root):
            found = self._job(self._root, cache)
            if found.name == name:
                return found
        raise SourceMissing(f"the build cache {self._root / name} is not there any more", remedy="nothing is left to take back")
