"""Runs that are killed, stopped, or lose their containerd, again and again: they go on and end as if nothing had been."""

from __future__ import annotations

import secrets
import signal
import subprocess
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from tests.real.command import Transship, environment
from tests.real.conftest import need
from tests.real.facts import read_json
from tests.real.kills import kill_until_done, killed_at
from tests.real.state import RUN_LABEL, State, collect_garbage, state
from tests.real.trees import differences, snapshot_tree

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path
    from typing import Any

    from tests.real.command import Ended
    from tests.real.conftest import Containerd
    from tests.real.facts import Facts

pytestmark = pytest.mark.real

FEW = ("weird:1", "dang:1", "committed:1", "repeat:1", "foreign:1", "scr:1", "nolayers:1")
"""Images that are quickly moved: each of the store's oddities, but not its 110 layers."""
SYSTEM_CALLS = {
    "fsync": 2, "fdatasync": 30, "syncfs": 8, "pwrite64": 200, "sendmsg": 100, "mkdirat": 8, "mknodat": 2, "utimensat": 20,
    "fchown": 15, "symlinkat": 8, "flock": 9, "ftruncate": 3, "openat": 1000,
}  # fmt: skip
"""Where to kill a run: at one of the first so many calls by one of its threads."""


@pytest.fixture(scope="module")
def source(docker_fixture: Callable[[str], Path]) -> Path:
    return docker_fixture("overlay2")


@dataclass(frozen=True)
class Expected:
    """What an uninterrupted run makes."""

    state: State
    few: State
    facts: Facts

    def check(self, containerd: Containerd, namespace: str = "moby") -> None:
        """Assert that ``namespace`` holds all images, every tree as a container is to see it, and nothing else."""
        assert state(containerd, namespace) == self.state
        for chain_id, tree in self.facts["chain_trees"].items():
            assert differences(snapshot_tree(containerd, namespace, "overlayfs", chain_id), tree) == {}

    def check_few(self, containerd: Containerd, namespace: str) -> None:
        assert state(containerd, namespace) == self.few
        chains = self.few_chains
        assert len(chains) > 5
        for chain_id in chains:
            tree = self.facts["chain_trees"][chain_id]
            assert differences(snapshot_tree(containerd, namespace, "overlayfs", chain_id), tree) == {}

    @property
    def few_chains(self) -> set[str]:
        return {chain_id for _, chain_id in self.few.snapshots if chain_id in self.facts["chain_trees"]}


def transship_to(containerd: Containerd, source: Path, state_dir: Path, namespace: str = "moby") -> Transship:
    target = ("--target", f"containerd:{containerd.socket}", "--namespace", namespace)
    return Transship(state_dir, ("--source", source, *target))


def only_few(transship: Transship) -> Transship:
    return replace(transship, options=(*transship.options, *(part for name in FEW for part in ("--image", name))))


@pytest.fixture(scope="module")
def expected(
    start_containerd: Callable[..., Containerd],
    source: Path,
    facts: Callable[[str], Facts],
    tmp_path_factory: pytest.TempPathFactory,
) -> Expected:
    containerd = start_containerd()
    directory = tmp_path_factory.mktemp("expected")
    transship_to(containerd, source, directory / "all")("migrate").expect()
    only_few(transship_to(containerd, source, directory / "few", "few"))("migrate").expect()
    return Expected(state(containerd), state(containerd, "few"), facts("overlay2"))


def test_killed_again_and_again(
    start_containerd: Callable[..., Containerd], source: Path, expected: Expected, tmp_path: Path, chance: random.Random
) -> None:
    containerd = start_containerd()
    transship = transship_to(containerd, source, tmp_path / "state")
    kills = kill_until_done(transship, chance, lambda: collect_garbage(containerd))
    assert kills >= 12
    expected.check(containerd)
    assert transship("verify").expect().last["differences"] == []


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_killed_at_a_system_call(
    *,
    request: pytest.FixtureRequest,
    containerd: Containerd,
    source: Path,
    expected: Expected,
    tmp_path: Path,
    chance: random.Random,
    call: str,
) -> None:
    need(request, "strace")
    number = chance.randint(1, SYSTEM_CALLS[call])
    for attempt in range(10):
        namespace = f"killed-{secrets.token_hex(6)}"
        transship = only_few(transship_to(containerd, source, tmp_path / f"state-{attempt}", namespace))
        killed = killed_at(transship, call, number)
        if killed.code != 0:
            break
        number = number // 2 or 1  # no thread made so many
    assert killed.code in {-9, 137}, killed
    ended = transship("migrate").expect()
    check_no_blob_twice(killed, ended)
    expected.check_few(containerd, namespace)
    collect_garbage(containerd, namespace)
    assert state(containerd, namespace) == expected.few


def check_no_blob_twice(first: Ended, second: Ended) -> None:
    done = {key for key in first.done(skipped=False) if key.startswith("blob:")}
    assert done <= second.done(skipped=True)
    assert not done & {event["key"] for event in second.events("step_started")}


