"""Databases of a real containerd, written anew: bbolt goes on with them as with its own."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.formats.bolt.databases import Made, held, written
from tests.real.state import collect_garbage, state, unpacked
from transship.errors import SourceBusy
from transship.formats.bolt.check import check
from transship.stores import bolt_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.real.conftest import Containerd

pytestmark = pytest.mark.real

_DATABASES = ("io.containerd.metadata.v1.bolt/meta.db", "io.containerd.snapshotter.v1.overlayfs/metadata.db")
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_LAYERS = 12


def image(directory: Path, name: str) -> str:
    """Make an archive with an image of many layers."""
    path = directory / f"{name}.tar"
    with tarfile.open(path, "w") as archive:

        def add(name: str, data: bytes) -> None:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))

        def blob(kind: str, data: bytes) -> dict[str, Any]:
            digest = hashlib.sha256(data).hexdigest()
            add(f"blobs/sha256/{digest}", data)
            return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(data)}

        layers = [blob("application/vnd.oci.image.layer.v1.tar", layer(f"{name}-{number}")) for number in range(_LAYERS)]
        root = {"type": "layers", "diff_ids": [each["digest"] for each in layers]}
        config = blob(
            "application/vnd.oci.image.config.v1+json",
            json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}).encode(),
        )
        document = {"schemaVersion": 2, "mediaType": _MANIFEST, "config": config, "layers": layers}
        manifest = blob(_MANIFEST, json.dumps(document).encode())
        manifest["annotations"] = {"io.containerd.image.name": f"docker.io/library/{name}:1"}
        add("index.json", json.dumps({"schemaVersion": 2, "manifests": [manifest]}).encode())
        add("oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return str(path)


def layer(name: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size = len(name)
        archive.addfile(member, io.BytesIO(name.encode()))
    return file.getvalue()


def rewrite(path: Path) -> None:
    with bolt_file.held(path) as file:
        file.commit(file.database.root)


def fill(daemon: Containerd, directory: Path, *names: str) -> None:
    """Add images, unpacked, and as many leases as make a bucket of several pages."""
    for name in names:
        daemon.ctr("images", "import", "--snapshotter", "overlayfs", image(directory, name))
        for number in range(25):
            daemon.ctr("leases", "create", "--id", f"{name}-{number:02}-{'x' * 60}")


def empty(daemon: Containerd, *names: str) -> None:
    """Remove images, all that hangs on them, and their leases."""
    for name in names:
        for number in range(25):
            daemon.ctr("leases", "delete", f"{name}-{number:02}-{'x' * 60}")
        daemon.ctr("images", "rm", "--sync", f"docker.io/library/{name}:1")
    collect_garbage(daemon)


def contents(daemon: Containerd) -> list[Made]:
    """Return what is in the databases of a containerd that does not run, after finding nothing wrong with them."""
    found = []
    for name in _DATABASES:
        with bolt_file.opened(daemon.root / name) as database:
            assert [str(problem) for problem in check(database)] == []
            found.append(held(database.root))
    return found


def whole(daemon: Containerd) -> dict[str, tuple[str, bool]]:
    return unpacked(daemon, "moby", "overlayfs")


@pytest.mark.parametrize("page_size", [1024, 4096, 65536])
def test_containerd_goes_on(page_size: int, start_containerd: Callable[..., Containerd], tmp_path: Path) -> None:
    daemon = start_containerd()
    fill(daemon, tmp_path, "a", "b")
    with pytest.raises(SourceBusy):
        rewrite(daemon.root / _DATABASES[0])
    known = state(daemon)
    assert (len(known.images), len(known.snapshots), len(known.leases)) == (2, 2 * _LAYERS, 50)
    daemon.stop()
    before = contents(daemon)
    for name, root in zip(_DATABASES, before, strict=True):
        (daemon.root / name).write_bytes(written(root, page_size))

    for kept, added in (("b", "c"), ("c", "d"), ("d", "e")):
        daemon.start()
        assert state(daemon) == known
        gone = next(name for name in "abcd" if f"docker.io/library/{name}:1" in known.images and name != kept)
        fill(daemon, tmp_path, added)
        assert all(found == (f"complete ({_LAYERS + 1}/{_LAYERS + 1})", True) for found in whole(daemon).values())
        empty(daemon, gone)
        known = state(daemon)
        assert set(known.images) == {f"docker.io/library/{name}:1" for name in (kept, added)}
        assert (len(known.snapshots), len(known.leases)) == (2 * _LAYERS, 50)
        daemon.stop()
        after = contents(daemon)
        for name in _DATABASES:
            rewrite(daemon.root / name)
        assert contents(daemon) == after

    daemon.start()
    assert state(daemon) == known
    empty(daemon, "d", "e")
    assert not any(state(daemon).counts.values())
    daemon.stop()
    contents(daemon)
