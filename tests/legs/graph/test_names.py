"""Names of v1 images in the new store: conflicts, what cannot be a name, and names that Docker has carried over."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.legs.graph.upgrades import Upgrade, as_it_is, failed, noted, upgrade_of

if TYPE_CHECKING:
    from tests.stores.graph.builder import GraphBuilder

DIGEST = f"sha256:{'c' * 64}"


def write_names(builder: GraphBuilder, repositories: object) -> None:
    builder.names_file.write_text(json.dumps({"Repositories": repositories}))


def test_of_spellings_of_one_name_the_shortest_counts(builder: GraphBuilder, upgrade: Upgrade) -> None:
    """Docker went through them in random order."""
    one, other, third = (builder.image({str(number): b""}) for number in range(3))
    write_names(
        builder,
        {
            "index.docker.io/library/debian": {"8": one},
            "docker.io/library/debian": {"8": one, "7": one},
            "library/debian": {"8": other},
            "debian": {"8": third, DIGEST: third},
        },
    )
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    assert upgrade.tags == {
        "debian:7": upgrade.images[one],
        "debian:8": upgrade.images[third],
        f"debian@{DIGEST}": upgrade.images[third],
    }
    reasons = failed(ended)
    assert reasons.keys() == {"index.docker.io/library/debian:8", "docker.io/library/debian:8", "library/debian:8"}
    assert all(f"stands for {third}" in reason for reason in reasons.values())


@pytest.mark.parametrize(
    ("repository", "key"),
    [
        ("../../etc", "passwd"),
        ("a/../b", "1"),
        ("/abs", "1"),
        ("Upper", "1"),
        ("a" * 64, "1"),
        ("sha256", "1"),
        ("name:tag", "1"),
        ("", "1"),
        ("x" * 300, "1"),
        ("name", ""),
        ("name", "../x"),
        ("name", "t" * 129),
        ("name", "sha256:short"),
        ("new\nline", "1"),
        ("nul\0", "1"),
        ("lone\ud800", "1"),
    ],
)
def test_what_cannot_be_a_name_is_lost_alone(repository: str, key: str, builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b""})
    write_names(builder, {"good": {"1": image_id}, repository: {key: image_id}})
    before = as_it_is(builder.root)
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    assert len(failed(ended)) == 1
    if "\ud800" not in repository:  # that is nothing that JSON could hold, and the whole file is lost with it
        assert upgrade.tags == {"good:1": upgrade.images[image_id]}
    upgrade.take_back()
    assert as_it_is(builder.root) == before


def test_names_of_images_that_are_not_there(builder: GraphBuilder, upgrade: Upgrade) -> None:
    good, bad = builder.image({"x": b""}), "f" * 64
    builder.image({}, image_id=bad, raw=b"null")
    write_names(builder, {"good": {"1": good}, "bad": {"1": bad}, "absent": {"1": "0" * 64}, "odd": {"1": "../../etc"}})
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    reasons = failed(ended)
    assert reasons.keys() == {bad, "bad:1", "absent:1", "odd:1"}
    assert "could not be carried over" in reasons["bad:1"]
    assert "is not in the store" in reasons["absent:1"]
    assert upgrade.tags == {"good:1": upgrade.images[good]}


@pytest.mark.parametrize(
    "document", [b"", b"{", b"null", b"[]", b'{"Repositories":5}', b'{"Repositories":{"a":{"b":5}}}', b"[" * 100_000]
)
def test_a_file_of_names_that_is_none(document: bytes, builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b""})
    builder.names_file.write_bytes(document)
    ended = upgrade.migrate()
    assert ended.code == 1, ended.all
    assert failed(ended).keys() == {str(builder.names_file)}
    assert upgrade.images.keys() == {image_id}
    assert upgrade.tags == {}


def test_no_names_at_all(builder: GraphBuilder, upgrade: Upgrade) -> None:
    builder.image({"x": b""})
    write_names(builder, None)
    assert upgrade.migrate().code == 0
    assert (builder.root / "image/vfs/repositories.json").read_bytes() == b'{"Repositories":{}}'


def test_a_hundred_thousand_names(builder: GraphBuilder, upgrade: Upgrade) -> None:
    image_id = builder.image({"x": b""})
    write_names(builder, {f"name{number}": {"1": image_id} for number in range(100_000)})
    assert upgrade.migrate().code == 0  # takes about 2 s; a step in the square of them would take minutes
    assert len(upgrade.tags) == 100_000


def test_names_that_docker_has_carried_over_stay_as_they_are(builder: GraphBuilder, upgrade: Upgrade) -> None:
    """Some may have been removed since, and are not to come back."""
    one, other = builder.image({"x": b""}, names=["one:1"]), builder.image({"y": b""}, names=["removed:1"])
    assert upgrade.migrate().code == 0
    assert (builder.root / ".migration-v1-tags").exists()
    path = builder.root / "image/vfs/repositories.json"
    path.write_text(json.dumps({"Repositories": {"one": {"one:1": upgrade.images[one]}}}))
    path.chmod(0o600)
    kept = path.read_bytes()
    anew = upgrade_of(builder.root, upgrade.state.with_name("another"))
    ended = anew.migrate()
    assert ended.code == 0, ended.all
    assert ".migration-v1-tags" in noted(ended)
    assert path.read_bytes() == kept
    assert upgrade.images.keys() == {one, other}
