"""Version 2 of metadata, against what BuildKit's own migration made, and where that fails as a whole."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.formats.bolt.databases import Made
from tests.formats.bolt.databases import read as bolt_read
from tests.formats.bolt.databases import written as bolt_bytes
from tests.stores.buildkit.caches import below, differences, read, upgraded, written
from transship.errors import RunInterrupted, SourceCorrupt
from transship.formats import digest
from transship.formats.bolt.check import check
from transship.formats.bolt.reader import Database
from transship.stores import bolt_file
from transship.stores.buildkit.holder import Lease, Snapshot
from transship.stores.buildkit.upgrade import upgrade

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from transship.formats.bolt.draft import Draft
    from transship.stores.buildkit.upgrade import Upgrade

COPIED, ABOVE_COPIED = b"cd7x2ivut7r4u3nucemgf8ihi", b"g8a6zttpvrdaqa3tmxhgk493l"
"""Records of the cache, one of which stands on the other; on that, nothing does."""
BELOW_COPIED = b"ujazpxc6mg18ow9mct9dz6mq5"
SHALLOW, MUTABLE = b"2c6eeug6t234ubcyezwo8vnbl", b"e21djucug6jkt4ckwbwluxgo7"
"""A record without snapshot, and the one that has it."""
WORKER = ("root", "runc-overlayfs")


class Known:
    """A holder that knows some snapshots and blobs, and changes nothing."""

    snapshotter = "native"

    def __init__(self, snapshots: dict[str, Snapshot] | None = None, blobs: set[str] | None = None) -> None:
        self.snapshots = snapshots or {}
        self.blobs = blobs or set()

    def snapshot(self, name: str) -> Snapshot | None:
        return self.snapshots.get(name)

    def has_blob(self, digest: str) -> bool:
        return digest in self.blobs

    def lease(self, leases: Sequence[Lease]) -> bytes:
        raise NotImplementedError

    def unroot(self, snapshots: Sequence[str], blobs: Sequence[str]) -> bytes:
        raise NotImplementedError

    def apply(self, changes: bytes) -> None:
        raise NotImplementedError

    def revert(self, changes: bytes) -> bool:
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError


def value(content: object, index: str = "") -> bytes:
    members: dict[str, object] = {"value": content}
    return json.dumps({**members, "index": index} if index else members, separators=(",", ":")).encode()


def records(content: dict[str, dict[str, bytes]]) -> Database:
    """Return metadata of version 1 with these records, by keys of theirs."""
    main = {name.encode(): Made({key.encode(): raw for key, raw in each.items()}) for name, each in content.items()}
    return Database(bolt_bytes(Made({b"_main": Made(dict(main))})))


def told(found: Upgrade) -> dict[str, dict[str, Any]]:
    """Return the records of version 2, decoded; keys that were cleared have None."""
    main = below(bolt_read(bolt_bytes(found.content)), b"_main")
    return {name.decode(): {key.decode(): _content(raw) for key, raw in below(main, name).items()} for name in main.held}


def _content(raw: bytes | Made) -> Any:
    assert isinstance(raw, bytes)
    return json.loads(raw)["value"] if raw else None


def change(root: Path, file: str, edit: Callable[[Draft], None]) -> None:
    with bolt_file.changed(root / file) as draft:
        edit(draft)


def place(draft: Draft, *path: bytes) -> Draft:
    found = draft.bucket(*path)
    assert found is not None
    return found


def without(root: Made, lost: set[bytes]) -> Made:
    """Remove records from metadata, as BuildKit's ``Clear`` does."""
    for part in (b"_main", b"_external"):
        for name in lost:
            below(root, part).held.pop(name, None)
    index = below(root, b"_index").held
    for key in [key for key in index if key.rpartition(b"::")[2] in lost]:
        del index[key]
    return root


