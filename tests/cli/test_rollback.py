"""``transship rollback``: removes exactly what a run made."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cli.harness import HUB, Sample, command, snapshot

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def foreign(sample: Sample, tmp_path: Path) -> Sample:
    """Another store, moved into the same layout before: an image with a layer of the sample's, and one quite the same."""
    (tmp_path / "foreign").mkdir()
    other = Sample(tmp_path / "foreign")
    other.builder.add_image(other.base, "theirs:1", config={"comment": "theirs"})
    other.layout = sample.layout
    assert other.migrate("--image", "theirs:1", "--image", "other:1").code == 0
    return other


def test_a_new_layout_is_empty_again(sample: Sample) -> None:
    run = sample.migrate().report["run"]
    ended = sample.rollback()
    assert ended.code == 0, ended.all
    assert ended.report["run"] == run
    assert (len(ended.report["removed"]), ended.report["kept"], ended.report["failed"]) == (12, [], [])
    assert sample.names() == {}
    assert [path for path, content in snapshot(sample.layout / "blobs").items() if content is not None] == []
    sample.ensure_consistent()


def test_what_was_there_before_is_not_touched(sample: Sample, foreign: Sample) -> None:
    before = snapshot(sample.layout)
    assert f"{HUB}/theirs:1" in foreign.names()
    ended = sample.migrate()
    assert ended.code == 0, ended.all
    assert snapshot(sample.layout) != before
    assert sample.rollback().code == 0
    assert snapshot(sample.layout) == before
    assert foreign.run("verify", "--image", "theirs:1", "--image", "other:1").code == 0


def test_what_someone_else_has_come_to_use_stays(sample: Sample, tmp_path: Path) -> None:
    sample.migrate()
    (tmp_path / "later").mkdir()
    later = Sample(tmp_path / "later")
    later.builder.add_image(later.base, "theirs:1", config={"comment": "theirs"})
    later.layout = sample.layout
    assert later.migrate("--image", "theirs:1").code == 0
    ended = sample.rollback()
    assert ended.code == 0
    assert len(ended.report["kept"]) == 1  # the layer that both have
    assert set(later.names()) == {f"{HUB}/theirs:1"}
    assert later.run("verify", "--image", "theirs:1").code == 0
    # When they go too, so does it.
    assert later.rollback().code == 0
    assert sample.rollback(ended.report["run"]).report["removed"] == ended.report["kept"]
    assert not list((sample.layout / "blobs/sha256").iterdir())


def test_a_second_run_made_nothing_and_takes_nothing_back(sample: Sample) -> None:
    first = sample.migrate().report["run"]
    before = snapshot(sample.layout)
    second = sample.migrate()
    assert second.report["run"] != first
    assert second.report["skipped"] == second.report["steps"]
    assert sample.rollback(second.report["run"]).report["removed"] == []
    assert snapshot(sample.layout) == before


def test_with_another_state_directory_what_is_there_is_not_ours(sample: Sample, tmp_path: Path) -> None:
    """A lost journal: a run that finds everything in the target has made nothing of it."""
    sample.migrate()
    before = snapshot(sample.layout)
    sample.state = tmp_path / "another"
    second = sample.migrate()
    assert second.code == 0
    assert not [each for each in second.documents if each.get("created")]
    assert sample.rollback().report["removed"] == []
    assert snapshot(sample.layout) == before


def test_a_blob_that_was_there_without_a_name_stays(sample: Sample) -> None:
    sample.migrate()
    sample.rollback()
    config = next(sample.builder.configs.iterdir())
    blob = sample.layout / "blobs" / "sha256" / config.name
    blob.write_bytes(config.read_bytes())
    assert sample.migrate().code == 0
    assert sample.rollback().code == 0
    assert [path.name for path in blob.parent.iterdir()] == [config.name]


def test_twice(sample: Sample) -> None:
    run = sample.migrate().report["run"]
    assert sample.rollback().code == 0
    before = snapshot(sample.layout)
    again = sample.rollback()
    assert again.code == 2
    assert "no run to roll back" in again.report["message"]
    named = sample.rollback(run)
    assert (named.code, named.report["removed"]) == (0, [])
    assert snapshot(sample.layout) == before


def test_a_run_that_is_not_known(sample: Sample) -> None:
    sample.migrate()
    before = snapshot(sample.layout)
    for run in ("20200101-000000-abcd", "../../x", "\x1b[31m"):
        ended = command("rollback", "--state-dir", sample.state, run)
        assert ended.code == 2
        assert "there is no run " in ended.err
        assert "\x1b" not in ended.err
    assert snapshot(sample.layout) == before


def test_a_run_that_moved_nothing(sample: Sample) -> None:
    sample.migrate()
    sample.run("verify")
    run = command("status", "--json", "--state-dir", sample.state).report["runs"][0]["id"]
    assert sample.rollback(run).code == 4


