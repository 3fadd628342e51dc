"""All that a containerd holds, as ``ctr`` shows it."""

from __future__ import annotations

import json
import re
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.real.conftest import Containerd

Labels = dict[str, str]
SNAPSHOTTERS = ("overlayfs", "native")
RUN_LABEL = "transship/run"


@dataclass(frozen=True)
class State:
    """A namespace of a containerd. Everything in it counts; ages do not."""

    images: dict[str, tuple[str, Labels]]
    """By name: the target's digest, and labels without the one that names the run."""
    blobs: dict[str, Labels]
    snapshots: dict[tuple[str, str], tuple[str, str]]
    """By snapshotter and name: parent and kind."""
    leases: set[str] = field(default_factory=set)
    ingests: set[str] = field(default_factory=set)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "images": len(self.images),
            "blobs": len(self.blobs),
            "snapshots": len(self.snapshots),
            "leases": len(self.leases),
            "ingests": len(self.ingests),
        }


def state(containerd: Containerd, namespace: str = "moby") -> State:
    """Return what is in ``namespace``."""

    def lines(*arguments: str) -> list[str]:
        return [line.rstrip() for line in containerd.ctr(*arguments, namespace=namespace).splitlines()[1:]]

    images = {}
    for line in lines("images", "list"):
        words = line.split()
        labels = _labels(words[-1])
        labels.pop(RUN_LABEL, None)
        images[words[0]] = (words[2], labels)
    blobs = {}
    for line in lines("content", "list"):
        columns = re.split("\t+", line)
        blobs[columns[0]] = _labels(columns[3] if len(columns) > 3 else "-")
    snapshots = {}
    for snapshotter in SNAPSHOTTERS:
        for line in lines("snapshots", "--snapshotter", snapshotter, "list"):
            words = line.split()
            snapshots[snapshotter, words[0]] = (words[1] if len(words) > 2 else "", words[-1])
    ingests = {line.split()[0] for line in lines("content", "active")}
    leases = set(containerd.ctr("leases", "list", "-q", namespace=namespace).split())
    return State(images, blobs, snapshots, leases, ingests)


def collect_garbage(containerd: Containerd, namespace: str = "moby") -> None:
    """Have containerd remove what nothing refers to, and return when it has."""
    name = f"collect-{uuid.uuid4().hex}"
    containerd.ctr("leases", "create", "--id", name, namespace=namespace)
    containerd.ctr("leases", "delete", "--sync", name, namespace=namespace)


def blob(containerd: Containerd, digest: str, namespace: str = "moby") -> bytes:
    """Return a blob's bytes."""
    return containerd.ctr_bytes("content", "get", digest, namespace=namespace)


def manifest(containerd: Containerd, digest: str, namespace: str = "moby") -> dict[str, Any]:
    """Return a manifest, decoded."""
    decoded: dict[str, Any] = json.loads(blob(containerd, digest, namespace))
    return decoded


def unpacked(containerd: Containerd, namespace: str, snapshotter: str) -> dict[str, tuple[str, bool]]:
    """Return what ``ctr images check`` says of each name: complete or incomplete, with counts; unpacked or not."""
    text = containerd.ctr("images", "check", "--snapshotter", snapshotter, namespace=namespace)
    lines = [line.split() for line in text.splitlines()[1:]]
    return {line[0]: (f"{line[3]} {line[4]}", line[-1] == "true") for line in lines}


def _labels(text: str) -> Labels:
    return dict(part.split("=", 1) for part in text.split(",")) if text != "-" else {}
