"""``--image``: which images are meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Sample

if TYPE_CHECKING:
    from collections.abc import Sequence


def moved(sample: Sample, *images: str) -> set[str]:
    ended = sample.migrate(*[argument for image in images for argument in ("--image", image)])
    assert ended.code == 0, ended.all
    sample.ensure_consistent()
    return set(sample.image_ids().values())


@pytest.mark.parametrize("name", ["other:1", "docker.io/library/other:1", "library/other:1", "index.docker.io/other:1"])
def test_by_name(sample: Sample, name: str) -> None:
    assert moved(sample, name) == {sample.other}


def test_with_all_its_names_and_what_it_was_built_from(sample: Sample) -> None:
    assert moved(sample, "high") == {sample.high, sample.low}  # no tag: latest
    assert set(sample.names()) == {f"{HUB}/high:1", f"{HUB}/high:latest", f"{HUB}/low:1"}


def test_several(sample: Sample) -> None:
    assert moved(sample, "low:1", "other:1", "low:1") == {sample.low, sample.other}


def test_by_id(sample: Sample) -> None:
    assert moved(sample, sample.nameless) == {sample.nameless}
    assert moved(sample, sample.other.removeprefix("sha256:")) == {sample.nameless, sample.other}
    assert moved(sample, sample.low[7:19]) == {sample.nameless, sample.other, sample.low}


def test_by_digest_reference(sample: Sample) -> None:
    reference = f"registry.example/x@sha256:{'1' * 64}"
    sample.builder.name(reference, sample.other)
    assert moved(sample, reference) == {sample.other}


@pytest.mark.parametrize(
    "name", ["low", "none:1", "other", "", " ", "sha256:", "sha256:abc", "0" * 12, "0" * 64, "UPPER", "../x", "other:1 ", "\0"]
)
def test_one_that_is_not_there(sample: Sample, name: str) -> None:
    for command in ("plan", "migrate", "verify"):
        ended = sample.run(command, "--json", "--image", "other:1", "--image", name)
        assert ended.code == 2, ended.all
        assert repr(name) in ended.report["message"]
        assert ended.report["remedy"]
    assert not sample.layout.exists()


def test_too_short_an_id(sample: Sample) -> None:
    assert sample.migrate("--image", sample.other[7:18]).code == 2


def with_one_beginning(sample: Sample) -> Sequence[str]:
    """Two image IDs that begin alike cannot be made in a test; names of files in the imagedb can."""
    ids = ["a" * 12 + "1" * 52, "a" * 12 + "2" * 52]
    for image_id in ids:
        (sample.builder.configs / image_id).write_bytes(b"{}")
    return ids


def test_one_that_may_mean_two(sample: Sample) -> None:
    with_one_beginning(sample)
    ended = sample.migrate("--image", "a" * 12)
    assert ended.code == 2
    assert "the only one meant" in ended.report["message"]


def test_one_that_is_broken(sample: Sample) -> None:
    path = sample.builder.config_path(sample.other)
    path.write_bytes(b"")
    for name in ("other:1", sample.other, sample.other[7:19]):
        ended = sample.migrate("--image", name)
        assert ended.code == 3
        assert str(path) in ended.report["message"]
        assert ended.report["remedy"]
    assert not sample.layout.exists()


def test_a_name_whose_image_is_not_in_the_store(sample: Sample) -> None:
    sample.builder.name("gone:1", f"sha256:{'3' * 64}")
    ended = sample.migrate("--image", "gone:1")
    assert ended.code == 3
    assert f"sha256:{'3' * 64}" in ended.report["message"]


def test_damage_elsewhere_does_not_matter(sample: Sample) -> None:
    sample.builder.config_path(sample.other).write_bytes(b"")
    assert moved(sample, "low:1") == {sample.low}
    # Not even if all that is whole was asked for.
    assert moved(sample, "high:1", sample.nameless) == {sample.low, sample.high, sample.nameless}


def test_a_selection_is_a_run_of_its_own_and_the_rest_can_follow(sample: Sample) -> None:
    first = sample.migrate("--image", "high:1").report
    second = sample.migrate().report
    assert second["run"] != first["run"]
    assert second["skipped"] == first["done"]
    assert sample.image_ids().items() >= sample.expected.items()
