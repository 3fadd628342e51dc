"""What can be set: sections, settings, their types, bounds and defaults."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import msgspec

from transship.files.fill import FillMode
from transship.formats.compression import Codec

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_STATE_DIRECTORY = Path("/var/lib/transship")

_YEAR = 365 * 24 * 3600
Text = Annotated[str, msgspec.Meta(min_length=1, pattern=r"^[^\x00]*$")]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=_YEAR)]
Number = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class _Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """A table of the file."""


class SourceSettings(_Section, frozen=True):
    """Where images come from."""

    directory: Path | None = None
    driver: Text | None = None


class TargetSettings(_Section, frozen=True):
    """Where images go to."""

    to: Text | None = None
    namespace: Text = "moby"
    snapshotter: Text | None = None


class BlobSettings(_Section, frozen=True):
    """How layers are compressed. What levels there are depends on the codec."""

    compression: Codec = Codec.ZSTD
    level: int | None = None


class SnapshotSettings(_Section, frozen=True):
    """How snapshots are filled."""

    fill: FillMode = FillMode.AUTO


class RunSettings(_Section, frozen=True):
    """How a run goes about it. ``jobs`` 0: as many as there are processors."""

    state_dir: Path = DEFAULT_STATE_DIRECTORY
    jobs: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0

    @property
    def parallel(self) -> int:
        """How many layers are worked on at once."""
        return self.jobs or min(os.cpu_count() or 1, _MOST_JOBS)


class LogSettings(_Section, frozen=True):
    """What is logged. Without a level, commands log errors, and the service what is of interest besides."""

    level: Literal["debug", "info", "warning", "error"] | None = None


class ServiceSettings(_Section, frozen=True):
    """How the service goes about it. ``idle_exit`` 0: it never ends by itself."""

    socket: Path = Path("/run/transship/transship.sock")
    group: Text = "transship"
    users: tuple[Text, ...] = ()
    resume: bool = True
    idle_exit: Seconds = 60
    stop_within: Seconds = 60
    stalled_after: Annotated[float, msgspec.Meta(gt=0, le=_YEAR)] = 900
    textfile: Path | None = None
    connections: Number = 512
    streams: Number = 64


class Settings(_Section, frozen=True):
    """All settings."""

    source: SourceSettings = SourceSettings()
    target: TargetSettings = TargetSettings()
    blobs: BlobSettings = BlobSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    run: RunSettings = RunSettings()
    log: LogSettings = LogSettings()
    service: ServiceSettings = ServiceSettings()


_MOST_JOBS = 8
"""Without being told, no more at once: each takes some 30 MB of memory, and disks have their limits."""


@dataclass(frozen=True)
class Setting:
    """One setting: its section, its name in a file, and the type and default of its values."""

    section: str
    name: str
    kind: Any
    default: object

    @property
    def key(self) -> str:
        """Section and name, as messages and documentation write them: ``run.state-dir``."""
        return f"{self.section}.{self.name}"

    @property
    def is_list(self) -> bool:
        """Whether it holds any number of values."""
        return isinstance(self.default, tuple)

    def value(self, given: object, *, from_text: bool = False) -> object:
        """Return what is ``given`` as a value of this setting; ``from_text``: numbers and truth may be spelt out.

        Raises ValueError saying what was expected.
        """
        try:
            return msgspec.convert(given, self.kind, strict=not from_text, dec_hook=_path)
        except msgspec.ValidationError as error:
            words = _words(self.kind)
            raise ValueError(f"Expected one of {', '.join(words)}" if words else str(error)) from error


def _path(kind: type, given: object) -> Path:
    if kind is Path and isinstance(given, str) and given and "\0" not in given:
        return Path(given)
    raise ValueError("Expected a path")


def _words(kind: object) -> list[str]:
    """Return the words of which one must be chosen, if this type is of that sort."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return [str(member.value) for member in kind]
    return [word for part in get_args(kind) for word in ([part] if isinstance(part, str) else _words(part))]


SETTINGS = {
    setting.key: setting
    for section in msgspec.structs.fields(Settings)
    for field in msgspec.structs.fields(section.type)
    for setting in [Setting(section.encode_name, field.encode_name, field.type, field.default)]
}
"""Every setting by its key, in the order of the file."""


def build(values: Mapping[str, object]) -> Settings:
    """Return settings with these ``values``, by key; the others have their defaults."""
    return Settings(
        **{
            section.name: section.type(
                **{
                    field.name: values[key]
                    for field in msgspec.structs.fields(section.type)
                    if (key := f"{section.encode_name}.{field.encode_name}") in values
                }
            )
            for section in msgspec.structs.fields(Settings)
        }
    )
