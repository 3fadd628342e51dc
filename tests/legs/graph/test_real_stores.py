"""v1 stores that Docker 1.9.1 wrote, against what the real migration of Docker 1.10.3 made of them: to the byte.

What differs does so on purpose, and is listed here.
"""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Ended, command
from tests.real.trees import differences, listing
from tests.v1_stores import LINKED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_ANOTHER_STREAM = "no tar-split data that serve, and PAX headers with Docker's process ID: another stream each time"
_BELOW = "stands on a layer with a stream of its own"
IMAGES = {
    "vfs-damaged": {
        "f4ef69173478c1b38972b432e8d2687aa243ccff98fa64ccd2146d4c82cb9be9": "its whiteout has the time of day; here 1970",
        "f66475d0231a7e7f5bd3bf989be9952edd0da01807fe8a45478945014783ac4a": "its parent is damaged: Docker read it in vain",
    },
    "overlay-damaged": {
        "e66fec6e7602b008d0de88769e6b350e5abaf4dacd15b97310fd2d65de2aa560": _ANOTHER_STREAM,
        "495cddb0dcc3a43269ac271ff85ac3f8d116c03e93dfe041361ca2888a6acd99": _BELOW,
        "57f991f7e57414273a033853d011c3242a469a26f3cb79f48c576aa02fd982a5": _BELOW,
        "c002efe61b6226fbfa71c8b19221e2b0569cd51a08edb14d7fb8e7fa304bfa17": _BELOW,
        "cfa3430541895a586688ce27eeff9a2a6c1b3a97be0f0314b96335be6ced820b": _BELOW,
        "f6cbfe14db2f77e53320a2e9faf0f4eefbb2c648d692c47561b91ab8206c0bc2": _BELOW,
        "489ba401fb58287fca3a20fbbf3bbbd4332e915f9855fc18d27c100ff93861e2": "a diff ID that is none: Docker failed for ever",
        "fc124c087e5a54a3f752b16e1c21a40dfc3f27c390aa785db3f8ed69048f75c1": "a diff ID of another layer: Docker believed it",
        "0267b86c7cd71f4eb1d5ce9288caf363de9c230ef373d66e590dfe71e3f34185": "a diff ID alone: Docker failed for ever",
        "5be90d01556dff0776e03adbd312309203a7e23b1c24c82926d905edcee9e421": "a diff ID alone: Docker failed for ever",
        "08d4f03b0d66e9ce59fa7251cb69de67ec72a2c20dc47aa0a07c0a4bc76853d8": "its parent's ID ends a line: Docker lost that",
        "107056d40771aa163ad9d2c661512c9a1ba37ed4b0c4ab29047f9d6e74cab9c8": "is null: Docker made an image of nothing",
        "aab9228a52ce031298fb9b7b9d41f6239dbb609d5a88824811d400d0a9c2a1db": "has no parent: Docker read its layer in vain",
    },
}
"""Images of which something else is made than Docker made, and why."""
CONTAINERS = {
    "overlay-damaged": {
        LINKED: "had a config and no mount: Docker left it so",
        "57723e6aa71ac25cc188bba55713a0547b77ae8afc2ad80da5fc813c28d62569": "has no files any more: Docker did not look",
    },
}
"""Containers of which something else is made."""
NAMES = {
    "vfs-damaged": {"notar:1"},
    "overlay-damaged": {
        "edge/json-null:1",
        "edge/parent-nl:1",
        "edge/pre-diffid-bad:1",
        "edge/pre-diffid-nosize:1",
        "edge/pre-diffid-notardata:1",
        "edge/pre-diffid:1",
        "localhost:5000/remote/app:1",
        "localhost:5000/remote/app@sha256:5e1abf199807d8e5541ad33099b21b6b42ee08caf1f6815fc412ddd11c33e452",
    },
}
"""Names of these images."""
STORES = ("vfs-tiny", "vfs-damaged", "overlay", "overlay-damaged", "aufs")


def upgrade(root: Path, state: Path) -> Ended:
    return command("migrate", "--direct", "--source", root, "--target", "docker", "--state-dir", state, "--json")


@pytest.mark.parametrize("name", STORES)
def test_an_old_root_becomes_what_docker_made_of_it(
    name: str, v1_root: Callable[[str], Path], docker_fixture: Callable[[str], Path], tmp_path: Path
) -> None:
    root = v1_root(name)
    ended = upgrade(root, tmp_path / "state")
    assert ended.code == ("damaged" in name), ended.all
    ours, theirs = Made(root), Made(docker_fixture(name))

    images, containers = IMAGES.get(name, {}), CONTAINERS.get(name, {})
    concerned = {*images, *containers, *ours.identities(images), *theirs.identities(images)}
    assert images.keys() == {*ours.other_images(theirs), *_read_in_vain(ours, theirs)}
    assert ours.containers.keys() - containers.keys() == theirs.containers.keys() - containers.keys()
    unlike = {path for path in {*ours.files, *theirs.files} if ours.files.get(path) != theirs.files.get(path)}
    assert {path for path in unlike if not ours.is_about(path, concerned)} == set()
    assert len(ours.mapping) > 20 or name == "vfs-tiny"

    assert {key for key in {*ours.names, *theirs.names} if ours.names.get(key) != theirs.names.get(key)} == NAMES.get(
        name, set()
    )


