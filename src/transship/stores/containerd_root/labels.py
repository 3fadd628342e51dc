"""What containerd accepts as labels and namespaces (``pkg/labels/validate.go``, ``pkg/identifiers/validate.go``)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from transship.errors import TargetRefused
from transship.stores.containerd_db.objects import encoded

if TYPE_CHECKING:
    from transship.stores.interfaces import Labels

_LONGEST_LABEL, _LONGEST_NAMESPACE = 4096, 76
"""Bytes."""
_NAMESPACE = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")


def check_labels(about: str, labels: Labels) -> None:
    """Return if all are accepted. Raises TargetRefused that names ``about``, what they are of."""
    for key, value in labels.items():
        size = len(encoded(key)) + len(encoded(value))
        if size > _LONGEST_LABEL:
            raise TargetRefused(f"{about}: label {key[:64]} has {size} bytes, over containerd's limit of {_LONGEST_LABEL}")


def check_namespace(name: str) -> None:
    """Return if it can be a namespace. Raises TargetRefused."""
    if len(name) > _LONGEST_NAMESPACE or not _NAMESPACE.fullmatch(name):
        raise TargetRefused(f"{name!r} cannot be a namespace of containerd's", remedy="give another with --namespace")
