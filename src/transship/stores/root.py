"""Finding a data root, of which generation its store is, and the graph driver whose store in it is to be read."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import msgspec

from transship.errors import SourceCorrupt, SourceError, SourceMissing, SourceUnsupported
from transship.stores.buildkit.places import find_caches
from transship.stores.docker import small_files
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.graph.images import SHORT_ID
from transship.stores.graph.store import layers_by_driver

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


class Generation(Enum):
    """How Docker kept its images."""

    BEFORE_DRIVERS = "pre-0.7"
    """Files beside metadata, ``graph/<ID>/layer`` (Docker up to 0.6)."""
    GRAPH = "v1"
    """``graph/<ID>`` and graph drivers' directories (Docker 0.7 to 1.9)."""
    CONTENT_ADDRESSABLE = "content-addressable"
    """``image/<driver>`` (Docker from 1.10)."""
    BUILD_CACHE = "build cache"
    """No images: the cache of BuildKit, or of Docker's builder."""


@dataclass(frozen=True)
class Place:
    """A store that has been found: its data root and graph driver. ``other_drivers`` have images in the same root.

    Build caches have no ``driver``.
    """

    root: Path
    driver: str
    other_drivers: tuple[str, ...]
    generation: Generation


def locate(
    source: Path | None, daemon_json: Path = DEFAULT_DAEMON_JSON, driver: str | None = None, *, old: bool = False
) -> Place:
    """Find the store in the data root ``source``.

    Without ``source``: the data root that ``daemon_json`` names, else /var/lib/docker. Without ``driver``: the one that
    ``daemon_json`` names, if ``source`` is its data root, else the one that has images, dockerd's favourite first. A store of
    the v1 generation counts if there is none with images that is content-addressable, or if the ``old`` one is wanted.

    Raises SourceMissing if there is no store, SourceUnsupported if it is of a kind that cannot be read, SourceError if it
    cannot be read for another reason.
    """
    settings = _read_daemon_json(daemon_json)
    usual_root = _usual_root(settings)
    root = usual_root if source is None else source
    _ensure_directory(root)
    _refuse_remapped(root)
    drivers = _find_drivers(root)
    usual = settings.storage_driver or None if source is None or _same(root, usual_root) else None
    if old or not drivers.with_images or (driver is not None and driver not in drivers.with_images):
        place = _find_old(root, driver, usual)
        if place is not None:
            return place
    if old:
        raise SourceMissing(f"{root} has no v1 store (graph/): there is nothing to be upgraded in it", remedy=_GIVE_SOURCE)
    chosen = _choose(root, drivers, driver if driver is not None else usual)
    others = tuple(name for name in drivers.with_images if name != chosen)
    return Place(root, chosen, others, Generation.CONTENT_ADDRESSABLE)


def locate_caches(source: Path | None, daemon_json: Path = DEFAULT_DAEMON_JSON) -> Place:
    """Find build caches in ``source``, or in Docker's data root. Raises SourceMissing if there are none, SourceError."""
    root = source or _usual_root(_read_daemon_json(daemon_json))
    _ensure_directory(root)
    find_caches(root)
    return Place(root, "", (), Generation.BUILD_CACHE)


def _usual_root(settings: _DaemonJson) -> Path:
    return Path(settings.data_root or settings.graph or DEFAULT_ROOT)


def _find_old(root: Path, wanted: str | None, usual: str | None) -> Place | None:
    """Return the store of Docker 1.9 or older, None if there is none with layers of ``wanted``, if that is given."""
    ids = [entry.name for entry in small_files.entries(root / "graph") if SHORT_ID.fullmatch(entry.name)]
    found = list(layers_by_driver(root, ids))
    driver = wanted or (usual if usual in found else next((name for name in found if name in DRIVERS), None))
    if driver is None and found:
        raise SourceUnsupported(f"{root} has a v1 store of the graph driver {found[0]}", remedy=_known_drivers())
    if driver not in found:
        return None
    if driver not in DRIVERS:
        raise SourceUnsupported(f"{root} has a v1 store of the graph driver {driver}", remedy=_known_drivers())
    relocated = not any(_stat(root / "graph" / image_id / "layer") for image_id in ids)
    generation = Generation.GRAPH if driver != "aufs" or relocated else Generation.BEFORE_DRIVERS
    return Place(root, driver, tuple(name for name in found if name != driver), generation)


def _known_drivers() -> str:
    *known, last = DRIVERS
    return f"only {', '.join(known)} and {last} can be moved yet"


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
        raise SourceMissing(
            f"no Docker store here: {root} has neither image/<driver> nor graph/",
            remedy=f"{_GIVE_SOURCE}; a daemon with the containerd image store keeps no images there",
        )
    driver = candidates[0] if wanted is None else wanted
    if driver not in DRIVERS:
        raise SourceUnsupported(f"{root} has a store of the graph driver {driver}", remedy=_known_drivers())
    if driver not in drivers.all:
        others = f", but of {', '.join(drivers.all)}" if drivers.all else ""
        raise SourceMissing(f"{root} has no store of the graph driver {driver}{others}", remedy=_GIVE_SOURCE)
    return driver


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
