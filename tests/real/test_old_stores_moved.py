"""Stores of Docker 1.9 moved straight into a real containerd: everything arrives, and the old root is not written to."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.facts import canonical, read_json
from tests.real.state import State, collect_garbage, state, unpacked
from tests.real.trees import comparable, differences, listing, snapshot_tree
from tests.v1_stores import copy_v1_root

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.command import Ended
    from tests.real.conftest import Containerd
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

HUB = "docker.io/library"
MTIME_OF_WHITEOUT = "f4ef69173478c1b38972b432e8d2687aa243ccff98fa64ccd2146d4c82cb9be9"
"""An image of vfs-damaged: its whiteout has the time of the migration in Docker's, a fixed one in ours."""
LOST = {"vfs-damaged": ("89d62e22404b", "f66475d0231a", "broken:1", "broken:latest", "brokenchild:1", "gone:1")}
"""Images and names of vfs-damaged that are lost: their JSON is cut off, their parent is so, or they are not there."""
PLACES = {"vfs-damaged": "vfs/dir/{}", "overlay": "overlay/{}/root"}
"""Where a graph driver shows all of an image."""
OWNER_OF_SHARED = "org.mobyproject.content.image"
"""A label that tells one of the images that a blob belongs to: whichever was first."""


@dataclass(frozen=True)
class Voyage:
    """A store that was moved into a namespace of a containerd."""

    name: str
    theirs: Path
    """What Docker 1.10.3 made of the same store."""
    root: Path
    containerd: Containerd
    transship: Transship
    ended: Ended
    map: dict[str, Any]
    touched: set[str]
    """The paths in the old root that are not as they were."""
    after: State = field(repr=False)

    @property
    def snapshotter(self) -> str:
        return "native" if self.name == "vfs-damaged" else "overlayfs"


