"""File systems of their own, on loop devices: small ones, and ones whose power can be cut."""

from __future__ import annotations

import fcntl
import os
import struct
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

SHUTDOWN = 0x8004587D
"""_IOR('X', 125, __u32): EXT4_IOC_SHUTDOWN and XFS_IOC_GOINGDOWN alike (Linux ``fs/ext4/ext4.h``, ``fs/xfs/xfs_fs.h``)."""
WITHOUT_LOG = 2
"""What is not on the disk yet, the log too, is lost, as when the power fails."""


class Disk:
    """A file system of ``size`` bytes, made with mkfs' ``options``, mounted on ``path`` inside a ``with`` block."""

    def __init__(self, directory: Path, kind: str, size: int, *options: str) -> None:
        self.image = directory / "disk"
        self.path = directory / "mnt"
        self.path.mkdir()
        with self.image.open("wb") as file:
            file.truncate(size)
        subprocess.run([f"mkfs.{kind}", "-q", *options, str(self.image)], check=True)

    def __enter__(self) -> Disk:
        self.mount()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self.unmount()
        except AssertionError:
            subprocess.run(["umount", "--lazy", str(self.path)], check=True)
            raise

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.path)], check=True)

    def unmount(self, seconds: float = 30) -> None:
        """Unmount it once those who used it have gone."""
        end = time.monotonic() + seconds
        while (ended := subprocess.run(["umount", str(self.path)], check=False, capture_output=True)).returncode != 0:
            assert time.monotonic() < end, ended.stderr
            time.sleep(0.05)
        while subprocess.run(["losetup", "--associated", str(self.image)], check=True, capture_output=True).stdout:
            if time.monotonic() > end:
                raise RuntimeError(f"{self.image} is mounted somewhere else, too")
            time.sleep(0.05)

    def cut_power(self) -> None:
        """Take it away from whoever is writing to it."""
        descriptor = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, SHUTDOWN, struct.pack("I", WITHOUT_LOG))
        finally:
            os.close(descriptor)

    def fill(self, free: int) -> None:
        """Take up all but ``free`` bytes; ``empty`` gives them back."""
        status = os.statvfs(self.path)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - free)

    def empty(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.path / "ballast"

    def grow(self, size: int) -> None:
        """Make an ext4 larger, whom nobody may use meanwhile."""
        self.unmount()
        with self.image.open("r+b") as file:
            file.truncate(size)
        subprocess.run(["e2fsck", "-fp", str(self.image)], check=True, capture_output=True)
        subprocess.run(["resize2fs", str(self.image)], check=True, capture_output=True)
        self.mount()
