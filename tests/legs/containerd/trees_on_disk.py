"""A target whose snapshots are plain directories: what a leg needs of a snapshotter, without a daemon."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

import anyio

from transship.engine import run as engine_run
from transship.engine.journal import Journal
from transship.engine.progress import Progress
from transship.engine.step import Resource
from transship.errors import TargetNotFound
from transship.files.fill import FillMode
from transship.formats.compression import Recipe
from transship.legs.containerd.itinerary import plan_voyage
from transship.legs.containerd.voyage import Voyage
from transship.stores.interfaces import SnapshotInfo, SnapshotKind, TreeForm
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.engine.events import Event
    from transship.engine.plan import Plan
    from transship.engine.summary import Summary
    from transship.stores.docker.store import Store
    from transship.stores.interfaces import Labels, Snapshotter


class DirectorySnapshotter:
    """``Snapshotter`` in a directory: a snapshot is ``<state>-<name>``, with its tree and a note of its parent."""

    name = "directories"

    def __init__(self, directory: Path, form: TreeForm) -> None:
        self._directory = directory
        self.form = form
        directory.mkdir()

    def stat(self, name: str) -> SnapshotInfo:
        for kind in (SnapshotKind.COMMITTED, SnapshotKind.ACTIVE):
            place = self._directory / f"{kind.value}-{name}"
            if place.exists():
                return SnapshotInfo(name, kind, (place / "parent").read_text() or None)
        raise TargetNotFound(f"no snapshot {name}")

    def list(self) -> Iterator[SnapshotInfo]:
        for place in self._directory.iterdir():
            yield self.stat(place.name.partition("-")[2])

    def prepare(self, key: str, parent: str | None) -> Path:
        if parent is not None:
            self.stat(parent)
        place = self._directory / f"active-{key}"
        self.remove(key)
        (place / "tree").mkdir(parents=True)
        (place / "parent").write_text(parent or "")
        return place / "tree"

    def commit(self, name: str, key: str, labels: Labels) -> bool:  # noqa: ARG002
        (self._directory / f"active-{key}").rename(self._directory / f"committed-{name}")
        return True

    def directory(self, name: str) -> Path:
        self.stat(name)
        return self._directory / f"committed-{name}" / "tree"

    def remove(self, key: str) -> None:
        shutil.rmtree(self._directory / f"active-{key}", ignore_errors=True)


class TargetWithTrees(LayoutTarget):
    """An OCI layout, with snapshots beside it."""

    def __init__(self, place: Path, form: TreeForm) -> None:
        super().__init__(place / "layout")
        self.trees = DirectorySnapshotter(place / "snapshots", form)
        self.snapshots: Snapshotter | None = self.trees


def sail(plan: Plan, state_dir: Path, scope: str = "test") -> Summary:
    """Run the steps of a plan, except those of ``scope`` that are done and still stand."""

    async def ignore(_: Event) -> None:
        """Nobody watches."""

    with Journal.open(state_dir) as journal:
        run = journal.start_run("test", scope, {})
        work = partial(
            engine_run.run,
            plan,
            journal=journal,
            run_id=run,
            standing=journal.standing(scope),
            limits=dict.fromkeys(Resource, 2),
            emit=ignore,
            progress=Progress(plan),
        )
        return anyio.run(work)


def migrated(store: Store, target: TargetWithTrees, state_dir: Path, namespace: str = "moby") -> Summary:
    """Move everything in ``store``."""
    voyage = Voyage(store, target, Recipe.make(), FillMode.AUTO, namespace, os.cpu_count() or 1, "run")
    images = list(store.images.values())
    return sail(plan_voyage(voyage, images, {}, damage=True).plan, state_dir)
