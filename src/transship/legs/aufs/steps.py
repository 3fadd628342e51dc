"""Steps that bring the layout of Docker 0.6 to that of the graph driver aufs: one for each image, each container, the names.

Source: moby v1.9.1 ``daemon/graphdriver/aufs/migrate.go``. Differences: damage fails what it concerns, not everything; and
containers that were never started, which Docker passed over and 1.10 then lost, get their layers, too.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from transship.engine.step import Resource, Result, Step
from transship.errors import SourceCorrupt
from transship.legs.aufs.layers import HOME, book, container_changes, image_changes
from transship.legs.aufs.names import OLD, disputed_names, name_changes
from transship.legs.left_out import LeftOut
from transship.legs.trouble import trouble
from transship.stores.docker import small_files
from transship.stores.graph.before_drivers import container_place, image_place, read_containers, read_layers
from transship.stores.graph.images import ID, SHORT_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from transship.engine.step import Context, Value
    from transship.files.changes import Change
    from transship.files.ledger import Ledger

KINDS = ("relocate-image", "relocate-container", "relocate-names")


def plan_relocation(root: Path, ledger: Ledger) -> tuple[list[Step], list[LeftOut]]:
    """Return the steps to be done in the data root ``root``, and those that ``ledger`` has begun; and what cannot be moved.

    Reads all metadata that this needs; writes nothing. Raises SourceError.
    """
    if not (root / "graph").is_dir():
        return [], []
    layers = read_layers(root)
    relocation = _Relocation(root, ledger, {image.id: image.parent for image in layers.images})
    names, left_out = relocation.of_names()
    images = relocation.of_images()
    containers, lost = relocation.of_containers(images)
    left_out += [LeftOut.of(layer_id, error, lost=True) for layer_id, error in (layers.lost | lost).items()]
    left_out += [_stray(path) for path in layers.strays]
    return [*names, *images.values(), *containers], left_out


def touched(root: Path) -> list[str]:
    """Return the directories whose times a relocation changes, relative to ``root``. Raises SourceError."""
    images = [f"graph/{entry.name}" for entry in small_files.entries(root / "graph") if SHORT_ID.fullmatch(entry.name)]
    containers = [f"containers/{entry.name}" for entry in small_files.entries(root / "containers") if ID.fullmatch(entry.name)]
    return ["", *HOME, *images, *containers]


@dataclass(frozen=True)
class _Relocation:
    """What is to be done in ``root``. ``parents`` are those of all images with a layer of aufs, by ID, parents first."""

    root: Path
    ledger: Ledger
    parents: Mapping[str, str | None]

    def of_names(self) -> tuple[list[Step], list[LeftOut]]:
        """Return the step for the names, if there is one; and what is wrong with them."""
        key, old = f"relocate-names:{OLD}", self.root / OLD
        changes: list[Change] = []
        left_out: list[LeftOut] = []
        if os.path.lexists(old):
            try:
                changes = name_changes(self.root)
                left_out = disputed_names(self.root) if len(changes) > 1 else []
            except SourceCorrupt as error:
                return [], [LeftOut.of(str(old), error, lost=True)]
        elif not self.ledger.knows(key):
            return [], []
        return [self._step(key, lambda: changes, lambda: not os.path.lexists(old))], left_out

    def of_images(self) -> dict[str, Step]:
        """Return the steps of the images that are to be moved, by ID, parents first."""
        steps: dict[str, Step] = {}
        for image_id, parent in self.parents.items():
            key = f"relocate-image:{image_id}"
            if os.path.lexists(self.root / image_place(image_id)) or self.ledger.knows(key):
                changes = partial(image_changes, self.root, image_id, self.parents)
                is_made = partial(self._is_moved, image_place(image_id), image_id)
                steps[image_id] = self._step(key, changes, is_made, needs=[steps[parent].key] if parent in steps else [])
        return steps

    def of_containers(self, images: Mapping[str, Step]) -> tuple[list[Step], dict[str, SourceCorrupt]]:
        """Return the steps of the containers, which need those of ``images``; and why others cannot be moved, by ID."""
        found, lost = read_containers(self.root)
        steps: dict[str, Step] = {}
        for container in found:
            if container.image in self.parents:
                changes = partial(container_changes, self.root, container, self.parents)
                needs = [images[container.image].key] if container.image in images else []
                steps[container.id] = self._container_step(container.id, changes, needs)
            else:
                reason = f"container {container.id}: its image {container.image[:100]!r} cannot be moved, or has no layer"
                lost[container.id] = SourceCorrupt(
                    reason, remedy="its files stay where they are; see what is said of the image"
                )
        for entry in small_files.entries(self.root / "containers"):
            if entry.name not in {*steps, *lost} and self.ledger.knows(f"relocate-container:{entry.name}"):
                steps[entry.name] = self._container_step(entry.name, list, [])
        return list(steps.values()), lost

    def _container_step(self, container_id: str, changes: Callable[[], Iterable[Change]], needs: Sequence[str]) -> Step:
        is_made = partial(self._is_moved, container_place(container_id), container_id)
        return self._step(f"relocate-container:{container_id}", changes, is_made, needs=needs)

    def _is_moved(self, old: str, layer_id: str) -> bool:
        return not os.path.lexists(self.root / old) and os.path.lexists(self.root / book(layer_id))

    def _step(
        self, key: str, changes: Callable[[], Iterable[Change]], is_made: Callable[[], bool], *, needs: Sequence[str] = ()
    ) -> Step:
        def run(_context: Context) -> Result:
            try:
                to_make = list(changes())
                return Result({"changes": len(to_make)}, created=self.ledger.make(key, to_make))
            except OSError as error:
                raise trouble(error, self.root) from error

        def check(_value: Value) -> bool:
            return is_made()

        kind, _, what = key.partition(":")
        return Step(key, f"move {kind.removeprefix('relocate-')} {what[:12]}", Resource.DISK, run, check, tuple(needs))


def _stray(path: str) -> LeftOut:
    shown = small_files.shown(path)
    return LeftOut(shown, f"{shown} is not called by an image ID", "no image was ever to be had from it", lost=False)
