"""Containers of v1 stores: one that cannot be carried over costs no other, and nothing of it is touched."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.legs.graph.upgrades import Upgrade, as_it_is, failed, noted

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.stores.graph.builder import GraphBuilder

ABSENT = "0" * 64


def _no_config(builder: GraphBuilder, container_id: str) -> None:
    (builder.containers / container_id / "config.json").unlink()


def _no_layer(builder: GraphBuilder, container_id: str) -> None:
    shutil.rmtree(builder.layer(container_id))


def _elsewhere(builder: GraphBuilder, container_id: str) -> None:
    outside = builder.root.parent / "outside"
    (builder.containers / container_id).rename(outside)
    (builder.containers / container_id).symlink_to(outside)


def _linked_config(builder: GraphBuilder, container_id: str) -> None:
    path = builder.containers / container_id / "config.json"
    path.unlink()
    path.symlink_to("/dev/zero")


def _config(content: bytes) -> Callable[[GraphBuilder, str], None]:
    def write(builder: GraphBuilder, container_id: str) -> None:
        (builder.containers / container_id / "config.json").write_bytes(content)

    return write


def _image(value: object) -> Callable[[GraphBuilder, str], None]:
    return _config(json.dumps({"Image": value}).encode())


DAMAGE: dict[str, tuple[Callable[[GraphBuilder, str], None], str]] = {
    "config missing": (_no_config, "is missing"),
    "layer missing": (_no_layer, "its writable layer is missing"),
    "elsewhere": (_elsewhere, "links are not followed"),
    "config a link": (_linked_config, "cannot read"),
    "config null": (_config(b"null"), "not a JSON object"),
    "config an array": (_config(b"[]"), "not a JSON object"),
    "config empty": (_config(b""), "not JSON"),
    "config huge": (_config(b'{"Image":"' + b"x" * (17 << 20) + b'"}'), "over the limit"),
    "config deep": (_config(b'{"Image":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), "levels deep"),
    "no image": (_config(b"{}"), "no Image"),
    "image null": (_image(None), "Image is null"),
    "image a number": (_image(5), "Image is not a string"),
    "image empty": (_image(""), "Image is empty"),
    "image absent": (_image(ABSENT), f"its image {ABSENT} could not be carried over"),
    "image a path": (_image("../../etc/passwd"), "its image ../../etc/passwd could not be carried over"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_one_that_is_damaged_costs_no_other(damage: str, builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b""}, names=["x:1"])
    first, bad, last = sorted(builder.container(image_id, {str(number): b""}) for number in range(3))
    spoil, reason = DAMAGE[damage]
    spoil(builder, bad)
    above = builder.root.parent
    before = as_it_is(above)
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    assert failed(ended).keys() == {bad}
    assert bad in failed(ended)[bad] or str(builder.containers / bad) in failed(ended)[bad]
    assert reason in failed(ended)[bad]
    assert upgrade.tags == {"x:1": upgrade.images[image_id]}
    for container_id in (first, last):
        assert upgrade.container(container_id)["Image"] == upgrade.images[image_id]
        assert upgrade.mount(container_id).keys() == {"mount-id", "init-id", "parent"}
    assert upgrade.container(bad) is None
    assert upgrade.mount(bad) == {}
    upgrade.take_back()
    shutil.rmtree(upgrade.state)
    after = as_it_is(above)
    assert after[0].keys() == before[0].keys()
    assert {name for name in before[1] if before[1][name] != after[1][name]} <= {"."}


def test_what_is_no_container_is_told_of(builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b""})
    container_id = builder.container(image_id)
    (builder.containers / "stray").write_bytes(b"")
    (builder.containers / ("A" * 64)).mkdir()
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    assert noted(ended).keys() == {str(builder.containers / name) for name in ("stray", "A" * 64)}
    assert upgrade.container(container_id) is not None


def test_one_whose_init_layer_is_missing(builder: GraphBuilder, upgrade: Upgrade) -> None:
    container_id = builder.container(builder.image({"x": b""}))
    shutil.rmtree(builder.layer(f"{container_id}-init"))
    assert upgrade.migrate().code == 0
    assert upgrade.mount(container_id).keys() == {"mount-id", "parent"}


def test_a_config_that_docker_has_written_stays(builder: GraphBuilder, upgrade: Upgrade) -> None:
    """Docker left such containers without a mount when it could not make one, and looked at them no more."""
    container_id = builder.container(builder.image({"x": b""}))
    path = builder.containers / container_id / "config.v2.json"
    path.write_bytes(b'{"Image":"its own"}')
    assert upgrade.migrate().code == 0
    assert path.read_bytes() == b'{"Image":"its own"}'
    assert upgrade.mount(container_id)["mount-id"] == container_id
