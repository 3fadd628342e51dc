"""``transship buildkit inspect``: caches that real daemons wrote, against what BuildKit's own migration made of them."""

from __future__ import annotations

import fcntl
import json
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import zstandard

from tests.cli.harness import command
from transship.stores import bolt_file

if TYPE_CHECKING:
    from collections.abc import Callable

DATA = Path(__file__).parent.parent / "data" / "buildkit"
CACHES = {"buildkit-0.6.4": ("runc-overlayfs", 115), "docker-19.03.15": ("buildkit", 87)}
"""Where the metadata are in the root, and how many records there are."""


@pytest.fixture(params=sorted(CACHES))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def unpacked(tmp_path: Path) -> Callable[[str], Path]:
    """Unpack a cache by name."""

    def unpack(name: str) -> Path:
        place = tmp_path / name
        place.mkdir()
        tar = zstandard.ZstdDecompressor().stream_reader((DATA / f"{name}.tar.zst").read_bytes()).read()
        subprocess.run(["tar", "-C", place, "-xf", "-"], input=tar, check=True)
        return place

    return unpack


def inspected(directory: Path, code: int = 0) -> list[dict[str, Any]]:
    ended = command("buildkit", "inspect", directory, "--json")
    assert ended.code == code, ended.all
    caches: list[dict[str, Any]] = ended.report["caches"]
    return caches


def test_both_versions_tell_the_same(name: str, unpacked: Callable[[str], Path]) -> None:
    place = unpacked(name)
    [old] = inspected(place / "root")
    [new] = inspected(place / "migrated")
    where, count = CACHES[name]
    assert (old["metadata"], old["version"]) == (str(place / "root" / where / "metadata.db"), 1)
    assert (new["version"], len(new["records"])) == (2, count)
    for records in (old["records"], new["records"]):
        for record in records:
            # Only the migration notes blobs; of layers of images that Docker pulled, its layer store knows the parents.
            del record["blob"]
            if name.startswith("docker") and record["id"].startswith("sha256:"):
                del record["parents"]
    assert old["records"] == new["records"]
    assert sum(bool(record.get("parents")) for record in old["records"]) > count // 3


def test_what_is_told_of_a_record(unpacked: Callable[[str], Path]) -> None:
    [cache] = inspected(unpacked("buildkit-0.6.4") / "root")
    records = {record["id"]: record for record in cache["records"]}
    mount = records["pufgo2qbfsmtkd9k2tl9uk8u2"]
    assert mount["type"] == "exec.cachemount"
    assert mount["description"].startswith("cached mount /cl from exec /bin/sh -c echo s >> /cs/f;")
    assert 1.7e9 < mount["created"] <= mount["last_used"]
    assert mount["uses"] > 0
    assert (mount["deleted"], mount["parents"]) == (False, [])
    used = [record["last_used"] or record["created"] for record in cache["records"]]
    assert used == sorted(used, reverse=True)


def test_the_newer_metadata_count(unpacked: Callable[[str], Path]) -> None:
    place = unpacked("docker-19.03.15")
    shutil.copy(place / "migrated" / "metadata_v2.db", place / "root" / "buildkit")
    [cache] = inspected(place / "root")
    assert (cache["version"], cache["metadata"]) == (2, str(place / "root" / "buildkit" / "metadata_v2.db"))


def test_a_table_for_people(name: str, unpacked: Callable[[str], Path]) -> None:
    ended = command("buildkit", "inspect", unpacked(name) / "root")
    assert ended.code == 0
    first, head, *lines = ended.out.splitlines()
    assert f"version 1, {CACHES[name][1]} records" in first
    assert head.split() == ["ID", "SIZE", "LAST", "USED", "PARENT", "DESCRIPTION"]
    assert len(lines) == CACHES[name][1]


def test_a_damaged_value_costs_itself(unpacked: Callable[[str], Path]) -> None:
    place = unpacked("buildkit-0.6.4")
    record = b"q8j1ge5hsxh806h66augt2x5c"

    class Changed(dict[bytes, Any]):
        sequence = 0

    def copied(bucket: Any) -> Changed:
        return Changed({key: value if isinstance(value, bytes) else copied(value) for key, value in sorted(bucket.items())})

    def change(database: Any) -> Any:
        root = copied(database.root)
        root[b"_main"][record][b"cache.description"] = b'{"value":"\x1b[31m'
        root[b"_main"][record][b"cache.usageCount"] = json.dumps({"value": "many"}).encode()
        return root

    with bolt_file.held(place / "root" / "runc-overlayfs" / "metadata.db") as file:
        file.commit(change(file.database))
    [cache] = inspected(place / "root", 5)
    [message] = cache["damaged"]
    assert message.startswith(f"record {record.decode()}: cache.description: ")
    [damaged] = [each for each in cache["records"] if each["id"] == record.decode()]
    assert (damaged["description"], damaged["uses"], damaged["type"]) == (None, None, "exec.cachemount")


def test_what_is_no_cache(tmp_path: Path) -> None:
    ended = command("buildkit", "inspect", tmp_path)
    assert ended.code == 3
    assert "no build cache here" in ended.err


def test_one_that_a_daemon_has_open(unpacked: Callable[[str], Path]) -> None:
    metadata = unpacked("docker-19.03.15") / "root" / "buildkit" / "metadata.db"
    with metadata.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ended = command("buildkit", "inspect", metadata.parent)
    assert ended.code == 3
    assert str(metadata) in ended.err
