"""The directory that holds a host's journal, lock and event logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from transship.errors import JournalError
from transship.files.durable import sync_directory

if TYPE_CHECKING:
    from pathlib import Path


def run_directory(state_dir: Path, run: str) -> Path:
    """Return where the files of ``run`` are."""
    return state_dir / "runs" / run


def make_state_dir(path: Path) -> None:
    """Make the directory ``path`` and its parents, durably, for its owner only. Raises JournalError."""
    try:
        missing = [directory for directory in (path, *path.parents) if not directory.exists()]
        for directory in reversed(missing):
            directory.mkdir(mode=0o700, exist_ok=True)
            sync_directory(directory.parent)
        if not path.is_dir():
            raise NotADirectoryError(f"[Errno 20] Not a directory: '{path}'")
    except OSError as error:
        raise JournalError(f"cannot make the state directory {path}: {error}", remedy="name another one") from error
