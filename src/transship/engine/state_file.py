"""Small JSON files in the state directory, each about one thing: there wholly or not at all, whenever the power goes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, TypeVar

import msgspec

from transship.engine.state_dir import make_state_dir
from transship.errors import JournalError
from transship.files.durable import sync_directory, write_file

if TYPE_CHECKING:
    from pathlib import Path

T = TypeVar("T")

_REMEDY = "check its file system and permissions"


def write(path: Path, document: msgspec.Struct) -> None:
    """Replace the file by one with ``document``, for its owner only. Raises JournalError."""
    make_state_dir(path.parent)
    try:
        content = json.dumps(msgspec.to_builtins(document))  # unlike msgspec's, carries paths that are not UTF-8
        write_file(path, content.encode(), mode=0o600)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error}", remedy=_REMEDY) from error


def read(path: Path, kind: type[T]) -> T | None:
    """Return the document, None if there is no file. Raises JournalError, also if it is not of ``kind``."""
    try:
        return msgspec.convert(json.loads(path.read_bytes()), kind)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise JournalError(f"cannot read {path}: {error}", remedy=_REMEDY) from error
    except ValueError as error:
        raise JournalError(f"{path} is damaged: {error}", remedy="remove it, and say again what is to be done") from error


def remove(path: Path) -> bool:
    """Remove the file; return whether there was one. Raises JournalError."""
    try:
        path.unlink()
        sync_directory(path.parent)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise JournalError(f"cannot remove {path}: {error}", remedy=_REMEDY) from error
    return True
