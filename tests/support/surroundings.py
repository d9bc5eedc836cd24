"""Commands of `streamtrain` in surroundings that lack something: limits, mounts, users, namespaces."""

import contextlib
import os
import shlex
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from tests.support.command import ROOT

WITHOUT = ("HOME", "USER", "LOGNAME", "TMPDIR", "RAY_TMPDIR", "XDG_CACHE_HOME", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
MARKER = "STREAMTRAIN_TEST"
"""Of the environment: its value is in all processes that a command starts."""
JOB = """
import torch, streamtrain as st
job = st.Job(data=st.Data("d", inputs=("x",)), model=lambda: torch.nn.Linear(4, 3), mode=st.Epochs(max_passes=1),
             batch_size=20)
"""


@dataclass(frozen=True)
class Surroundings:
    """What a shell does before it starts the command.

    Attributes:
        name: for people.
        before: shell words, e.g. ``ulimit -n 64;``; ``$PWD`` is a folder of the test's own.
        prefix: words of a command that starts the command: a namespace, a user.
        variables: of the environment.
        lacks: what the refusal names; empty where the command works.
        words: the command.
        after: the end of the shell's line: redirections.
    """

    name: str
    before: str = ""
    prefix: str = ""
    variables: dict[str, str] = field(default_factory=dict)
    lacks: str = ""
    words: str = "train j.py"
    after: str = ""

    def run(self, folder: Path, marker: str) -> "subprocess.CompletedProcess[str]":
        """What the command says in ``folder``, and its exit code."""
        others = {name: value for name, value in os.environ.items() if name not in WITHOUT}
        home = {"HOME": str(folder), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", MARKER: marker}
        named = {
            **others,
            **home,
            **{name: value.replace("$PWD", str(folder)) for name, value in self.variables.items()},
        }
        environment = {name: value for name, value in named.items() if value != "unset"}
        command = f"exec {shlex.quote(sys.executable)} -m streamtrain {self.words} {self.after}"
        inner = f"{self.before} {command}"
        line = f"{self.prefix} bash -c {shlex.quote(inner)}" if self.prefix else inner
        return subprocess.run(
            ["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )


def processes_of(marker: str) -> list[str]:
    """Command lines of the living processes with a marker in their environment."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.environ().get(MARKER) == marker and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline())[:100])
    return found


@contextlib.contextmanager
def control_group(controller: str, **settings: str) -> Iterator[Path]:
    """A control group of version 1 with these settings; skips where none can be made."""
    group = Path("/sys/fs/cgroup") / controller / f"streamtrain-{uuid.uuid4().hex[:8]}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")
    try:
        for name, value in settings.items():
            (group / name.replace("__", ".")).write_text(value)
        yield group
    finally:
        group.rmdir()
