"""Image names of an OCI image layout: the entries of ``index.json``.

Source: OCI image-spec ``image-layout.md``, ``annotations.md``; containerd ``core/images/annotations.go``. An entry carries its
record's name twice: as ``org.opencontainers.image.ref.name``, by which skopeo, podman and umoci find it, and as
``io.containerd.image.name``, by which containerd does. It has no ``platform``: containerd 1.6 would then import the names of
images for other platforms without their content, and stop at the first. Entries that other programs wrote stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from transship.errors import TargetNotFound, TargetRefused
from transship.files import durable
from transship.formats import digest as digests
from transship.stores.interfaces import ImageDescriptor, ImageRecord
from transship.stores.oci.layout import read_small
from transship.stores.oci.references import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transship.stores.oci.layout import Layout

CONTAINERD_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_GC_LABELS = "containerd.io/gc."
"""Begins labels that hold containerd's own store together. They say nothing here: a layout's references are its JSON."""

SIZE_LIMIT = 64 << 20
"""Bytes of an index.json: some hundred thousand images."""


@dataclass(frozen=True)
class Entry:
    """One entry: as it stands in the file, and what is understood of it."""

    raw: bytes
    descriptor: Descriptor

    @property
    def name(self) -> str | None:
        """The image's name, None if it has none."""
        annotations = self.descriptor.annotations or {}
        return annotations.get(CONTAINERD_NAME, annotations.get(REF_NAME))

    def record(self) -> ImageRecord:
        """Return it as an image record. Raises ValueError if its digest is of another kind than transship knows."""
        labels = {
            key: value for key, value in (self.descriptor.annotations or {}).items() if key not in {CONTAINERD_NAME, REF_NAME}
        }
        target = ImageDescriptor(self.descriptor.media_type, digests.parse(self.descriptor.digest), self.descriptor.size)
        return ImageRecord(self.name or "", target, labels)


class LayoutImages:
    """The names in a layout, as ``ImageStore``. Labels are kept as annotations, except containerd's ``containerd.io/gc.*``."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def get(self, name: str) -> ImageRecord:
        """Look a name up. Raises TargetNotFound."""
        for entry in read_entries(self._layout):
            if entry.name == name:
                try:
                    return entry.record()
                except ValueError as error:
                    raise TargetRefused(f"{name} in {self._layout.index}: {error}") from error
        raise TargetNotFound(f"{name} is not in {self._layout.directory}")

    def list(self) -> Iterator[ImageRecord]:
        """Yield every record; entries without a name, or of another digest than sha256, are none."""
        for entry in read_entries(self._layout):
            if entry.name is not None:
                try:
                    yield entry.record()
                except ValueError:
                    continue

    def put(self, record: ImageRecord) -> None:
        """Create the name, or point it at the record's target and labels, durably."""
        entry = _entry(record)
        self._layout.make()
        with self._layout.locked():
            entries = read_entries(self._layout)
            if [other for other in entries if other.name == record.name] != [entry]:
                _write(self._layout, [*(other for other in entries if other.name != record.name), entry])

    def delete(self, name: str) -> None:
        """Remove a name; one that is not there is success."""
        if not self._layout.check():
            return
        with self._layout.locked():
            entries = read_entries(self._layout)
            left = [entry for entry in entries if entry.name != name]
            if len(left) < len(entries):
                _write(self._layout, left)


def read_entries(layout: Layout) -> list[Entry]:
    """Return the entries of the layout's index, none if it is not there. Raises TargetRefused if it is not an index."""
    document = _read(layout)
    try:
        raw = msgspec.json.decode(document.get("manifests", msgspec.Raw(b"[]")), type=list[msgspec.Raw] | None) or []
        return [Entry(bytes(each), msgspec.json.decode(each, type=Descriptor)) for each in raw]
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(layout, error) from error


def _read(layout: Layout) -> dict[str, msgspec.Raw]:
    data = read_small(layout.index, SIZE_LIMIT)
    if data is None:
        return {}
    try:
        return msgspec.json.decode(data, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(layout, error) from error


def _write(layout: Layout, entries: list[Entry]) -> None:
    """Replace the index's entries, sorted by name, those without one first; all else in it stays."""
    document = _read(layout)
    document.setdefault("schemaVersion", msgspec.Raw(b"2"))
    ordered = sorted(entries, key=lambda entry: entry.name or "")
    document["manifests"] = msgspec.Raw(b"[" + b",".join(entry.raw for entry in ordered) + b"]")
    durable.write_file(layout.index, msgspec.json.encode(document))


def _entry(record: ImageRecord) -> Entry:
    annotations = {key: value for key, value in record.labels.items() if not key.startswith(_GC_LABELS)}
    annotations |= {REF_NAME: record.name, CONTAINERD_NAME: record.name}
    target = record.target
    descriptor = Descriptor(target.media_type, target.digest, target.size, dict(sorted(annotations.items())))
    return Entry(msgspec.json.encode(descriptor), descriptor)


def _damaged(layout: Layout, error: Exception) -> TargetRefused:
    return TargetRefused(f"{layout.index} is not an image index: {error}", remedy="restore it, or give another directory")
