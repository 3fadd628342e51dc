"""Files made to do harm, and all that can be wrong with one: named, and soon."""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING

import pytest

from tests.formats.bolt.databases import Made, fixtures, read, written
from transship.formats.bolt.check import check
from transship.formats.bolt.page import BRANCH, LEAF, Damage
from transship.formats.bolt.reader import Bucket, Database

if TYPE_CHECKING:
    from collections.abc import Sequence

PAGE = 1024
_HUGE = 1 << 60


class Forged:
    """A file of pages of 1024 bytes, to be changed."""

    def __init__(self, root: Made | None = None) -> None:
        self.data = bytearray(written(root or Made({b"a": b"1", b"b": b"2"}), PAGE))

    @property
    def root(self) -> int:
        return Database(bytes(self.data)).meta.root

    def meta(self, **changes: int) -> Forged:
        """Change both meta pages."""
        encoded = dataclasses.replace(Database(bytes(self.data)).meta, **changes).encode()
        for page in range(2):
            self.data[page * PAGE + 16 : page * PAGE + 16 + len(encoded)] = encoded
        return self

    def put(self, page: int, offset: int, kind: str, *values: int) -> Forged:
        """Write numbers into a page."""
        struct.pack_into(f"<{kind}", self.data, page * PAGE + offset, *values)
        return self

    def page(self, kind: int, elements: Sequence[tuple[bytes, bytes | int]], flags: int = 0) -> int:
        """Add a page with elements, a branch's with children; return its number."""
        number = len(self.data) // PAGE
        body, data, distance = b"", b"", 16 * len(elements)
        for key, value in elements:
            inside = b"" if isinstance(value, int) else value
            if isinstance(value, int):
                body += struct.pack("<IIQ", distance, len(key), value)
            else:
                body += struct.pack("<IIII", flags, distance, len(key), len(value))
            data += key + inside
            distance += len(key) + len(inside) - 16
        self.data += (struct.pack("<QHHI", number, kind, len(elements), 0) + body + data).ljust(PAGE, b"\0")
        self.meta(pages=number + 1)
        return number

    def problems(self) -> list[str]:
        return [str(problem) for problem in check(Database(bytes(self.data)))]

    def damage(self) -> str:
        """Read all of it, and return what is wrong."""
        with pytest.raises(Damage) as caught:
            read(bytes(self.data))
        assert caught.value.page in {problem.page for problem in check(Database(bytes(self.data)))}
        return str(caught.value)


def bucket(root: int) -> bytes:
    return struct.pack("<QQ", root, 0)


def many() -> Forged:
    """Return a file whose root is a branch."""
    return Forged(Made({b"%03d" % number: bytes(100) for number in range(50)}))


@pytest.mark.parametrize(
    ("offset", "kind", "values", "problem"),
    [
        (0, "Q", (77,), "says that it is page 77"),
        (8, "H", (4,), "of kind 0x4"),
        (8, "H", (3,), "of kind 0x3"),
        (10, "H", (65535,), "no room for its 65535 elements"),
        (12, "I", (1,), "takes 1 more, beyond"),
        (12, "I", (2**32 - 1,), "takes 4294967295 more, beyond"),
        (20, "I", (PAGE,), "not in it"),
        (20, "I", (2**32 - 1,), "not in it"),
        (24, "I", (2**32 - 1,), "not in it"),
        (28, "I", (2**32 - 1,), "not in it"),
        (28, "I", (PAGE,), "not in it"),
        (44, "I", (PAGE,), "not in it"),
        (36, "I", (16,), "lie on one another"),
        (24, "I", (0,), "an empty key"),
        (50, "B", (ord("a"),), "do not ascend"),
    ],
)
def test_header_or_element(offset: int, kind: str, values: tuple[int, ...], problem: str) -> None:
    forged = Forged()
    forged.put(forged.root, offset, kind, *values)
    assert forged.damage().startswith(f"page {forged.root}: ")
    assert problem in forged.damage()


@pytest.mark.parametrize(
    ("child", "problem"),
    [(0, "used as a node"), (1, "used as a node"), (_HUGE, "beyond the"), (2, "of kind 0x10"), (None, "used twice")],
)
def test_child(child: int | None, problem: str) -> None:
    """A branch leads to the meta pages, out of the file, to the free list, or to itself."""
    forged = many()
    forged.put(forged.root, 16 + 8, "Q", forged.root if child is None else child)
    assert problem in forged.damage()


