"""Build caches by the command: brought to version 2, stopped on the way, taken back."""

from __future__ import annotations

import fcntl
import signal
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import Ended, Service, command
from tests.cli.stopped import Run
from tests.stores.buildkit.caches import BUILDKIT, DOCKER, apart_from_times, below, read, unpack
from transship.errors import ExitCode
from transship.stores import bolt_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.formats.bolt.databases import Made


PLACES = {BUILDKIT: "runc-overlayfs", DOCKER: "buildkit"}
RECORDS = {BUILDKIT: 115, DOCKER: 87}
SHARES = [each / 12 for each in range(12)]
"""Where a command is stopped: how much of what it changes in all has been changed."""


@dataclass
class Cache:
    """A root with a cache of version 1, what BuildKit makes of it, and a state directory; the last need not be there."""

    name: str
    root: Path
    expected: Path
    state: Path

    @property
    def place(self) -> Path:
        """The cache's directory."""
        return self.root / PLACES[self.name]

    @property
    def words(self) -> list[str]:
        return ["buildkit", "migrate", str(self.root), "--state-dir", str(self.state), "--direct", "--json"]

    def migrate(self) -> Ended:
        return command(*self.words)

    def run(self, name: str, *arguments: object) -> Ended:
        ends = [] if name in {"rollback", "logs"} else ["--source", self.root, "--target", "buildkit"]
        return command(name, *ends, "--state-dir", self.state, "--json", *arguments)

    def held(self) -> dict[str, Made | str]:
        """All databases, by path; of the old metadata, and what is no database, the bytes count."""
        files = [path for path in self.root.rglob("*") if path.is_file()]
        return {str(path.relative_to(self.root)): self._held(path) for path in files}

    def _held(self, path: Path) -> Made | str:
        as_bytes = path.suffix != ".db" or path == self.place / "metadata.db" or not path.stat().st_size
        return path.read_bytes().hex() if as_bytes else read(path)


@pytest.fixture(params=[BUILDKIT, DOCKER])
def build(request: pytest.FixtureRequest, tmp_path: Path) -> Cache:
    return made(str(request.param), tmp_path / "cache")


@pytest.fixture
def buildkit(tmp_path: Path) -> Cache:
    return made(BUILDKIT, tmp_path / "cache")


def made(name: str, place: Path) -> Cache:
    unpack(name, place)
    return Cache(name, place / "root", place / "migrated", place / "state")


def ensure_migrated(build: Cache) -> None:
    """See that there is what BuildKit would have made, and nothing else is changed."""
    [old] = {path.parent for path in build.expected.rglob("metadata_v2.db")}
    for path in old.rglob("*.db"):
        found = apart_from_times(read(path), read(build.place / path.relative_to(old)))
        assert [each for each in found if each[0] != (b"v1", b"version")] == [], path  # that of a newer containerd
    names = {path.name for path in build.root.rglob("*") if path.is_file()}
    assert not [name for name in names if name.endswith(".tmp") or name.startswith(".")]


def test_migrate(build: Cache) -> None:
    before = build.held()
    planned = build.run("plan")
    assert [(leg["leg"], leg["steps"]) for leg in planned.report["legs"]] == [("buildkit", 4)]
    assert f"{RECORDS[build.name]} records" in planned.report["legs"][0]["what"]
    assert build.held() == before

    ended = build.migrate()
    assert ended.code == 0, ended.all
    assert (ended.report["records"], ended.report["left_out"]) == (RECORDS[build.name], [])
    ensure_migrated(build)
    assert (build.place / "metadata_v2.db").stat().st_mode & 0o777 == 0o600
    assert build.run("verify").code == 0

    after = build.held()
    again = build.migrate()
    assert (again.code, again.report["steps"]) == (0, 0)
    assert build.held() == after
    assert command("rollback", "--state-dir", build.state).code == 0  # of the run that had nothing to do
    assert build.held() == after

    assert build.run("rollback").report["kept"] == []
    assert build.held() == before
    assert build.run("verify").code == ExitCode.VERIFICATION  # there is nothing of version 2


