# ruff: noqa: PTH101, PTH102, PTH104, PTH115, PTH123, PTH208, PTH211
"""Trees made up by hypothesis, put on disk, and described again by reading them, without any of transship's code.

Names are bytes here, which pathlib does not take.
"""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hypothesis import strategies as st

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Listing = dict[bytes, dict[str, Any]]

OPAQUE = "trusted.overlay.opaque"
OF_OVERLAYFS = "trusted.overlay."
BLOCK = 64 << 10

CAPABILITY = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)  # linux/capability.h: version 2, effective, CAP_NET_RAW
_ACL = struct.pack("<I", 2)  # linux/posix_acl_xattr.h
for tag, permissions, who in ((1, 6, -1), (2, 4, 1234), (4, 4, -1), (16, 6, -1), (32, 0, -1)):
    _ACL += struct.pack("<HHi", tag, permissions, who)
ACL = _ACL
"""An access control list: the owner rw, user 1234 r, the group r, the mask rw."""


@dataclass
class Node:
    """One file to make. ``pieces`` are what a regular file has in it: bytes by their offset; the rest are holes."""

    kind: int
    mode: int = 0o644
    owner: tuple[int, int] = (0, 0)
    mtime: int = 0
    size: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)
    target: bytes = b""
    device: int = 0
    xattrs: dict[str, bytes] = field(default_factory=dict)
    children: dict[bytes, Node] = field(default_factory=dict)
    links: list[bytes] = field(default_factory=list)
    """More names for it in the same directory."""


def names(*, any_bytes: bool = True) -> st.SearchStrategy[bytes]:
    usual = st.sampled_from([b"a", b"b", b"c", b".x", b" ", "ä€".encode(), b"\n", b"-rf", b"x" * 255])
    strange = st.binary(min_size=1, max_size=12).map(lambda name: name.replace(b"/", b"_").replace(b"\0", b"_"))
    return (usual | strange.filter(lambda name: name not in {b".", b".."})) if any_bytes else usual


_times = st.sampled_from([0, 1, 999_999_999, 1_700_000_000_123_456_789, 4_102_444_800_000_000_001]) | st.integers(0, 4 * 10**18)
_contents = st.dictionaries(st.integers(0, 3).map(lambda n: n * BLOCK), st.binary(min_size=1, max_size=300), max_size=3)


@st.composite
def nodes(draw: st.DrawFn, *, privileged: bool, depth: int = 3) -> Node:
    """A file of any kind; ``privileged`` with what only root can make."""
    kinds = [stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO, stat.S_IFSOCK]
    kind = draw(st.sampled_from(kinds + ([stat.S_IFCHR, stat.S_IFBLK] if privileged else [])))
    if kind == stat.S_IFDIR:
        return draw(directories(privileged=privileged, depth=depth - 1))
    node = Node(kind, mtime=draw(_times), mode=draw(_modes(privileged=privileged)), links=draw(st.lists(names(), max_size=2)))
    if kind == stat.S_IFREG:
        node.pieces = draw(_contents)
        node.size = draw(st.integers(0, 5 * BLOCK))
    elif kind == stat.S_IFLNK:
        node.target = draw(st.sampled_from([b"a", b"/", b"../..", b"/etc/passwd", b"x" * 1000, b"\xff"]))
    elif kind in {stat.S_IFCHR, stat.S_IFBLK}:
        whiteout = kind == stat.S_IFCHR and draw(st.booleans())
        node.device = (
            0 if whiteout else os.makedev(draw(st.integers(0, 511)), draw(st.integers(1, (1 << 18) - 1)))
        )  # xfs takes no more
    if privileged:
        _privileged(draw, node)
    return node


@st.composite
def directories(draw: st.DrawFn, *, privileged: bool, depth: int = 3) -> Node:
    """A directory, with files of any kind in it."""
    node = Node(stat.S_IFDIR, mtime=draw(_times), mode=draw(_modes(privileged=privileged)) | (0 if privileged else 0o700))
    if depth > 0:
        node.children = draw(st.dictionaries(names(), nodes(privileged=privileged, depth=depth), max_size=5))
    if privileged:
        _privileged(draw, node)
    return node


def _modes(*, privileged: bool) -> st.SearchStrategy[int]:
    unusual = [0o0, 0o4755, 0o2755, 0o1777, 0o6711, 0o7777] if privileged else [0o1700]
    return st.sampled_from([0o644, 0o755, 0o600, 0o444, *unusual])


