from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.stores.docker.builder import DRIVERS, StoreBuilder
from transship.errors import SourceError, SourceMissing, SourceUnsupported
from transship.stores import root as root_module
from transship.stores.docker.store import read_store
from transship.stores.root import Generation, Place, locate

if TYPE_CHECKING:
    from transship.formats.digest import Digest


@pytest.fixture
def daemon_json(tmp_path: Path) -> Path:
    """A daemon.json that is not there until a test writes it."""
    return tmp_path / "daemon.json"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "docker"


@pytest.fixture(params=sorted(DRIVERS))
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def with_image(root: Path, driver: str) -> Digest:
    builder = StoreBuilder(root, driver)
    return builder.add_image(builder.add_layer({"a": b"1"}), "a:1")


def test_the_driver_that_has_images_is_found(root: Path, daemon_json: Path, driver: str) -> None:
    image_id = with_image(root, driver)
    place = locate(root, daemon_json)
    assert place == Place(root, driver, (), Generation.CONTENT_ADDRESSABLE)
    assert list(read_store(place.root, place.driver).images) == [image_id]


def test_without_a_source_daemon_json_names_the_data_root(root: Path, daemon_json: Path) -> None:
    with_image(root, "vfs")
    daemon_json.write_text(json.dumps({"data-root": str(root), "debug": True, "hosts": ["fd://"]}))
    assert locate(None, daemon_json).root == root
    daemon_json.write_text(json.dumps({"graph": str(root)}))
    assert locate(None, daemon_json).root == root


@pytest.mark.parametrize("text", [None, "", "{}", '{"data-root": ""}'])
def test_without_a_source_and_a_data_root_the_usual_one_is_meant(
    root: Path, daemon_json: Path, monkeypatch: pytest.MonkeyPatch, text: str | None
) -> None:
    with_image(root, "vfs")
    monkeypatch.setattr(root_module, "DEFAULT_ROOT", root)
    if text is not None:
        daemon_json.write_text(text)
    assert locate(None, daemon_json).root == root


def test_daemon_jsons_driver_counts_for_its_own_root_only(tmp_path: Path, root: Path, daemon_json: Path) -> None:
    for directory in (root, tmp_path / "other"):
        with_image(directory, "overlay2")
        with_image(directory, "vfs")
    daemon_json.write_text(json.dumps({"data-root": str(root), "storage-driver": "vfs"}))
    (tmp_path / "link").symlink_to(root)
    assert locate(None, daemon_json).driver == "vfs"
    assert locate(root, daemon_json).driver == "vfs"
    assert locate(tmp_path / "link", daemon_json).driver == "vfs"
    assert locate(tmp_path / "other", daemon_json).driver == "overlay2"
    assert locate(root, daemon_json, driver="overlay2").driver == "overlay2"


@pytest.mark.parametrize("text", ["{", "[]", '{"data-root": 5}', "[" * 100_000, "\xff"])
def test_a_damaged_daemon_json_is_told_of(root: Path, daemon_json: Path, text: str) -> None:
    with_image(root, "vfs")
    daemon_json.write_text(text, encoding="latin-1")
    with pytest.raises(SourceError, match=r"daemon\.json"):
        locate(None, daemon_json)


def test_of_several_drivers_dockerds_favourite_is_taken_and_the_others_are_named(root: Path, daemon_json: Path) -> None:
    for driver in ("vfs", "aufs", "overlay", "overlay2", "zfs", "btrfs", "unknown"):
        with_image(root, driver)
    store = locate(root, daemon_json)
    assert store.driver == "overlay2"
    assert store.other_drivers == ("btrfs", "zfs", "aufs", "overlay", "vfs", "unknown")


@pytest.mark.parametrize(("better", "worse"), [("aufs", "overlay"), ("overlay", "vfs"), ("btrfs", "aufs")])
def test_old_drivers_have_their_place_in_the_order(root: Path, daemon_json: Path, better: str, worse: str) -> None:
    with_image(root, worse)
    with_image(root, better)
    store = locate(root, daemon_json)
    assert (store.driver, store.other_drivers) == (better, (worse,))
    daemon_json.write_text(json.dumps({"data-root": str(root), "storage-driver": worse}))
    store = locate(root, daemon_json)
    assert (store.driver, store.other_drivers) == (worse, (better,))


def test_a_driver_without_images_is_passed_over(root: Path, daemon_json: Path) -> None:
    StoreBuilder(root, "overlay2")
    StoreBuilder(root, "zfs")
    with_image(root, "vfs")
    assert locate(root, daemon_json).driver == "vfs"


@pytest.mark.parametrize("driver", ["zfs", "devicemapper", "fuse-overlayfs", "windowsfilter"])
def test_a_driver_that_cannot_be_read_is_named(root: Path, daemon_json: Path, driver: str) -> None:
    with_image(root, driver)
    with pytest.raises(SourceUnsupported, match=rf"graph driver {driver}; only overlay2, btrfs, aufs, overlay and vfs can"):
        locate(root, daemon_json)