def test_child_with_keys_of_its_sibling() -> None:
    forged = many()
    first, second = (struct.unpack_from("<Q", forged.data, forged.root * PAGE + at)[0] for at in (24, 40))
    forged.put(forged.root, 24, "Q", second).put(forged.root, 40, "Q", first)
    assert forged.damage().startswith(f"page {second}: keys that do not belong there")


def test_branch_without_children() -> None:
    forged = many()
    forged.put(forged.root, 10, "H", 0)
    assert "a branch without children" in forged.damage()


@pytest.mark.parametrize("root", [0, 1, 2, 4, 99, _HUGE])
def test_root(root: int) -> None:
    assert f"page {root}: " in Forged().meta(root=root).damage()


@pytest.mark.parametrize("value", [b"", b"short", bytes(15), bytes(16), bytes(31)])
def test_bucket_in_too_few_bytes(value: bytes) -> None:
    forged = Forged()
    root = forged.page(LEAF, [(b"bucket", value)], flags=1)
    assert f"page {root}: " in forged.meta(root=root).damage()


def test_inline_bucket_that_is_no_leaf() -> None:
    forged = Forged()
    forged.meta(root=forged.page(LEAF, [(b"bucket", bytes(16) + struct.pack("<QHHI", 0, BRANCH, 0, 0))], flags=1))
    assert "inline bucket of kind 0x1" in forged.damage()


def test_bucket_in_itself() -> None:
    forged = Forged()
    page = len(forged.data) // PAGE
    forged.meta(root=forged.page(LEAF, [(b"again", bucket(page))], flags=1))
    assert forged.damage() == f"page {page}: used twice"
    root = Database(bytes(forged.data)).root
    with pytest.raises(Damage):
        list(root[b"again"])


def test_the_same_pages_over_and_over() -> None:
    """Forty levels of buckets that each lead twice to the next: 2⁴⁰ buckets in 40 kB."""
    forged = Forged()
    below = forged.page(LEAF, [(b"value", b"v")])
    for _ in range(40):
        below = forged.page(LEAF, [(b"a", bucket(below)), (b"b", bucket(below))], flags=1)
    assert "used twice" in forged.meta(root=below).damage()


def test_the_same_bucket_header_over_and_over() -> None:
    """The two elements of each of forty levels share the bytes that say where the next one is."""
    forged = Forged()
    below = forged.page(LEAF, [(b"value", b"v")])
    for _ in range(40):
        below = forged.page(LEAF, [(b"a", bucket(below)), (b"b", b"")], flags=1)
        forged.put(below, 16, "IIII", 1, 24, 9, 16)  # this one's key begins among the elements
        forged.put(below, 32, "IIII", 1, 16, 1, 16)
    assert "lie on one another" in forged.meta(root=below).damage()


def test_branches_over_and_over() -> None:
    forged = Forged()
    below = forged.page(LEAF, [(b"k", b"v")])
    for _ in range(40):
        below = forged.page(BRANCH, [(b"a", below), (b"b", below)])
    assert forged.meta(root=below).damage()


def test_values_over_and_over() -> None:
    """Elements that all point to the same bytes."""
    forged = Forged()
    root = forged.page(LEAF, [(b"%02d" % number, b"" if number else bytes(600)) for number in range(20)])
    for number in range(1, 20):
        at = 16 + 16 * number
        forged.put(root, at + 12, "I", 600)
    assert "not in it" in forged.meta(root=root).damage()


def test_pages_that_take_those_of_others() -> None:
    forged = Forged()
    leaves = [forged.page(LEAF, [(b"%02d" % number, b"v")]) for number in range(10)]
    root = forged.page(BRANCH, [(b"%02d" % number, page) for number, page in enumerate(leaves)])
    for page in leaves:
        forged.put(page, 12, "I", leaves[-1] - page)
    assert "used twice" in forged.meta(root=root).damage()


def test_buckets_too_deep_in_one_another() -> None:
    value = b""
    for _ in range(2000):  # all in one value, each inline in the one around
        page = struct.pack("<QHHI", 0, LEAF, 1 if value else 0, 0)
        element = struct.pack("<IIII", 1, 16, 1, len(value)) + b"k" + value if value else b""
        value = bytes(16) + page + element
    forged = Forged()
    forged.data = bytearray(written(Made({b"k": value}), PAGE))
    forged.put(forged.root, 16, "I", 1)
    assert "more than 100 buckets" in forged.damage()


def test_files_that_say_they_are_larger() -> None:
    forged = Forged()
    forged.meta(pages=_HUGE)
    assert read(bytes(forged.data))  # all that is used is there
    assert forged.problems() == [f"the file ends after 4 of its {_HUGE} pages"]
    assert "of its" in forged.meta(pages=_HUGE, freelist=_HUGE - 1).problems()[0]


