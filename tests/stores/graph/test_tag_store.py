"""Writing names as Docker 1.9 did."""

from __future__ import annotations

import json
import stat
from typing import TYPE_CHECKING

import pytest

from transship.errors import SourceCorrupt, TargetExists, TargetUnavailable, UsageError
from transship.stores.graph.tag_store import TagStore

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = "1" * 64, "2" * 64
DIGEST = "sha256:" + "d" * 64


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "repositories-vfs"


@pytest.fixture
def store(path: Path) -> TagStore:
    return TagStore(path)


def test_the_file_is_to_the_byte_that_of_docker(store: TagStore, path: Path) -> None:
    store.set("t2:1", TWO)
    store.set("app", ONE)
    store.set(f"app@{DIGEST}", ONE)
    assert path.read_text() == (f'{{"Repositories":{{"app":{{"latest":"{ONE}","{DIGEST}":"{ONE}"}},"t2":{{"1":"{TWO}"}}}}}}')
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [each.name for each in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("spelling", ["app:1", "library/app:1", "docker.io/app:1", "index.docker.io/library/app:1"])
def test_all_spellings_are_one_name(store: TagStore, path: Path, spelling: str) -> None:
    store.set(spelling, ONE)
    assert json.loads(path.read_bytes()) == {"Repositories": {"app": {"1": ONE}}}
    assert store.get("app:1") == store.get(spelling) == ONE
    assert store.delete("docker.io/library/app:1")
    assert json.loads(path.read_bytes()) == {"Repositories": {}}


def test_names_that_are_not_there(store: TagStore, path: Path) -> None:
    assert store.get("app:1") is None
    assert not store.delete("app:1")
    assert not path.exists()
    store.set("app:1", ONE)
    assert not store.delete("app:2")
    assert store.get("app:1") == ONE


def test_a_name_moves_only_by_force_and_a_digest_never(store: TagStore) -> None:
    store.set("app:1", ONE)
    store.set("app:1", ONE)
    with pytest.raises(TargetExists, match=ONE):
        store.set("app:1", TWO)
    assert store.get("app:1") == ONE
    store.set("app:1", TWO, force=True)
    assert store.get("app:1") == TWO
    store.set(f"app@{DIGEST}", ONE)
    with pytest.raises(TargetExists):
        store.set(f"app@{DIGEST}", TWO, force=True)


def test_what_else_is_in_the_file_stays(store: TagStore, path: Path) -> None:
    path.write_text(json.dumps({"Repositories": {"library/x": {"1": TWO}, "Odd Name": {"": "y"}, "app": {"1": ONE}}}))
    store.set("app:2", ONE)
    store.delete("app:1")
    assert json.loads(path.read_bytes())["Repositories"] == {
        "library/x": {"1": TWO},
        "Odd Name": {"": "y"},
        "app": {"2": ONE},
    }


@pytest.mark.parametrize("name", ["", "Upper:1", "a b", "app:", "scratch:1", "sha256:1", "a" * 64, "../x:1", "app@sha256:x"])
def test_what_can_be_no_name(store: TagStore, path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        store.set(name, ONE)
    assert not path.exists()


@pytest.mark.parametrize("image_id", ["", "x", "../" + "a" * 61, "a" * 63])
def test_what_can_be_no_image(store: TagStore, image_id: str) -> None:
    with pytest.raises(UsageError, match="not an image ID"):
        store.set("app:1", image_id)


def test_a_damaged_file_is_not_replaced(store: TagStore, path: Path) -> None:
    path.write_bytes(b'{"Repositories":{"app"')
    for change in (lambda: store.set("app:1", ONE), lambda: store.delete("app:1"), lambda: store.get("app:1")):
        with pytest.raises(SourceCorrupt, match="damaged"):
            change()
    assert path.read_bytes() == b'{"Repositories":{"app"'


def test_a_place_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(TargetUnavailable):
        TagStore(tmp_path / "nowhere/repositories-vfs").set("app:1", ONE)
