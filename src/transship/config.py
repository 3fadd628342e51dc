"""Settings: every option that a person may set, in a file or on the command line.

Read once, above; everything below gets what it needs handed in. Each setting is described in ``config/transship.toml``.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import msgspec

from transship.errors import UsageError
from transship.files.fill import FillMode
from transship.formats.compression import Codec

DEFAULT_FILE = Path("/etc/transship/transship.toml")
DEFAULT_STATE_DIRECTORY = Path("/var/lib/transship")
_MAX_SIZE = 1 << 20


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A table of the file: keys that it does not know are errors, since a misspelt one would be ignored in silence."""


class SourceSettings(_Section, frozen=True):
    """Where images come from."""

    directory: Path | None = None
    driver: str | None = None


class TargetSettings(_Section, frozen=True):
    """Where images go to."""

    to: str | None = None
    namespace: str = "moby"
    snapshotter: str | None = None


class BlobSettings(_Section, frozen=True):
    """How layers are compressed."""

    compression: Codec = Codec.ZSTD
    level: int | None = None


class SnapshotSettings(_Section, frozen=True):
    """How snapshots are filled."""

    fill: FillMode = FillMode.AUTO


class RunSettings(_Section, frozen=True):
    """How a run goes about it. ``jobs`` 0: as many as there are processors."""

    state_dir: Path = DEFAULT_STATE_DIRECTORY
    jobs: int = 0

    @property
    def parallel(self) -> int:
        """How many layers are worked on at once."""
        return self.jobs or min(os.cpu_count() or 1, _MOST_JOBS)


class LogSettings(_Section, frozen=True):
    """What is logged."""

    level: Literal["debug", "info", "warning", "error"] = "error"


class Settings(_Section, frozen=True):
    """All settings."""

    source: SourceSettings = SourceSettings()
    target: TargetSettings = TargetSettings()
    blobs: BlobSettings = BlobSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    run: RunSettings = RunSettings()
    log: LogSettings = LogSettings()


_MOST_JOBS = 8
"""Without being told, no more at once: each takes some 30 MB of memory, and disks have their limits."""


def load(path: Path | None) -> Settings:
    """Read the file ``path``; without one the usual file, if there is one. Raises UsageError naming file and setting."""
    chosen = DEFAULT_FILE if path is None else path
    try:
        with chosen.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except FileNotFoundError as error:
        if path is None:
            return Settings()
        raise UsageError(f"{chosen}: there is no such file", remedy="give the path of a configuration file") from error
    except OSError as error:
        raise UsageError(f"{chosen} cannot be read: {error.strerror}") from error
    if len(data) > _MAX_SIZE:
        raise UsageError(f"{chosen} is larger than {_MAX_SIZE} bytes")
    try:
        settings = msgspec.toml.decode(data, type=Settings, dec_hook=_decode)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{chosen}: {error}", remedy="see config/transship.toml for every setting") from error
    if settings.run.jobs < 0:
        raise UsageError(f"{chosen}: jobs is negative", remedy="use 0 for one per processor")
    return settings


def _decode(kind: type, value: object) -> object:
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"Expected a string, got {value!r}")
