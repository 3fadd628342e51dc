"""Old roots upgraded in place, with a real dockerd 20.10 on them: it takes what was made for its own."""

from __future__ import annotations

import hashlib
import json
import tarfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.facts import read_json
from tests.real.state import unpacked
from tests.real.trees import listing
from tests.v1_stores import copy_v1_root

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.conftest import Containerd, Dockerd
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

DRIVERS = {"vfs-damaged": "vfs", "overlay": "overlay"}
ANOTHER_TIME = {"vfs-damaged": {"notar:1"}, "overlay": set()}
"""Images with a layer that gets the time of the migration in Docker's, a fixed one in ours."""
WITHOUT_IMAGE = {"vfs-damaged": {"c-missing", "c-broken"}, "overlay": set()}
"""Containers whose images had been damaged by hand."""
LOST = {
    "vfs-damaged": {
        "v1-image:89d62e22404b",
        "v1-image:f66475d0231a",
        "v1-container:5027d46a",
        "v1-container:aed4567e",
        "v1-names:repositories",
    },
    "overlay": set(),
}
"""What a check has to say: the same two containers, their images, and their images' names."""
LIVELY = "c-app2"


@dataclass(frozen=True)
class Upgraded:
    """An old root after its upgrade, and the dockerd that is to have it."""

    name: str
    theirs: Path
    """What Docker 1.10.3 made of the same store."""
    root: Path
    before: Tree
    transship: Transship
    dockerd: Dockerd

    @property
    def driver(self) -> str:
        return DRIVERS[self.name]

    def inspect(self, *options: str) -> list[dict[str, Any]]:
        """Return what Docker says of all that one of its commands lists."""
        identities = set(self.dockerd.docker(*options, "-a", "-q", "--no-trunc").split())
        inspected: list[dict[str, Any]] = json.loads(self.dockerd.docker("inspect", *identities))
        return inspected


@pytest.fixture(scope="module")
def upgrade(
    docker_fixture: Callable[[str], Path],
    make_dockerd: Callable[..., Dockerd],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Upgraded]:
    """Upgrades one more copy of a store at each call."""

    def upgrade(name: str) -> Upgraded:
        place = tmp_path_factory.mktemp("upgraded")
        root = copy_v1_root(docker_fixture(name), place / "root")
        before = listing(root)
        transship = Transship(place / "state", ("--source", root, "--target", "docker"))
        transship("migrate").expect("damaged" in name)
        return Upgraded(name, docker_fixture(name), root, before, transship, make_dockerd(DRIVERS[name], root))

    return upgrade


@pytest.fixture(scope="module", params=DRIVERS)
def running(request: pytest.FixtureRequest, upgrade: Callable[[str], Upgraded]) -> Iterator[Upgraded]:
    """A root with dockerd running on it."""
    need(request, "runc")
    upgraded = upgrade(request.param)
    with upgraded.dockerd.running():
        yield upgraded


def test_docker_lists_the_images(running: Upgraded) -> None:
    theirs = running.theirs / "image" / running.driver
    names = {
        name: image_id
        for of_one in read_json(theirs / "repositories.json")["Repositories"].values()
        for name, image_id in of_one.items()
    }
    listed = {image["Id"]: [*image["RepoTags"], *image["RepoDigests"]] for image in running.inspect("images")}
    found = {name: image_id for image_id, each in listed.items() for name in each}
    assert {name for name in names.keys() | found.keys() if names.get(name) != found.get(name)} == ANOTHER_TIME[running.name]
    images = {f"sha256:{path.name}" for path in (theirs / "imagedb/content/sha256").iterdir()}
    assert len(images ^ listed.keys()) == 2 * len(ANOTHER_TIME[running.name])
    assert len(listed) > 50


def test_docker_saves_the_very_layers(running: Upgraded, tmp_path: Path) -> None:
    identities = {image["Id"] for image in running.inspect("images")}
    running.dockerd.docker("save", "-o", tmp_path / "saved.tar", *identities)
    with tarfile.open(tmp_path / "saved.tar") as archive:

        def digest_of(name: str) -> str:
            member = archive.extractfile(name)
            assert member is not None
            return f"sha256:{hashlib.sha256(member.read()).hexdigest()}"

        def document(name: str) -> Any:
            member = archive.extractfile(name)
            assert member is not None
            return json.load(member)

        saved = document("manifest.json")
        assert {digest_of(image["Config"]) for image in saved} == identities
        for image in saved:
            assert [digest_of(layer) for layer in image["Layers"]] == document(image["Config"])["rootfs"]["diff_ids"]


def test_docker_runs_the_images(running: Upgraded) -> None:
    run = ["run", "--rm", "--network=none"]
    assert running.dockerd.docker(*run, "busybox:1.35", "/bin/busybox", "echo", "ahoy") == "ahoy"
    assert running.dockerd.docker(*run, "app:v1", "/bin/sh", "-c", "echo ahoy") == "ahoy"


def test_docker_builds_on_the_images(running: Upgraded) -> None:
    running.dockerd.docker("build", "-t", "built:1", "-", stdin=b'FROM busybox:1.35\nRUN ["/bin/busybox", "touch", "/built"]\n')
    said = running.dockerd.docker("run", "--rm", "--network=none", "built:1", "/bin/busybox", "ls", "/built")
    assert said == "/built"


