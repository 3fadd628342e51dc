"""Trees made aside: what a layer of many files goes through before it is a snapshot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.legs.containerd.trees_on_disk import TargetWithTrees, migrated, sail
from transship.engine.journal import Journal
from transship.engine.records import RunState
from transship.engine.step import State
from transship.files.fill import FillMode
from transship.formats.compression import Recipe
from transship.legs.containerd import snapshots
from transship.legs.containerd.itinerary import plan_voyage
from transship.legs.containerd.verify import plan_verification
from transship.legs.containerd.voyage import Voyage
from transship.stores.docker.store import Store, read_store
from transship.stores.interfaces import SnapshotKind, TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable

    from transship.engine.plan import Plan


@pytest.fixture(autouse=True)
def every_layer_has_many_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "MANY_FILES", 0)


@pytest.fixture(params=["overlay2", "vfs", "aufs", "overlay"])
def store(request: pytest.FixtureRequest, docker_fixture: Callable[[str], Path]) -> Store:
    driver = str(request.param)
    found = read_store(docker_fixture(driver), driver)
    # A few layers are enough: each starts a process.
    kept = {image.id: image for image in found.images.values() if len(image.chain_ids) <= 6}
    return Store(found.root, found.root, driver, kept, found.layers, {}, found.references, ())


@pytest.fixture(params=list(TreeForm))
def target(request: pytest.FixtureRequest, tmp_path: Path) -> TargetWithTrees:
    return TargetWithTrees(tmp_path, request.param)


def planned(store: Store, target: TargetWithTrees) -> Plan:
    voyage = Voyage(store, target, Recipe.make(), FillMode.AUTO, "moby", os.cpu_count() or 1, "run")
    return plan_voyage(voyage, list(store.images.values()), {}, damage=True).plan


def ensure_whole(store: Store, target: TargetWithTrees, tmp_path: Path) -> None:
    checked = sail(plan_verification(store, target, list(store.images.values())), tmp_path / "verification")
    assert checked.state is RunState.DONE, checked.failed
    assert {info.kind for info in target.trees.list()} == {SnapshotKind.COMMITTED}


def test_every_tree_arrives_whole_and_nothing_stays_aside(store: Store, target: TargetWithTrees, tmp_path: Path) -> None:
    assert migrated(store, target, tmp_path / "state").state is RunState.DONE
    ensure_whole(store, target, tmp_path)


def test_trees_that_are_there_are_taken_and_those_half_moved_made_again(
    store: Store, target: TargetWithTrees, tmp_path: Path
) -> None:
    plan = planned(store, target)
    trees = [step.key for step in plan if step.kind == "tree"]
    first = sail(plan.subset(trees), tmp_path / "state")
    assert first.state is RunState.DONE
    with Journal.read_only(tmp_path / "state") as journal:
        made = {step.key: step.value for step in journal.steps(journal.runs()[0].id, State.DONE)}
    torn = trees[0]
    value = made[torn]
    assert value is not None
    moved = target.trees.prepare(f"transship-{torn.removeprefix('tree:')}", None)
    Path(value["directory"]).rename(moved)  # as by a kill between the rename and the commit

    summary = sail(planned(store, target), tmp_path / "state")
    assert summary.state is RunState.DONE, summary.failed
    assert summary.skipped == first.done - 1
    ensure_whole(store, target, tmp_path)
