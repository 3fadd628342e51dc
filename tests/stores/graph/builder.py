"""Small synthetic v1 stores, valid until a test damages them."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from tests.stores.docker.builder import split
from transship.formats import tar_split

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DRIVERS = ("aufs", "overlay", "vfs")
AUFS_FILE = ".wh..wh.aufs"
"""At the root of a diff: what its whiteouts are hard links of."""
_FIRST_TIME = 1_400_000_000

Files = dict[str, bytes | None]
"""Name to content, None for a directory; ``.wh.x`` deletes ``x``, ``.wh..wh..opq`` hides what is below its directory."""


class GraphBuilder:
    """A data root under construction. Everything is on disk as soon as a method returns.

    A layer's files all have its own time, so that a differ sees what it changes, and makes the same of it whenever it is made.
    """

    def __init__(self, root: Path, driver: str | None = "vfs") -> None:
        """``driver`` None: the layout of Docker 0.6, which had aufs only and each layer in ``graph/<ID>/layer``."""
        self.root = root
        self.driver = driver
        self.graph = root / "graph"
        self.containers = root / "containers"
        self.names_file = root / ("repositories" if driver is None else f"repositories-{driver}")
        self._names: dict[str, dict[str, str]] = {}
        self._tars: dict[str, bytes] = {}
        for directory in (self.graph / "_tmp", self.containers):
            directory.mkdir(parents=True, mode=0o700)
        self.graph.chmod(0o700)
        for place in {None: [], "aufs": ["aufs/diff", "aufs/layers", "aufs/mnt"], "overlay": ["overlay"]}.get(
            driver, ["vfs/dir"]
        ):
            (root / place).mkdir(parents=True)
        self._write_names()

    def image(
        self,
        files: Files | None = None,
        parent: str | None = None,
        names: Sequence[str] = (),
        *,
        image_id: str | None = None,
        raw: bytes | None = None,
        tar_data: bool = True,
        extra: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> str:
        """Add an image and return its ID. ``fields`` are those of its ``json``, on top of usual ones; or ``raw`` is all of it.

        ``names`` are ``name:tag`` or ``name@digest``. ``extra`` are further files beside ``json``, like ``checksum``.
        """
        files = files or {}
        time = _FIRST_TIME + len(self._tars)
        identity = image_id or hashlib.sha256(f"image {len(self._tars)}".encode()).hexdigest()
        directory = self.directory(identity)
        directory.mkdir(mode=0o755 if self.driver is None else 0o700)
        self._write(directory / "json", raw if raw is not None else usual_json(identity, parent, fields))
        self._write(directory / "layersize", str(sum(len(content or b"") for content in files.values())).encode())
        for name, text in (extra or {}).items():
            self._write(directory / name, text.encode())
        self._tars[identity] = make_tar(files, time)
        if tar_data and self.driver is not None:
            with (directory / "tar-data.json.gz").open("wb") as file:
                tar_split.write(file, split(self._tars[identity]))
            (directory / "tar-data.json.gz").chmod(0o600)
        self._start_layer(identity, parent)
        _fill(self.layer(identity), files, time, marks=self.driver in {None, "aufs"})
        for name in names:
            self.name(name, identity)
        return identity

    def container(
        self,
        image_id: str,
        files: Files | None = None,
        *,
        name: str = "",
        config: Mapping[str, Any] | None = None,
        started: bool = True,
    ) -> str:
        """Add a container and return its ID. ``config`` is laid over a usual config.json; a None in it leaves the key out.

        One that was never ``started`` had no directories before Docker 0.7.
        """
        container_id = hashlib.sha256(f"container {len(list(self.containers.iterdir()))}".encode()).hexdigest()
        directory = self.containers / container_id
        directory.mkdir(mode=0o700)
        document = usual_container(container_id, image_id, name, self.driver) | dict(config or {})
        document = {key: value for key, value in document.items() if value is not None}
        (directory / "config.json").write_bytes(_compact(document))
        (directory / "hostconfig.json").write_bytes(_compact({"Binds": None, "NetworkMode": "default"}))
        self._container_layers(container_id, image_id, files or {}, started=started)
        return container_id

    def name(self, name: str, image_id: str) -> None:
        """Write a name, ``x:tag`` or ``x@digest``, to the file of names as it is."""
        repository, _, key = name.partition("@") if "@" in name else name.rpartition(":")
        self._names.setdefault(repository, {})[key] = image_id
        self._write_names()

    def directory(self, image_id: str) -> Path:
        """Where ``json`` is."""
        return self.graph / image_id

    def layer(self, layer_id: str) -> Path:
        """Where the files of an image's layer are, or of a container's (before Docker 0.7: not a container's)."""
        match self.driver:
            case None:
                return self.graph / layer_id / "layer"
            case "aufs":
                return self.root / "aufs/diff" / layer_id
            case "overlay":
                place = self.root / "overlay" / layer_id
                return place / ("upper" if (place / "upper").exists() else "root")
        return self.root / "vfs/dir" / layer_id

    def tar(self, image_id: str) -> bytes:
        """The stream that the layer of an image came as."""
        return self._tars[image_id]

    def _start_layer(self, layer_id: str, parent: str | None) -> None:
        """Make the layer's directory on that of ``parent``, as it is before its own files come."""
        place = self.layer(layer_id)
        if self.driver == "aufs":
            (self.root / "aufs/mnt" / layer_id).mkdir()
            books = self.root / "aufs/layers"
            above = "" if parent is None else f"{parent}\n{(books / parent).read_text()}"
            (books / layer_id).write_text(above)
        if self.driver in {"overlay", "vfs"} and parent is not None:
            copy = os.link if self.driver == "overlay" else shutil.copy2
            shutil.copytree(self.layer(parent), place, symlinks=True, copy_function=copy)
        else:
            place.mkdir(parents=True)
        if self.driver == "overlay":
            place.parent.chmod(0o700)

    def _container_layers(self, container_id: str, image_id: str, files: Files, *, started: bool) -> None:
        init: Files = {".dockerinit": b"", "dev": None, "etc": None, "etc/hosts": b""}
        if self.driver is None:
            if started:
                for name in ("rw", "rootfs"):
                    (self.containers / container_id / name).mkdir()
                _fill(self.containers / container_id / "rw", files, _FIRST_TIME - 1, marks=True)
            return
        for layer_id, parent, added in (
            (f"{container_id}-init", image_id, init),
            (container_id, f"{container_id}-init", files),
        ):
            if self.driver == "overlay":
                self._start_upper(layer_id, image_id)
            else:
                self._start_layer(layer_id, parent)
            shown = init | added if self.driver == "overlay" else added
            _fill(self.layer(layer_id), shown, _FIRST_TIME - 1, marks=self.driver == "aufs")

    def _start_upper(self, layer_id: str, image_id: str) -> None:
        """Make what overlay keeps for a container: its writable layer on the image's, whatever lies between."""
        place = self.root / "overlay" / layer_id
        place.mkdir(mode=0o700)
        for name, mode in (("upper", 0o755), ("work", 0o700), ("merged", 0o700)):
            (place / name).mkdir(mode=mode)
        (place / "lower-id").write_text(image_id)

    def _write(self, path: Path, data: bytes) -> None:
        path.write_bytes(data)
        path.chmod(0o600)

    def _write_names(self) -> None:
        self._write(self.names_file, _compact({"Repositories": self._names}))


def usual_json(image_id: str, parent: str | None, fields: Mapping[str, Any]) -> bytes:
    """Return the ``json`` of an image as Docker 1.9 built it, ``fields`` in the place of usual ones; None leaves one out."""
    document: dict[str, Any] = {
        "id": image_id,
        "parent": parent,
        "created": "2015-11-20T12:00:00.123456789Z",
        "container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) ADD file"]},
        "docker_version": "1.9.1",
        "config": {"Cmd": ["sh"]},
        "architecture": "amd64",
        "os": "linux",
        **fields,
    }
    return _compact({key: value for key, value in document.items() if value is not None})


