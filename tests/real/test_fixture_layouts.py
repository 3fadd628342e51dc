"""Stores that dockerd wrote, moved into OCI layouts, as other programs read them."""

from __future__ import annotations

import gzip
import hashlib
import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.facts import manifests_of, names_of, read_json
from tests.real.state import RUN_LABEL
from tests.real.trees import MTIME, comparable, differences, listing, unlisted_directories

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.facts import Facts
    from tests.real.trees import Tree

pytestmark = pytest.mark.real


def run(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=120).stdout


@dataclass(frozen=True)
class Layout:
    """A store that was moved into an OCI layout."""

    path: Path
    codec: str
    facts: Facts
    source: Path
    transship: Transship
    manifests: dict[str, str]

    def names(self, image_id: str) -> list[str]:
        return names_of(self.facts, self.manifests, image_id)

    @property
    def all_names(self) -> dict[str, str]:
        """Each name's image ID."""
        return {name: image_id for image_id in self.facts["images"] for name in self.names(image_id)}

    def blob(self, digest: str) -> bytes:
        return (self.path / "blobs" / "sha256" / digest.partition(":")[2]).read_bytes()


@pytest.fixture(scope="module", params=["overlay2-zstd", "overlay2-gzip", "vfs-gzip", "vfs-none"])
def layout(
    request: pytest.FixtureRequest,
    docker_fixture: Callable[[str], Path],
    facts: Callable[[str], Facts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Layout:
    need(request, "skopeo", "umoci")
    driver, _, codec = request.param.partition("-")
    source, directory = docker_fixture(driver), tmp_path_factory.mktemp("voyage")
    transship = Transship(directory / "state", ("--source", source, "--target", f"oci:{directory}/layout"))
    ended = transship("migrate", "--compression", codec).expect()
    assert ended.last["complete"], ended.last
    return Layout(directory / "layout", codec, facts(driver), source, transship, manifests_of(ended))


def test_every_name(layout: Layout) -> None:
    wanted = {name: layout.manifests[image_id] for name, image_id in layout.all_names.items()}
    index = read_json(layout.path / "index.json")
    for annotation in ("org.opencontainers.image.ref.name", "io.containerd.image.name"):
        assert {entry["annotations"][annotation]: entry["digest"] for entry in index["manifests"]} == wanted
    assert sorted(run("umoci", "ls", "--layout", layout.path).splitlines()) == sorted(wanted)


def test_every_blob_and_no_other(layout: Layout) -> None:
    used = set()
    for image_id, digest in layout.manifests.items():
        manifest = json.loads(layout.blob(digest))
        assert manifest["config"]["digest"] == image_id
        used |= {digest, image_id, *(layer["digest"] for layer in manifest["layers"])}
    assert {f"sha256:{path.name}" for path in (layout.path / "blobs" / "sha256").iterdir()} == used
    assert all(f"sha256:{hashlib.sha256(layout.blob(digest)).hexdigest()}" == digest for digest in used)


def test_skopeo_inspects_every_name(layout: Layout) -> None:
    configs = next(layout.source.glob("image/*/imagedb/content/sha256"))
    for name, image_id in layout.all_names.items():
        reference = f"oci:{layout.path}:{name}"
        assert run("skopeo", "inspect", "--raw", reference).encode() == layout.blob(layout.manifests[image_id])
        assert run("skopeo", "inspect", "--config", "--raw", reference).encode() == (configs / image_id[7:]).read_bytes()


def test_skopeo_copies(layout: Layout, tmp_path: Path) -> None:
    """skopeo checks each blob's digest, and the diff IDs of what it unpacks."""
    for number, (name, image_id) in enumerate(layout.all_names.items()):
        if len(layout.facts["images"][image_id]["diff_ids"]) in range(1, 100):
            target = tmp_path / str(number)
            run("skopeo", "copy", "--preserve-digests", f"oci:{layout.path}:{name}", f"dir:{target}")
            assert (target / "manifest.json").read_bytes() == layout.blob(layout.manifests[image_id])
    if layout.codec == "zstd":
        return  # not for Docker's archives
    run("skopeo", "copy", f"oci:{layout.path}:docker.io/library/weird:1", f"docker-archive:{tmp_path}/weird.tar:weird:1")
    names = run("tar", "-tf", tmp_path / "weird.tar").split()
    known = layout.facts["images"][layout.all_names["docker.io/library/weird:1"]]
    assert {f"{diff_id[7:]}.tar" for diff_id in known["diff_ids"]} <= set(names)


def test_umoci_unpacks_every_tree(layout: Layout, tmp_path: Path) -> None:
    if layout.codec == "zstd":
        assert run("umoci", "--version").startswith("umoci version 0.4"), "umoci 0.4 cannot read zstd; what of this one?"
        return
    for image_id, known in layout.facts["images"].items():
        if not known["chain"]:
            continue
        assert "LAYER" in run("umoci", "stat", "--image", f"{layout.path}:{layout.names(image_id)[0]}")
        bundle = tmp_path / image_id
        run("umoci", "unpack", "--image", f"{layout.path}:{layout.names(image_id)[0]}", bundle)
        blobs = [layout.blob(layer["digest"]) for layer in json.loads(layout.blob(layout.manifests[image_id]))["layers"]]
        unlisted = unlisted_directories(gzip.decompress(blob) if layout.codec == "gzip" else blob for blob in blobs)

        def counts(name: str, _: str) -> bool:
            # The vfs driver copies no others from a parent to its child.
            return name == "security.capability" or layout.facts["driver"] == "overlay2"

        theirs = comparable(without_early_times(listing(bundle / "rootfs")), unlisted, xattrs=counts)
        ours = comparable(layout.facts["chain_trees"][known["chain"]], unlisted, xattrs=counts)
        assert differences(theirs, ours) == {}, known["refs"]


def without_early_times(tree: Tree) -> Tree:
    """Return ``tree`` with times before 1970 as dockerd unpacks them."""
    for entry in tree.values():
        entry[MTIME] = max(entry[MTIME], 0)
    return tree


def test_verify_finds_no_difference(layout: Layout) -> None:
    assert layout.transship("verify").expect().last["differences"] == []


def test_second_run_does_nothing(layout: Layout) -> None:
    before = stamps(layout.path)
    ended = layout.transship("migrate", "--compression", layout.codec).expect()
    assert len(ended.done(skipped=True)) == ended.last["steps"] > 0
    assert stamps(layout.path) == before


def stamps(path: Path) -> dict[str, tuple[int, int, int]]:
    found = {}
    for below in path.rglob("*"):
        status = below.stat()
        found[str(below)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def test_same_input_same_digests(layout: Layout, tmp_path: Path) -> None:
    """On one job as on several."""
    options = (*layout.transship.options[:2], "--target", f"oci:{tmp_path}/again", "--jobs", "1", "--compression", layout.codec)
    assert manifests_of(Transship(tmp_path / "state", options)("migrate").expect()) == layout.manifests
    assert index_of(tmp_path / "again") == index_of(layout.path)


def index_of(path: Path) -> Any:
    index = read_json(path / "index.json")
    for entry in index["manifests"]:
        entry["annotations"].pop(RUN_LABEL)
    return index


def test_userns_store_is_refused(docker_fixture: Callable[[str], Path], tmp_path: Path) -> None:
    options = ("--source", docker_fixture("overlay2-userns"), "--target", f"oci:{tmp_path}/layout")
    ended = Transship(tmp_path / "state", options)("migrate").expect(3)
    assert "userns" in ended.last["message"]
    assert not (tmp_path / "layout").exists()
