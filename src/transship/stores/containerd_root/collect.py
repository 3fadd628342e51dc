"""What containerd's garbage collector would keep: the marks that it sets before it sweeps.

Source: containerd ``metadata/gc.go`` (``scanRoots``, ``references``, ``sendLabelRefs``), ``pkg/gc/gc.go`` (``Tricolor``), of
versions 1.6 to 2.3. Where they differ, what one of them keeps is kept: images that have expired, which containerd 2 collects;
what labels for back references (``gc.bref``) name, which only containerd 2 heeds; what is kept under a condition
(``gc.cond``), whether that is so or not.
"""

from __future__ import annotations

import time
from collections import defaultdict
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

from transship.formats import go_binary
from transship.stores.containerd_db.objects import decoded, encoded

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from transship.formats.bolt.draft import Draft
    from transship.formats.bolt.writer import Content

CONTENT = "content"
_IMAGES, _INGESTS, _CONTAINERS, _SNAPSHOTS = "images", "ingests", "containers", "snapshots"
_SCHEMA = b"v1"
_LABELS = b"labels"
_REFERENCE, _BACK_REFERENCE, _CONDITION = "containerd.io/gc.ref.", "containerd.io/gc.bref.", "containerd.io/gc.cond.snapshot"
_ROOT, _EXPIRY, _FLAT = "containerd.io/gc.root", "containerd.io/gc.expire", "containerd.io/gc.flat"
_NAMED = (CONTENT, "image", "container")
"""What labels can refer to besides snapshots, as they call it."""

_Fields = dict[bytes, "bytes | Content"]


class Node(NamedTuple):
    """Something that is kept or not. ``kind`` is ``content``, ``snapshots/<snapshotter>``, ``images``, ``ingests``,
    ``containers``, as leases call them. Through a ``flat`` one, its labels keep nothing.
    """

    kind: str
    namespace: str
    name: str
    flat: bool = False


def snapshots_of(snapshotter: str) -> str:
    """Return the kind of a snapshotter's snapshots."""
    return f"{_SNAPSHOTS}/{snapshotter}"


