"""Stores of graph drivers that Docker has given up, moved into a real containerd: nothing missing, nothing different."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
import zstandard

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.disks import Disk
from tests.real.facts import chain_of, manifests_of, names_of
from tests.real.state import State, blob, collect_garbage, manifest, state, unpacked
from tests.real.trees import comparable, differences, snapshot_tree, unlisted_directories
from tests.stores.docker.builder import StoreBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.conftest import Containerd
    from tests.real.facts import Facts
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

HUB = "docker.io/library"


@dataclass(frozen=True)
class Voyage:
    """A store that was moved into a containerd of its own."""

    driver: str
    snapshotter: str
    facts: Facts
    containerd: Containerd
    transship: Transship
    manifests: dict[str, str]
    """The digest of each image's manifest, by image ID, as the run's map says."""
    after: State
    """What containerd held when the migration had ended."""

    def tree(self, namespace: str, chain_id: str) -> Tree:
        return snapshot_tree(self.containerd, namespace, self.snapshotter, chain_id)

    def names(self, image_id: str) -> list[str]:
        return names_of(self.facts, self.manifests, image_id)


@pytest.fixture(scope="module", params=["aufs-overlayfs", "aufs-native", "overlay-overlayfs", "overlay-native"])
def voyage(
    request: pytest.FixtureRequest,
    start_containerd: Callable[..., Containerd],
    docker_fixture: Callable[[str], Path],
    facts: Callable[[str], Facts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Voyage:
    driver, _, snapshotter = request.param.partition("-")
    containerd = start_containerd()
    options: list[str | Path] = ["--source", docker_fixture(driver), "--target", f"containerd:{containerd.socket}"]
    if snapshotter == "native":
        options += ["--snapshotter", snapshotter]
    transship = Transship(tmp_path_factory.mktemp("state"), tuple(options))
    ended = transship("migrate").expect()
    assert ended.last["complete"], ended.last
    return Voyage(driver, snapshotter, facts(driver), containerd, transship, manifests_of(ended), state(containerd))


def test_every_image_is_complete_and_unpacked(voyage: Voyage) -> None:
    said = unpacked(voyage.containerd, "moby", voyage.snapshotter)
    wanted: dict[str, tuple[str, bool]] = {}
    for image_id, known in voyage.facts["images"].items():
        count = len(known["diff_ids"]) + 1
        wanted |= dict.fromkeys(voyage.names(image_id), (f"complete ({count}/{count})", bool(known["diff_ids"])))
    assert said == wanted


def test_every_layer_has_a_snapshot(voyage: Voyage) -> None:
    used = {layer for known in voyage.facts["images"].values() for layer in chain_of(voyage.facts, known["chain"])}
    layers = {chain_id: known["parent"] or "" for chain_id, known in voyage.facts["layers"].items() if chain_id in used}
    if voyage.snapshotter == "native":
        layers = dict.fromkeys(layers, "")  # this containerd does not take parents of full trees
    found = {name: parent for (_, name), (parent, kind) in voyage.after.snapshots.items() if kind == "Committed"}
    assert found == layers
    collect_garbage(voyage.containerd)
    assert state(voyage.containerd) == voyage.after


def test_verify_finds_no_difference(voyage: Voyage) -> None:
    ended = voyage.transship("verify").expect()
    assert ended.last["differences"] == []
    assert ended.last["checks"] > len(voyage.facts["images"])


def test_containerd_unpacks_the_same(voyage: Voyage, tmp_path: Path) -> None:
    """A second opinion: what containerd makes of the blobs by itself."""
    names = [name for image_id in voyage.facts["images"] for name in voyage.names(image_id)]
    archive = str(tmp_path / "images.tar")
    voyage.containerd.ctr("images", "export", "--all-platforms", archive, *names)
    import_all = ["images", "import", "--all-platforms", "--digests", "--snapshotter", voyage.snapshotter]
    voyage.containerd.ctr(*import_all, archive, namespace="second-opinion")
    for image_id, known in voyage.facts["images"].items():
        if known["chain"] is None:
            continue
        layers = manifest(voyage.containerd, voyage.manifests[image_id])["layers"]
        unlisted = unlisted_directories(ended(unzstd(blob(voyage.containerd, layer["digest"]))) for layer in layers)
        ours, theirs = (
            comparable(voyage.tree(namespace, known["chain"]), unlisted, directory_times=False, xattrs=lambda *_: True)
            for namespace in ("moby", "second-opinion")
        )
        different = differences(ours, theirs)
        assert {path for path, (found, _) in different.items() if found is not None} == set()
        assert different.keys() == seen_by_containerd_only(voyage, known["refs"]), known["refs"]


def seen_by_containerd_only(voyage: Voyage, references: list[str]) -> set[str]:
    """Return the paths in an image that containerd's own unpacking brings, and should not."""
    paths: set[str] = set()
    if "old/img:latest" in references and voyage.snapshotter == "overlayfs":
        paths |= {"./bin", "./etc", "./etc/new", "./hl", "./sym", "./u\\u0308.txt"}  # its last layer hides all below
    if "notar:1" in references and voyage.driver == "aufs":
        paths |= {"./n/.wh..wh.sub", "./n/.wh..wh.sub/f"}  # what aufs shows nobody
        paths |= {"./only.txt"} if voyage.snapshotter == "overlayfs" else set()
    return paths


