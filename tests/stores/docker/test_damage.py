"""What damage to a store's metadata comes to: one thing told, the rest read."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.stores.docker.builder import StoreBuilder
from transship.errors import SourceCorrupt
from transship.formats import digest
from transship.stores.docker.store import Store, read_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from transship.formats.digest import Digest

NOBODY = 65534


class Sample:
    """An image of two layers, one on the lower of them only, and one on a layer of its own."""

    def __init__(self, builder: StoreBuilder) -> None:
        self.builder = builder
        self.base = builder.add_layer({"bin/": None, "bin/sh": b"shell"})
        self.top = builder.add_layer({"app": b"application"}, self.base)
        self.other_layer = builder.add_layer({"x": b"other"})
        self.low = builder.add_image(self.base, "low:1")
        self.high = builder.add_image(self.top, "high:1", "high:latest", parent=self.low)
        self.other = builder.add_image(self.other_layer, "other:1")

    def read(self) -> Store:
        return read_store(self.builder.root, self.builder.driver)


@pytest.fixture
def sample(builder: StoreBuilder) -> Sample:
    return Sample(builder)


def told(store: Store) -> dict[str, str]:
    """Subject to message; a subject is told of once."""
    assert len({problem.subject for problem in store.problems}) == len(store.problems)
    assert all(isinstance(problem.error, SourceCorrupt) and problem.error.remedy for problem in store.problems)
    return {problem.subject: problem.error.message for problem in store.problems}


def test_the_sample_is_whole(sample: Sample) -> None:
    store = sample.read()
    assert store.images.keys() == {sample.low, sample.high, sample.other}
    assert store.images[sample.high].chain_ids == (sample.base, sample.top)
    assert store.images[sample.high].parent == sample.low
    assert store.images[sample.high].references == ("docker.io/library/high:1", "docker.io/library/high:latest")
    assert store.layers[sample.top].driver_directory == sample.builder.files(sample.top)
    assert (store.problems, store.broken) == ((), {})


# Images


def empty(path: Path) -> None:
    path.write_bytes(b"")


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def huge(path: Path) -> None:
    os.truncate(path, 100_000_000)


def link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.name)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [empty, half, huge, link, loop, fifo, directory])
def test_a_damaged_config_breaks_its_image_only(sample: Sample, damage: Callable[[Path], None]) -> None:
    path = sample.builder.config_path(sample.other)
    damage(path)
    store = sample.read()
    assert store.images.keys() == {sample.low, sample.high}
    assert store.broken.keys() == {sample.other}
    message = told(store)[sample.other]
    assert str(path) in message
    assert message == store.broken[sample.other].message
    assert store.references["docker.io/library/other:1"] == sample.other


@pytest.mark.parametrize(
    "raw", [b"garbage", b"{}", b'{"rootfs":{"diff_ids":["../../etc"]}}', b'{"rootfs":{"diff_ids":["x\\u0000"]}}']
)
def test_a_config_that_is_none_breaks_its_image(sample: Sample, raw: bytes) -> None:
    image_id = sample.builder.add_raw_image(raw, "odd:1")
    store = sample.read()
    assert len(store.images) == 3
    assert store.broken.keys() == {image_id} == told(store).keys()


@pytest.mark.parametrize("name", [".tmp-123456", "abc", "A" * 64, "not hex\nat all", os.fsdecode(b"\xff")])
def test_leftovers_in_the_imagedb_are_told_of(sample: Sample, name: str) -> None:
    (sample.builder.configs / name).write_bytes(b"{}")
    store = sample.read()
    assert (len(store.images), store.broken) == (3, {})
    [subject] = told(store)
    assert subject.startswith(str(sample.builder.configs))
    subject.encode()  # can be written to a report


@pytest.mark.parametrize("text", ["garbage", "sha256:123", "../../../etc/passwd", "sha256:" + "0" * 64, "\0"])
def test_a_parent_that_is_not_there_costs_the_link_only(sample: Sample, text: str) -> None:
    sample.builder.note(sample.high, "parent", text)
    store = sample.read()
    assert store.images[sample.high].parent is None
    assert told(store).keys() == {sample.high}
    assert store.broken == {}


def test_a_broken_parent_costs_the_link_only(sample: Sample) -> None:
    empty(sample.builder.config_path(sample.low))
    store = sample.read()
    assert store.images[sample.high].parent is None
    assert store.broken.keys() == {sample.low}
    assert told(store).keys() == {sample.low, sample.high}


def test_white_space_around_values_is_no_damage(sample: Sample) -> None:
    sample.builder.note(sample.high, "parent", f"{sample.low}\n")
    (sample.builder.entry(sample.base) / "size").write_text("5\n")
    store = sample.read()
    assert store.images[sample.high].parent == sample.low
    assert store.problems == ()


def test_what_docker_noted(sample: Sample) -> None:
    sample.builder.note(sample.high, "lastUpdated", "2024-05-01T12:00:00.123456789+02:00")
    sample.builder.note(sample.high, "builtLocally", "\x01")
    sample.builder.note(sample.low, "lastUpdated", "yesterday")
    store = sample.read()
    high = store.images[sample.high]
    assert high.built_locally
    assert high.last_updated is not None
    assert high.last_updated.isoformat() == "2024-05-01T12:00:00.123456+02:00"
    assert store.images[sample.low].last_updated is None
    assert told(store).keys() == {sample.low}


# Layers


def without(name: str) -> Callable[[Path], None]:
    return lambda entry: (entry / name).unlink()


def holding(name: str, text: str) -> Callable[[Path], None]:
    def damage(entry: Path) -> None:
        (entry / name).write_text(text)

    damage.__name__ = f"{name}={text[:20]!r}"
    return damage


@pytest.mark.parametrize(
    "damage",
    [
        without("cache-id"),
        without("diff"),
        without("size"),
        holding("cache-id", ""),
        holding("cache-id", "\n"),
        holding("cache-id", ".."),
        holding("cache-id", "../../etc"),
        holding("cache-id", "/etc"),
        holding("cache-id", "a/b"),
        holding("cache-id", "ab\0cd"),
        holding("cache-id", "l"),
        holding("cache-id", "é"),
        holding("cache-id", "a" * 100_000),
        holding("diff", "garbage"),
        holding("diff", f"sha256:{'0' * 64}"),
        holding("parent", f"sha256:{'0' * 64}"),
        holding("parent", ""),
        holding("size", "many"),
        holding("size", "-1"),
        holding("size", "9" * 5000),
        shutil.rmtree,
    ],
)
def test_a_damaged_layer_breaks_what_stands_on_it(sample: Sample, damage: Callable[[Path], None]) -> None:
    damage(sample.builder.entry(sample.base))
    store = sample.read()
    assert store.images.keys() == {sample.other}
    assert store.layers.keys() == {sample.other_layer}
    assert store.broken.keys() == {sample.low, sample.high}
    assert all(sample.base in error.message and error.remedy for error in store.broken.values())
    # The cause is told of once: the layer itself, or that the one above misses it.
    assert len(told(store)) == 1
    assert sample.base in next(iter(told(store))) + next(iter(told(store).values()))


def test_a_driver_directory_that_is_gone(sample: Sample) -> None:
    path = sample.builder.files(sample.top)
    shutil.rmtree(path)
    store = sample.read()
    assert store.broken.keys() == {sample.high}
    assert sample.top in store.broken[sample.high].message
    assert str(path) in store.broken[sample.high].message
    assert told(store).keys() == {sample.top}


def test_a_driver_directory_that_is_a_link_or_a_file(sample: Sample, tmp_path: Path) -> None:
    outermost = sample.builder.outermost((sample.builder.entry(sample.top) / "cache-id").read_text())
    outermost.rename(tmp_path / "elsewhere")
    outermost.symlink_to(tmp_path / "elsewhere")
    assert sample.read().broken.keys() == {sample.high}
    outermost.unlink()
    outermost.write_bytes(b"")
    assert sample.read().broken.keys() == {sample.high}


def test_a_layer_entry_that_is_a_link(sample: Sample, tmp_path: Path) -> None:
    entry = sample.builder.entry(sample.top)
    entry.rename(tmp_path / "elsewhere")
    entry.symlink_to(tmp_path / "elsewhere")
    store = sample.read()
    assert store.broken.keys() == {sample.high}
    assert told(store).keys() == {sample.top}


@pytest.mark.parametrize("name", [".tmp-1", "write-set-123", "0" * 64 + "-5-removing", "x"])
def test_leftovers_in_the_layerdb_are_told_of(sample: Sample, name: str) -> None:
    path = sample.builder.layer_db / name
    path.mkdir()
    store = sample.read()
    assert (len(store.images), store.broken) == (3, {})
    assert told(store).keys() == {str(path)}


def test_a_layer_without_an_image_is_read(sample: Sample) -> None:
    orphan = sample.builder.add_layer({"y": b"2"}, sample.top)
    store = sample.read()
    assert orphan in store.layers
    assert store.problems == ()


def test_layers_with_one_diff_id_are_told_apart(sample: Sample) -> None:
    again = sample.builder.add_layer({"app": b"application"}, sample.other_layer)
    store = sample.read()
    assert store.layers[again].diff_id == store.layers[sample.top].diff_id
    assert store.layers[again].driver_directory != store.layers[sample.top].driver_directory


def test_an_image_without_layers_is_whole(sample: Sample) -> None:
    image_id = sample.builder.add_image(None, "scratch:1")
    assert sample.read().images[image_id].chain_ids == ()


# Names


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null x", '{"Repositories": 5}', '{"Repositories": {"a": {"a:1": 5}}}', "[" * 100_000, "\xff"]
)
def test_a_damaged_repositories_json_leaves_images_without_names(sample: Sample, text: str) -> None:
    sample.builder.repositories.write_text(text, encoding="latin-1")
    store = sample.read()
    assert len(store.images) == 3
    assert not any(image.references for image in store.images.values())
    assert told(store).keys() == {str(sample.builder.repositories)}


def test_a_missing_repositories_json_is_told_of(sample: Sample) -> None:
    sample.builder.repositories.unlink()
    store = sample.read()
    assert len(store.images) == 3
    assert told(store).keys() == {str(sample.builder.repositories)}


@pytest.mark.parametrize("text", ["{}", '{"Repositories": null}', '{"Repositories": {"a": null}}'])
def test_no_names_are_no_damage(sample: Sample, text: str) -> None:
    sample.builder.repositories.write_text(text)
    assert sample.read().problems == ()


def test_names_of_absent_images_are_told_of(sample: Sample) -> None:
    absent = digest.of(b"absent")
    sample.builder.name("gone:1", absent)
    sample.builder.name(f"gone@{absent}", absent)
    store = sample.read()
    assert told(store).keys() == {"docker.io/library/gone:1", f"docker.io/library/gone@{absent}"}
    assert all(absent in message for message in told(store).values())
    assert len(store.images) == 3


@pytest.mark.parametrize(
    "name", ["../../x:1", "UPPER:1", "a b:1", "x:", "untagged", "x:1\0", f"x:1@sha256:{'0' * 64}", "0" * 64 + ":1\n"]
)
def test_names_that_are_none_are_told_of(sample: Sample, name: str) -> None:
    sample.builder.name(name, sample.other)
    store = sample.read()
    assert told(store).keys() == {name}
    assert store.images[sample.other].references == ("docker.io/library/other:1",)


def test_a_name_for_what_is_no_image_id_is_told_of(sample: Sample) -> None:
    sample.builder.name("x:1", "../../etc/passwd")
    assert told(sample.read()).keys() == {"x:1"}


def test_of_two_spellings_of_a_name_dockers_own_counts(sample: Sample) -> None:
    names = {"docker.io/library/x:1": sample.low, "x:1": sample.high, "library/x:1": sample.high}
    sample.builder.repositories.write_text(json.dumps({"Repositories": {"x": names}}))
    store = sample.read()
    assert store.references == {"docker.io/library/x:1": sample.high}
    assert told(store).keys() == {"docker.io/library/x:1"}


# What registries know


def test_damaged_registry_blobs_are_told_of_when_asked_for(sample: Sample) -> None:
    diff_id = digest.of(b"layer")
    path = sample.builder.image_root / "distribution" / "v2metadata-by-diffid" / "sha256" / digest.hex_part(diff_id)
    path.parent.mkdir(parents=True)
    store = sample.read()
    for text in ("", "{", "{}", '[{"Digest": "x"}]', "[5]", "[" * 100_000):
        path.write_text(text)
        with pytest.raises(SourceCorrupt, match=str(path)):
            store.registry_blobs(diff_id)
    blob = digest.of(b"blob")
    path.write_text(json.dumps([{"Digest": blob, "SourceRepository": "docker.io/library/x", "HMAC": "00"}]))
    assert [(known.digest, known.repository) for known in store.registry_blobs(diff_id)] == [(blob, "docker.io/library/x")]


@pytest.mark.usefixtures("as_root")
def test_an_unreadable_file_is_told_of(driver: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        sample = Sample(StoreBuilder(Path(name) / "docker", driver))
        path = sample.builder.config_path(sample.other)
        path.chmod(0)
        subprocess.run(["chown", "-R", str(NOBODY), name], check=True)
        os.seteuid(NOBODY)
        try:
            store = sample.read()
        finally:
            os.seteuid(0)
    assert store.images.keys() == {sample.low, sample.high}
    assert store.broken[sample.other].message == f"cannot read {path}: Permission denied"
    assert "root" in store.broken[sample.other].remedy


def test_ten_thousand_names_of_one_image(sample: Sample) -> None:
    names: dict[str, Digest] = {f"many:{number}": sample.low for number in range(10_000)}
    sample.builder.repositories.write_text(json.dumps({"Repositories": {"many": names}}))
    assert len(sample.read().images[sample.low].references) == 10_000