@pytest.mark.parametrize("page_size", [0, 1, 511, 1 << 31])
def test_page_size(page_size: int) -> None:
    with pytest.raises(Damage):
        Database(bytes(Forged().meta(page_size=page_size).data))


def test_later_transaction_counts() -> None:
    forged = Forged()
    other = forged.page(LEAF, [(b"other", b"v")])
    old = forged.root
    forged.meta(root=other)
    encoded = dataclasses.replace(Database(bytes(forged.data)).meta, root=old, transaction=7).encode()
    for page in range(2):
        data = bytearray(forged.data)
        data[page * PAGE + 16 : page * PAGE + 16 + len(encoded)] = encoded
        assert dict(Database(bytes(data)).root) == {b"a": b"1", b"b": b"2"}
        data[page * PAGE + 40] ^= 1  # cut short: the other one counts
        assert dict(Database(bytes(data)).root) == {b"other": b"v"}


@pytest.mark.parametrize("name", fixtures())
def test_check_says_what_bbolt_says(name: str) -> None:
    data, facts = fixtures()[name]
    try:
        problems = list(check(Database(data)))
    except Damage as damage:
        problems = [damage]
    assert (problems == []) is (facts["check"] == "OK")


def test_all_damage_is_named() -> None:
    """Page by page, the rest being read all the same."""
    forged = Forged(Made({b"%03d" % number: bytes(100) for number in range(100)}))
    children = [struct.unpack_from("<Q", forged.data, forged.root * PAGE + 24 + 16 * index)[0] for index in range(4)]
    forged.put(children[1], 0, "Q", 99).put(children[3], 10, "H", 1000)
    assert forged.problems() == [
        f"page {children[1]}: says that it is page 99",
        f"page {children[3]}: no room for its 1000 elements",
    ]


def test_free_list() -> None:
    def listed(*free: int, count: int | None = None) -> list[str]:
        forged = Forged()
        for _ in range(4):
            forged.page(LEAF, [])  # 4 to 7
        forged.put(2, 10, "H", len(free) if count is None else count)
        return forged.put(2, 16, f"{len(free)}Q", *free).problems()

    assert listed(4, 5, 6, 7) == []
    assert listed(4, 4, 5, 6, 7, count=0xFFFF) == []  # the first is the count
    assert listed() == ["page 4: neither used nor free, nor are the 3 after it"]
    assert listed(4, 6, 7) == ["page 5: neither used nor free"]
    assert listed(4, 6, 5, 7) == ["page 5: in the free list twice, or out of order"]
    assert listed(4, 5, 6, 6, 7) == ["page 6: in the free list twice, or out of order"]
    assert listed(1, 4, 5, 6, 7) == ["page 1: in the free list twice, or out of order"]
    assert listed(3, 4, 5, 6, 7) == ["page 3: used, but in the free list"]
    assert listed(4, 5, 6, 7, 8) == ["page 8: free, but beyond the 8 pages of the file"]
    assert listed(count=500) == ["page 2: no room for the 500 pages of the free list"]
    assert listed(4000, count=0xFFFF) == ["page 2: no room for the 4000 pages of the free list"]


def test_free_list_that_is_none() -> None:
    assert Forged().put(2, 8, "H", LEAF).problems() == ["page 2: of kind 0x2, where the free list (0x10) should be"]
    assert Forged().meta(freelist=9).problems() == ["page 9: beyond the 4 pages of the file"]
    assert Forged().meta(freelist=2**64 - 1).problems() == []  # not written: all that is not used is free


def test_what_bbolt_dies_of() -> None:
    """Though its own check lets it pass."""
    forged = Forged()
    leaf = forged.root
    forged.meta(root=forged.page(BRANCH, [(b"a", leaf)]))
    assert forged.problems() == [f"page {forged.root}: a branch with a single child"]
    forged = Forged()
    leaf = forged.root
    other = forged.page(LEAF, [(b"z", b"")])
    forged.meta(root=forged.page(BRANCH, [(b"A", leaf), (b"z", other)]))
    assert forged.problems() == [f"page {leaf}: its first key is not the one that the page above has for it"]
    assert read(bytes(forged.data))


def test_pages_are_read_again() -> None:
    """A page may be reached again from where it was reached first."""
    root = Database(bytes(many().data)).root
    assert list(root) == list(root)
    inner = Database(written(Made({b"x": Made({b"%03d" % n: bytes(50) for n in range(100)})}), PAGE)).root
    for _ in range(3):
        found = inner[b"x"]
        assert isinstance(found, Bucket)
        assert len(found) == 100
