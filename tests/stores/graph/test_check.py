"""Finding damage in a v1 store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.files.trees import listing
from tests.stores.graph.builder import GraphBuilder, usual_json
from transship.errors import SourceCorrupt
from transship.stores.graph import check
from transship.stores.graph.store import read_graph

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def layers(builder: GraphBuilder) -> tuple[dict[str, bool], dict[str, SourceCorrupt], int]:
    """Check all layers: which are recorded, which are damaged, how many bytes were read."""
    graph, read = read_graph(builder.root), [0]
    recorded, damaged = {}, {}

    def passed(count: int) -> None:
        read[0] += count

    before = listing(builder.root)
    for image in graph.images.values():
        try:
            recorded[image.id] = check.check_layer(graph, image, passed)
        except SourceCorrupt as error:
            damaged[image.id] = error
    assert listing(builder.root) == before
    return recorded, damaged, read[0]


def test_whole_layers(builder: GraphBuilder) -> None:
    base = builder.image({"a": b"x"}, names=["base:1"])
    top = builder.image({".wh.a": b"", "b": b"yy"}, base)
    old = builder.image({"c": b"z"}, top, tar_data=False)
    recorded, damaged, read = layers(builder)
    assert recorded == {base: True, top: True, old: False}
    assert damaged == {}
    assert read >= len(builder.tar(base)) + len(builder.tar(top))
    assert check.metadata_problems(read_graph(builder.root)) == []


def test_layers_of_docker_0_6(tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "docker", None)
    base = builder.image({"a": b"x"}, image_id="27cf784147099545")
    top = builder.image({".wh.a": b""}, base)
    assert layers(builder)[:2] == ({base: False, top: False}, {})
    assert check.metadata_problems(read_graph(builder.root)) == []


DAMAGE: list[tuple[str, Callable[[Path, Path], object]]] = [
    ("has changed", lambda layer, _: (layer / "file").write_bytes(b"other")),
    ("file", lambda layer, _: (layer / "file").write_bytes(b"longer than it was")),
    ("file", lambda layer, _: (layer / "file").unlink()),
    ("tar-data", lambda _, directory: (directory / "tar-data.json.gz").write_bytes(b"")),
    ("tar-data", lambda _, directory: os.truncate(directory / "tar-data.json.gz", 30)),
    ("", lambda layer, _: layer.rename(layer.with_name("elsewhere"))),
]


@pytest.mark.parametrize(("named", "damage"), DAMAGE, ids=range(len(DAMAGE)))
def test_damaged_layers(builder: GraphBuilder, named: str, damage: Callable[[Path, Path], object]) -> None:
    good = builder.image({"file": b"12345"})
    image_id = builder.image({"file": b"67890"})
    damage(builder.layer(image_id), builder.directory(image_id))
    recorded, damaged, _ = layers(builder)
    assert recorded == {good: True}
    assert set(damaged) == {image_id}
    assert named in damaged[image_id].message


def test_a_recorded_layer_is_whole_whatever_became_of_what_it_stands_on(tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "docker")
    base = builder.image({"file": b"12345"})
    top = builder.image({"more": b"x"}, base)
    builder.layer(base).rename(builder.layer(base).with_name("elsewhere"))
    recorded, damaged, _ = layers(builder)
    assert recorded == {top: True}
    assert set(damaged) == {base}


def test_metadata(tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "docker")
    good = builder.image(names=["good:1"])
    broken = builder.image(raw=b"{", names=["broken:1"])
    above = builder.image(raw=usual_json("", None, {"parent": broken}))
    stranger = builder.image(raw=usual_json("f" * 64, None, {}))
    odd_size = builder.image(extra={"layersize": "x"})
    builder.name("gone:1", "e" * 64)
    builder.name("Bad Name:1", good)
    (builder.graph / "lost+found").mkdir()
    problems = {problem.subject: problem for problem in check.metadata_problems(read_graph(builder.root))}
    stray = str(builder.graph / "lost+found")
    assert set(problems) == {broken, above, stranger, odd_size, "gone:1", "Bad Name:1", stray}
    assert {subject for subject, problem in problems.items() if problem.loses} == {"gone:1", "Bad Name:1"}


def test_the_best_stream(builder: GraphBuilder) -> None:
    image_id = builder.image({"file": b"12345"})

    def stream() -> tuple[bytes, str]:
        graph = read_graph(builder.root)
        chunks, why = check.best_stream(check.layer_files(graph, graph.images[image_id]))
        return b"".join(bytes(chunk) for chunk in chunks), why

    assert stream() == (builder.tar(image_id), "")
    (builder.layer(image_id) / "file").write_bytes(b"67890")
    anew, why = stream()
    assert b"67890" in anew
    assert "has changed" in why
