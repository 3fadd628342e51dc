"""``transship config``: the settings in force and where they come from; whether they are all right."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from anyio import to_thread

from transship import config
from transship.cli.options import add_json
from transship.cli.output import say, say_json
from transship.errors import ExitCode, UsageError
from transship.legs.request import Request
from transship.legs.targets import ensure_known

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.config import Configuration, Settings

_WIDTH = 50
"""Columns of a setting, so that origins stand below each other."""


def add_parser(commands: Any) -> argparse.ArgumentParser:
    """Add the command to ``commands``."""
    parser: argparse.ArgumentParser = commands.add_parser(
        "config",
        help="show or check the configuration",
        description="Shows the settings in force and where each comes from, or checks that all of them can be used.",
    )
    actions = parser.add_subparsers(metavar="ACTION", required=True, dest="action")
    show = actions.add_parser(
        "show",
        help="show each setting, its value and where it comes from",
        description="Shows each setting, its value and where it comes from: a file, a variable, or the default.",
    )
    add_json(show, "print one JSON object")
    check = actions.add_parser(
        "check",
        help="name everything that is wrong with the settings",
        description="Names everything that is wrong with the settings.",
    )
    for action in (show, check):
        # Suppressed: else the absence of the option here would undo the same option in front of the action.
        action.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help="look at this file only")
    return parser


async def run(options: argparse.Namespace, _settings: Settings) -> ExitCode:
    """Show or check; return DONE. Raises UsageError if something is wrong."""
    configuration = await to_thread.run_sync(config.read, options.config)
    if options.action == "check":
        _ensure_usable(configuration)
        say(f"ok: {', '.join(_sources(configuration))}")
    elif options.json:
        say_json(_document(configuration))
    else:
        for line in _lines(configuration):
            say(line)
    return ExitCode.DONE


def _sources(configuration: Configuration) -> list[str]:
    """Return what was read; variables only if they set something."""
    variables = [origin.name for origin in configuration.origins.values() if origin.kind == "variable"]
    return [*map(str, configuration.files), *variables] or ["defaults only"]


def _document(configuration: Configuration) -> dict[str, Any]:
    return {
        "files": [str(file) for file in configuration.files],
        "settings": {
            key: {"value": value, "origin": msgspec.to_builtins(configuration.origins[key])}
            for key, value in _values(configuration)
        },
    }


def _lines(configuration: Configuration) -> Iterator[str]:
    """Yield a TOML file that sets what is in force, with the origins as comments."""
    section = None
    for key, value in _values(configuration):
        if key.partition(".")[0] != section:
            if section:
                yield ""
            section = key.partition(".")[0]
            yield f"[{section}]"
        name = key.partition(".")[2]
        setting = f"#{name} is not set" if value is None else f"{name} = {_toml(value)}"
        yield f"{setting:{_WIDTH}} # {configuration.origins[key]}"


def _values(configuration: Configuration) -> Iterator[tuple[str, Any]]:
    for section, table in msgspec.to_builtins(configuration.settings, enc_hook=str).items():
        for name, value in table.items():
            yield f"{section}.{name}", value


def _toml(value: Any) -> str:
    """Return a value as TOML writes it: as JSON does, but for the long form of characters that are not to be printed."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(_toml, value))}]"
    text = json.dumps(value, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08X}" for char in text)


def _ensure_usable(configuration: Configuration) -> None:
    """Check what cannot be seen by looking at each setting alone. Raises UsageError naming all of it."""
    settings, origins = configuration.settings, configuration.origins
    errors: dict[str, UsageError] = {}
    try:
        _ = Request(settings).recipe
    except UsageError as error:
        errors["blobs.level"] = error
    if settings.target.to is not None:
        try:
            ensure_known(settings.target.to)
        except UsageError as error:
            errors["target.to"] = error
    if errors:
        raise UsageError(
            "; ".join(f"{key} ({origins[key]}): {error.message}" for key, error in errors.items()),
            remedy="; ".join(f"{key}: {error.remedy}" for key, error in errors.items()),
        )
