"""The layer between an image and a container: as Docker made it on the mounted image, but without a mount."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from tests.legs.aufs.relocation import relocated

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.stores.graph.builder import GraphBuilder

pytestmark = pytest.mark.usefixtures("as_root")

ALL = {
    ".dockerenv": "f 755",
    ".dockerinit": "f 755",
    "dev": "d 755",
    "dev/console": "f 755",
    "dev/pts": "d 755",
    "dev/shm": "d 755",
    "etc": "d 755",
    "etc/hostname": "f 755",
    "etc/hosts": "f 755",
    "etc/mtab": "-> /proc/mounts",
    "etc/resolv.conf": "f 755",
    "proc": "d 755",
    "sys": "d 755",
}


def made_on(builder: GraphBuilder, *layers: Callable[[Path], object]) -> dict[str, str]:
    """Return what is in the init layer of a container on an image with ``layers``, base first."""
    image = None
    for fill in layers:
        image = builder.image(None, image)
        fill(builder.layer(image))
    assert image is not None
    container = builder.container(image)
    relocated(builder.root)
    top = builder.root / "aufs/diff" / f"{container}-init"
    assert (stat.S_IMODE(top.stat().st_mode), top.stat().st_uid) == (0o755, 0)
    return {str(path.relative_to(top)): _shown(path) for path in sorted(top.rglob("*"))}


def _shown(path: Path) -> str:
    status = path.lstat()
    if path.is_symlink():
        return f"-> {path.readlink()}"
    assert path.is_dir() or status.st_size == 0
    owner = f" {status.st_uid}:{status.st_gid}" if status.st_uid or status.st_gid else ""
    return f"{'d' if path.is_dir() else 'f'} {stat.S_IMODE(status.st_mode):o}{owner}"


def made(path: str, mode: int = 0o755, owner: int = 0) -> Callable[[Path], None]:
    def fill(layer: Path) -> None:
        (layer / path).mkdir(parents=True)
        (layer / path).chmod(mode)
        os.chown(layer / path, owner, owner)

    return fill


def with_file(path: str) -> Callable[[Path], None]:
    def fill(layer: Path) -> None:
        (layer / path).parent.mkdir(exist_ok=True)
        (layer / path).write_bytes(b"content")

    return fill


def without(*paths: str) -> dict[str, str]:
    return {path: kind for path, kind in ALL.items() if path not in paths}


def nothing(layer: Path) -> None:
    assert layer.is_dir()


def linked(path: str, target: str) -> Callable[[Path], None]:
    return lambda layer: (layer / path).symlink_to(target)


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([nothing], ALL),
        ([made("proc"), nothing], without("proc")),
        ([made("dev/pts", 0o700), made("dev/shm", 0o1777)], without("dev/pts", "dev/shm")),
        ([made("dev", 0o711, 7), made("etc", 0o1750, 8)], {**ALL, "dev": "d 711 7:7", "etc": "d 1750 8:8"}),
        ([made("etc", 0o700), made("etc", 0o711, 9)], {**ALL, "etc": "d 711 9:9"}),
        ([with_file("etc/hosts"), with_file("proc"), with_file(".dockerinit")], ALL),
        ([with_file("etc")], ALL),
        ([linked("etc", "/usr/etc"), linked("dev", "..")], ALL),
        ([linked("proc", "/etc"), linked("sys", "nowhere")], ALL),
        ([made("etc/hosts"), made(".dockerenv"), made("etc/mtab")], without("etc/hosts", ".dockerenv", "etc/mtab")),
        ([made("proc"), with_file(".wh.proc")], ALL),
        ([made("etc/hosts"), made("etc", 0o750), with_file("etc/.wh..wh..opq")], ALL),
        ([made("dev/dev/dev/pts"), made("etc/etc/hosts")], ALL),
    ],
)
def test_what_the_image_has_not(
    builder: GraphBuilder, layers: list[Callable[[Path], object]], expected: dict[str, str]
) -> None:
    assert made_on(builder, *layers) == expected


def test_a_directory_that_needs_nothing_new_does_not_come_along(builder: GraphBuilder) -> None:
    paths = ("dev/pts", "dev/shm", "dev/console")
    found = made_on(builder, *(made(path) for path in paths))
    assert found == without("dev", *paths)


def test_a_mode_of_nothing_is_kept(builder: GraphBuilder) -> None:
    assert made_on(builder, made("etc", 0)) == {**ALL, "etc": "d 0"}