def _privileged(draw: st.DrawFn, node: Node) -> None:
    node.owner = draw(st.sampled_from([(0, 0), (1000, 1000), (0, 42), (2**32 - 2, 2**31)]))
    if node.kind == stat.S_IFREG and draw(st.integers(0, 4)) == 0:
        node.xattrs["security.capability"] = CAPABILITY
    if node.kind in {stat.S_IFREG, stat.S_IFDIR}:
        values = st.binary(max_size=100)
        node.xattrs |= draw(
            st.dictionaries(st.sampled_from(["user.a", "user.ä", "trusted.b", "user.trusted.overlay.x"]), values, max_size=2)
        )
        if draw(st.integers(0, 4)) == 0:
            node.xattrs["system.posix_acl_access"] = ACL
            node.mode = node.mode & 0o7000 | 0o660  # the mask is the group's bits
    if node.kind == stat.S_IFDIR:
        if draw(st.integers(0, 4)) == 0:
            node.xattrs["system.posix_acl_default"] = ACL
        if draw(st.integers(0, 3)) == 0:
            node.xattrs[OPAQUE] = b"y"
    elif draw(st.integers(0, 4)) == 0:
        node.xattrs["trusted.c"] = b"\0"


def build(path: Path, node: Node) -> None:
    """Make the directory ``path`` as ``node`` says."""
    _make(os.fsencode(path), node)


def _make(path: bytes, node: Node) -> None:
    if node.kind == stat.S_IFDIR:
        os.mkdir(path, 0o700)
        for name, child in node.children.items():
            _make(path + b"/" + name, child)
        _link_more(path, node)
    elif node.kind == stat.S_IFREG:
        with open(path, "xb") as file:
            for offset, data in node.pieces.items():
                file.seek(offset)
                file.write(data)
            file.truncate(max([node.size, *(offset + len(data) for offset, data in node.pieces.items())]))
    elif node.kind == stat.S_IFLNK:
        os.symlink(node.target, path)
    elif node.kind == stat.S_IFSOCK and os.geteuid() != 0:
        _bind(path)
    else:
        os.mknod(path, node.kind | 0o600, node.device)
    if os.geteuid() == 0:
        os.chown(path, *node.owner, follow_symlinks=False)
    if node.kind != stat.S_IFLNK:
        os.chmod(path, node.mode)
    for xattr, value in node.xattrs.items():
        os.setxattr(path, xattr, value, follow_symlinks=False)
    os.utime(path, ns=(node.mtime, node.mtime), follow_symlinks=False)


def _link_more(directory: bytes, node: Node) -> None:
    for name, child in node.children.items():
        for more in child.links:
            if not os.path.lexists(directory + b"/" + more):
                os.link(directory + b"/" + name, directory + b"/" + more, follow_symlinks=False)


def _bind(path: bytes) -> None:
    parent, name = os.path.split(path)
    descriptor = os.open(parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(f"/proc/self/fd/{descriptor}/".encode() + name[:80])  # a longer one does not fit into an address
    os.close(descriptor)
    os.rename(parent + b"/" + name[:80], path)


def listing(root: Path, *, overlay_xattrs: bool = True) -> Listing:
    """Describe everything in a tree, by path: all that a program could see, except what is a matter of when it was made."""
    found: Listing = {}
    inodes: dict[tuple[int, int], bytes] = {}
    for path in sorted(_walk(os.fsencode(root))):
        try:
            status = os.lstat(path)
        except FileNotFoundError:  # overlayfs tells of a whiteout that hides nothing
            continue
        name = path[len(os.fsencode(root)) :]
        entry: dict[str, Any] = {
            "mode": oct(status.st_mode),
            "owner": (status.st_uid, status.st_gid),
            "mtime": status.st_mtime_ns,
            "device": status.st_rdev,
            "xattrs": {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in sorted(os.listxattr(path, follow_symlinks=False))
                if (overlay_xattrs or not key.startswith(OF_OVERLAYFS)) and not key.startswith("trusted.SGI_ACL_")
            },
        }
        if not stat.S_ISDIR(status.st_mode):
            entry["same as"] = inodes.setdefault((status.st_dev, status.st_ino), name)
        if stat.S_ISLNK(status.st_mode):
            entry["target"] = os.readlink(path)
        elif stat.S_ISREG(status.st_mode):
            entry |= _content(path, status.st_size)
        found[name] = entry
    return found


def _walk(path: bytes) -> Iterator[bytes]:
    yield path
    with os.scandir(path) as entries:
        for entry in list(entries):
            if entry.is_dir(follow_symlinks=False):
                yield from _walk(entry.path)
            else:
                yield entry.path


def _content(path: bytes, size: int) -> dict[str, Any]:
    with open(path, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
        data, position = [], 0
        while position < size:
            try:
                start = os.lseek(file.fileno(), position, os.SEEK_DATA)
            except OSError:
                break
            position = os.lseek(file.fileno(), start, os.SEEK_HOLE)
            data.append((start, position))
    return {"size": size, "sha256": digest, "data": data}


def descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