def test_the_same_as_buildkits_own(either: Path, tmp_path: Path) -> None:
    with upgraded(either / "root") as (found, _):
        made = written(found, tmp_path / "metadata_v2.db")
    assert made == read(either / "migrated" / "metadata_v2.db")
    assert (found.records, len(found.leases), found.dropped) == (len(below(made, b"_main").held),) * 2 + ((),)
    with bolt_file.opened(tmp_path / "metadata_v2.db") as database:
        assert not list(check(database))


def _forget_a_blob(root: Path) -> None:
    blob = b"sha256:6a2bc7a9ee4ecf3c9b16a6aa832b2a67720290d7629054e7fcbdec58c23ce89c"
    change(root, "containerdmeta.db", lambda draft: place(draft, b"v1", b"buildkit", b"content", b"blob").delete(blob))


def _note_chain_ids(draft: Draft) -> None:
    record = place(draft, b"_main", b"3noxduvctiabz9e5oerzuj5kz")
    record.put(b"cache.chainID", value(f"sha256:{'1' * 64}"))
    record.put(b"cache.blobChainID", value(f"sha256:{'2' * 64}"))


def _empty(draft: Draft) -> None:
    for part in (b"_main", b"_external", b"_index"):
        draft.delete(part)
    draft.made(b"_index")


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("parent-blob-missing-in-content", _forget_a_blob),
        ("no-main-bucket", lambda root: change(root, "metadata.db", _empty)),
        ("index-bucket-missing", lambda root: change(root, "metadata.db", lambda draft: draft.delete(b"_index"))),
        (
            "plain-key-in-main",
            lambda root: change(root, "metadata.db", lambda draft: place(draft, b"_main").put(b"zzkey", b"plain")),
        ),
        ("precomputed-chainid", lambda root: change(root, "metadata.db", _note_chain_ids)),
    ],
)
def test_odd_metadata_the_same_as_buildkits_own(
    buildkit: Path, tmp_path: Path, name: str, edit: Callable[[Path], None]
) -> None:
    edit(buildkit.joinpath(*WORKER))
    with upgraded(buildkit / "root") as (found, _):
        made = written(found, tmp_path / "metadata_v2.db")
    assert not list(differences(made, read(buildkit / "edges" / name / "metadata_v2.db")))
    assert not found.dropped


def _remove_snapshot(root: Path) -> None:
    held = (b"v1", b"buildkit", b"snapshots", b"overlayfs")
    change(root, "containerdmeta.db", lambda draft: place(draft, *held).delete(COPIED))


def _remove_from_snapshotter(root: Path) -> None:
    change(root, "snapshots/metadata.db", lambda draft: place(draft, b"v1", b"snapshots").delete(b"buildkit/40/" + COPIED))


def _remove(name: bytes) -> Callable[[Path], None]:
    return lambda root: change(root, "metadata.db", lambda draft: place(draft, b"_main").delete(name))


def _put(name: bytes, key: bytes, raw: bytes) -> Callable[[Path], None]:
    return lambda root: change(root, "metadata.db", lambda draft: place(draft, b"_main", name).put(key, raw))


def _parent(name: bytes, parent: bytes) -> Callable[[Path], None]:
    path = (b"v1", b"buildkit", b"snapshots", b"overlayfs", name)
    return lambda root: change(root, "containerdmeta.db", lambda draft: place(draft, *path).put(b"parent", parent))


def _bucket_of(name: bytes, key: bytes) -> Callable[[Path], None]:
    def edit(draft: Draft) -> None:
        draft.made(b"_main", name, key)

    return lambda root: change(root, "metadata.db", edit)


