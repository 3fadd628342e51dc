"""A layer's tree in the other form than its driver keeps: a diff cut out of a full tree, a full tree made of diffs."""

from __future__ import annotations

import os
import stat
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from tests.files.trees import listing
from tests.stores.docker.builder import open_files
from tests.stores.docker.unpacking import HARD_LINK, OPAQUE, WHITEOUT, Member, stack, unpack_as_it_is, with_parents
from transship.errors import LayerMismatch, SourceCorrupt
from transship.files.fill import Filler, FillMode
from transship.formats import tar_split
from transship.stores.docker.drivers.cut import CutDirectory
from transship.stores.docker.drivers.known import DRIVERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from transship.files.tree import Directory

DIRECTORY = stat.S_IFDIR


def file(name: str, content: bytes = b"x") -> Member:
    return Member(os.fsencode(name), content=content)


def directory(name: str) -> Member:
    return Member(os.fsencode(name), DIRECTORY, mode=0o755)


def link(name: str, target: str) -> Member:
    return Member(os.fsencode(name), stat.S_IFLNK, target=os.fsencode(target))


def write_metadata(path: Path, members: Sequence[Member]) -> Path:
    with path.open("wb") as made:
        tar_split.write(made, [member.entry for member in members])
    return path


def seen(tree: Directory, path: str = "") -> dict[str, str]:
    """What a tree has in it: path to ``file``, ``dir``, ``opaque`` or ``whiteout``. Closes it."""
    found = {}
    try:
        if path:
            found[path.removeprefix("/")] = "opaque" if tree.xattrs().get("trusted.overlay.opaque") == b"y" else "dir"
        for child in tree.children():
            name = f"{path}/{child.name}"
            if child.is_directory:
                found |= seen(tree.enter(child), name)
            else:
                found[name.removeprefix("/")] = "whiteout" if child.status is None else "file"
    finally:
        tree.close()
    return found


def cut(tmp_path: Path, *layers: list[Member]) -> dict[str, str]:
    """The diff of the last of ``layers``."""
    applied = stack(tmp_path, layers)
    assert applied == list(layers), "the test's own layers cannot be unpacked"
    before = open_files()
    found = seen(CutDirectory.open(tmp_path / str(len(layers) - 1), write_metadata(tmp_path / "metadata", layers[-1])))
    assert open_files() == before
    return found


BASE = [directory("d"), file("d/old"), directory("d/e"), file("d/e/deep"), file("f"), directory("real"), link("l", "/real")]


def test_only_what_the_layer_owns(tmp_path: Path) -> None:
    assert cut(tmp_path, BASE, [directory("d"), file("d/new")]) == {"d": "dir", "d/new": "file"}
    assert cut(tmp_path / "..", []) == {}


def test_deleted_names_are_whiteouts(tmp_path: Path) -> None:
    assert cut(tmp_path, BASE, [file("d/.wh.old"), file(".wh.f"), file(".wh.never")]) == {
        "d": "dir",
        "d/old": "whiteout",
        "f": "whiteout",
        "never": "whiteout",
    }


def test_a_directory_that_hides_what_is_below(tmp_path: Path) -> None:
    found = cut(tmp_path, BASE, [directory("d"), Member(b"d/" + OPAQUE), file("d/new")])
    assert found == {"d": "opaque", "d/new": "file"}


def test_deleted_and_made_again(tmp_path: Path) -> None:
    found = cut(tmp_path, BASE, [file(".wh.d"), directory("d"), file("d/new"), file(".wh.f"), file("f", b"again")])
    assert found == {"d": "opaque", "d/new": "file", "f": "file"}


def test_deleted_and_made_again_without_saying_so(tmp_path: Path) -> None:
    """No member for ``d`` itself, only for what is in it."""
    assert cut(tmp_path, BASE, [file(".wh.d"), file("d/new")]) == {"d": "opaque", "d/new": "file"}


def test_a_directory_for_a_file_and_the_other_way_round(tmp_path: Path) -> None:
    found = cut(tmp_path, BASE, [file("d"), directory("f"), file("f/new")])
    assert found == {"d": "file", "f": "dir", "f/new": "file"}


