"""What a killed run has stored in a layout is known to be its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.stores.suites import store_blob, stored
from transship.formats import digest as digests
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from pathlib import Path


def held(path: Path, run: str) -> LayoutTarget:
    target = LayoutTarget(path)
    target.open()
    target.hold(run)
    return target


def store_anew(target: LayoutTarget, data: bytes) -> bool:
    """Store a blob; return whether it counts as stored by the run."""
    with target.content.writer("ref") as writer:
        writer.write(data)
        return writer.commit(digests.of(data), len(data), {})


def test_blob_of_an_earlier_attempt_is_the_runs_own(tmp_path: Path) -> None:
    store_blob(held(tmp_path, "run").content, b"data")
    assert store_anew(held(tmp_path, "run"), b"data")
    assert not store_anew(held(tmp_path, "other"), b"data")


def test_what_was_there_before_is_not(tmp_path: Path) -> None:
    store_blob(LayoutTarget(tmp_path).content, b"data")
    target = held(tmp_path, "run")
    assert not store_anew(target, b"data")
    target.release("run")
    assert stored(target.content) == {digests.of(b"data")}


def test_release_removes_what_nothing_leads_to(tmp_path: Path) -> None:
    first = held(tmp_path, "run")
    kept = store_blob(first.content, b"kept")
    first.images.put(ImageRecord("x:1", ImageDescriptor("text/plain", kept, 4)))
    store_blob(first.content, b"killed before it was named")
    second = held(tmp_path, "run")
    second.release("run")
    assert stored(second.content) == {kept}
    assert {path.name for path in tmp_path.iterdir()} == {"blobs", "index.json", "oci-layout"}


def test_line_that_a_power_cut_shortened(tmp_path: Path) -> None:
    store_blob(held(tmp_path, "run").content, b"data")
    [claims] = tmp_path.glob(".stored-by-*")
    claims.write_bytes(claims.read_bytes() + b"sha256:0123")
    second = held(tmp_path, "run")
    store_blob(second.content, b"more")
    second.release("run")
    assert stored(second.content) == set()
