"""Commands as a user without rights: as nobody, where the tests are root's; else they are one's own already."""

import contextlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import ROOT

NOBODY = 65534


@dataclass(frozen=True)
class User:
    """A user, and the only folder that is the user's own; it is also where commands run."""

    folder: Path
    python: str

    def own(self) -> None:
        """Gives the user what was put into the folder."""
        if os.getuid() == 0:
            for place in (self.folder, *self.folder.rglob("*")):
                os.chown(place, NOBODY, NOBODY, follow_symlinks=False)

    def command(self, *words: str) -> list[str]:
        """Of `streamtrain`."""
        return [*_prefix(), self.python, "-m", "streamtrain", *words]

    @property
    def environment(self) -> dict[str, str]:
        """Whose home and temporary files are in the folder."""
        own = {"HOME": str(self.folder), "TMPDIR": str(self.folder), "RAY_TMPDIR": str(self.folder)}
        others = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "MLFLOW_"))}
        return {**others, **own, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}

    def run(self, *words: str) -> str:
        """What a command prints that ends well."""
        streams: dict[str, Any] = {"capture_output": True, "text": True}
        done = subprocess.run(self.command(*words), cwd=self.folder, env=self.environment, **streams)
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


@contextlib.contextmanager
def unprivileged() -> Iterator[User]:
    """Skips where nobody may not read the library."""
    folder = Path(tempfile.mkdtemp(prefix="user-", dir="/tmp"))  # not pytest's, which is closed to others
    try:
        user = User(folder, sys.executable)
        if os.getuid() == 0:
            user = User(folder, _reachable_python(folder / "environment"))
            user.own()
            asked = [*_prefix(), user.python, "-c", "import streamtrain, tyro"]
            if subprocess.run(asked, cwd=folder, env=user.environment, capture_output=True).returncode:
                pytest.skip("nobody may not read this Python's library")
        yield user
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _prefix() -> list[str]:
    if os.getuid():
        return []
    return ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "--inh-caps=-all"]


def _reachable_python(folder: Path) -> str:
    """A copy of the interpreter, which may lie in a folder of root's, with this environment's packages."""
    subprocess.run([sys.executable, "-m", "venv", "--copies", "--without-pip", str(folder)], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    (packages / "these.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return str(folder / "bin" / "python")