@pytest.mark.parametrize("prefix", ["", "/", "./", "//", "../../"])
def test_implicit_parents_and_odd_spellings(tmp_path: Path, prefix: str) -> None:
    full = tmp_path / "full"
    (full / "a/b").mkdir(parents=True)
    (full / "a/b/c").write_bytes(b"")
    metadata = write_metadata(tmp_path / "metadata", [file(f"{prefix}a/b/c")])
    assert seen(CutDirectory.open(full, metadata)) == {"a": "dir", "a/b": "dir", "a/b/c": "file"}


def test_what_was_written_through_a_link_is_where_it_leads(tmp_path: Path) -> None:
    found = cut(tmp_path, BASE, [file("l/new"), file("l/.wh.gone")])
    assert found == {"real": "dir", "real/new": "file", "real/gone": "whiteout"}


@pytest.mark.parametrize("target", ["../../outside", "/../outside", "outside"])
def test_no_link_leads_out_of_the_tree(tmp_path: Path, target: str) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/secret").write_bytes(b"")
    (full / "l").symlink_to(target)
    with pytest.raises(LayerMismatch, match="l/secret"):
        CutDirectory.open(full, write_metadata(tmp_path / "metadata", [file("l/secret")]))
    (full / "l").unlink()
    (full / "l").symlink_to(tmp_path / "outside")
    with pytest.raises(LayerMismatch, match="l/secret"):
        CutDirectory.open(full, write_metadata(tmp_path / "metadata", [file("l/secret")]))


def test_a_link_is_itself_what_the_layer_owns(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/l").symlink_to("/etc")
    assert seen(CutDirectory.open(tmp_path / "full", write_metadata(tmp_path / "metadata", [directory("l")]))) == {"l": "file"}


def test_a_loop_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full/l").symlink_to("l")
    before = open_files()
    with pytest.raises(OSError, match="symbolic links"):
        CutDirectory.open(tmp_path / "full", write_metadata(tmp_path / "metadata", [file("l/x")]))
    assert open_files() == before


@pytest.mark.parametrize("name", [".wh.", ".wh..", ".wh...", "a/.wh."])
def test_a_whiteout_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    """Docker's unpacking takes it for one of the directory itself."""
    (tmp_path / "full/a").mkdir(parents=True)
    with pytest.raises(LayerMismatch, match=rf"full/{name} cannot be: .* deletes no name"):
        CutDirectory.open(tmp_path / "full", write_metadata(tmp_path / "metadata", [file(name)]))


@pytest.mark.parametrize("name", ["gone", "a/gone", "a\0b", ".wh.a\0b", "a\0b/c"])
def test_what_the_layer_owns_and_is_missing_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "full/a").mkdir(parents=True)
    before = open_files()
    with pytest.raises(LayerMismatch, match=r"missing|NUL") as caught:
        seen(CutDirectory.open(tmp_path / "full", write_metadata(tmp_path / "metadata", [file(name)])))
    assert caught.value.remedy
    assert open_files() == before


def test_names_that_lead_nowhere_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    odd = [directory("."), directory("/"), directory(".."), file(".wh..wh.plnk"), file(".wh..wh.orph/x"), file("none/.wh.x")]
    assert seen(CutDirectory.open(tmp_path / "full", write_metadata(tmp_path / "metadata", odd))) == {}


def test_damaged_metadata_are_named(tmp_path: Path) -> None:
    (tmp_path / "metadata").write_bytes(b"garbage")
    before = open_files()
    with pytest.raises(SourceCorrupt, match=str(tmp_path / "metadata")):
        CutDirectory.open(tmp_path, tmp_path / "metadata")
    assert open_files() == before


# Layers as Docker would make them, cut apart and laid over one another by the kernel

names = st.sampled_from([b"a", b"b", b"c", b"caf\xe9"])
kinds = st.sampled_from([stat.S_IFREG, stat.S_IFREG, DIRECTORY, DIRECTORY, stat.S_IFLNK, HARD_LINK, stat.S_IFIFO, stat.S_IFCHR])


