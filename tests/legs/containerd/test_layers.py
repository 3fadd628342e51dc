"""Layers moved into a target with snapshots: shared content, damage, and what verification finds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.legs.containerd.trees_on_disk import TargetWithTrees, migrated, sail
from tests.stores.docker.builder import DRIVERS, FULL_TREES, StoreBuilder
from transship.engine.journal import Journal
from transship.engine.records import RunState
from transship.engine.step import State
from transship.formats.digest import Digest
from transship.legs.containerd.verify import plan_verification
from transship.stores.docker.store import read_store
from transship.stores.interfaces import TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from transship.engine.summary import Summary

HUB = "docker.io/library"


class Sample:
    """Two bases with one and the same layer on top, whose files lie in two directories."""

    def __init__(self, place: Path, driver: str, form: TreeForm) -> None:
        self.place = place
        self.driver = driver
        self.builder = builder = StoreBuilder(place / "docker", driver)
        self.first_base = builder.add_layer({"a": b"one"})
        self.second_base = builder.add_layer({"b": b"two"})
        self.first = builder.add_layer({"d/": None, "d/app": b"application" * 10_000}, self.first_base)
        self.second = builder.add_layer({"d/": None, "d/app": b"application" * 10_000}, self.second_base)
        self.builder.add_image(self.first, "first:1")
        self.builder.add_image(self.second, "second:1")
        self.target = TargetWithTrees(place, form)
        self.diff_id = builder.diff_ids(self.first)[-1]

    def afresh(self) -> Sample:
        """The same, not moved yet."""
        (self.place / "again").mkdir()
        return Sample(self.place / "again", self.driver, self.target.trees.form)

    def migrate(self) -> Summary:
        return migrated(read_store(self.builder.root, self.driver), self.target, self.place / "state")

    def verify(self) -> list[str]:
        store = read_store(self.builder.root, self.driver)
        summary = sail(plan_verification(store, self.target, list(store.images.values())), self.place / "verification")
        return [f"{failure.title}: {failure.error.message}" for failure in summary.failed]

    def names(self) -> set[str]:
        return {record.name for record in self.target.images.list()}

    def snapshots(self) -> set[str]:
        return {info.name for info in self.target.trees.list()}

    def blob_source(self, run: str) -> str:
        """The layer whose files the blob of the shared content was made from."""
        with Journal.read_only(self.place / "state") as journal:
            [step] = [step for step in journal.steps(run, State.DONE) if step.key == f"blob:{self.diff_id}"]
        assert step.value is not None
        return str(step.value["chain_id"])


@pytest.fixture(params=DRIVERS)
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def sample(tmp_path: Path, driver: str) -> Sample:
    """Into snapshots of the form that the driver keeps."""
    return Sample(tmp_path, driver, TreeForm.FULL if driver in FULL_TREES else TreeForm.DIFF)


def broken(sample: Sample, chain_id: Digest) -> None:
    path = sample.builder.files(chain_id) / "d/app"
    path.write_bytes(path.read_bytes()[:-1] + b"N")


def test_content_that_layers_share_is_compressed_once(sample: Sample) -> None:
    summary = sample.migrate()
    assert summary.state is RunState.DONE, summary.failed
    assert len([info for info in sample.target.content.list() if info.size]) == 3 + 2 + 2  # layers, configs, manifests
    assert sample.snapshots() == {sample.first_base, sample.second_base, sample.first, sample.second}
    assert sample.verify() == []


def test_of_layers_that_share_content_any_whole_one_will_do(sample: Sample) -> None:
    whole, other = sample.blob_source(sample.migrate().run), {sample.first, sample.second}
    [untouched] = other - {Digest(whole)}
    again = sample.afresh()
    broken(again, Digest(whole))
    summary = again.migrate()
    assert again.blob_source(summary.run) == untouched
    # The blob is there, for both images; the snapshot of the broken directory is not, nor the name of its image.
    assert [failure.key for failure in summary.failed] == [f"snapshot:{whole}"]
    assert "d/app has changed" in summary.failed[0].error.message
    spoilt = "first" if whole == sample.first else "second"
    kept = "second" if spoilt == "first" else "first"
    assert summary.blocked == (f"image:{HUB}/{spoilt}:1",)
    assert again.names() == {f"{HUB}/{kept}:1"}
    assert again.snapshots() == {again.first_base, again.second_base, untouched}


def test_the_other_directory_broken_is_found_too(sample: Sample) -> None:
    """The blob was made from the one, the snapshot would be made from the other: it is checked before."""
    whole = sample.blob_source(sample.migrate().run)
    [other] = {sample.first, sample.second} - {Digest(whole)}
    again = sample.afresh()
    broken(again, other)
    summary = again.migrate()
    assert [failure.key for failure in summary.failed] == [f"snapshot:{other}"]
    assert again.blob_source(summary.run) == whole


def test_both_broken_fail_both(sample: Sample) -> None:
    broken(sample, sample.first)
    broken(sample, sample.second)
    summary = sample.migrate()
    assert [failure.key for failure in summary.failed] == [f"blob:{sample.diff_id}"]
    assert sample.names() == set()
    assert sample.snapshots() == {sample.first_base, sample.second_base}


# What verification finds in snapshots


def content(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1] + b"N")


def shorter(path: Path) -> None:
    os.truncate(path, 5)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def gone(path: Path) -> None:
    path.unlink()


def more(path: Path) -> None:
    path.with_name("more").write_bytes(b"")


def mode(path: Path) -> None:
    path.chmod(0o4755)


def time(path: Path) -> None:
    os.utime(path, ns=(0, 1))


def directory_mode(path: Path) -> None:
    path.parent.chmod(0o700)


def linked(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def attribute(path: Path) -> None:
    os.setxattr(path, "user.x", b"1")


DAMAGES = [content, shorter, emptied, gone, more, mode, time, directory_mode, linked, attribute]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_snapshot_that_differs_is_named(tmp_path: Path, driver: str, damage: Callable[[Path], None]) -> None:
    sample = Sample(tmp_path, driver, TreeForm.FULL if driver in FULL_TREES else TreeForm.DIFF)
    sample.migrate()
    path = sample.target.trees.directory(sample.first) / "d/app"
    unlink(path)
    assert sample.verify() == []
    damage(path)
    [found] = sample.verify()
    assert sample.first[7:19] in found
    assert "/d" in found


def unlink(path: Path) -> None:
    """Make a file of its own of one that is a hard link to the source's, or shared with it."""
    data, status = path.read_bytes(), path.stat()
    parent = path.parent.stat()
    path.unlink()
    path.write_bytes(data)
    path.chmod(status.st_mode & 0o7777)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    os.utime(path.parent, ns=(parent.st_atime_ns, parent.st_mtime_ns))


