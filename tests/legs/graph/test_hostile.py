"""Images made to lead an upgrade astray: nothing outside is read or written, and memory and time have bounds."""

from __future__ import annotations

import base64
import gzip
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Journey, environment
from tests.legs.graph.upgrades import Upgrade, as_it_is, failed, noted, upgrade_of
from tests.stores.graph.builder import GraphBuilder, usual_json
from transship.formats import tar_split

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

SECRET = b"what is outside"
_UNPACKED = 1 << 29
MEASURED = """
import sys
from transship.cli.main import main
code = main(sys.argv[1:])
[peak] = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM:")]
print(peak, file=sys.stderr)
sys.exit(code)
"""


class Hostile:
    """A root with an image to be spoiled, ``bad``, and one that is well, ``good``; beside it a file that is not to be read."""

    def __init__(self, place: Path, driver: str = "vfs") -> None:
        self.builder = GraphBuilder(place / "docker", driver)
        self.bad = self.builder.image({"a": b"1"}, names=["bad:1"])
        self.good = self.builder.image({"b": b"2"}, names=["good:1"])
        self.layer = self.builder.layer(self.bad)
        self.directory = self.builder.directory(self.bad)
        self.secret = place / "secret"
        self.secret.write_bytes(SECRET)
        self.upgrade = upgrade_of(self.builder.root, place / "state")
        self.journey = Journey(self.builder.root, place / "layout", place / "state of the journey")

    def record(self, name: str, size: int = len(SECRET)) -> None:
        """Have the layer's tar-split data name this file."""
        entries = [
            tar_split.Entry(tar_split.SEGMENT, 0, payload=bytes(512)),
            tar_split.Entry(tar_split.FILE, 1, name=name, size=size, payload=bytes(8)),
        ]
        with (self.directory / "tar-data.json.gz").open("wb") as file:
            tar_split.write(file, entries)

    def pack(self, pieces: Iterable[bytes]) -> None:
        """Have the layer's tar-split data unpack to these pieces."""
        with gzip.open(self.directory / "tar-data.json.gz", "wb", 1) as file:
            file.writelines(pieces)

    def ensure_loses(self, reason: str) -> None:
        """The bad image is lost by name, wherever it was to go, and the good one arrives."""
        before = as_it_is(self.builder.root)
        ended = self.upgrade.migrate()
        assert ended.code == 1, ended.all
        assert failed(ended).keys() == {self.bad, "bad:1"}
        assert reason in failed(ended)[self.bad]
        assert self.upgrade.images.keys() == {self.good}
        self.upgrade.take_back()
        assert as_it_is(self.builder.root) == before
        ended = self.journey.migrate()
        assert ended.code == 1, ended.all
        assert failed(ended).keys() == {self.bad, "bad:1"}
        assert self.journey.names().keys() == {f"{HUB}/good:1"}
        assert as_it_is(self.builder.root) == before
        assert self.secret.read_bytes() == SECRET

    def ensure_made_anew(self, reason: str) -> None:
        """The bad image arrives with a stream made of its files, whatever its tar-split data say."""
        ended = self.upgrade.migrate()
        assert ended.code == 0, ended.all
        assert noted(ended).keys() == {self.bad}
        assert reason in noted(ended)[self.bad]
        assert self.upgrade.run("verify").code == 0
        self.upgrade.take_back()
        assert self.journey.migrate().code == 0
        assert self.journey.names().keys() == {f"{HUB}/bad:1", f"{HUB}/good:1"}


@pytest.fixture
def hostile(tmp_path: Path) -> Hostile:
    return Hostile(tmp_path)


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _device(path: Path) -> None:
    os.mknod(path, 0o20600, os.makedev(1, 5))


def _directory(path: Path) -> None:
    path.mkdir()


SPECIAL: tuple[Callable[[Path], None], ...] = (_fifo, _zeros, _device, _directory)


@pytest.mark.parametrize("driver", ["aufs", "overlay", "vfs"])
@pytest.mark.parametrize(
    "name", ["../../../secret", "../" * 40 + "etc/passwd", "/proc/self/environ", "/etc/passwd", "/dev/zero"]
)
def test_tar_split_data_that_name_files_outside(name: str, driver: str, tmp_path: Path) -> None:
    hostile = Hostile(tmp_path, driver)
    hostile.record(name)
    hostile.ensure_made_anew("is missing")


def test_tar_split_data_that_name_files_through_links(hostile: Hostile) -> None:
    (hostile.layer / "above").symlink_to(hostile.secret.parent)
    hostile.record("above/secret")
    hostile.ensure_made_anew("is missing")


