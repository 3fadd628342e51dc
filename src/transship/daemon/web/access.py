"""Who may ask what, by the credentials that the kernel has of the one who connected."""

from __future__ import annotations

import grp
import os
import pwd
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from transship.errors import AccessDenied, UsageError

if TYPE_CHECKING:
    from transship.config import ServiceSettings
    from transship.daemon.http.peer import Peer


class Right(Enum):
    """What an operation asks for."""

    READ = "read"
    """Root, members of the group, and those who may act."""
    ACT = "act"
    """Start, cancel, resume, roll back: root, and users named in the configuration."""


@dataclass(frozen=True)
class Access:
    """``actors`` are IDs of users who may do everything, ``group`` the ID of the group whose members may read."""

    actors: frozenset[int]
    group: int | None

    @classmethod
    def of(cls, settings: ServiceSettings) -> Access:
        """Look up names; blocks. Root may do everything, and who runs the service. Raises UsageError for an unknown user."""
        return cls(frozenset({0, os.geteuid(), *map(_uid, settings.users)}), _gid(settings.group))

    def check(self, peer: Peer, right: Right) -> None:
        """Return if ``peer`` has ``right``. Raises AccessDenied."""
        if peer.uid in self.actors:
            return
        if right is Right.ACT:
            raise AccessDenied(
                f"user {peer.uid} may not start, cancel, resume or roll back runs",
                remedy="ask as root, or have the user named in service.users of the configuration",
            )
        if self.group is None or self.group not in {peer.gid, *peer.groups}:
            raise AccessDenied(
                f"user {peer.uid} may not ask",
                remedy="ask as root, or as a member of the group that service.group names",
            )


def _uid(name: str) -> int:
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise UsageError(f"service.users: there is no user {name}", remedy="correct the configuration") from None


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
