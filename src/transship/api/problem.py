"""Errors as problem documents (RFC 9457), and back."""

from __future__ import annotations

import re
from http import HTTPStatus

import msgspec

from transship import errors
from transship.errors import (
    AccessDenied,
    JournalError,
    RunGoesOn,
    RunInterrupted,
    RunNotFound,
    RunOver,
    ServiceUnavailable,
    SourceBusy,
    SourceError,
    StateLocked,
    TargetError,
    TargetExists,
    TargetFull,
    TargetUnavailable,
    TransshipError,
    UsageError,
)
from transship.text import printable

MEDIA_TYPE = "application/problem+json"
_STATUS: dict[type[TransshipError], HTTPStatus] = {
    UsageError: HTTPStatus.BAD_REQUEST,
    RunNotFound: HTTPStatus.NOT_FOUND,
    RunOver: HTTPStatus.CONFLICT,
    AccessDenied: HTTPStatus.FORBIDDEN,
    SourceError: HTTPStatus.UNPROCESSABLE_ENTITY,
    SourceBusy: HTTPStatus.CONFLICT,
    TargetError: HTTPStatus.BAD_GATEWAY,
    TargetUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    TargetFull: HTTPStatus.INSUFFICIENT_STORAGE,
    TargetExists: HTTPStatus.CONFLICT,
    StateLocked: HTTPStatus.CONFLICT,
    ServiceUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    JournalError: HTTPStatus.INTERNAL_SERVER_ERROR,
    TransshipError: HTTPStatus.INTERNAL_SERVER_ERROR,
}


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What went wrong. ``error`` is the class of the error, ``exit_code`` that of the command that it would end.

    ``remedy`` says what to do; ``run`` is the run that is in the way, if one is.
    """

    type: str
    title: str
    status: int
    detail: str
    remedy: str = ""
    error: str = TransshipError.__name__
    exit_code: int = int(TransshipError.exit_code)
    run: str | None = None

    @classmethod
    def of(cls, error: TransshipError) -> Problem:
        """Describe ``error``."""
        kind = type(error)
        status = next(_STATUS[each] for each in kind.__mro__ if each in _STATUS)
        return cls(
            type="urn:transship:" + re.sub(r"(?<!^)(?=[A-Z])", "-", kind.__name__).lower(),
            title=re.sub(r"(?<!^)(?=[A-Z])", " ", kind.__name__).capitalize(),
            status=status,
            detail=printable(error.message),
            remedy=printable(error.remedy),
            error=kind.__name__,
            exit_code=int(error.exit_code),
            run=getattr(error, "run", None),
        )

    @classmethod
    def of_status(cls, status: HTTPStatus, detail: str) -> Problem:
        """Describe what is wrong with a request as such, by its HTTP status alone."""
        return cls(
            type="about:blank",
            title=status.phrase,
            status=status,
            detail=printable(detail),
            error=UsageError.__name__,
            exit_code=int(UsageError.exit_code),
        )

    def as_error(self) -> TransshipError:
        """Return the error that this describes, of its own class, if that is known here."""
        kind = getattr(errors, self.error, TransshipError)
        if not (isinstance(kind, type) and issubclass(kind, TransshipError)) or issubclass(kind, RunInterrupted):
            kind = TransshipError
        if kind is RunGoesOn:
            return RunGoesOn(self.detail, run=self.run, remedy=self.remedy)
        error: TransshipError = kind(self.detail, remedy=self.remedy)
        return error
