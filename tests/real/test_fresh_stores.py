"""Stores that a dockerd has written just now, and goes on writing between migrations."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.command import Transship
from tests.real.facts import canonical, manifests_of
from tests.real.state import State, blob, manifest, state, unpacked
from tests.real.trees import differences, listing, snapshot_tree

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.real.conftest import Containerd, Dockerd
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

NATURAL = {"overlay2": "overlayfs", "vfs": "native"}
PARENT = """\
FROM base:1
ENV A=1
RUN mkdir -p /d/sub && echo one >/d/one && echo two >/d/two && echo x >/d/sub/x && ln /d/one /d/hard && ln -s one /d/link
RUN rm /d/two && echo replaced >/d/one && rm -rf /d/sub && mkdir /d/sub && echo y >/d/sub/y
"""
CHILD = """\
FROM parent:1
RUN rm -r /d/sub && mkfifo /d/fifo && chmod 4750 /d/one && chown 12:34 /d/link && touch -d 2001-02-03 /d/hard
RUN dd if=/dev/zero of=/d/large bs=1M count=3 && mkdir /e && chmod 1777 /e
LABEL which={which}
CMD ["/bin/cat", "/d/one"]
"""


def busybox_tar() -> bytes:
    """Return a small root file system."""
    file = shutil.which("busybox")
    assert file is not None
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for directory in ("bin", "tmp", "etc"):
            member = tarfile.TarInfo(directory)
            member.type, member.mode, member.mtime = tarfile.DIRTYPE, 0o755, 1_500_000_000
            archive.addfile(member)
        archive.add(file, "bin/busybox")
        for applet in ("sh", "cat", "echo", "mkdir", "rm", "ln", "ls", "mkfifo", "chmod", "chown", "touch", "dd"):
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(link)
    return made.getvalue()


@dataclass(frozen=True)
class Store:
    """What a dockerd that has ended says of its images."""

    dockerd: Dockerd
    images: dict[str, dict[str, Any]]
    """By image ID, as ``docker image inspect`` shows them, intermediate ones too."""

    @property
    def tags(self) -> dict[str, str]:
        return {canonical(tag): image_id for image_id, image in self.images.items() for tag in image["RepoTags"]}

    def tree(self, image_id: str) -> Tree:
        """Describe the image as a container would see it, from the driver's own directories."""
        data = self.images[image_id]["GraphDriver"]["Data"]
        if self.dockerd.driver == "vfs":
            layer = self.dockerd.root / "image/vfs/layerdb/sha256" / self.chain_id(image_id).removeprefix("sha256:")
            return listing(self.dockerd.root / "vfs" / "dir" / (layer / "cache-id").read_text())
        directories = [data["UpperDir"], *filter(None, data.get("LowerDir", "").split(":"))]
        with tempfile.TemporaryDirectory() as place, tempfile.TemporaryDirectory() as empty:
            lower = ":".join([*directories, empty])
            subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", place], check=True)
            try:
                return listing(Path(place))
            finally:
                subprocess.run(["umount", place], check=True)

    def chain_id(self, image_id: str) -> str:
        layers = self.dockerd.root / "image" / self.dockerd.driver / "layerdb" / "sha256"
        chain = ""
        for diff_id in self.images[image_id]["RootFS"]["Layers"]:
            [chain] = [
                f"sha256:{layer.name}"
                for layer in layers.iterdir()
                if (layer / "diff").read_text() == diff_id
                and ((layer / "parent").read_text() if (layer / "parent").exists() else "") == chain
            ]
        return chain


def ended(dockerd: Dockerd) -> Store:
    """End it and return what it said of its images."""
    ids = set(dockerd.docker("images", "--all", "--quiet", "--no-trunc").split())
    images = json.loads(dockerd.docker("image", "inspect", *ids))
    dockerd.stop()
    return Store(dockerd, {image["Id"]: image for image in images})


def build(dockerd: Dockerd, dockerfile: str, *tags: str) -> str:
    names = [part for tag in tags for part in ("--tag", tag)]
    return dockerd.docker("build", "--network", "none", "--quiet", *names, "-", stdin=dockerfile.encode())


@pytest.fixture(scope="module", params=["overlay2", "vfs"])
def store(request: pytest.FixtureRequest, make_dockerd: Callable[[str], Dockerd]) -> Store:
    dockerd = make_dockerd(request.param)
    dockerd.start()
    dockerd.docker("import", "-", "base:1", stdin=busybox_tar())
    build(dockerd, PARENT, "parent:1")
    build(dockerd, CHILD.format(which="first"), "child:1", "child:latest")
    build(dockerd, CHILD.format(which="second"), "child:1", "child:latest")  # leaves the first dangling
    build(dockerd, "FROM scratch\nLABEL only=this\n", "nothing:1")
    return ended(dockerd)


@dataclass(frozen=True)
class Voyage:
    """The store, moved."""

    containerd: Containerd
    snapshotter: str
    transship: Transship
    manifests: dict[str, str]
    after: State