class Graph:
    """What keeps what in the ``meta.db`` that is drafted in ``root``, as it is now. Raises Damage, ValueError."""

    def __init__(self, root: Draft) -> None:
        self.roots: list[Node] = []
        self._now = time.time_ns()
        self._foundation: dict[Node, Node] = {}
        """What something is made of: a snapshot's parent, an image's manifest, a container's snapshot, an ingest's blob."""
        self._references: defaultdict[Node, list[Node]] = defaultdict(list)
        for key, held in root.items():
            if key == _SCHEMA:
                for name, namespace in _buckets(held):
                    self._add_namespace(name, dict(namespace.items()))
            else:  # version 3 has sandboxes there
                self._add_sandboxes(decoded(key), _fields(held))

    def kept(self) -> set[Node]:
        """Return what is kept."""
        return self.reached(self.roots)

    def reached(self, nodes: Iterable[Node]) -> set[Node]:
        """Return ``nodes`` and all that they keep, none of it flat, whether it is there or not."""
        seen = set(nodes)
        todo = list(seen)
        while todo:
            for node in self._kept_by(todo.pop()):
                if node not in seen:
                    seen.add(node)
                    todo.append(node)
        return {node._replace(flat=False) for node in seen}

    def _kept_by(self, node: Node) -> Iterator[Node]:
        foundation = self._foundation.get(node._replace(flat=False))
        if foundation is not None:
            yield foundation._replace(flat=node.flat)
        if not node.flat:
            yield from self._references.get(node, ())

    def _add_namespace(self, name: str, objects: _Fields) -> None:
        for _, lease in _buckets(objects.get(b"leases")):
            self._add_lease(name, dict(lease.items()))
        for key, image in _buckets(objects.get(b"images")):
            fields = dict(image.items())
            node = Node(_IMAGES, name, key)
            self.roots.append(node)
            self._found(node, CONTENT, _fields(fields.get(b"target")).get(b"digest"))
            self._add_labels(node, fields)
        content = _fields(objects.get(b"content"))
        for key, ingest in _buckets(content.get(b"ingests")):
            self._add_ingest(Node(_INGESTS, name, key), dict(ingest.items()))
        for key, blob in _buckets(content.get(b"blob")):
            self._add_labels(Node(CONTENT, name, key), dict(blob.items()))
        for key, container in _buckets(objects.get(b"containers")):
            self._add_container(Node(_CONTAINERS, name, key), dict(container.items()))
        for snapshotter, snapshots in _buckets(objects.get(b"snapshots")):
            for key, snapshot in _buckets(snapshots):
                fields = dict(snapshot.items())
                node = Node(snapshots_of(snapshotter), name, key)
                self._found(node, node.kind, fields.get(b"parent"))
                self._add_labels(node, fields)
        self._add_sandboxes(name, objects)

    def _add_lease(self, namespace: str, fields: _Fields) -> None:
        labels = _labels(fields)
        if self._is_over(labels.get(_EXPIRY)):
            return
        flat = _FLAT in labels
        for kind in (CONTENT, _IMAGES, _INGESTS):
            held = _fields(fields.get(encoded(kind)))
            self.roots += [Node(kind, namespace, decoded(key), flat and kind != _INGESTS) for key in held]
        for snapshotter, held_snapshots in _buckets(fields.get(b"snapshots")):
            kind = snapshots_of(snapshotter)
            self.roots += [Node(kind, namespace, decoded(key), flat) for key, _ in held_snapshots.items()]

    def _add_ingest(self, node: Node, fields: _Fields) -> None:
        expiry = fields.get(b"expireat")
        if isinstance(expiry, bytes) and go_binary.read_time(expiry) >= self._now:
            self.roots.append(node)
        self._found(node, CONTENT, fields.get(b"expected"))

    def _add_container(self, node: Node, fields: _Fields) -> None:
        self.roots.append(node)
        snapshotter = fields.get(b"snapshotter")
        if isinstance(snapshotter, bytes) and snapshotter:
            self._found(node, snapshots_of(decoded(snapshotter)), fields.get(b"snapshotKey"))
        self._add_labels(node, fields)

    def _add_sandboxes(self, namespace: str, objects: _Fields) -> None:
        for _, sandbox in _buckets(objects.get(b"sandboxes")):
            labels = _labels(dict(sandbox.items()))
            self.roots += [node for key, value in labels.items() for node in _referred(key, value, _REFERENCE, namespace)]

    def _found(self, node: Node, kind: str, name: object) -> None:
        if isinstance(name, bytes) and name:
            self._foundation[node] = Node(kind, node.namespace, decoded(name))

    def _add_labels(self, node: Node, fields: _Fields) -> None:
        for key, value in _labels(fields).items():
            if key.startswith(_ROOT):
                self.roots.append(node)
            elif key.startswith(_CONDITION):
                snapshotter = key.removeprefix(_CONDITION).lstrip("./").partition("/")[0]
                self._references[node].append(Node(snapshots_of(snapshotter), node.namespace, value.partition("|")[2]))
            else:
                self._references[node] += _referred(key, value, _REFERENCE, node.namespace)
                for keeper in _referred(key, value, _BACK_REFERENCE, node.namespace):
                    self._references[keeper].append(node)

    def _is_over(self, text: str | None) -> bool:
        """Tell whether a time has passed; one that is not written as containerd does counts as none."""
        try:
            moment = datetime.fromisoformat(text or "")
        except ValueError:
            return False
        return moment.tzinfo is not None and moment.timestamp() * 1e9 < self._now


def _referred(key: str, value: str, prefix: str, namespace: str) -> Iterator[Node]:
    """Yield what a label refers to, if its key begins with ``prefix``; names behind ``.`` or ``/`` only tell labels apart."""
    if not key.startswith(prefix):
        return
    what = key.removeprefix(prefix)
    if what.startswith("snapshot."):
        yield Node(snapshots_of(what.removeprefix("snapshot.").partition("/")[0]), namespace, value)
        return
    for named in _NAMED:
        if what == named or what.startswith((f"{named}.", f"{named}/")):
            yield Node(CONTENT if named == CONTENT else f"{named}s", namespace, value)


def _fields(held: bytes | Content | None) -> _Fields:
    return {} if held is None or isinstance(held, bytes) else dict(held.items())


def _buckets(held: bytes | Content | None) -> Iterator[tuple[str, Content]]:
    """Yield the buckets in a bucket. Unlike ``Draft.buckets`` it takes no memory for each."""
    if held is not None and not isinstance(held, bytes):
        yield from ((decoded(key), below) for key, below in held.items() if not isinstance(below, bytes))


def _labels(fields: _Fields) -> dict[str, str]:
    found = _fields(fields.get(_LABELS)).items()
    return {decoded(key): decoded(value) for key, value in found if isinstance(value, bytes)}
