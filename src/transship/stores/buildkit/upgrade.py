"""A cache's metadata of version 2, worked out from those of version 1.

As BuildKit's ``cache.MigrateV2`` does it (``cache/migrate_v2.go``, v0.27.1), where that does not fail as a whole. A record that
it cannot go on with is left out, with those that need it, as BuildKit leaves out what it cannot load when it starts
(``cache/manager.go``); and what was kept for the sake of such records is left to the garbage collector.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import digest
from transship.formats.bolt.draft import Draft
from transship.formats.bolt.page import Damage
from transship.stores.buildkit import values
from transship.stores.buildkit.holder import CONTENT, Lease
from transship.stores.buildkit.values import TRUE, of_text
from transship.stores.containerd_db.objects import decoded, encoded
from transship.stores.docker.problem import Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from transship.formats.bolt.reader import Database
    from transship.stores.buildkit.holder import Holder, Snapshot
    from transship.stores.buildkit.values import Value

_MAIN, _INDEX, _EXTERNAL = b"_main", b"_index", b"_external"
_EQUAL_MUTABLE, _OLD_BLOB = b"cache.equalMutable", b"blobmapping.blob"
_COMMITTED, _PARENT, _SNAPSHOT = b"snapshot.committed", b"cache.parent", b"cache.snapshot"
_DIFF_ID, _BLOB, _MEDIA_TYPE = b"cache.diffID", b"cache.blob", b"cache.mediatype"
_CHAIN_ID, _BLOB_CHAIN_ID = b"cache.chainID", b"cache.blobChainID"
_LAYER = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_REMEDY = "BuildKit builds it anew when it is needed; the metadata of version 1 keep what is known of it"


@dataclass(frozen=True)
class Upgrade:
    """What version 2 has of a cache, and what is to be so that it stays.

    ``content`` is the whole ``metadata_v2.db``, with ``records``. ``leases`` keep what these need; then ``snapshots`` and
    ``blobs`` need not be kept for their own sake any more. ``dropped`` are the records that were left out.
    """

    content: Draft
    leases: tuple[Lease, ...]
    snapshots: tuple[str, ...]
    blobs: tuple[str, ...]
    records: int
    dropped: tuple[Problem, ...]


def upgrade(database: Database, holder: Holder, check_cancelled: Callable[[], None] = lambda: None) -> Upgrade:
    """Work out version 2 of the metadata in ``database``, whose snapshots and blobs ``holder`` has. Writes nothing.

    Raises SourceCorrupt for a file that is damaged, and what ``holder`` and ``check_cancelled`` raise.
    """
    work = _Upgrade(Draft(database.root), holder, check_cancelled)
    try:
        work.read()
        work.sort()
        work.write()
    except ValueError as error:
        raise SourceCorrupt(f"metadata of version 1: {error}", remedy="`transship bolt dump` shows all of them") from error
    return work.result()


@dataclass(slots=True)
class _Record:
    """A record, with what version 2 says of it. Texts are empty for what it does not have."""

    id: str
    place: Draft
    equal_mutable: str
    """The record with the snapshot, while this one has none of its own yet."""
    parent: str
    diff_id: str
    blob: str
    chain_id: str
    blob_chain_id: str

    @property
    def needs(self) -> set[str]:
        """The records without which this one is of no use."""
        return {each for each in (self.parent, self.equal_mutable) if each}

    @property
    def chains(self) -> tuple[str, str]:
        """What the chain IDs of those above are made of."""
        return (self.chain_id, self.blob_chain_id) if self.diff_id and self.blob else ("", "")

    def put(self, key: bytes, value: Value) -> None:
        """Write a value."""
        self.place.put(key, value.encoded())


class _Upgrade:
    """The work, in three parts, each once, in their order."""

    def __init__(self, content: Draft, holder: Holder, check_cancelled: Callable[[], None]) -> None:
        self._content = content
        self._holder = holder
        self._check_cancelled = check_cancelled
        self._records: dict[str, _Record] = {}
        self._order: list[_Record] = []
        self._lost: dict[str, Problem] = {}
        self._lost_blobs: list[str] = []

    def read(self) -> None:
        """Read all records, and say of each what does not depend on others."""
        main = self._content.bucket(_MAIN)
        for name, place in main.buckets() if main is not None else ():
            self._check_cancelled()
            self._content.edits.clear()  # nobody asks for them, and they take room
            try:
                self._read(name.decode(), place)
            except Damage:
                raise
            except ValueError as error:
                self._lose(decoded(name), f"is damaged: {error}")
        for record in self._records.values():
            if record.equal_mutable and record.equal_mutable not in self._records:
                self._finalize(record)

    def sort(self) -> None:
        """Put records into an order in which each comes after what it needs. Those for which there is none are lost."""
        above: dict[str, list[_Record]] = {}
        waiting: dict[str, int] = {}
        for record in self._records.values():
            waiting[record.id] = len(record.needs)
            for need in record.needs:
                above.setdefault(need, []).append(record)
        ready = deque(record for record in self._records.values() if not record.needs)
        while ready:
            record = ready.popleft()
            self._order.append(record)
            for each in above.get(record.id, ()):
                waiting[each.id] -= 1
                if waiting[each.id] == 0:
                    ready.append(each)
        self._lose_all_above(above)
        for record in self._records.values():
            if waiting[record.id] and record.id not in self._lost:
                self._lose(record.id, "needs what, in turn, needs itself", record.blob)

    def write(self) -> None:
        """Say of records what depends on others, and remove those that are lost."""
        for record in self._order:
            self._check_cancelled()
            self._content.edits.clear()
            if record.equal_mutable and not record.parent:
                record.parent = self._records[record.equal_mutable].parent
                record.put(_PARENT, of_text(record.parent))
            if record.diff_id and record.blob and not (record.chain_id and record.blob_chain_id):
                self._chain(record)
        if self._lost:
            self._clear()

    def result(self) -> Upgrade:
        """Return what was worked out."""
        kept = [record for record in self._records.values() if record.id not in self._lost]
        own = [record for record in kept if not record.equal_mutable]
        lost = [name for name in self._lost if name.isascii()]  # as all names of snapshots are
        blobs = [record.blob for record in own if record.blob]
        return Upgrade(
            content=self._content,
            leases=tuple(self._lease(record) for record in kept),
            snapshots=(*(record.id for record in own), *lost),
            blobs=tuple(dict.fromkeys([*blobs, *self._lost_blobs])),
            records=len(kept),
            dropped=tuple(self._lost[name] for name in sorted(self._lost)),
        )

    def _read(self, name: str, place: Draft) -> None:
        found, damage = _values(place)
        record = _record(name, place, found)
        if _OLD_BLOB in found:
            self._take_blob(record, *values.blob_of(found[_OLD_BLOB]))
        record.put(_SNAPSHOT, of_text(name))
        snapshot = self._holder.snapshot(name) if not record.equal_mutable else None
        if damage:
            self._lose(name, damage, record.blob)
        elif snapshot is None and not record.equal_mutable:
            self._lose(name, "has no snapshot", record.blob)
        else:
            self._settle(record, snapshot)
            self._records[name] = record

    def _take_blob(self, record: _Record, blob: str, diff_id: str) -> None:
        if not digest.is_digest(blob) or not self._holder.has_blob(blob):
            return
        record.blob, record.diff_id = blob, diff_id
        record.put(_DIFF_ID, of_text(diff_id))
        record.put(_BLOB, of_text(blob))
        record.put(_MEDIA_TYPE, of_text(_LAYER))

    def _settle(self, record: _Record, snapshot: Snapshot | None) -> None:
        """Say of a record what its snapshot is. If it has none of its own, it is one that does not change."""
        if snapshot is None or snapshot.committed:
            record.put(_COMMITTED, TRUE)
        if snapshot is not None and snapshot.parent:
            record.parent = snapshot.parent
            record.put(_PARENT, of_text(snapshot.parent))

    def _finalize(self, record: _Record) -> None:
        """Do what BuildKit was about to do when it was killed, if it was: the snapshot is there, but noted as another's."""
        snapshot = self._holder.snapshot(record.id)
        if snapshot is not None and snapshot.committed:
            record.equal_mutable = ""
            record.place.put(_EQUAL_MUTABLE, b"")
            self._settle(record, snapshot)

    def _chain(self, record: _Record) -> None:
        chain_id, blob_chain_id = record.diff_id, _digest_of(record.blob, record.diff_id)
        if record.parent:
            below, blobs_below = self._records[record.parent].chains
            chain_id, blob_chain_id = _digest_of(below, chain_id), _digest_of(blobs_below, blob_chain_id)
        record.chain_id, record.blob_chain_id = chain_id, blob_chain_id
        for key, index, text in ((_CHAIN_ID, "chainid", chain_id), (_BLOB_CHAIN_ID, "blobchainid", blob_chain_id)):
            record.put(key, of_text(text, f"{index}:{text}"))
            self._content.made(_INDEX).put(encoded(f"{index}:{text}::{record.id}"), b"")

    def _lose_all_above(self, above: Mapping[str, list[_Record]]) -> None:
        """Leave out what needs something that was left out, or never was there."""
        todo = [(record, need) for need, records in above.items() if need not in self._records for record in records]
        while todo:
            record, need = todo.pop()
            if record.id not in self._lost:
                why = "is left out" if need in self._lost else "is not there"
                self._lose(record.id, f"needs record {_shown(need)}, which {why}", record.blob)
                todo += [(each, record.id) for each in above.get(record.id, ())]

    def _lose(self, name: str, why: str, blob: str = "") -> None:
        self._lost[name] = Problem(_shown(name), SourceCorrupt(f"record {_shown(name)} {why}", remedy=_REMEDY))
        if blob:
            self._lost_blobs.append(blob)

    def _clear(self) -> None:
        """Remove lost records, with all that is found by them or leads to them (``metadata.Store.Clear``)."""
        lost = {encoded(name) for name in self._lost}
        for part in (_MAIN, _EXTERNAL, _INDEX):
            bucket = self._content.bucket(part)
            if bucket is not None:
                leading = [key for key in bucket.keys() if key.rpartition(b"::")[2] in lost]  # noqa: SIM118
                for key in leading if part == _INDEX else lost:
                    bucket.delete(key)

    def _lease(self, record: _Record) -> Lease:
        """Return the lease that BuildKit has for a record, on a snapshot of its name too if there is none yet."""
        snapshot = (f"snapshots/{self._holder.snapshotter}", record.id)
        return Lease(record.id, (snapshot, (CONTENT, record.blob)) if record.blob else (snapshot,))


def _values(place: Draft) -> tuple[dict[bytes, Value], str]:
    """Return the values of a record that were not cleared, and what is wrong with one of the others, if that is so."""
    found: dict[bytes, Value] = {}
    damage = ""
    for key, raw in place.values():
        try:
            if raw:
                found[key] = values.decoded(raw)
        except ValueError as error:
            damage = f"is damaged: {_shown(decoded(key))}: {error}"
    return found, damage


def _record(name: str, place: Draft, found: Mapping[bytes, Value]) -> _Record:
    def text(key: bytes) -> str:
        return found[key].text() if key in found else ""

    keys = (_EQUAL_MUTABLE, _PARENT, _DIFF_ID, _BLOB, _CHAIN_ID, _BLOB_CHAIN_ID)
    return _Record(name, place, *map(text, keys))


def _digest_of(*texts: str) -> str:
    return digest.of(" ".join(texts).encode())


def _shown(name: str) -> str:
    return encoded(name).decode("utf-8", "backslashreplace")
