"""Stores that dockerd wrote, moved, against what is known of them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Journey
from tests.legs.containerd.trees_on_disk import TargetWithTrees, migrated, sail
from tests.real.trees import differences, listing
from transship.engine.records import RunState
from transship.formats import references
from transship.formats.compression import decompressed
from transship.legs.containerd.verify import plan_verification
from transship.stores.docker.store import read_store
from transship.stores.interfaces import TreeForm

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture(params=["overlay2", "vfs", "aufs", "overlay"])
def driver(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def journey(docker_fixture: Callable[[str], Path], driver: str, tmp_path: Path) -> Journey:
    return Journey(docker_fixture(driver), tmp_path / "layout", tmp_path / "state")


@pytest.mark.parametrize("compression", ["zstd", "gzip", "none"])
def test_every_image_arrives_whole(
    journey: Journey, driver: str, facts: Callable[[str], dict[str, Any]], compression: str
) -> None:
    ended = journey.migrate("--compression", compression)
    assert ended.code == 0, ended.all
    journey.ensure_consistent()
    known = facts(driver)["images"]

    names, ids = journey.names(), journey.image_ids()
    tagged = {references.canonical(name): image for image, fact in known.items() for name in fact["refs"] if "@" not in name}
    dangling = {name: image for name, image in ids.items() if name not in tagged}
    assert ids == tagged | dangling
    assert all(name == f"moby-dangling@{names[name]}" for name in dangling)
    assert sorted(dangling.values()) == sorted(known.keys() - set(tagged.values()))

    # Configs are the very bytes, layers the very streams.
    unpacked: dict[str, str] = {}
    for name, image in ids.items():
        config = journey.source / "image" / driver / "imagedb/content/sha256" / image.removeprefix("sha256:")
        assert journey.blob(image).read_bytes() == config.read_bytes()
        layers = journey.document(names[name])["layers"]
        for layer in layers:
            if layer["digest"] not in unpacked:
                packed = journey.blob(layer["digest"]).read_bytes()
                assert f"sha256:{hashlib.sha256(packed).hexdigest()}" == layer["digest"]
                plain = b"".join(decompressed([packed], layer["mediaType"]))
                unpacked[layer["digest"]] = f"sha256:{hashlib.sha256(plain).hexdigest()}"
        assert [unpacked[layer["digest"]] for layer in layers] == known[image]["diff_ids"]
    assert journey.run("verify").code == 0


def test_the_map_has_every_old_and_new_identity(journey: Journey, driver: str, facts: Callable[[str], dict[str, Any]]) -> None:
    report = journey.migrate().report
    assert report["map"] == str(journey.state / "runs" / report["run"] / "map.json")
    mapped = json.loads((journey.state / "runs" / report["run"] / "map.json").read_bytes())
    assert (mapped["run"], mapped["target"]) == (report["run"], f"oci:{journey.layout}")
    known = facts(driver)["images"]
    assert {image["image_id"] for image in mapped["images"]} == known.keys()
    names = journey.names()
    for image in mapped["images"]:
        fact = known[image["image_id"]]
        assert sorted([*image["references"], *image["repo_digests"]]) == sorted(map(references.canonical, fact["refs"]))
        manifest = journey.document(image["manifest"])
        assert manifest["config"]["digest"] == image["image_id"]
        assert image["names"] == {name: digest for name, digest in names.items() if digest == image["manifest"]}
        assert [layer["diff_id"] for layer in image["layers"]] == fact["diff_ids"]
        assert [layer["blob"] for layer in image["layers"]] == [layer["digest"] for layer in manifest["layers"]]
        assert (image["layers"][-1]["chain_id"] if image["layers"] else None) == fact["chain"]


def test_the_same_input_gives_the_same_layout(journey: Journey, tmp_path: Path) -> None:
    journey.migrate("--jobs", "1")
    again = Journey(journey.source, tmp_path / "again", tmp_path / "state2")
    again.migrate("--jobs", "4")
    assert journey.names() == again.names()
    assert {path.name for path in journey.blob("").iterdir()} == {path.name for path in again.blob("").iterdir()}


@pytest.mark.parametrize("form", list(TreeForm))
def test_every_tree_arrives_whole(
    journey: Journey, driver: str, facts: Callable[[str], dict[str, Any]], form: TreeForm, tmp_path: Path
) -> None:
    store = read_store(journey.source, driver)
    target = TargetWithTrees(tmp_path, form)
    summary = migrated(store, target, journey.state)
    assert summary.state is RunState.DONE, summary.failed
    needed = {chain_id for image in store.images.values() for chain_id in image.chain_ids}
    assert {info.name for info in target.trees.list()} == needed
    for chain_id in needed:
        assert target.trees.stat(chain_id).parent == store.layers[chain_id].parent
    if form is TreeForm.FULL:
        compared = 0
        for chain_id, tree in facts(driver).get("chain_trees", {}).items():
            if chain_id in needed:
                assert differences(listing(target.trees.directory(chain_id)), tree) == {}
                compared += 1
        assert compared >= 10 or driver in {"aufs", "overlay"}  # whose trees tests/real hold against containerd's
    images = list(store.images.values())
    checked = sail(plan_verification(store, target, images), tmp_path / "verification")
    assert checked.state is RunState.DONE, checked.failed
    assert checked.steps > len(needed)