@pytest.fixture(scope="module")
def changes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], int]:
    """Return how many changes to files it takes to bring a cache over, and, of a rollback, to take it back."""

    @cache
    def count(name: str) -> int:
        whole = made(name, tmp_path_factory.mktemp("whole") / "cache")
        return Run(whole.root.parent, whole.words).changes()

    return count


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("taken_back", [False, True])
def test_killed(taken_back: bool, share: float, build: Cache, changes: Callable[[str], int]) -> None:
    before = build.held()
    stopped = Run(build.root.parent, build.words).stopped(1 + int(share * changes(build.name)))
    assert stopped.returncode == -signal.SIGKILL
    assert build.held()["/".join([PLACES[build.name], "metadata.db"])] == before["/".join([PLACES[build.name], "metadata.db"])]
    if taken_back:
        assert build.run("rollback").code in {0, ExitCode.USAGE}  # if there was no run yet
        assert build.held() == before
    runs = command("status", "--state-dir", build.state, "--json").report["runs"]
    was_done = any(run["state"] == "done" for run in runs)
    ended = build.migrate()
    assert ended.code == 0, ended.all
    assert ended.report["records"] == (0 if was_done else RECORDS[build.name])
    ensure_migrated(build)
    assert build.run("verify").code == 0
    while (rolled_back := build.run("rollback")).code == 0:
        assert rolled_back.report["kept"] == []
    assert build.held() == before


@pytest.mark.parametrize("share", SHARES[::2])
def test_rollback_killed(share: float, build: Cache) -> None:
    before = build.held()
    run = Run(build.root.parent, ["rollback", "--direct", "--json", "--state-dir", build.state])
    assert build.migrate().code == 0
    count = run.changes()
    assert build.held() == before
    assert build.migrate().code == 0
    assert run.stopped(1 + int(share * count)).returncode == -signal.SIGKILL
    assert build.run("rollback").code == 0
    assert build.held() == before


def test_stopped_before_the_leases(build: Cache) -> None:
    """Until then nothing is changed in the root."""
    before = build.held()
    assert Run(build.root, build.words).stopped(1).returncode == -signal.SIGKILL
    assert build.held() == before
    done = [step["key"] for step in build.run("logs").documents if step["type"] == "step_done"]
    assert done == [f"cache-records:{PLACES[build.name]}"]


def test_no_room(build: Cache) -> None:
    before = build.held()
    count = Run(build.root, build.words).changes("full")
    assert build.run("rollback").code == 0
    assert count >= 3
    ends = [Run(build.root, build.words).stopped(number, "full").returncode for number in range(1, count + 1)]
    assert ends[0] != 0
    assert set(ends) <= {ExitCode.DONE, ExitCode.INCOMPLETE, ExitCode.TARGET}  # done: what came before was of use
    assert build.migrate().code == 0
    ensure_migrated(build)
    while build.run("rollback").code == 0:
        pass
    assert build.held() == before


def test_remains_of_a_migration_that_failed(build: Cache) -> None:
    before = build.held()
    (build.place / "metadata_v2.db.tmp").write_bytes(bytes(1000))
    (build.place / "metadata_v2.db").touch()
    ended = build.migrate()
    assert ended.code == 0, ended.all
    ensure_migrated(build)
    assert build.run("rollback").code == 0
    assert (build.place / "metadata_v2.db").read_bytes() == b""
    (build.place / "metadata_v2.db").unlink()
    assert build.held() == before


def test_in_use(build: Cache) -> None:
    database = next(build.place.rglob("*.db"))
    with database.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for verb in ("plan", "verify", "migrate"):
            ended = build.run(verb)
            assert ended.code == ExitCode.SOURCE
            assert str(database) in ended.all
    assert build.migrate().code == 0
    (build.root / "buildkitd.lock").touch()
    with (build.root / "buildkitd.lock").open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = build.run("rollback")
        assert ended.code == ExitCode.SOURCE
        assert "buildkitd.lock" in ended.all


