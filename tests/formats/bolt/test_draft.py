"""Drafts: whatever is done to one, it holds what it should, and what was done can be done again and taken back."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, TypeAlias

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.formats.bolt.databases import Made, held, written
from transship.formats.bolt.draft import Draft, net
from transship.formats.bolt.reader import Bucket, Database

if TYPE_CHECKING:
    from transship.formats.bolt.writer import Content

Change: TypeAlias = "tuple[str, list[bytes], bytes, bytes]"

_VALUE_KEYS = [b"a", b"b", b"c"]
_BUCKET_KEYS = [b"p", b"q"]
_made = st.recursive(
    st.builds(Made, st.dictionaries(st.sampled_from(_VALUE_KEYS), st.binary(max_size=5)), st.integers(0, 3)),
    lambda below: st.builds(
        lambda values, buckets, sequence: Made({**values, **buckets}, sequence),
        st.dictionaries(st.sampled_from(_VALUE_KEYS), st.binary(max_size=5)),
        st.dictionaries(st.sampled_from(_BUCKET_KEYS), below),
        st.integers(0, 3),
    ),
    max_leaves=6,
)
_path = st.lists(st.sampled_from(_BUCKET_KEYS), max_size=2)
_change = st.one_of(
    st.tuples(st.just("put"), _path, st.sampled_from(_VALUE_KEYS), st.binary(max_size=3)),
    st.tuples(st.just("delete"), _path, st.sampled_from(_VALUE_KEYS + _BUCKET_KEYS), st.just(b"")),
    st.tuples(st.just("number"), _path, st.just(b""), st.just(b"")),
)
_changes = st.lists(_change, max_size=12)


def read(root: Content) -> Bucket:
    return Database(written(root)).root


def now(draft: Draft) -> Made:
    return held(read(draft))


def change(draft: Draft, model: Made, wanted: Change) -> None:
    what, path, key, value = wanted
    if what == "delete":
        place = draft.bucket(*path)
        below: Made | None = model
        for name in path:
            found = below.held.get(name) if below is not None else None
            below = found if isinstance(found, Made) else None
        assert (place is None) == (below is None)
        if place is not None and below is not None:
            place.delete(key)
            below.held.pop(key, None)
        return
    for name in path:
        inner = model.held.setdefault(name, Made())
        assert isinstance(inner, Made)
        model = inner
    if what == "put":
        draft.made(*path).put(key, value)
        model.held[key] = value
    else:
        model.sequence += 1
        assert draft.made(*path).next_sequence() == model.sequence


@given(_made, _changes)
def test_changes(before: Made, changes: list[Change]) -> None:
    draft, model = Draft(read(before)), copy.deepcopy(before)
    for each in changes:
        change(draft, model, each)
        assert now(draft) == model

    for edits in (draft.edits, net(draft.edits)):
        again = Draft(read(before))
        assert again.redo(edits)
        assert now(again) == model
        back = Draft(read(model))
        assert back.undo(edits)
        assert now(back) == before

    changes_at_last = net(draft.edits)
    assert (changes_at_last == []) == (model == before)
    again, back = Draft(read(model)), Draft(read(before))
    assert again.redo(changes_at_last)
    assert back.undo(changes_at_last)
    assert (now(again), now(back)) == (model, before)


@given(_made, _changes, _changes)
def test_what_has_changed_since_stays(before: Made, changes: list[Change], later: list[Change]) -> None:
    draft, model = Draft(read(before)), copy.deepcopy(before)
    for each in changes:
        change(draft, model, each)
    after, since = Draft(read(model)), copy.deepcopy(model)
    for each in later:
        change(after, since, each)
    edits = net(draft.edits)
    ours = {(edit.path, edit.key): edit for edit in edits}
    back = Draft(read(since))
    whole = back.undo(edits)
    found = _values(now(back))
    for place, value in _values(since).items():
        edit = ours.get(place)
        if edit is None or edit.after != value:
            assert found[place] == value
        else:
            assert found.get(place) == edit.before
    assert found.keys() - _values(since).keys() <= ours.keys()
    if whole:
        expected = Draft(read(before))
        expected.redo(edit for edit in net(after.edits) if (edit.path, edit.key) not in ours)
        assert {key: value for key, value in _values(now(expected)).items() if key in ours} == {
            key: value for key, value in found.items() if key in ours
        }


def _values(root: Made, path: tuple[bytes, ...] = ()) -> dict[tuple[tuple[bytes, ...], bytes], bytes]:
    found: dict[tuple[tuple[bytes, ...], bytes], bytes] = {}
    for key, value in root.held.items():
        if isinstance(value, Made):
            found |= _values(value, (*path, key))
        else:
            found[path, key] = value
    return found


def test_nothing_is_noted_that_changes_nothing() -> None:
    draft = Draft(read(Made({b"p": Made({b"a": b"1"}, 4)})))
    draft.made(b"p").put(b"a", b"1")
    draft.made(b"p").delete(b"b")
    assert draft.bucket(b"q") is None
    assert draft.edits == []


def test_values_are_no_buckets() -> None:
    draft = Draft(read(Made({b"a": b"1", b"p": Made()})))
    with pytest.raises(ValueError, match="b'a' is not a bucket"):
        draft.bucket(b"a")
    with pytest.raises(ValueError, match="b'p' is a bucket"):
        draft.put(b"p", b"")
    assert list(draft.values()) == [(b"a", b"1")]
    assert [key for key, _ in draft.buckets()] == [b"p"]