@pytest.fixture(scope="module")
def voyage(store: Store, start_containerd: Callable[..., Containerd], tmp_path_factory: pytest.TempPathFactory) -> Voyage:
    containerd = start_containerd()
    options = ("--source", store.dockerd.root, "--target", f"containerd:{containerd.socket}")
    transship = Transship(tmp_path_factory.mktemp("state"), options)
    report = transship("migrate").expect()
    return Voyage(containerd, NATURAL[store.dockerd.driver], transship, manifests_of(report), state(containerd))


def test_every_image(store: Store, voyage: Voyage) -> None:
    assert voyage.manifests.keys() == store.images.keys()
    wanted = {tag: voyage.manifests[image_id] for tag, image_id in store.tags.items()}
    assert set(wanted) == {
        f"docker.io/library/{name}" for name in ("base:1", "parent:1", "child:1", "child:latest", "nothing:1")
    }
    untagged = [image_id for image_id, image in store.images.items() if not image["RepoTags"]]
    assert len(untagged) >= 5
    wanted |= {f"moby-dangling@{voyage.manifests[image_id]}": voyage.manifests[image_id] for image_id in untagged}
    assert {name: digest for name, (digest, _) in voyage.after.images.items()} == wanted
    for image_id, image in store.images.items():
        assert manifest(voyage.containerd, voyage.manifests[image_id])["config"]["digest"] == image_id
        assert json.loads(blob(voyage.containerd, image_id))["rootfs"].get("diff_ids", []) == image["RootFS"].get("Layers", [])


def test_every_tree(store: Store, voyage: Voyage) -> None:
    seen: set[str] = set()
    for image_id, image in store.images.items():
        if image["RootFS"].get("Layers"):
            tree = snapshot_tree(voyage.containerd, "moby", voyage.snapshotter, store.chain_id(image_id))
            assert differences(tree, store.tree(image_id)) == {}, image["RepoTags"]
            seen |= tree.keys()
    assert {"./d/two", "./d/sub/x", "./d/sub/y", "./d/fifo", "./d/large"} <= seen
    child = snapshot_tree(
        voyage.containerd, "moby", voyage.snapshotter, store.chain_id(store.tags["docker.io/library/child:1"])
    )
    assert {name for name in child if name.startswith("./d")} == {
        "./d",
        *(f"./d/{n}" for n in ("one", "hard", "link", "fifo", "large")),
    }


def test_builder_finds_what_it_built(store: Store, voyage: Voyage) -> None:
    """The classic builder's labels: parents, and the config that each instruction ran with."""
    of_manifest = {digest: image_id for image_id, digest in voyage.manifests.items()}
    parents = 0
    for digest, labels in voyage.after.images.values():
        image = store.images[of_manifest[digest]]
        parent = labels.get("org.mobyproject.image.parent")
        assert (of_manifest[parent] if parent else "") == image["Parent"]
        parents += parent is not None
        if image["Parent"]:
            config = json.loads(blob(voyage.containerd, labels["org.mobyproject.image.containerconfig"]))
            assert config == json.loads(blob(voyage.containerd, image["Id"]))["container_config"]
    assert parents >= 8


def test_containerd_is_content(store: Store, voyage: Voyage) -> None:
    said = unpacked(voyage.containerd, "moby", voyage.snapshotter)
    layers = {name for name, (digest, _) in voyage.after.images.items() if manifest(voyage.containerd, digest)["layers"]}
    assert {name for name, (complete, is_unpacked) in said.items() if complete.startswith("complete") and is_unpacked} == layers
    assert len(said) - len(layers) == len([image for image in store.images.values() if not image["RootFS"].get("Layers")])
    run = ["run", "--rm", "--snapshotter", voyage.snapshotter, "docker.io/library/child:1", "it"]
    assert voyage.containerd.ctr(*run).strip() == "replaced"
    assert voyage.transship("verify").expect().last["differences"] == []


def test_running_daemon_is_refused_and_changes_are_followed(store: Store, voyage: Voyage) -> None:
    dockerd = store.dockerd
    with dockerd.running():
        for verb in ("plan", "migrate", "verify"):
            refused = voyage.transship(verb).expect(3)
            assert refused.last["error"] == "SourceBusy"
            assert "dockerd" in refused.last["message"]
            assert "stop" in refused.last["remedy"]
        assert state(voyage.containerd) == voyage.after
        new = build(dockerd, "FROM child:1\nRUN echo new >/new\n", "child:latest")
        changed = ended(dockerd)
    report = voyage.transship("migrate").expect()
    assert {key for key in report.done(skipped=False) if key.startswith(("blob:", "snapshot:"))} == {
        f"blob:{changed.images[new]['RootFS']['Layers'][-1]}",
        f"snapshot:{changed.chain_id(new)}",
    }
    manifests = manifests_of(report)
    now = state(voyage.containerd)
    assert now.images["docker.io/library/child:latest"][0] == manifests[new]
    assert now.images["docker.io/library/child:1"] == voyage.after.images["docker.io/library/child:1"]
    assert now.images.keys() >= voyage.after.images.keys()
    assert voyage.transship("verify").expect().last["differences"] == []
    voyage.transship("rollback", report.last["run"]).expect()
    assert state(voyage.containerd) == voyage.after
