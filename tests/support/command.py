"""The command `streamtrain` as a user's shell runs it."""

import multiprocessing
import os
import subprocess
import sys
import tempfile
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


def streamtrain_forked(*words: str, folder: Path = ROOT) -> "subprocess.CompletedProcess[str]":
    """The same by a process out of a server that has the command's modules: for what begins no run.

    A process of its own, with its own folder, output and exit code; it only has no interpreter to start.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["streamtrain.cli.run_commands", "streamtrain.cli.dataset_commands", __name__])
    with tempfile.TemporaryDirectory() as kept:
        out, error = Path(kept) / "out", Path(kept) / "error"
        process = context.Process(target=_command, args=(words, folder, out, error))
        process.start()
        process.join()
        assert process.exitcode is not None
        return subprocess.CompletedProcess(words, process.exitcode, out.read_text(), error.read_text())


def _command(words: tuple[str, ...], folder: Path, out: Path, error: Path) -> None:
    from streamtrain.cli.command import main

    for number, file in ((1, out), (2, error)):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    sys.argv = ["streamtrain", *words]
    main()
