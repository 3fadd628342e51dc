"""Stores that dockerd wrote, moved into a real containerd and into OCI layouts: nothing missing, nothing different."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.facts import chain_of, manifests_of, names_of
from tests.real.state import State, blob, collect_garbage, manifest, state, unpacked
from tests.real.trees import XATTRS, comparable, differences, snapshot_tree, unlisted_directories

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.conftest import Containerd
    from tests.real.facts import Facts
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

NATURAL = {"overlay2": "overlayfs", "vfs": "native"}
COPYING_LOST = {
    "./weird/xattr": {"user.foo": "626172"},
    "./weird/xattrdir": {"user.d": "76"},
    "./weird/trusted": {"trusted.thing": "7476"},
}
"""What the vfs driver did not copy from a parent to its child. The layer that they come from has them still."""
MANY = 100
"""Layers from which on an image is left out where it would take containerd too long."""


@dataclass(frozen=True)
class Voyage:
    """A store that was moved into a containerd of its own."""

    driver: str
    snapshotter: str
    facts: Facts
    source: Path
    containerd: Containerd
    transship: Transship
    manifests: dict[str, str]
    """The digest of each image's manifest, by image ID, as the run's map says."""
    after: State
    """What containerd held when the migration had ended."""

    def tree(self, chain_id: str) -> Tree:
        return snapshot_tree(self.containerd, "moby", self.snapshotter, chain_id)

    def original(self, reference: str) -> Path | None:
        """Return the registry's manifest of a digest reference, if this dockerd kept it."""
        return next(self.source.glob(f"**/blobs/sha256/{reference.rpartition(':')[2]}"), None)

    def names(self, image_id: str) -> list[str]:
        return names_of(self.facts, self.manifests, image_id)


