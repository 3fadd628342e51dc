"""Every error that transship raises on purpose.

::

    TransshipError                     exit code, remedy
    ├── UsageError                     2  the command line or the configuration is wrong
    │   ├── RunNotFound                   no run with that ID
    │   ├── RunOver                       a run is to be stopped that does not go on
    │   └── AccessDenied                  not for this user
    ├── SourceError                    3  the source cannot be read, or is of a kind not supported
    │   ├── SourceMissing
    │   ├── SourceUnsupported
    │   ├── SourceBusy
    │   └── SourceCorrupt              one thing in it is damaged; the rest may be well
    │       └── LayerMismatch          the bytes on disk are not the layer that was pulled or built
    ├── TargetError                    4  the target cannot be used
    │   ├── TargetUnavailable
    │   ├── TargetFull
    │   ├── TargetNotFound             a digest, snapshot or name that is not there
    │   ├── TargetExists
    │   └── TargetRefused              the target answered with any other error
    ├── VerificationFailed             5  target and source differ
    ├── StateLocked                    6  another run holds the state directory
    │   └── RunGoesOn                     the service is at another run
    ├── ServiceRunning                 6  another server listens on the socket
    ├── ServiceUnavailable             7  the service does not answer
    ├── JournalError                   4  the journal cannot be read or written
    ├── RunStopped                     1  a run was stopped by someone else
    ├── ProcessLost                    1  a worker process was killed; what it did is done again
    └── RunInterrupted                 130 or 143, by signal; resumable
        └── Detached                   130  no longer following a run that goes on in the service

Each error names the path, digest or reference concerned in its message, and says in ``remedy`` what to do next.
An error's class owns the exit code of the command that it ends.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What ``transship`` returns to its caller."""

    DONE = 0
    INCOMPLETE = 1
    USAGE = 2
    SOURCE = 3
    TARGET = 4
    VERIFICATION = 5
    LOCKED = 6
    SERVICE = 7
    SIGINT = 130
    SIGTERM = 143


class TransshipError(Exception):
    """Base of all errors raised on purpose.

    ``message`` names the thing concerned; ``remedy`` says what a person can do about it (may be empty).
    """

    exit_code = ExitCode.INCOMPLETE
    default_remedy = ""

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = self.default_remedy if remedy is None else remedy

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}" if self.remedy else self.message

    def fields(self) -> dict[str, str]:
        """Return what logs and scripts are told of it."""
        return {"error": type(self).__name__, "message": self.message, "remedy": self.remedy}


class UsageError(TransshipError):
    """Raised when an option, argument or setting cannot be meant as it stands."""

    exit_code = ExitCode.USAGE


class RunNotFound(UsageError):
    """Raised when a run is named that is not in the journal, or when there is none at all."""


class RunOver(UsageError):
    """Raised when a run is to be stopped that does not go on."""


class AccessDenied(UsageError):
    """Raised when the service is asked by someone who may not ask that."""


class SourceError(TransshipError):
    """Raised when the store to read from cannot be read."""

    exit_code = ExitCode.SOURCE


class SourceMissing(SourceError):
    """Raised when there is no store at the path given."""


class SourceUnsupported(SourceError):
    """Raised when the store is of a kind that transship cannot read (yet)."""


class SourceBusy(SourceError):
    """Raised when a running daemon holds the store."""


class SourceCorrupt(SourceError):
    """Raised when one image, layer or file of the source is damaged. Fails what needs it, not the run."""


class LayerMismatch(SourceCorrupt):
    """Raised when a layer's bytes on disk do not have the layer's diff ID any more."""


class TargetError(TransshipError):
    """Raised when the store to write to cannot be used."""

    exit_code = ExitCode.TARGET


class TargetUnavailable(TargetError):
    """Raised when the target does not answer. Ends the run; the run resumes."""


class TargetFull(TargetError):
    """Raised when the target's file system has no room. Ends the run; the run resumes."""


class TargetNotFound(TargetError):
    """Raised when a blob, snapshot, image or lease asked for is not in the target."""


class TargetExists(TargetError):
    """Raised when something of that name is already in the target."""


class TargetRefused(TargetError):
    """Raised when the target rejects a request for any other reason."""


class VerificationFailed(TransshipError):
    """Raised when what is in the target is not what is in the source."""

    exit_code = ExitCode.VERIFICATION


class StateLocked(TransshipError):
    """Raised when another process is writing to the same state directory."""

    exit_code = ExitCode.LOCKED


class RunGoesOn(StateLocked):
    """Raised when the service is asked for a run while it is at another. ``run`` is that one's ID, if it has one yet."""

    def __init__(self, message: str, *, run: str | None = None, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.run = run


class ServiceRunning(TransshipError):
    """Raised when a server is to listen on a socket on which another one listens."""

    exit_code = ExitCode.LOCKED


class ServiceUnavailable(TransshipError):
    """Raised when nobody answers on the service's socket, or not as the service would."""

    exit_code = ExitCode.SERVICE


class JournalError(TransshipError):
    """Raised when the journal cannot be opened, read or written."""

    exit_code = ExitCode.TARGET


class JournalMissing(JournalError):
    """Raised when there is no journal to be read, or nothing in it yet."""


class RunStopped(TransshipError):
    """Raised when a run that was followed has been cancelled, or was stopped with the service."""


class ProcessLost(TransshipError):
    """Raised when a worker process ends without an answer."""


class RunInterrupted(TransshipError):
    """Raised when a signal ended the run. ``signal_number`` decides the exit code (128 + number)."""

    def __init__(self, message: str, *, signal_number: int, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.exit_code = ExitCode(128 + signal_number)


class Detached(RunInterrupted):
    """Raised when a signal, whichever, ended not the run, but only its being followed."""

    exit_code = ExitCode.SIGINT

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message, signal_number=2, remedy=remedy)
