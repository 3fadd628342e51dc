"""A v1 store read whole: what stands on what, what is damaged, which driver it is of."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.stores.graph.builder import GraphBuilder, usual_json
from transship.errors import SourceCorrupt, SourceMissing, SourceUnsupported, UsageError
from transship.stores.graph.relations import children, heads
from transship.stores.graph.store import find_image, read_graph

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path / "docker")


def test_a_store_of_each_driver(builder: GraphBuilder) -> None:
    base = builder.image({"a": b"x"}, names=["base:1"])
    top = builder.image({".wh.a": b"", "b": b"y"}, base, ["app:1"])
    graph = read_graph(builder.root)
    assert (graph.driver, graph.other_drivers, graph.problems) == (builder.driver, (), ())
    assert set(graph.images) == {base, top}
    assert graph.names.ids == {"base:1": base, "app:1": top}
    assert graph.layer_directory(top) == builder.layer(top)


def test_a_store_of_docker_0_6(tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "docker", None)
    base = builder.image({"a": b"x"}, names=["base:1"], image_id="27cf784147099545")
    top = builder.image({"b": b"x"}, base)
    graph = read_graph(builder.root)
    assert graph.driver == "aufs"
    assert set(graph.images) == {base, top}
    assert graph.names.ids == {"base:1": base}
    assert [graph.layer_directory(each) for each in (base, top)] == [builder.layer(base), builder.layer(top)]
    outside = tmp_path / "outside"
    shutil.move(builder.layer(base), outside)
    builder.layer(base).symlink_to(outside)
    with pytest.raises(SourceCorrupt, match="not a directory"):
        graph.layer_directory(base)


def test_children_and_heads(store: GraphBuilder) -> None:
    base = store.image()
    left, right = store.image(parent=base), store.image(parent=base)
    orphan = store.image(raw=usual_json("", None, {"parent": "f" * 64}))
    graph = read_graph(store.root)
    assert {parent: [child.id for child in of_it] for parent, of_it in children(graph).items()} == {base: sorted([left, right])}
    assert [image.id for image in heads(graph)] == sorted([left, right, orphan])


def test_parents_come_first_and_what_is_lost_is_named(store: GraphBuilder) -> None:
    base = store.image(image_id="f" * 64)
    middle = store.image(parent=base, image_id="e" * 64)
    top = store.image(parent=middle, image_id="0" * 64)
    broken = store.image(raw=b"{", image_id="d" * 64)
    on_broken = store.image(raw=usual_json("", None, {"parent": broken}), image_id="1" * 64)
    on_that = store.image(parent=None, raw=usual_json("", None, {"parent": on_broken}), image_id="2" * 64)
    orphan = store.image(raw=usual_json("", None, {"parent": "9" * 64}), image_id="3" * 64)
    done, lost = read_graph(store.root).in_order()
    assert [image.id for image in done] == [base, middle, top]
    assert set(lost) == {broken, on_broken, on_that, orphan}
    assert "cannot be read" in lost[on_broken].message
    assert "stands on a damaged one" in lost[on_that].message
    assert "is not in the store" in lost[orphan].message


def test_circles_lose_only_who_is_in_them_or_above(store: GraphBuilder) -> None:
    own, one, two = "1" * 64, "2" * 64, "3" * 64
    store.image(raw=usual_json("", None, {"parent": own}), image_id=own)
    store.image(raw=usual_json("", None, {"parent": two}), image_id=one)
    store.image(raw=usual_json("", None, {"parent": one}), image_id=two)
    above = store.image(raw=usual_json("", None, {"parent": one}), image_id="0" * 64)
    good = store.image()
    graph = read_graph(store.root)
    done, lost = graph.in_order()
    assert [image.id for image in done] == [good]
    assert set(lost) == {own, one, two, above}
    assert all("own ancestors" in lost[each].message for each in (own, one, two))
    assert [image.id for image in heads(graph)] == sorted([above, good])


def test_a_chain_longer_than_calls_may_be(store: GraphBuilder) -> None:
    parent = store.image(image_id=f"{0:064x}")
    for number in range(1, 1500):
        image_id = f"{number:064x}"
        (store.graph / image_id).mkdir()
        (store.graph / image_id / "json").write_bytes(usual_json(image_id, parent, {}))
        parent = image_id
    done, lost = read_graph(store.root).in_order()
    assert (len(done), lost) == (1500, {})


def test_names_that_are_no_images_are_told_and_scratch_is_not(store: GraphBuilder) -> None:
    good = store.image()
    for name in ("lost+found", "x" * 64, "a" * 63, "A" * 64, os.fsdecode(b"\xff")):
        (store.graph / name).mkdir()
    (store.graph / "_dockerinit").write_bytes(b"")
    graph = read_graph(store.root)
    assert set(graph.images) == {good}
    assert len(graph.problems) == 5


def test_the_driver_that_has_layers_is_chosen(tmp_path: Path) -> None:
    vfs, overlay = GraphBuilder(tmp_path / "docker"), tmp_path / "docker/overlay"
    image_id = vfs.image(names=["a:1"])
    assert read_graph(vfs.root).driver == "vfs"
    with pytest.raises(SourceMissing, match="no layers of the graph driver overlay, but of vfs"):
        read_graph(vfs.root, "overlay")
    (overlay / image_id / "root").mkdir(parents=True)
    graph = read_graph(vfs.root)
    assert (graph.driver, graph.other_drivers, graph.names.ids) == ("overlay", ("vfs",), {})
    assert read_graph(vfs.root, "vfs").names.ids == {"a:1": image_id}
    (tmp_path / "docker/devicemapper/mnt" / image_id).mkdir(parents=True)
    with pytest.raises(SourceUnsupported, match="devicemapper"):
        read_graph(vfs.root)


def test_no_store(tmp_path: Path) -> None:
    with pytest.raises(SourceMissing):
        read_graph(tmp_path)


def test_images_are_found_by_what_is_unique_of_them(store: GraphBuilder) -> None:
    one = store.image(image_id="aaaa" + "0" * 60, names=["app:latest", "app:1"])
    two = store.image(image_id="aaab" + "0" * 60)
    broken = store.image(raw=b"{", image_id="bbbb" + "0" * 60)
    graph = read_graph(store.root)
    for text, found in [("aaaa", one), (two, two), ("app", one), ("app:1", one), ("b", broken)]:
        assert find_image(graph, text) == found
    for text in ("", "aaa", "c", "app:2", "../x", "aaaa\n"):
        with pytest.raises(UsageError):
            find_image(graph, text)
