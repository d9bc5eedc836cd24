"""Another Debian in a folder: for a Python that this machine has not, or for another kind of processor.

As root, with debootstrap; for arm64 also with qemu-user-static and binfmt-support, by which the kernel runs its
programs.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

MIRROR = "http://deb.debian.org/debian"
CERTIFICATES = "etc/ssl/certs/ca-certificates.crt"
MOUNTS = """
set -e
mount --rbind /proc "$TREE/proc"
mount --rbind /sys "$TREE/sys"
mount --rbind /dev "$TREE/dev"
mkdir -p "$TREE/$SHARED"
mount --rbind "$SHARED" "$TREE/$SHARED"
exec chroot "$TREE" "$@"
"""


class Debian:
    """A release for a kind of processor, with its Python, in ``folder``; made at first sight.

    Its programs see ``shared`` at the same path as outside.

    Raises:
        RuntimeError: this machine cannot make one; says what it lacks.
    """

    def __init__(self, folder: Path, release: str, shared: Path, *, processor: str = "") -> None:
        lacking = [tool for tool in ("debootstrap", "chroot", "unshare") if not shutil.which(tool)]
        if processor and not Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists():
            lacking.append("qemu-user-static with binfmt-support, and binfmt_misc mounted")
        if os.geteuid() or lacking:
            raise RuntimeError(f"Debian {release} needs root, and {', '.join(lacking) or 'nothing else'}")
        self._folder = folder
        self._shared = shared
        if not (folder / "ready").exists():
            self._make(release, processor)

    def run(
        self, words: Sequence[object], environment: Mapping[str, str], **how: Any
    ) -> subprocess.CompletedProcess[str]:
        """Runs a command in it; whatever is mounted for that is gone when it ends."""
        variables = [f"{name}={value}" for name, value in environment.items()]
        command = ["unshare", "--mount", "sh", "-c", MOUNTS, "sh", "env", "-C", self._shared, *variables, *words]
        places = {**os.environ, "TREE": str(self._folder), "SHARED": str(self._shared)}
        return subprocess.run([str(word) for word in command], env=places, text=True, check=False, **how)

    def _make(self, release: str, processor: str) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        scripts = Path("/usr/share/debootstrap/scripts")
        script = [] if (scripts / release).exists() else [str(scripts / "sid")]  # newer than this debootstrap
        kind = [f"--arch={processor}"] if processor else []
        with tempfile.TemporaryFile("w+") as log:
            done = subprocess.run(
                ["debootstrap", *kind, "--variant=minbase", "--include=python3,python3-venv,ca-certificates,git,procps",
                 release, self._folder, MIRROR, *script],
                stdout=log, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            log.seek(0)
            if done.returncode:
                raise RuntimeError(f"Debian {release} was not to be had: {log.read()[-500:]}")
        for file in (CERTIFICATES, "etc/resolv.conf", "etc/hosts"):
            shutil.copy(Path("/") / file, self._folder / file)
        (self._folder / "ready").touch()
