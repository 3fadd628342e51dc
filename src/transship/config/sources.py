"""Where settings are set: TOML files, and the environment. Each is read and judged by itself."""

from __future__ import annotations

import reprlib
import tomllib
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from transship.config.settings import SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transship.config.settings import Setting

DEFAULT_FILE = Path("/etc/transship/transship.toml")
DROP_INS = Path("/etc/transship/conf.d")
_MAX_SIZE = 1 << 20
_PREFIX = "TRANSSHIP_"


@dataclass(frozen=True)
class Origin:
    """Where a value comes from; ``name`` is the file's path or the variable's name, empty for a default."""

    kind: Literal["default", "file", "variable"]
    name: str = ""

    def __str__(self) -> str:
        return self.name or self.kind


@dataclass
class Source:
    """What one file or the environment sets: values and origins by key, and a message for each thing wrong with it."""

    values: dict[str, object] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, setting: Setting, given: object, origin: Origin, where: str) -> None:
        """Note what is ``given`` for a setting, or that it cannot be; ``where`` stands before it in messages."""
        try:
            self.values[setting.key] = setting.value(given, from_text=origin.kind == "variable")
        except ValueError as error:
            self.problems.append(f"{where} = {reprlib.repr(given)}: {error}")
        else:
            self.origins[setting.key] = origin


def usual_files() -> tuple[list[Path], list[str]]:
    """Return the files that are read when none is named, the one that counts most last; and what went wrong looking for them.

    Names that begin with a dot are passed over: editors leave such files.
    """
    try:
        files = [DEFAULT_FILE] if DEFAULT_FILE.name in _names(DEFAULT_FILE.parent) else []
        drop_ins = [name for name in _names(DROP_INS) if name.endswith(".toml") and not name.startswith(".")]
    except OSError as error:
        return [], [f"{error.filename} cannot be read: {error.strerror}"]
    return files + [DROP_INS / name for name in drop_ins], []


def _names(directory: Path) -> list[str]:
    try:
        return sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []


def from_file(path: Path) -> Source:
    """Return what the file ``path`` sets. Never raises: what is wrong is among the problems, named with the file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_SIZE + 1)
    except FileNotFoundError:
        return Source(problems=[f"{path}: there is no such file"])
    except (OSError, ValueError) as error:
        return Source(problems=[f"{path} cannot be read: {getattr(error, 'strerror', None) or error}"])
    if len(data) > _MAX_SIZE:
        return Source(problems=[f"{path} is larger than {_MAX_SIZE} bytes"])
    try:
        tables = tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        return Source(problems=[f"{path}: {error}"])
    return _from_tables(tables, path)


def _from_tables(tables: Mapping[str, object], path: Path) -> Source:
    source = Source()
    sections = {setting.section for setting in SETTINGS.values()}
    for section, table in tables.items():
        if section not in sections:
            source.problems.append(f"{path}: {_unknown(section, sections)}")
        elif not isinstance(table, dict):
            source.problems.append(f"{path}: {section} is not a table")
        else:
            for name, given in table.items():
                key = f"{section}.{name}"
                if setting := SETTINGS.get(key):
                    source.take(setting, given, Origin("file", str(path)), f"{path}: {key}")
                else:
                    source.problems.append(f"{path}: {_unknown(key, SETTINGS)}")
    return source


def from_environment(environment: Mapping[str, str]) -> Source:
    """Return what variables named TRANSSHIP_SECTION_SETTING set. Never raises: what is wrong is among the problems."""
    source = Source()
    settings = {variable_of(setting): setting for setting in SETTINGS.values()}
    for variable, text in sorted(environment.items()):
        if not variable.startswith(_PREFIX):
            continue
        if setting := settings.get(variable):
            source.take(setting, _items(text) if setting.is_list else text, Origin("variable", variable), variable)
        else:
            source.problems.append(f"environment: {_unknown(variable, settings)}")
    return source


def variable_of(setting: Setting) -> str:
    """Return the environment variable that sets it."""
    return _PREFIX + f"{setting.section}_{setting.name}".upper().replace("-", "_")


def _items(text: str) -> list[str]:
    return [item.strip() for item in text.split(",")] if text else []


def _unknown(name: str, known: Iterable[str]) -> str:
    likely = get_close_matches(name, known, n=1, cutoff=0.75)
    return f"unknown setting {reprlib.repr(name)}" + (f", did you mean {likely[0]}?" if likely else "")
