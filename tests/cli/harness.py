"""The command line, run on stores of one's own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import structlog

from tests.stores.docker.builder import StoreBuilder
from transship.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def documents(self) -> list[dict[str, Any]]:
        """Standard output as JSON, an object a line; nothing else may be in it."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def report(self) -> dict[str, Any]:
        """The last object."""
        return self.documents[-1]

    @property
    def all(self) -> str:
        return self.out + self.err


def command(*arguments: object) -> Ended:
    """Run the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as ended:  # argparse's way to end
            code = int(ended.code or 0)
        finally:
            structlog.reset_defaults()  # the command sets up logs for the whole process
    return Ended(int(code), out.getvalue(), err.getvalue())


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start the command as a process of its own, its output connected."""
    return subprocess.Popen(
        [sys.executable, "-m", "transship", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        **options,
    )


@dataclass
class Journey:
    """From a source to an OCI layout, with a state directory; nothing but the source need be there."""

    source: Path
    layout: Path
    state: Path

    @property
    def ends(self) -> list[str]:
        return ["--source", str(self.source), "--target", f"oci:{self.layout}", "--state-dir", str(self.state)]

    def run(self, name: str, *arguments: object) -> Ended:
        """Run ``plan``, ``migrate`` or ``verify``."""
        return command(name, *self.ends, *arguments)

    def migrate(self, *arguments: object) -> Ended:
        return self.run("migrate", "--json", *arguments)

    def rollback(self, *arguments: object) -> Ended:
        return command("rollback", "--json", "--state-dir", self.state, *arguments)

    def names(self) -> dict[str, str]:
        """Names in the layout, and the digests that they stand for."""
        if not (self.layout / "index.json").exists():
            return {}
        index = json.loads((self.layout / "index.json").read_bytes())
        return {each["annotations"]["io.containerd.image.name"]: each["digest"] for each in index["manifests"]}

    def blob(self, digest: str) -> Path:
        return self.layout / "blobs/sha256" / digest.removeprefix("sha256:")

    def document(self, digest: str) -> Any:
        return json.loads(self.blob(digest).read_bytes())

    def image_ids(self) -> dict[str, str]:
        """Names in the layout, and the image IDs that they lead to."""
        return {name: self.document(digest)["config"]["digest"] for name, digest in self.names().items()}

    def ensure_consistent(self, *, unfinished: bool = False) -> None:
        """Nothing on its way in was left behind, and every name leads to blobs that are there.

        An ``unfinished`` run may leave the list of what it has stored.
        """
        if not self.layout.exists():
            return
        found = {path.name for path in self.layout.iterdir()}
        lists = {name for name in found if unfinished and name.startswith(".stored-by-")}
        assert found - lists <= {"oci-layout", "index.json", "blobs"}
        for digest in self.names().values():
            manifest = self.document(digest)
            for descriptor in [manifest["config"], *manifest["layers"]]:
                assert self.blob(descriptor["digest"]).stat().st_size == descriptor["size"]


HUB = "docker.io/library"


class Sample(Journey):
    """A store with an image of two layers, the image that it was built from, one of its own, and one without a name."""

    def __init__(self, place: Path, driver: str = "overlay2") -> None:
        super().__init__(place / "docker", place / "layout", place / "state")
        self.builder = builder = StoreBuilder(self.source, driver)
        self.base = builder.add_layer({"bin/": None, "bin/sh": b"shell" * 1000})
        self.top = builder.add_layer({"app": b"application"}, self.base)
        self.other_layer = builder.add_layer({"x": b"other"})
        self.low = builder.add_image(self.base, "low:1")
        self.high = builder.add_image(self.top, "high:1", "high:latest", parent=self.low)
        self.other = builder.add_image(self.other_layer, "other:1")
        self.nameless = builder.add_image(self.other_layer, config={"comment": "no name"})

    @property
    def expected(self) -> dict[str, str]:
        """The names that all of it has, without the one of the nameless image, and the image IDs behind them."""
        return {
            f"{HUB}/low:1": self.low,
            f"{HUB}/high:1": self.high,
            f"{HUB}/high:latest": self.high,
            f"{HUB}/other:1": self.other,
        }


def snapshot(directory: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory: path to content, link target, or None for a directory."""
    return dict(_walk(directory, "")) if directory.exists() else {}


def _walk(directory: Path, name: str) -> Iterator[tuple[str, bytes | str | None]]:
    for path in sorted(directory.iterdir()):
        below = f"{name}/{path.name}"
        if path.is_symlink():
            yield below, str(path.readlink())
        elif path.is_dir():
            yield below, None
            yield from _walk(path, below)
        else:
            yield below, path.read_bytes() if path.is_file() else "special"
