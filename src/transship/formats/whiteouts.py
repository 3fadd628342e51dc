"""Names that say that a layer deletes something: ``.wh.NAME``, in layers' archives and in aufs' directories.

Source: OCI image-spec ``layer.md``; aufs ``include/uapi/linux/aufs_type.h`` for the names that it keeps for itself.
"""

from __future__ import annotations

OPAQUE = ".wh..wh..opq"
"""Says that the directory that it is in hides what lower layers have in theirs."""

_PREFIX = ".wh."
_OWN_PREFIX = ".wh..wh."
"""Before names that aufs keeps for itself; Docker's and containerd's unpacking skips them."""


def is_mark(name: str) -> bool:
    """Tell whether ``name`` says something of other names, so that it is in no tree itself."""
    return name.startswith(_PREFIX)


def deleted_name(mark: str) -> str | None:
    """Return the name that ``mark`` deletes, None if it is one of aufs' own. Raises ValueError if it deletes no name."""
    if mark.startswith(_OWN_PREFIX):
        return None
    name = mark.removeprefix(_PREFIX)
    if name in {"", ".", ".."}:
        raise ValueError(f"{mark!r} deletes no name")
    return name


def is_below_mark(path: bytes) -> bool:
    """Tell whether the member ``path`` of an archive is a mark, or below one: whether no tree has it."""
    return b"/.wh." in b"/" + path
