"""Old stores through the service: it ends as it does directly, also if the service is killed on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import SOCKET_VARIABLE, Service
from tests.real.command import Transship
from tests.real.old_roots import OldRoot
from tests.real.state import State, state
from tests.real.trees import differences

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.conftest import Containerd
    from tests.real.trees import Tree

pytestmark = pytest.mark.real

STORE = "overlay"


@pytest.fixture(scope="module")
def whole(docker_fixture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """What an upgrade makes that nobody hands over."""
    old = OldRoot.make(docker_fixture(STORE), tmp_path_factory.mktemp("whole"))
    old.transship("migrate", "--direct").expect()
    return old.made()


@pytest.fixture
def old(docker_fixture: Callable[[str], Path], tmp_path: Path) -> OldRoot:
    return OldRoot.make(docker_fixture(STORE), tmp_path)


@pytest.fixture
def service(old: OldRoot, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The service to which commands turn for this root."""
    with Service(old.transship.state_dir) as service:
        monkeypatch.setenv(SOCKET_VARIABLE, str(service.socket))
        service.start()
        yield service


def test_upgrade_in_place(old: OldRoot, whole: Tree, service: Service) -> None:
    ended = old.transship("migrate").expect()
    assert ended.last["run"] in service.log.read_text()
    assert ended.last["complete"]
    assert len(ended.done(skipped=False)) == ended.last["steps"] > 100
    assert differences(old.made(), whole) == {}
    assert old.transship("verify").expect().last["differences"] == []
    assert old.transship("rollback").expect().last["kept"] == []
    old.check_restored()


def test_service_killed(old: OldRoot, whole: Tree, service: Service) -> None:
    with old.transship.start("migrate") as running:
        assert running.until("step_done", 30)
        service.kill()
        old.check_old_is_whole()
        service.start()
        ended = running.end().expect()
    assert ended.last["complete"]
    assert differences(old.made(), whole) == {}


def test_straight_to_containerd(old: OldRoot, containerd: Containerd, service: Service, tmp_path: Path) -> None:
    def to(namespace: str, state_dir: Path) -> Transship:
        target = ("--target", f"containerd:{containerd.socket}", "--namespace", namespace)
        return Transship(state_dir, ("--source", old.root, *target))

    served = to("served", old.transship.state_dir)
    ended = served("migrate").expect()
    assert ended.last["run"] in service.log.read_text()
    assert ended.last["complete"]
    assert any(key.startswith("checksum:") for key in ended.done(skipped=False))
    assert any(key.startswith("snapshot:") for key in ended.done(skipped=False))
    to("direct", tmp_path / "another state")("migrate", "--direct").expect()
    assert state(containerd, "served").images == state(containerd, "direct").images
    assert state(containerd, "served").snapshots == state(containerd, "direct").snapshots
    old.check_restored()
    served("rollback").expect()
    assert state(containerd, "served") == State({}, {}, {})