def test_docker_knows_the_containers(running: Upgraded) -> None:
    known = {container["Id"]: container for container in running.inspect("ps")}
    mapping = read_json(running.root / ".migration-v1-images.json")
    lost = set()
    for path in running.root.glob("containers/*/config.json"):
        old = read_json(path)
        if old["ID"] not in known:
            lost.add(old["Name"].removeprefix("/"))
            continue
        new = known[old["ID"]]
        assert new["Image"] == mapping[old["Image"]]
        assert new["GraphDriver"]["Name"] == running.driver
        assert [new[key] for key in ("Name", "Path", "Args", "Created")] == [
            old[key] for key in ("Name", "Path", "Args", "Created")
        ]
        assert [new["Config"][key] for key in ("Cmd", "Env", "Image")] == [
            old["Config"][key] for key in ("Cmd", "Env", "Image")
        ]
        assert new["State"]["Status"] in {"created", "exited"}
    assert lost == WITHOUT_IMAGE[running.name]
    assert len(known) >= 10


def test_containers_have_their_old_files(running: Upgraded, tmp_path: Path) -> None:
    docker = running.dockerd.docker
    changed = set(docker("diff", "c-ran").splitlines())
    assert {"A /newfile", "D /etc/passwd.hl", "A /opq/fresh", "D /opq/z", "A /symlink", "C /data/one"} <= changed
    docker("cp", "c-ran:/newfile", tmp_path)
    assert (tmp_path / "newfile").read_bytes() == b"hello\n"
    assert docker("start", "-a", LIVELY) == "app2"
    with pytest.raises(RuntimeError, match="failed: rm /r/r1"):  # it has, in Docker 1.9
        docker("start", "-a", "c-loaded")


def test_volumes_are_there(running: Upgraded) -> None:
    mounts = {container["Name"]: container["Mounts"] for container in running.inspect("ps")}
    [mount] = mounts["/c-ran"]
    assert mount["Destination"] == "/vol"
    assert mount["Source"].startswith(str(running.root / "volumes"))


@pytest.fixture(params=DRIVERS)
def used(request: pytest.FixtureRequest, upgrade: Callable[[str], Upgraded]) -> Upgraded:
    """A root on which a dockerd has run, with a container started and another made."""
    need(request, "runc")
    upgraded = upgrade(request.param)
    with upgraded.dockerd.running():
        upgraded.dockerd.docker("start", "-a", LIVELY)
        upgraded.dockerd.docker("create", "--name", "made-since", "busybox:1.35", "/bin/busybox")
    return upgraded


def test_verify_after_docker(used: Upgraded) -> None:
    ended = used.transship("verify").expect(5 if used.name == "vfs-damaged" else 0)
    assert {each[:21].rstrip(":") for each in ended.last["differences"]} == LOST[used.name]


def test_once_more_after_docker(used: Upgraded) -> None:
    ended = used.transship("migrate").expect(used.name == "vfs-damaged")
    assert {key for key in ended.done(skipped=False) if not key.startswith("v1-store:")} == set()
    with used.dockerd.running():
        assert used.dockerd.docker("start", "-a", LIVELY) == "app2"
        assert used.dockerd.docker("start", "-a", "made-since").startswith("BusyBox")


def test_on_to_containerd(used: Upgraded, containerd: Containerd) -> None:
    namespace = f"onward-{used.name}"
    options = ("--source", used.root, "--target", f"containerd:{containerd.socket}", "--namespace", namespace)
    onward = Transship(used.transship.state_dir, options)
    onward("migrate").expect()
    assert onward("verify").expect().last["differences"] == []
    snapshotter = "native" if used.driver == "vfs" else "overlayfs"
    said = unpacked(containerd, namespace, snapshotter)
    assert len(said) > 40
    assert all(state.startswith("complete") and is_unpacked for state, is_unpacked in said.values())
    run = [
        "run",
        "--rm",
        "--snapshotter",
        snapshotter,
        "docker.io/library/busybox:1.35",
        "onward",
        "/bin/busybox",
        "echo",
        "ahoy",
    ]
    assert containerd.ctr(*run, namespace=namespace).split() == ["ahoy"]


def test_rollback_after_docker(used: Upgraded) -> None:
    """The old store is as it was. What Docker has changed or added since stays, with all that it stands on, and is named."""
    ended = used.transship("rollback").expect()
    assert ended.last["failed"] == []
    assert {key.partition(":")[0] for key in ended.last["kept"]} == {"v1-container", "v1-image", "v1-store"}
    now = listing(used.root)
    old_parts = ("./graph/", "./repositories-", f"./{DRIVERS[used.name]}/")
    containers = {path.name for path in used.root.glob("containers/*")}
    for path, entry in used.before.items():
        if path.startswith(old_parts) and not containers & {part.removesuffix("-init") for part in path.split("/")}:
            assert now[path] == entry or entry[0] == "d", path
    assert not {path for path in now if path.startswith("./graph/")} - used.before.keys()
    configs = {path for path in used.before if path.endswith("/config.json")}
    assert {path: now[path] for path in configs} == {path: used.before[path] for path in configs}
    with used.dockerd.running():
        assert used.dockerd.docker("start", "-a", LIVELY) == "app2"
        assert used.dockerd.docker("start", "-a", "made-since").startswith("BusyBox")
