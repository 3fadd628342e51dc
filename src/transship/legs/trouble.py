"""What the system says when something cannot be written, as an error of ours."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt, TargetFull, TargetUnavailable, TransshipError

if TYPE_CHECKING:
    from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT}


def trouble(error: OSError, place: Path) -> TransshipError:
    """Say what kept something from being written at ``place``."""
    where = os.fsencode(error.filename or place).decode("utf-8", "backslashreplace")
    if error.errno in _FULL:
        return TargetFull(f"no room for {where}", remedy="free some space and run again")
    if error.errno == errno.EROFS:
        return TargetUnavailable(f"{where} is read-only", remedy="make it writable and run again")
    return SourceCorrupt(f"cannot write {where}: {error.strerror}", remedy="see what is there, move it away, and run again")
