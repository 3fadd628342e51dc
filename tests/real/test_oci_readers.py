"""OCI image layouts as other programs read them."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
import uuid
from typing import TYPE_CHECKING

import pytest

from tests.real.conftest import need
from transship.formats import digest as digests
from transship.formats.compression import Codec, Recipe
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from pathlib import Path

    from tests.real.conftest import Containerd
    from transship.formats.digest import Digest

pytestmark = pytest.mark.real

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
NAMES = [
    "docker.io/library/x:1",
    "127.0.0.1:5055/a/b:2",
    "docker.io/library/a.b-c_d:v1.0-rc_1",
    "moby-dangling@sha256:" + "0" * 64,
    "docker.io/library/x@sha256:" + "0" * 64,
]
OTHER_PLATFORM = "docker.io/library/arm:1"
OUTSIDE_THE_GRAMMAR = "docker.io/library/a__b:1"
"""A good name for Docker, not one for ``org.opencontainers.image.ref.name`` (OCI image-spec ``annotations.md``)."""


def run(*command: str | Path) -> str:
    return subprocess.run([str(part) for part in command], check=True, capture_output=True, text=True, timeout=60).stdout


def store(target: LayoutTarget, data: bytes) -> Digest:
    digest = digests.of(data)
    with target.content.writer(digest) as writer:
        writer.write(data)
        writer.commit(digest, len(data), {})
    return digest


def store_image(target: LayoutTarget, names: list[str], recipe: Recipe, architecture: str) -> None:
    """Store an image whose one file ``hello`` says its architecture."""
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        member = tarfile.TarInfo("hello")
        member.size = len(architecture)
        archive.addfile(member, io.BytesIO(architecture.encode()))
    compressor = recipe.compressor()
    layer = compressor.compress(tar.getvalue()) + compressor.flush()
    config = json.dumps(
        {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/hello"]},
            "rootfs": {"type": "layers", "diff_ids": [digests.of(tar.getvalue())]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "a test"}],
        }
    ).encode()
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {"mediaType": CONFIG, "digest": store(target, config), "size": len(config)},
            "layers": [{"mediaType": recipe.media_type, "digest": store(target, layer), "size": len(layer)}],
        }
    ).encode()
    image = ImageDescriptor(MANIFEST, store(target, manifest), len(manifest))
    for name in names:
        target.images.put(ImageRecord(name, image, {"org.example.label": "x", "containerd.io/gc.ref.content.config": "y"}))


@pytest.fixture(params=list(Codec), ids=lambda codec: codec.value)
def codec(request: pytest.FixtureRequest) -> Codec:
    chosen: Codec = request.param
    return chosen


@pytest.fixture
def layout(tmp_path: Path, codec: Codec) -> Path:
    directory = tmp_path / "layout"
    target = LayoutTarget(directory)
    target.hold("run")
    store_image(target, [*NAMES, OUTSIDE_THE_GRAMMAR], Recipe.make(codec), "amd64")
    store_image(target, [OTHER_PLATFORM], Recipe.make(codec), "arm64")
    target.release("run")
    return directory


@pytest.mark.parametrize("name", [*NAMES, OTHER_PLATFORM])
def test_skopeo(request: pytest.FixtureRequest, layout: Path, tmp_path: Path, name: str) -> None:
    need(request, "skopeo")
    digest = LayoutTarget(layout).images.get(name).target.digest
    assert json.loads(run("skopeo", "inspect", f"oci:{layout}:{name}"))["Digest"] == digest
    architecture = "arm64" if name == OTHER_PLATFORM else "amd64"
    assert json.loads(run("skopeo", "inspect", "--config", f"oci:{layout}:{name}"))["architecture"] == architecture
    run("skopeo", "copy", "--all", "--preserve-digests", f"oci:{layout}:{name}", f"oci:{tmp_path}/copy:it")
    assert LayoutTarget(tmp_path / "copy").images.get("it").target.digest == digest


def test_layout_that_skopeo_wrote_takes_more(
    request: pytest.FixtureRequest, layout: Path, tmp_path: Path, codec: Codec
) -> None:
    need(request, "skopeo")
    run("skopeo", "copy", f"oci:{layout}:{NAMES[0]}", f"oci:{tmp_path}/copy:theirs")
    target = LayoutTarget(tmp_path / "copy")
    target.open()
    store_image(target, ["ours"], Recipe.make(codec), "riscv64")
    for name in ("theirs", "ours"):
        run("skopeo", "copy", f"oci:{tmp_path}/copy:{name}", f"dir:{tmp_path}/{name}")


@pytest.mark.parametrize("name", [*NAMES, OTHER_PLATFORM])
def test_umoci(request: pytest.FixtureRequest, layout: Path, tmp_path: Path, codec: Codec, name: str) -> None:
    need(request, "umoci")
    assert name in run("umoci", "ls", "--layout", layout).splitlines()
    assert "a test" in run("umoci", "stat", "--image", f"{layout}:{name}")
    if codec is Codec.ZSTD and "zstd" not in (version := run("umoci", "--version")):
        assert version.startswith("umoci version 0.4"), "umoci 0.4 cannot read zstd; what of this one?"
        return
    run("umoci", "unpack", "--image", f"{layout}:{name}", tmp_path / "bundle")
    assert (tmp_path / "bundle" / "rootfs" / "hello").read_text() == ("arm64" if name == OTHER_PLATFORM else "amd64")


def test_umoci_finds_no_garbage(request: pytest.FixtureRequest, layout: Path) -> None:
    need(request, "umoci")
    before = {info.digest for info in LayoutTarget(layout).content.list()}
    run("umoci", "gc", "--layout", layout)
    assert {info.digest for info in LayoutTarget(layout).content.list()} == before


def test_ctr(containerd: Containerd, layout: Path, tmp_path: Path) -> None:
    """containerd takes all: every name, whatever its platform, complete and unpacked."""
    namespace = f"test-{uuid.uuid4().hex[:12]}"
    archive = shutil.make_archive(str(tmp_path / "layout"), "tar", layout)
    containerd.ctr("images", "import", archive, namespace=namespace)
    lines = [line.split() for line in containerd.ctr("images", "check", namespace=namespace).splitlines()[1:]]
    records = {record.name: record for record in LayoutTarget(layout).images.list()}
    assert {line[0]: line[2] for line in lines} == {name: record.target.digest for name, record in records.items()}
    assert {(*line[3:5], line[-1]) for line in lines} == {("complete", "(2/2)", "true")}
