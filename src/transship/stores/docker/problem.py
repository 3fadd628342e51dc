"""A finding: something in a store that is not as it should be, and does not keep the rest from being read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transship.errors import SourceCorrupt


@dataclass(frozen=True)
class Problem:
    """``subject`` is the path, image ID, chain ID or name concerned. ``loses`` says that a name or all names are lost by it."""

    subject: str
    error: SourceCorrupt
    loses: bool = False
