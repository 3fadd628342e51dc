"""Relocating what Docker 0.6 left: killed anywhere, onto another file system, many at once, and with names in two files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.files.kill import calls_of, killed_after
from tests.legs.aufs.relocation import NO_ENGINE, ledger_of, relocate, relocated, state_of, take_back
from tests.real.trees import differences, listing
from tests.stores.graph.builder import GraphBuilder
from transship.errors import SourceCorrupt
from transship.files.changes import ASIDE
from transship.legs.aufs.steps import plan_relocation

if TYPE_CHECKING:
    from pathlib import Path

    from transship.files.ledger import Ledger

pytestmark = pytest.mark.usefixtures("as_root")


@pytest.fixture
def root(builder: GraphBuilder) -> Path:
    """A store with a bit of everything; one layer is linked to by an earlier Docker already."""
    base = builder.image({"etc": None, "etc/passwd": b"root", "dev": None}, names=["base:1"])
    top = builder.image({"etc": None, "etc/.wh.passwd": b"", "new": b"1"}, base, names=["top:1", "top:2"])
    builder.container(top, {"written": b"2"})
    builder.container(base, started=False)
    linked = builder.root / "aufs/diff" / base
    linked.parent.mkdir(parents=True)
    linked.symlink_to(f"/var/lib/docker/graph/{base}/layer")
    return builder.root


def copied(root: Path, name: str) -> Path:
    subprocess.run(["cp", "-a", root, root.with_name(name)], check=True)
    return root.with_name(name)


def undone(root: Path, ledger: Ledger, keys: list[str]) -> None:
    """Take back all steps, newest first, until nothing is kept because of others."""
    while keys:
        kept = [key for key in reversed(keys) if not ledger.take_back(key)]
        assert len(kept) < len(keys)
        keys = kept[::-1]
    ledger.restore_times()
    assert not list(root.rglob(f"{ASIDE}*"))


def test_killed_anywhere_it_ends_the_same_or_as_it_was(root: Path) -> None:
    before = listing(root)
    whole = copied(root, "whole")
    keys: list[str] = []
    calls = calls_of(lambda: keys.extend(relocated(whole)))
    assert calls > 100
    for count in range(calls):
        killed = copied(root, f"killed-{count}")
        ledger_of(killed)
        with killed_after(count):
            relocated(killed)
        if count % 2:
            relocated(killed)
            assert state_of(killed) == state_of(whole), count
        undone(killed, ledger_of(killed), keys)
        assert differences(listing(killed), before) == {}, count
        shutil.rmtree(killed)
        shutil.rmtree(killed.with_name(f"{killed.name}-undo"))


def test_a_run_that_was_killed_is_ended_by_the_next_attempt_and_rolled_back(root: Path) -> None:
    before = listing(root)
    with killed_after(60):
        relocated(root)
    summary, left_out = relocate(root)
    assert (summary.failed, left_out) == ((), [])
    assert take_back(root) == []
    assert differences(listing(root), before) == {}


def test_hundreds_of_images_and_containers_at_once(builder: GraphBuilder) -> None:
    for _ in range(20):
        image = None
        for _ in range(10):
            image = builder.image({"file": b"1"}, image)
        assert image is not None
        builder.container(image, {"written": b"2"})
    before = listing(builder.root)
    summary, _ = relocate(builder.root)
    assert (summary.done, summary.failed) == (200 + 20 + 1, ())
    for book in (builder.root / "aufs/layers").iterdir():
        nearest = book.read_text().split("\n")[0]
        if nearest:
            assert book.read_text() == f"{nearest}\n{book.with_name(nearest).read_text()}"
    assert take_back(builder.root) == []
    assert differences(listing(builder.root), before) == {}


# aufs/ on a file system of its own


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path) -> Path:
    """Where the driver's directory is, on another file system, which is in the root by a link."""
    assert tmp_path.stat().st_dev != root.stat().st_dev
    shutil.move(root / "aufs", tmp_path / "aufs")
    (root / "aufs").symlink_to(tmp_path / "aufs")
    return tmp_path / "aufs"


def test_what_cannot_be_moved_is_linked_to(root: Path, elsewhere: Path) -> None:
    before, outside = listing(root), listing(elsewhere)
    summary, left_out = relocate(root)
    assert (summary.failed, left_out) == ((), [])
    links = {path.name: path for path in (elsewhere / "diff").iterdir() if path.is_symlink()}
    for image in root.glob("graph/*/layer"):
        assert os.path.realpath(links.pop(image.parent.name)) == str(image) or image.parent.name not in links
    for container in root.glob("containers/*/rw"):
        assert links.pop(container.parent.name).readlink() == container
    assert take_back(root) == []
    assert differences(listing(root), before) == {}
    assert listing(elsewhere).keys() == outside.keys()