@st.composite
def members(draw: st.DrawFn, *, links: bool = True) -> list[Member]:
    """A layer's members, parents first and in a directory whiteouts first. ``links``: symbolic ones among them."""
    made: dict[bytes, Member] = {}
    for number in range(draw(st.integers(0, 8))):
        path = draw(st.lists(names, min_size=1, max_size=3))
        what = draw(st.sampled_from(["make", "make", "make", "make", "delete", "delete", "hide", "hide all"]))
        if what == "make":
            targets = [b"/a", b"/b", b"../c", b"a", b"/a/b", b"."]
            kind = draw(kinds.filter(lambda kind: links or kind != stat.S_IFLNK))
            target = draw(st.sampled_from(sorted(made) or [b"a"]) if kind == HARD_LINK else st.sampled_from(targets))
            mode = draw(st.sampled_from([0o755, 0o700, 0o1777]))
            member = Member(b"/".join(path), kind, b"%d" % number, target, draw(st.integers(1, 10**18)), mode)
        else:
            marks = {"delete": [*path[:-1], WHITEOUT + path[-1]], "hide": [*path, OPAQUE], "hide all": [OPAQUE]}
            member = Member(b"/".join(marks[what]))
        made[member.name] = member
    return [made[name] for name in sorted(made, key=lambda name: name.split(b"/"))]


@contextmanager
def overlay(diffs: list[Path], place: Path) -> Iterator[Path]:
    """The ``diffs``, base first, as overlayfs shows them."""
    (place / "empty").mkdir(exist_ok=True)
    (place / "merged").mkdir(exist_ok=True)
    lower = ":".join(str(path) for path in [*reversed(diffs), place / "empty"])
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", f"ro,lowerdir={lower}", str(place / "merged")], check=True)
    try:
        yield place / "merged"
    finally:
        subprocess.run(["umount", str(place / "merged")], check=True)


def make(tree: Directory, directory: Path, *, full: bool) -> Path:
    directory.mkdir()
    Filler(FillMode.COPY, full=full, advance=lambda _: None).fill(tree, directory)
    return directory


def set_times(directories: Iterable[Path]) -> None:
    """Give directories the same times; what the root of a tree has is not in a layer."""
    for path in directories:
        os.utime(path, ns=(0, 10**18))


MANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.mark.real
@MANY
@given(st.lists(members(), min_size=1, max_size=4))
def test_diffs_of_full_trees_make_the_same_trees_again(layers: list[list[Member]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        diffs: list[Path] = []
        for number, applied in enumerate(stack(place, layers)):
            stacked = [place / str(below) for below in range(number, -1, -1)]
            tree = DRIVERS["vfs"].diff(stacked, write_metadata(place / "metadata", applied))
            diffs.append(make(tree, place / f"diff{number}", full=False))
        expected = listing(place / str(len(layers) - 1))
        with overlay(diffs, place) as merged:
            assert listing(merged) == expected
        full = make(DRIVERS["overlay2"].full(diffs[::-1]), place / "full", full=True)
        assert listing(full) == expected


@pytest.mark.real
@MANY
@given(st.lists(members(links=False).map(with_parents), min_size=1, max_size=4))
def test_diffs_of_aufs_make_the_trees_that_vfs_keeps(layers: list[list[Member]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        driver = DRIVERS["aufs"]
        kept: list[Path] = []
        diffs: list[Path] = []
        applied = stack(place, layers)
        assume(all(with_parents(unpacked) == unpacked for unpacked in applied))  # a parent may be what cannot be unpacked
        for number, unpacked in enumerate(applied):
            kept.insert(0, place / f"aufs{number}")
            unpack_as_it_is(kept[0], unpacked)
            set_times([kept[0], place / str(number)])
            before = open_files()
            diffs.append(make(driver.diff(kept, place / "metadata"), place / f"diff{number}", full=False))
            full = make(driver.full(kept), place / f"full{number}", full=True)
            assert open_files() == before
            expected = listing(place / str(number))
            assert listing(full) == expected
            with overlay(diffs, place) as merged:
                assert listing(merged) == expected
