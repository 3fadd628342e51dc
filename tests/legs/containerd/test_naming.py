"""What an image is called, and what its record says, where dockerd or Kubernetes look for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.legs.containerd.trees_on_disk import TargetWithTrees, migrated
from tests.stores.docker.builder import StoreBuilder
from transship.engine.records import RunState
from transship.formats import digest
from transship.legs.containerd import naming
from transship.stores.docker.store import read_store
from transship.stores.interfaces import ImageRecord, TreeForm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

IMAGE, MANIFEST = digest.of(b"image"), digest.of(b"manifest")
HUB = "docker.io/library"


def test_docker_names_an_untagged_image_by_its_manifest() -> None:
    assert naming.untagged("moby", IMAGE, MANIFEST) == f"moby-dangling@{MANIFEST}"
    assert naming.labels("moby") == {}


def test_kubernetes_names_it_by_its_id_and_sees_only_its_own_label() -> None:
    assert naming.untagged("k8s.io", IMAGE, MANIFEST) == IMAGE
    assert naming.labels("k8s.io") == {"io.cri-containerd.image": "managed"}


@pytest.fixture
def builder(tmp_path: Path) -> StoreBuilder:
    return StoreBuilder(tmp_path / "docker")


def records(builder: StoreBuilder, place: Path, namespace: str = "moby") -> Mapping[str, ImageRecord]:
    target = TargetWithTrees(place, TreeForm.DIFF)
    summary = migrated(read_store(builder.root, "overlay2"), target, place / "state", namespace)
    assert summary.state is RunState.DONE, summary.failed
    return {record.name: record for record in target.images.list()}


RAN: dict[str, Any] = {"container_config": {"Cmd": ["/bin/sh", "-c", "#(nop) CMD"]}}


def test_images_of_the_classic_builder_keep_their_links(builder: StoreBuilder, tmp_path: Path) -> None:
    base = builder.add_layer({"a": b"1"})
    scratch = builder.add_image(base, config=RAN)
    middle = builder.add_image(base, config=RAN | {"comment": "middle"}, parent=scratch)
    builder.add_image(builder.add_layer({"b": b"2"}, base), "built:1", config=RAN, parent=middle)
    builder.add_image(base, "pulled:1", config=RAN | {"comment": "pulled"})
    found = records(builder, tmp_path)
    built, pulled = found[f"{HUB}/built:1"], found[f"{HUB}/pulled:1"]
    parent = found[f"moby-dangling@{built.labels['org.mobyproject.image.parent']}"]
    grandparent = found[f"moby-dangling@{parent.labels['org.mobyproject.image.parent']}"]
    assert "org.mobyproject.image.parent" not in grandparent.labels
    assert grandparent.labels["org.mobyproject.image.fromscratch"] == "1"
    assert built.labels["org.mobyproject.image.containerconfig"].startswith("sha256:")
    assert not [label for label in pulled.labels if label.startswith("org.mobyproject.")]


def test_a_parent_that_cannot_be_moved_costs_the_link_only(builder: StoreBuilder, tmp_path: Path) -> None:
    broken = builder.add_layer({"a": b"1"})
    parent = builder.add_image(broken, "parent:1")
    builder.add_image(builder.add_layer({"b": b"2"}), "child:1", parent=parent)
    (builder.files(broken) / "a").write_bytes(b"2")
    target = TargetWithTrees(tmp_path, TreeForm.DIFF)
    summary = migrated(read_store(builder.root, "overlay2"), target, tmp_path / "state")
    assert summary.state is RunState.INCOMPLETE
    [child] = target.images.list()
    assert child.name == f"{HUB}/child:1"
    assert "org.mobyproject.image.parent" not in child.labels


def test_in_a_namespace_of_kubernetes(builder: StoreBuilder, tmp_path: Path) -> None:
    layer = builder.add_layer({"a": b"1"})
    nameless = builder.add_image(layer)
    builder.add_image(layer, "named:1", config={"comment": "named"})
    found = records(builder, tmp_path, "k8s.io")
    assert found.keys() == {nameless, f"{HUB}/named:1"}
    assert all(record.labels["io.cri-containerd.image"] == "managed" for record in found.values())
