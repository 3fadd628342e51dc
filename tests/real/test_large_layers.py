"""Layers of very many files and of very large ones: nothing grows with them but time."""

from __future__ import annotations

import io
import shutil
import sys
import tarfile
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.real.command import Transship
from tests.real.conftest import need
from tests.real.disks import Disk
from tests.real.facts import manifests_of
from tests.real.state import blob, manifest, state
from tests.real.trees import mounted
from tests.stores.docker.builder import StoreBuilder
from transship.formats import digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.real.command import Ended
    from tests.real.conftest import Containerd, Dockerd

pytestmark = pytest.mark.real

FILES = 101_000
LARGE = (8 << 30) + (100 << 20) + 1
"""Bytes: more than the octal digits of a tar header hold."""
MOST_MEMORY = 200_000
"""Kilobytes that a run may take, whatever it moves."""

_MEASURE = """
import resource, subprocess, sys
ended = subprocess.run(sys.argv[2:])
with open(sys.argv[1], "w") as file:
    file.write(str(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))
sys.exit(ended.returncode)
"""


def measured(transship: Transship, verb: str, file: Path) -> tuple[Ended, int]:
    """Run a command to its good end; return that, and its largest process' memory in kilobytes."""
    ended = replace(transship, wrapper=(sys.executable, "-c", _MEASURE, file))(verb).expect()
    return ended, int(file.read_text())


def tar_of_many_files(file: Path) -> None:
    busybox = shutil.which("busybox")
    assert busybox is not None
    with tarfile.open(file, "w", format=tarfile.GNU_FORMAT) as archive:
        archive.add(busybox, "bin/busybox")
        for number in range(FILES):
            member = tarfile.TarInfo(f"files/{number % 100:02}/{number:06}")
            member.mtime = 1_500_000_000 + number
            member.size = number % 40
            archive.addfile(member, io.BytesIO(b"%040d" % number))


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A file system of its own: a quarter of a million files are removed with it at once."""
    need(request, "mkfs.ext4", "mount")
    with Disk(tmp_path, "ext4", 6 << 30) as disk:
        yield disk.path


def test_many_files(
    make_dockerd: Callable[..., Dockerd], start_containerd: Callable[..., Containerd], place: Path, tmp_path: Path
) -> None:
    dockerd = make_dockerd("overlay2", place / "docker")
    with ending(start_containerd(place / "containerd")) as containerd:
        check_many_files(dockerd, containerd, tmp_path)


@contextmanager
def ending(containerd: Containerd) -> Iterator[Containerd]:
    try:
        yield containerd
    finally:
        containerd.stop()


def check_many_files(dockerd: Dockerd, containerd: Containerd, tmp_path: Path) -> None:
    tar_of_many_files(tmp_path / "many.tar")
    with dockerd.running():
        image_id = dockerd.docker("import", tmp_path / "many.tar", "many:1")
    transship = Transship(tmp_path / "state", ("--source", dockerd.root, "--target", f"containerd:{containerd.socket}"))
    _, memory = measured(transship, "migrate", tmp_path / "memory")
    assert memory < MOST_MEMORY
    [(_, chain_id)] = state(containerd).snapshots
    with mounted(containerd, "moby", "overlayfs", chain_id) as root:
        assert {f"{number:02}" for number in range(100)} == {path.name for path in (root / "files").iterdir()}
        found = 0
        for directory in sorted((root / "files").iterdir()):
            for path in directory.iterdir():
                number, status = int(path.name), path.stat()
                assert (status.st_size, status.st_mtime_ns, status.st_nlink) == (
                    number % 40,
                    (1_500_000_000 + number) * 1_000_000_000,
                    1,
                )
                found += 1
        assert found == FILES
    run = ["run", "--rm", "docker.io/library/many:1", "many", "/bin/busybox", "cat", "/files/39/100039"]
    assert containerd.ctr(*run).encode() == (b"%040d" % 100039)[: 100039 % 40]
    ended, memory = measured(transship, "verify", tmp_path / "memory")
    assert ended.last["differences"] == []
    assert memory < MOST_MEMORY
    assert blob(containerd, image_id)


def test_file_larger_than_a_header_says(
    request: pytest.FixtureRequest, start_containerd: Callable[..., Containerd], tmp_path: Path
) -> None:
    need(request, "mount")
    containerd = start_containerd()
    store = StoreBuilder(tmp_path / "docker")
    chain_id = store.add_large_layer(LARGE)
    image_id = store.add_image(chain_id, "large:1")
    transship = Transship(tmp_path / "state", ("--source", store.root, "--target", f"containerd:{containerd.socket}"))
    ended, memory = measured(transship, "migrate", tmp_path / "memory")
    assert memory < MOST_MEMORY
    found = manifest(containerd, manifests_of(ended)[image_id])
    [layer] = found["layers"]
    assert digest.of(blob(containerd, layer["digest"])) == layer["digest"]
    assert layer["size"] < LARGE // 1000
    with mounted(containerd, "moby", "overlayfs", chain_id) as place:
        status = (place / "large").stat()
        assert status.st_size == LARGE
        assert status.st_blocks * 512 < 1 << 20  # a hole still
        assert [path.name for path in place.iterdir()] == ["large"]
