"""containerd's root as a store like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.stores.suites import ContentStoreSuite, ImageStoreSuite, SnapshotterSuite
from transship.formats import digest as digests
from transship.stores.containerd_root.target import ContainerdRootTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.stores.interfaces import ContentStore, ImageStore, Snapshotter

CONTENT = "io.containerd.content.v1.content"


class TestContent(ContentStoreSuite):
    @pytest.fixture(autouse=True)
    def _place(self, directory: Path) -> None:
        self.directory = directory

    @pytest.fixture
    def store(self, held: ContainerdRootTarget) -> ContentStore:
        return held.content

    def abandon(self, store: ContentStore, ref: str, data: bytes) -> None:
        with store.writer(ref) as writer:
            writer.write(data)
            [ingest] = (self.directory / CONTENT / "ingest").iterdir()
            copies = {path.name: path.read_bytes() for path in ingest.iterdir()}
        ingest.mkdir()
        for name, content in copies.items():
            (ingest / name).write_bytes(content)

    def blob_path(self, store: ContentStore, digest: Digest) -> Path:  # noqa: ARG002
        return self.directory / CONTENT / "blobs" / "sha256" / digests.hex_part(digest)

    def ingests(self, store: ContentStore) -> int:  # noqa: ARG002
        return len(list((self.directory / CONTENT / "ingest").iterdir()))


class _Snapshots(SnapshotterSuite):
    snapshotter = ""

    @pytest.fixture
    def store(self, directory: Path) -> Iterator[Snapshotter]:
        target = ContainerdRootTarget(directory, "moby", self.snapshotter)
        target.open()
        target.hold("test")
        assert target.snapshots is not None
        yield target.snapshots
        target.release("test")
        target.close()


class TestOverlayfs(_Snapshots):
    snapshotter = "overlayfs"


class TestNative(_Snapshots):
    snapshotter = "native"


class TestImages(ImageStoreSuite):
    @pytest.fixture
    def store(self, target: ContainerdRootTarget) -> ImageStore:
        return target.images
