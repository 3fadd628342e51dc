"""A bucket as it is to be: what was read, with changes that can be told, made again elsewhere, and taken back.

Memory: what was changed, and some 500 bytes for each bucket that was looked into.
"""

from __future__ import annotations

import heapq
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

import msgspec

from transship.formats.bolt.reader import Bucket

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_BUCKET = b""
"""The key that stands for a bucket itself, in an edit: bbolt has no empty keys."""


class Edit(msgspec.Struct, frozen=True, array_like=True):
    """One change: what ``key`` had in the bucket that is found by ``path``, and what it has then. None: nothing.

    The empty key is the bucket itself, there if it has a sequence (8 bytes, the highest first).
    """

    path: tuple[bytes, ...]
    key: bytes
    before: bytes | None
    after: bytes | None


class Draft:
    """A bucket that is changed. It can be written (``writer.Content``), and ``edits`` has all that was changed in it.

    Who asks knows from the schema whether a key has a value or a bucket: ValueError if it has the other. What is read raises
    Damage.
    """

    __slots__ = ("_base", "_changed", "_sequence", "edits", "path")

    def __init__(self, base: Bucket | None, path: tuple[bytes, ...] = (), edits: list[Edit] | None = None) -> None:
        """``path`` is where it is in the draft whose ``edits`` it adds to."""
        self.path = path
        self.edits: list[Edit] = [] if edits is None else edits
        self._base = base
        self._sequence = base.sequence if base is not None else 0
        self._changed: dict[bytes, _Held] = {}

    @property
    def sequence(self) -> int:
        """The last number that the bucket gave out."""
        return self._sequence

    @sequence.setter
    def sequence(self, number: int) -> None:
        if number != self._sequence:
            self._note(_BUCKET, _number(self._sequence), _number(number))
            self._sequence = number

    def next_sequence(self) -> int:
        """Give out a number (Go's ``NextSequence``)."""
        self.sequence += 1
        return self._sequence

    def value(self, key: bytes) -> bytes | None:
        """Return the value of ``key``, None if there is none."""
        held = self._get(key)
        if isinstance(held, Draft):
            raise ValueError(f"{key!r} is a bucket")  # noqa: TRY004 - it is the file's content, not its type, that is wrong
        return held

    def bucket(self, *path: bytes) -> Draft | None:
        """Return the bucket that is in this one under ``path``, each name below the one before; None if there is none."""
        found: Draft = self
        for name in path:
            held = found._get(name)
            if held is None:
                return None
            if not isinstance(held, Draft):
                raise ValueError(f"{name!r} is not a bucket")  # noqa: TRY004
            found = held
        return found

    def made(self, *path: bytes) -> Draft:
        """Return the bucket under ``path``, made if it is not there."""
        found: Draft = self
        for name in path:
            below = found.bucket(name)
            if below is None:
                below = found._below(name, None)
                self.edits.append(Edit(below.path, _BUCKET, None, _number(0)))
            found = below
        return found

    def put(self, key: bytes, value: bytes) -> None:
        """Set the value of ``key``."""
        before = self.value(key)
        if before != value:
            self._changed[key] = value
            self._note(key, before, value)

    def delete(self, key: bytes) -> None:
        """Remove ``key``, if it is there: a value, or a bucket with all that is in it."""
        held = self._get(key)
        if held is None:
            return
        if isinstance(held, Draft):
            for each in list(held.keys()):
                held.delete(each)
            self.edits.append(Edit(held.path, _BUCKET, _number(held.sequence), None))
        else:
            self._note(key, held, None)
        self._changed[key] = None

    def keys(self) -> Iterator[bytes]:
        """Yield all keys, ascending. Nothing may be changed meanwhile."""
        return (key for key, _ in self.items())

    def values(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the keys that have values, with these."""
        return ((key, held) for key, held in self.items() if isinstance(held, bytes))

    def buckets(self) -> Iterator[tuple[bytes, Draft]]:
        """Yield the keys of buckets, with these, ready to be changed."""
        for key in [key for key, held in self.items() if not isinstance(held, bytes)]:
            below = self.bucket(key)
            assert below is not None  # noqa: S101 - its key has just been read
            yield key, below

    def items(self) -> Iterator[tuple[bytes, bytes | Bucket | Draft]]:
        """Yield all keys, ascending, with what they have; buckets that were not looked into as they were read."""
        changed = sorted(self._changed.items(), key=itemgetter(0))
        read = self._base.items() if self._base is not None else ()
        untouched = ((key, held) for key, held in read if key not in self._changed)
        for key, held in heapq.merge(untouched, changed, key=itemgetter(0)):
            if held is not None:
                yield key, held

    def redo(self, edits: Iterable[Edit]) -> bool:
        """Make changes that were made to another draft, where things are as they were there.

        Return False if something has become something else: that stays. Those that were made already stay, too, if ``edits``
        are ``net``.
        """
        whole = True
        for edit in edits:
            whole &= self._turn(edit, edit.before, edit.after)
        return whole

    def undo(self, edits: Sequence[Edit]) -> bool:
        """Take changes back, the last one first; the rest is as for ``redo``."""
        whole = True
        for edit in reversed(edits):
            whole &= self._turn(edit, edit.after, edit.before)
        return whole

    def _turn(self, edit: Edit, old: bytes | None, new: bytes | None) -> bool:
        """Have ``new`` in place of ``old``. Buckets have edits of their own: what is in one that is missing is lost."""
        place = self.bucket(*(edit.path if edit.key else edit.path[:-1]))
        if place is None:
            return new is None
        now = place.value(edit.key) if edit.key else self._number_of(edit.path)
        if now != old:
            return now == new
        if not edit.key:
            return self._turn_bucket(edit.path, new)
        if new is None:
            place.delete(edit.key)
        else:
            place.put(edit.key, new)
        return True

    def _turn_bucket(self, path: tuple[bytes, ...], new: bytes | None) -> bool:
        if new is not None:
            self.made(*path).sequence = int.from_bytes(new, "big")
            return True
        place, above = self.bucket(*path), self.bucket(*path[:-1])
        if place is None or above is None:
            return True
        if next(place.keys(), None) is not None:
            return False
        above.delete(path[-1])
        return True

    def _number_of(self, path: tuple[bytes, ...]) -> bytes | None:
        place = self.bucket(*path)
        return None if place is None else _number(place.sequence)

    def _get(self, key: bytes) -> _Held:
        if key in self._changed:
            return self._changed[key]
        held = self._base.get(key) if self._base is not None and key else None
        return self._below(key, held) if isinstance(held, Bucket) else held

    def _below(self, name: bytes, base: Bucket | None) -> Draft:
        below = Draft(base, (*self.path, name), self.edits)
        self._changed[name] = below
        return below

    def _note(self, key: bytes, before: bytes | None, after: bytes | None) -> None:
        self.edits.append(Edit(self.path, key, before, after))


def net(edits: Iterable[Edit]) -> list[Edit]:
    """Return what ``edits`` come to: for each key what it had at first and has at last, if these differ.

    Buckets come before what is in them if they are there at last, after it if they are not.
    """
    found: dict[tuple[tuple[bytes, ...], bytes], Edit] = {}
    for edit in edits:
        place = (edit.path, edit.key)
        before = found[place].before if place in found else edit.before
        found[place] = Edit(edit.path, edit.key, before, edit.after)
    changed = [edit for edit in found.values() if edit.before != edit.after]
    there = [edit for edit in changed if not edit.key and edit.after is not None]
    gone = [edit for edit in changed if not edit.key and edit.after is None]
    values = [edit for edit in changed if edit.key]
    return [*sorted(there, key=_depth), *values, *sorted(gone, key=_depth, reverse=True)]


def _depth(edit: Edit) -> int:
    return len(edit.path)


_Held: TypeAlias = "bytes | Draft | None"


def _number(sequence: int) -> bytes:
    return sequence.to_bytes(8, "big")
