"""Reading one image of a v1 store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.stores.graph.builder import GraphBuilder, usual_json
from transship.errors import SourceCorrupt
from transship.stores.graph.images import read_image
from transship.stores.graph.relations import ensure_loadable

if TYPE_CHECKING:
    from pathlib import Path

OTHER = "f" * 64
DIGEST = "sha256:" + "a" * 64


@pytest.fixture
def store(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path / "docker")


def test_what_an_image_says(store: GraphBuilder) -> None:
    base = store.image()
    image_id = store.image({"a": b"12345"}, base, extra={"checksum": DIGEST})
    image = read_image(store.directory(image_id))
    assert (image.id, image.parent, image.size, image.registry_digest) == (image_id, base, 5, DIGEST)
    assert image.raw == (store.directory(image_id) / "json").read_bytes()
    assert image.tar_data.exists()
    ensure_loadable(image)


def test_the_parent_as_registry_v2_had_it(store: GraphBuilder) -> None:
    image_id = store.image(id=None, parent_id=f"sha256:{OTHER}")
    assert read_image(store.directory(image_id)).parent == OTHER
    kept = store.image(id=None, parent_id=f"sha256:{OTHER}", extra={"parent": f"{image_id}\n"})
    assert read_image(store.directory(kept)).parent == image_id
    ensure_loadable(read_image(store.directory(kept)))


@pytest.mark.parametrize(("text", "size"), [(None, None), ("0", 0), ("12345678901", 12345678901)])
def test_sizes(store: GraphBuilder, text: str | None, size: int | None) -> None:
    image_id = store.image()
    (store.directory(image_id) / "layersize").unlink()
    if text is not None:
        (store.directory(image_id) / "layersize").write_text(text)
    image = read_image(store.directory(image_id))
    assert image.size == size
    ensure_loadable(image)


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "9" * 30])
def test_sizes_that_are_none(store: GraphBuilder, text: str) -> None:
    image_id = store.image(extra={"layersize": text})
    image = read_image(store.directory(image_id))
    with pytest.raises(SourceCorrupt, match="layersize is not a number"):
        ensure_loadable(image)


@pytest.mark.parametrize("text", ["", "tarsum+sha256:" + "a" * 64, DIGEST + "\n", "sha256:abc"])
def test_digests_that_docker_ignored(store: GraphBuilder, text: str) -> None:
    assert read_image(store.directory(store.image(extra={"checksum": text}))).registry_digest is None


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"id":1}{', b'{"parent":1}', b'{"parent_id":"nocolon"}'])
def test_what_is_no_image(store: GraphBuilder, raw: bytes) -> None:
    image_id = store.image(raw=raw)
    with pytest.raises(SourceCorrupt, match=image_id) as caught:
        read_image(store.directory(image_id))
    assert caught.value.remedy


@pytest.mark.parametrize("parent", ["x", "../" + "a" * 61, "a/b", "a" * 63, "A" * 64, "\x1b[2J"])
def test_parents_that_are_no_images(store: GraphBuilder, parent: str) -> None:
    image_id = store.image(parent_id=None, raw=usual_json("", None, {"parent": parent}))
    with pytest.raises(SourceCorrupt, match="its parent is called"):
        read_image(store.directory(image_id))


def test_a_json_that_is_absent_huge_or_no_file(store: GraphBuilder) -> None:
    path = store.directory(store.image()) / "json"
    os.truncate(path, 1 << 40)
    with pytest.raises(SourceCorrupt, match="over the limit"):
        read_image(path.parent)
    path.unlink()
    with pytest.raises(SourceCorrupt, match="is missing"):
        read_image(path.parent)
    os.mkfifo(path)
    with pytest.raises(SourceCorrupt, match="not a regular file"):
        read_image(path.parent)


def test_a_json_of_another_image_is_not_loadable(store: GraphBuilder) -> None:
    image_id = store.image(raw=usual_json(OTHER, None, {}))
    image = read_image(store.directory(image_id))
    with pytest.raises(SourceCorrupt, match=f"is that of '{OTHER}'"):
        ensure_loadable(image)


def test_keys_match_as_in_go(store: GraphBuilder) -> None:
    image_id = store.image(raw=b'{"ID":"x","Id":null,"iD":"%s"}' % OTHER.encode(), image_id=OTHER)
    ensure_loadable(read_image(store.directory(image_id)))


def test_short_ids_are_read_but_docker_1_9_does_not_load_them(store: GraphBuilder) -> None:
    image = read_image(store.directory(store.image(image_id="27cf784147099545")))
    with pytest.raises(SourceCorrupt, match="not an ID of 64"):
        ensure_loadable(image)