def test_containerd_killed(
    start_containerd: Callable[..., Containerd], source: Path, expected: Expected, tmp_path: Path, chance: random.Random
) -> None:
    containerd = start_containerd()
    transship = transship_to(containerd, source, tmp_path / "state")
    for _ in range(5):
        with transship.start("migrate") as running:
            more = chance.randint(1, 50)
            for event in running.documents():
                more -= event["type"] == "step_done" and not event["skipped"]
                if not more:
                    break
            containerd.kill()
            ended = running.end().expect(4)
        assert ended.last["type"] == "error"
        assert f"see that containerd runs and answers on {containerd.socket}, then run again" in ended.last["remedy"]
        assert ended.events("run_ended")[0]["state"] == "interrupted"
        assert transship("migrate").expect(4).last["error"] == "TargetUnavailable"
        containerd.start()
    transship("migrate").expect()
    expected.check(containerd)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_by_a_signal(
    containerd: Containerd, source: Path, expected: Expected, tmp_path: Path, number: signal.Signals
) -> None:
    namespace = f"stopped-{number.name.lower()}"
    transship = only_few(transship_to(containerd, source, tmp_path / "state", namespace))
    with transship.start("migrate") as running:
        assert running.until("step_done", 5)
        running.process.send_signal(number)
        ended = running.end().expect(128 + number)
    assert ended.last["exit_code"] == 128 + number
    assert "run the same command again" in ended.last["remedy"]
    assert ended.events("run_ended")[0]["state"] == "interrupted"
    [run] = transship("status").expect().last["runs"]
    assert run["state"] == "interrupted"
    resumed = transship("migrate").expect()
    check_no_blob_twice(ended, resumed)
    assert resumed.last["run"] == ended.events("run_started")[0]["run"]
    expected.check_few(containerd, namespace)


def test_person_is_told_how_to_go_on(containerd: Containerd, source: Path, tmp_path: Path) -> None:
    transship = transship_to(containerd, source, tmp_path / "state", "told")
    command = [str(part) for part in transship.command("migrate") if part != "--json"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment()) as process:
        assert process.stderr is not None
        assert process.stderr.readline().startswith("run ")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate()
    assert process.returncode == 130
    assert "stopped by SIGINT" in said
    assert "run the same command again" in said


def test_second_run_is_refused(containerd: Containerd, source: Path, tmp_path: Path) -> None:
    transship = transship_to(containerd, source, tmp_path / "state", "twice")
    with transship.start("migrate") as running:
        assert running.until("step_done")
        running.process.send_signal(signal.SIGSTOP)
        for verb in ("migrate", "verify", "rollback"):
            refused = transship(verb).expect(6)
            assert f"process {running.process.pid}" in refused.last["message"]
            assert str(tmp_path / "state") in refused.last["message"]
        [run] = transship("status").expect().last["runs"]
        assert run["state"] == "running"
        running.kill()
    transship("migrate").expect()


class TestRollback:
    """What is rolled back is gone, and everything else is as it was: here, an image of someone else's that shares a layer."""

    @pytest.fixture
    def shared(
        self,
        start_containerd: Callable[..., Containerd],
        containerd: Containerd,
        source: Path,
        tmp_path: Path,
    ) -> Containerd:
        """A containerd that has an image under a name of its own, with the very blobs and snapshot that a migration makes."""
        archive = str(tmp_path / "theirs.tar")
        namespace = "theirs"
        made = transship_to(containerd, source, tmp_path / "made", namespace)
        made("migrate", "--image", "bb:1").expect()
        containerd.ctr("images", "export", archive, "docker.io/library/bb:1", namespace=namespace)
        daemon = start_containerd()
        daemon.ctr("images", "import", "--snapshotter", "overlayfs", archive)
        daemon.ctr("images", "tag", "docker.io/library/bb:1", "example.com/theirs:1")
        daemon.ctr("images", "rm", "--sync", "docker.io/library/bb:1")
        assert set(state(daemon).images) == {"example.com/theirs:1"}
        return daemon

    def test_after_a_run_killed_and_resumed(
        self, shared: Containerd, source: Path, expected: Expected, tmp_path: Path, chance: random.Random
    ) -> None:
        before, files = state(shared), below(shared)
        transship = only_few(transship_to(shared, source, tmp_path / "state"))
        assert kill_until_done(transship, chance, lambda: collect_garbage(shared)) > 3
        assert state(shared).images.keys() == expected.few.images.keys() | before.images.keys()
        ended = transship("rollback").expect()
        assert ended.last["failed"] == []
        check_same(shared, before, files)
        run = transship("status").expect().last["runs"][0]
        assert run["state"] == "rolled-back"

    def test_of_a_run_that_was_killed(self, shared: Containerd, source: Path, tmp_path: Path, chance: random.Random) -> None:
        before, files = state(shared), below(shared)
        for attempt in range(4):
            transship = transship_to(shared, source, tmp_path / f"state-{attempt}")
            with transship.start("migrate") as running:
                assert running.until("step_done", chance.randint(1, 250))
                running.kill()
            transship("rollback").expect()
            check_same(shared, before, files)

    def test_killed_itself(self, shared: Containerd, source: Path, tmp_path: Path, chance: random.Random) -> None:
        before, files = state(shared), below(shared)
        transship = only_few(transship_to(shared, source, tmp_path / "state"))
        transship("migrate").expect()
        for _ in range(4):
            with transship.start("rollback") as running:
                assert running.until("step_undone", chance.randint(1, 20))
                running.kill()
        transship("rollback").expect()
        check_same(shared, before, files)
        transship("migrate").expect()

    def test_then_again(self, shared: Containerd, source: Path, expected: Expected, tmp_path: Path) -> None:
        """Moved, taken back, and moved again."""
        shared.ctr("images", "rm", "--sync", "example.com/theirs:1")
        assert state(shared) == State({}, {}, {})
        transship = only_few(transship_to(shared, source, tmp_path / "state"))
        for _ in range(2):
            transship("migrate").expect()
            expected.check_few(shared, "moby")
            transship("rollback").expect()
            assert state(shared) == State({}, {}, {})

    def test_what_others_have_come_to_use_stays(self, shared: Containerd, source: Path, tmp_path: Path) -> None:
        transship = transship_to(shared, source, tmp_path / "state")
        transship("migrate").expect()
        shared.ctr("images", "tag", "docker.io/library/app:1", "example.com/mine:1")
        ended = transship("rollback").expect()
        assert ended.last["kept"]
        assert state(shared).images.keys() == {"example.com/theirs:1", "example.com/mine:1"}
        assert shared.ctr("run", "--rm", "example.com/mine:1", "mine", "/bin/echo", "alive").strip() == "alive"


