"""What lies in a cache folder, seen from outside."""

import contextlib
import fcntl
from pathlib import Path


def bytes_in(folder: Path) -> int:
    """Bytes of all files in a cache, while nobody adds any: those of unfinished files too."""
    total = 0
    with (folder / "counting").open("ab") as opened:
        fcntl.flock(opened, fcntl.LOCK_EX)
        for file in list(folder.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                total += file.stat().st_size
    return total


def leftovers(folder: Path) -> list[str]:
    """Names of the files that are no finished entries."""
    return sorted(file.name for file in folder.iterdir() if len(file.name) != 64)
