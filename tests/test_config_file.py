"""config/transship.toml names every setting with its true default."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from transship import config

FILE = Path(__file__).parent.parent / "config" / "transship.toml"
COMMENTED_SETTING = re.compile(r"^#(?=[a-z])", re.MULTILINE)
EVERYTHING_SET = COMMENTED_SETTING.sub("", FILE.read_text())


def settings() -> list[tuple[str, str, Any]]:
    """Return each setting's section, its name in the file, and its value by default."""
    return [
        (section.encode_name, field.encode_name, field.default)
        for section in msgspec.structs.fields(config.Settings)
        for field in msgspec.structs.fields(section.type)
    ]


def test_as_it_ships_it_changes_nothing() -> None:
    assert config.load(FILE) == config.Settings()


def test_every_setting_is_there_and_no_other() -> None:
    sections = tomllib.loads(EVERYTHING_SET)
    named = [(section, name) for section, values in sections.items() for name in values]
    assert named == [(section, name) for section, name, _ in settings()]


def test_it_is_valid_with_every_line_uncommented(tmp_path: Path) -> None:
    file = tmp_path / "transship.toml"
    file.write_text(EVERYTHING_SET)
    config.load(file)


@pytest.mark.parametrize(("section", "name", "default"), settings())
def test_what_is_shown_is_the_default(section: str, name: str, default: Any) -> None:
    if default is None:
        before = EVERYTHING_SET.partition(f"\n[{section}]\n")[2].partition(f"\n{name} = ")[0]
        paragraph = before.rpartition("\n\n")[2]
        assert "Without it:" in paragraph, "a setting without a default says what happens then"
    else:
        assert tomllib.loads(EVERYTHING_SET)[section][name] == msgspec.json.decode(msgspec.json.encode(default, enc_hook=str))