def test_a_later_run_moves_it(root: Path, elsewhere: Path) -> None:
    other = copied(root, "whole")
    (other / "aufs").unlink()
    shutil.copytree(elsewhere, other / "aufs", symlinks=True)
    relocate(other)
    relocate(root)
    (root / "aufs").unlink()
    shutil.copytree(elsewhere, root / "aufs", symlinks=True)
    linked = listing(root)

    steps, left_out = plan_relocation(root, ledger := ledger_of(root, "later"))
    assert left_out == []
    assert {step.kind for step in steps} == {"relocate-image", "relocate-container"}
    for step in steps:
        assert not step.check({})
    relocate_with(root, ledger)
    assert state_of(root) == state_of(other)
    undone(root, ledger, [step.key for step in steps])
    assert differences(listing(root), linked) == {}


def relocate_with(root: Path, ledger: Ledger) -> None:
    for step in plan_relocation(root, ledger)[0]:
        assert step.run(NO_ENGINE).created


def test_links_that_stand_are_left_as_they_are(root: Path, elsewhere: Path) -> None:
    relocate(root)
    before = listing(elsewhere)
    relocate(root, "second-state")
    assert differences(listing(elsewhere), before) == {}


# Names


def names(path: Path) -> dict[str, dict[str, str]]:
    found: dict[str, dict[str, str]] = json.loads(path.read_bytes())["Repositories"]
    return found


def test_names_are_moved_as_they_are(root: Path) -> None:
    text = (root / "repositories").read_bytes()
    relocate(root)
    assert (root / "repositories-aufs").read_bytes() == text
    assert not (root / "repositories").exists()


def test_names_that_the_driver_has_are_kept(root: Path) -> None:
    old = names(root / "repositories")
    new = {"top": {"1": "0" * 64, "3": "3" * 64}, "other": {"1": "1" * 64}, "base": old["base"]}
    (root / "repositories-aufs").write_text(json.dumps({"Repositories": new}))
    before = listing(root)
    summary, left_out = relocate(root)
    assert names(root / "repositories-aufs") == {**old, **new, "top": {**old["top"], **new["top"]}}
    assert names(root / "repositories.merged") == old
    assert [(left.subject, left.lost) for left in left_out] == [("top:1", True)]
    assert f"stands for {old['top']['1']}, but for {'0' * 64}" in left_out[0].reason
    assert [failure.key for failure in summary.failed] == ["lost:top:1"]
    assert plan_relocation(root, ledger_of(root, "later")) == ([], [])
    assert take_back(root) == []
    assert differences(listing(root), before) == {}


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("repositories", b"{", "repositories is damaged"),
        ("repositories-aufs", b"", "repositories-aufs is damaged"),
        ("repositories.merged", b"{}", "is in the way"),
    ],
)
def test_names_that_cannot_be_read_stay_where_they_are(root: Path, file: str, damage: bytes, message: str) -> None:
    (root / "repositories-aufs").write_bytes(b'{"Repositories":{}}')
    (root / file).write_bytes(damage)
    before = (root / "repositories").read_bytes(), (root / "repositories-aufs").read_bytes()
    summary, [left] = relocate(root)
    assert message in left.reason
    assert [failure.key for failure in summary.failed] == [f"lost:{root}/repositories"]
    assert ((root / "repositories").read_bytes(), (root / "repositories-aufs").read_bytes()) == before


def test_a_damaged_file_of_names_is_moved_as_it_is_where_nothing_is_in_the_way(root: Path) -> None:
    (root / "repositories").write_bytes(b"{")
    summary, left_out = relocate(root)
    assert (summary.failed, left_out) == ((), [])
    assert (root / "repositories-aufs").read_bytes() == b"{"


def test_names_by_way_of_a_link_are_not_touched(root: Path, tmp_path: Path) -> None:
    shutil.move(root / "repositories", tmp_path / "names")
    (root / "repositories").symlink_to(tmp_path / "names")
    _, [left] = relocate(root)
    assert "is not a regular file" in left.reason
    assert (root / "repositories").is_symlink()


# What is not of Docker 0.6


@pytest.mark.parametrize("driver", ["aufs", "overlay", "vfs"])
def test_a_store_of_a_driver_needs_nothing(place: Path, driver: str) -> None:
    builder = GraphBuilder(place / driver, driver)
    builder.container(builder.image({"a": b"1"}, names=["a:1"]), {"b": b"2"})
    before = listing(builder.root)
    assert plan_relocation(builder.root, ledger_of(builder.root)) == ([], [])
    assert listing(builder.root) == before


def test_without_a_graph_there_is_nothing_to_do(place: Path) -> None:
    root = place / "root"
    root.mkdir()
    (root / "repositories").write_bytes(b'{"Repositories":{}}')
    assert plan_relocation(root, ledger_of(root)) == ([], [])


def test_what_is_in_the_way_is_named(root: Path) -> None:
    [container] = [path.parent for path in root.glob("containers/*/rw")]
    (root / "aufs/mnt").mkdir()
    (root / "aufs/mnt" / container.name).write_bytes(b"")
    steps, _ = plan_relocation(root, ledger_of(root))
    [step] = [step for step in steps if step.key == f"relocate-container:{container.name}"]
    for other in steps[: steps.index(step)]:
        other.run(NO_ENGINE)
    with pytest.raises(SourceCorrupt, match=f"aufs/mnt/{container.name}"):
        step.run(NO_ENGINE)
    assert (container / "rw/written").exists()
