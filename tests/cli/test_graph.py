"""``transship graph``: what an old disk has."""

from __future__ import annotations

import json
import os
import pty
import shutil
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.cli.harness import Ended, command, environment
from tests.files.trees import listing
from tests.stores.graph.builder import GraphBuilder, usual_json

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["aufs", "overlay", "vfs", None])
def store(tmp_path: Path, request: pytest.FixtureRequest) -> GraphBuilder:
    return GraphBuilder(tmp_path / "docker", request.param)


@pytest.fixture
def vfs(tmp_path: Path) -> GraphBuilder:
    return GraphBuilder(tmp_path / "docker")


def graph(store: GraphBuilder, action: str, *arguments: object, code: int = 0) -> Ended:
    """Run a command on a store, which must not change."""
    before = listing(store.root)
    ended = command("graph", action, store.root, *arguments)
    assert ended.code == code, ended.all
    assert listing(store.root) == before
    assert all(line.isprintable() for line in ended.all.splitlines())
    return ended


def as_bytes(*arguments: object, **options: Any) -> subprocess.CompletedProcess[bytes]:
    words = [sys.executable, "-m", "transship", "graph", *map(str, arguments)]
    return subprocess.run(words, check=False, env=environment(), **options)


def test_ls(store: GraphBuilder) -> None:
    base = store.image({"a": b"x" * 2000}, names=["base:1"], created="2013-03-23T22:24:18.818426-07:00")
    top = store.image({"b": b"y"}, base, ["app:1", "app:latest"])
    lines = graph(store, "ls").out.splitlines()
    assert [line.split() for line in lines] == [
        ["ID", "CREATED", "SIZE", "PARENT", "NAMES"],
        [top[:12], "2015-11-20", "12:00", "1", "B", base[:12], "app:1,", "app:latest"],
        [base[:12], "2013-03-24", "05:24", "2", "kB", "base:1"],
    ]
    [document] = graph(store, "ls", "--json").documents
    assert document == {
        "driver": store.driver or "aufs",
        "images": [
            {
                "id": top,
                "names": ["app:1", "app:latest"],
                "created": "2015-11-20T12:00:00.123456+00:00",
                "size": 1,
                "parent": base,
            },
            {"id": base, "names": ["base:1"], "created": "2013-03-24T05:24:18.818426+00:00", "size": 2000, "parent": None},
        ],
        "damaged": [],
    }


def test_ls_with_little_to_show(vfs: GraphBuilder) -> None:
    image_id = vfs.image(created=None, extra={"layersize": "x"})
    broken = vfs.image(raw=b"{")
    out = graph(vfs, "ls").out.splitlines()
    assert out[1:] == [image_id[:12], "1 more cannot be read: see `transship graph verify`"]
    [document] = graph(vfs, "ls", "--json").documents
    assert document["images"] == [{"id": image_id, "names": [], "created": None, "size": None, "parent": None}]
    assert document["damaged"] == [broken]


