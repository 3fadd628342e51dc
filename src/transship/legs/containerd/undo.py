"""Taking back what a migration made.

Names are removed one by one; blobs and snapshots go when nothing refers to them any more, so that what someone else has come to
use since then stays.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from transship.errors import TargetNotFound
from transship.formats.digest import Digest
from transship.legs.containerd import naming
from transship.legs.containerd.images import NamedImage
from transship.legs.containerd.layers import LayerBlob, present
from transship.legs.containerd.manifests import stored_manifest
from transship.legs.containerd.voyage import RUN_LABEL
from transship.stores.interfaces import ImageDescriptor, ImageRecord

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transship.engine.records import StepRecord
    from transship.engine.rollback import Undo
    from transship.engine.step import Value
    from transship.stores.interfaces import Target


def undo_of(target: Target, made: Sequence[StepRecord]) -> Undo:
    """Return what removes each kind of step's result from ``target``; ``made`` is all that is to be undone."""
    undoing = _Undoing(target, made)
    return {"image": undoing.image, "manifest": undoing.manifest, "snapshot": undoing.snapshot, "blob": undoing.blob}


def remove_torn_names(target: Target, namespace: str, run: str, torn: Sequence[StepRecord], made: Sequence[StepRecord]) -> None:
    """Remove the names that ``torn`` steps of ``run`` wrote: steps that a kill kept from being journalled as done.

    They are told by the run's label; those that are among ``made`` are left to be undone.
    """
    keys = {step.key.partition(":")[2] for step in torn if step.kind == "image"}
    images = {Digest(key) for key in keys if key.startswith("sha256:")}
    known = {msgspec.convert(step.value, NamedImage).name for step in made if step.kind == "image" and step.value is not None}
    for record in list(target.images.list()) if keys else ():
        names = keys | {naming.untagged(namespace, image_id, record.target.digest) for image_id in images}
        if record.labels.get(RUN_LABEL) == run and record.name in names - known:
            target.images.delete(record.name)


class _Undoing:
    def __init__(self, target: Target, made: Sequence[StepRecord]) -> None:
        self._target = target
        self._digests = frozenset(digest for step in made for digest in _digests(step))
        self._snapshots = frozenset(step.key.partition(":")[2] for step in made if step.kind == "snapshot")
        self._collected = False

    def image(self, _key: str, value: Value) -> bool:
        """Remove a name, or point it where it pointed before. False if it has come to point elsewhere since."""
        named = msgspec.convert(value, NamedImage)
        images = self._target.images
        try:
            found = images.get(named.name)
        except TargetNotFound:
            return True
        previous = named.previous
        if found.target.digest != named.digest:
            # Where it pointed before: this was undone already, and the kill came before it was written down.
            return previous is not None and found.target.digest == previous.digest
        if previous is not None and present(lambda: self._target.content.info(previous.digest)):
            before = ImageDescriptor(previous.media_type, previous.digest, previous.size)
            images.put(ImageRecord(named.name, before, previous.labels))
        else:
            images.delete(named.name)
        self._collected = False
        return True

    def manifest(self, _key: str, value: Value) -> bool:
        return self._gone(*stored_manifest(value).stored)

    def blob(self, _key: str, value: Value) -> bool:
        return self._gone(msgspec.convert(value, LayerBlob).digest)

    def snapshot(self, key: str, _value: Value) -> bool:
        snapshots = self._target.snapshots
        name = key.partition(":")[2]
        self._collect()
        return snapshots is None or not present(lambda: snapshots.stat(name))

    def _gone(self, *digests: Digest) -> bool:
        self._collect()
        return not any(present(partial(self._target.content.info, digest)) for digest in digests)

    def _collect(self) -> None:
        """Have the target remove what nothing refers to, once after the last name that was removed."""
        if not self._collected:
            self._target.collect(self._digests, self._snapshots)
            self._collected = True


def _digests(step: StepRecord) -> Sequence[Digest]:
    if step.value is None:
        return ()
    if step.kind == "blob":
        return (msgspec.convert(step.value, LayerBlob).digest,)
    return stored_manifest(step.value).stored if step.kind == "manifest" else ()
