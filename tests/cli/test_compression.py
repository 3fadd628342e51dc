"""Another compression makes other manifests, which cannot have names that are taken."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.cli.harness import Sample


def test_names_of_another_compression_stay_and_the_remedy_works(sample: Sample) -> None:
    first = sample.migrate().report["run"]
    names = sample.names()
    again = sample.migrate("--compression", "gzip")
    assert again.code == 1
    assert sample.names().items() >= names.items()
    remedies = {each["error"]["remedy"] for each in again.documents if each["type"] == "step_failed"}
    assert len(remedies) == 1
    assert f"run {first} " in remedies.pop()

    assert sample.rollback(first).code == 0
    assert sample.migrate("--compression", "gzip").code == 0
    assert sample.image_ids().keys() >= sample.expected.keys()
    assert sample.run("verify").code == 0
