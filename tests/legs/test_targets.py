"""Which target is meant, and that another process finds it again."""

from __future__ import annotations

from pathlib import Path

import pytest

from transship.errors import JournalError, UsageError
from transship.legs.containerd import targets
from transship.legs.containerd.targets import TargetSpec, parse_target


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
    spec = parse_target(text, "moby", None, "overlay2")
    assert (spec.kind, spec.path) == (kind, path)
    assert TargetSpec.from_json(spec.to_json()) == spec


def test_a_relative_directory_is_the_same_from_anywhere() -> None:
    assert parse_target("oci:layout", "moby", None, "vfs").path == str(Path.cwd() / "layout")


@pytest.mark.parametrize(
    ("driver", "snapshotter"),
    [("overlay2", "overlayfs"), ("vfs", "native"), *((name, "overlayfs") for name in ("aufs", "overlay", "btrfs"))],
)
def test_the_snapshotter_suits_the_driver_unless_told_otherwise(driver: str, snapshotter: str) -> None:
    assert parse_target("containerd", "moby", None, driver).snapshotter == snapshotter
    assert parse_target("containerd", "k8s.io", "stargz", driver) == TargetSpec(
        "containerd", str(targets.DEFAULT_SOCKET), "k8s.io", "stargz"
    )


def test_without_one_containerd_if_it_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(targets, "DEFAULT_SOCKET", tmp_path / "containerd.sock")
    with pytest.raises(UsageError, match="no target was given"):
        parse_target(None, "moby", None, "overlay2")
    (tmp_path / "containerd.sock").touch()
    assert parse_target(None, "moby", None, "overlay2").path == str(tmp_path / "containerd.sock")


def test_a_journal_of_another_version_is_refused() -> None:
    with pytest.raises(JournalError, match="not known here"):
        TargetSpec.from_json({"kind": "oci", "colour": "red"})
