"""``transship status``: the runs, and how the last one stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cli.harness import Ended, Sample, command, snapshot

if TYPE_CHECKING:
    from pathlib import Path


def status(sample: Sample, *arguments: str) -> Ended:
    return command("status", "--state-dir", sample.state, *arguments)


def test_no_runs(sample: Sample) -> None:
    ended = status(sample)
    assert ended.code == 0
    assert f"no runs yet (state directory {sample.state})" in ended.out
    assert status(sample, "--json").documents == [{"service": None, "runs": [], "last": None}]
    assert not sample.state.exists()


def test_after_a_run_that_is_done(sample: Sample, tmp_path: Path) -> None:
    report = sample.migrate().report
    before = snapshot(tmp_path)
    [document] = status(sample, "--json").documents
    [run] = document["runs"]
    assert (run["id"], run["leg"], run["state"], run["attempts"]) == (report["run"], "containerd", "done", 1)
    assert run["started"] <= run["ended"]
    assert run["bytes"] > 5000
    assert run["options"]["source"] == str(sample.source)
    assert document["last"] == {"steps": {"done": report["steps"]}, "failed": []}
    shown = status(sample).out
    assert report["run"] in shown
    assert f"steps of the newest run: {report['steps']} done" in shown
    assert snapshot(tmp_path) == before


def test_after_one_that_is_incomplete(sample: Sample) -> None:
    path = sample.builder.files(sample.top) / "app"
    path.unlink()
    report = sample.migrate().report
    document = status(sample, "--json").report
    assert document["runs"][0]["state"] == "incomplete"
    [failed] = document["last"]["failed"]
    assert failed["key"].startswith("blob:sha256:")
    assert f"{path} is missing" in failed["message"]
    assert failed["remedy"]
    assert document["last"]["steps"]["blocked"] == len(report["blocked"]) == 3
    shown = status(sample).out
    assert "incomplete" in shown
    assert f"FAILED {failed['key']}: {path} is missing" in shown
    assert f"    what to do: {failed['remedy']}\n" in shown


def test_images_that_could_not_even_be_planned_make_it_incomplete(sample: Sample) -> None:
    sample.builder.config_path(sample.other).write_bytes(b"")
    sample.migrate()
    document = status(sample, "--json").report
    assert document["runs"][0]["state"] == "incomplete"
    assert any("is empty" in failed["message"] for failed in document["last"]["failed"])


def test_the_newest_run_comes_first(sample: Sample) -> None:
    first = sample.migrate().report["run"]
    second = sample.migrate().report["run"]
    sample.run("verify")
    rolled_back = sample.rollback(second)
    assert rolled_back.code == 0
    runs = status(sample, "--json").report["runs"]
    assert [(run["leg"], run["state"]) for run in runs] == [
        ("verify", "done"),
        ("containerd", "rolled-back"),
        ("containerd", "done"),
    ]
    assert [run["id"] for run in runs[1:]] == [second, first]