def test_used_since_it_was_stopped(buildkit: Cache) -> None:
    """BuildKit goes on with the old metadata: they are read again, and what it has taken away stays away."""
    changes = Run(buildkit.root.parent, buildkit.words).changes()
    expected = read(buildkit.place / "metadata_v2.db")
    assert buildkit.run("rollback").code == 0
    assert Run(buildkit.root.parent, buildkit.words).stopped(int(0.6 * changes)).returncode == -signal.SIGKILL
    [gone, *_] = [name for name, record in below(expected, b"_main").held.items() if _is_leaf(expected, name)]
    with bolt_file.changed(buildkit.place / "metadata.db") as draft:
        draft.made(b"_main").delete(gone)
    ended = buildkit.migrate()
    assert ended.code == 0, ended.all
    assert ended.report["records"] == RECORDS[BUILDKIT] - 1
    now = read(buildkit.place / "metadata_v2.db")
    assert below(expected, b"_main").held.keys() - below(now, b"_main").held.keys() == {gone}


def _is_leaf(metadata: Made, name: bytes) -> bool:
    """Tell whether no other record stands on this one."""
    records = below(metadata, b"_main").held
    return all(b'"%s"' % name not in bytes(held) for each in records for held in _texts(below(metadata, b"_main", each)))


def _texts(record: Made) -> list[bytes]:
    return [
        value
        for key, value in record.held.items()
        if isinstance(value, bytes) and key in {b"cache.parent", b"cache.equalMutable"}
    ]


def test_used_after_it_was_done(build: Cache) -> None:
    """The new metadata stay, with all that they need."""
    assert build.migrate().code == 0
    with bolt_file.changed(build.place / "metadata_v2.db") as draft:
        draft.made(b"_main", b"new")
    after = build.held()
    ended = build.run("rollback")
    assert ended.code == 0
    assert len(ended.report["kept"]) >= 2
    assert build.held() == after


def test_record_that_cannot_be_brought_over(buildkit: Cache) -> None:
    snapshots = below(read(buildkit.place / "containerdmeta.db"), b"v1", b"buildkit", b"snapshots", b"overlayfs").held
    records = below(read(buildkit.place / "metadata.db"), b"_main").held
    lonely = next(name for name, each in snapshots.items() if name in records and not _has_children(each))
    with bolt_file.changed(buildkit.place / "containerdmeta.db") as draft:
        draft.made(b"v1", b"buildkit", b"snapshots", b"overlayfs").delete(lonely)
    ended = buildkit.migrate()
    assert ended.code == 0, ended.all
    [left, *_] = ended.report["left_out"]
    assert lonely.decode() in left["reason"]
    assert not left["lost"]
    assert ended.report["records"] + len(ended.report["left_out"]) == RECORDS[BUILDKIT]
    assert buildkit.run("verify").code == 0


def _has_children(snapshot: bytes | Made) -> bool:
    return not isinstance(snapshot, bytes) and b"children" in snapshot.held


def test_verify_finds_what_is_missing(buildkit: Cache) -> None:
    assert buildkit.migrate().code == 0
    with bolt_file.changed(buildkit.place / "containerdmeta.db") as draft:
        leases = draft.made(b"v1", b"buildkit", b"leases")
        leases.delete(next(key for key, lease in leases.buckets() if lease.bucket(b"content")))
    ended = buildkit.run("verify")
    assert ended.code == ExitCode.VERIFICATION
    assert "no lease" in ended.all


def test_by_the_service(build: Cache) -> None:
    with Service(build.state) as service:
        service.start()
        words = ["buildkit", "migrate", build.root, "--state-dir", build.state, "--socket", service.socket, "--json"]
        ended = command(*words)
        assert ended.code == 0, ended.all
        assert ended.report["records"] == RECORDS[build.name]
    ensure_migrated(build)


def test_nothing_there(tmp_path: Path) -> None:
    ended = command("buildkit", "migrate", tmp_path, "--state-dir", tmp_path / "state", "--json")
    assert ended.code == ExitCode.SOURCE
    assert "no build cache here" in ended.all
    assert not list(tmp_path.glob("state/runs/*"))