@pytest.fixture(scope="module", params=["vfs-damaged", "overlay", "aufs"])
def voyage(
    request: pytest.FixtureRequest,
    containerd: Containerd,
    docker_fixture: Callable[[str], Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Voyage:
    name = request.param
    place = tmp_path_factory.mktemp("moved")
    root = copy_v1_root(docker_fixture(name), place / "root")
    traits(root)  # reads directories, which sets when that was done last
    before = traits(root)
    transship = to(containerd, root, place / "state", name)
    ended = transship("migrate").expect(name in LOST)
    after = traits(root)
    touched = {path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    made = state(containerd, name)
    return Voyage(name, docker_fixture(name), root, containerd, transship, ended, read_json(ended.last["map"]), touched, made)


def to(containerd: Containerd, root: Path, state_dir: Path, namespace: str) -> Transship:
    target = ("--target", f"containerd:{containerd.socket}", "--namespace", namespace)
    return Transship(state_dir, ("--source", root, *target))


def traits(root: Path) -> dict[str, tuple[int, ...]]:
    """All that is known of each file, when it was last read included."""
    paths = [str(root)]
    for directory, directories, files in os.walk(root):
        paths += [os.path.join(directory, name) for name in (*directories, *files)]  # noqa: PTH118 - names that are not UTF-8
    return {path: _traits(os.lstat(path)) for path in paths}


def _traits(status: os.stat_result) -> tuple[int, ...]:
    times = status.st_mtime_ns, status.st_ctime_ns, status.st_atime_ns
    return status.st_ino, status.st_mode, status.st_uid, status.st_gid, status.st_nlink, status.st_size, *times


def test_the_old_root_is_not_written_to(voyage: Voyage) -> None:
    assert voyage.touched == set()


def test_what_is_lost_is_said(voyage: Voyage) -> None:
    failed = {step["key"].removeprefix("lost:")[:13].removesuffix(":") for step in voyage.ended.last["failed"]}
    lost = {each[:13] for each in LOST.get(voyage.name, ())}
    assert {each[:12] for each in failed} == {each[:12] for each in lost}


def test_every_image_is_complete_and_unpacked(voyage: Voyage) -> None:
    said = unpacked(voyage.containerd, voyage.name, voyage.snapshotter)
    assert {each.split()[0] for each, _ in said.values()} == {"complete"}
    assert all(is_unpacked for _, is_unpacked in said.values())
    driver = voyage.name.removesuffix("-damaged")
    theirs = read_json(voyage.theirs / "image" / driver / "repositories.json")["Repositories"]
    tags = {canonical(tag) for names in theirs.values() for tag in names if "@" not in tag}
    dangling = {f"moby-dangling@{image['manifest']}" for image in voyage.map["images"] if not image["references"]}
    assert said.keys() == tags | dangling


def test_the_map_knows_the_old_ids(voyage: Voyage) -> None:
    ours = {v1_id: image["image_id"] for image in voyage.map["images"] for v1_id in image["v1_ids"]}
    theirs = read_json(voyage.theirs / ".migration-v1-images.json")
    unlike = {v1_id for v1_id in {*ours, *theirs} if ours.get(v1_id) != theirs.get(v1_id)}
    assert unlike == ({MTIME_OF_WHITEOUT} if voyage.name == "vfs-damaged" else set())
    assert len(ours) > 15


def test_trees_are_what_the_driver_shows(voyage: Voyage) -> None:
    """But for times of directories: the driver overlay made these anew for each image, others say when a layer was made."""
    if voyage.name not in PLACES:
        return  # of aufs there is no whole tree on disk: see below
    trees = 0
    for image in voyage.map["images"]:
        moved = snapshot_tree(voyage.containerd, voyage.name, voyage.snapshotter, image["layers"][-1]["chain_id"])
        for v1_id in image["v1_ids"]:
            shown = listing(voyage.root / PLACES[voyage.name].format(v1_id))
            assert differences(without_times(voyage, moved), without_times(voyage, shown)) == {}, v1_id
            trees += 1
    assert trees > 50


def without_times(voyage: Voyage, tree: Tree) -> Tree:
    """Leave out what is not in layers: of the driver vfs, when an image's root directory was changed last."""
    root, *rest = tree.items()
    assert root[0] == "."
    kept = dict(rest) if voyage.name == "vfs-damaged" else tree
    return comparable(kept, set(), directory_times=voyage.name == "vfs-damaged", xattrs=lambda *_: True)


def test_the_same_as_by_way_of_an_upgrade(voyage: Voyage, tmp_path: Path) -> None:
    root = copy_v1_root(voyage.theirs, tmp_path / "root")
    Transship(tmp_path / "state", ("--source", root, "--target", "docker"))("migrate").expect(voyage.name in LOST)
    namespace = f"{voyage.name}-upgraded"
    ended = to(voyage.containerd, root, tmp_path / "state", namespace)("migrate").expect()
    assert ended.last["failed"] == []
    assert settled(state(voyage.containerd, namespace)) == settled(voyage.after)


def test_the_same_as_by_way_of_docker(voyage: Voyage, tmp_path: Path) -> None:
    """What Docker 1.10.3 made of the store, moved: a second opinion, also on the trees."""
    namespace = f"{voyage.name}-docker"
    to(voyage.containerd, voyage.theirs, tmp_path / "state", namespace)("migrate").expect()
    theirs, ours = settled(state(voyage.containerd, namespace)), settled(voyage.after)
    if voyage.name == "vfs-damaged":
        unlike = {
            name for name in theirs.images.keys() | ours.images.keys() if theirs.images.get(name) != ours.images.get(name)
        }
        assert unlike == {f"{HUB}/notar:1"}
    else:
        assert theirs == ours
    for snapshotter, chain_id in theirs.snapshots.keys() & ours.snapshots.keys():
        moved, docker = (
            comparable(snapshot_tree(voyage.containerd, each, snapshotter, chain_id), set(), xattrs=lambda *_: True)
            for each in (voyage.name, namespace)
        )
        assert differences(moved, docker) == {}


def settled(found: State) -> State:
    """Leave out what depends on which of several images came first."""
    blobs = {
        digest: {key: value for key, value in labels.items() if key != OWNER_OF_SHARED}
        for digest, labels in found.blobs.items()
    }
    return replace(found, blobs=blobs)


def test_a_container_runs(voyage: Voyage, request: pytest.FixtureRequest) -> None:
    need(request, "runc")
    image, program = ("app:v1", ["/bin/sh", "-c", "echo ahoy"])
    if voyage.name != "aufs":
        image, program = ("busybox:1.35", ["/bin/busybox", "echo", "ahoy"])
    run = ["run", "--rm", "--snapshotter", voyage.snapshotter]
    said = voyage.containerd.ctr(*run, f"{HUB}/{image}", f"{voyage.name}-test", *program, namespace=voyage.name)
    assert said.split() == ["ahoy"]


def test_verify_finds_no_difference(voyage: Voyage) -> None:
    ended = voyage.transship("verify").expect(voyage.name in LOST)
    assert ended.last["differences"] == []
    unchecked = {each.partition(":")[0][:12] for each in ended.last["unchecked"]}
    assert unchecked == {each for each in LOST.get(voyage.name, ()) if ":" not in each}
    assert ended.last["checks"] > 15


def test_garbage_collection_takes_nothing(voyage: Voyage) -> None:
    collect_garbage(voyage.containerd, voyage.name)
    assert state(voyage.containerd, voyage.name) == voyage.after


def test_once_more_does_nothing_anew(voyage: Voyage) -> None:
    again = voyage.transship("migrate").expect(voyage.name in LOST)
    assert {key for key in again.done(skipped=False) if not key.startswith("v1-store:")} == set()
    assert state(voyage.containerd, voyage.name) == voyage.after


def test_rollback_leaves_nothing(voyage: Voyage, tmp_path: Path) -> None:
    namespace = f"{voyage.name}-rollback"
    transship = to(voyage.containerd, voyage.root, tmp_path / "state", namespace)
    transship("migrate").expect(voyage.name in LOST)
    assert state(voyage.containerd, namespace).images
    ended = transship("rollback").expect()
    assert (ended.last["kept"], ended.last["failed"]) == ([], [])
    assert state(voyage.containerd, namespace) == State({}, {}, {})