BROKEN: dict[str, tuple[Callable[[Path], None], dict[bytes, str]]] = {
    "no snapshot": (_remove_snapshot, {COPIED: "has no snapshot", ABOVE_COPIED: "is left out"}),
    "snapshotter does not have it": (_remove_from_snapshotter, {COPIED: "has no snapshot", ABOVE_COPIED: "is left out"}),
    "no mutable": (_remove(MUTABLE), {SHALLOW: f"needs record {MUTABLE.decode()}, which is not there"}),
    "no parent": (
        _remove(BELOW_COPIED),
        {COPIED: f"needs record {BELOW_COPIED.decode()}, which is not there", ABOVE_COPIED: "is left out"},
    ),
    "no JSON": (
        _put(COPIED, b"cache.description", b"{not json"),
        {COPIED: "is damaged: cache.description: not JSON", ABOVE_COPIED: "is left out"},
    ),
    "an index that is no text": (_put(ABOVE_COPIED, b"x", b'{"value":1,"index":2}'), {ABOVE_COPIED: "is damaged: x: "}),
    "not an object": (_put(ABOVE_COPIED, b"x", b"[]"), {ABOVE_COPIED: "is damaged: x: "}),
    "a blob of another type": (_put(ABOVE_COPIED, b"blobmapping.blob", value("x")), {ABOVE_COPIED: "is damaged"}),
    "a blob without digests": (_put(ABOVE_COPIED, b"blobmapping.blob", value({"Blobsum": 5})), {ABOVE_COPIED: "is damaged"}),
    "a bucket for a value": (_bucket_of(ABOVE_COPIED, b"cache.snapshot"), {ABOVE_COPIED: "is damaged"}),
    "a circle": (
        _parent(COPIED, ABOVE_COPIED),
        {COPIED: "in turn, needs itself", ABOVE_COPIED: "in turn, needs itself"},
    ),
    "on itself": (_parent(COPIED, COPIED), {COPIED: "in turn, needs itself", ABOVE_COPIED: "in turn, needs itself"}),
}
"""By name: what is broken, and which records are left out for it, and why. BuildKit leaves out all, for each of these."""


@pytest.mark.parametrize("name", BROKEN)
def test_one_broken_record_costs_itself_and_what_stands_on_it(buildkit: Path, tmp_path: Path, name: str) -> None:
    edit, lost = BROKEN[name]
    edit(buildkit.joinpath(*WORKER))
    with upgraded(buildkit / "root") as (found, _):
        made = written(found, tmp_path / "metadata_v2.db")
    gone = set(lost) | ({MUTABLE} if name == "no mutable" else set()) | ({BELOW_COPIED} if name == "no parent" else set())
    expected = without(read(buildkit / "migrated" / "metadata_v2.db"), set(lost))
    left_over = {path for path, *_ in differences(made, expected)}
    for absent in gone - set(lost):  # removed by hand, but for what leads to them
        below(expected, b"_main").held.pop(absent)
        left_over = {path for path, *_ in differences(made, expected) if not path[-1].endswith(b"::" + absent)}
    assert not left_over
    assert {problem.subject.encode(): problem.error.message for problem in found.dropped}.keys() == lost.keys()
    for problem in found.dropped:
        assert lost[problem.subject.encode()] in problem.error.message
        assert problem.error.message.startswith(f"record {problem.subject} ")
    assert found.records == len(found.leases) == 115 - len(gone)
    assert not {lease.id.encode() for lease in found.leases} & gone
    # What was kept for their sake is not kept any more.
    assert set(lost) <= {snapshot.encode() for snapshot in found.snapshots}


def test_what_leads_nowhere_stays(buildkit: Path, tmp_path: Path) -> None:
    root = buildkit.joinpath(*WORKER)
    names = set(below(read(root / "metadata.db"), b"_main").held)
    dangling = [key for key in below(read(root / "metadata.db"), b"_index").held if key.rpartition(b"::")[2] not in names]
    assert dangling
    _remove_snapshot(root)
    with upgraded(buildkit / "root") as (found, _):
        made = written(found, tmp_path / "metadata_v2.db")
    assert set(dangling) <= set(below(made, b"_index").held)


def test_blobs_of_damaged_records_are_not_kept(buildkit: Path) -> None:
    with upgraded(buildkit / "root") as (found, _):
        blobs = set(found.blobs)
    _put(COPIED, b"cache.description", b"{not json")(buildkit.joinpath(*WORKER))
    with upgraded(buildkit / "root") as (found, _):
        assert set(found.blobs) == blobs