@pytest.fixture(scope="module", params=["overlay2-overlayfs", "overlay2-native", "vfs-native", "vfs-overlayfs"])
def voyage(
    request: pytest.FixtureRequest,
    start_containerd: Callable[..., Containerd],
    docker_fixture: Callable[[str], Path],
    facts: Callable[[str], Facts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Voyage:
    driver, _, snapshotter = request.param.partition("-")
    containerd = start_containerd()
    source = docker_fixture(driver)
    options: list[str | Path] = ["--source", source, "--target", f"containerd:{containerd.socket}"]
    if NATURAL[driver] != snapshotter:
        options += ["--snapshotter", snapshotter]
    transship = Transship(tmp_path_factory.mktemp("state"), tuple(options))
    ended = transship("migrate").expect()
    assert ended.last["complete"], ended.last
    manifests = manifests_of(ended)
    return Voyage(driver, snapshotter, facts(driver), source, containerd, transship, manifests, state(containerd))


def test_every_image_under_every_name(voyage: Voyage) -> None:
    wanted = {name: voyage.manifests[image_id] for image_id in voyage.facts["images"] for name in voyage.names(image_id)}
    by_digest = {name for known in voyage.facts["images"].values() for name in known["refs"] if "@" in name}
    kept = {name: name.partition("@")[2] for name in by_digest if voyage.original(name)}
    assert len(kept) == 2
    assert {name: digest for name, (digest, _) in voyage.after.images.items()} == wanted | kept
    for name, digest in kept.items():
        original = voyage.original(name)
        assert original is not None
        assert blob(voyage.containerd, digest) == original.read_bytes()


def test_every_config_and_every_layer(voyage: Voyage) -> None:
    configs = voyage.source / "image" / voyage.driver / "imagedb" / "content" / "sha256"
    seen: dict[str, str] = {}
    for image_id, known in voyage.facts["images"].items():
        found = manifest(voyage.containerd, voyage.manifests[image_id])
        assert found["config"]["digest"] == image_id
        assert blob(voyage.containerd, image_id) == (configs / image_id.partition(":")[2]).read_bytes()
        assert len(found["layers"]) == len(known["diff_ids"])
        seen |= {layer["digest"]: diff_id for layer, diff_id in zip(found["layers"], known["diff_ids"], strict=True)}
    for digest, diff_id in seen.items():
        data = blob(voyage.containerd, digest)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == digest
        assert f"sha256:{hashlib.sha256(unzstd(data)).hexdigest()}" == diff_id
        assert voyage.after.blobs[digest]["containerd.io/uncompressed"] == diff_id


def test_parents(voyage: Voyage) -> None:
    label = "org.mobyproject.image.parent"
    for image_id, known in voyage.facts["images"].items():
        for name in voyage.names(image_id):
            found = voyage.after.images[name][1].get(label)
            assert found == (voyage.manifests[known["parent"]] if known["parent"] else None), name


def test_every_tree(voyage: Voyage) -> None:
    better: dict[str, Any] = {}
    for chain_id, tree in voyage.facts["chain_trees"].items():
        for path, (found, wanted) in differences(voyage.tree(chain_id), tree).items():
            assert found is not None, path
            assert wanted is not None, path
            assert [found[:XATTRS], found[XATTRS + 1 :]] == [wanted[:XATTRS], wanted[XATTRS + 1 :]], path
            assert wanted[XATTRS] == {}, path
            better[path] = found[XATTRS]
    assert better == (COPYING_LOST if (voyage.driver, voyage.snapshotter) == ("vfs", "overlayfs") else {})


def test_every_layer_has_a_snapshot_on_its_parent(voyage: Voyage) -> None:
    used = {layer for known in voyage.facts["images"].values() for layer in chain_of(voyage.facts, known["chain"])}
    layers = {chain_id: known["parent"] or "" for chain_id, known in voyage.facts["layers"].items() if chain_id in used}
    if voyage.snapshotter == "native":
        layers = dict.fromkeys(layers, "")  # this containerd does not take parents of full trees
    found = {name: parent for (snapshotter, name), (parent, kind) in voyage.after.snapshots.items() if kind == "Committed"}
    assert found == layers
    assert {snapshotter for snapshotter, _ in voyage.after.snapshots} == {voyage.snapshotter}


def test_containerd_says_complete_and_unpacked(voyage: Voyage) -> None:
    said = unpacked(voyage.containerd, "moby", voyage.snapshotter)
    for image_id, known in voyage.facts["images"].items():
        count = len(known["diff_ids"]) + 1
        for name in voyage.names(image_id):
            # To containerd an image without layers is never unpacked.
            assert said.pop(name) == (f"complete ({count}/{count})", bool(known["diff_ids"])), name
    assert {state for state, _ in said.values()} == {
        "incomplete (1/5)",
        f"incomplete (1/{111 if voyage.driver == 'vfs' else 112})",
    }
    assert all(is_unpacked for _, is_unpacked in said.values())
    assert all("@sha256:" in name for name in said)


def test_nothing_is_garbage_and_nothing_else_is_held(voyage: Voyage) -> None:
    collect_garbage(voyage.containerd)
    assert state(voyage.containerd) == voyage.after
    assert voyage.after.leases == set()
    assert voyage.after.ingests == set()


def test_verify_finds_no_difference(voyage: Voyage) -> None:
    ended = voyage.transship("verify").expect()
    assert ended.last["differences"] == []
    assert ended.last["checks"] > len(voyage.facts["images"])
    assert state(voyage.containerd) == voyage.after


def test_second_run_does_nothing(voyage: Voyage) -> None:
    ended = voyage.transship("migrate").expect()
    assert ended.done(skipped=False) == set()
    assert len(ended.done(skipped=True)) == ended.last["steps"] == ended.last["skipped"] > 0
    assert ended.events("step_started") == []
    assert state(voyage.containerd) == voyage.after


def test_container_runs(voyage: Voyage, request: pytest.FixtureRequest) -> None:
    need(request, "runc")
    run = ["run", "--rm", "--snapshotter", voyage.snapshotter]
    names = {name: image_id for image_id in voyage.facts["images"] for name in voyage.names(image_id)}
    for name in ("docker.io/library/bb:1", "docker.io/library/app:1"):
        tree = voyage.facts["chain_trees"][voyage.facts["images"][names[name]]["chain"]]
        applets = sorted(path.removeprefix("./bin/") for path in tree if path.startswith("./bin/"))
        said = voyage.containerd.ctr(*run, name, f"test-{name.rpartition('/')[2].replace(':', '-')}", "/bin/ls", "/bin")
        assert sorted(said.split()) == applets
    assert state(voyage.containerd).snapshots == voyage.after.snapshots


def test_containerd_unpacks_the_same(voyage: Voyage, tmp_path: Path) -> None:
    """A second opinion: what containerd makes of the blobs by itself."""
    most = 1000 if (voyage.driver, voyage.snapshotter) == ("overlay2", "overlayfs") else MANY
    images = {image_id: known for image_id, known in voyage.facts["images"].items() if len(known["diff_ids"]) < most}
    names = [name for image_id in images for name in voyage.names(image_id)]
    archive = str(tmp_path / "images.tar")
    voyage.containerd.ctr("images", "export", "--all-platforms", archive, *names)
    import_all = ["images", "import", "--all-platforms", "--digests", "--snapshotter", voyage.snapshotter]
    voyage.containerd.ctr(*import_all, archive, namespace="second-opinion")

    def counts(name: str, value: str) -> bool:
        # containerd restores no trusted ones; dockerd lost empty ones when it unpacked, and vfs loses most when it copies.
        full = (voyage.driver, voyage.snapshotter) == ("vfs", "native")
        return name == "security.capability" if full else bool(value) and not name.startswith("trusted.")

    for image_id, known in images.items():
        if known["chain"] is None:
            continue
        layers = manifest(voyage.containerd, voyage.manifests[image_id])["layers"]
        unlisted = unlisted_directories(unzstd(blob(voyage.containerd, layer["digest"])) for layer in layers)
        # containerd copies a parent's files for a native snapshot, but not the times of its directories.
        times = voyage.snapshotter == "overlayfs"
        ours, theirs = (
            comparable(
                snapshot_tree(voyage.containerd, namespace, voyage.snapshotter, known["chain"]),
                unlisted,
                directory_times=times,
                xattrs=counts,
            )
            for namespace in ("moby", "second-opinion")
        )
        assert differences(ours, theirs) == {}, known["refs"]


def test_userns_store_is_refused(containerd: Containerd, docker_fixture: Callable[[str], Path], tmp_path: Path) -> None:
    source = docker_fixture("overlay2-userns")
    namespace = "userns"
    target = ["--target", f"containerd:{containerd.socket}", "--namespace", namespace]
    remapped = [path for path in source.iterdir() if path.name[0].isdigit()]
    assert len(remapped) == 1
    for root in (source, *remapped):
        ended = Transship(tmp_path / "state", ("--source", root, *target))("migrate").expect(3)
        assert ended.last["type"] == "error"
        assert "userns" in ended.last["message"] + ended.last["remedy"]
        assert str(root) in ended.last["message"]
    assert state(containerd, namespace) == State({}, {}, {})


def unzstd(data: bytes) -> bytes:
    return zstandard.ZstdDecompressor().decompressobj().decompress(data)
