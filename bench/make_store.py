"""Builds a Docker store to measure on, with a real dockerd: six layers, 120,000 files, about 1.5 GB, reproducible content.

    python bench/make_store.py DIRECTORY

leaves ``DIRECTORY/root``, the data root of a stopped daemon (driver overlay2). Needs root and dockerd.
"""

from __future__ import annotations

import argparse
import io
import random
import subprocess
import sys
import tarfile
import time
from pathlib import Path

LAYERS = 6
FILES_PER_LAYER = 20_000
MEAN_LOG_SIZE = 7.9  # natural logarithm of bytes; with the deviation below like /usr of a Debian with Python and Node.js
DEVIATION = 1.45
LARGE_FILE = 160 << 20
SHARED_OBJECTS_PER_LAYER = 12


def main() -> int:
    """Build the store named on the command line; return 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path)
    directory: Path = parser.parse_args().directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    context = directory / "context"
    context.mkdir()
    words = vocabulary()
    for number in range(LAYERS):
        write_layer(context / f"layer{number}.tar", number, words)
    daemon, socket = start_dockerd(directory)
    try:
        docker = ["docker", "-H", f"unix://{socket}"]
        subprocess.run([*docker, "import", str(context / "layer0.tar"), "bench:base"], check=True, stdout=subprocess.DEVNULL)
        adds = "\n".join(f"ADD layer{number}.tar /" for number in range(1, LAYERS))
        (context / "Dockerfile").write_text(f"FROM bench:base\n{adds}\n")
        subprocess.run(
            [*docker, "build", "-q", "--network", "none", "-t", "bench:1", str(context)],
            check=True,
            env={"DOCKER_BUILDKIT": "0", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        )
    finally:
        daemon.terminate()
        daemon.wait()
    subprocess.run(["rm", "-rf", str(context)], check=True)
    return 0


def vocabulary() -> list[bytes]:
    """Return 4,000 made-up words, from which text compresses about as well as source code does."""
    source = random.Random(7)  # noqa: S311 - reproducible content, not a secret
    letters = b"etaoinshrdlucmfwypvbgkjqxz_(){}=.,;:"
    return [bytes(source.choices(letters, k=source.randint(2, 11))) for _ in range(4000)]


def write_layer(path: Path, number: int, words: list[bytes]) -> None:
    """Write one layer as a tar: small text files, shared objects that compress badly, a large file in the last."""
    source = random.Random(number)  # noqa: S311
    text = b" ".join(source.choices(words, k=1_500_000))
    noise = source.randbytes(8 << 20)
    with tarfile.open(path, "w") as archive:
        for index in range(FILES_PER_LAYER):
            size = min(int(source.lognormvariate(MEAN_LOG_SIZE, DEVIATION)), 3 << 20)
            start = source.randrange(len(text) - size)
            add(
                archive,
                f"srv/layer{number}/d{index // 800:02}/s{index // 40 % 20:02}/file{index}.txt",
                text[start : start + size],
            )
        for index in range(SHARED_OBJECTS_PER_LAYER):
            mixed = bytearray()
            while len(mixed) < 4 << 20:
                start = source.randrange(len(noise) - 8192)
                mixed += noise[start : start + 3000]
                start = source.randrange(len(text) - 8192)
                mixed += text[start : start + 5000]
            add(archive, f"srv/layer{number}/lib/lib{index}.so", bytes(mixed))
        if number == LAYERS - 1:
            add(archive, "srv/large.bin", (noise + text) * (LARGE_FILE // (len(noise) + len(text)) + 1))


def add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    """Append one file to ``archive``."""
    member = tarfile.TarInfo(name)
    member.size = len(data)
    member.mtime = 1_500_000_000
    archive.addfile(member, io.BytesIO(data))


def start_dockerd(directory: Path) -> tuple[subprocess.Popen[bytes], Path]:
    """Start a private dockerd below ``directory``; return it and its socket once it answers. Raises RuntimeError."""
    socket = directory / "docker.sock"
    log = (directory / "dockerd.log").open("wb")
    daemon = subprocess.Popen(
        ["dockerd", "--data-root", str(directory / "root"), "--exec-root", str(directory / "exec"), "-H", f"unix://{socket}",
         "-p", str(directory / "docker.pid"), "--iptables=false", "--ip6tables=false", "--bridge=none", "-s", "overlay2"],
        stdout=log,
        stderr=log,
    )  # fmt: skip
    for _ in range(300):
        if daemon.poll() is not None:
            break
        if subprocess.run(["docker", "-H", f"unix://{socket}", "info"], check=False, capture_output=True).returncode == 0:
            return daemon, socket
        time.sleep(0.1)
    raise RuntimeError(f"dockerd did not come up; see {directory / 'dockerd.log'}")


if __name__ == "__main__":
    sys.exit(main())