def test_a_record_that_was_to_be_finalized() -> None:
    # BuildKit was killed after it had committed the snapshot, and before it had noted that.
    content = {"i": {"cache.equalMutable": value("m")}, "m": {}, "base": {}}
    database = records(content)
    holder = Known({"i": Snapshot("base", committed=True), "base": Snapshot(None, committed=True)})
    found = upgrade(database, holder)
    assert told(found)["i"] == {
        "cache.equalMutable": None,
        "cache.parent": "base",
        "cache.snapshot": "i",
        "snapshot.committed": True,
    }
    assert [problem.error.message for problem in found.dropped] == ["record m has no snapshot"]
    assert set(found.snapshots) == {"i", "base", "m"}
    del holder.snapshots["i"]
    assert {problem.subject for problem in upgrade(database, holder).dropped} == {"i", "m"}


def test_records_with_the_snapshot_of_another() -> None:
    # Of records that have others' snapshots, whichever comes first.
    content = {
        "a": {"cache.equalMutable": value("b")},
        "b": {"cache.equalMutable": value("c")},
        "c": {},
        "d": {},
        "e": {"cache.equalMutable": value("f")},
        "f": {},
    }
    mutable = Snapshot(None, committed=False)
    snapshots = {"c": Snapshot("d", committed=False), "d": mutable, "f": mutable}
    found = upgrade(records(content), Known(snapshots))
    made = told(found)
    assert [made[name].get("cache.parent") for name in "abcdef"] == ["d", "d", "d", None, "", None]
    assert [made[name].get("snapshot.committed") for name in "abcdef"] == [True, True, None, None, True, None]
    assert set(found.snapshots) == {"c", "d", "f"}
    assert [lease.id for lease in found.leases] == list("abcdef")
    assert found.leases[0].resources == (("snapshots/native", "a"),)


def test_chain_ids_of_what_has_no_blob_count_for_nothing() -> None:
    blob, diff_id = digest.of(b"blob"), digest.of(b"diff")
    content = {
        "above": {"blobmapping.blob": value({"Blobsum": blob, "DiffID": diff_id})},
        "below": {"cache.chainID": value("sha256:1"), "cache.blobChainID": value("sha256:2")},
    }
    snapshots = {"above": Snapshot("below", committed=True), "below": Snapshot(None, committed=True)}
    made = told(upgrade(records(content), Known(snapshots, {blob})))
    assert made["above"]["cache.chainID"] == digest.of(f" {diff_id}".encode())
    assert made["below"] == {
        "cache.chainID": "sha256:1",
        "cache.blobChainID": "sha256:2",
        "cache.snapshot": "below",
        "snapshot.committed": True,
    }


def test_values_that_are_as_go_reads_and_writes_them() -> None:
    blob, diff_id = digest.of(b"blob"), digest.of(b"diff")
    content = {
        "<&>\u2028é": {
            "cache.equalMutable": value(["no", "text"]),
            "blobmapping.blob": f'{{"VALUE": {{"blobSUM": "{blob}", "diffid": "{diff_id}", "DiffID": null}}}}'.encode(),
            "cache.description": b'{ "value" : "as it \\u003e was" }',
            "empty": b"",
            "nothing": b"null",
        }
    }
    found = upgrade(records(content), Known({"<&>\u2028é": Snapshot(None, committed=True)}, {blob}))
    root = bolt_read(bolt_bytes(found.content))
    chains = (diff_id, digest.of(f"{blob} {diff_id}".encode()))
    [name] = below(root, b"_main").held
    assert below(root, b"_main", name).held == {
        **{key.encode(): raw for key, raw in content[name.decode()].items()},
        b"cache.snapshot": '{"value":"\\u003c\\u0026\\u003e\\u2028é"}'.encode(),
        b"snapshot.committed": b'{"value":true}',
        b"cache.blob": value(blob),
        b"cache.diffID": value(diff_id),
        b"cache.mediatype": value("application/vnd.docker.image.rootfs.diff.tar.gzip"),
        b"cache.chainID": value(chains[0], f"chainid:{chains[0]}"),
        b"cache.blobChainID": value(chains[1], f"blobchainid:{chains[1]}"),
    }
    assert below(root, b"_index").held == {
        f"chainid:{chains[0]}::".encode() + name: b"",
        f"blobchainid:{chains[1]}::".encode() + name: b"",
    }
    [lease] = found.leases
    assert lease.resources == (("snapshots/native", name.decode()), ("content", blob))


