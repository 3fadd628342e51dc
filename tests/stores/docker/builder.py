"""Small synthetic stores, valid until a test damages them."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transship.formats import digest, tar_split
from transship.formats.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

FULL_TREES = ("vfs", "overlay", "btrfs")
TWO_LEVELS = ("overlay2", "overlay")
DRIVERS = ("overlay2", "aufs", "vfs", "overlay", "btrfs")
AUFS_FILE = ".wh..wh.aufs"
"""At the root of a diff: what its whiteouts are hard links of."""


class StoreBuilder:
    """A data root under construction. Everything is on disk as soon as a method returns."""

    def __init__(self, root: Path, driver: str = "overlay2") -> None:
        self.root = root
        self.driver = driver
        self.image_root = root / "image" / driver
        self.layer_db = self.image_root / "layerdb" / "sha256"
        self.configs = self.image_root / "imagedb" / "content" / "sha256"
        self.repositories = self.image_root / "repositories.json"
        for directory in (self.layer_db, self.configs, self.image_root / "imagedb" / "metadata" / "sha256"):
            directory.mkdir(parents=True)
        self._names: dict[str, dict[str, str]] = {}
        self._write_names()

    def add_layer(self, files: Mapping[str, bytes | None], parent: Digest | None = None) -> Digest:
        """Add a layer and return its chain ID. ``files``: name to content, None for a directory; ``.wh.x`` deletes ``x``."""
        tar = make_tar(files)
        return self.add_layer_of(tar, files, parent)

    def add_layer_of(self, tar: bytes, files: Mapping[str, bytes | None], parent: Digest | None = None) -> Digest:
        """Add a layer whose stream is ``tar`` and whose directory has ``files``, and return its chain ID."""
        size = sum(len(content or b"") for content in files.values())
        chain_id = self.enter_layer(digest.of(tar), split(tar), parent, size)
        directory = self.files(chain_id)
        directory.parent.mkdir(parents=True, exist_ok=True)
        self.start_layer(directory, parent if parent is None else self.files(parent))
        for name, content in files.items():
            self._put(directory / name, content, directory)
        return chain_id

    def start_layer(self, directory: Path, below: Path | None) -> None:
        """Make the directory of a layer on the one at ``below``, as it is before its own files come."""
        if self.driver in FULL_TREES and below is not None:
            copy = os.link if self.driver == "overlay" else shutil.copy2
            shutil.copytree(below, directory, symlinks=True, copy_function=copy)
        else:
            directory.mkdir()
        if self.driver == "aufs":
            self._keep_books(directory, below)

    def enter_layer(
        self, diff_id: Digest, entries: Iterable[tar_split.Entry], parent: Digest | None = None, size: int = 0
    ) -> Digest:
        """Enter a layer with the tar-split data ``entries``, but no directory with files, and return its chain ID."""
        chain_id = digest.chain(parent, diff_id)
        cache_id = digest.hex_part(digest.of(f"cache {chain_id}".encode()))
        entry = self.layer_db / digest.hex_part(chain_id)
        entry.mkdir()
        (entry / "diff").write_text(diff_id)
        (entry / "cache-id").write_text(cache_id)
        (entry / "size").write_text(str(size))
        if parent is not None:
            (entry / "parent").write_text(parent)
        with (entry / "tar-split.json.gz").open("wb") as file:
            tar_split.write(file, entries)
        return chain_id

    def add_large_layer(self, size: int) -> Digest:
        """Add a layer that is one file of ``size`` zeros (a hole, on disk), in no memory, and return its chain ID."""
        member = tarfile.TarInfo("large")
        member.size = size
        header, end = member.tobuf(), bytes(-size % 512 + 1024)
        stream = hashlib.sha256(header)
        for position in range(0, size, 1 << 20):
            stream.update(bytes(min(1 << 20, size - position)))
        stream.update(end)
        entries = [
            tar_split.Entry(tar_split.SEGMENT, 0, payload=header),
            tar_split.Entry(tar_split.FILE, 1, name="large", size=size, payload=bytes(8)),
            tar_split.Entry(tar_split.SEGMENT, 2, payload=end),
        ]
        chain_id = self.enter_layer(Digest(f"sha256:{stream.hexdigest()}"), entries, size=size)
        self.files(chain_id).mkdir(parents=True)
        (self.files(chain_id) / "large").touch()
        os.truncate(self.files(chain_id) / "large", size)
        return chain_id

    def add_image(
        self, top: Digest | None, *names: str, parent: Digest | None = None, config: Mapping[str, Any] | None = None
    ) -> Digest:
        """Add an image of the layer ``top`` and those below, with ``config`` on top of a usual one, and return its ID."""
        document = {
            "architecture": "amd64",
            "os": "linux",
            "created": "2024-05-01T12:00:00.123456789Z",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids(top)},
            **(config or {}),
        }
        return self.add_raw_image(json.dumps(document).encode(), *names, parent=parent)

    def add_raw_image(self, raw: bytes, *names: str, parent: Digest | None = None) -> Digest:
        """Add an image whose config is ``raw``, whatever that is, and return its ID."""
        image_id = digest.of(raw)
        self.config_path(image_id).write_bytes(raw)
        if parent is not None:
            self.note(image_id, "parent", parent)
        for name in names:
            self.name(name, image_id)
        return image_id

    def name(self, name: str, image_id: str) -> None:
        """Write a name, ``x:tag`` or ``x@sha256:…``, to repositories.json as it is."""
        repository = name.partition("@")[0] if "@" in name else name.rpartition(":")[0]
        self._names.setdefault(repository, {})[name] = image_id
        self._write_names()

    def note(self, image_id: Digest, key: str, value: str) -> Path:
        """Write ``parent``, ``lastUpdated`` or ``builtLocally`` beside an image, and return the file's path."""
        directory = self.image_root / "imagedb" / "metadata" / "sha256" / digest.hex_part(image_id)
        directory.mkdir(exist_ok=True)
        (directory / key).write_text(value)
        return directory / key

    def config_path(self, image_id: Digest) -> Path:
        return self.configs / digest.hex_part(image_id)

    def entry(self, chain_id: Digest) -> Path:
        """The layer's directory in the layerdb."""
        return self.layer_db / digest.hex_part(chain_id)

    def files(self, chain_id: Digest) -> Path:
        """The driver's directory with the layer's files."""
        return self.driver_directory((self.entry(chain_id) / "cache-id").read_text())

    def driver_directory(self, cache_id: str) -> Path:
        place = self.outermost(cache_id)
        return place / {"overlay": "root"}.get(self.driver, "diff") if self.driver in TWO_LEVELS else place

    def outermost(self, cache_id: str) -> Path:
        """The directory that is named for the layer."""
        above = {"vfs": "vfs/dir", "btrfs": "btrfs/subvolumes", "aufs": "aufs/diff"}.get(self.driver, self.driver)
        return self.root / above / cache_id

    def diff_ids(self, top: Digest | None) -> list[str]:
        """The diff IDs of a layer and those below, base first."""
        found: list[str] = []
        while top is not None:
            found.insert(0, (self.entry(top) / "diff").read_text())
            parent = self.entry(top) / "parent"
            top = Digest(parent.read_text()) if parent.exists() else None
        return found

    def _keep_books(self, directory: Path, below: Path | None) -> None:
        """Write what aufs and its driver write beside a layer's own files."""
        (directory / AUFS_FILE).touch(0o444)
        for name in (".wh..wh.plnk", ".wh..wh.orph"):
            (directory / name).mkdir(0o700)
            (directory / name / "1.2").write_bytes(b"aufs' own")
        books = self.root / "aufs" / "layers"
        books.mkdir(exist_ok=True)
        ancestors = "" if below is None else f"{below.name}\n{(books / below.name).read_text()}"
        (books / directory.name).write_text(ancestors)

    def _put(self, path: Path, content: bytes | None, top: Path) -> None:
        if path.name.startswith(".wh."):
            self._mark(path, top)
        elif content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)  # it may be a link to the file of the layer below
            path.write_bytes(content)

    def _mark(self, path: Path, top: Path) -> None:
        """Do as the driver does with a whiteout, or with the mark of a directory that hides what is below it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        deleted = path.with_name(path.name.removeprefix(".wh."))
        if self.driver == "aufs":
            path.hardlink_to(top / AUFS_FILE)
        elif path.name == ".wh..wh..opq":
            if self.driver in FULL_TREES:
                for child in path.parent.iterdir():
                    _remove(child)
            else:
                os.setxattr(path.parent, "trusted.overlay.opaque", b"y")
        elif self.driver in FULL_TREES:
            _remove(deleted)
        else:
            os.mknod(deleted, stat.S_IFCHR | 0o600, os.makedev(0, 0))

    def _write_names(self) -> None:
        self.repositories.write_text(json.dumps({"Repositories": self._names}))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def make_tar(files: Mapping[str, bytes | None]) -> bytes:
    """Return a tar stream of ``files``: name to content, None for a directory."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            if content is None:
                member.type, member.mode = tarfile.DIRTYPE, 0o755
            member.size = len(content or b"")
            tar.addfile(member, io.BytesIO(content or b""))
    return buffer.getvalue()


def split(tar: bytes) -> Iterator[tar_split.Entry]:
    """Yield the tar-split entries of a stream, up to its last byte, whatever follows the archive's end."""
    position, end = 0, 0
    with tarfile.open(fileobj=io.BytesIO(tar)) as archive:
        for member in archive:
            yield tar_split.Entry(tar_split.SEGMENT, position, payload=tar[end : member.offset_data])
            size = member.size if member.isreg() else 0
            end = member.offset_data + size
            name = os.fsencode(member.name + "/" if member.isdir() else member.name)
            text = name.decode("utf-8", "ignore")
            yield tar_split.Entry(
                tar_split.FILE,
                position + 1,
                name=text if text.encode() == name else None,
                name_raw=None if text.encode() == name else name,
                size=size,
                payload=_crc(tar[member.offset_data : end]) if size else None,
            )
            position += 2
    yield tar_split.Entry(tar_split.SEGMENT, position, payload=tar[end:])


def _crc(content: bytes) -> bytes:
    checksum = tar_split.ContentSum()
    checksum.update(content)
    return checksum.digest()


def open_files() -> int:
    """How many descriptors this process has open, not counting those that only an error's traceback holds."""
    gc.collect()
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
