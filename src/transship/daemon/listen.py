"""The listening socket: systemd's, if it started us with one, or our own."""

from __future__ import annotations

import fcntl
import grp
import os
import socket
import stat
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Self

from transship.errors import ServiceRunning, UsageError

if TYPE_CHECKING:
    from types import TracebackType

_FIRST = 3  # SD_LISTEN_FDS_START, sd_listen_fds(3)
_NAMES = ("transship", "transship.socket")  # FileDescriptorName=, and what systemd gives if that is not set
_MAX_PATH = 107  # sun_path of unix(7), less the NUL
_BACKLOG = 1024
_ANOTHER_PATH = "give another path with --socket, or put right what is in the way"


class Listener:
    """A listening Unix socket that does not block; a context manager.

    ``activated`` says whether it is systemd's, which goes on listening when it is closed here. The file of a socket of our own
    is removed when it is closed, if it is still ours, and until then no other server can take its path.
    """

    def __init__(self, listening: socket.socket, path: Path, *, lock: int | None = None) -> None:
        """``lock`` is the descriptor that holds the lock on the path, of a socket of our own."""
        self.socket = listening
        self.path = path
        self.activated = lock is None
        self._lock = lock
        self._identity = None if lock is None else _identity(path)

    def close(self) -> None:
        """Listen no more; without effect if it is closed already. Raises OSError if the file cannot be removed."""
        self.socket.close()
        if self._lock is None:
            return
        lock, self._lock = self._lock, None
        try:
            with suppress(FileNotFoundError):
                if _identity(self.path) == self._identity:
                    self.path.unlink()
        finally:
            os.close(lock)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def listening(path: Path, group: str) -> Listener:
    """Take the socket that systemd hands over, if any; make one at ``path`` otherwise, for ``group`` if there is such a group.

    A socket that a dead server left at ``path`` is replaced; a lock on ``<path>.lock`` lets one server do so. Raises
    ServiceRunning if another server listens there, and UsageError if there can be no socket, or systemd hands over none of use.
    """
    descriptor = _handed_over()
    if descriptor is not None:
        return _systemds(descriptor)
    if len(os.fsencode(path)) > _MAX_PATH:
        raise UsageError(f"{path} is too long for a socket: {_MAX_PATH} bytes are the most", remedy="give a shorter --socket")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _our_own(path, group)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise UsageError(f"cannot listen on {path}: {error}", remedy=_ANOTHER_PATH) from error


def _handed_over() -> int | None:
    """Return the descriptor that systemd means for us (sd_listen_fds(3)); others that came with it are closed."""
    pid, count, names = (os.environ.pop(name, "") for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"))
    if pid != str(os.getpid()) or count == "0":
        return None
    if not (count.isascii() and count.isdigit()):
        raise UsageError(f"LISTEN_FDS is {count!r}, not a number of file descriptors")
    descriptors = range(_FIRST, _FIRST + int(count))
    if len(descriptors) == 1:
        return _FIRST
    ours = [descriptor for descriptor, name in zip(descriptors, names.split(":"), strict=False) if name in _NAMES]
    if len(ours) != 1:
        raise UsageError(
            f"systemd hands over {count} sockets, named {names!r}, of which {len(ours)} have the name {' or '.join(_NAMES)}",
            remedy="let transship.socket have one ListenStream=, or name one of its sockets with FileDescriptorName=transship",
        )
    for descriptor in descriptors:
        if descriptor != ours[0]:
            with suppress(OSError):  # it is not open
                os.close(descriptor)
    return ours[0]


def _systemds(descriptor: int) -> Listener:
    remedy = "let transship.socket have ListenStream= with a path"
    try:
        os.set_inheritable(descriptor, False)
        handed = socket.socket(fileno=descriptor)
    except OSError as error:
        raise UsageError(f"file descriptor {descriptor} of systemd is no socket: {error}", remedy=remedy) from error
    if (
        handed.family != socket.AF_UNIX
        or handed.type != socket.SOCK_STREAM
        or not handed.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    ):
        name = handed.getsockname()
        handed.close()
        raise UsageError(f"{name!r}, handed over by systemd, is not a Unix socket that listens for streams", remedy=remedy)
    handed.setblocking(False)
    return Listener(handed, Path(os.fsdecode(handed.getsockname())))


def _our_own(path: Path, group: str) -> Listener:
    """Make the socket while holding the lock. It listens only when it has its rights: until then, connecting fails."""
    with ExitStack() as undo:
        lock = _locked(path)
        undo.callback(os.close, lock)
        _make_way(path)
        made = undo.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        made.setblocking(False)
        made.bind(os.fspath(path))
        undo.callback(path.unlink, missing_ok=True)
        with suppress(KeyError):  # no such group: it stays root's
            os.chown(path, -1, grp.getgrnam(group).gr_gid, follow_symlinks=False)
        path.chmod(0o660)
        made.listen(_BACKLOG)
        listener = Listener(made, path, lock=lock)
        undo.pop_all()
        return listener


def _locked(path: Path) -> int:
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        raise _taken(path) from None
    except BaseException:
        os.close(lock)
        raise
    return lock


def _make_way(path: Path) -> None:
    """Remove the socket of a server that is dead. Raises UsageError if what is there is none, ServiceRunning if it lives."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise UsageError(f"{path} is no socket, and stays as it is", remedy=_ANOTHER_PATH)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
        except BlockingIOError:  # so many wait there that it takes no more
            raise _taken(path) from None
        else:
            raise _taken(path)


def _taken(path: Path) -> ServiceRunning:
    return ServiceRunning(f"another server listens on {path}", remedy="stop it first, or give another path with --socket")


def _identity(path: Path) -> tuple[int, int]:
    found = path.lstat()
    return found.st_dev, found.st_ino