def test_a_name_that_is_no_text() -> None:
    main = Made({b"\xff": Made({b"cache.createdAt": value(1)}), b"a": Made()})
    database = Database(bolt_bytes(Made({b"_main": main, b"_external": Made({b"\xff": Made()})})))
    found = upgrade(database, Known({"a": Snapshot(None, committed=True)}))
    assert [(problem.subject, found.records, found.snapshots) for problem in found.dropped] == [("\\xff", 1, ("a",))]
    assert told(found).keys() == {"a"}


def test_as_many_as_you_like_on_one_another() -> None:
    count = 5_000  # which recursion would not do
    blob = digest.of(b"blob")
    mapping = value({"Blobsum": blob, "DiffID": digest.of(b"diff")})
    names = [f"{number:06}" for number in range(count)]
    snapshots = {name: Snapshot(names[number - 1] if number else None, committed=True) for number, name in enumerate(names)}
    found = upgrade(records({name: {"blobmapping.blob": mapping} for name in names}), Known(snapshots, {blob}))
    assert (found.records, found.dropped, found.blobs) == (count, (), (blob,))
    snapshots[names[0]] = Snapshot(names[-1], committed=True)
    found = upgrade(records({name: {} for name in names}), Known(snapshots))
    assert (found.records, len(found.dropped)) == (0, count)
    del snapshots[names[0]]
    found = upgrade(records({name: {} for name in names}), Known(snapshots))
    assert (found.records, len(found.dropped)) == (0, count)


def test_it_can_be_cancelled(buildkit: Path) -> None:
    calls = 0

    def check_cancelled() -> None:
        nonlocal calls
        calls += 1
        if calls == 50:
            raise RunInterrupted("stopped", signal_number=2)

    with bolt_file.opened(buildkit.joinpath(*WORKER) / "metadata.db") as database, pytest.raises(RunInterrupted):
        upgrade(database, Known(), check_cancelled)


def test_damage_of_the_file_itself_is_not_a_records() -> None:
    whole = bolt_bytes(Made({b"_main": Made({b"a": Made(), b"b": Made({b"x": value("x" * 2000)})})}))
    holder = Known(dict.fromkeys("ab", Snapshot(None, committed=True)))
    found = 0
    for page in range(2, len(whole) // 4096):
        data = bytearray(whole)
        data[page * 4096 + 16 : page * 4096 + 32] = b"\xff" * 16  # what its first element says of it
        try:
            assert upgrade(Database(bytes(data)), holder).records == 2
        except SourceCorrupt as error:
            assert "page" in error.message  # noqa: PT017 - some pages are not read
            found += 1
    assert found == 3  # all buckets there are, of those that have a page


@pytest.mark.parametrize("part", [b"_main", b"_index", b"_external"])
def test_a_value_where_all_records_should_be(part: bytes) -> None:
    root = Made({b"_main": Made({b"a": Made()}), part: b"value"})
    with pytest.raises(SourceCorrupt, match=part.decode()):
        upgrade(Database(bolt_bytes(root)), Known())


def test_nothing_is_written(either: Path, tmp_path: Path) -> None:
    def contents() -> dict[str, bytes]:
        return {str(file): file.read_bytes() for file in (either / "root").rglob("*") if file.is_file()}

    before = contents()
    with upgraded(either / "root") as (found, holder):
        assert holder.lease(found.leases)
        holder.unroot(found.snapshots, found.blobs)
        written(found, tmp_path / "v2.db")
    assert contents() == before