def test_without_any_run(sample: Sample) -> None:
    assert sample.rollback().code == 2


def test_after_it_everything_can_be_moved_again(sample: Sample) -> None:
    first = sample.migrate()
    content = snapshot(sample.layout / "blobs")
    sample.rollback()
    second = sample.migrate()
    assert second.code == 0
    assert second.report["skipped"] == 0
    assert second.report["run"] != first.report["run"]
    assert snapshot(sample.layout / "blobs") == content
    assert sample.run("verify").code == 0


def test_an_incomplete_run(sample: Sample) -> None:
    (sample.builder.files(sample.top) / "app").unlink()
    assert sample.migrate().code == 1
    assert sample.rollback().code == 0
    assert not list((sample.layout / "blobs/sha256").iterdir())


def test_a_layout_that_is_gone_has_nothing_left(sample: Sample) -> None:
    sample.migrate()
    sample.layout.rename(sample.layout.with_name("away"))
    assert sample.rollback().code == 0
    assert not sample.layout.exists()


def test_names_that_lead_elsewhere_by_now_stay(sample: Sample) -> None:
    sample.migrate()
    index = json.loads((sample.layout / "index.json").read_bytes())
    low, other = (
        next(each for each in index["manifests"] if each["annotations"]["io.containerd.image.name"] == f"{HUB}/{name}")
        for name in ("low:1", "other:1")
    )
    other["digest"], other["size"] = low["digest"], low["size"]
    (sample.layout / "index.json").write_text(json.dumps(index))
    ended = sample.rollback()
    assert ended.code == 0
    assert f"image:{HUB}/other:1" in ended.report["kept"]
    assert sample.image_ids() == {f"{HUB}/other:1": sample.low}
    sample.ensure_consistent()


# Tags that move between two runs


def test_a_tag_that_moved_is_updated_and_can_be_put_back(sample: Sample) -> None:
    sample.migrate()
    before = snapshot(sample.layout)
    sample.builder.name("other:1", sample.low)
    second = sample.migrate()
    assert second.code == 0, second.all
    ids = sample.image_ids()
    assert ids[f"{HUB}/other:1"] == sample.low
    assert sample.other in ids.values()  # nameless now, but there
    assert sample.run("verify").code == 0
    assert sample.rollback(second.report["run"]).code == 0
    assert snapshot(sample.layout) == before


def test_a_tag_that_moved_and_was_put_back_moves_again(sample: Sample) -> None:
    sample.migrate()
    sample.builder.name("other:1", sample.low)
    sample.rollback(sample.migrate().report["run"])
    third = sample.migrate()
    assert third.code == 0, third.all
    assert sample.image_ids()[f"{HUB}/other:1"] == sample.low
    assert sample.rollback().code == 0
    assert sample.image_ids()[f"{HUB}/other:1"] == sample.other


def test_both_runs_taken_back_leave_nothing(sample: Sample) -> None:
    sample.migrate()
    sample.builder.name("other:1", sample.low)
    sample.migrate()
    assert sample.rollback().code == 0
    assert sample.rollback().code == 0
    assert sample.names() == {}
    assert not list((sample.layout / "blobs/sha256").iterdir())


def test_the_older_run_taken_back_first(sample: Sample) -> None:
    first = sample.migrate().report["run"]
    sample.builder.name("other:1", sample.low)
    second = sample.migrate().report["run"]
    assert sample.rollback(first).code == 0
    sample.ensure_consistent()
    assert sample.image_ids()[f"{HUB}/other:1"] == sample.low
    assert sample.rollback(second).code == 0
    sample.ensure_consistent()
    sample.rollback(first)
    assert sample.names() == {}
    assert not list((sample.layout / "blobs/sha256").iterdir())


# Names that someone else has


def test_a_name_that_someone_else_has_is_left_alone(sample: Sample, tmp_path: Path) -> None:
    (tmp_path / "foreign").mkdir()
    foreign = Sample(tmp_path / "foreign")
    theirs = foreign.builder.add_image(foreign.base, "high:1", config={"comment": "theirs"})
    foreign.layout = sample.layout
    foreign.migrate("--image", "high:1")
    before = snapshot(sample.layout)
    ended = sample.migrate()
    assert ended.code == 1
    [failure] = ended.report["failed"]
    assert failure["key"] == f"image:{HUB}/high:1"
    assert f"{HUB}/high:1 is already the name of " in failure["message"]
    assert next(each for each in ended.documents if each["type"] == "step_failed")["error"]["type"] == "TargetExists"
    assert sample.image_ids().items() >= (sample.expected | {f"{HUB}/high:1": theirs}).items()
    assert sample.run("verify").code == 5
    assert sample.rollback().code == 0
    assert snapshot(sample.layout) == before
