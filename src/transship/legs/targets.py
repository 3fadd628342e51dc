"""Which target a person means by ``containerd``, ``containerd:SOCKET`` or ``oci:DIRECTORY``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transship.errors import JournalError, UsageError
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.stores.interfaces import Target

DEFAULT_SOCKET = Path("/run/containerd/containerd.sock")
_SNAPSHOTTERS = {"vfs": "native"}
"""By graph driver: the snapshotter that suits it, where that is not overlayfs. vfs is what dockerd takes where overlayfs
does not work."""


@dataclass(frozen=True)
class TargetSpec:
    """A target, named so fully that another process finds it again. ``kind`` is ``containerd`` or ``oci``."""

    kind: str
    path: str
    namespace: str = ""
    snapshotter: str = ""

    def connect(self) -> Target:
        """Return the target, not opened yet. Raises TargetRefused."""
        if self.kind == "oci":
            return LayoutTarget(Path(self.path))
        # With it comes gRPC: a service that waits for work, and a command that only asks it, can do without.
        from transship.stores.containerd.target import ContainerdTarget  # noqa: PLC0415

        return ContainerdTarget(Path(self.path), self.namespace, self.snapshotter)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object, for the journal."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> TargetSpec:
        """Return what ``to_json`` made. Raises JournalError if it did not make this."""
        try:
            return cls(**document)
        except TypeError as error:
            raise JournalError(f"the journal names a target that is not known here: {dict(document)}") from error

    @property
    def name(self) -> str:
        """The name by which a person gives it: ``containerd:SOCKET`` or ``oci:DIRECTORY``."""
        return f"{self.kind}:{self.path}"

    def __str__(self) -> str:
        if self.kind == "oci":
            return self.name
        return f"{self.name} (namespace {self.namespace}, snapshotter {self.snapshotter})"


def parse_target(text: str | None, namespace: str, snapshotter: str | None, driver: str) -> TargetSpec:
    """Return the target that ``text`` names. Without it: containerd, if its socket is there.

    Without ``snapshotter``: the one that suits the graph ``driver``. Raises UsageError.
    """
    if text is None:
        if not DEFAULT_SOCKET.exists():
            raise UsageError(
                f"there is no containerd at {DEFAULT_SOCKET}, and no target was given",
                remedy="start containerd, or give --target containerd:SOCKET or --target oci:DIRECTORY",
            )
        text = "containerd"
    kind, _, path = text.partition(":")
    if kind == "oci" and path:
        return TargetSpec("oci", str(Path(path).absolute()))
    if kind == "containerd":
        socket = Path(path).absolute() if path else DEFAULT_SOCKET
        return TargetSpec("containerd", str(socket), namespace, snapshotter or _SNAPSHOTTERS.get(driver, "overlayfs"))
    raise UsageError(f"unknown target {text!r}", remedy="give containerd, containerd:SOCKET or oci:DIRECTORY")