def test_a_missing_snapshot_is_named(sample: Sample) -> None:
    sample.migrate()
    place = sample.target.trees.directory(sample.second).parent
    place.rename(place.with_name("elsewhere"))
    [found] = sample.verify()
    assert found.endswith(f"snapshot {sample.second[7:19]}: is missing")


# From each driver's form into each snapshotter's


@pytest.mark.parametrize("form", list(TreeForm))
def test_into_both_forms(tmp_path: Path, driver: str, form: TreeForm) -> None:
    sample = Sample(tmp_path, driver, form)
    whiteout = sample.builder.add_layer({".wh.a": b"", "e": b"3"}, sample.first)
    sample.builder.add_image(whiteout, "third:1")
    summary = sample.migrate()
    assert summary.state is RunState.DONE, summary.failed
    tree = sample.target.trees.directory(whiteout)
    found = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    assert found == ({"d", "d/app", "e"} if form is TreeForm.FULL else {"a", "e"})
    assert sample.verify() == []


@pytest.mark.parametrize("form", list(TreeForm))
@pytest.mark.usefixtures("as_root")
def test_a_layer_that_hides_all_below(tmp_path: Path, driver: str, form: TreeForm) -> None:
    """The one mark that overlayfs does not heed, and so overlay2 neither."""
    sample = Sample(tmp_path, driver, form)
    top = sample.builder.add_layer({".wh..wh..opq": b"", "d/": None, "d/e": b"3"}, sample.first)
    sample.builder.add_image(top, "third:1")
    summary = sample.migrate()
    assert summary.state is RunState.DONE, summary.failed
    tree = sample.target.trees.directory(top)
    found = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    if driver == "overlay2":
        assert found == ({"a", "d", "d/app", "d/e"} if form is TreeForm.FULL else {"d", "d/e"})
    else:
        assert found == ({"d", "d/e"} if form is TreeForm.FULL else {"a", "d", "d/e"})
        assert [os.listxattr(tree / "d")] == ([[]] if form is TreeForm.FULL else [["trusted.overlay.opaque"]])
    assert sample.verify() == []


@pytest.mark.parametrize("form", list(TreeForm))
def test_whiteouts_that_have_content(tmp_path: Path, form: TreeForm) -> None:
    """Only aufs can keep what no tree has: the layer's blob has it all the same."""
    sample = Sample(tmp_path, "aufs", form)
    files = {".wh.a": b"content", "e": b"3", ".wh..wh.plnk/3.4": b"own"}
    top = sample.builder.add_layer(files, sample.first)
    sample.builder.add_image(top, "third:1")
    for name, content in files.items():
        (sample.builder.files(top) / name).unlink()
        (sample.builder.files(top) / name).write_bytes(content)
    summary = sample.migrate()
    assert summary.state is RunState.DONE, summary.failed
    tree = sample.target.trees.directory(top)
    found = {str(path.relative_to(tree)) for path in tree.rglob("*")}
    assert found == ({"d", "d/app", "e"} if form is TreeForm.FULL else {"a", "e"})
    assert sample.verify() == []


def test_a_snapshot_that_is_there_is_left_alone(sample: Sample) -> None:
    prepared = sample.target.trees.prepare("theirs", None)
    (prepared / "a").write_bytes(b"theirs")
    sample.target.trees.commit(sample.first_base, "theirs", {})
    assert sample.migrate().state is RunState.DONE
    assert (sample.target.trees.directory(sample.first_base) / "a").read_bytes() == b"theirs"


@pytest.mark.parametrize("name", [f"first@sha512:{'a' * 128}", f"first@sha384:{'a' * 96}"])
def test_a_name_with_a_digest_of_another_kind_is_left_out(sample: Sample, name: str) -> None:
    """Docker takes them."""
    store = read_store(sample.builder.root, sample.driver)
    [image] = [image for image in store.images.values() if f"{HUB}/first:1" in image.references]
    sample.builder.name(name, image.id)
    assert sample.migrate().state is RunState.DONE
    assert sample.names() == {f"{HUB}/first:1", f"{HUB}/second:1"}
    assert sample.verify() == []
