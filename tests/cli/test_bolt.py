"""``transship bolt``: what is in a bbolt file."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import pty
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Ended, command, environment
from tests.formats.bolt.databases import Made, fixtures, told, written

if TYPE_CHECKING:
    from pathlib import Path

NAME = "base64:/wo="
ROOT = Made(
    {
        b"app": Made(
            {
                b"\xff\n": Made({b"key": b"value"}),
                b"base64:text": b"x",
                b"empty": b"",
                "schön".encode(): b"wert",
                b"tab": b"a\tb",
            },
            7,
        ),
        b"none": Made(),
    }
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file.db"
    path.write_bytes(written(ROOT))
    return path


def bolt(action: str, file: Path, *arguments: object, code: int = 0) -> Ended:
    before = file.read_bytes()
    ended = command("bolt", action, file, *arguments)
    assert ended.code == code, ended.all
    assert file.read_bytes() == before
    assert all(line.isprintable() for line in ended.all.splitlines())
    return ended


def as_bytes(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "transship", "bolt", *map(str, arguments)]
    return subprocess.run(words, check=False, env=environment(), **options)


def undumped(documents: list[dict[str, Any]]) -> Made:
    """Return what was dumped."""

    def meant(text: str) -> bytes:
        return base64.b64decode(text[7:]) if text.startswith("base64:") else text.encode()

    buckets: dict[tuple[str, ...], Made] = {}
    for document in documents:
        path = tuple(document["bucket"])
        if "sequence" in document:
            buckets[path] = Made(sequence=document["sequence"])
            if path:
                buckets[path[:-1]].held[meant(path[-1])] = buckets[path]
        else:
            buckets[path].held[meant(document["key"])] = meant(document["value"])
    return buckets[()]


def test_ls(file: Path) -> None:
    assert [line.split() for line in bolt("ls", file).out.splitlines()] == [["bucket", "app"], ["bucket", "none"]]
    lines = bolt("ls", file, "app").out.splitlines()
    assert [line.split() for line in lines] == [
        ["1", "base64:YmFzZTY0OnRleHQ="],
        ["0", "empty"],
        ["4", "schön"],
        ["3", "tab"],
        ["bucket", NAME],
    ]
    assert bolt("ls", file, "app", NAME).out.split() == ["5", "key"]
    assert bolt("ls", file, "none").out == ""
    assert bolt("ls", file, "--json").documents == [{"key": "app", "sequence": 7}, {"key": "none", "sequence": 0}]
    assert bolt("ls", file, "app", NAME, "--json").documents == [{"key": "key", "size": 5}]


def test_ls_of_what_is_no_bucket(file: Path) -> None:
    assert "there is no other" in bolt("ls", file, "other", code=2).err
    assert "empty is not a bucket" in bolt("ls", file, "app", "empty", code=2).err
    assert "base64:! is not base64" in bolt("ls", file, "base64:!", code=2).err
    assert bolt("ls", file, "other", "--json", code=2).report["error"] == "UsageError"


def test_get_is_the_value_as_it_is(file: Path) -> None:
    assert as_bytes("get", file, "app", "tab", stdout=subprocess.PIPE).stdout == b"a\tb"
    assert as_bytes("get", file, "app", NAME, "key", stdout=subprocess.PIPE).stdout == b"value"
    assert as_bytes("get", file, "app", "empty", stdout=subprocess.PIPE).stdout == b""


def test_get_on_a_terminal_is_readable(file: Path) -> None:
    ours, theirs = pty.openpty()
    try:
        assert as_bytes("get", file, "app", "tab", stdout=theirs).returncode == 0
        assert os.read(ours, 100) == b"base64:YQli\r\n"
    finally:
        os.close(ours)
        os.close(theirs)


def test_get_of_what_is_no_value(file: Path) -> None:
    assert "app is a bucket" in bolt("get", file, "app", code=2).err
    assert "there is no key" in bolt("get", file, "none", "key", code=2).err


def test_dump(file: Path) -> None:
    ended = bolt("dump", file)
    assert ended.out.splitlines()[:3] == [
        '{"bucket":[],"sequence":0}',
        '{"bucket":["app"],"sequence":7}',
        '{"bucket":["app"],"key":"base64:YmFzZTY0OnRleHQ=","value":"x"}',
    ]
    assert json.loads(ended.out.splitlines()[-2])["bucket"] == ["app", NAME]
    assert undumped(ended.documents) == ROOT


@pytest.mark.parametrize("name", ["keys-corner-cases", "nested-buckets", "large-values", "sequences", "empty-fresh"])
def test_dump_of_what_bbolt_wrote(name: str, tmp_path: Path) -> None:
    data, facts = fixtures()[name]
    (tmp_path / "file").write_bytes(data)
    assert undumped(bolt("dump", tmp_path / "file").documents) == told(facts["root"])


def test_dump_does_not_depend_on_how_it_is_stored(file: Path) -> None:
    dumped = bolt("dump", file).out
    file.write_bytes(written(ROOT, 16384))
    assert bolt("dump", file).out == dumped


def test_check(file: Path) -> None:
    assert bolt("check", file).out.endswith("nothing damaged\n")
    pages = len(file.read_bytes()) // 4096
    assert bolt("check", file, "--json").report == {"pages": pages, "page_size": 4096, "problems": []}


def test_check_of_what_is_damaged(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[3 * 4096] = 99
    file.write_bytes(data)
    ended = bolt("check", file, code=5)
    assert ended.out.splitlines()[0] == "DAMAGED: page 3: says that it is page 99"
    assert bolt("check", file, "--json", code=5).report["problems"][0] == {"page": 3, "problem": "says that it is page 99"}
    assert f"{file}: page 3: " in bolt("dump", file, code=3).err


def test_file_that_is_none(tmp_path: Path) -> None:
    for action in ("ls", "dump", "check"):
        assert command("bolt", action, tmp_path / "none").code == 3
        assert command("bolt", action, tmp_path).code == 3


def test_link_to_a_file(file: Path) -> None:
    (file.parent / "link").symlink_to(file)
    assert command("bolt", "ls", file.parent / "link").out == bolt("ls", file).out


def test_file_that_a_program_has_open(file: Path) -> None:
    with file.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert "another program has" in bolt("dump", file, code=3).err
        fcntl.flock(held, fcntl.LOCK_SH)
        assert bolt("dump", file).documents
