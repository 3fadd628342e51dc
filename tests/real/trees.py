"""Directory trees as a container sees them, read without transship's help.

The format is that of the facts in tests/data/docker: path → [type, mode, uid, gid, size | link | device, sha256[:32],
modification time in ns, xattrs, "hl:<first name>" for hard links].
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import tarfile
import tempfile
import uuid
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import grpc

from transship.stores.containerd.api import snapshots_pb2 as api

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.real.conftest import Containerd
    from transship.stores.containerd.api.types_pb2 import Mount

Entry = list[Any]
Tree = dict[str, Entry]

_LETTERS = {
    stat.S_IFREG: "f",
    stat.S_IFDIR: "d",
    stat.S_IFLNK: "l",
    stat.S_IFIFO: "p",
    stat.S_IFCHR: "c",
    stat.S_IFBLK: "b",
    stat.S_IFSOCK: "s",
}
KIND, MODE, UID, GID, SIZE, SHA256, MTIME, XATTRS = range(8)


def listing(root: Path) -> Tree:
    """Describe everything below ``root``, and ``root`` itself as ``.``; overlayfs' own xattrs left out."""
    paths = [root]
    for directory, directories, files in os.walk(root):
        paths += [Path(directory, name) for name in directories + files]
    tree: Tree = {}
    links: dict[tuple[int, int], list[str]] = {}
    for path in sorted(paths):
        name = "." if path == root else f"./{path.relative_to(root)}".encode("unicode_escape").decode()
        try:
            status = path.lstat()
        except FileNotFoundError:  # overlayfs tells of a whiteout that hides nothing
            continue
        tree[name] = _entry(path, status)
        if status.st_nlink > 1 and not stat.S_ISDIR(status.st_mode):
            links.setdefault((status.st_dev, status.st_ino), []).append(name)
    for names in links.values():
        for name in names if len(names) > 1 else ():
            tree[name].append(f"hl:{min(names)}")
    return tree


def _entry(path: Path, status: os.stat_result) -> Entry:
    kind = stat.S_IFMT(status.st_mode)
    size: str | int = ""
    digest = ""
    if kind == stat.S_IFREG:
        size = status.st_size
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:32]
    elif kind == stat.S_IFLNK:
        size = str(path.readlink())
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        size = f"{os.major(status.st_rdev)},{os.minor(status.st_rdev)}"
    xattrs = {
        name: os.getxattr(path, name, follow_symlinks=False).hex()
        for name in sorted(os.listxattr(path, follow_symlinks=False))
        if not name.startswith("trusted.overlay.")
    }
    mode = oct(stat.S_IMODE(status.st_mode))
    return [_LETTERS[kind], mode, status.st_uid, status.st_gid, size, digest, status.st_mtime_ns, xattrs]


@contextmanager
def mounted(containerd: Containerd, namespace: str, snapshotter: str, name: str) -> Iterator[Path]:
    """Mount a committed snapshot, read-only, as containerd would for a container."""
    with _view(containerd, namespace, snapshotter, name) as mount, tempfile.TemporaryDirectory() as place:
        options = ",".join(["ro", *(option for option in mount.options if option != "rbind")])
        # A hundred full paths do not fit into mount(2)'s page of options; containerd shortens them so, too.
        directory = containerd.root / f"io.containerd.snapshotter.v1.{snapshotter}" / "snapshots"
        options = options.replace(f"{directory}/", "")
        kind = ["--bind"] if mount.type == "bind" else ["-t", mount.type]
        subprocess.run(["mount", *kind, "-o", options, mount.source, place], check=True, cwd=directory)
        try:
            yield Path(place)
        finally:
            subprocess.run(["umount", place], check=True)


@contextmanager
def _view(containerd: Containerd, namespace: str, snapshotter: str, name: str) -> Iterator[Mount]:
    """Give the mount of a view, which is kept by a lease, else it would be garbage."""
    key = f"view-{uuid.uuid4().hex}"
    containerd.ctr("leases", "create", "--id", key, namespace=namespace)
    request = api.ViewSnapshotRequest(snapshotter=snapshotter, key=key, parent=name)
    with grpc.insecure_channel(f"unix:{containerd.socket}", [("grpc.default_authority", "localhost")]) as channel:
        view = channel.unary_unary(
            "/containerd.services.snapshots.v1.Snapshots/View",
            api.ViewSnapshotRequest.SerializeToString,
            api.ViewSnapshotResponse.FromString,
        )
        metadata = (("containerd-namespace", namespace), ("containerd-lease", key))
        while True:
            try:
                [mount] = view(request, metadata=metadata, timeout=30).mounts
                break
            except grpc.RpcError as error:
                # What containerd was making when the power failed is in its way; having failed, it has removed that.
                if "file exists" not in str(error):
                    raise
    yield mount
    containerd.ctr("snapshots", "--snapshotter", snapshotter, "rm", key, namespace=namespace)
    containerd.ctr("leases", "delete", key, namespace=namespace)


def snapshot_tree(containerd: Containerd, namespace: str, snapshotter: str, name: str) -> Tree:
    """Describe a committed snapshot as a container would see it."""
    with mounted(containerd, namespace, snapshotter, name) as place:
        return listing(place)


def differences(found: Tree, wanted: Tree) -> dict[str, tuple[Entry | None, Entry | None]]:
    """Return what differs, by path: what was found and what should be there."""
    return {
        name: (found.get(name), wanted.get(name))
        for name in sorted(found.keys() | wanted.keys())
        if found.get(name) != wanted.get(name)
    }


def unlisted_directories(layers: Iterable[bytes]) -> set[str]:
    """Return the directories that layers (tar archives, base first) put something into without saying what they are like.

    Whoever unpacks such layers chooses owner, mode and time: dockerd takes root's, containerd the lower directory's. For the
    root itself both ignore what a layer says.
    """
    unlisted: set[str] = set()
    for layer in layers:
        with tarfile.open(fileobj=io.BytesIO(layer), errors="surrogateescape") as archive:
            members = [(PurePosixPath("/", member.name), member.isdir()) for member in archive]
        implied = {str(parent) for path, _ in members for parent in path.parents}
        listed = {str(path) for path, is_directory in members if is_directory}
        unlisted = (unlisted | {_shown(path) for path in implied - listed}) - {_shown(path) for path in listed}
    return unlisted | {"."}


def _shown(path: str) -> str:
    return f".{path}".encode("unicode_escape").decode() if path != "/" else "."


def comparable(tree: Tree, unlisted: set[str], *, directory_times: bool = True, xattrs: Callable[[str, str], bool]) -> Tree:
    """Return ``tree`` without what a second unpacking of the same layers may do otherwise.

    ``unlisted`` directories keep nothing but their type; without ``directory_times`` no directory keeps its time; ``xattrs``
    says which extended attributes, by name and value, count.
    """
    kept = {}
    for name, original in tree.items():
        entry = list(original)
        if entry[KIND] == "d" and name in unlisted:
            entry[MODE : MTIME + 1] = []
        else:
            if entry[KIND] == "d" and not directory_times:
                entry[MTIME] = None
            entry[XATTRS] = {name: value for name, value in entry[XATTRS].items() if xattrs(name, value)}
        kept[name] = entry
    return kept
