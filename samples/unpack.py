"""Unpacks the sample store, as any user: ``python samples/unpack.py DIRECTORY`` leaves ``DIRECTORY/root``.

Without what takes root to make: devices (overlayfs' whiteouts among them), owners and extended attributes. An OCI image layout
needs none of these; for a containerd target unpack with tar, see README.md.
"""

from __future__ import annotations

import sys
import tarfile
from pathlib import Path

import zstandard

ARCHIVE = Path(__file__).with_name("harbour.tar.zst")


def main(directory: Path) -> int:
    """Unpack into ``directory``, which is made if it is not there; return 0."""
    directory.mkdir(parents=True, exist_ok=True)
    with (
        ARCHIVE.open("rb") as packed,
        zstandard.ZstdDecompressor().stream_reader(packed) as stream,
        tarfile.open(fileobj=stream, mode="r|") as archive,
    ):
        archive.extraction_filter = lambda member, _directory: member  # the archive is ours
        archive.extractall(directory, members=(member for member in archive if not member.isdev()))  # noqa: S202
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python samples/unpack.py DIRECTORY")
    sys.exit(main(Path(sys.argv[1])))
