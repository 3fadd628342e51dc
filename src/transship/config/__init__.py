"""Configuration: every option that a person may set, in files, in the environment or on the command line.

Read once, above; everything below gets what it needs handed in. Each setting is described in ``config/transship.toml``.
``settings`` says what can be set, ``sources`` where it is set, ``layers`` which of them counts. Flags, on top of all, are the
commands' business.
"""

from __future__ import annotations

from transship.config.layers import Configuration, load, read
from transship.config.settings import (
    BlobSettings,
    LogSettings,
    RunSettings,
    ServiceSettings,
    Settings,
    SnapshotSettings,
    SourceSettings,
    TargetSettings,
)
from transship.config.sources import DEFAULT_FILE, DROP_INS, Origin

__all__ = [
    "DEFAULT_FILE",
    "DROP_INS",
    "BlobSettings",
    "Configuration",
    "LogSettings",
    "Origin",
    "RunSettings",
    "ServiceSettings",
    "Settings",
    "SnapshotSettings",
    "SourceSettings",
    "TargetSettings",
    "load",
    "read",
]
