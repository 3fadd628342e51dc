"""Images of v1 stores at which Docker 1.10 stopped, lost more than it had to, or believed what was not so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import HUB, Journey
from tests.legs.graph.upgrades import Upgrade, failed, noted, upgrade_of
from tests.stores.graph.builder import GraphBuilder, usual_json
from transship.formats import digest
from transship.stores.graph.store import read_graph

if TYPE_CHECKING:
    from pathlib import Path

SHORT = "27cf784147099545"
DRIVERS = ("aufs", "overlay", "vfs")


@pytest.fixture
def journey(builder: GraphBuilder, tmp_path: Path) -> Journey:
    return Journey(builder.root, tmp_path / "layout", tmp_path / "state")


def add_circle(builder: GraphBuilder, *image_ids: str) -> None:
    """Add images each of which names the next as its parent, the last one the first."""
    for image_id, parent in zip(image_ids, (*image_ids[1:], image_ids[0]), strict=True):
        builder.image({"x": b""}, image_id=image_id, raw=usual_json(image_id, parent, {}), names=[f"circle:{image_id[0]}"])


def test_images_among_their_own_ancestors_are_lost_with_what_stands_on_them(
    builder: GraphBuilder, upgrade: Upgrade, journey: Journey
) -> None:
    good = builder.image({"good": b""}, names=["good:1"])
    circle = ["2" * 64, "3" * 64, "4" * 64]
    add_circle(builder, *circle)
    add_circle(builder, "1" * 64)
    above = "5" * 64
    builder.image({"y": b""}, image_id=above, raw=usual_json(above, circle[0], {}))
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    reasons = failed(ended)
    assert reasons.keys() == {"1" * 64, *circle, above, "circle:1", "circle:2", "circle:3", "circle:4"}
    assert all("among its own ancestors" in reasons[image_id] and image_id in reasons[image_id] for image_id in circle)
    assert "stands on a damaged one" in reasons[above]
    assert upgrade.images.keys() == {good}
    upgrade.take_back()
    assert journey.migrate().code == 1
    assert journey.names().keys() == {f"{HUB}/good:1"}


def test_a_chain_of_ten_thousand_is_no_burden(tmp_path: Path) -> None:
    root, parent = tmp_path / "docker", None
    (root / "graph").mkdir(parents=True)
    for number in range(10_000):
        image_id = f"{10_000 - number:064x}"  # so that no parent comes before its child
        (root / "graph" / image_id).mkdir()
        (root / "graph" / image_id / "json").write_bytes(usual_json(image_id, parent, {}))
        parent = image_id
    (root / "vfs" / "dir" / f"{1:064x}").mkdir(parents=True)
    in_order, lost = read_graph(root, "vfs").in_order()
    assert lost == {}
    assert [image.id for image in in_order] == [f"{10_000 - number:064x}" for number in range(10_000)]


@pytest.mark.parametrize("driver", DRIVERS)
def test_short_ids_arrive_where_docker_is_not_asked(driver: str, tmp_path: Path) -> None:
    builder = GraphBuilder(tmp_path / "docker", driver)
    builder.image({"old": b"2013"}, image_id=SHORT, names=["old:1"])
    above = builder.image({"new": b""}, SHORT, names=["above:1"])
    good = builder.image({"good": b""}, names=["good:1"])
    upgrade = upgrade_of(builder.root, tmp_path / "state")
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    reasons = failed(ended)
    assert reasons.keys() == {SHORT, above, "old:1", "above:1"}
    assert "short an ID" in reasons[SHORT]
    assert SHORT in reasons[above]
    assert upgrade.images.keys() == {good}
    upgrade.take_back()
    journey = Journey(builder.root, tmp_path / "layout", tmp_path / "state")
    assert journey.migrate().code == 0
    assert journey.names().keys() == {f"{HUB}/{name}" for name in ("old:1", "above:1", "good:1")}


@pytest.mark.parametrize("parent", ["../../etc", "0" * 63, "A" * 64, "x/y", "\n" + "0" * 64, "0" * 64 + "-init"])
def test_what_cannot_be_a_parent(parent: str, builder: GraphBuilder, upgrade: Upgrade) -> None:
    good = builder.image({"good": b""})
    bad = "f" * 64
    builder.image({"x": b""}, image_id=bad, raw=usual_json(bad, parent, {}))
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    assert failed(ended) == {bad: f"image {bad}: its parent is called {parent!r}, which is no image ID"}
    assert upgrade.images.keys() == {good}


@pytest.mark.parametrize("name", ["A" * 64, "x" * 64, "0" * 63, "..x", "a b", ".hidden"])
def test_what_is_not_called_by_an_image_id_is_told_of(name: str, builder: GraphBuilder, upgrade: Upgrade) -> None:
    good = builder.image({"good": b""})
    (builder.graph / name).mkdir()
    (builder.graph / name / "json").write_bytes(usual_json(name, None, {}))
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    assert noted(ended).keys() == {str(builder.graph / name)}
    assert upgrade.images.keys() == {good}


@pytest.mark.parametrize(
    "fields",
    [
        {"os": 5},
        {"created": "today"},
        {"config": "text"},
        {"config": {"Env": 5}},
        {"container_config": {"Cmd": 5}},
        {"Os": "x"},
    ],
)
def test_a_config_that_nobody_could_read_fails_with_what_stands_on_it(
    fields: dict[str, Any], builder: GraphBuilder, upgrade: Upgrade, journey: Journey
) -> None:
    base = builder.image({"base": b""}, names=["base:1"])
    bad = builder.image({"bad": b""}, base, **fields)
    above = builder.image({"above": b""}, bad)
    others = [builder.image({str(number): b""}, base) for number in range(5)]
    in_place = upgrade.migrate()
    assert upgrade.images.keys() == {base, *others}
    upgrade.take_back()
    for ended in (in_place, journey.migrate()):
        assert ended.code == 1, ended.all
        assert failed(ended).keys() == {bad, above}
        assert bad in failed(ended)[above]
    assert journey.names().keys() >= {f"{HUB}/base:1"}


@pytest.mark.parametrize("noted_before", [f"sha256:{'0' * 64}", "", "nonsense", "x" * 5000])
def test_a_diff_id_that_is_not_true_is_corrected(noted_before: str, builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b"1"}, extra={".migration-diffid": noted_before, ".migration-size": "77"})
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    assert "noted a diff ID" in noted(ended)[image_id]
    directory = builder.directory(image_id)
    assert (directory / ".migration-diffid").read_text() == digest.of(builder.tar(image_id))
    assert (directory / ".migration-size").read_text() == "1"


def test_a_diff_id_that_is_true_is_not_spoken_of(builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b"1"})
    builder.directory(image_id).joinpath(".migration-diffid").write_text(digest.of(builder.tar(image_id)))
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    assert noted(ended) == {}


def test_a_mapping_of_another_driver_is_not_believed(builder: GraphBuilder, upgrade: Upgrade) -> None:
    """Docker took such images for migrated, though its store of this driver had none, and stopped at the first container."""
    image_id = builder.image({"x": b"1"}, names=["x:1"])
    container_id = builder.container(image_id)
    foreign = {"d" * 64: f"sha256:{'e' * 64}"}
    path = builder.root / ".migration-v1-images.json"
    path.write_text(json.dumps({image_id: f"sha256:{'0' * 64}", "bad": 5} | foreign))
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    new_id = upgrade.images[image_id]
    assert new_id == upgrade.tags["x:1"] == upgrade.container(container_id)["Image"] != f"sha256:{'0' * 64}"
    assert upgrade.images == {image_id: new_id} | foreign
    assert upgrade.run("verify").code == 0


def test_images_that_have_become_one_share_a_layer_and_leave_the_other_files_alone(
    builder: GraphBuilder, upgrade: Upgrade
) -> None:
    base = builder.image({"base": b""})
    empty = [builder.image({}, base, names=[f"twin:{number}"]) for number in range(2)]
    ended = upgrade.migrate()
    assert ended.code == 0, ended.all
    assert upgrade.images[empty[0]] == upgrade.images[empty[1]] == upgrade.tags["twin:0"] == upgrade.tags["twin:1"]
    entries = [path.read_text() for path in builder.root.glob("image/vfs/layerdb/sha256/*/cache-id")]
    assert sorted(entries) == sorted([base, min(empty)])
    assert builder.layer(max(empty)).is_dir()


def test_the_same_content_under_two_parents_is_two_layers(builder: GraphBuilder, upgrade: Upgrade) -> None:
    parents = [builder.image({name: b""}) for name in ("a", "b")]
    children = [builder.image({}, parent) for parent in parents]
    assert upgrade.migrate().code == 0
    entries = {
        (path / "cache-id").read_text(): (path / "diff").read_text() for path in builder.root.glob("image/vfs/layerdb/sha256/*")
    }
    assert entries.keys() == {*parents, *children}
    assert entries[children[0]] == entries[children[1]]


def test_orphans_of_the_driver_stay(builder: GraphBuilder, upgrade: Upgrade) -> None:
    builder.image({"x": b""})
    orphan = builder.layer("9" * 64)
    orphan.mkdir()
    (orphan / "file").write_bytes(b"kept")
    assert upgrade.migrate().code == 0
    assert (orphan / "file").read_bytes() == b"kept"


@pytest.mark.parametrize(
    ("checksum", "counts"),
    [(f"sha256:{'a' * 64}", True), (f"sha256:{'a' * 64}\n", False), ("tarsum+sha256:" + "a" * 64, False), ("sha256:a", False)],
)
def test_the_digest_of_a_registry(checksum: str, counts: bool, builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b""}, extra={"checksum": checksum})
    assert upgrade.migrate().code == 0
    distribution = builder.root / "image/vfs/distribution"
    found = [json.loads(path.read_bytes()) for path in distribution.glob("v2metadata-by-diffid/sha256/*")]
    assert found == ([[{"Digest": checksum, "SourceRepository": ""}]] if counts else [])
    by_digest = [path.read_text() for path in distribution.glob("diffid-by-digest/sha256/*")]
    assert by_digest == ([digest.of(builder.tar(image_id))] if counts else [])


def test_a_layer_that_outlived_its_files_is_entered_anew(builder: GraphBuilder, upgrade: Upgrade) -> None:
    """Its twin may have been removed by an old Docker since, which knows nothing of the new entry."""
    twins = sorted(builder.image({}, names=[f"twin:{number}"]) for number in range(2))
    assert upgrade.migrate().code == 0
    for place in (builder.directory(twins[0]), builder.layer(twins[0])):
        place.rename(builder.root / f"gone-{place.parent.name}")
    assert upgrade.migrate().code == 0
    assert [path.read_text() for path in builder.root.glob("image/vfs/layerdb/sha256/*/cache-id")] == [twins[1]]
