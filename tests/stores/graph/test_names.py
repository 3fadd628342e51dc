"""The names of a v1 store's images."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from transship.stores.graph.names import read_names

if TYPE_CHECKING:
    from pathlib import Path

ONE, TWO = "1" * 64, "2" * 64
DIGEST = "sha256:" + "d" * 64


def read(tmp_path: Path, repositories: Any) -> tuple[dict[str, str], list[str]]:
    path = tmp_path / "repositories-vfs"
    path.write_text(json.dumps({"Repositories": repositories}))
    found = read_names(path)
    assert all(problem.loses and problem.error.remedy for problem in found.problems)
    return found.ids, [problem.error.message.removeprefix(f"{path}: ") for problem in found.problems]


def test_tags_and_digests(tmp_path: Path) -> None:
    names, problems = read(tmp_path, {"app": {"1": ONE, DIGEST: TWO}, "localhost:5000/team/app": {"latest": TWO}})
    assert names == {"app:1": ONE, f"app@{DIGEST}": TWO, "localhost:5000/team/app:latest": TWO}
    assert problems == []


def test_no_file_no_names(tmp_path: Path) -> None:
    found = read_names(tmp_path / "repositories-vfs")
    assert (found.ids, found.problems) == ({}, [])


def test_several_spellings_of_one_name(tmp_path: Path) -> None:
    spelt = {"docker.io/library/foo": {"1": TWO, "2": ONE}, "library/foo": {"2": ONE}, "foo": {"1": ONE}}
    names, problems = read(tmp_path, spelt)
    assert names == {"foo:1": ONE, "foo:2": ONE}
    assert problems == [
        f"docker.io/library/foo:1: is the same name as foo:1 now, which stands for {ONE}, and not for {TWO}",
    ]


@pytest.mark.parametrize(
    ("repository", "key"),
    [
        ("", "1"),
        ("Upper", "1"),
        ("a//b", "1"),
        ("app", ""),
        ("app", "a b"),
        ("app", "sha256:short"),
        ("app:1", "2"),
        ("sha256", "1"),
        ("a" * 64, "1"),
        ("../etc", "1"),
        ("\x1b[2J", "1"),
    ],
)
def test_what_cannot_be_a_name_costs_no_other(tmp_path: Path, repository: str, key: str) -> None:
    names, problems = read(tmp_path, {repository: {key: ONE}, "good": {"1": TWO}})
    assert names == {"good:1": TWO}
    assert len(problems) == 1


@pytest.mark.parametrize("repositories", [None, {}, {"app": None}, {"app": {}}])
def test_repositories_without_names(tmp_path: Path, repositories: Any) -> None:
    assert read(tmp_path, repositories) == ({}, [])


@pytest.mark.parametrize(
    "text", [b"", b"null", b"{", b'{"Repositories":[]}', b'{"Repositories":{"a":{"b":1}}}', b"[" * 100_000]
)
def test_a_damaged_file_is_one_problem(tmp_path: Path, text: bytes) -> None:
    (tmp_path / "repositories-vfs").write_bytes(text)
    found = read_names(tmp_path / "repositories-vfs")
    assert found.ids == {}
    [problem] = found.problems
    assert problem.loses


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "repositories-vfs").touch()
    os.truncate(tmp_path / "repositories-vfs", 1 << 40)
    [problem] = read_names(tmp_path / "repositories-vfs").problems
    assert "over the limit" in problem.error.message
