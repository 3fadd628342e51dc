"""Which target a person means by ``containerd``, ``containerd:SOCKET``, ``oci:DIRECTORY``, ``docker`` or ``graph``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transship.config.settings import TargetSettings
from transship.errors import JournalError, UsageError
from transship.stores.containerd_root.target import ContainerdRootTarget
from transship.stores.oci.target import LayoutTarget

if TYPE_CHECKING:
    from collections.abc import Mapping

    from transship.stores.interfaces import Target
    from transship.stores.root import Place

DEFAULT_SOCKET = Path("/run/containerd/containerd.sock")
_SNAPSHOTTERS = {"vfs": "native"}
"""By graph driver: the snapshotter that suits it, where that is not overlayfs. vfs is what dockerd takes where overlayfs
does not work."""


BUILDKIT = "buildkit"
"""BuildKit's namespace in containerd, unless it was configured to have another."""
LEGS = ("containerd", "graph", "aufs", "buildkit")
"""The legs at which a migration may end, as the journal names its run."""
_DIRECTORIES = ("oci", "containerd-root")
"""Targets that are a directory, which is to be named."""
_IN_PLACE = {"docker": "graph", "graph": "aufs", "buildkit": "buildkit"}
"""Targets that are the source itself, upgraded: to which leg they are the end."""


@dataclass(frozen=True)
class TargetSpec:
    """A target, named so fully that another process finds it again.

    ``kind`` is ``containerd``, ``containerd-root`` or ``oci``, or, for an old data root that is upgraded in place, ``docker``
    (to the store of Docker 1.10 and later) or ``graph`` (only to that of Docker 0.7), or, for build caches, ``buildkit``.
    ``path`` is a socket, a directory, or that data root; for build caches the socket of a containerd that may hold their data.
    """

    kind: str
    path: str
    namespace: str = ""
    snapshotter: str = ""

    @property
    def leg(self) -> str:
        """The leg at whose end it is."""
        return _IN_PLACE.get(self.kind, "containerd")

    @property
    def in_place(self) -> bool:
        """Whether it is the source's own root."""
        return is_in_place(self.kind)

    def connect(self) -> Target:
        """Return the target, not opened yet. Raises TargetRefused."""
        if self.kind == "oci":
            return LayoutTarget(Path(self.path))
        if self.kind == "containerd-root":
            return ContainerdRootTarget(Path(self.path), self.namespace, self.snapshotter)
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
        """The name by which a person gives it: ``containerd:SOCKET``, ``oci:DIRECTORY``, ``docker``."""
        return self.kind if self.in_place and not self.is_cache else f"{self.kind}:{self.path}"

    @property
    def is_cache(self) -> bool:
        """Whether it is for build caches, and nothing else."""
        return self.kind == "buildkit"

    def __str__(self) -> str:
        if self.is_cache:
            return f"{self.kind} (metadata of version 2)"
        if self.in_place:
            return f"{self.kind} (in {self.path} itself)"
        if self.kind == "oci":
            return self.name
        return f"{self.name} (namespace {self.namespace}, snapshotter {self.snapshotter})"


def is_in_place(text: str | None) -> bool:
    """Tell whether this target is the source's own root."""
    return text in _IN_PLACE or is_cache(text)


def is_cache(text: str | None) -> bool:
    """Tell whether this target is for build caches."""
    return text is not None and text.partition(":")[0] == "buildkit"


def parse_target(text: str | None, namespace: str, snapshotter: str | None, place: Place) -> TargetSpec:
    """Return the target that ``text`` names, for what is at ``place``. Without it: containerd, if its socket is there.

    Without ``snapshotter``: the one that suits the graph driver. Raises UsageError.
    """
    if text is None:
        if not DEFAULT_SOCKET.exists():
            raise UsageError(
                f"there is no containerd at {DEFAULT_SOCKET}, and no target was given",
                remedy="start containerd, or give --target containerd:SOCKET or --target oci:DIRECTORY",
            )
        text = "containerd"
    ensure_known(text)
    kind, _, path = text.partition(":")
    if is_cache(kind):
        own = BUILDKIT if namespace == TargetSettings().namespace else namespace  # Docker's is none of BuildKit's
        return TargetSpec(kind, str(Path(path).absolute() if path else DEFAULT_SOCKET), own)
    if is_in_place(kind):
        return TargetSpec(kind, str(place.root.resolve()))
    if kind == "oci":
        return TargetSpec("oci", str(Path(path).absolute()))
    place_of_it = Path(path).absolute() if path else DEFAULT_SOCKET
    return TargetSpec(kind, str(place_of_it), namespace, snapshotter or _SNAPSHOTTERS.get(place.driver, "overlayfs"))


def ensure_known(text: str) -> None:
    """Return if ``text`` is the name of a target. Raises UsageError."""
    kind, colon, path = text.partition(":")
    with_path = kind in {"containerd", *_DIRECTORIES, "buildkit"}
    if not ((kind in _DIRECTORIES and path) or kind == "containerd" or (is_in_place(kind) and (with_path or not colon))):
        raise UsageError(
            f"unknown target {text!r}",
            remedy="give containerd, containerd:SOCKET, containerd-root:DIRECTORY, oci:DIRECTORY, docker or buildkit",
        )
