"""``transship verify``: finds what differs, however small, and names it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import HUB, Sample, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["zstd", "gzip", "none"])
def moved(sample: Sample, request: pytest.FixtureRequest) -> Sample:
    assert sample.migrate("--compression", request.param).code == 0
    return sample


def differences(sample: Sample, *arguments: str) -> list[str]:
    before = snapshot(sample.layout)
    ended = sample.run("verify", "--json", *arguments)
    assert snapshot(sample.layout) == before
    report = ended.report
    assert ended.code == (5 if report["differences"] else 0), ended.all
    found: list[str] = report["differences"]
    plain = sample.run("verify", *arguments)
    assert plain.code == ended.code
    assert all(text in plain.err for text in found)
    assert (f"{len(found)} DIFFER" if found else "no differences") in plain.out
    return found


def layer_of(sample: Sample, name: str) -> Path:
    return sample.blob(sample.document(sample.names()[f"{HUB}/{name}"])["layers"][-1]["digest"])


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.chmod(0o644)
    path.write_bytes(change(path.read_bytes()))


def rewrite_index(sample: Sample, change: Callable[[list[dict[str, Any]]], None]) -> None:
    index = json.loads((sample.layout / "index.json").read_bytes())
    change(index["manifests"])
    (sample.layout / "index.json").write_text(json.dumps(index))


def test_no_differences(moved: Sample) -> None:
    assert differences(moved) == []
    assert moved.run("verify", "--json").report["checks"] == 4 + 3  # images, blobs


@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_byte_in_a_layer(moved: Sample, position: int) -> None:
    path = layer_of(moved, "other:1")

    def flip(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    rewrite(path, flip)
    [found] = differences(moved)
    assert path.name[:12] in found


@pytest.mark.parametrize("keep", [0, 10, -1])
def test_a_truncated_layer(moved: Sample, keep: int) -> None:
    path = layer_of(moved, "other:1")
    rewrite(path, lambda data: data[:keep])
    [found] = differences(moved)
    assert path.name[:12] in found


def test_a_layer_with_trailing_bytes(moved: Sample) -> None:
    path = layer_of(moved, "other:1")
    rewrite(path, lambda data: data + bytes(100))
    [found] = differences(moved)
    assert path.name[:12] in found


def test_a_missing_layer(moved: Sample) -> None:
    path = layer_of(moved, "high:1")
    path.unlink()
    [found] = differences(moved)
    assert path.name in found


def test_a_config_that_differs(moved: Sample) -> None:
    rewrite(moved.blob(moved.other), lambda data: data.replace(b"amd64", b"arm64"))
    [found] = differences(moved)
    assert f"{HUB}/other:1" in found
    moved.blob(moved.other).unlink()
    [found] = differences(moved)
    assert f"{HUB}/other:1" in found


def test_a_damaged_and_a_missing_manifest(moved: Sample) -> None:
    digest = moved.names()[f"{HUB}/other:1"]
    rewrite(moved.blob(digest), lambda data: data[:-1])
    [found] = differences(moved)
    assert f"{HUB}/other:1" in found
    moved.blob(digest).unlink()
    [found] = differences(moved)
    assert f"{HUB}/other:1" in found


def test_a_missing_name(moved: Sample) -> None:
    rewrite_index(moved, lambda entries: entries.remove(next(each for each in entries if _name(each).endswith("high:latest"))))
    [found] = differences(moved)
    assert f"the name {HUB}/high:latest is missing" in found


def test_an_image_without_a_name_that_is_gone(moved: Sample) -> None:
    rewrite_index(moved, lambda entries: entries.remove(next(each for each in entries if "moby-dangling" in _name(each))))
    [found] = differences(moved)
    assert moved.nameless[7:19] in found


def test_a_name_that_leads_elsewhere(moved: Sample) -> None:
    def swap(entries: list[dict[str, Any]]) -> None:
        low = next(each for each in entries if _name(each).endswith("/low:1"))
        high = next(each for each in entries if _name(each).endswith("/high:latest"))
        high["digest"], high["size"] = low["digest"], low["size"]

    rewrite_index(moved, swap)
    [found] = differences(moved)
    assert f"{HUB}/high:latest is image {moved.low}, should be {moved.high}" in found


def _name(entry: dict[str, Any]) -> str:
    name: str = entry["annotations"]["io.containerd.image.name"]
    return name


def test_nothing_was_moved_yet(sample: Sample) -> None:
    assert len(differences(sample)) == 4


def test_only_what_was_asked_for(sample: Sample) -> None:
    sample.migrate("--image", "low:1")
    assert differences(sample, "--image", "low:1") == []
    assert len(differences(sample)) == 3


def test_what_came_to_the_source_since(moved: Sample) -> None:
    moved.builder.add_image(moved.top, "new:1", config={"comment": "new"})
    [found] = differences(moved)
    assert f"{HUB}/new:1" in found


def test_everything_that_differs_is_told_in_one_go(moved: Sample) -> None:
    for name in ("high:1", "other:1"):
        rewrite(layer_of(moved, name), lambda data: data[:-1])
    assert len(differences(moved)) == 2


def test_what_is_damaged_in_the_source_is_not_called_checked(sample: Sample) -> None:
    assert sample.migrate().code == 0
    next(sample.builder.configs.iterdir()).write_bytes(b"")
    checked = sample.run("verify", "--json")
    assert checked.code == 1, checked.all
    assert checked.report["differences"] == []
    assert any("is empty" in text for text in checked.report["unchecked"])
