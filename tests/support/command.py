"""The command `streamtrain` as a user's shell runs it."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def streamtrain(*words: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """Runs it in ``folder``, from this checkout; what it printed and its exit code."""
    return subprocess.run(
        [sys.executable, "-m", "streamtrain", *words],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
