"""``map.json``: which image of the source became which manifest of the target. Written at the end of every run."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec

from transship.engine.step import State
from transship.legs.containerd.images import NamedImage, image_key
from transship.legs.containerd.layers import LayerBlob, blob_key
from transship.legs.containerd.manifests import manifest_key, stored_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from transship.engine.records import StepRecord
    from transship.engine.step import Value
    from transship.stores.docker.images import Image

FILE_NAME = "map.json"


def make_map(run: str, target: str, images: Iterable[Image], steps: Iterable[StepRecord], former: Mapping[str, str]) -> bytes:
    """Return the map of a run: a JSON object with the run, the target and, for each image, old and new identities.

    ``manifest`` is null and ``names`` is short of a name where that was not moved. ``v1_ids`` are those of ``former``, by which
    Docker 1.9 or older knew the image.
    """
    v1_ids: dict[str, list[str]] = {}
    for v1_id, image_id in former.items():
        v1_ids.setdefault(image_id, []).append(v1_id)
    done = {step.key: step.value for step in steps if step.state is State.DONE and step.value is not None}
    document = {"run": run, "target": target, "images": [_image(image, done, v1_ids) for image in images]}
    return json.dumps(document, indent=1).encode() + b"\n"


def _image(image: Image, done: Mapping[str, Value], v1_ids: Mapping[str, list[str]]) -> dict[str, Any]:
    manifest = done.get(manifest_key(image.id))
    keys = [image_key(name) for name in image.references or (image.id,)]
    names = {
        named.name: named.digest
        for key in [*keys, *map(image_key, image.digest_references)]
        if key in done
        for named in [msgspec.convert(done[key], NamedImage)]
    }
    return {
        "image_id": image.id,
        "v1_ids": v1_ids.get(image.id, []),
        "references": image.references,
        "repo_digests": image.digest_references,
        "manifest": stored_manifest(manifest).digest if manifest is not None else None,
        "names": names,
        "layers": [
            {"diff_id": diff_id, "chain_id": chain_id, "blob": _blob(done.get(blob_key(diff_id)))}
            for diff_id, chain_id in zip(image.config.diff_ids, image.chain_ids, strict=True)
        ],
    }


def _blob(value: Value | None) -> str | None:
    return msgspec.convert(value, LayerBlob).digest if value is not None else None
