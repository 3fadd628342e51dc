"""What is aufs' own in its driver's directories: marks, books, links that an older Docker left."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.stores.docker.builder import AUFS_FILE, StoreBuilder, make_tar, open_files
from transship.errors import SourceCorrupt
from transship.stores.docker import trees
from transship.stores.docker.store import Store, read_store
from transship.stores.interfaces import TreeForm

if TYPE_CHECKING:
    from pathlib import Path

    from transship.files.tree import Directory
    from transship.formats.digest import Digest


@pytest.fixture
def builder(tmp_path: Path) -> StoreBuilder:
    return StoreBuilder(tmp_path / "docker", "aufs")


def seen(tree: Directory, path: str = "") -> dict[str, str]:
    """What a tree has in it: path to ``file``, ``dir``, ``opaque`` or ``whiteout``, the root by ``/``. Closes it."""
    try:
        found = {path or "/": "opaque" if "trusted.overlay.opaque" in tree.xattrs() else "dir"}
        for child in tree.children():
            name = f"{path}/{child.name}"
            if child.is_directory:
                found |= seen(tree.enter(child), name)
            else:
                found[name] = "whiteout" if child.status is None else "file"
    finally:
        tree.close()
    return found


def read(builder: StoreBuilder, chain_id: Digest, form: TreeForm) -> dict[str, str]:
    store = read_store(builder.root, "aufs")
    before = open_files()
    found = seen(trees.open_tree(trees.Origin.of(store, store.layers[chain_id], form)))
    assert open_files() == before
    return found


def test_deletions_are_whiteouts_and_what_aufs_keeps_for_itself_is_nothing(builder: StoreBuilder) -> None:
    base = builder.add_layer({"d/": None, "d/e/": None, "d/e/old": b"1", "d/e/kept": b"2", "f": b"3"})
    top = builder.add_layer({"d/": None, "d/e/": None, "d/e/.wh.old": b"", ".wh.f": b"", "new": b"4"}, base)
    marks = [path for path in builder.files(top).rglob(".wh.*") if path.is_file() and path.stat().st_nlink == 3]
    assert sorted(path.name for path in marks) == [AUFS_FILE, ".wh.f", ".wh.old"]
    diff = {"/": "dir", "/d": "dir", "/d/e": "dir", "/d/e/old": "whiteout", "/f": "whiteout", "/new": "file"}
    assert read(builder, top, TreeForm.DIFF) == diff
    assert read(builder, top, TreeForm.FULL) == {"/": "dir", "/d": "dir", "/d/e": "dir", "/d/e/kept": "file", "/new": "file"}


def test_a_directory_that_hides_what_is_below(builder: StoreBuilder) -> None:
    base = builder.add_layer({"d/": None, "d/old": b"1", "d/sub/": None, "d/sub/old": b"2"})
    top = builder.add_layer({"d/": None, "d/.wh..wh..opq": b"", "d/sub/": None, "d/sub/new": b"3"}, base)
    diff = {"/": "dir", "/d": "opaque", "/d/sub": "dir", "/d/sub/new": "file"}
    assert read(builder, top, TreeForm.DIFF) == diff
    assert read(builder, top, TreeForm.FULL) == diff | {"/d": "dir"}


def test_deleted_and_made_again(builder: StoreBuilder) -> None:
    base = builder.add_layer({"d/": None, "d/old": b"1", "f": b"2"})
    top = builder.add_layer({".wh.d": b"", "d/": None, "d/new": b"3", ".wh.f": b"", "f": b"4"}, base)
    assert read(builder, top, TreeForm.DIFF) == {"/": "dir", "/d": "opaque", "/d/new": "file", "/f": "file"}
    assert read(builder, top, TreeForm.FULL) == {"/": "dir", "/d": "dir", "/d/new": "file", "/f": "file"}


def test_a_root_that_hides_what_is_below(builder: StoreBuilder) -> None:
    """overlayfs does not heed the mark there: names below are deleted one by one."""
    lowest = builder.add_layer({"gone": b"0", "d/": None, "d/old": b"1"})
    base = builder.add_layer({".wh.gone": b"", "f": b"2", "g": b"3"}, lowest)
    top = builder.add_layer({".wh..wh..opq": b"", "d/": None, "d/new": b"4", "g": b"5"}, base)
    above = builder.add_layer({"h": b"6"}, top)
    diff = {"/": "opaque", "/d": "opaque", "/d/new": "file", "/f": "whiteout", "/g": "file"}
    assert read(builder, top, TreeForm.DIFF) == diff
    assert read(builder, top, TreeForm.FULL) == {"/": "dir", "/d": "dir", "/d/new": "file", "/g": "file"}
    assert read(builder, above, TreeForm.FULL) == {"/": "dir", "/d": "dir", "/d/new": "file", "/g": "file", "/h": "file"}


def test_a_base_may_hide_nothing(builder: StoreBuilder) -> None:
    base = builder.add_layer({".wh..wh..opq": b"", "f": b"1"})
    assert read(builder, base, TreeForm.DIFF) == {"/": "opaque", "/f": "file"}
    assert read(builder, base, TreeForm.FULL) == {"/": "dir", "/f": "file"}


def test_marks_of_any_kind_are_marks(builder: StoreBuilder) -> None:
    base = builder.add_layer(dict.fromkeys(("directory", "link", "full", "fifo", "x.wh.y", "wh.z"), b"1"))
    top = builder.add_layer({"new": b"2"}, base)
    place = builder.files(top)
    (place / ".wh.directory").mkdir()
    (place / ".wh.directory/below").write_bytes(b"2")
    (place / ".wh.link").symlink_to("nowhere")
    (place / ".wh.full").write_bytes(b"content")
    os.mkfifo(place / ".wh.fifo")
    (place / "n").mkdir()
    (place / "n/.wh..wh.sub").mkdir()
    (place / "n/.wh..wh.sub/f").write_bytes(b"2")
    diff = {"/": "dir", "/n": "dir", "/new": "file"}
    diff |= {f"/{name}": "whiteout" for name in ("directory", "link", "full", "fifo")}
    assert read(builder, top, TreeForm.DIFF) == diff
    assert read(builder, top, TreeForm.FULL) == {
        "/": "dir", "/n": "dir", "/new": "file", "/x.wh.y": "file", "/wh.z": "file",
    }  # fmt: skip


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh..."])
def test_a_whiteout_of_nothing_is_refused(builder: StoreBuilder, name: str) -> None:
    top = builder.add_layer({"d/": None, "d/f": b"1"})
    (builder.files(top) / "d" / name).touch()
    for form in TreeForm:
        before = open_files()
        with pytest.raises(SourceCorrupt, match=rf"{builder.files(top)}/d: '{name}' deletes no name"):
            read(builder, top, form)
        assert open_files() == before


def test_a_deep_chain(builder: StoreBuilder) -> None:
    top = builder.add_layer({"d/": None, "d/0": b"0"})
    for number in range(1, 127):
        top = builder.add_layer({"d/": None, f"d/{number}": b"1", f"d/.wh.{number - 1}": b""}, top)
    assert read(builder, top, TreeForm.FULL) == {"/": "dir", "/d": "dir", "/d/126": "file"}
    assert read(builder, top, TreeForm.DIFF) == {"/": "dir", "/d": "dir", "/d/126": "file", "/d/125": "whiteout"}


# Layers that Docker 1.9 or older left as links to where Docker 0.6 had them


class Relocated:
    """A store whose upper layer is a link to ``graph/<ID>/layer``."""

    def __init__(self, builder: StoreBuilder) -> None:
        self.builder = builder
        self.base = builder.add_layer({"a": b"1"})
        self.top = builder.add_layer_of(make_tar({"b": b"2"}), {"b": b"2"}, self.base)
        self.image = builder.add_image(self.top, "old:1")
        self.link = builder.files(self.top)
        self.place = builder.root / "graph" / self.link.name / "layer"
        self.place.parent.mkdir(parents=True)
        self.link.rename(self.place)

    def read(self) -> Store:
        return read_store(self.builder.root, "aufs")


@pytest.fixture
def relocated(builder: StoreBuilder) -> Relocated:
    return Relocated(builder)


def test_a_link_to_the_older_place_is_followed(relocated: Relocated) -> None:
    relocated.link.symlink_to(relocated.place)
    store = relocated.read()
    assert (store.problems, store.broken) == ((), {})
    assert store.layers[relocated.top].driver_directory == relocated.place.resolve()
    assert read(relocated.builder, relocated.top, TreeForm.FULL) == {"/": "dir", "/a": "file", "/b": "file"}


def test_in_a_root_that_was_moved_too(relocated: Relocated) -> None:
    relocated.link.symlink_to(f"/var/lib/docker.elsewhere/graph/{relocated.link.name}/layer")
    assert relocated.read().layers[relocated.top].driver_directory == relocated.place.resolve()


def leads_outside(relocated: Relocated, outside: Path) -> None:
    shutil.copytree(relocated.place, outside / "layer")
    relocated.link.symlink_to(outside / "layer")


def leads_outside_by_another_link(relocated: Relocated, outside: Path) -> None:
    (outside / "layer").mkdir(parents=True)
    shutil.rmtree(relocated.place)
    relocated.place.symlink_to(outside / "layer")
    relocated.link.symlink_to(relocated.place)


def leads_nowhere(relocated: Relocated, outside: Path) -> None:
    relocated.link.symlink_to(outside / "nothing")


def leads_to_a_file(relocated: Relocated, outside: Path) -> None:  # noqa: ARG001
    relocated.link.symlink_to(relocated.place / "b")


def leads_to_itself(relocated: Relocated, outside: Path) -> None:  # noqa: ARG001
    relocated.link.symlink_to(relocated.link.name)


def leads_to_the_root(relocated: Relocated, outside: Path) -> None:  # noqa: ARG001
    relocated.link.symlink_to(relocated.builder.root)


@pytest.mark.parametrize(
    "damage",
    [leads_outside, leads_outside_by_another_link, leads_nowhere, leads_to_a_file, leads_to_itself, leads_to_the_root],
)
def test_any_other_link_is_named(relocated: Relocated, tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    damage(relocated, tmp_path / "outside")
    store = relocated.read()
    assert store.broken.keys() == {relocated.image}
    assert store.layers.keys() == {relocated.base}
    message = store.broken[relocated.image].message
    assert f"{relocated.link} is a link to " in message
    assert f"which is no directory in {relocated.builder.root}" in message


def test_a_layer_that_nobody_has_moved_is_read_where_it_is(relocated: Relocated) -> None:
    store = relocated.read()
    assert (store.problems, store.broken) == ((), {})
    assert store.layers[relocated.top].driver_directory == relocated.place.resolve()
    assert read(relocated.builder, relocated.top, TreeForm.FULL) == {"/": "dir", "/a": "file", "/b": "file"}


def test_the_drivers_own_place_counts_first(relocated: Relocated) -> None:
    shutil.copytree(relocated.place, relocated.link)
    assert relocated.read().layers[relocated.top].driver_directory == relocated.link


@pytest.mark.parametrize("level", ["layer", "image"])
def test_the_older_place_is_never_a_link(relocated: Relocated, tmp_path: Path, level: str) -> None:
    place = relocated.place if level == "layer" else relocated.place.parent
    place.rename(tmp_path / "outside")
    place.symlink_to(tmp_path / "outside")
    store = relocated.read()
    assert store.broken[relocated.image].message.endswith(f"{relocated.link} is missing")
