"""What is told of old roots before, and of upgraded ones after."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import HUB, Ended, Journey
from tests.legs.graph.upgrades import as_it_is, failed, upgrade_of
from tests.stores.graph.builder import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Old:
    """A root with an image on another, and one of its own with a container."""

    def __init__(self, place: Path) -> None:
        self.builder = GraphBuilder(place / "docker")
        self.low = self.builder.image({"low": b"1"}, names=["low:1", "low:latest"])
        self.high = self.builder.image({"high": b"2"}, self.low, names=["high:1"])
        self.other = self.builder.image({"other": b"3"}, names=["other:1"], tar_data=False)
        self.container = self.builder.container(self.other)
        self.upgrade = upgrade_of(self.builder.root, place / "state")
        self.journey = Journey(self.builder.root, place / "layout", place / "state")


@pytest.fixture
def old(tmp_path: Path) -> Old:
    return Old(tmp_path)


def legs(ended: Ended) -> list[tuple[str, int | None]]:
    return [(leg["leg"], leg["steps"]) for leg in ended.report["legs"]]


def images(ended: Ended) -> dict[str, list[str]]:
    return {image["id"]: image["references"] for image in ended.report["images"]}


@pytest.mark.parametrize("chained", [False, True])
def test_a_plan_shows_all_legs_and_writes_nothing(chained: bool, old: Old, tmp_path: Path) -> None:
    before = as_it_is(tmp_path)
    journey = old.journey if chained else old.upgrade
    ended = journey.run("plan", "--json")
    assert ended.code == 0, ended.all
    # Two steps an image, the store, the names, and in place the container.
    assert legs(ended) == ([("graph", 8), ("containerd", None)] if chained else [("graph", 9)])
    assert images(ended) == {old.low: ["low:1", "low:latest"], old.high: ["high:1"], old.other: ["other:1"]}
    assert ended.report["layers"] == 3
    assert ended.report["left_out"] == []
    shown = journey.run("plan")
    assert "leg 1: graph" in shown.out
    assert ("leg 2: containerd" in shown.out) == chained
    assert as_it_is(tmp_path) == before


@pytest.mark.parametrize("chained", [False, True])
def test_a_plan_after_it_has_nothing_left_to_do(chained: bool, old: Old, tmp_path: Path) -> None:
    journey = old.journey if chained else old.upgrade
    assert journey.migrate().code == 0
    before = as_it_is(tmp_path)
    ended = journey.run("plan", "--json")
    assert ended.code == 0, ended.all
    figures = ended.report["estimate"]
    assert figures["steps"] == figures["standing"] > 0
    assert [leg for leg, _ in legs(ended)] == (["graph", "containerd"] if chained else ["graph"])
    assert as_it_is(tmp_path) == before


def test_a_plan_tells_what_will_be_lost(old: Old) -> None:
    bad = old.builder.image({}, image_id="f" * 64, raw=b"null", names=["bad:1"])
    above = old.builder.image({}, bad)
    old.builder.name("UPPER:1", old.low)
    for journey in (old.journey, old.upgrade):
        ended = journey.run("plan", "--json")
        assert ended.code == 1, ended.all
        assert {left["subject"] for left in ended.report["left_out"]} >= {bad, above, "UPPER:1"}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [("high:1", {"high", "low"}), ("low", {"low"}), ("ID of high", {"high", "low"}), ("its first digits", {"high", "low"})],
)
def test_some_images_only(wanted: str, expected: set[str], old: Old) -> None:
    """Nothing else is read: what is damaged there is nobody's business."""
    wanted = {"ID of high": old.high, "its first digits": old.high[:8]}.get(wanted, wanted)
    shutil.rmtree(old.builder.layer(old.other))
    ended = old.journey.run("plan", "--json", "--image", wanted)
    assert ended.code == 0, ended.all
    assert images(ended).keys() == {getattr(old, name) for name in expected}
    ended = old.journey.migrate("--image", wanted)
    assert ended.code == 0, ended.all
    assert {name.rpartition(":")[0] for name in old.journey.names()} == {f"{HUB}/{name}" for name in expected}
    assert old.journey.run("verify", "--image", wanted).code == 0
    ended = old.journey.migrate()
    assert ended.code == 1, ended.all
    assert failed(ended).keys() == {old.other, "other:1"}


def test_what_images_are_meant_must_be_clear(old: Old) -> None:
    old.builder.image({"twin": b""}, image_id=old.low[:5] + "0" * 59)
    for wanted in ("absent", "", "low:2", old.low[:5], "0" * 64, "../../etc"):
        for name in ("plan", "migrate"):
            ended = old.journey.run(name, "--json", "--image", wanted)
            assert ended.code == 2, ended.all
            assert ended.report["error"] == "UsageError"


def test_an_upgrade_in_place_is_of_all(old: Old) -> None:
    before = as_it_is(old.builder.root)
    for name in ("plan", "migrate"):
        ended = old.upgrade.run(name, "--json", "--image", "low:1")
        assert ended.code == 2, ended.all
        assert "--image" in ended.report["remedy"]
    assert as_it_is(old.builder.root) == before


@pytest.mark.parametrize("chained", [False, True])
def test_a_check_before_there_is_anything(chained: bool, old: Old) -> None:
    ended = (old.journey if chained else old.upgrade).run("verify", "--json")
    assert ended.code == 3, ended.all
    assert "nothing has been made of it yet" in ended.report["message"]
    assert "transship migrate" in ended.report["remedy"]


def _change_a_file(old: Old) -> None:
    (old.builder.layer(old.high) / "high").write_bytes(b"3")


def _remove_a_config(old: Old) -> None:
    new_id = old.upgrade.images[old.high].removeprefix("sha256:")
    (old.builder.root / "image/vfs/imagedb/content/sha256" / new_id).unlink()


def _remove_a_name(old: Old) -> None:
    path = old.builder.root / "image/vfs/repositories.json"
    document: Any = json.loads(path.read_bytes())
    del document["Repositories"]["high"]
    path.write_text(json.dumps(document))


def _remove_an_entry(old: Old) -> None:
    [path] = [
        path.parent for path in old.builder.root.glob("image/vfs/layerdb/sha256/*/cache-id") if path.read_text() == old.high
    ]
    shutil.rmtree(path)


@pytest.mark.parametrize(
    ("damage", "told"),
    [(_change_a_file, "its files give"), (_remove_a_config, "{high}"), (_remove_a_name, "high:1"), (_remove_an_entry, "layer")],
)
def test_a_check_finds_what_is_not_so_any_more(damage: Callable[[Old], None], told: str, old: Old) -> None:
    assert old.upgrade.migrate().code == 0
    whole = old.upgrade.run("verify", "--json")
    assert whole.code == 0, whole.all
    assert whole.report["checks"] > 3
    damage(old)
    ended = old.upgrade.run("verify", "--json")
    assert ended.code == 5, ended.all
    assert told.format(high=old.high) in " ".join(ended.report["differences"])


def test_a_second_store_of_the_root_is_told_of(old: Old) -> None:
    (old.builder.root / "overlay" / old.low / "root").mkdir(parents=True)
    ended = old.upgrade.run("plan")
    assert ended.code == 0, ended.all
    assert "driver overlay" in ended.out  # Docker 1.9 looked for it before vfs
    assert "other drivers in the same root are not part of this: vfs" in ended.out
