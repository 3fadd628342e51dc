"""v1 stores that stopped the migration of Docker 1.10.3, or of which it lost more than what was damaged."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Journey
from tests.legs.graph.upgrades import as_it_is, failed, noted, upgrade_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

BASE = "03b66f0b1711e6da98574395917d58829f9a70d7789cc2af5ad7cdedf3173737"
CHILD = "82e0995c9e90eb7c4b5ad08573a24390a9e8f0f7d29739177bdbcfa64aba525f"
OF_BASE = "3a120c025767e67c31785c83bd88c072742e1ab1cc18dd2326eeacb164bae76d"
OF_CHILD = "7c17c83183369975b6fefb1057c855567220d57bc980811b9a8750f51a231c57"
NEW = {
    BASE: "sha256:9294f775f270fb8ba8b3613951e2655f78964d578cef7988f5c91e4839b764e6",
    CHILD: "sha256:249944879428cf50f6f04c98ece2c5cd345f1c51cbe94c29780a69b25b9ba534",
}
"""What Docker made of the images where it came to an end."""
NAMES = {"tinybase:1": BASE, "t2:1": CHILD}
CONTAINERS = {OF_BASE: BASE, OF_CHILD: CHILD}
LOST = {
    "container-image-null": {OF_BASE: "Image is null"},  # Docker panicked
    "containers-missing": {},  # Docker carried no name over
    "mapping-corrupt": {},  # Docker did nothing
    "newrepos-exists": {"t2:1": "stands for sha256:bbbb"},  # Docker kept that one, and said it had carried over the other
    "parentid-nocolon": {  # Docker panicked
        CHILD: "parent_id without a colon: 'nocolon'",
        "t2:1": "could not be carried over",
        OF_CHILD: "could not be carried over",
    },
    "repositories-emptyfile": {"repositories-vfs": "is damaged"},
    "repositories-missing": {},
    "stale-tardata": {},
}


@pytest.mark.parametrize("name", LOST)
def test_what_is_damaged_fails_by_name_and_the_rest_arrives(name: str, v1_root: Callable[[str], Path], tmp_path: Path) -> None:
    upgrade, lost = upgrade_of(v1_root(name), tmp_path / "state"), LOST[name]
    before = as_it_is(upgrade.source)
    ended = upgrade.migrate()
    assert ended.code == bool(lost), ended.all
    reasons = {subject.rpartition("/")[2]: reason for subject, reason in failed(ended).items()}
    assert reasons.keys() == lost.keys()
    assert all(reason in reasons[subject] for subject, reason in lost.items())
    assert all(subject in reasons[subject] for subject in lost)

    assert upgrade.images == {v1_id: NEW[v1_id] for v1_id in NEW if v1_id not in lost}
    assert upgrade.tags == _names(name)
    for container_id, v1_id in CONTAINERS.items():
        arrives = container_id not in lost and (upgrade.source / "containers").exists()
        assert (upgrade.container(container_id) or {}).get("Image") == (NEW[v1_id] if arrives else None)
        assert upgrade.mount(container_id).get("mount-id") == (container_id if arrives else None)
    upgrade.take_back()
    assert as_it_is(upgrade.source) == before


def _names(name: str) -> dict[str, str]:
    if name.startswith("repositories-"):
        return {}
    kept = {"t2:1": f"sha256:{'b' * 64}"} if name == "newrepos-exists" else {}
    return {tag: NEW[v1_id] for tag, v1_id in NAMES.items() if tag not in LOST[name]} | kept


@pytest.mark.parametrize("name", LOST)
def test_so_it_is_on_the_way_to_another_target(name: str, v1_root: Callable[[str], Path], tmp_path: Path) -> None:
    journey = Journey(v1_root(name), tmp_path / "layout", tmp_path / "state")
    before = as_it_is(journey.source)
    ended = journey.migrate()
    # What concerns only containers, or names in the old root's new store, is nothing to the target.
    lost = {} if name in {"container-image-null", "newrepos-exists"} else LOST[name]
    assert ended.code == bool(lost), ended.all
    assert {subject.rpartition("/")[2] for subject in failed(ended)} == lost.keys() - {OF_CHILD}
    assert set(journey.image_ids().values()) == {new for v1_id, new in NEW.items() if v1_id not in lost}
    if not name.startswith("repositories-"):
        names = {f"{HUB}/{tag}": NEW[v1_id] for tag, v1_id in NAMES.items() if tag not in lost}
        assert journey.image_ids() == names
    assert as_it_is(journey.source) == before


def test_a_mapping_that_cannot_be_read_is_told_of(v1_root: Callable[[str], Path], tmp_path: Path) -> None:
    told = noted(upgrade_of(v1_root("mapping-corrupt"), tmp_path / "state").migrate())
    assert told.keys() == {".migration-v1-images.json"}
    assert "is damaged" in told[".migration-v1-images.json"]


def test_recorded_data_survive_what_an_earlier_migration_left(v1_root: Callable[[str], Path], tmp_path: Path) -> None:
    """Docker 1.10 emptied a layer's own tar-split data if they had got their second name already, and then did not serve."""
    root = v1_root("stale-tardata")
    data = root / "graph" / BASE / "tar-data.json.gz"
    (data.parent / ".migration-tardata").unlink()
    (data.parent / ".migration-tardata").hardlink_to(data)
    packed = data.read_bytes()
    with data.open("r+b") as file:
        file.write(gzip.compress(b"not what it was")[: data.stat().st_size])
    damaged = data.read_bytes()
    assert damaged != packed
    ended = upgrade_of(root, tmp_path / "state").migrate()
    assert ended.code == 0, ended.all
    assert "tar-data.json.gz" in noted(ended)[BASE]
    assert data.read_bytes() == damaged
    assert (data.parent / ".migration-tardata").read_bytes() != damaged
