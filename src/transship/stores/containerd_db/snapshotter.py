"""A snapshotter's ``metadata.db``: which directory each snapshot has, and on which it stands.

Source: containerd ``snapshots/storage/bolt.go``. Keys of snapshots are those that ``meta.db`` gave them. The directory's name
is the number of the snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.formats import go_binary
from transship.stores.containerd_db import objects
from transship.stores.containerd_db.objects import decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from transship.formats.bolt.draft import Draft

VIEW, ACTIVE, COMMITTED = 1, 2, 3
"""Kinds of snapshots."""
_SNAPSHOTS = (b"v1", b"snapshots")
_PARENTS = (b"v1", b"parents")
_ID, _KIND, _PARENT, _SIZE, _INODES = b"id", b"kind", b"parent", b"size", b"inodes"


class Snapshots:
    """The snapshots in the ``metadata.db`` that is drafted in ``root``. Raises Damage, ValueError."""

    def __init__(self, root: Draft) -> None:
        self._root = root

    @property
    def sequence(self) -> int:
        """The last number that was given out."""
        place = self._root.bucket(*_SNAPSHOTS)
        return place.sequence if place is not None else 0

    @sequence.setter
    def sequence(self, number: int) -> None:
        self._root.made(*_PARENTS)
        self._root.made(*_SNAPSHOTS).sequence = number

    def get(self, key: str) -> Draft | None:
        """Return what is known of a snapshot."""
        return self._root.bucket(*_SNAPSHOTS, encoded(key))

    def all(self) -> Iterator[tuple[str, Draft]]:
        """Yield keys of all snapshots, with what is known of them."""
        place = self._root.bucket(*_SNAPSHOTS)
        for key, record in place.buckets() if place is not None else ():
            yield decoded(key), record

    def add(self, key: str, kind: int, parent: str | None, labels: Mapping[str, str]) -> int:
        """Record a snapshot that was not recorded; return its number."""
        self._root.made(*_PARENTS)
        place = self._root.made(*_SNAPSHOTS)
        number = place.next_sequence()
        self._record(key, number, kind, parent, labels)
        return number

    def commit(self, key: str, name: str, usage: tuple[int, int], labels: Mapping[str, str]) -> None:
        """Make the active snapshot ``key`` the committed ``name``, of ``usage`` bytes and inodes."""
        active = self.get(key)
        if active is None:
            raise ValueError(f"no snapshot {key}")
        number, parent = number_of(active), parent_of(active)
        self.remove(key)
        record = self._record(name, number, COMMITTED, parent, labels)
        record.put(_SIZE, go_binary.varint(usage[0]))
        record.put(_INODES, go_binary.varint(usage[1]))

    def remove(self, key: str) -> None:
        """Forget a snapshot, which nothing stands on."""
        record = self.get(key)
        place = self._root.bucket(*_SNAPSHOTS)
        if record is None or place is None:
            return
        above = self._number_above(record)
        parents = self._root.bucket(*_PARENTS)
        if above is not None and parents is not None:
            parents.delete(_pair(above, number_of(record)))
        place.delete(encoded(key))

    def _record(self, key: str, number: int, kind: int, parent: str | None, labels: Mapping[str, str]) -> Draft:
        record = self._root.made(*_SNAPSHOTS, encoded(key))
        record.put(_ID, go_binary.uvarint(number))
        record.put(_KIND, bytes([kind]))
        if parent is not None:
            record.put(_PARENT, encoded(parent))
            above = self._number_above(record)
            if above is None:
                raise ValueError(f"no snapshot {parent}")
            self._root.made(*_PARENTS).put(_pair(above, number), encoded(key))
        objects.mark_created(record)
        objects.set_labels(record, labels)
        return record

    def _number_above(self, record: Draft) -> int | None:
        parent = parent_of(record)
        above = self.get(parent) if parent is not None else None
        return number_of(above) if above is not None else None


def number_of(record: Draft) -> int:
    """Return the number of a snapshot."""
    return go_binary.read_uvarint(record.value(_ID) or b"")


def kind_of(record: Draft) -> int:
    """Return the kind of a snapshot."""
    return (record.value(_KIND) or b"\0")[0]


def parent_of(record: Draft) -> str | None:
    """Return the key of the snapshot that this one stands on."""
    parent = record.value(_PARENT)
    return decoded(parent) if parent else None


def _pair(above: int, number: int) -> bytes:
    return go_binary.uvarint(above) + b"\0" + go_binary.uvarint(number)
