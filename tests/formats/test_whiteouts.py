"""Which names delete what."""

from __future__ import annotations

import pytest

from transship.formats import whiteouts


@pytest.mark.parametrize(
    ("mark", "name"),
    [(".wh.a", "a"), (".wh..a", ".a"), (".wh....", "..."), (".wh.wh.a", "wh.a"), (".wh. ", " "), (".wh.\udcff", "\udcff")],
)
def test_what_a_mark_deletes(mark: str, name: str) -> None:
    assert whiteouts.is_mark(mark)
    assert whiteouts.deleted_name(mark) == name


@pytest.mark.parametrize("mark", [whiteouts.OPAQUE, ".wh..wh.plnk", ".wh..wh.", ".wh..wh..wh.a"])
def test_aufs_own_marks_delete_nothing(mark: str) -> None:
    assert whiteouts.is_mark(mark)
    assert whiteouts.deleted_name(mark) is None


@pytest.mark.parametrize("mark", [".wh.", ".wh..", ".wh..."])
def test_a_directory_cannot_be_deleted_in_itself(mark: str) -> None:
    with pytest.raises(ValueError, match="deletes no name"):
        whiteouts.deleted_name(mark)


@pytest.mark.parametrize("name", ["a", ".wh", ".wha", "a.wh.b", "wh.a", ""])
def test_names_that_are_no_marks(name: str) -> None:
    assert not whiteouts.is_mark(name)


@pytest.mark.parametrize(
    ("path", "below"),
    [
        (b".wh.a", True),
        (b"d/.wh.a", True),
        (b"./.wh..wh.plnk/1.2", True),
        (b"/.wh.a", True),
        (b"a.wh.b", False),
        (b"d/.wh", False),
    ],
)
def test_what_no_tree_has(path: bytes, below: bool) -> None:
    assert whiteouts.is_below_mark(path) is below
