"""What the facts of the stores in tests/data/docker lead one to expect of a target."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.real.command import Ended

Facts = dict[str, Any]


def canonical(reference: str) -> str:
    """Return the full form of a name as Docker shows it."""
    host, slash, _ = reference.partition("/")
    if not slash:
        return f"docker.io/library/{reference}"
    return reference if "." in host or ":" in host or host == "localhost" else f"docker.io/{reference}"


def chain_of(facts: Facts, chain_id: str | None) -> Iterator[str]:
    """Yield a layer and those below it."""
    while chain_id:
        yield chain_id
        chain_id = facts["layers"][chain_id]["parent"]


def manifests_of(ended: Ended) -> dict[str, str]:
    """Return the digest of each image's manifest, by image ID, as the map says that a migration wrote."""
    return {image["image_id"]: image["manifest"] for image in read_json(ended.last["map"])["images"]}


def names_of(facts: Facts, manifests: dict[str, str], image_id: str) -> list[str]:
    """Return the names that an image is to have in the namespace ``moby``, those by a registry's digest left out."""
    tags = [canonical(name) for name in facts["images"][image_id]["refs"] if "@" not in name]
    return tags or [f"moby-dangling@{manifests[image_id]}"]


def read_json(path: str | Path) -> Any:
    with open(path, "rb") as file:  # noqa: PTH123 - a path or its text
        return json.load(file)
