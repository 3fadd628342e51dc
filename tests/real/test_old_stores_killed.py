"""Upgrades of old stores that are killed: they go on and end as if nothing had been, or are taken back to the byte."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.kills import kill_until_done, killed_at
from tests.real.old_roots import OldRoot
from tests.real.state import State, collect_garbage, state
from tests.real.trees import differences
from tests.v1_stores import copy_v1_root

if TYPE_CHECKING:
    import random
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.conftest import Containerd
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

SYSTEM_CALLS = {
    "fsync": 300, "fdatasync": 60, "syncfs": 150, "rename": 300, "linkat": 25, "mkdir": 130, "unlink": 330, "fchmod": 300,
    "chmod": 50, "write": 900, "pwrite64": 800, "openat": 2500,
}  # fmt: skip
"""Where to kill an upgrade: at one of the first so many calls by one of its threads."""
CALLS_OF_ROLLBACK = {"unlink": 250, "rmdir": 80, "syncfs": 50, "utimensat": 30, "fdatasync": 50, "openat": 600}


@pytest.fixture
def make_root(docker_fixture: Callable[[str], Path], tmp_path: Path) -> Callable[[str], OldRoot]:
    """Makes one more old root at each call."""

    def make(name: str) -> OldRoot:
        place = tmp_path / secrets.token_hex(4)
        place.mkdir()
        return OldRoot.make(docker_fixture(name), place)

    return make


@pytest.fixture(scope="module")
def whole(docker_fixture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Tree]:
    """What an upgrade that nothing happens to makes of a store, by name."""
    known: dict[str, Tree] = {}

    def upgraded(name: str) -> Tree:
        if name not in known:
            old = OldRoot.make(docker_fixture(name), tmp_path_factory.mktemp("whole"))
            old.transship("migrate").expect("damaged" in name)
            known[name] = old.made()
        return known[name]

    return upgraded


@pytest.mark.parametrize("name", ["vfs-damaged", "overlay"])
def test_killed_again_and_again(
    name: str, make_root: Callable[[str], OldRoot], whole: Callable[[str], Tree], chance: random.Random
) -> None:
    old = make_root(name)
    kills = kill_until_done(old.transship, chance, old.check_old_is_whole, costly="checksum:", code="damaged" in name)
    assert kills >= 5
    assert differences(old.made(), whole(name)) == {}
    old.transship("rollback").expect()
    old.check_restored()


@pytest.mark.parametrize("call", SYSTEM_CALLS)
def test_killed_at_a_system_call(
    *,
    request: pytest.FixtureRequest,
    make_root: Callable[[str], OldRoot],
    whole: Callable[[str], Tree],
    chance: random.Random,
    call: str,
) -> None:
    """Killed once and gone on with; killed once more and taken back."""
    need(request, "strace")
    old = killed(make_root, call, chance.randint(1, SYSTEM_CALLS[call]))
    old.check_old_is_whole()
    old.transship("migrate").expect()
    assert differences(old.made(), whole("aufs")) == {}
    old = killed(make_root, call, chance.randint(1, SYSTEM_CALLS[call]))
    old.transship("rollback")  # there is no run yet, perhaps
    old.check_restored()


def killed(make_root: Callable[[str], OldRoot], call: str, number: int) -> OldRoot:
    """Return a root whose upgrade was killed when one of its threads made a call for the time ``number``, or before."""
    for _ in range(10):
        old = make_root("aufs")
        ended = killed_at(old.transship, call, number)
        if ended.code != 0:
            assert ended.code in {-9, 137}, ended
            return old
        number = number // 2 or 1  # no thread made so many
    raise AssertionError(f"nobody calls {call}")


def test_rollback_of_what_was_killed(make_root: Callable[[str], OldRoot], chance: random.Random) -> None:
    old = make_root("overlay")
    for _ in range(4):
        with old.transship.start("migrate") as running:
            assert running.until("step_done", chance.randint(1, 130))
            running.kill()
        old.transship("rollback").expect()
        old.check_restored()


@pytest.mark.parametrize("call", CALLS_OF_ROLLBACK)
def test_rollback_killed_itself(
    request: pytest.FixtureRequest, make_root: Callable[[str], OldRoot], chance: random.Random, call: str
) -> None:
    need(request, "strace")
    old = make_root("aufs")
    old.transship("migrate").expect()
    killed_at(old.transship, call, chance.randint(1, CALLS_OF_ROLLBACK[call]), "rollback")
    old.check_old_is_whole()
    old.transship("rollback")  # perhaps it had got through
    old.check_restored()


def test_then_again(make_root: Callable[[str], OldRoot], whole: Callable[[str], Tree]) -> None:
    """Upgraded, taken back, and upgraded again."""
    old = make_root("overlay")
    for _ in range(2):
        old.transship("migrate").expect()
        assert differences(old.made(), whole("overlay")) == {}
        old.transship("rollback").expect()
        old.check_restored()


def test_the_way_to_containerd_killed_again_and_again(
    containerd: Containerd, docker_fixture: Callable[[str], Path], tmp_path: Path, chance: random.Random
) -> None:
    root = copy_v1_root(docker_fixture("aufs"), tmp_path / "root")

    def to(namespace: str) -> Transship:
        target = ("--target", f"containerd:{containerd.socket}", "--namespace", namespace)
        return Transship(tmp_path / namespace, ("--source", root, *target))

    to("straight")("migrate").expect()
    old = to("killed")
    assert kill_until_done(old, chance, lambda: collect_garbage(containerd, "killed"), costly="checksum:") >= 3
    assert state(containerd, "killed") == state(containerd, "straight")
    assert old("verify").expect().last["differences"] == []
    old("rollback").expect()
    assert state(containerd, "killed") == State({}, {}, {})
