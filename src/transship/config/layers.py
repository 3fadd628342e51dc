"""Which value counts: that of the last source that has one."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.config.settings import SETTINGS, Settings, build
from transship.config.sources import Origin, from_environment, from_file, usual_files
from transship.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Configuration:
    """The settings in force, where each comes from (by key, as ``run.jobs``), and the files that were read."""

    settings: Settings
    origins: Mapping[str, Origin]
    files: tuple[Path, ...]


def read(path: Path | None = None, environment: Mapping[str, str] = os.environ) -> Configuration:
    """Read all sources: the usual file, its drop-ins in the order of their names, and ``environment``, each over those before.

    With ``path`` only that file is read in place of the usual ones. Raises UsageError naming file or variable and setting for
    everything that is wrong.
    """
    files, problems = usual_files() if path is None else ([path], [])
    values: dict[str, object] = {}
    origins = dict.fromkeys(SETTINGS, Origin("default"))
    for source in [*map(from_file, files), from_environment(environment)]:
        values |= source.values
        origins |= source.origins
        problems += source.problems
    if problems:
        raise UsageError("; ".join(problems), remedy="see config/transship.toml for every setting")
    return Configuration(build(values), origins, tuple(files))


def load(path: Path | None = None) -> Settings:
    """Return the settings in force; see ``read``."""
    return read(path).settings
