"""Who is at the other end of a Unix socket, as the kernel knows it."""

from __future__ import annotations

import array
import ctypes
import errno
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

EXTENSION = "transship"

_SO_PEERGROUPS = 59  # asm-generic/socket.h; Python has no name for it
_UCRED = struct.Struct("iII")  # struct ucred: pid_t, uid_t, gid_t
_NOBODY_KNOWN = 0xFFFFFFFF  # uid_t of -1: the kernel keeps no credentials for this socket
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Peer:
    """The process that connected, with the rights that it had then: process ID, user, group and supplementary groups.

    The process may have ended and its ID be another's: ``pid`` is for logs, and decides nothing.
    """

    pid: int
    uid: int
    gid: int
    groups: frozenset[int]


@dataclass(frozen=True, slots=True)
class Connection:
    """What an app learns of the connection that a request came on: who asks, and how to end it at once.

    ``abort`` drops what was not sent yet: for clients that do not read. It may be called more than once.
    """

    peer: Peer
    abort: Callable[[], None]


def connection_of(scope: MutableMapping[str, Any]) -> Connection:
    """Return the connection that a request came on, from the request's ASGI scope (``scope["extensions"]["transship"]``)."""
    connection: Connection = scope["extensions"][EXTENSION]
    return connection


def peer_of(connected: socket.socket) -> Peer:
    """Return who connected (``SO_PEERCRED`` and ``SO_PEERGROUPS``, socket(7)). Raises OSError if the kernel does not know."""
    pid, uid, gid = _UCRED.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    if uid == _NOBODY_KNOWN:
        raise OSError(errno.ENODATA, "no credentials of the peer are known")
    return Peer(pid, uid, gid, _groups(connected))


def _groups(connected: socket.socket) -> frozenset[int]:
    """Ask for the number of groups, then for the groups: there may be 65,536, more than socket.getsockopt has room for."""
    size = ctypes.c_uint32(0)
    groups = array.array("I")
    while True:
        room = (ctypes.c_char * size.value)()
        if _libc.getsockopt(connected.fileno(), socket.SOL_SOCKET, _SO_PEERGROUPS, room, ctypes.byref(size)) == 0:
            groups.frombytes(room.raw[: size.value])
            return frozenset(groups)
        number = ctypes.get_errno()
        if number != errno.ERANGE:
            raise OSError(number, os.strerror(number))