def _read_in_vain(ours: Made, theirs: Made) -> set[str]:
    """Images whose layer Docker read, though nothing came of it."""
    read = [{path.split("/")[1] for path in made.files if path.endswith("/.migration-diffid")} for made in (ours, theirs)]
    return read[1] - read[0]


class Made:
    """What a migration has made in a root: ``files`` by path, each with its mode and content, packed ones unpacked."""

    def __init__(self, root: Path) -> None:
        self.files = dict(_files(root))
        self.mapping: dict[str, str] = {
            v1_id: image_id[7:] for v1_id, image_id in json.loads((root / ".migration-v1-images.json").read_bytes()).items()
        }
        [image_root] = (root / "image").iterdir()
        document = json.loads((image_root / "repositories.json").read_bytes())
        self.names = {name: image_id[7:] for names in document["Repositories"].values() for name, image_id in names.items()}
        self.containers = {path.parent.name: json.loads(path.read_bytes()) for path in root.glob("containers/*/config.v2.json")}
        self._layers: dict[str, str] = {
            (entry / "cache-id").read_text(): entry.name for entry in (image_root / "layerdb" / "sha256").iterdir()
        }
        self._diff_ids = {
            path.parent.name: path.read_text()[7:]
            for path in root.glob("graph/*/.migration-diffid")
            if path.stat().st_size == 71
        }

    def other_images(self, theirs: Made) -> set[str]:
        """v1 IDs of which not the same has become."""
        return {v1_id for v1_id in {*self.mapping, *theirs.mapping} if self.mapping.get(v1_id) != theirs.mapping.get(v1_id)}

    def is_about(self, path: str, identities: set[str]) -> bool:
        """Tell whether a file is called by one of these, or is about one and nothing else."""
        _, content = self.files.get(path, ("", b""))
        return any(part in identities for part in path.split("/")) or content.decode()[-64:] in identities

    def identities(self, v1_ids: dict[str, str]) -> set[str]:
        """All that has come of these images by which a path may be called."""
        return {known[v1_id] for known in (self.mapping, self._layers, self._diff_ids) for v1_id in v1_ids if v1_id in known}


def _files(root: Path) -> Iterator[tuple[str, tuple[Any, ...]]]:
    for path in [*root.glob("image/**/*"), *root.glob("graph/*/.migration-*"), *root.glob("containers/*/config.v2.json")]:
        mode = path.stat().st_mode
        content = path.read_bytes() if stat.S_ISREG(mode) else b""
        if content[:2] == b"\x1f\x8b":
            content = gzip.decompress(content)
        if path.name == "repositories.json":
            content = b""
        yield str(path.relative_to(root)), (oct(mode), content)
    for name in (".migration-v1-images.json", ".migration-v1-tags"):
        yield name, (oct((root / name).stat().st_mode), b"")


@pytest.mark.parametrize("name", STORES)
def test_a_rollback_leaves_no_trace(name: str, v1_root: Callable[[str], Path], tmp_path: Path) -> None:
    root = v1_root(name)
    before, times = listing(root), _times(root)
    assert upgrade(root, tmp_path / "state").code in {0, 1}
    assert differences(listing(root), before)
    ended = command("rollback", "--direct", "--state-dir", tmp_path / "state")
    assert ended.code == 0, ended.all
    assert differences(listing(root), before) == {}
    assert _times(root) == times


def _times(root: Path) -> dict[str, int]:
    return {
        path: os.lstat(path).st_mtime_ns
        for directory, names, files in os.walk(root)
        for path in _paths(directory, names, files)
    }


def _paths(directory: str, names: list[str], files: list[str]) -> list[str]:
    return [directory, *(f"{directory}/{name}" for name in (*names, *files))]


@pytest.mark.parametrize("name", STORES)
def test_once_more_changes_nothing(name: str, v1_root: Callable[[str], Path], tmp_path: Path) -> None:
    root = v1_root(name)
    first = upgrade(root, tmp_path / "state")
    made, whole = Made(root).files, listing(root)
    again = upgrade(root, tmp_path / "state")
    assert again.code == first.code
    assert differences(listing(root), whole) == {}
    anew = upgrade(root, tmp_path / "another state")  # which knows nothing of the first
    assert anew.code == first.code
    assert Made(root).files == made


@pytest.mark.parametrize("name", STORES)
def test_what_docker_has_made_stays(
    name: str, docker_fixture: Callable[[str], Path], v1_root: Callable[[str], Path], tmp_path: Path
) -> None:
    """A root that Docker 1.10 has migrated is taken as it is, but for what is not true in it."""
    root = v1_root(name)
    for part in ("image", ".migration-v1-images.json", ".migration-v1-tags"):
        subprocess.run(["cp", "-a", docker_fixture(name) / part, root], check=True)
    before = Made(docker_fixture(name))
    ended = upgrade(root, tmp_path / "state")
    assert ended.code in {0, 1}
    after = Made(root)
    concerned = before.identities(IMAGES.get(name, {}))
    changed = {path for path in before.files if path.startswith("image/") and after.files[path] != before.files[path]}
    assert {path for path in changed if not before.is_about(path, concerned)} == set()
    assert after.names == before.names
