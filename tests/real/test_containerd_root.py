"""containerd's root, written while no containerd runs, then opened by a real one: as if all had come through its API."""

from __future__ import annotations

import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.formats.bolt.databases import Made
from tests.formats.bolt.databases import held as contents
from tests.real.command import Transship
from tests.real.conftest import Containerd, need
from tests.real.disks import Disk
from tests.real.kills import kill_until_done, killed_at
from tests.real.state import RUN_LABEL, collect_garbage, state, unpacked
from tests.real.test_power_cut import FEW, check_journalled, cut_at
from tests.real.trees import differences, listing
from transship.formats import go_binary
from transship.formats.bolt.check import check
from transship.formats.bolt.reader import Database
from transship.stores.containerd_root.target import ContainerdRootTarget
from transship.stores.interfaces import SnapshotKind

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

    from tests.real.facts import Facts
    from tests.real.state import State
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

NATURAL = {"overlay2": "overlayfs", "vfs": "native"}
BUSYBOX = "docker.io/library/bb:1"
THEIRS = "example.com/theirs:1"
TIMES = {b"createdat", b"updatedat"}


@pytest.fixture(scope="module")
def archive(containerd: Containerd, docker_fixture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image to be imported, of the very blobs and the snapshot that a migration makes."""
    directory = tmp_path_factory.mktemp("archive")
    target = ("--source", docker_fixture("overlay2"), "--target", f"containerd:{containerd.socket}", "--namespace", "archive")
    Transship(directory / "state", target)("migrate", "--image", "bb:1").expect()
    containerd.ctr("images", "export", str(directory / "theirs.tar"), "docker.io/library/bb:1", namespace="archive")
    return directory / "theirs.tar"


def add_theirs(containerd: Containerd, archive: Path, snapshotter: str, *how: str) -> None:
    """Have what a migration must not touch: an image that shares blobs with it, another namespace, a lease, a label."""
    load = ("images", "import", "--snapshotter", snapshotter)
    containerd.ctr(*load, *how, str(archive))
    containerd.ctr("images", "tag", BUSYBOX, THEIRS)
    containerd.ctr("images", "rm", "--sync", BUSYBOX)
    containerd.ctr(*load, str(archive), namespace="other")
    containerd.ctr("namespaces", "label", "other", "some=label")
    containerd.ctr("leases", "create", "--id", "theirs", namespace="other")
    collect_garbage(containerd)  # what an import leaves


def database(path: Path) -> Made:
    """Return what is in a database, whoever has it open, and nothing else wrong with it."""
    data = path.read_bytes()
    assert list(check(Database(data))) == []
    return contents(Database(data).root)


def bucket(place: Made, *path: str) -> dict[bytes, Any]:
    for name in path:
        found = place.held.get(name.encode(), Made())
        assert isinstance(found, Made)
        place = found
    return place.held


def plain(held: Any) -> Any:
    """Return what a bucket holds, without times, and without buckets in which nothing is."""
    if not isinstance(held, Made):
        return held
    below = {key: plain(value) for key, value in held.held.items() if key not in TIMES and key != RUN_LABEL.encode()}
    return {key: value for key, value in below.items() if value != {}}


@dataclass(frozen=True)
class Everything:
    """All that a containerd's root has of a namespace and a snapshotter; numbers and times do not count."""

    records: Any
    """In meta.db, leases left out."""
    snapshots: dict[str, tuple[int, int, int, str, Any]]
    """By name: kind, bytes, inodes, parent, labels, as the snapshotter knows them."""
    trees: dict[str, Tree]
    overlay: dict[str, dict[str, str]]
    """By snapshot: paths with overlayfs' own xattrs."""


def everything(root: Path, snapshotter: str, namespace: str = "moby") -> Everything:
    meta = database(root / "io.containerd.metadata.v1.bolt" / "meta.db")
    records = plain(Made(bucket(meta, "v1", namespace)))
    records.pop(b"leases", None)
    keys = {}
    for name, record in records.get(b"snapshots", {}).get(snapshotter.encode(), {}).items():
        keys[record.pop(b"name")] = name.decode()
    directory = root / f"io.containerd.snapshotter.v1.{snapshotter}"
    inner = bucket(database(directory / "metadata.db"), "v1", "snapshots")
    parents = bucket(database(directory / "metadata.db"), "v1", "parents")
    numbers = {key: go_binary.read_uvarint(record.held[b"id"]) for key, record in inner.items()}
    snapshots, trees, overlay = {}, {}, {}
    for key, name in keys.items():
        record = inner[key].held
        above = record.get(b"parent")
        if above is not None:
            assert parents[go_binary.uvarint(numbers[above]) + b"\0" + record[b"id"]] == key
        sizes = [go_binary.read_varint(record[field]) if field in record else -1 for field in (b"size", b"inodes")]
        kind, labels = record[b"kind"][0], plain(record.get(b"labels", Made()))
        snapshots[name] = (kind, *sizes, keys[above] if above else "", labels)
        tree = directory / "snapshots" / str(numbers[key])
        if snapshotter == "overlayfs":
            assert {path.name: path.stat().st_mode & 0o7777 for path in tree.iterdir() if path.name != "fs"} == {"work": 0o711}
            assert tree.stat().st_mode & 0o7777 == 0o700
            tree /= "fs"
        trees[name] = listing(tree)
        overlay[name] = overlay_xattrs(tree)
    return Everything(records, snapshots, trees, overlay)


def overlay_xattrs(tree: Path) -> dict[str, str]:
    found = {}
    for path in (tree, *tree.rglob("*")):
        for name in os.listxattr(path, follow_symlinks=False):
            if name.startswith("trusted.overlay."):
                found[f"{path.relative_to(tree)} {name}"] = os.getxattr(path, name, follow_symlinks=False).hex()
    return found


def check_equal(found: Everything, wanted: Everything) -> None:
    assert found.records == wanted.records
    assert found.snapshots == wanted.snapshots
    assert found.overlay == wanted.overlay
    assert found.trees.keys() == wanted.trees.keys()
    for name, tree in wanted.trees.items():
        assert differences(found.trees[name], tree) == {}, name


@dataclass(frozen=True)
class Voyage:
    """A store that was moved into a root without a containerd, on which one runs by now; and into a live one."""

    snapshotter: str
    facts: Facts
    transship: Transship
    written: Everything
    """What was in the root before a containerd ran on it."""
    containerd: Containerd
    after: State
    others: State
    live: Containerd


@pytest.fixture(scope="module", params=["overlay2-new", "overlay2-old", "vfs-new", "vfs-old"])
def voyage(
    *,
    request: pytest.FixtureRequest,
    start_containerd: Callable[..., Containerd],
    archive: Path,
    docker_fixture: Callable[[str], Path],
    facts: Callable[[str], Facts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Voyage:
    driver, _, age = request.param.partition("-")
    snapshotter, source, directory = NATURAL[driver], docker_fixture(driver), tmp_path_factory.mktemp("root")
    root = directory / "root"
    live = start_containerd()
    if age == "old":
        theirs = start_containerd(root)
        for daemon in (live, theirs):
            # Not unpacked: the time of a tree's root would be that of its unpacking.
            add_theirs(daemon, archive, snapshotter, "--no-unpack")
        theirs.stop()
    Transship(directory / "live", ("--source", source, "--target", f"containerd:{live.socket}"))("migrate").expect()
    transship = Transship(directory / "state", ("--source", source, "--target", f"containerd-root:{root}"))
    assert transship("migrate").expect().last["complete"]
    assert transship("verify").expect().last["differences"] == []
    assert not (root / "transship.pending").exists()
    written = everything(root, snapshotter)
    containerd = start_containerd(root)
    return Voyage(
        snapshotter, facts(driver), transship, written, containerd, state(containerd), state(containerd, "other"), live
    )


def test_it_is_what_a_live_containerd_makes(voyage: Voyage) -> None:
    check_equal(voyage.written, everything(voyage.live.root, voyage.snapshotter))
    assert voyage.after == state(voyage.live)


def test_what_was_there_stays(voyage: Voyage) -> None:
    assert voyage.others == state(voyage.live, "other")
    names = {"other", "moby"} if voyage.others.images else {"moby"}
    assert set(voyage.containerd.ctr("namespaces", "list", "-q").split()) == names
    assert voyage.containerd.ctr("namespaces", "list") == voyage.live.ctr("namespaces", "list")
    if voyage.others.images:
        assert voyage.others.leases == {"theirs"}
        run = ("run", "--rm", "--snapshotter", voyage.snapshotter, BUSYBOX, "theirs", "/bin/echo", "alive")
        assert voyage.containerd.ctr(*run, namespace="other").strip() == "alive"


def test_containerd_says_complete_and_unpacked(voyage: Voyage) -> None:
    said = unpacked(voyage.containerd, "moby", voyage.snapshotter)
    assert said == unpacked(voyage.live, "moby", voyage.snapshotter)
    assert len(said) >= len(voyage.facts["images"])


def test_nothing_is_garbage_and_nothing_else_is_held(voyage: Voyage) -> None:
    collect_garbage(voyage.containerd)
    assert state(voyage.containerd) == voyage.after
    assert voyage.after.leases == voyage.after.ingests == set()


def test_containers_run(voyage: Voyage, request: pytest.FixtureRequest) -> None:
    need(request, "runc")
    for name in ("docker.io/library/bb:1", "docker.io/library/app:1"):
        label = name.rpartition("/")[2].replace(":", "-")
        said = voyage.containerd.ctr("run", "--rm", "--snapshotter", voyage.snapshotter, name, label, "/bin/echo", "alive")
        assert said.strip() == "alive"
    assert state(voyage.containerd).snapshots == voyage.after.snapshots


def test_containerd_goes_on_with_it(voyage: Voyage, archive: Path) -> None:
    """The last test on it: snapshots are made on ours, ours are removed, others come."""
    containerd, snapshotter, known = voyage.containerd, voyage.snapshotter, voyage.facts["images"]
    [top] = [image["chain"] for image in known.values() if "app:1" in image["refs"]]
    snapshots = ("snapshots", "--snapshotter", snapshotter)
    containerd.ctr(*snapshots, "prepare", "more", top)
    containerd.ctr(*snapshots, "commit", "more-committed", "more")
    assert state(containerd).snapshots[snapshotter, "more-committed"] == (top, "Committed")
    containerd.ctr(*snapshots, "rm", "more-committed")
    containerd.ctr("images", "rm", *voyage.after.images)
    collect_garbage(containerd)
    assert (state(containerd).images, state(containerd).snapshots) == ({}, {})
    containerd.ctr("images", "import", "--snapshotter", snapshotter, str(archive))
    assert containerd.ctr("run", "--rm", "--snapshotter", snapshotter, BUSYBOX, "last", "/bin/echo", "alive").strip() == "alive"
    containerd.restart()
    assert unpacked(containerd, "moby", snapshotter) == {BUSYBOX: ("complete (2/2)", True)}


@pytest.fixture(scope="module")
def source(docker_fixture: Callable[[str], Path]) -> Path:
    return docker_fixture("overlay2")


@dataclass(frozen=True)
class Place:
    """A root, and the command that moves a few images there."""

    root: Path
    transship: Transship
    run: Callable[[], Containerd]
    """Starts a containerd on it; stop it again."""

    @contextmanager
    def running(self) -> Iterator[Containerd]:
        containerd = self.run()
        try:
            yield containerd
        finally:
            containerd.stop()

    def everything(self) -> Everything:
        return everything(self.root, "overlayfs")


@pytest.fixture
def place(start_containerd: Callable[..., Containerd], source: Path, tmp_path: Path) -> Place:
    return a_place(tmp_path, tmp_path / "root", start_containerd, source)


def a_place(directory: Path, root: Path, start_containerd: Callable[..., Containerd], source: Path) -> Place:
    few = (part for name in FEW for part in ("--image", name))
    transship = Transship(directory / "state", ("--source", source, "--target", f"containerd-root:{root}", *few))
    return Place(root, transship, lambda: start_containerd(root))


@pytest.fixture(scope="module")
def few(start_containerd: Callable[..., Containerd], source: Path, tmp_path_factory: pytest.TempPathFactory) -> Everything:
    """What a run that nothing happens to makes."""
    directory = tmp_path_factory.mktemp("few")
    whole = a_place(directory, directory / "root", start_containerd, source)
    whole.transship("migrate").expect()
    return whole.everything()


def files(root: Path) -> set[str]:
    """Return the blobs, ingests and snapshots' directories on disk."""
    content, trees = root / "io.containerd.content.v1.content", root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    found = {path for directory in ("blobs/sha256", "ingest") for path in (content / directory).iterdir()}
    return {str(path) for path in (*found, *trees.iterdir())}


def check_as_few(place: Place, few: Everything) -> None:
    check_equal(place.everything(), few)
    assert place.transship("verify").expect().last["differences"] == []
    assert len([path for path in files(place.root) if "/sha256/" in path]) == len(few.records[b"content"][b"blob"])
    assert len([path for path in files(place.root) if "/snapshots/" in path]) == len(few.snapshots)
    assert not (place.root / "transship.pending").exists()


def test_killed_again_and_again(place: Place, few: Everything, chance: random.Random) -> None:
    assert kill_until_done(place.transship, chance, lambda: None) > 3
    check_as_few(place, few)
    with place.running() as containerd:
        collect_garbage(containerd)
    check_equal(place.everything(), few)


@pytest.mark.parametrize(
    "call", ["fsync", "fdatasync", "syncfs", "pwrite64", "renameat", "rename", "mkdirat", "mkdir", "unlink", "flock"]
)
def test_killed_at_a_system_call(
    request: pytest.FixtureRequest, place: Place, few: Everything, chance: random.Random, call: str
) -> None:
    need(request, "strace")
    killed = killed_at(place.transship, call, chance.randint(1, 6))
    assert killed.code in {0, -9, 137}, killed
    place.transship("migrate").expect()
    check_as_few(place, few)


def test_containerd_runs_between_kills(place: Place, few: Everything, archive: Path, chance: random.Random) -> None:
    """It finds a root that is whole, and knows nothing of what was not finished: which is then made again."""
    for number in range(5):
        with place.transship.start("migrate") as running:
            assert running.until("step_done", chance.randint(2, 25))
            running.kill()
        assert (place.root / "transship.pending").exists()
        with place.running() as containerd:
            containerd.ctr("images", "import", "--snapshotter", "overlayfs", str(archive), namespace=f"other-{number}")
            assert unpacked(containerd, f"other-{number}", "overlayfs") == {BUSYBOX: ("complete (2/2)", True)}
            containerd.ctr("images", "rm", "--sync", BUSYBOX, namespace=f"other-{number}")
            collect_garbage(containerd)
            assert state(containerd).images == {}
    place.transship("migrate").expect()
    check_as_few(place, few)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(place: Place, few: Everything, number: signal.Signals) -> None:
    with place.transship.start("migrate") as running:
        assert running.until("step_done", 12)
        running.process.send_signal(number)
        ended = running.end().expect(128 + number)
    assert not (place.root / "transship.pending").exists()
    with place.running() as containerd:
        collect_garbage(containerd)
        assert len(state(containerd).leases) == 1
    resumed = place.transship("migrate").expect()
    assert not ended.done(skipped=False) & {event["key"] for event in resumed.events("step_started")}
    check_as_few(place, few)


def test_containerd_that_is_started_meanwhile_waits(place: Place, few: Everything, tmp_path: Path) -> None:
    with place.transship.start("migrate") as running:
        assert running.until("step_done", 3)
        running.process.send_signal(signal.SIGSTOP)
        containerd = Containerd(tmp_path, place.root)
        with pytest.raises(RuntimeError, match="waiting for response from boltdb open"):
            containerd.start(seconds=12)
        with start_in_background(containerd):
            running.process.send_signal(signal.SIGCONT)
            running.end().expect()
        assert len(state(containerd).images) == len(few.records[b"images"])
        collect_garbage(containerd)
        containerd.stop()
    check_as_few(place, few)


@contextmanager
def start_in_background(containerd: Containerd) -> Iterator[None]:
    """Have it start while the block lasts, and have started at its end."""
    with ThreadPoolExecutor(1) as pool:
        started = pool.submit(containerd.start, 60)
        yield
        started.result()


def test_containerd_that_runs_is_in_the_way(place: Place) -> None:
    with place.running() as containerd:
        for verb in ("migrate", "plan", "verify"):
            refused = place.transship(verb).expect(4)
            assert f"process {containerd.pid}" in refused.last["message"]
            assert "containerd:SOCKET" in refused.last["remedy"]
        assert state(containerd).images == {}


class TestRollback:
    @pytest.fixture
    def theirs(self, place: Place, archive: Path) -> Everything:
        with place.running() as containerd:
            add_theirs(containerd, archive, "overlayfs")
        return place.everything()

    def check(self, place: Place, theirs: Everything, before: set[str]) -> None:
        after = place.everything()
        # Labels that a blob of theirs was given stay. They say what is so: what it unpacks to, what it refers to.
        for records in (after.records, theirs.records):
            for blob in records[b"content"][b"blob"].values():
                blob.pop(b"labels", None)
        check_equal(after, theirs)
        assert files(place.root) == before
        with place.running() as containerd:
            assert state(containerd, "other").leases == {"theirs"}
            collect_garbage(containerd)
            assert state(containerd).images.keys() == {THEIRS}
        assert files(place.root) == before

    def test_after_a_run_killed_and_resumed(self, place: Place, theirs: Everything, chance: random.Random) -> None:
        before = files(place.root)
        kill_until_done(place.transship, chance, lambda: None)
        assert place.everything() != theirs
        assert place.transship("rollback").expect().last["failed"] == []
        self.check(place, theirs, before)

    @pytest.mark.parametrize("containerd_first", [False, True])
    def test_of_a_run_that_was_killed(
        self, place: Place, theirs: Everything, chance: random.Random, *, containerd_first: bool
    ) -> None:
        before = files(place.root)
        with place.transship.start("migrate") as running:
            assert running.until("step_done", chance.randint(1, 30))
            running.kill()
        if containerd_first:
            with place.running() as containerd:
                collect_garbage(containerd)
        assert place.transship("rollback").expect().last["failed"] == []
        self.check(place, theirs, before)

    def test_killed_itself(self, place: Place, theirs: Everything, chance: random.Random) -> None:
        before = files(place.root)
        place.transship("migrate").expect()
        for _ in range(3):
            with place.transship.start("rollback") as running:
                assert running.until("step_undone", chance.randint(1, 20))
                running.kill()
        place.transship("rollback").expect()
        self.check(place, theirs, before)

    def test_then_again(self, place: Place, few: Everything) -> None:
        for _ in range(2):
            place.transship("migrate").expect()
            check_as_few(place, few)
            place.transship("rollback").expect()
            assert (files(place.root), place.everything().records) == (set(), {})

    def test_what_others_have_come_to_use_stays(self, place: Place) -> None:
        place.transship("migrate").expect()
        with place.running() as containerd:
            containerd.ctr("images", "tag", "docker.io/library/weird:1", "example.com/mine:1")
        assert place.transship("rollback").expect().last["kept"]
        with place.running() as containerd:
            collect_garbage(containerd)
            assert unpacked(containerd, "moby", "overlayfs") == {"example.com/mine:1": ("complete (4/4)", True)}


def test_read_only(place: Place) -> None:
    place.transship("migrate").expect()
    with Path("/dev/null").open("wb") as nowhere:
        subprocess.run(["mount", "--bind", str(place.root), str(place.root)], check=True, stdout=nowhere)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(place.root)], check=True)
        assert place.transship("verify").expect().last["differences"] == []
        plan = place.transship("plan").expect().last
        assert plan["estimate"]["standing"] == plan["estimate"]["steps"] > 0
        failed = replace(place.transship, state_dir=place.transship.state_dir.with_name("other"))("migrate").expect(4)
        assert failed.last["error"] == "TargetUnavailable"
        assert str(place.root) in failed.last["message"]
    finally:
        subprocess.run(["umount", str(place.root)], check=True)


def test_disk_full(start_containerd: Callable[..., Containerd], source: Path, few: Everything, tmp_path: Path) -> None:
    with Disk(tmp_path, "ext4", 256 << 20, "-m", "0") as disk:
        place = a_place(tmp_path, disk.path / "root", start_containerd, source)
        for free in (100 << 10, 500 << 10, 1 << 20, 1500 << 10):
            disk.fill(free)
            full = place.transship("migrate").expect(4)
            assert full.last["error"] == "TargetFull"
            disk.empty()
            for name in ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db"):
                database(place.root / name)
        place.transship("migrate").expect()
        check_as_few(place, replace(few, snapshots=place.everything().snapshots))


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts(
    request: pytest.FixtureRequest, start_containerd: Callable[..., Containerd], source: Path, few: Everything, kind: str
) -> None:
    need(request, "mkfs.ext4", "mkfs.xfs", "mount")
    tmp_path = request.getfixturevalue("tmp_path")
    with Disk(tmp_path, kind, 512 << 20) as disk:
        place = a_place(disk.path, disk.path / "root", start_containerd, source)
        done: set[str] = set()
        for count in (1, 2, 6, 12, 18):
            more = cut_at(disk, place.transship, count)
            if more is None:
                break
            disk.unmount()
            disk.mount()
            done |= more
            check_journalled(place.transship.state_dir, done)
            check_there(place, done)
        assert len(done) > 20
        resumed = place.transship("migrate").expect()
        assert not done & {event["key"] for event in resumed.events("step_started")}
        check_as_few(place, replace(few, snapshots=place.everything().snapshots))


def check_there(place: Place, done: set[str]) -> None:
    """Assert that what was called done is there and whole, for whoever goes on."""
    target = ContainerdRootTarget(place.root)
    target.open()
    try:
        ensure_there(target, done)
    finally:
        target.close()


def ensure_there(target: ContainerdRootTarget, done: set[str]) -> None:
    assert target.snapshots is not None
    snapshots = {info.name for info in target.snapshots.list() if info.kind is SnapshotKind.COMMITTED}
    blobs = {info.labels.get("containerd.io/uncompressed"): info.digest for info in target.content.list()}
    for key in done:
        kind, _, name = key.partition(":")
        match kind:
            case "snapshot":
                assert name in snapshots
                target.snapshots.directory(name)
            case "blob":
                assert b"".join(target.content.read(blobs[name]))
            case "image" if not name.startswith("sha256:"):
                target.content.info(target.images.get(name).target.digest)
