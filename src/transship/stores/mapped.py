"""What the system says of a file that cannot be written, as an error of ours."""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from transship.errors import TargetFull, TargetUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def mapped(about: object) -> Iterator[None]:
    """Turn an OSError into TargetFull or TargetUnavailable that names ``about``, the path or thing concerned."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise TargetFull(f"{about}: {error.strerror}", remedy="make room on its file system, then run again") from error
        raise TargetUnavailable(f"{about}: {error}", remedy="see that it can be written to, then run again") from error
