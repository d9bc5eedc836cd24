"""This package as users have it: built as a wheel from a clean copy, and installed."""

import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tests.support.command import ROOT

PATIENCE = 240
QUIET = ("--quiet", "--disable-pip-version-check", "--no-deps", "--no-index")


def clean_copy(folder: Path) -> Path:
    """What a wheel is built of, in a new ``folder``: building walks through all that lies there, and leaves files."""
    shutil.copytree(ROOT / "streamtrain", folder / "streamtrain", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def build_wheel(folder: Path) -> Path:
    """The wheel, built in ``folder``, which need not be empty."""
    copy = clean_copy(folder / "copy")
    _pip("wheel", *QUIET, "--no-build-isolation", f"--wheel-dir={folder}", str(copy))
    (built,) = folder.glob("streamtrain-*.whl")
    return built


def install_in_folder(wheel: Path, folder: Path) -> None:
    _pip("install", *QUIET, f"--target={folder}", str(wheel))


def install_in_new_environment(wheel: Path, folder: Path) -> Path:
    """The Python of an environment in ``folder`` that has the wheel, and of this one all but this checkout."""
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    place = "import sysconfig; print(sysconfig.get_path('purelib'))"
    own = Path(subprocess.run([python, "-c", place], capture_output=True, text=True, check=True).stdout.strip())
    # files named *.pth there, of which one leads to this checkout, are not read: only those in an environment's own are
    (own / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install_in_folder(wheel, own)
    return python


def _pip(*words: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
