"""Docker's build cache of version 1, brought to version 2, and handed to a real dockerd: as good as its own migration of it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.formats.bolt.databases import Made, held
from tests.real.command import Transship
from transship.formats.bolt.check import check
from transship.stores import bolt_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.conftest import Dockerd

pytestmark = pytest.mark.real

_NAMES = ("metadata_v2.db", "containerdmeta.db", "snapshots.db")


@pytest.fixture
def root(docker_fixture: Callable[[str], Path], tmp_path: Path) -> Path:
    """A data root of Docker 19.03, with a cache of 87 records."""
    return copied(docker_fixture("buildkit"), tmp_path / "root")


def copied(source: Path, place: Path) -> Path:
    subprocess.run(["cp", "-a", source, place], check=True)
    return place


def listed(daemon: Dockerd) -> list[dict[str, Any]]:
    """Return what Docker tells of its build cache."""
    document = json.loads(daemon.docker("system", "df", "--verbose", "--format", "{{json .}}"))
    found: list[dict[str, Any]] = document["BuildCache"]
    return sorted(found, key=lambda record: str(record["ID"]))


def contents(root: Path) -> dict[str, Made]:
    found = {}
    for name in _NAMES:
        with bolt_file.opened(root / "buildkit" / name) as database:
            assert [str(problem) for problem in check(database)] == []
            found[name] = held(database.root)
    return found


def without_times(root: Made) -> Made:
    """Leave out when leases were made."""
    kept: dict[bytes, bytes | Made] = {}
    for key, value in root.held.items():
        if isinstance(value, Made):
            kept[key] = without_times(value)
        elif key not in {b"createdat", b"containerd.io/gc.flat"}:
            kept[key] = value
    return Made(kept, root.sequence)


def as_20_10(metadata: Made) -> Made:
    """Return records as the BuildKit in Docker 20.10 migrates them: one without a parent has no key for it."""
    main = metadata.held[b"_main"]
    assert isinstance(main, Made)
    for record in main.held.values():
        assert isinstance(record, Made)
        if record.held.get(b"cache.parent") == b'{"value":""}':
            del record.held[b"cache.parent"]
    return metadata


def test_same_as_dockers_own(root: Path, tmp_path: Path, make_dockerd: Callable[..., Dockerd]) -> None:
    native = make_dockerd("overlay2", copied(root, tmp_path / "native"))
    with native.running():
        expected = listed(native)
    assert len(expected) > 50

    transship = Transship(tmp_path / "state", ("--source", root, "--target", "buildkit"))
    ended = transship("migrate").expect()
    assert ended.last["records"] == 87
    assert ended.last["left_out"] == []
    ours, theirs = contents(root), contents(native.root)
    assert ours["metadata_v2.db"] != theirs["metadata_v2.db"]
    assert as_20_10(ours["metadata_v2.db"]) == theirs["metadata_v2.db"]
    assert without_times(ours["containerdmeta.db"]) == without_times(theirs["containerdmeta.db"])
    assert ours["snapshots.db"] == theirs["snapshots.db"]
    transship("verify").expect()

    daemon = make_dockerd("overlay2", root)
    with daemon.running():
        transship("verify").expect(3)  # in use
        assert listed(daemon) == expected
    transship("verify").expect()
    with daemon.running():
        assert listed(daemon) == expected
        daemon.docker("builder", "prune", "--all", "--force")
        assert [record for record in listed(daemon) if record["CacheType"] != "internal"] == []
        images = daemon.docker("images", "--quiet").split()
        daemon.docker("image", "rm", "--force", *images)
        assert daemon.docker("images", "--quiet") == ""


def test_taken_back(root: Path, tmp_path: Path, make_dockerd: Callable[..., Dockerd]) -> None:
    """A rollback leaves what Docker migrates itself; once Docker has used the new metadata, they stay."""
    cache = root / "buildkit"
    before = {path.name: path.read_bytes() for path in cache.glob("*.db") if path.name != "snapshots.db"}
    with bolt_file.opened(cache / "snapshots.db") as database:
        snapshots = held(database.root)
    transship = Transship(tmp_path / "state", ("--source", root, "--target", "buildkit"))
    transship("migrate").expect()
    transship("rollback").expect()
    assert {path.name: path.read_bytes() for path in cache.glob("*.db") if path.name != "snapshots.db"} == before
    with bolt_file.opened(cache / "snapshots.db") as database:
        assert held(database.root) == snapshots

    transship("migrate").expect()
    daemon = make_dockerd("overlay2", root)
    with daemon.running():
        transship("rollback").expect(3)  # in use
        known = listed(daemon)
        daemon.docker("builder", "prune", "--force")
        after = listed(daemon)
        assert len(after) < len(known)
    rolled_back = transship("rollback").expect(0)
    assert len(rolled_back.last["kept"]) > 0
    with daemon.running():
        assert listed(daemon) == after


def test_taken_along(root: Path, tmp_path: Path, make_dockerd: Callable[..., Dockerd]) -> None:
    """A migration of the whole root brings the cache over, too, and a rollback takes it back with the images."""
    options = ("--source", root, "--target", f"oci:{tmp_path / 'layout'}")
    transship = Transship(tmp_path / "state", options)
    planned = transship("plan").expect().last
    assert [leg["leg"] for leg in planned["legs"]] == ["buildkit", "containerd"]
    ended = transship("migrate").expect()
    assert ended.last["images"] == 7
    daemon = make_dockerd("overlay2", root)
    with daemon.running():
        assert len(listed(daemon)) > 50
    transship("verify").expect()
    transship("rollback").expect()