def check_same(containerd: Containerd, before: State, files: set[str]) -> None:
    after = state(containerd)
    assert after.counts == before.counts
    # Labels that a blob of theirs was given stay. They say what is so: what it unpacks to, what it refers to.
    kept = {
        digest: {key: value for key, value in labels.items() if key in before.blobs.get(digest, {})}
        for digest, labels in after.blobs.items()
    }
    assert replace(after, blobs=kept) == before
    assert below(containerd) == files


def below(containerd: Containerd) -> set[str]:
    """Return the blobs, ingests and snapshot directories on disk."""
    content = containerd.root / "io.containerd.content.v1.content"
    found = {str(path) for directory in ("blobs", "ingest") for path in (content / directory).rglob("*")}
    snapshots = containerd.root / "io.containerd.snapshotter.v1.overlayfs" / "snapshots"
    return found | {str(path) for path in snapshots.iterdir()}


class TestLayout:
    """The same with an OCI layout as target."""

    @pytest.fixture
    def transship(self, source: Path, tmp_path: Path) -> Transship:
        return Transship(tmp_path / "state", ("--source", source, "--target", f"oci:{tmp_path}/layout"))

    def test_killed_again_and_again(self, transship: Transship, source: Path, tmp_path: Path, chance: random.Random) -> None:
        whole = Transship(tmp_path / "state-whole", ("--source", source, "--target", f"oci:{tmp_path}/whole"))
        whole("migrate").expect()
        assert kill_until_done(transship, chance, lambda: None) > 5
        assert contents(tmp_path / "layout") == contents(tmp_path / "whole")
        assert transship("verify").expect().last["differences"] == []
        transship("rollback").expect()
        assert contents(tmp_path / "layout").keys() <= {"index.json", "oci-layout"}
        assert read_json(tmp_path / "layout" / "index.json")["manifests"] == []

    @pytest.mark.parametrize("call", ["rename", "fsync", "flock", "unlink"])
    def test_killed_at_a_system_call(
        self, request: pytest.FixtureRequest, transship: Transship, chance: random.Random, call: str
    ) -> None:
        need(request, "strace")
        killed = killed_at(transship, call, chance.randint(1, 60 if call in {"rename", "fsync"} else 4))
        assert killed.code in {-9, 137, 0}
        check_no_blob_twice(killed, transship("migrate").expect())
        assert transship("verify").expect().last["differences"] == []

    def test_rollback_of_a_run_that_was_killed(self, transship: Transship, tmp_path: Path, chance: random.Random) -> None:
        for _ in range(4):
            with transship.start("migrate") as running:
                assert running.until("step_done", chance.randint(1, 150))
                running.kill()
            transship("rollback").expect()
            assert contents(tmp_path / "layout").keys() <= {"index.json", "oci-layout"}


def contents(layout: Path) -> dict[str, Any]:
    """Return every file of a layout, and its index without the names of runs."""
    found: dict[str, Any] = {str(path.relative_to(layout)): path.read_bytes() for path in layout.rglob("*") if path.is_file()}
    found["index.json"] = read_json(layout / "index.json")
    for entry in found["index.json"]["manifests"]:
        entry["annotations"].pop(RUN_LABEL)
    return found
