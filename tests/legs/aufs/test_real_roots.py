"""A data root that Docker 0.6.7 wrote, against what the driver of Docker 1.9.1 made of it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.legs.aufs.relocation import ledger_of, relocate, take_back
from tests.real.trees import KIND, MTIME, SIZE, differences, listing
from transship.files.ledger import Ledger
from transship.legs.aufs.steps import plan_relocation
from transship.stores.graph.names import read_names
from transship.stores.graph.store import read_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.trees import Tree

OLD, LINKED = "0.6.7", "0.6.7.aufs-migrated"
IMAGES = 6
STARTED = 3
NEVER_STARTED = "2ada51af867fb7fc5f00583a1cd744b99bc8f3b0351b53df7191a7ba9f1eaacd"
MADE_FOR_IT = {
    f"./aufs/{name}"
    for name in (
        *(f"{home}/{NEVER_STARTED}{layer}" for home in ("diff", "layers", "mnt") for layer in ("", "-init")),
        *(
            f"diff/{NEVER_STARTED}-init/{path}"
            for path in (
                ".dockerenv", ".dockerinit", "dev", "dev/console", "dev/pts", "dev/shm", "etc", "etc/hostname", "etc/hosts",
                "etc/mtab", "etc/resolv.conf",
            )
        ),
    )
}  # fmt: skip
"""The one difference on purpose: Docker 1.9.1 had no layers for a container that was never started, and 1.10 then lost it."""
_CHANGED = re.compile(r"\.|\./(graph|containers)/[0-9a-f]+|\./aufs(/(diff|mnt|layers))?|\./aufs/(mnt|layers)/.*|.*-init(/.*)?")


def comparable(tree: Tree) -> Tree:
    """Return a tree without the times of what the relocation itself makes or changes."""
    return {
        name: [*entry[:MTIME], None, *entry[MTIME + 1 :]] if _CHANGED.fullmatch(name) else entry for name, entry in tree.items()
    }


def as_moved(tree: Tree) -> Tree:
    """Return the tree that Docker 0.7 to 0.11 made, of one in which a later one has made links where these had moved."""
    links = {
        f".{entry[SIZE].removeprefix('/var/lib/docker')}": name
        for name, entry in tree.items()
        if entry[KIND] == "l" and name.startswith("./aufs/diff/") and name.count("/") == 3
    }
    assert len(links) == IMAGES + STARTED

    def moved(path: str) -> str:
        return next(
            (path.replace(old, new, 1) for old, new in links.items() if path == old or path.startswith(f"{old}/")), path
        )

    result = {}
    for name, entry in tree.items():
        if name not in links.values():
            [*rest, last] = entry
            result[moved(name)] = [*rest, f"hl:{moved(last[3:])}" if isinstance(last, str) else last]
    return result


@pytest.fixture(params=[OLD, LINKED])
def root(request: pytest.FixtureRequest, unpacked: Callable[[str], Path]) -> Path:
    return unpacked(request.param)


def test_it_is_as_docker_made_it(root: Path, unpacked: Callable[[str], Path]) -> None:
    known = as_moved(listing(unpacked(LINKED) if root.name == OLD else root))
    summary, left_out = relocate(root)
    assert (summary.failed, left_out) == ((), [])
    found = listing(root)
    assert found.keys() - known.keys() == MADE_FOR_IT
    rest = {name: entry for name, entry in found.items() if name not in MADE_FOR_IT}
    assert differences(comparable(rest), comparable(known)) == {}


def test_a_container_that_was_never_started_has_the_layers_of_its_sister(root: Path) -> None:
    """It has the image of another one that was started, and so the same layer between."""
    sister = "5f1ad42c3cbee76835d93fa3b5205a647185dc31b173e94e8ab0d547146f90be"
    relocate(root)
    aufs = root / "aufs"
    init, other = listing(aufs / "diff" / f"{NEVER_STARTED}-init"), listing(aufs / "diff" / f"{sister}-init")
    assert {name: entry[:MTIME] for name, entry in init.items()} == {name: entry[:MTIME] for name, entry in other.items()}
    assert list((aufs / "diff" / NEVER_STARTED).iterdir()) == []
    for layer in ("", "-init"):
        text = (aufs / "layers" / f"{NEVER_STARTED}{layer}").read_text()
        assert text == (aufs / "layers" / f"{sister}{layer}").read_text().replace(sister, NEVER_STARTED)


def test_it_is_taken_back_to_the_byte(root: Path) -> None:
    before = listing(root)
    relocate(root)
    assert listing(root) != before
    assert take_back(root) == []
    assert differences(listing(root), before) == {}


def test_once_it_is_done_there_is_nothing_to_do(root: Path) -> None:
    planned, _ = plan_relocation(root, ledger_of(root))
    relocate(root)
    before = listing(root)
    assert plan_relocation(root, ledger_of(root, "another-run")) == ([], [])
    steps, left_out = plan_relocation(root, ledger_of(root))
    assert left_out == []
    assert [step.key for step in steps] == [step.key for step in planned]  # a kill may have come before these were journalled
    assert all(step.check({}) for step in steps)
    summary, _ = relocate(root)
    assert summary.failed == ()
    assert differences(listing(root), before) == {}


def test_planning_writes_nothing(root: Path) -> None:
    before = listing(root.parent)
    steps, _ = plan_relocation(root, Ledger(root, root.with_name("not-there")))
    assert len(steps) == IMAGES + STARTED + 1 + (root.name == OLD)
    assert differences(listing(root.parent), before) == {}


def test_the_store_is_the_same_before_and_after(root: Path) -> None:
    before = read_graph(root, "aufs")
    trees = {image_id: listing(before.layer_directory(image_id)) for image_id in before.images}
    relocate(root)
    after = read_graph(root, "aufs")
    assert after.images == before.images
    assert len(after.images) == IMAGES
    assert after.names.ids == before.names.ids == read_names(root / "repositories-aufs").ids
    assert {image_id: listing(after.layer_directory(image_id)) for image_id in after.images} == trees
