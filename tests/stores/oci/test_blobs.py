"""Blobs in an OCI image layout."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.stores.suites import ContentStoreSuite, store_blob, stored
from transship.errors import TargetRefused
from transship.formats import digest as digests
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore

_WRITE_FOR_EVER = """
import sys
from pathlib import Path
from transship.stores.oci.target import LayoutTarget
with LayoutTarget(Path(sys.argv[1])).content.writer("ref") as writer:
    while True:
        writer.write(bytes(1 << 16))
        print("written", flush=True)
"""


def ingests_in(directory: Path) -> list[Path]:
    return list(directory.glob(".ingest-*"))


class TestContent(ContentStoreSuite):
    keeps_labels = False

    @pytest.fixture
    def store(self, directory: Path) -> ContentStore:
        self.directory = directory
        return LayoutTarget(directory).content

    def abandon(self, store: ContentStore, ref: str, data: bytes) -> None:
        writer = store.writer(ref).__enter__()
        writer.write(data)
        os.close(writer._descriptor)  # type: ignore[attr-defined]  # the lock ends as it would with the process

    def blob_path(self, store: ContentStore, digest: Digest) -> Path:  # noqa: ARG002
        return self.directory / "blobs" / "sha256" / digests.hex_part(digest)

    def ingests(self, store: ContentStore) -> int:  # noqa: ARG002
        return len(ingests_in(self.directory))


@pytest.fixture
def writing(directory: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process, in the middle of writing a blob to the layout."""
    process = subprocess.Popen([sys.executable, "-c", _WRITE_FOR_EVER, str(directory)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process:
        for _ in range(3):
            assert process.stdout.readline() == "written\n"
        yield process
        process.kill()


def test_kill_in_the_middle_leaves_a_valid_layout(
    directory: Path, target: LayoutTarget, writing: subprocess.Popen[str]
) -> None:
    writing.send_signal(signal.SIGKILL)
    writing.wait()
    assert len(ingests_in(directory)) == 1
    target.open()
    assert stored(target.content) == set()
    assert list((directory / "blobs" / "sha256").iterdir()) == []
    target.hold("run")
    assert {path.name for path in directory.iterdir()} == {"blobs", "index.json", "oci-layout"}


def test_hold_and_writers_leave_a_living_ingest_alone(
    directory: Path, target: LayoutTarget, writing: subprocess.Popen[str]
) -> None:
    target.hold("run")
    store_blob(target.content, b"data")
    target.release("run")
    assert writing.poll() is None
    assert len(ingests_in(directory)) == 1


def test_blob_of_another_size_is_replaced(directory: Path, target: LayoutTarget) -> None:
    digest = store_blob(target.content, b"data")
    path = directory / "blobs" / "sha256" / digests.hex_part(digest)
    path.chmod(0o644)
    path.write_bytes(b"")
    store_blob(target.content, b"data")
    assert b"".join(target.content.read(digest)) == b"data"


def test_what_is_not_a_file_is_refused(directory: Path, target: LayoutTarget) -> None:
    digest = store_blob(target.content, b"data")
    path = directory / "blobs" / "sha256" / digests.hex_part(digest)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(TargetRefused, match=str(path)):
        target.content.info(digest)
    with pytest.raises(TargetRefused, match=str(path)):
        next(target.content.read(digest))


def test_foreign_files_are_not_blobs(directory: Path, target: LayoutTarget) -> None:
    digest = store_blob(target.content, b"data")
    (directory / "blobs" / "sha256" / "README").write_text("x")
    (directory / "blobs" / "sha512").mkdir()
    assert stored(target.content) == {digest}


def test_blobs_cannot_be_changed_by_accident(directory: Path, target: LayoutTarget) -> None:
    digest = store_blob(target.content, b"data")
    assert (directory / "blobs" / "sha256" / digests.hex_part(digest)).stat().st_mode & 0o777 == 0o444