def usual_container(container_id: str, image_id: str, name: str, driver: str | None) -> dict[str, Any]:
    """Return a config.json as Docker wrote it; before Docker 0.7 no driver was in it."""
    return {
        "ID": container_id,
        "Created": "2015-11-20T12:00:01.5Z",
        "Path": "sh",
        "Args": [],
        "Config": {"Hostname": container_id[:12], "Cmd": ["sh"], "Image": image_id[:12]},
        "Image": image_id,
        "Name": f"/{name or container_id[:8]}",
        "Driver": driver,
    }


def make_tar(files: Files, time: int) -> bytes:
    """Return an archive of ``files``, all with the modification time ``time`` in seconds."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.mtime = time
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


def _fill(top: Path, files: Files, time: int, *, marks: bool) -> None:
    """Put ``files`` into a layer as its driver does: with ``marks`` as they are, or deleting what they mark."""
    for name, content in files.items():
        path = top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if PurePosixPath(name).name.startswith(".wh."):
            _mark(path, top, marks=marks)
        elif content is None:
            path.mkdir(exist_ok=True)
        else:
            path.unlink(missing_ok=True)  # it may be a link to the file of the layer below
            path.write_bytes(content)
            path.chmod(0o644)
    for path in top.rglob("*"):
        if str(path.relative_to(top)) in files and not path.is_symlink():
            os.utime(path, (time, time))


def _mark(path: Path, top: Path, *, marks: bool) -> None:
    if marks:
        if not (top / AUFS_FILE).exists():
            (top / AUFS_FILE).touch(0o444)
        path.hardlink_to(top / AUFS_FILE)
        return
    deleted = path.parent.iterdir() if path.name == ".wh..wh..opq" else [path.with_name(path.name.removeprefix(".wh."))]
    for each in list(deleted):
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each)
        else:
            each.unlink()


def _compact(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()
