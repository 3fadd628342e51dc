"""Image names in an OCI image layout."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.stores.suites import ImageStoreSuite
from transship.errors import TargetNotFound, TargetRefused
from transship.formats import digest as digests
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from pathlib import Path

    from transship.stores.interfaces import ImageStore

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
REF_NAME = "org.opencontainers.image.ref.name"
CONTAINERD_NAME = "io.containerd.image.name"

_PUT_MANY = """
import sys
from pathlib import Path
from transship.formats import digest
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget
target = LayoutTarget(Path(sys.argv[1]))
sys.stdin.readline()
for number in range(40):
    name = f"docker.io/library/{sys.argv[2]}:{number}"
    target.images.put(ImageRecord(name, ImageDescriptor("x", digest.of(name.encode()), 1)))
"""

FOREIGN: list[dict[str, Any]] = [
    {"mediaType": MANIFEST, "digest": "sha256:" + "1" * 64, "size": 12345678901234567890123, "annotations": {"zzz": "kept"}},
    {
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "digest": "sha512:" + "2" * 128,
        "size": 7,
        "platform": {"os": "linux"},
        "urls": ["https://example.com/"],
        "data": "eHh4",
        "annotations": {REF_NAME: "other"},
    },
    {"mediaType": "application/octet-stream", "digest": "sha256:" + "3" * 64, "size": 1, "annotations": None},
]


class TestImages(ImageStoreSuite):
    @pytest.fixture
    def store(self, directory: Path) -> ImageStore:
        return LayoutTarget(directory).images


def record(name: str, number: int = 0, **labels: str) -> ImageRecord:
    return ImageRecord(name, ImageDescriptor(MANIFEST, digests.of(b"%d" % number), number), labels)


def index_of(directory: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((directory / "index.json").read_bytes())
    return loaded


def make_layout(directory: Path, index: str) -> LayoutTarget:
    (directory / "blobs" / "sha256").mkdir(parents=True)
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(index)
    return LayoutTarget(directory)


def test_entry_has_both_names_and_labels(directory: Path, target: LayoutTarget) -> None:
    labels = {"b": "1", "containerd.io/gc.ref.content.config": "x", "org.example": "y"}
    target.images.put(ImageRecord("docker.io/library/x:1", record("x").target, labels))
    assert index_of(directory) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [
            {
                "mediaType": MANIFEST,
                "digest": digests.of(b"0"),
                "size": 0,
                "annotations": {
                    "b": "1",
                    "org.example": "y",
                    REF_NAME: "docker.io/library/x:1",
                    CONTAINERD_NAME: "docker.io/library/x:1",
                },
            }
        ],
    }
    assert target.images.get("docker.io/library/x:1").labels == {"b": "1", "org.example": "y"}


def test_order_of_puts_does_not_show(tmp_path: Path) -> None:
    written: list[bytes] = []
    for order in (range(9), reversed(range(9))):
        target = LayoutTarget(tmp_path / f"layout-{len(written)}")
        for number in order:
            target.images.put(record(f"docker.io/library/x:{number}", number, b="1", a="2"))
        written.append((tmp_path / f"layout-{len(written)}" / "index.json").read_bytes())
    assert written[0] == written[1]


def test_foreign_entries_are_kept(directory: Path) -> None:
    document = {"schemaVersion": 2, "annotations": {"of": "index"}, "manifests": FOREIGN, "x": [1.10]}
    target = make_layout(directory, json.dumps(document))
    target.open()
    target.images.put(record("docker.io/library/x:1"))
    target.images.put(record("docker.io/library/x:2"))
    target.images.delete("docker.io/library/x:2")
    index = index_of(directory)
    named = [entry for entry in index["manifests"] if (entry["annotations"] or {}).get(CONTAINERD_NAME)]
    assert [entry for entry in index["manifests"] if entry not in named] == [FOREIGN[0], FOREIGN[2], FOREIGN[1]]
    assert (index["annotations"], index["x"], len(named)) == ({"of": "index"}, [1.10], 1)
    assert [found.name for found in target.images.list()] == ["docker.io/library/x:1"]


def test_names_given_by_others(directory: Path) -> None:
    entries = [
        {"mediaType": MANIFEST, "digest": digests.of(b"1"), "size": 1, "annotations": {REF_NAME: "latest"}},
        {
            "mediaType": MANIFEST,
            "digest": digests.of(b"2"),
            "size": 2,
            "annotations": {REF_NAME: "latest", CONTAINERD_NAME: "docker.io/library/y:latest"},
        },
    ]
    target = make_layout(directory, json.dumps({"schemaVersion": 2, "manifests": entries}))
    assert target.images.get("latest") == record("latest", 1)
    assert target.images.get("docker.io/library/y:latest") == record("docker.io/library/y:latest", 2)
    target.images.put(record("latest", 3))
    assert sorted(found.target.size for found in target.images.list()) == [2, 3]


def test_digest_of_another_kind_is_refused(directory: Path) -> None:
    target = make_layout(directory, json.dumps({"schemaVersion": 2, "manifests": FOREIGN}))
    with pytest.raises(TargetRefused, match=r"other in .*index\.json: not a sha256 digest"):
        target.images.get("other")


@pytest.mark.parametrize("index", ['{"schemaVersion": 2}', '{"schemaVersion": 2, "manifests": null}', "{}"])
def test_index_without_entries(directory: Path, index: str) -> None:
    target = make_layout(directory, index)
    assert list(target.images.list()) == []
    target.images.put(record("x:1"))
    assert index_of(directory)["schemaVersion"] == 2
    assert target.images.get("x:1") == record("x:1")


@pytest.mark.parametrize(
    "index",
    [
        "",
        "null",
        "[]",
        '{"manifests": 1}',
        '{"manifests": [1]}',
        '{"manifests": [{"digest": 1}]}',
        '{"manifests": [{"annotations": {"a": 1}}]}',
        '{"manifests": [',
        '{"manifests": ' + "[" * 100_000,
        '{"manifests": [{"x": ' + "[" * 100_000,
        '{"manifests": ["\ud800"]}',
    ],
    ids=range(11),
)
def test_garbage_is_refused_and_left_alone(directory: Path, index: str) -> None:
    target = make_layout(directory, "")
    (directory / "index.json").write_bytes(index.encode("utf-8", "surrogatepass"))
    calls = (target.open, lambda: target.images.get("x:1"), lambda: list(target.images.list()))
    for call in (*calls, lambda: target.images.put(record("x:1")), lambda: target.images.delete("x:1")):
        with pytest.raises(TargetRefused, match=str(directory / "index.json")):
            call()
    assert (directory / "index.json").read_bytes() == index.encode("utf-8", "surrogatepass")


def test_huge_index_is_refused(directory: Path) -> None:
    target = make_layout(directory, "")
    with (directory / "index.json").open("r+b") as file:
        file.truncate(65 << 20)
    with pytest.raises(TargetRefused, match="over the limit"):
        target.open()


def test_two_processes_at_once(directory: Path, target: LayoutTarget) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", _PUT_MANY, str(directory), name], stdin=subprocess.PIPE, text=True)
        for name in ("a", "b")
    ]
    for process in processes:
        process.communicate("\n")
    assert [process.wait() for process in processes] == [0, 0]
    assert {found.name for found in target.images.list()} == {f"docker.io/library/{a}:{n}" for a in "ab" for n in range(40)}
    assert {path.name for path in directory.iterdir()} == {"blobs", "index.json", "oci-layout"}


def test_put_of_the_same_writes_nothing(directory: Path, target: LayoutTarget) -> None:
    target.images.put(record("x:1", 1, a="1"))
    before = (directory / "index.json").stat()
    target.images.put(record("x:1", 1, a="1"))
    assert (directory / "index.json").stat().st_ino == before.st_ino


def test_nothing_is_made_to_look_or_to_delete(directory: Path, target: LayoutTarget) -> None:
    target.images.delete("x:1")
    with pytest.raises(TargetNotFound, match=str(directory)):
        target.images.get("x:1")
    assert not directory.exists()
