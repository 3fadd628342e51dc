"""Which target is meant, and that another process finds it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from transship.errors import JournalError, UsageError
from transship.legs import targets
from transship.legs.targets import TargetSpec, parse_target
from transship.stores.root import Generation, Place


def of(driver: str) -> Place:
    """Where a store of ``driver`` is."""
    return Place(Path("/srv/docker"), driver, (), Generation.CONTENT_ADDRESSABLE)


@pytest.mark.parametrize("text", ["docker", "graph"])
def test_an_old_root_can_be_its_own_target(text: str) -> None:
    spec = parse_target(text, "moby", None, of("vfs"))
    assert (spec.kind, spec.path, spec.in_place) == (text, "/srv/docker", True)
    assert TargetSpec.from_json(spec.to_json()) == spec


@pytest.mark.parametrize("text", ["oci", "oci:", "docker:/elsewhere", "graph:", "floppy", ""])
def test_what_is_none(text: str) -> None:
    with pytest.raises(UsageError, match="unknown target"):
        parse_target(text, "moby", None, of("vfs"))


@pytest.mark.parametrize(
    ("text", "kind", "path"),
    [
        ("oci:/srv/layout", "oci", "/srv/layout"),
        ("oci:/srv/with:colon", "oci", "/srv/with:colon"),
        ("containerd:/run/x.sock", "containerd", "/run/x.sock"),
        ("containerd", "containerd", str(targets.DEFAULT_SOCKET)),
        ("containerd:", "containerd", str(targets.DEFAULT_SOCKET)),
    ],
)
def test_what_is_meant(text: str, kind: str, path: str) -> None:
    spec = parse_target(text, "moby", None, of("overlay2"))
    assert (spec.kind, spec.path) == (kind, path)
    assert TargetSpec.from_json(spec.to_json()) == spec


def test_a_relative_directory_is_the_same_from_anywhere() -> None:
    assert parse_target("oci:layout", "moby", None, of("vfs")).path == str(Path.cwd() / "layout")


@pytest.mark.parametrize(
    ("driver", "snapshotter"),
    [("overlay2", "overlayfs"), ("vfs", "native"), *((name, "overlayfs") for name in ("aufs", "overlay", "btrfs"))],
)
def test_the_snapshotter_suits_the_driver_unless_told_otherwise(driver: str, snapshotter: str) -> None:
    assert parse_target("containerd", "moby", None, of(driver)).snapshotter == snapshotter
    assert parse_target("containerd", "k8s.io", "stargz", of(driver)) == TargetSpec(
        "containerd", str(targets.DEFAULT_SOCKET), "k8s.io", "stargz"
    )


def test_without_one_containerd_if_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(targets, "DEFAULT_SOCKET", tmp_path / "containerd.sock")
    with pytest.raises(UsageError, match="no target was given"):
        parse_target(None, "moby", None, of("overlay2"))
    (tmp_path / "containerd.sock").touch()
    assert parse_target(None, "moby", None, of("overlay2")).path == str(tmp_path / "containerd.sock")


def test_a_journal_of_another_version_is_refused() -> None:
    with pytest.raises(JournalError, match="not known here"):
        TargetSpec.from_json({"kind": "oci", "colour": "red"})
