"""The layerdb: which layers a store has, and where each one's files and tar-split data are.

Source: moby ``daemon/internal/layer/filestore.go`` and ``layer_store.go``. What drivers keep is in ``drivers``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import digest
from transship.stores.docker import small_files
from transship.stores.docker.drivers.driver import RESTORE_HINT
from transship.stores.docker.drivers.known import DRIVERS
from transship.stores.docker.problem import Problem
from transship.stores.docker.reduced import is_reduced

if TYPE_CHECKING:
    import os

    from transship.formats.digest import Digest

_CACHE_ID = re.compile(r"[0-9a-f]{1,128}|[0-9a-z]{25}")
"""64 hexadecimal digits, or, of a layer that BuildKit made (its ``identity/randomid.go``), 25 of base 36."""
_SIZE = re.compile(r"[0-9]{1,19}")


@dataclass(frozen=True)
class Layer:
    """A layer on top of its parents.

    ``size`` is the sum of its files' bytes, as Docker counted them. ``entry_directory`` is its directory in the layerdb;
    ``driver_directory`` holds its files, in its driver's form.
    """

    chain_id: Digest
    diff_id: Digest
    cache_id: str
    parent: Digest | None
    size: int
    entry_directory: Path
    driver_directory: Path

    @property
    def tar_split(self) -> Path:
        """The file with what the layer's tar stream had besides file contents."""
        return self.entry_directory / "tar-split.json.gz"


@dataclass(frozen=True)
class LayerDb:
    """What was read: ``layers`` that are whole down to their base, and why each of the others is not."""

    layers: dict[Digest, Layer]
    damaged: dict[Digest, SourceCorrupt]
    problems: list[Problem]


def read_layers(root: Path, metadata: Path, driver: str) -> LayerDb:
    """Read the layerdb of ``driver`` in the directory ``metadata``; the layers' files are in the data root ``root``.

    A layer that is damaged itself is a problem; one whose parent is damaged is not told of again, but is in ``damaged``
    too. Raises SourceError if the layerdb itself cannot be listed.
    """
    found: dict[Digest, Layer] = {}
    damaged: dict[Digest, SourceCorrupt] = {}
    problems: list[Problem] = []
    for entry in small_files.entries(metadata / "image" / driver / "layerdb" / "sha256"):
        try:
            chain_id = digest.from_hex(entry.name)
        except ValueError:
            path = small_files.shown(entry.path)
            problems.append(Problem(path, SourceCorrupt(f"{path} is not a layer's entry", remedy=_LEFTOVER)))
            continue
        try:
            found[chain_id] = _read_layer(root, driver, chain_id, entry)
        except SourceCorrupt as error:
            damaged[chain_id] = error
            problems.append(Problem(chain_id, error))
    for layer in found.values():
        if layer.parent is not None and layer.parent not in found and layer.parent not in damaged:
            damaged[layer.chain_id] = SourceCorrupt(
                f"layer {layer.chain_id}: its parent {layer.parent} is not in the store", remedy=RESTORE_HINT
            )
            problems.append(Problem(layer.chain_id, damaged[layer.chain_id]))
    _spread(found, damaged)
    return LayerDb({key: layer for key, layer in found.items() if key not in damaged}, damaged, problems)


_LEFTOVER = "if Docker left it behind when it was interrupted, it is of no use"


def _spread(found: dict[Digest, Layer], damaged: dict[Digest, SourceCorrupt]) -> None:
    """Give each layer that stands on a damaged one an error that says so."""
    children: dict[Digest, list[Layer]] = {}
    for layer in found.values():
        if layer.parent is not None:
            children.setdefault(layer.parent, []).append(layer)
    todo = [(culprit, culprit) for culprit in damaged]
    while todo:
        below, culprit = todo.pop()
        for layer in children.get(below, ()):
            if layer.chain_id not in damaged:
                message = f"layer {layer.chain_id} stands on a damaged one: {damaged[culprit].message}"
                damaged[layer.chain_id] = SourceCorrupt(message, remedy=damaged[culprit].remedy)
                todo.append((layer.chain_id, culprit))


def _read_layer(root: Path, driver: str, chain_id: Digest, entry: os.DirEntry[str]) -> Layer:
    if not entry.is_dir(follow_symlinks=False):
        raise SourceCorrupt(f"{entry.path} is not a directory", remedy=RESTORE_HINT)
    diff_id = _digest(f"{entry.path}/diff", _required(entry.path, "diff"))
    parent_text = small_files.read_text(f"{entry.path}/parent")
    parent = None if parent_text is None else _digest(f"{entry.path}/parent", parent_text)
    if digest.chain(parent, diff_id) != chain_id:
        raise SourceCorrupt(f"{entry.path}: diff and parent do not make this chain ID", remedy=RESTORE_HINT)
    cache_id = _required(entry.path, "cache-id")
    if not _CACHE_ID.fullmatch(cache_id):
        raise SourceCorrupt(f"{entry.path}/cache-id is not the name of a directory: {cache_id[:100]!r}", remedy=RESTORE_HINT)
    size = _required(entry.path, "size")
    if not _SIZE.fullmatch(size):
        raise SourceCorrupt(f"{entry.path}/size is not a number: {size[:100]!r}", remedy=RESTORE_HINT)
    directory = _driver_directory(root, driver, chain_id, cache_id)
    layer = Layer(chain_id, diff_id, cache_id, parent, int(size), Path(entry.path), directory)
    if driver == "aufs" and is_reduced(layer.tar_split, cache_id):
        raise SourceCorrupt(
            f"layer {chain_id}: Docker 1.10 kept a link of it and nothing else, when it migrated {directory}",
            remedy="make it anew with `transship migrate --target docker`, from what is in graph/, then move it",
        )
    return layer


def _required(directory: str, name: str) -> str:
    text = small_files.read_text(f"{directory}/{name}")
    if not text:
        state = "is missing" if text is None else "is empty"
        raise SourceCorrupt(f"{directory}/{name} {state}", remedy=RESTORE_HINT)
    return text


def _digest(path: str, text: str) -> Digest:
    try:
        return digest.parse(text)
    except ValueError as error:
        raise SourceCorrupt(f"{path}: {error}", remedy=RESTORE_HINT) from error


def _driver_directory(root: Path, driver: str, chain_id: Digest, cache_id: str) -> Path:
    try:
        return DRIVERS[driver].find(root, cache_id)
    except SourceCorrupt as error:
        raise SourceCorrupt(f"layer {chain_id}: {error.message}", remedy=error.remedy) from error
