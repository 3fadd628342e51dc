"""An OCI image layout on disks that fill up or cannot be written to, and written by processes that are killed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import need
from tests.stores.suites import some_bytes, store_blob, stored
from transship.errors import TargetFull, TargetUnavailable
from transship.formats import digest as digests
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.real


@pytest.fixture
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of 4 MiB and 12 inodes."""
    need(request, "mount")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,nr_inodes=12", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_full_disk(disk: Path) -> None:
    target = LayoutTarget(disk / "layout")
    small = store_blob(target.content, b"small")
    with pytest.raises(TargetFull, match="layout: ref: No space left"):
        store_blob(target.content, some_bytes(6 << 20))
    assert stored(target.content) == {small}
    assert {path.name for path in (disk / "layout").iterdir()} == {"blobs", "index.json", "oci-layout"}
    fitting = store_blob(target.content, some_bytes(2 << 20))
    assert stored(target.content) == {small, fitting}


def test_disk_without_inodes_for_a_layout(disk: Path) -> None:
    for number in range(8):
        (disk / f"file-{number}").touch()
    target = LayoutTarget(disk / "layout")
    with pytest.raises(TargetFull):
        store_blob(target.content, b"data")
    for number in range(8):
        (disk / f"file-{number}").unlink()
    target.open()
    store_blob(target.content, b"data")


def test_disk_full_while_a_name_is_written(disk: Path) -> None:
    target = LayoutTarget(disk / "layout")
    target.images.put(record(target, 1))
    before = (disk / "layout" / "index.json").read_bytes()
    for number in range(12):
        try:
            (disk / f"file-{number}").touch()
        except OSError:
            break
    with pytest.raises(TargetFull):
        target.images.put(ImageRecord("x:2", target.images.get("x:1").target))
    assert (disk / "layout" / "index.json").read_bytes() == before
    (disk / "file-0").unlink()
    target.images.put(ImageRecord("x:2", target.images.get("x:1").target))
    assert [found.name for found in target.images.list()] == ["x:1", "x:2"]


def test_new_layout_needs_a_place_to_write(disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    target = LayoutTarget(disk / "new")
    for call in (target.open, lambda: target.hold("run")):
        with pytest.raises(TargetUnavailable, match=f"{disk} cannot be written to"):
            call()


def test_read_only_layout_can_be_read(disk: Path) -> None:
    target = LayoutTarget(disk / "layout")
    digest = store_blob(target.content, b"data")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    target = LayoutTarget(disk / "layout")
    target.open()
    assert stored(target.content) == {digest}
    with pytest.raises(TargetUnavailable, match=f"{disk}/layout cannot be written to"):
        target.hold("run")
    for call in (lambda: store_blob(target.content, b"new"), lambda: target.collect(frozenset({digest}), frozenset())):
        with pytest.raises(TargetUnavailable, match="Read-only file system"):
            call()


_RUN = """
import sys
from pathlib import Path
from transship.formats import digest
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget
target = LayoutTarget(Path(sys.argv[1]))
target.open()
target.hold("run")
for data in (b"one", b"two"):
    with target.content.writer("ref") as writer:
        writer.write(data)
        writer.commit(digest.of(data), len(data), {})
    target.images.put(ImageRecord(f"x:{data.decode()}", ImageDescriptor("x", digest.of(data), len(data))))
target.images.delete("x:one")
target.collect(frozenset({digest.of(b"one")}), frozenset())
target.release("run")
"""


@pytest.mark.parametrize("call", ["fsync", "rename", "unlink", "fchmod", "flock", "mkdir"])
def test_killed_at_each_call(request: pytest.FixtureRequest, tmp_path: Path, call: str) -> None:
    """A run killed at any moment leaves a layout that is whole, or one whose making goes on; the next run ends as usual."""
    need(request, "strace")
    directory = tmp_path / "layout"
    run = [sys.executable, "-c", _RUN, str(directory)]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    for number in range(1, 100):
        inject = ["strace", "-f", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}"]
        killed = subprocess.run([*inject, *run], check=False, env=environment)
        target = LayoutTarget(directory)
        target.open()
        assert stored(target.content) <= {digests.of(b"one"), digests.of(b"two")}
        for info in target.content.list():
            assert len(b"".join(target.content.read(info.digest))) == 3
        assert {found.target.digest for found in target.images.list()} <= stored(target.content)
        if killed.returncode == 0:
            assert number > 1
            break
        subprocess.run(run, check=True, env=environment)
        assert stored(target.content) == {digests.of(b"two")}
        assert [found.name for found in target.images.list()] == ["x:two"]
        assert {path.name for path in directory.iterdir()} == {"blobs", "index.json", "oci-layout"}
        shutil.rmtree(directory)
    else:
        pytest.fail("the run never got through")


def record(target: LayoutTarget, number: int) -> ImageRecord:
    manifest = json.dumps({"number": number}).encode()
    digest = store_blob(target.content, manifest)
    return ImageRecord(f"x:{number}", ImageDescriptor("application/vnd.oci.image.manifest.v1+json", digest, len(manifest)))
