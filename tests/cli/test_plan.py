"""``transship plan``: tells all, writes nothing."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Sample, snapshot

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_what_would_move(sample: Sample) -> None:
    ended = sample.run("plan", "--json")
    assert ended.code == 0
    [document] = ended.documents
    assert document["source"] == str(sample.source)
    assert document["driver"] == "overlay2"
    assert document["target"] == f"oci:{sample.layout}"
    assert {image["id"]: image["references"] for image in document["images"]} == {
        sample.low: [f"{HUB}/low:1"],
        sample.high: [f"{HUB}/high:1", f"{HUB}/high:latest"],
        sample.other: [f"{HUB}/other:1"],
        sample.nameless: [],
    }
    assert {image["id"]: image["layers"] for image in document["images"]}[sample.high] == 2
    assert document["layers"] == 3
    assert document["left_out"] == []
    figures = document["estimate"]
    assert (figures["standing"], figures["bytes_to_read"]) == (0, 5000 + 11 + 5)
    assert figures["steps"] == 3 + 4 + 5  # blobs, manifests, names
    assert figures["room"] is True
    [room] = figures["rooms"]
    assert room["path"] == str(sample.layout.parent)
    assert {"bytes_to_write", "bytes_free", "inodes_to_write", "inodes_free"} <= room.keys()


def test_for_people(sample: Sample) -> None:
    ended = sample.run("plan")
    assert ended.code == 0
    for text in (f"{HUB}/high:1 and 1 more name", sample.nameless[7:19], "4 images, 3 layers, 12 steps", "overlay2", "free:"):
        assert text in ended.out
    assert "NOT ENOUGH ROOM" not in ended.out


def test_nothing_is_written(sample: Sample, tmp_path: Path) -> None:
    before = snapshot(tmp_path)
    sample.run("plan")
    sample.run("plan", "--json", "--image", "high:1")
    assert snapshot(tmp_path) == before
    assert not sample.state.exists()
    assert not sample.layout.exists()


def test_nothing_is_written_after_a_run_either(sample: Sample, tmp_path: Path) -> None:
    assert sample.migrate().code == 0
    before = snapshot(tmp_path)
    figures = sample.run("plan", "--json").report["estimate"]
    assert (figures["standing"], figures["bytes_to_read"]) == (figures["steps"], 0)
    assert snapshot(tmp_path) == before


def test_what_is_gone_from_the_target_counts_again(sample: Sample) -> None:
    sample.migrate()
    layer = sample.document(sample.names()[f"{HUB}/other:1"])["layers"][0]["digest"]
    sample.blob(layer).unlink()
    figures = sample.run("plan", "--json").report["estimate"]
    assert (figures["steps"] - figures["standing"], figures["bytes_to_read"]) == (1, 5)


def test_another_recipe_or_target_is_another_matter(sample: Sample, tmp_path: Path) -> None:
    sample.migrate()
    assert sample.run("plan", "--json", "--compression", "gzip").report["estimate"]["standing"] == 0
    sample.layout = tmp_path / "another"
    assert sample.run("plan", "--json").report["estimate"]["standing"] == 0


def test_what_cannot_move_and_why(sample: Sample) -> None:
    path = sample.builder.config_path(sample.other)
    path.write_bytes(b"")
    ended = sample.run("plan", "--json")
    assert ended.code == 1
    [left] = ended.report["left_out"]
    assert f"{path} is empty" in left["reason"]
    assert left["remedy"]
    assert f"{HUB}/other:1" in left["subject"]
    plain = sample.run("plan")
    assert plain.code == 1
    assert f"CANNOT MOVE: {sample.other} ({HUB}/other:1): " in plain.out


@pytest.mark.usefixtures("as_root")
def test_a_target_without_room(sample: Sample, tmp_path: Path) -> None:
    sample.builder.add_image(sample.builder.add_layer({"random": os.urandom(1 << 20)}), "big:1")
    with tiny(tmp_path / "tiny", "size=128k") as sample.layout:
        ended = sample.run("plan")
        assert ended.code == 0
        assert "NOT ENOUGH ROOM" in ended.out
        assert sample.run("plan", "--json").report["estimate"]["room"] is False


@pytest.mark.usefixtures("as_root")
def test_a_target_that_gets_full_can_be_continued(sample: Sample, tmp_path: Path) -> None:
    sample.builder.add_image(sample.builder.add_layer({"random": os.urandom(1 << 20)}), "big:1")
    with tiny(tmp_path / "tiny", "size=256k") as sample.layout:
        full = sample.migrate()
        assert full.code == 4
        assert full.report["error"] == "TargetFull"
        assert full.report["remedy"]
        sample.ensure_consistent(unfinished=True)
        subprocess.run(["mount", "-o", "remount,size=8m", str(sample.layout)], check=True)
        ended = sample.migrate()
        assert ended.code == 0, ended.all
        assert sample.image_ids().items() >= sample.expected.items()
        assert sample.run("verify").code == 0


@contextmanager
def tiny(place: Path, options: str) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)