def test_tar_split_data_that_name_a_link(hostile: Hostile) -> None:
    (hostile.layer / "link").symlink_to(hostile.secret)
    hostile.record("link")
    hostile.ensure_made_anew("cannot be read")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("make", SPECIAL)
def test_tar_split_data_that_name_no_regular_file(make: Callable[[Path], None], hostile: Hostile) -> None:
    make(hostile.layer / "special")
    hostile.record("special")
    hostile.ensure_made_anew("special ")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("make", SPECIAL)
def test_tar_split_data_in_no_regular_file(make: Callable[[Path], None], hostile: Hostile) -> None:
    (hostile.directory / "tar-data.json.gz").unlink()
    make(hostile.directory / "tar-data.json.gz")
    hostile.ensure_made_anew("tar-data.json.gz: ")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("name", ["json", "parent"])
def test_metadata_in_no_regular_file(name: str, make: Callable[[Path], None], hostile: Hostile) -> None:
    (hostile.directory / name).unlink(missing_ok=True)
    make(hostile.directory / name)
    hostile.ensure_loses(f"/{name}")


@pytest.mark.usefixtures("as_root")
@pytest.mark.parametrize("make", SPECIAL)
@pytest.mark.parametrize("name", ["layersize", "checksum"])
def test_metadata_that_an_image_can_do_without(name: str, make: Callable[[Path], None], hostile: Hostile) -> None:
    (hostile.directory / name).unlink(missing_ok=True)
    make(hostile.directory / name)
    assert hostile.upgrade.migrate().code == 0
    assert hostile.upgrade.images.keys() == {hostile.bad, hostile.good}


@pytest.mark.parametrize(
    ("json", "reason"),
    [
        (b"null", "null"),
        (b"[]", "not a JSON object"),
        (b"", "not JSON"),
        (usual_json("x", None, {"comment": "x" * (17 << 20)}), "over the limit"),
        (b'{"config":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "levels deep"),
        (b'{"config":' + b'{"":' * 100_000, "levels deep"),
        (b"{" + b",".join(b'"%d":0' % number for number in range(200_000)) + b"}", "members"),
        (usual_json("x", "../../../etc", {}), "which is no image ID"),
    ],
)
def test_json_made_to_harm(json: bytes, reason: str, hostile: Hostile) -> None:
    (hostile.directory / "json").write_bytes(json)
    hostile.ensure_loses(reason)


@pytest.mark.parametrize("driver", ["aufs", "overlay", "vfs"])
def test_a_layer_that_is_a_link(driver: str, tmp_path: Path) -> None:
    hostile = Hostile(tmp_path, driver)
    hostile.layer.rename(tmp_path / "moved")
    hostile.layer.symlink_to("/etc")
    hostile.ensure_loses("is ")


def test_an_image_that_is_a_link(hostile: Hostile, tmp_path: Path) -> None:
    hostile.directory.rename(tmp_path / "moved")
    hostile.directory.symlink_to(tmp_path / "moved")
    hostile.ensure_loses("is a link, which is not followed")


def test_a_new_store_that_is_a_link(hostile: Hostile, tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "vfs").mkdir(parents=True)
    (hostile.builder.root / "image").symlink_to(tmp_path / "elsewhere")
    ended = hostile.upgrade.migrate()
    assert ended.code == 1, ended.all
    assert any("/image" in reason for reason in failed(ended).values())
    assert list((tmp_path / "elsewhere").rglob("*")) == [tmp_path / "elsewhere" / "vfs"]


def _measured(upgrade: Upgrade) -> tuple[int, int]:
    """Upgrade in a process of its own; return its exit code, and the most memory that it had, in MiB."""
    command = [sys.executable, "-c", MEASURED, "migrate", "--direct", *upgrade.ends]
    ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())
    return ended.returncode, int(ended.stderr.split()[-1]) >> 10


SEGMENT = b'{"type":2,"payload":"' + base64.b64encode(bytes(768 << 10)) + b'","position":0}\n'


@pytest.mark.parametrize(
    "piece", [bytes(1 << 20), b" " * (1 << 20), b"\n" * (1 << 20), b'{"type":1,' * (1 << 17), SEGMENT], ids=range(5)
)
def test_a_bomb_takes_no_memory(piece: bytes, hostile: Hostile) -> None:
    hostile.pack(piece for _ in range(_UNPACKED // len(piece)))
    assert (hostile.directory / "tar-data.json.gz").stat().st_size < 20 << 20
    code, memory = _measured(hostile.upgrade)
    assert code == 0
    assert memory < 300
    assert hostile.upgrade.images.keys() == {hostile.bad, hostile.good}
