"""Reading what Docker 0.6 left where it had it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from transship.errors import SourceCorrupt, SourceError
from transship.stores.graph.before_drivers import (
    Container,
    container_place,
    image_place,
    is_in_old_place,
    read_containers,
    read_layers,
)

if TYPE_CHECKING:
    from tests.stores.graph.builder import GraphBuilder


@pytest.fixture
def driver() -> None:
    """None: there was none."""


def test_images_parents_first(builder: GraphBuilder) -> None:
    ids = [builder.image(image_id=digit * 64) for digit in "fa"]
    ids += [builder.image(parent="f" * 64, image_id="1" * 64)]
    ids += [builder.image(parent="1" * 64, image_id="0" * 16)]
    found = read_layers(builder.root)
    assert sorted(image.id for image in found.images) == sorted(ids)
    order = [image.id for image in found.images]
    assert order.index("f" * 64) < order.index("1" * 64) < order.index("0" * 16)
    assert (found.lost, found.strays) == ({}, ())


def test_images_in_either_place(builder: GraphBuilder) -> None:
    base, top = builder.image(), builder.image(parent=None)
    (builder.root / "aufs/diff").mkdir(parents=True)
    builder.layer(base).rename(builder.root / "aufs/diff" / base)
    assert {image.id for image in read_layers(builder.root).images} == {base, top}
    assert not is_in_old_place(builder.root, image_place(base), base)
    assert is_in_old_place(builder.root, image_place(top), top)


def test_an_image_of_another_driver_is_none_of_these(builder: GraphBuilder) -> None:
    image = builder.image()
    builder.layer(image).rename(builder.root / "elsewhere")
    found = read_layers(builder.root)
    assert (found.images, found.lost) == ((), {})


def test_lost_ones_say_why(builder: GraphBuilder) -> None:
    base = builder.image(raw=b"null")
    top = builder.image(parent=base)
    found = read_layers(builder.root)
    assert found.images == ()
    assert "null" in found.lost[base].message
    assert f"its parent {base} cannot be read: " in found.lost[top].message


def test_strays_have_a_layer(builder: GraphBuilder) -> None:
    (builder.graph / "stray" / "layer").mkdir(parents=True)
    (builder.graph / "empty").mkdir()
    (builder.graph / "_tmp" / "layer").mkdir(parents=True)
    assert read_layers(builder.root).strays == (str(builder.graph / "stray"),)


def test_containers_with_and_without_files(builder: GraphBuilder) -> None:
    image = builder.image()
    started, not_started = builder.container(image, {"f": b"1"}), builder.container(image, started=False)
    builder.container(image, started=False, config={"Driver": "aufs"})
    found, lost = read_containers(builder.root)
    expected = [Container(started, image, has_files=True), Container(not_started, image, has_files=False)]
    assert (sorted(found, key=str), lost) == (sorted(expected, key=str), {})


@pytest.mark.parametrize("config", [{"Driver": ""}, {"State": None}, {"State": {}}, {"State": {"StartedAt": None}}])
def test_what_later_versions_write_for_an_old_container(builder: GraphBuilder, config: dict[str, object]) -> None:
    container = builder.container(builder.image(), started=False, config=config)
    assert [each.id for each in read_containers(builder.root)[0]] == [container]


def test_a_container_that_the_driver_knows_is_none_of_these(builder: GraphBuilder) -> None:
    container = builder.container(builder.image(), started=False)
    (builder.root / "aufs/layers").mkdir(parents=True)
    (builder.root / "aufs/layers" / container).touch()
    assert read_containers(builder.root) == ([], {})


def test_a_damaged_container_without_files_is_for_others_to_tell(builder: GraphBuilder) -> None:
    container = builder.container(builder.image(), started=False)
    (builder.containers / container / "config.json").write_bytes(b"{")
    assert read_containers(builder.root) == ([], {})


def test_a_layer_in_both_places_is_refused(builder: GraphBuilder) -> None:
    container = builder.container(builder.image(), {"f": b"1"})
    (builder.root / "aufs/diff" / container).mkdir(parents=True)
    with pytest.raises(SourceCorrupt, match="are both there"):
        is_in_old_place(builder.root, container_place(container), container)


@pytest.mark.parametrize("target", ["/var/lib/docker/graph/{}/layer", "../../graph/{}/layer"])
def test_a_link_to_the_old_place_is_no_other_place(builder: GraphBuilder, target: str) -> None:
    image = builder.image()
    (builder.root / "aufs/diff").mkdir(parents=True)
    (builder.root / "aufs/diff" / image).symlink_to(target.format(image))
    assert is_in_old_place(builder.root, image_place(image), image)


def test_what_cannot_be_listed_is_an_error(builder: GraphBuilder) -> None:
    builder.containers.rename(builder.root / "elsewhere")
    builder.containers.touch()
    with pytest.raises(SourceError, match="cannot read"):
        read_containers(builder.root)
