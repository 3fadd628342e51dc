"""Finding a Docker data root, and the graph driver whose store in it is to be read."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import msgspec

from transship.errors import SourceCorrupt, SourceError, SourceMissing, SourceUnsupported
from transship.stores.docker import small_files
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.docker.store import Store, read_store

DEFAULT_ROOT = Path("/var/lib/docker")
DEFAULT_DAEMON_JSON = Path("/etc/docker/daemon.json")

_PRIORITY = ("overlay2", "fuse-overlayfs", "btrfs", "zfs", "aufs", "overlay", "devicemapper", "vfs")
"""The order in which dockerd looks for a store, if it was not told its driver (moby ``daemon/graphdriver/driver_linux.go``);
aufs, overlay and devicemapper are where they were while it knew them, up to Docker 23 and 24."""
_REMAPPED = re.compile(r"[0-9]+\.[0-9]+")
_PARTS_OF_A_STORE = ("imagedb", "layerdb", "repositories.json")
_GIVE_SOURCE = "give the daemon's data root as the source (docker info -f '{{.DockerRootDir}}' names it)"


class _DaemonJson(msgspec.Struct, rename="kebab"):
    data_root: str | None = None
    graph: str | None = None  # what data-root was called before Docker 17.05
    storage_driver: str | None = None


@dataclass(frozen=True)
class _Drivers:
    """Graph drivers with a store in a root, in the order of preference: those that have images, and all."""

    with_images: tuple[str, ...]
    all: tuple[str, ...]


def open_store(source: Path | None, daemon_json: Path = DEFAULT_DAEMON_JSON, driver: str | None = None) -> Store:
    """Find the store in the data root ``source`` and read it.

    Without ``source``: the data root that ``daemon_json`` names, else /var/lib/docker. Without ``driver``: the one that
    ``daemon_json`` names, if ``source`` is its data root, else the one that has images, dockerd's favourite first. Raises
    SourceMissing if there is no store, SourceUnsupported if it is of a kind that cannot be read, SourceError if it cannot be
    read for another reason. Damage to single things is among the store's ``problems`` and ``broken``.
    """
    settings = _read_daemon_json(daemon_json)
    usual_root = Path(settings.data_root or settings.graph or DEFAULT_ROOT)
    root = usual_root if source is None else source
    _ensure_directory(root)
    _refuse_remapped(root)
    drivers = _find_drivers(root)
    if driver is None and (source is None or _same(root, usual_root)):
        driver = settings.storage_driver or None
    chosen = _choose(root, drivers, driver)
    return read_store(root, chosen, tuple(name for name in drivers.with_images if name != chosen))


def _read_daemon_json(path: Path) -> _DaemonJson:
    try:
        raw = small_files.read(str(path.resolve()), 1024 * 1024)
        return _DaemonJson() if raw is None or not raw.strip() else msgspec.json.decode(raw, type=_DaemonJson)
    except SourceCorrupt as error:
        raise SourceError(error.message, remedy=error.remedy) from error
    except (ValueError, RecursionError) as error:
        raise SourceError(f"{path} is damaged: {error}", remedy="correct it: it says where Docker keeps its data") from error


def _ensure_directory(root: Path) -> None:
    status = _stat(root)
    if status is None:
        raise SourceMissing(f"{root} does not exist", remedy=_GIVE_SOURCE)
    if not stat.S_ISDIR(status.st_mode):
        raise SourceMissing(f"{root} is not a directory", remedy=_GIVE_SOURCE)


def _refuse_remapped(root: Path) -> None:
    """Refuse the root of a daemon that remaps user IDs: it keeps a store per mapping, with shifted owners."""
    remedy = "stores of userns-remap cannot be moved yet"
    real = root.resolve()
    if _REMAPPED.fullmatch(real.name):
        raise SourceUnsupported(f"{root} is the store of a daemon with userns-remap {real.name}", remedy=remedy)
    for entry in small_files.entries(root):
        if _REMAPPED.fullmatch(entry.name) and _stat(root / entry.name / "image") is not None:
            raise SourceUnsupported(
                f"{root} belongs to a daemon with userns-remap: its store is {entry.path}",
                remedy=f"{remedy}; if the daemon does not use that directory any more, move it elsewhere first",
            )


def _find_drivers(root: Path) -> _Drivers:
    found: list[str] = []
    with_images: list[str] = []
    for entry in small_files.entries(root / "image"):
        if any(_stat(root / "image" / entry.name / part) is not None for part in _PARTS_OF_A_STORE):
            found.append(entry.name)
            if small_files.entries(root / "image" / entry.name / "imagedb" / "content" / "sha256"):
                with_images.append(entry.name)
    return _Drivers(tuple(sorted(with_images, key=_preference)), tuple(sorted(found, key=_preference)))


def _preference(driver: str) -> tuple[int, str]:
    return (_PRIORITY.index(driver) if driver in _PRIORITY else len(_PRIORITY), driver)


def _choose(root: Path, drivers: _Drivers, wanted: str | None) -> str:
    candidates = drivers.with_images or drivers.all
    if wanted is None and not candidates:
        _refuse_without_store(root)
    driver = candidates[0] if wanted is None else wanted
    if driver not in DRIVERS:
        *known, last = DRIVERS
        raise SourceUnsupported(
            f"{root} has a store of the graph driver {driver}",
            remedy=f"only {', '.join(known)} and {last} can be moved yet",
        )
    if driver not in drivers.all:
        others = f", but of {', '.join(drivers.all)}" if drivers.all else ""
        raise SourceMissing(f"{root} has no store of the graph driver {driver}{others}", remedy=_GIVE_SOURCE)
    return driver


def _refuse_without_store(root: Path) -> NoReturn:
    if _stat(root / "graph") is not None and _stat(root / "image") is None:
        if any(_stat(root / "graph" / entry.name / "layer") is not None for entry in small_files.entries(root / "graph")):
            raise SourceUnsupported(f"{root} is a store of Docker 0.6 or older (graph/<id>/layer)", remedy=_TOO_OLD)
        raise SourceUnsupported(f"{root} is a v1 store, of Docker 0.7 to 1.9 (graph/)", remedy=_TOO_OLD)
    raise SourceMissing(
        f"no Docker store here: {root} has no image/<driver>",
        remedy=f"{_GIVE_SOURCE}; a daemon with the containerd image store keeps no images there",
    )


_TOO_OLD = "stores older than Docker 1.10 cannot be moved yet"


def _same(one: Path, other: Path) -> bool:
    first, second = _stat(one), _stat(other)
    return first is not None and second is not None and os.path.samestat(first, second)


def _stat(path: Path) -> os.stat_result | None:
    """Return what is at ``path``, links followed; None if nothing is. Raises SourceError."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}", remedy=small_files.READ_REMEDY) from error
