"""Bad input: an exit code, a message that names the thing and what to do, the rest migrated, nothing left behind."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import HUB, Ended, Journey, Sample, command, environment, snapshot
from tests.stores.docker.builder import StoreBuilder
from transship.formats import digest, tar_split

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def refused(ended: Ended, code: int, *said: str) -> dict[str, Any]:
    """The command ended with ``code`` and one error, which says this and a remedy."""
    assert ended.code == code, ended.all
    [error] = [each for each in ended.documents if each["type"] == "error"]
    assert error["exit_code"] == code
    assert error["remedy"]
    for text in said:
        assert text in error["message"]
    return error


def incomplete(sample: Sample, ended: Ended, *lost: str, said: str, at_planning: bool = False) -> None:
    """Of the sample's names those of ``lost`` are missing, the message says why, and trying again changes nothing."""
    assert ended.code == 1, ended.all
    report = ended.report
    assert not report["complete"]
    left_out = [each for each in report["left_out"] if each["lost"]]
    messages = [each["reason"] for each in left_out] + [each["message"] for each in report["failed"]]
    assert any(said in message for message in messages), messages
    assert all(each["remedy"] for each in left_out)
    assert bool(left_out) == at_planning
    assert report["failed"]
    expected = {name: image for name, image in sample.expected.items() if name not in lost}
    named = {name: image for name, image in sample.image_ids().items() if not name.startswith("moby-dangling@")}
    assert named == expected
    sample.ensure_consistent()
    mapped = json.loads((sample.state / "runs" / report["run"] / "map.json").read_bytes())["images"]
    for image in mapped:
        assert (image["manifest"] is None) == (bool(set(image["references"]) & set(lost)))
    again = sample.migrate()
    assert again.code == 1
    assert again.report["run"] == report["run"], "an incomplete run is continued"
    assert sample.image_ids().keys() >= expected.keys()
    # A person sees it too, with what to do about it.
    plain = sample.run("migrate")
    assert plain.code == 1
    assert said in plain.all
    assert "what to do: " in plain.all
    assert "INCOMPLETE" in plain.out


# Roots


def test_a_missing_root(sample: Sample) -> None:
    sample.source = sample.source / "none"
    for name in ("plan", "migrate", "verify"):
        refused(sample.run(name, "--json"), 3, str(sample.source))
    assert not sample.layout.exists()


def test_an_empty_root(sample: Sample, tmp_path: Path) -> None:
    sample.source = tmp_path / "empty"
    sample.source.mkdir()
    refused(sample.migrate(), 3, str(sample.source))
    assert not sample.layout.exists()


def test_a_root_that_is_a_file(sample: Sample, tmp_path: Path) -> None:
    sample.source = tmp_path / "file"
    sample.source.write_bytes(b"")
    refused(sample.migrate(), 3, str(sample.source))


def test_a_store_without_images_is_done_at_once(sample: Sample, tmp_path: Path) -> None:
    sample.source = tmp_path / "fresh"
    StoreBuilder(sample.source)
    ended = sample.migrate()
    assert (ended.code, ended.report["images"]) == (0, 0)
    assert sample.run("verify").code == 0


@pytest.mark.parametrize("driver", ["zfs", "devicemapper", "fuse-overlayfs", "windowsfilter"])
def test_a_driver_that_is_not_supported_is_named(sample: Sample, tmp_path: Path, driver: str) -> None:
    sample.source = tmp_path / "unsupported"
    StoreBuilder(sample.source, driver).add_raw_image(b"{}")
    refused(sample.migrate(), 3, driver)


def test_a_store_of_userns_remap_is_refused(sample: Sample, docker_fixture: Callable[[str], Path]) -> None:
    sample.source = docker_fixture("overlay2-userns")
    refused(sample.migrate(), 3, "userns-remap")
    assert not sample.layout.exists()


# Images and layers whose metadata are damaged: found when the store is read


def test_a_half_written_imagedb_entry(sample: Sample) -> None:
    path = sample.builder.config_path(sample.other)
    path.write_bytes(path.read_bytes()[:40])
    (sample.builder.configs / ".tmp-123").write_bytes(b"{")
    incomplete(sample, sample.migrate(), f"{HUB}/other:1", said=str(path), at_planning=True)


