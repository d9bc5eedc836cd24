"""A disk of two megabytes, or as many as asked for, which can be filled to the last byte."""

import contextlib
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class SmallDisk:
    """Mounted on ``folder``."""

    folder: Path

    def fill(self, room: int = 0) -> None:
        """Leaves so many bytes, in whole pages."""
        with (self.folder / "filler").open("ab", buffering=0) as filler, contextlib.suppress(OSError):
            while filler.write(bytes(4096)):
                pass
        with (self.folder / "filler").open("r+b") as filler:
            filler.truncate(max(0, (self.folder / "filler").stat().st_size - room))

    def free(self) -> None:
        """Makes room again."""
        (self.folder / "filler").unlink(missing_ok=True)


@contextlib.contextmanager
def small_disk(folder: Path, size: int = 2 << 20) -> Iterator[SmallDisk]:
    """Of so many bytes; skips where nothing can be mounted."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"only root can mount a small disk: {mounted.stderr.decode().strip()}")
    try:
        yield SmallDisk(folder)
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