@pytest.mark.parametrize("created", ["x", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-12:00", 5, "\x1b[2J"])
def test_odd_times(vfs: GraphBuilder, created: Any) -> None:
    vfs.image(created=created)
    assert graph(vfs, "ls", "--json").documents[0]["images"][0]["created"] is None


def test_heads(store: GraphBuilder) -> None:
    base = store.image()
    left, right = store.image(parent=base), store.image(parent=base)
    shown = [line.split()[0] for line in graph(store, "heads").out.splitlines()[1:]]
    assert sorted(shown) == sorted([left[:12], right[:12]])
    [document] = graph(store, "heads", "--json").documents
    assert {image["id"] for image in document["images"]} == {left, right}


def test_show(store: GraphBuilder) -> None:
    base = store.image(names=["base:1"])
    middle = store.image(parent=base)
    top = store.image({"f": b"123"}, middle, ["app:1"], author="\x1b[31mé\u202e", created="2015-01-01T00:00:00Z")
    [document] = graph(store, "show", "app:1", "--json").documents
    raw = (store.directory(top) / "json").read_text()
    assert document == {
        "id": top,
        "names": ["app:1"],
        "created": "2015-01-01T00:00:00+00:00",
        "size": 3,
        "parent": middle,
        "ancestors": [middle, base],
        "children": [],
        "driver": store.driver or "aufs",
        "layer": str(store.layer(top)),
        "recorded": store.driver is not None,
        "json": raw,
    }
    out = graph(store, "show", top[:10]).out
    for text in (top, "app:1", middle, base, str(store.layer(top)), "3 B", "author"):
        assert text in out
    assert ("not recorded" in out) == (store.driver is None)
    [of_middle] = graph(store, "show", middle, "--json").documents
    assert of_middle["children"] == [top]


def test_show_of_what_is_damaged_or_absent(vfs: GraphBuilder) -> None:
    broken = vfs.image(raw=b"{")
    circle = vfs.image(raw=usual_json("", None, {"parent": "f" * 64}), image_id="f" * 64)
    no_layer = vfs.image()
    shutil.rmtree(vfs.layer(no_layer))
    vfs.name("gone:1", "e" * 64)
    assert broken in graph(vfs, "show", broken[:5], code=3).err
    assert "not in the store" in graph(vfs, "show", "gone:1", code=3).err
    assert graph(vfs, "show", circle, "--json").documents[0]["ancestors"] == [circle]
    assert graph(vfs, "show", no_layer, "--json").documents[0]["layer"] is None
    for text in ("", "nothing", "../x"):
        graph(vfs, "show", text, code=2)


def test_tar(store: GraphBuilder, tmp_path: Path) -> None:
    image_id = store.image({"d": None, "d/f": b"content" * 100_000}, names=["app:1"])
    output = tmp_path / "out.tar"
    graph(store, "tar", "app:1", "-o", output)
    if store.driver is not None:
        assert output.read_bytes() == store.tar(image_id)
    with tarfile.open(output) as tar:
        assert tar.getnames() == ["d", "d/f"]
    assert {path.name for path in tmp_path.iterdir()} == {"docker", "out.tar"}
    piped = as_bytes("tar", store.root, image_id, capture_output=True)
    assert (piped.returncode, piped.stdout) == (0, output.read_bytes())


def test_tar_of_a_file_that_has_changed_is_made_anew_and_says_so(vfs: GraphBuilder, tmp_path: Path) -> None:
    image_id = vfs.image({"f": b"12345"})
    (vfs.layer(image_id) / "f").write_bytes(b"other")
    ended = graph(vfs, "tar", image_id, "-o", tmp_path / "out.tar")
    assert "made anew" in ended.err
    with tarfile.open(tmp_path / "out.tar") as tar:
        member = tar.extractfile("f")
        assert member is not None
        assert member.read() == b"other"


def test_tar_leaves_nothing_if_it_fails(vfs: GraphBuilder, tmp_path: Path) -> None:
    image_id = vfs.image({"f": b"12345"})
    shutil.rmtree(vfs.layer(image_id))
    graph(vfs, "tar", image_id, "-o", tmp_path / "out.tar", code=3)
    assert [path.name for path in tmp_path.iterdir()] == ["docker"]
    other = vfs.image({"f": b"12345"})
    graph(vfs, "tar", other, "-o", tmp_path / "nowhere/out.tar", code=4)
    (tmp_path / "directory").mkdir()
    graph(vfs, "tar", other, "-o", tmp_path / "directory", code=4)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["directory", "docker"]


def test_tar_is_not_for_a_terminal(vfs: GraphBuilder) -> None:
    image_id = vfs.image({"f": b"12345"})
    controller, terminal = pty.openpty()
    try:
        ended = as_bytes("tar", vfs.root, image_id, stdout=terminal, stderr=subprocess.PIPE)
    finally:
        os.close(terminal)
        os.close(controller)
    assert ended.returncode == 2
    assert b"-o" in ended.stderr


def test_tar_to_a_reader_that_goes(vfs: GraphBuilder) -> None:
    image_id = vfs.image({"f": b"12345" * 1_000_000})
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ended = as_bytes("tar", vfs.root, image_id, stdout=writer, stderr=subprocess.PIPE)
    finally:
        os.close(writer)
    assert (ended.returncode, ended.stderr) == (1, b"")


@pytest.mark.parametrize("jobs", [(), ("--jobs", "1"), ("--jobs", "3")])
def test_verify_of_a_whole_store(store: GraphBuilder, jobs: tuple[str, ...]) -> None:
    base = store.image({"a": b"x"}, names=["base:1"])
    for number in range(5):
        store.image({f"b{number}": b"y"}, base)
    out = graph(store, "verify", *jobs).out
    assert out.startswith("6 images, ")
    assert "nothing damaged" in out
    assert ("6 without a record" in out) == (store.driver is None)
    [document] = graph(store, "verify", "--json", *jobs).documents
    assert (document["images"], document["damaged"]) == (6, [])
    assert document["not_recorded"] == (6 if store.driver is None else 0)
    assert document["bytes"] > 6 * 1024


def test_verify_names_all_that_is_damaged(vfs: GraphBuilder) -> None:
    good = vfs.image({"f": b"12345"}, names=["good:1"])
    changed = vfs.image({"f": b"12345"})
    (vfs.layer(changed) / "f").write_bytes(b"other")
    broken = vfs.image(raw=b"{")
    above = vfs.image({"f": b"12345"}, raw=usual_json("", None, {"parent": broken}))
    vfs.name("gone:1", "e" * 64)
    ended = graph(vfs, "verify", code=5)
    found = [line for line in ended.out.splitlines() if line.startswith("DAMAGED: ")]
    assert len(found) == 4
    assert "3 images, " in ended.out
    assert "4 DAMAGED" in ended.out
    assert "what to do" in ended.out
    [document] = graph(vfs, "verify", "--json", code=5).documents
    assert {problem["subject"] for problem in document["damaged"]} == {changed, broken, above, "gone:1"}
    assert all(problem["message"] and problem["remedy"] for problem in document["damaged"])
    assert good not in ended.out


@pytest.mark.parametrize("jobs", ["0", "-1", "x", "100000"])
def test_numbers_of_jobs_that_cannot_be(vfs: GraphBuilder, jobs: str) -> None:
    graph(vfs, "verify", "--jobs", jobs, code=2)


@pytest.mark.parametrize("action", ["ls", "heads", "verify"])
def test_no_store(tmp_path: Path, action: str) -> None:
    assert command("graph", action, tmp_path).code == 3
    assert command("graph", action, tmp_path / "nowhere").code == 3
    ended = command("graph", action, tmp_path, "--json")
    assert ended.report["error"] == "SourceMissing"


def test_another_driver(vfs: GraphBuilder) -> None:
    image_id = vfs.image(names=["app:1"])
    (vfs.root / "overlay" / image_id / "root").mkdir(parents=True)
    assert graph(vfs, "ls", "--json").documents[0]["driver"] == "overlay"
    [document] = graph(vfs, "ls", "--driver", "vfs", "--json").documents
    assert (document["driver"], document["images"][0]["names"]) == ("vfs", ["app:1"])
    assert "aufs" in graph(vfs, "ls", "--driver", "aufs", code=3).err
    graph(vfs, "ls", "--driver", "../x", code=3)


def test_untrusted_text_does_not_reach_the_terminal(vfs: GraphBuilder) -> None:
    image_id = vfs.image(comment="\x1b]0;title\x07\u202e\n", os="\x9b2J", names=["app:1"])
    vfs.name("\x1b[2J:1", image_id)
    for action, *arguments in (["ls"], ["heads"], ["show", image_id], ["verify"]):
        graph(vfs, action, *arguments, code=5 if action == "verify" else 0)


def test_who_is_not_root_may_look_at_what_can_be_read(
    vfs: GraphBuilder,
    as_root: None,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image_id = vfs.image({"f": b"12345"}, names=["app:1"])
    secret = vfs.image()
    for path in (vfs.root, *vfs.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (vfs.directory(secret) / "json").chmod(0)
    monkeypatch.chdir(vfs.root)  # what is above it is closed to others
    os.seteuid(65534)
    try:
        shown = command("graph", "show", ".", image_id, "--json").report
        listed = command("graph", "ls", ".", "--json").report
        verified = command("graph", "verify", ".", "--json")
    finally:
        os.seteuid(0)
    assert (shown["id"], shown["names"]) == (image_id, ["app:1"])
    assert ([each["id"] for each in listed["images"]], listed["damaged"]) == ([image_id], [secret])
    assert verified.code == 5
    assert [each["subject"] for each in verified.report["damaged"]] == [secret]


def test_json_is_one_line(vfs: GraphBuilder) -> None:
    vfs.image(author="\u2028\n")
    for action in ("ls", "verify"):
        assert json.loads(graph(vfs, action, "--json").out)
