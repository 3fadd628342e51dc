"""A layer's tar stream made anew, as Docker's differ made it.

Source: moby v1.10.3 ``pkg/archive/archive.go`` (``tarAppender``) and ``changes.go`` (``ExportChanges``). Two differences:
Docker gave whiteouts the time of day, so that no two streams with one were equal; here they are of 1970-01-01. And it left out
what it could not read; here that is an error.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from transship.formats import tar_2015
from transship.formats.tar_2015 import Member
from transship.formats.tar_split import FILE, SEGMENT, Entry
from transship.stores.graph.layer_tree import CAPABILITY, LayerTree

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from transship.stores.graph.changes import Change

_TYPES = {
    stat.S_IFREG: tar_2015.FILE,
    stat.S_IFDIR: tar_2015.DIRECTORY,
    stat.S_IFLNK: tar_2015.SYMBOLIC_LINK,
    stat.S_IFCHR: tar_2015.CHARACTER_DEVICE,
    stat.S_IFBLK: tar_2015.BLOCK_DEVICE,
    stat.S_IFIFO: tar_2015.FIFO,
    stat.S_IFSOCK: tar_2015.NO_TYPE,
}


def entries(directory: Path, changes: Iterable[Change]) -> Iterator[Entry]:
    """Yield tar-split entries of the archive of ``changes`` to ``directory``, as tar-split's packer of 2015 divided it.

    Files lack only the CRC-64 of their content. Raises SourceCorrupt for what cannot be read, LayerMismatch for what is not
    there any more.
    """
    headers = tar_2015.HeaderWriter()
    first_names: dict[tuple[int, int], bytes] = {}
    position = 0
    padding = b""
    with LayerTree(directory) as tree:
        for change in changes:
            member = Member(change.name, tar_2015.NO_TYPE) if change.deleted else _member(tree, change.path, first_names)
            yield Entry(SEGMENT, position, payload=padding + headers.write(member))
            yield _file(position + 1, member)
            position += 2
            padding = tar_2015.padding(member.size)
    yield Entry(SEGMENT, position, payload=padding + tar_2015.END)
    yield Entry(SEGMENT, position + 1, payload=b"")  # what follows the end


def _file(position: int, member: Member) -> Entry:
    try:
        return Entry(FILE, position, name=member.name.decode(), size=member.size)
    except UnicodeDecodeError:
        return Entry(FILE, position, name_raw=member.name, size=member.size)


def _member(tree: LayerTree, path: bytes, first_names: dict[tuple[int, int], bytes]) -> Member:
    """Return what the header of the file at ``path`` says. ``first_names`` are those of files with several, by inode."""
    status = tree.status(path)
    capability = tree.capability(path)
    kind = stat.S_IFMT(status.st_mode)
    first = path
    if status.st_nlink > 1 and kind != stat.S_IFDIR:
        first = first_names.setdefault((status.st_dev, status.st_ino), path)
    is_first = first is path
    link = tree.link(path) if kind == stat.S_IFLNK else b""
    return Member(
        name=path + b"/" if kind == stat.S_IFDIR else path,
        type=_TYPES[kind] if is_first else tar_2015.HARD_LINK,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        size=status.st_size if is_first and kind == stat.S_IFREG else 0,
        mtime=status.st_mtime_ns,
        link=link if is_first else first,
        major=os.major(status.st_rdev),
        minor=os.minor(status.st_rdev),
        xattrs=() if capability is None else ((CAPABILITY, capability),),
    )
