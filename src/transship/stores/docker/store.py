"""Docker's content-addressable store (Docker 1.10 to 28), read whole and verified."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import digest
from transship.stores.docker import distribution
from transship.stores.docker.images import RESTORE_HINT, Image, Metadata, list_configs, read_config, read_metadata
from transship.stores.docker.layers import LayerDb, read_layers
from transship.stores.docker.problem import Problem
from transship.stores.docker.repositories import Repositories, read_repositories

if TYPE_CHECKING:
    from collections.abc import Container
    from pathlib import Path

    from transship.formats.digest import Digest
    from transship.formats.docker_image import ImageConfig
    from transship.stores.docker.distribution import RegistryBlob
    from transship.stores.docker.layers import Layer


@dataclass(frozen=True)
class Store:
    """What a data root holds for one graph driver. Files are read once, when it is opened; looking into it is thread-safe.

    ``images`` are whole as far as metadata tell: the config has the digest that is its ID, and every layer of ``chain_ids`` is
    in ``layers``; a ``parent`` is in ``images`` too. ``broken`` are the images that have an entry and cannot be moved, and why.
    ``references`` are all names in use, canonical, tagged or with a digest, those of broken and absent images included.
    ``problems`` are the causes: everything that is not as it should be, each told once. ``metadata`` is the directory with
    ``image/``: the data root ``root``, or where the metadata of an older root were made anew.
    """

    root: Path
    metadata: Path
    driver: str
    images: dict[Digest, Image]
    layers: dict[Digest, Layer]
    broken: dict[Digest, SourceCorrupt]
    references: dict[str, Digest]
    problems: tuple[Problem, ...]

    def original_manifest(self, manifest: Digest) -> bytes | None:
        """Return a pulled image's manifest as the registry gave it, None if it was not kept. Raises SourceCorrupt."""
        return distribution.original_manifest(self.root, manifest)

    def registry_blobs(self, diff_id: Digest) -> tuple[RegistryBlob, ...]:
        """Return the blobs that a layer is known under in registries. Raises SourceCorrupt if that cannot be read."""
        return distribution.registry_blobs(self.metadata / "image" / self.driver, diff_id)


def read_store(root: Path, driver: str, metadata: Path | None = None) -> Store:
    """Read the store of ``driver``, one of ``DRIVERS``, in the data root ``root``; ``metadata`` as in ``Store``.

    Damage to single things is among what is returned. Raises SourceError if a directory of the store cannot be listed.
    """
    metadata = metadata or root
    image_root = metadata / "image" / driver
    layer_db = read_layers(root, metadata, driver)
    problems = list(layer_db.problems)
    configs: dict[Digest, tuple[bytes, ImageConfig]] = {}
    broken: dict[Digest, SourceCorrupt] = {}
    entries = list_configs(image_root, problems)
    for image_id, entry in entries.items():
        try:
            configs[image_id] = read_config(image_id, entry.path)
        except SourceCorrupt as error:
            broken[image_id] = error
            problems.append(Problem(image_id, error))
    broken |= _without_layers(configs, layer_db)
    names = read_repositories(image_root / "repositories.json")
    problems += names.problems
    whole = {image_id: config for image_id, config in configs.items() if image_id not in broken}
    images = _images(image_root, whole, names, problems)
    problems += _dangling_names(names, entries.keys())
    return Store(root, metadata, driver, images, layer_db.layers, broken, names.tags | names.digest_references, tuple(problems))


def _without_layers(configs: dict[Digest, tuple[bytes, ImageConfig]], layer_db: LayerDb) -> dict[Digest, SourceCorrupt]:
    """Return the images that have not got all their layers, each with an error that says which, and why."""
    errors = {image_id: _layer_error(image_id, config, layer_db) for image_id, (_, config) in configs.items()}
    return {image_id: error for image_id, error in errors.items() if error is not None}


def _layer_error(image_id: Digest, config: ImageConfig, layer_db: LayerDb) -> SourceCorrupt | None:
    for chain_id in digest.chains(config.diff_ids):
        if chain_id in layer_db.layers:
            continue
        cause = layer_db.damaged.get(chain_id)
        if cause is None:
            return SourceCorrupt(f"image {image_id}: its layer {chain_id} is not in the store", remedy=RESTORE_HINT)
        return SourceCorrupt(f"image {image_id}: its layer {chain_id} is damaged: {cause.message}", remedy=cause.remedy)
    return None


def _images(
    image_root: Path, configs: dict[Digest, tuple[bytes, ImageConfig]], names: Repositories, problems: list[Problem]
) -> dict[Digest, Image]:
    tags, digest_references = _by_image(names.tags), _by_image(names.digest_references)
    images: dict[Digest, Image] = {}
    for image_id, (raw, config) in configs.items():
        notes = read_metadata(image_root, image_id, problems)
        images[image_id] = Image(
            id=image_id,
            raw=raw,
            config=config,
            parent=_parent(image_id, notes, configs, problems),
            last_updated=notes.last_updated,
            built_locally=notes.built_locally,
            references=tags.get(image_id, ()),
            digest_references=digest_references.get(image_id, ()),
            chain_ids=tuple(digest.chains(config.diff_ids)),
        )
    return images


def _parent(
    image_id: Digest, notes: Metadata, configs: dict[Digest, tuple[bytes, ImageConfig]], problems: list[Problem]
) -> Digest | None:
    if notes.parent is None or notes.parent in configs:
        return notes.parent
    error = SourceCorrupt(
        f"image {image_id}: its parent {notes.parent} is not in the store, or damaged",
        remedy="the image itself is whole; the link to its parent is left out",
    )
    problems.append(Problem(image_id, error))
    return None


def _by_image(names: dict[str, Digest]) -> dict[Digest, tuple[str, ...]]:
    found: dict[Digest, list[str]] = {}
    for name, image_id in names.items():
        found.setdefault(image_id, []).append(name)
    return {image_id: tuple(sorted(its_names)) for image_id, its_names in found.items()}


def _dangling_names(names: Repositories, present: Container[Digest]) -> list[Problem]:
    """Find the names that stand for images without an entry."""
    remedy = "pull or build the image again, or remove the name"
    return [
        Problem(
            name, SourceCorrupt(f"{name} stands for image {image_id}, which is not in the store", remedy=remedy), loses=True
        )
        for name, image_id in (names.tags | names.digest_references).items()
        if image_id not in present
    ]