def test_a_container_runs(voyage: Voyage, request: pytest.FixtureRequest) -> None:
    need(request, "runc")
    if voyage.driver == "overlay":
        run = ["run", "--rm", "--snapshotter", voyage.snapshotter]
        said = voyage.containerd.ctr(*run, f"{HUB}/busybox:1.35", "test", "/bin/busybox", "echo", "ahoy")
        assert said.split() == ["ahoy"]


def test_of_a_damaged_store_the_rest_is_moved(
    start_containerd: Callable[..., Containerd],
    docker_fixture: Callable[[str], Path],
    facts: Callable[[str], Facts],
    tmp_path: Path,
) -> None:
    containerd = start_containerd()
    options = ("--source", docker_fixture("overlay-damaged"), "--target", f"containerd:{containerd.socket}")
    transship = Transship(tmp_path / "state", options)
    moved = transship("migrate").expect(1)
    # edge/pre-diffid:1: Docker believed what was noted there.
    assert {event["key"] for event in moved.events("step_failed")} == {f"blob:sha256:{'7' * 64}"}
    known, manifests = facts("overlay-damaged"), manifests_of(moved)
    names = {name for image_id in known["images"] for name in names_of(known, manifests, image_id)}
    assert state(containerd).images.keys() == names - {"docker.io/edge/pre-diffid:1"}
    checked = transship("verify").expect(5)
    differ = [found.rpartition(":")[0].partition(":1:")[0] for found in checked.last["differences"]]
    assert sorted(differ) == ["image docker.io/edge/pre-diffid", "snapshot 4eab47c47740"]


# btrfs, a real one


class Subvolumes(StoreBuilder):
    """A store of the driver btrfs, a subvolume for each layer."""

    def start_layer(self, directory: Path, below: Path | None) -> None:
        command = ["create"] if below is None else ["snapshot", str(below)]
        subprocess.run(["btrfs", "-q", "subvolume", *command, str(directory)], check=True)


@pytest.mark.parametrize("snapshotter", ["overlayfs", "native"])
@pytest.mark.parametrize("same_disk", [True, False])
def test_subvolumes_of_btrfs(
    start_containerd: Callable[..., Containerd],
    request: pytest.FixtureRequest,
    tmp_path: Path,
    snapshotter: str,
    same_disk: bool,
) -> None:
    need(request, "mkfs.btrfs", "btrfs")
    with Disk(tmp_path, "btrfs", 256 << 20) as disk:
        builder = Subvolumes(disk.path / "docker", "btrfs")
        base = builder.add_layer({"d/": None, "d/old": b"1" * 100_000, "d/kept": b"2" * 100_000, "f": b"3"})
        middle = builder.add_layer({"d/": None, "d/.wh.old": b"", "d/new": b"4" * 100_000, ".wh.f": b""}, base)
        top = builder.add_layer({"d/": None, "d/.wh..wh..opq": b"", "d/last": b"5"}, middle)
        image_id = builder.add_image(top, "deep:1")
        containerd = start_containerd(disk.path / "containerd" if same_disk else None)
        options = ("--source", builder.root, "--target", f"containerd:{containerd.socket}", "--snapshotter", snapshotter)
        transship = Transship(tmp_path / "state", options)
        moved = transship("migrate").expect()
        assert transship("verify").expect().last["differences"] == []
        assert manifests_of(moved).keys() == {image_id}
        trees = {chain_id: snapshot_tree(containerd, "moby", snapshotter, chain_id) for chain_id in (base, middle, top)}
        assert trees[base].keys() == {".", "./d", "./d/old", "./d/kept", "./f"}
        assert trees[middle].keys() == {".", "./d", "./d/kept", "./d/new"}
        assert trees[top].keys() == {".", "./d", "./d/last"}
        containerd.stop()


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)


def ended(archive: bytes) -> bytes:
    """Return an archive with the padding and the end that a few of these lack."""
    return archive + bytes(-len(archive) % 512 + 1024)