def test_garbage_json(sample: Sample) -> None:
    sample.builder.add_raw_image(b"\xff garbage", "garbage:1")
    ended = sample.migrate()
    assert ended.code == 1
    [left] = ended.report["left_out"]
    assert f"{HUB}/garbage:1" in left["subject"]
    assert left["lost"]
    assert sample.image_ids().items() >= sample.expected.items()


def test_a_config_of_100_megabytes(sample: Sample) -> None:
    path = sample.builder.config_path(sample.other)
    os.truncate(path, 100 << 20)
    incomplete(sample, sample.migrate(), f"{HUB}/other:1", said=str(path), at_planning=True)


def test_a_layer_without_cache_id(sample: Sample) -> None:
    path = sample.builder.entry(sample.top) / "cache-id"
    path.unlink()
    incomplete(sample, sample.migrate(), f"{HUB}/high:1", f"{HUB}/high:latest", said=f"{path} is missing", at_planning=True)


def test_a_missing_diff_directory(sample: Sample) -> None:
    path = sample.builder.files(sample.top)
    shutil.rmtree(path)
    incomplete(sample, sample.migrate(), f"{HUB}/high:1", f"{HUB}/high:latest", said=f"{path} is missing", at_planning=True)


def test_a_repositories_json_that_names_absent_images(sample: Sample) -> None:
    absent = digest.of(b"absent")
    sample.builder.name("gone:1", absent)
    ended = sample.migrate()
    assert ended.code == 1
    [left] = ended.report["left_out"]
    assert (left["subject"], left["lost"]) == (f"{HUB}/gone:1", True)
    assert absent in left["reason"]
    assert sample.image_ids().items() >= sample.expected.items()


def test_a_damaged_repositories_json(sample: Sample) -> None:
    sample.builder.repositories.write_bytes(b"{")
    ended = sample.migrate()
    assert ended.code == 1
    assert str(sample.builder.repositories) in ended.report["left_out"][0]["reason"]
    # The images are there all the same, without their names.
    assert sorted(sample.image_ids().values()) == sorted([sample.low, sample.high, sample.other, sample.nameless])


@pytest.mark.parametrize("name", ["../../x:1", "/x:1", "x\0y:1", "x:1\x1b[31m", "\x1b]0;title\x07:1"])
def test_names_of_images_that_cannot_be(sample: Sample, name: str) -> None:
    sample.builder.name(name, sample.other)
    ended = sample.migrate()
    assert ended.code == 1
    assert [each["subject"] for each in ended.report["left_out"]] == [name]
    assert sample.image_ids().items() >= sample.expected.items()
    for shown in (sample.run("plan"), sample.run("migrate"), command("status", "--state-dir", sample.state)):
        assert "\x1b" not in shown.all
        assert "\0" not in shown.all


def test_a_name_that_is_no_unicode(sample: Sample) -> None:
    sample.builder.repositories.write_bytes(b'{"Repositories":{"x":{"\xff:1":"%s"}}}' % sample.other.encode())
    assert sample.migrate().code == 1
    sample.builder.repositories.write_bytes(b'{"Repositories":{"x":{"\\ud800:1":"%s"}}}' % sample.other.encode())
    assert sample.migrate().code == 1


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_files_that_cannot_be_read(sample: Sample, make: Callable[[Path], None]) -> None:
    path = sample.builder.config_path(sample.other)
    path.unlink()
    make(path)
    incomplete(sample, sample.migrate(), f"{HUB}/other:1", said=str(path), at_planning=True)