def test_a_driver_asked_for_must_be_there(root: Path, daemon_json: Path) -> None:
    with_image(root, "overlay2")
    with pytest.raises(SourceMissing, match="no store of the graph driver vfs, but of overlay2"):
        locate(root, daemon_json, driver="vfs")
    with pytest.raises(SourceUnsupported, match="zfs"):
        locate(root, daemon_json, driver="zfs")


def test_a_store_without_images_is_one(root: Path, daemon_json: Path, driver: str) -> None:
    StoreBuilder(root, driver)
    assert locate(root, daemon_json) == Place(root, driver, (), Generation.CONTENT_ADDRESSABLE)
    store = read_store(root, driver)
    assert (store.driver, store.images, store.layers, store.problems) == (driver, {}, {}, ())


def test_what_is_not_there(root: Path, daemon_json: Path) -> None:
    with pytest.raises(SourceMissing, match=rf"{root} does not exist; .*data root"):
        locate(root, daemon_json)
    root.write_text("")
    with pytest.raises(SourceMissing, match="is not a directory"):
        locate(root, daemon_json)
    with pytest.raises(SourceMissing, match="does not exist"):
        locate(root / "below", daemon_json)


@pytest.mark.parametrize("names", [[], ["volumes", "containers"], ["image"], ["image/overlay2"]])
def test_a_directory_that_is_no_data_root(root: Path, daemon_json: Path, names: list[str]) -> None:
    root.mkdir()
    for name in names:
        (root / name).mkdir(parents=True)
    with pytest.raises(SourceMissing, match="no Docker store here") as caught:
        locate(root, daemon_json)
    assert "data root" in caught.value.remedy


def test_older_layouts_are_found(root: Path, daemon_json: Path) -> None:
    image = root / "graph" / ("a" * 64)
    image.mkdir(parents=True)
    with pytest.raises(SourceMissing, match="no Docker store here"):
        locate(root, daemon_json)
    (image / "layer").mkdir()
    assert locate(root, daemon_json) == Place(root, "aufs", (), Generation.BEFORE_DRIVERS)
    (image / "layer").rmdir()
    (root / "vfs" / "dir" / image.name).mkdir(parents=True)
    assert locate(root, daemon_json) == Place(root, "vfs", (), Generation.GRAPH)
    (root / "overlay" / image.name).mkdir(parents=True)
    assert locate(root, daemon_json) == Place(root, "overlay", ("vfs",), Generation.GRAPH)
    assert locate(root, daemon_json, "vfs") == Place(root, "vfs", ("overlay",), Generation.GRAPH)
    with pytest.raises(SourceMissing, match="no store of the graph driver aufs"):
        locate(root, daemon_json, "aufs")


@pytest.mark.parametrize("name", ["zfs/graph", "devicemapper/mnt"])
def test_an_old_layout_of_a_driver_that_cannot_be_read_is_named(root: Path, daemon_json: Path, name: str) -> None:
    (root / "graph" / ("a" * 64)).mkdir(parents=True)
    (root / name / ("a" * 64)).mkdir(parents=True)
    with pytest.raises(SourceUnsupported, match=rf"v1 store of the graph driver {name.partition('/')[0]}"):
        locate(root, daemon_json)


def test_a_store_upgraded_from_v1_is_read(root: Path, daemon_json: Path) -> None:
    with_image(root, "overlay2")
    (root / "graph" / ("a" * 64)).mkdir(parents=True)
    (root / "vfs" / "dir" / ("a" * 64)).mkdir(parents=True)
    assert locate(root, daemon_json) == Place(root, "overlay2", (), Generation.CONTENT_ADDRESSABLE)
    assert locate(root, daemon_json, old=True) == Place(root, "vfs", (), Generation.GRAPH)


def test_a_store_that_is_new_already_has_nothing_to_be_upgraded(root: Path, daemon_json: Path) -> None:
    with_image(root, "overlay2")
    with pytest.raises(SourceMissing, match="nothing to be upgraded"):
        locate(root, daemon_json, old=True)


def test_a_remapped_store_beside_a_plain_one_is_refused(root: Path, daemon_json: Path) -> None:
    with_image(root, "overlay2")
    with_image(root / "100000.100000", "overlay2")
    with pytest.raises(SourceUnsupported, match=r"100000\.100000.*move it elsewhere"):
        locate(root, daemon_json)


def test_a_root_reached_through_a_link_is_read(root: Path, tmp_path: Path, daemon_json: Path) -> None:
    with_image(root, "overlay2")
    (tmp_path / "link").symlink_to(root)
    assert locate(tmp_path / "link", daemon_json).driver == "overlay2"


@pytest.mark.usefixtures("as_root")
def test_what_may_not_be_read(root: Path, tmp_path: Path, daemon_json: Path) -> None:
    with_image(root, "overlay2")
    daemon_json.write_text("{}")
    tmp_path.chmod(0o700)
    os.seteuid(65534)
    try:
        with pytest.raises(SourceError, match=rf"cannot read {root}: Permission denied; run as root"):
            locate(root, Path("/nonexistent/daemon.json"))
        with pytest.raises(SourceError, match=rf"cannot read {daemon_json}: Permission denied; run as root"):
            locate(root, daemon_json)
    finally:
        os.seteuid(0)
