"""Old roots that are damaged, or made to do harm: what is concerned is named and stays, everything else is moved."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.legs.aufs.relocation import relocate, take_back
from tests.real.trees import differences, listing
from transship.formats.docker_image import SIZE_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stores.graph.builder import GraphBuilder
    from transship.legs.left_out import LeftOut

pytestmark = pytest.mark.usefixtures("as_root")


class Root:
    """A store of three images on each other, a container on each, and an image that has nothing to do with these."""

    def __init__(self, builder: GraphBuilder, outside: Path) -> None:
        self.path = builder.root
        self.outside = outside
        self.base = builder.image({"base": b"1"})
        self.image = builder.image({"image": b"2"}, self.base)
        self.child = builder.image({"child": b"3"}, self.image)
        self.apart = builder.image({"apart": b"4"})
        self.of_base = builder.container(self.base, {"b": b"5"})
        self.of_image = builder.container(self.image, {"i": b"6"})
        self.of_child = builder.container(self.child, {"c": b"7"})
        self.never_started = builder.container(self.image, started=False)
        self.directory = builder.directory(self.image)
        self.container = builder.containers / self.of_image
        outside.mkdir()

    def is_moved(self, layer_id: str) -> bool:
        places = [self.path / "graph" / layer_id / "layer", self.path / "containers" / layer_id / "rw"]
        return (self.path / "aufs/diff" / layer_id).is_dir() and not any(map(os.path.lexists, places))


@pytest.fixture
def root(builder: GraphBuilder, place: Path) -> Root:
    return Root(builder, place / "outside")


def layer_is_a_link(root: Root) -> None:
    (root.directory / "layer").rename(root.outside / "layer")
    (root.directory / "layer").symlink_to(root.outside / "layer")


def layer_is_a_file(root: Root) -> None:
    shutil.rmtree(root.directory / "layer")
    (root.directory / "layer").touch()


def directory_is_a_link(root: Root) -> None:
    root.directory.rename(root.outside / "image")
    root.directory.symlink_to(root.outside / "image")


def directory_is_a_file(root: Root) -> None:
    shutil.rmtree(root.directory)
    root.directory.touch()


def layer_is_in_both_places(root: Root) -> None:
    shutil.copytree(root.directory / "layer", root.path / "aufs/diff" / root.image)


def place_is_empty(root: Root) -> None:
    (root.path / "aufs/diff" / root.image).mkdir(parents=True)


def link_leads_elsewhere(root: Root) -> None:
    (root.path / "aufs/diff").mkdir(parents=True)
    (root.path / "aufs/diff" / root.image).symlink_to(root.outside)


def link_leads_to_another_layer(root: Root) -> None:
    (root.path / "aufs/diff").mkdir(parents=True)
    (root.path / "aufs/diff" / root.image).symlink_to(root.path / "graph" / root.base / "layer")


def json_is(text: str) -> Callable[[Root], None]:
    def damage(root: Root) -> None:
        (root.directory / "json").write_text(text.replace("SELF", root.image).replace("CHILD", root.child))

    return damage


def json_is_missing(root: Root) -> None:
    (root.directory / "json").unlink()


def json_is_a_fifo(root: Root) -> None:
    (root.directory / "json").unlink()
    os.mkfifo(root.directory / "json")


def json_is_huge(root: Root) -> None:
    os.truncate(root.directory / "json", SIZE_LIMIT + 1)


def layer_is_missing(root: Root) -> None:
    shutil.rmtree(root.directory / "layer")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (layer_is_a_link, "is not a directory"),
        (layer_is_a_file, "is not a directory"),
        (layer_is_in_both_places, "are both there"),
        (place_is_empty, "are both there"),
        (link_leads_elsewhere, "is a link to"),
        (link_leads_to_another_layer, "is a link to"),
        (json_is("null"), "null"),
        (json_is(""), "json"),
        (json_is("[" * 100_000), "json"),
        (json_is('{"id":"SELF","parent":"SELF"}'), "among its own ancestors"),
        (json_is('{"id":"SELF","parent":"CHILD"}'), "among its own ancestors"),
        (json_is('{"id":"SELF","parent":"' + "a" * 64 + '"}'), "is not in the store"),
        (json_is('{"id":"SELF","parent":"../../../etc"}'), "is no image ID"),
        (json_is('{"id":"SELF","parent":"x\\n"}'), "is no image ID"),
        (json_is_missing, "json is missing"),
        (json_is_a_fifo, "is not a regular file"),
        (json_is_huge, "over the limit"),
    ],
)
def test_a_damaged_image_stays_with_what_stands_on_it(root: Root, damage: Callable[[Root], None], message: str) -> None:
    damage(root)
    before, outside = listing(root.path), listing(root.outside)
    summary, left_out = relocate(root.path)
    assert {left.subject for left in left_out} == {root.image, root.child, root.of_image, root.of_child, root.never_started}
    assert {failure.key for failure in summary.failed} == {f"lost:{left.subject}" for left in left_out}
    assert message in reason_of(left_out, root.image)
    assert root.image[:12] in reason_of(left_out, root.of_image)
    for lost in (root.image, root.child, root.of_image, root.of_child):
        assert not os.path.lexists(root.path / "aufs/layers" / lost)
        assert not os.path.lexists(root.path / "aufs/mnt" / lost)
    assert all(map(root.is_moved, (root.base, root.apart, root.of_base)))
    assert take_back(root.path) == []
    assert differences(listing(root.path), before) == {}
    assert differences(listing(root.outside), outside) == {}


def reason_of(left_out: list[LeftOut], subject: str) -> str:
    [reason] = [left.reason for left in left_out if left.subject == subject]
    return reason


@pytest.mark.parametrize("damage", [directory_is_a_link, directory_is_a_file, layer_is_missing])
def test_what_is_no_image_of_aufs_is_told_by_what_stands_on_it(root: Root, damage: Callable[[Root], None]) -> None:
    damage(root)
    outside = listing(root.outside)
    _, left_out = relocate(root.path)
    lost = {left.subject for left in left_out}
    assert lost - {root.image} == {root.child, root.of_image, root.of_child, root.never_started}
    assert root.image in reason_of(left_out, root.child)
    assert all(map(root.is_moved, (root.base, root.apart, root.of_base)))
    assert differences(listing(root.outside), outside) == {}


def rw_is_a_link(root: Root) -> None:
    (root.container / "rw").rename(root.outside / "rw")
    (root.container / "rw").symlink_to(root.outside / "rw")


def container_is_a_link(root: Root) -> None:
    root.container.rename(root.outside / "container")
    root.container.symlink_to(root.outside / "container")


def rw_is_in_both_places(root: Root) -> None:
    (root.path / "aufs/diff" / root.of_image).mkdir(parents=True)


def config_is(text: str) -> Callable[[Root], None]:
    def damage(root: Root) -> None:
        (root.container / "config.json").write_text(text)

    return damage


def config_is_missing(root: Root) -> None:
    (root.container / "config.json").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (rw_is_a_link, "is not a directory"),
        (container_is_a_link, "is not a directory"),
        (rw_is_in_both_places, "are both there"),
        (config_is_missing, "is missing"),
        (config_is("null"), "is damaged"),
        (config_is("{}"), "is damaged"),
        (config_is("[" * 100_000), "is damaged"),
        (config_is('{"Image":null}'), "is damaged"),
        (config_is('{"Image":"../../../etc"}'), "'../../../etc' cannot be moved, or has no layer"),
        (config_is('{"Image":"' + "e" * 64 + '"}'), "cannot be moved, or has no layer"),
    ],
)
def test_a_damaged_container_stays_alone(root: Root, damage: Callable[[Root], None], message: str) -> None:
    damage(root)
    before, outside = listing(root.path), listing(root.outside)
    summary, [left] = relocate(root.path)
    assert (left.subject, left.lost) == (root.of_image, True)
    assert message in left.reason
    assert [failure.key for failure in summary.failed] == [f"lost:{root.of_image}"]
    assert not os.path.lexists(root.path / "aufs/layers" / root.of_image)
    assert all(map(root.is_moved, (root.image, root.of_base, root.of_child, root.never_started)))
    assert take_back(root.path) == []
    assert differences(listing(root.path), before) == {}
    assert differences(listing(root.outside), outside) == {}


def test_strange_names_are_told_and_left_alone(root: Root) -> None:
    for name in ("x", "-rf", "a\nb", os.fsdecode(b"\xff"), "A" * 64, "a" * 63):
        (root.path / "graph" / name / "layer").mkdir(parents=True)
        (root.path / "graph" / name / "json").write_text(f'{{"id":"{"a" * 64}"}}')
        (root.path / "containers" / name / "rw").mkdir(parents=True)
    (root.path / "graph" / "empty").mkdir()
    strange = listing(root.path / "graph" / "x")
    summary, left_out = relocate(root.path)
    assert summary.failed == ()
    assert len(left_out) == 6
    assert not any(left.lost for left in left_out)
    assert all("is not called by an image ID" in left.reason for left in left_out)
    assert listing(root.path / "graph" / "x") == strange
    assert len(list((root.path / "aufs/layers").iterdir())) == 4 + 2 * 4


def test_what_fails_on_the_way_blocks_what_stands_on_it(root: Root) -> None:
    (root.path / "aufs/mnt").mkdir(parents=True)
    (root.path / "aufs/mnt" / root.image).touch()
    summary, left_out = relocate(root.path)
    assert left_out == []
    [failure] = summary.failed
    assert failure.key == f"relocate-image:{root.image}"
    assert f"aufs/mnt/{root.image}" in failure.error.message
    assert {blocked.partition(":")[2] for blocked in summary.blocked} == {
        root.child, root.of_image, root.of_child, root.never_started,
    }  # fmt: skip
    assert (root.directory / "layer").is_dir()
    assert all(map(root.is_moved, (root.base, root.apart, root.of_base)))


# Containers without files


def test_one_that_was_never_started_gets_its_layers(root: Root) -> None:
    relocate(root.path)
    aufs = root.path / "aufs"
    assert list((aufs / "diff" / root.never_started).iterdir()) == []
    assert (aufs / "layers" / root.never_started).read_text().split() == [
        f"{root.never_started}-init", root.image, root.base,
    ]  # fmt: skip
    assert (aufs / "diff" / f"{root.never_started}-init" / "etc/hosts").exists()


def test_one_whose_files_are_missing_is_not_given_empty_ones(root: Root, builder: GraphBuilder) -> None:
    state = {"State": {"StartedAt": "2013-11-21T18:03:41.5Z"}}
    lost = builder.container(root.image, started=False, config=state)
    _, [left] = relocate(root.path)
    assert (left.subject, left.lost) == (lost, True)
    assert f"containers/{lost}/rw is missing" in left.reason
    assert not os.path.lexists(root.path / "aufs/layers" / lost)


@pytest.mark.parametrize("driver", ["aufs", "vfs"])
def test_one_that_a_driver_has_lost_is_not_given_empty_ones(root: Root, builder: GraphBuilder, driver: str) -> None:
    lost = builder.container(root.image, started=False, config={"Driver": driver})
    _, left_out = relocate(root.path)
    assert left_out == []
    assert not os.path.lexists(root.path / "aufs/layers" / lost)


def test_one_that_docker_moved_and_did_not_get_to_know_is_made_known(root: Root) -> None:
    (root.path / "aufs/diff").mkdir(parents=True)
    (root.container / "rw").rename(root.path / "aufs/diff" / root.of_image)
    before = listing(root.path)
    _, left_out = relocate(root.path)
    assert left_out == []
    assert (root.path / "aufs/diff" / root.of_image / "i").read_bytes() == b"6"
    assert (root.path / "aufs/layers" / root.of_image).read_text().startswith(f"{root.of_image}-init\n{root.image}\n")
    assert take_back(root.path) == []
    assert differences(listing(root.path), before) == {}


def test_a_book_that_is_wrong_is_made_right(root: Root) -> None:
    """Docker did not write it at one stroke."""
    (root.path / "aufs/layers").mkdir(parents=True)
    (root.path / "aufs/layers" / root.child).touch()
    before = listing(root.path)
    relocate(root.path)
    assert (root.path / "aufs/layers" / root.child).read_text() == f"{root.image}\n{root.base}\n"
    assert take_back(root.path) == []
    assert differences(listing(root.path), before) == {}
