"""Layers of which Docker 1.10's migration kept nothing but a link.

Docker 0.12 to 1.9 left links in ``aufs/diff`` to where Docker 0.6 had its layers. The migration of Docker 1.10 did not follow
such a link: it recorded a layer that consists of the link, called by the layer's ID, and no more (moby v1.10.3
``pkg/archive/archive.go``, TarWithOptions).
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

from transship.errors import SourceCorrupt
from transship.formats import tar_split
from transship.stores.docker import tar_stream

if TYPE_CHECKING:
    from pathlib import Path


def is_reduced(metadata: Path, layer_id: str) -> bool:
    """Tell whether tar-split data are those of a layer that was reduced to a link of its own name; not if they are damaged."""
    try:
        files = (entry.path for entry in tar_stream.entries(metadata) if entry.type == tar_split.FILE)
        return list(itertools.islice(files, 2)) == [layer_id.encode()]
    except SourceCorrupt:
        return False
