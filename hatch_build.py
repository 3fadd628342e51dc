"""Makes the modules of containerd's API (``*_pb2.py``, ``*_pb2.pyi``) from the ``.proto`` files beside them.

Runs as part of every build, of wheels and of editable installs; by hand: ``python hatch_build.py``.
"""

from __future__ import annotations

from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from grpc_tools import protoc
from hatchling.builders.hooks.plugin.interface import BuildHookInterface

API = Path("src/transship/stores/containerd/api")


def generate(root: Path) -> None:
    """Write a module and its types next to each .proto file below ``root``, the directory of pyproject.toml.

    Raises RuntimeError if protoc does not like a file; it has said why on standard error.
    """
    source = root / "src"
    protos = sorted(str(path.relative_to(source)) for path in (root / API).glob("*.proto"))
    with as_file(files("grpc_tools") / "_proto") as well_known:
        # Imported from the root of the packages, so that our types.proto does not become a module called types.
        arguments = [f"-I{source}", f"-I{well_known}", f"--python_out={source}", f"--pyi_out={source}", *protos]
        status = protoc.main(["protoc", *arguments])
    if status != 0:
        raise RuntimeError(f"protoc failed with status {status} for the files in {root / API}")


class ApiModules(BuildHookInterface[Any]):
    """Hatchling calls ``initialize`` before it collects the files of a wheel, editable or not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002
        """Generate the modules into the source tree; pyproject.toml lists them as artifacts."""
        generate(Path(self.root))


if __name__ == "__main__":
    generate(Path(__file__).resolve().parent)
