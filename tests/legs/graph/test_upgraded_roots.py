"""Roots that Docker 1.10 has upgraded already, and what it lost on the way."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

from tests.cli.harness import Ended, command
from tests.stores.graph.builder import GraphBuilder

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

REDUCED = {"base06", "built"}
"""Images of which Docker 1.10 kept links and nothing else."""


def migrate(root: Path, target: str, state: Path) -> Ended:
    return command("migrate", "--direct", "--source", root, "--target", target, "--state-dir", state, "--json")


def copied(store: Path, root: Path) -> Path:
    subprocess.run(["cp", "-a", store, root], check=True)
    return root


def names(root: Path, driver: str) -> dict[str, str]:
    document = json.loads((root / "image" / driver / "repositories.json").read_bytes())
    return {name: image_id for named in document["Repositories"].values() for name, image_id in named.items()}


def moved_names(layout: Path) -> set[str]:
    index = json.loads((layout / "index.json").read_bytes())
    return {each["annotations"]["io.containerd.image.name"] for each in index["manifests"] if "annotations" in each}


def test_a_layer_that_docker_reduced_to_a_link_is_not_called_moved(
    docker_fixture: Callable[[str], Path], tmp_path: Path
) -> None:
    ended = migrate(docker_fixture("aufs-reduced"), f"oci:{tmp_path / 'layout'}", tmp_path / "state")
    assert ended.code == 1, ended.all
    lost = [each for each in ended.report["failed"] if "kept a link of it and nothing else" in each["message"]]
    assert len(lost) == 4
    assert all("transship migrate --target docker" in each["remedy"] for each in lost)
    assert not (tmp_path / "layout" / "index.json").exists()


def test_an_upgrade_makes_such_layers_anew_and_their_names_follow(
    docker_fixture: Callable[[str], Path], tmp_path: Path
) -> None:
    root = copied(docker_fixture("aufs-reduced"), tmp_path / "root")
    before = names(root, "aufs")
    ended = migrate(root, "docker", tmp_path / "state")
    assert ended.code == 1  # an image of 2013 has a short ID
    after = names(root, "aufs")
    assert after.keys() == before.keys()
    assert all(after[name] != before[name] for name in after)

    # What arrives is what arrives straight from the layout of Docker 0.6.
    pristine = copied(docker_fixture("aufs-reduced"), tmp_path / "pristine")
    shutil.rmtree(pristine / "image")
    for path in (*pristine.glob(".migration-v1-*"), *pristine.glob("graph/*/.migration-*")):
        path.unlink()
    assert migrate(pristine, f"oci:{tmp_path / 'straight'}", tmp_path / "state2").code == 0
    assert migrate(root, f"oci:{tmp_path / 'layout'}", tmp_path / "state3").code == 1
    straight = moved_names(tmp_path / "straight")
    assert moved_names(tmp_path / "layout") <= straight
    assert {f"docker.io/library/{name}:latest" for name in REDUCED} <= moved_names(tmp_path / "layout")


def test_images_that_docker_left_behind_are_told_of(tmp_path: Path) -> None:
    root = tmp_path / "docker"
    builder = GraphBuilder(root, "vfs")
    builder.image({"a": b"1"}, names=["a:1"])
    assert migrate(root, "docker", tmp_path / "state").code == 0
    later = builder.image({"b": b"2"}, names=["b:1"])

    def told(ended: Ended) -> list[dict[str, Any]]:
        return [each for each in ended.report["left_out"] if later[:12] in each["reason"]]

    plan = command("plan", "--source", root, "--target", f"oci:{tmp_path / 'layout'}", "--state-dir", tmp_path / "s", "--json")
    moved = migrate(root, f"oci:{tmp_path / 'layout'}", tmp_path / "s")
    assert (plan.code, moved.code) == (0, 0)
    for ended in (plan, moved):
        [left] = told(ended)
        assert (left["lost"], "--target docker" in left["remedy"]) == (False, True)

    assert migrate(root, "docker", tmp_path / "state").code == 0
    again = migrate(root, f"oci:{tmp_path / 'layout'}", tmp_path / "s")
    assert told(again) == []
    assert again.report["images"] == 2


def test_images_of_another_driver_are_not_part_of_a_store(tmp_path: Path) -> None:
    root = tmp_path / "docker"
    builder = GraphBuilder(root, "vfs")
    mine = builder.image({"a": b"1"}, names=["a:1"])
    other = builder.image({"b": b"2"})
    (root / "overlay" / other).mkdir(parents=True)
    (root / "vfs" / "dir" / other).rename(root / "overlay" / other / "root")
    for driver, image_id in (("vfs", mine), ("overlay", other)):
        state = tmp_path / f"state-{driver}"
        config = tmp_path / f"{driver}.toml"
        config.write_text(f'[source]\ndriver = "{driver}"\n')
        where = ("--source", root, "--target", f"oci:{tmp_path / driver}", "--state-dir", state, "--config", config, "--json")
        plan = command("plan", *where)
        assert [image["id"] for image in plan.report["images"]] == [image_id]
        ended = command("migrate", "--direct", *where)
        assert (ended.code, ended.report["images"]) == (0, 1), ended.all
