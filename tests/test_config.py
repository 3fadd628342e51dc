"""Settings from a file: typed, complete, and strict about what it does not know."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from transship import config
from transship.config import Settings
from transship.errors import UsageError
from transship.files.fill import FillMode
from transship.formats.compression import Codec


def load(tmp_path: Path, text: str) -> Settings:
    path = tmp_path / "transship.toml"
    path.write_text(text)
    return config.load(path)


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    assert load(tmp_path, "") == load(tmp_path, "[source]\n[run]\n") == Settings()


def test_every_setting_can_be_set(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        [source]
        directory = "/srv/docker"
        driver = "vfs"
        [target]
        to = "oci:/srv/layout"
        namespace = "k8s.io"
        snapshotter = "native"
        [blobs]
        compression = "gzip"
        level = 2
        [snapshots]
        fill = "link-all"
        [run]
        state-dir = "/srv/state"
        jobs = 3
        [log]
        level = "debug"
        """,
    )
    assert (settings.source.directory, settings.source.driver) == (Path("/srv/docker"), "vfs")
    assert (settings.target.to, settings.target.namespace, settings.target.snapshotter) == (
        "oci:/srv/layout",
        "k8s.io",
        "native",
    )
    assert (settings.blobs.compression, settings.blobs.level) == (Codec.GZIP, 2)
    assert settings.snapshots.fill is FillMode.LINK_ALL
    assert (settings.run.state_dir, settings.run.jobs, settings.run.parallel) == (Path("/srv/state"), 3, 3)
    assert settings.log.level == "debug"


def test_without_a_number_of_jobs_processors_decide() -> None:
    assert 1 <= Settings().run.parallel <= (os.cpu_count() or 1)


def test_the_usual_file_need_not_be_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(config, "DEFAULT_FILE", tmp_path / "transship.toml")
    assert config.load(None) == Settings()
    (tmp_path / "transship.toml").write_text("[run]\njobs = 2\n")
    assert config.load(None).run.jobs == 2


@pytest.mark.parametrize(
    "text",
    [
        "[run]\njob = 1\n",
        "[runs]\n",
        "jobs = 1\n",
        "[run]\njobs = '1'\n",
        "[run]\njobs = 1.5\n",
        "[run]\njobs = -1\n",
        "[run]\nstate-dir = 1\n",
        "[run]\nstate_dir = '/x'\n",
        "[target]\nto = true\n",
        "run = 5\n",
        "x = " + "[" * 50_000,
        "[run",
        "\0",
    ],
)
def test_what_is_wrong_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match=r"transship\.toml") as caught:
        load(tmp_path, text)
    assert caught.value.remedy


def test_what_is_no_usable_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="none"):
        config.load(tmp_path / "none")
    with pytest.raises(UsageError, match=str(tmp_path)):
        config.load(tmp_path)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="binary"):
        config.load(tmp_path / "binary")
    (tmp_path / "huge").touch()
    os.truncate(tmp_path / "huge", 10 << 30)
    with pytest.raises(UsageError, match="huge is larger"):
        config.load(tmp_path / "huge")