def test_a_file_that_only_root_may_read(sample: Sample, tmp_path: Path) -> None:
    """As nobody, in a process of its own: root may read everything."""
    if os.geteuid() == 0:
        drop = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
        for directory in (tmp_path, *tmp_path.parents[:2]):
            directory.chmod(0o755)
        subprocess.run(["chown", "-R", "65534:65534", tmp_path], check=True)
    else:
        drop = []
    (sample.builder.files(sample.top) / "app").chmod(0)
    sample.builder.config_path(sample.other).chmod(0)
    ended = subprocess.run(
        [*drop, sys.executable, "-m", "transship", "migrate", "--json", *sample.ends],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert ended.returncode == 1, ended.stderr
    report = Ended(1, ended.stdout, ended.stderr).report
    [failure] = [each for each in report["failed"] if each["key"].startswith("blob:")]
    assert f"{sample.builder.files(sample.top)}/app cannot be read (Permission denied)" in failure["message"]
    [left] = report["left_out"]
    assert str(sample.builder.config_path(sample.other)) in left["reason"]
    assert {name for name in sample.names() if name.startswith(HUB)} == {f"{HUB}/low:1"}


# Layers whose content is damaged: found when it is read


HIGH = (f"{HUB}/high:1", f"{HUB}/high:latest")


@pytest.mark.parametrize("keep", [0, 10, -8, -1])
def test_a_truncated_tar_split(sample: Sample, keep: int) -> None:
    path = sample.builder.entry(sample.top) / "tar-split.json.gz"
    path.write_bytes(path.read_bytes()[:keep])
    incomplete(sample, sample.migrate(), *HIGH, said=str(path))


def test_an_absent_tar_split(sample: Sample) -> None:
    path = sample.builder.entry(sample.top) / "tar-split.json.gz"
    path.unlink()
    incomplete(sample, sample.migrate(), *HIGH, said=f"{path}: the layer has no tar-split data")


def test_a_gzip_bomb_as_tar_split(sample: Sample) -> None:
    path = sample.builder.entry(sample.top) / "tar-split.json.gz"
    with gzip.open(path, "wb", compresslevel=1) as bomb:
        bomb.write(b'{"type":2,"payload":"')
        for _ in range(100):
            bomb.write(b"A" * (1 << 20))
    incomplete(sample, sample.migrate(), *HIGH, said=str(path))


def test_a_changed_file_of_the_same_size(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.write_bytes(b"APPLICATION")
    incomplete(sample, sample.migrate(), *HIGH, said=f"the content of {path} has changed")


def test_a_changed_file_of_another_size(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.write_bytes(b"longer than application")
    incomplete(sample, sample.migrate(), *HIGH, said=f"{path} has 23 bytes instead of 11")


def test_a_missing_file(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.unlink()
    incomplete(sample, sample.migrate(), *HIGH, said=f"{path} is missing")


def test_a_symlink_loop_in_a_layer(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.unlink()
    path.symlink_to("app")
    incomplete(sample, sample.migrate(), *HIGH, said=f"{path} cannot be read")


@pytest.mark.parametrize("name", ["../../outside", "/../outside", "OUTSIDE", "..", "link/outside", "out\0side", "\x1b[31mred"])
def test_names_in_a_layer_that_lead_out_of_it(sample: Sample, tmp_path: Path, name: str) -> None:
    (tmp_path / "outside").write_bytes(b"application")
    (sample.builder.files(sample.top) / "link").symlink_to(tmp_path)
    checksum = tar_split.ContentSum()
    checksum.update(b"application")
    entry = tar_split.Entry(tar_split.FILE, name=name.replace("OUTSIDE", str(tmp_path)), size=11, payload=checksum.digest())
    with (sample.builder.entry(sample.top) / "tar-split.json.gz").open("wb") as file:
        tar_split.write(file, [entry])
    ended = sample.migrate()
    incomplete(sample, ended, *HIGH, said=f"{sample.builder.files(sample.top)}/")
    shown = [sample.run("migrate"), command("status", "--state-dir", sample.state)]
    assert not {"\x1b", "\0"} & set("".join(each.all for each in shown))


def test_a_broken_base_costs_all_that_stand_on_it_and_no_more(sample: Sample) -> None:
    (sample.builder.files(sample.base) / "bin/sh").write_bytes(b"x")
    incomplete(sample, sample.migrate(), f"{HUB}/low:1", *HIGH, said="bin/sh has 1 bytes instead of 5000")


def test_what_was_broken_and_is_mended_is_moved_by_the_next_run(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.write_bytes(b"APPLICATION")
    first = sample.migrate()
    assert first.code == 1
    path.write_bytes(b"application")
    second = sample.migrate()
    assert second.code == 0, second.all
    assert second.report["run"] == first.report["run"]
    assert second.report["skipped"] == first.report["done"]
    assert sample.image_ids().items() >= sample.expected.items()
    assert sample.run("verify").code == 0


def test_the_source_is_never_changed(sample: Sample) -> None:
    (sample.builder.files(sample.top) / "app").unlink()
    before = snapshot(sample.source)
    sample.migrate()
    sample.run("verify")
    sample.rollback()
    assert snapshot(sample.source) == before


# Targets


def test_a_target_that_is_a_file(sample: Sample) -> None:
    sample.layout.write_bytes(b"mine")
    for name in ("plan", "migrate", "verify"):
        refused(sample.run(name, "--json"), 4, str(sample.layout))
    assert sample.layout.read_bytes() == b"mine"


def test_a_target_that_is_someone_elses_directory(sample: Sample) -> None:
    sample.layout.mkdir()
    (sample.layout / "mine").write_bytes(b"mine")
    before = snapshot(sample.layout)
    for name in ("plan", "migrate", "verify"):
        refused(sample.run(name, "--json"), 4, str(sample.layout))
    assert snapshot(sample.layout) == before


def test_a_target_that_is_a_damaged_layout(sample: Sample) -> None:
    sample.migrate()
    (sample.layout / "index.json").write_bytes(b"{")
    refused(sample.migrate(), 4, str(sample.layout / "index.json"))
    assert (sample.layout / "index.json").read_bytes() == b"{"


def test_a_target_below_a_file(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    sample.layout = tmp_path / "file" / "layout"
    refused(sample.migrate(), 4, str(sample.layout))


def test_a_target_that_cannot_be_written_to(sample: Sample) -> None:
    """/proc takes no directories, not even root's."""
    sample.layout = type(sample.layout)("/proc/transship")
    refused(sample.migrate(), 4, "/proc")


@pytest.mark.parametrize("target", ["docker:/x", "oci", "oci:", "", "OCI:/x", "/some/where", "registry:x"])
def test_a_target_that_is_none(sample: Sample, target: str) -> None:
    ended = command("migrate", "--json", *sample.ends, "--target", target)
    refused(ended, 2, repr(target))


def test_a_socket_that_is_not_there(sample: Sample, tmp_path: Path) -> None:
    ended = command("migrate", "--json", *sample.ends, "--target", f"containerd:{tmp_path}/none.sock")
    refused(ended, 4, f"{tmp_path}/none.sock")


def test_a_socket_that_is_a_file(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "file.sock").write_bytes(b"")
    refused(
        command("migrate", "--json", *sample.ends, "--target", f"containerd:{tmp_path}/file.sock"), 4, f"{tmp_path}/file.sock"
    )


def test_a_socket_where_something_else_listens(sample: Sample, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(tmp_path / "other.sock"))
        other.listen()
        path = tmp_path / "other.sock"
        assert stat.S_ISSOCK(path.stat().st_mode)
        with subprocess.Popen([sys.executable, "-c", _RUDE_SERVER], stdin=other.fileno(), stdout=subprocess.PIPE) as server:
            refused(command("migrate", "--json", *sample.ends, "--target", f"containerd:{path}"), 4, str(path))
            server.kill()


_RUDE_SERVER = """\
import socket
server = socket.socket(fileno=0)
while True:
    connection, _ = server.accept()
    connection.sendall(b"HTTP/1.0 400 Bad Request\\r\\n\\r\\n")
    connection.close()
"""


def test_without_a_target_one_is_asked_for(sample: Sample, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("transship.legs.targets.DEFAULT_SOCKET", tmp_path / "none.sock")
    ended = command("migrate", "--json", "--source", sample.source, "--state-dir", sample.state)
    error = refused(ended, 2, "no target was given")
    assert "--target" in error["remedy"]


def test_a_state_directory_that_cannot_be(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    sample.state = tmp_path / "file"
    refused(sample.migrate(), 4, str(sample.state))
    assert not sample.layout.exists()


def test_a_damaged_journal(sample: Sample) -> None:
    sample.state.mkdir()
    (sample.state / "journal.db").write_bytes(b"garbage" * 1000)
    refused(sample.migrate(), 4, str(sample.state / "journal.db"))
    refused(command("status", "--json", "--state-dir", sample.state), 4, str(sample.state / "journal.db"))
    assert not sample.layout.exists()


def test_a_journey_is_what_it_says(tmp_path: Path) -> None:
    """The good case, so that the bad ones mean something."""
    sample = Sample(tmp_path)
    ended = sample.migrate()
    assert ended.code == 0, ended.all
    assert ended.report["complete"]
    dangling = {name: image for name, image in sample.image_ids().items() if name not in sample.expected}
    assert sample.image_ids() == sample.expected | dangling
    assert list(dangling.values()) == [sample.nameless]
    assert isinstance(sample, Journey)
    sample.ensure_consistent()
