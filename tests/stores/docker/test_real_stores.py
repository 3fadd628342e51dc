"""Stores that dockerd wrote, against what is known of them."""

from __future__ import annotations

import hashlib
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from transship.errors import SourceCorrupt, SourceUnsupported
from transship.formats import digest, references
from transship.stores.docker import tar_stream
from transship.stores.docker.store import Store, read_store
from transship.stores.root import locate

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


NO_DAEMON_JSON = "no-daemon.json"
EVERY_DRIVER = pytest.mark.parametrize("driver", ["overlay2", "vfs", "aufs", "overlay"])


@pytest.fixture(params=["overlay2", "vfs"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def store(docker_fixture: Callable[[str], Path], tmp_path: Path, driver: str) -> Store:
    place = locate(docker_fixture(driver), tmp_path / NO_DAEMON_JSON)
    assert (place.driver, place.other_drivers) == (driver, ())
    return read_store(place.root, place.driver)


def expected_images(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        image_id: (
            known["diff_ids"],
            known["chain"],
            known["parent"],
            known["arch"],
            known["os"],
            sorted(map(references.canonical, known["refs"])),
        )
        for image_id, known in facts["images"].items()
    }


def read_images(store: Store) -> dict[str, Any]:
    return {
        image.id: (
            list(image.config.diff_ids),
            image.chain_ids[-1] if image.chain_ids else None,
            image.parent,
            image.config.architecture,
            image.config.os,
            sorted(image.references + image.digest_references),
        )
        for image in store.images.values()
    }


@EVERY_DRIVER
def test_every_image_is_read(store: Store, driver: str, facts: Callable[[str], dict[str, Any]]) -> None:
    assert store.driver == driver
    assert read_images(store) == expected_images(facts(driver))
    assert all(digest.of(image.raw) == image_id == image.id for image_id, image in store.images.items())


@EVERY_DRIVER
def test_every_layer_is_read(store: Store, driver: str, facts: Callable[[str], dict[str, Any]]) -> None:
    read = {
        layer.chain_id: {"diff": layer.diff_id, "cache": layer.cache_id, "parent": layer.parent, "size": layer.size}
        for layer in store.layers.values()
    }
    assert read == {
        chain_id: {key: known[key] for key in ("diff", "cache", "parent", "size")}
        for chain_id, known in facts(driver)["layers"].items()
    }
    tail = {"overlay2": "diff", "overlay": "root"}.get(driver)
    assert all(
        layer.driver_directory == layer.driver_directory.parent / (tail or layer.cache_id) for layer in store.layers.values()
    )
    assert all(layer.driver_directory.is_dir() and layer.tar_split.is_file() for layer in store.layers.values())


@EVERY_DRIVER
def test_nothing_is_wrong_with_it(store: Store) -> None:
    assert store.problems == ()
    assert store.broken == {}


def test_tags_and_digest_references_are_told_apart(store: Store) -> None:
    assert store.references["docker.io/library/app:latest"] == store.references["127.0.0.1:5055/team/app:2"]
    image = store.images[store.references["docker.io/library/app:latest"]]
    assert "127.0.0.1:5055/team/app:2" in image.references
    assert all("@sha256:" in name for name in image.digest_references)
    assert image.digest_references


def test_what_docker_noted_beside_images(store: Store) -> None:
    noted = [image.last_updated for image in store.images.values() if image.last_updated is not None]
    assert noted
    assert all(time.tzinfo is not None for time in noted)
    assert not any(image.built_locally for image in store.images.values())  # Docker 20.10 does not know the mark


def test_built_images_have_the_config_of_the_builders_container(store: Store) -> None:
    built = [image for image in store.images.values() if image.parent is not None]
    assert built
    assert all(image.config.container_config is not None for image in built)


def test_original_manifests_of_pulled_images_are_found(store: Store) -> None:
    digests = {digest.parse(name.rpartition("@")[2]) for name in store.references if "@" in name}
    manifests = {wanted: store.original_manifest(wanted) for wanted in digests}
    kept = {wanted: manifest for wanted, manifest in manifests.items() if manifest is not None}
    assert kept
    assert all(digest.of(manifest) == wanted for wanted, manifest in kept.items())
    assert store.original_manifest(digest.of(b"another")) is None


def test_registry_blobs_of_pushed_and_pulled_layers_are_found(store: Store) -> None:
    image = store.images[store.references["127.0.0.1:5055/team/app:2"]]
    blobs = [store.registry_blobs(diff_id) for diff_id in image.config.diff_ids]
    assert any(blob.repository == "127.0.0.1:5055/team/app" for known in blobs for blob in known)
    assert store.registry_blobs(digest.of(b"another")) == ()


def test_a_store_of_userns_remap_is_refused_from_outside_and_inside(
    docker_fixture: Callable[[str], Path], tmp_path: Path
) -> None:
    root = docker_fixture("overlay2-userns")
    with pytest.raises(SourceUnsupported, match=r"userns-remap.*200000\.200000"):
        locate(root, tmp_path / NO_DAEMON_JSON)
    with pytest.raises(SourceUnsupported, match=r"userns-remap 200000\.200000"):
        locate(root / "200000.200000", tmp_path / NO_DAEMON_JSON)


def test_its_metadata_have_the_usual_form(
    docker_fixture: Callable[[str], Path], facts: Callable[[str], dict[str, Any]]
) -> None:
    store = read_store(docker_fixture("overlay2-userns") / "200000.200000", "overlay2")
    assert read_images(store) == expected_images(facts("overlay2-userns"))
    assert store.layers.keys() == facts("overlay2-userns")["layers"].keys()


def test_a_damaged_manifest_is_refused(docker_fixture: Callable[[str], Path], tmp_path: Path, driver: str) -> None:
    root = tmp_path / "docker"
    for part in ("image", "containerd"):
        shutil.copytree(docker_fixture(driver) / part, root / part)
    store = read_store(root, driver)
    wanted = next(
        digest.parse(name.rpartition("@")[2])
        for name in store.references
        if "@" in name and store.original_manifest(digest.parse(name.rpartition("@")[2])) is not None
    )
    [blob] = root.glob(f"containerd/**/{digest.hex_part(wanted)}")
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(SourceCorrupt, match=digest.hex_part(wanted)):
        store.original_manifest(wanted)


def test_a_store_with_odd_configs_is_read(
    docker_fixture: Callable[[str], Path], facts: Callable[[str], dict[str, Any]]
) -> None:
    store = read_store(docker_fixture("overlay-damaged"), "overlay")
    known = expected_images(facts("overlay-damaged"))
    assert read_images(store) == known
    assert (store.broken, "docker.io/edge/raw-weird:1" in store.references) == ({}, True)


@EVERY_DRIVER
def test_every_layers_stream_has_its_digest(store: Store) -> None:
    for layer in store.layers.values():
        stream = hashlib.sha256()
        for chunk in tar_stream.read(layer.tar_split, layer.driver_directory):
            stream.update(chunk)
        assert f"sha256:{stream.hexdigest()}" == layer.diff_id


def test_layers_that_buildkit_made(docker_fixture: Callable[[str], Path]) -> None:
    """Their directories have names of another kind."""
    store = read_store(docker_fixture("buildkit"), "overlay2")
    assert (len(store.images), store.broken, store.problems) == (7, {}, ())
    chain_ids = {chain_id for image in store.images.values() for chain_id in image.chain_ids}
    layers = [store.layers[chain_id] for chain_id in sorted(chain_ids)]
    assert {len(layer.driver_directory.parent.name) for layer in layers} == {25}
    for layer in layers:
        plain = hashlib.sha256()
        for chunk in tar_stream.read(layer.tar_split, layer.driver_directory):
            plain.update(chunk)
        assert f"sha256:{plain.hexdigest()}" == layer.diff_id
