"""Upgrades of old roots by the command, in place and on the way to an OCI layout, and what has come of them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.cli.harness import Ended, Journey
from tests.real.trees import listing
from transship.errors import ExitCode

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.trees import Tree


@dataclass
class Upgrade(Journey):
    """An old root that is upgraded in itself; ``state`` need not be there."""

    @property
    def ends(self) -> list[str]:
        return ["--source", str(self.source), "--target", "docker", "--state-dir", str(self.state)]

    @property
    def images(self) -> dict[str, str]:
        """What Docker would take v1 images to have become."""
        path = self.source / ".migration-v1-images.json"
        return dict(json.loads(path.read_bytes())) if path.exists() else {}

    @property
    def tags(self) -> dict[str, str]:
        """Names in the new store, with the images that they stand for."""
        [path] = self.source.glob("image/*/repositories.json")
        return {name: each for names in json.loads(path.read_bytes())["Repositories"].values() for name, each in names.items()}

    def container(self, container_id: str) -> Any:
        """The new config of a container, None if it has none."""
        path = self.source / "containers" / container_id / "config.v2.json"
        return json.loads(path.read_bytes()) if path.exists() else None

    def mount(self, container_id: str) -> dict[str, str]:
        """The files of a container's mount; nothing if it has none."""
        return {path.name: path.read_text() for path in self.source.glob(f"image/*/layerdb/mounts/{container_id}/*")}

    def take_back(self) -> None:
        """Roll every run back, newest first."""
        while (ended := self.rollback()).code != ExitCode.USAGE:
            assert ended.code == 0, ended.all
            assert ended.report["kept"] == []


def upgrade_of(root: Path, state: Path) -> Upgrade:
    return Upgrade(root, root, state)


def failed(ended: Ended) -> dict[str, str]:
    """What failed by name, and why."""
    return {each["key"].partition(":")[2]: each["message"] for each in ended.report["failed"]}


def noted(ended: Ended) -> dict[str, str]:
    """What is said of things that are not lost."""
    return {each["subject"]: each["reason"] for each in ended.report["left_out"] if not each["lost"]}


def as_it_is(root: Path) -> tuple[Tree, dict[str, int]]:
    """All that a rollback is to restore: the tree, and when what is in it was last changed."""
    times = {
        os.path.relpath(path, root): os.lstat(path).st_mtime_ns
        for directory, names, files in os.walk(root)
        for path in (directory, *(f"{directory}/{name}" for name in (*names, *files)))
    }
    return listing(root), times
