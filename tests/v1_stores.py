"""v1 stores that Docker 1.9.1 wrote, as they were before the migration of Docker 1.10.3 made something of them."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

HELPERS = ("diffid", "size", "tardata")
PREPARED = {
    "fc124c087e5a54a3f752b16e1c21a40dfc3f27c390aa785db3f8ed69048f75c1": HELPERS,
    "489ba401fb58287fca3a20fbbf3bbbd4332e915f9855fc18d27c100ff93861e2": ("diffid", "size"),
    "0267b86c7cd71f4eb1d5ce9288caf363de9c230ef373d66e590dfe71e3f34185": ("diffid", "size"),
    "5be90d01556dff0776e03adbd312309203a7e23b1c24c82926d905edcee9e421": ("diffid",),
}
"""Images of overlay-damaged that had these helper files before Docker 1.10.3 came, all made by hand."""
LINKED = "14575d4b92aae13925f1b29a6018d26ce0d5eccc8dbe883b9f725ced17aebb19"
"""A container of overlay-damaged that had a config.v2.json before, too."""


def copy_v1_root(store: Path, root: Path) -> Path:
    """Copy a store of tests/data/docker to ``root`` as it was before Docker 1.10.3, if that ever saw it."""
    subprocess.run(["cp", "-a", "--reflink=auto", store, root], check=True)
    if (root / ".migration-v1-tags").exists():
        _without_migration(root)
    return root


def _without_migration(root: Path) -> None:
    shutil.rmtree(root / "image")
    for path in root.glob(".migration-v1-*"):
        path.unlink()
    for path in root.glob("graph/*/.migration-*"):
        if path.name.removeprefix(".migration-") not in PREPARED.get(path.parent.name, ()):
            path.unlink()
    for path in root.glob("containers/*/config.v2.json"):
        if path.parent.name != LINKED:
            path.unlink()
