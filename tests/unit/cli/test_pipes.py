"""``| head``: a reader that leaves early stops no command, and no traceback says that it left."""

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import streamtrain as st
from tests.support.command import ROOT
from tests.support.datasets import digits, pack_digits, save_digits
from tests.support.foreign import write_digits
from tests.support.leftovers import PATIENCE

SORTED = np.argsort(digits(400)[1], kind="stable").tolist()


def run_unread(folder: Path, *words: str, both: bool = False) -> tuple[int, str]:
    """The command with standard output, or both, into a pipe that nobody reads; its exit code and what it said."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "streamtrain", *words],
            cwd=folder,
            stdout=writing,
            stderr=writing if both else subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr or ""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("user")
    pack_digits(folder / "packed")
    save_digits(folder / "more.npz", 50)
    write_digits(folder / "sorted", SORTED)
    (folder / "job.py").write_text("import streamtrain as st\n")
    return folder


COMMANDS = {
    "help": (("--help",), 0),
    "version": (("--version",), 0),
    "a command's help": (("pack", "--help"), 0),
    "train's help": (("train",), 2),
    "pack": (("pack", "more.npz", "into"), 0),
    "inspect": (("inspect", "packed"), 0),
    "inspect as JSON": (("inspect", "packed", "--json", "--verify"), 0),
    "an audit that finds something": (("inspect", "sorted", "--audit"), 3),
    "lint": (("inspect", "packed", "--lint"), 0),
    "status": (("status",), 0),
    "sync": (("sync",), 0),
    "a wrong flag": (("pack", "--nonsense"), 2),
    "a job file without a job": (("train", "job.py"), 2),
    "no such run": (("compare", "none", "neither"), 2),
}


@pytest.mark.parametrize("both", [False, True], ids=["output", "both"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_nobody_reads_ends_as_one_that_is_read(
    folder: Path, tmp_path: Path, name: str, both: bool
) -> None:
    words, code = COMMANDS[name]
    words = tuple(str(tmp_path / "into") if word == "into" else word for word in words)
    ended, said = run_unread(folder, *words, both=both)
    assert ended == code, said
    assert "BrokenPipe" not in said and "Traceback" not in said
    if name == "pack":
        assert len(st.open(tmp_path / "into")) == 40


def test_a_long_listing_into_head(folder: Path) -> None:
    """More than a pipe holds, so that the reader leaves in the middle of it."""
    command = (
        f"{sys.executable} -m streamtrain inspect packed --json --example 0777 | head -n 1; echo ${{PIPESTATUS[0]}}"
    )
    done = subprocess.run(["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True)
    assert done.stdout == "{\n0\n" and not done.stderr


SPEAKING = """
import sys
from streamtrain.cli.pipes import survive_closed_pipes

survive_closed_pipes()
for stream in (sys.stdout, sys.stderr):
    stream.write("half a line")
    sys.stdin.readline()
"""


def test_what_python_is_to_write_at_once_is_written_at_once() -> None:
    """PYTHONUNBUFFERED, as images of containers set it: each text is there before the next is asked for."""
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-c", SPEAKING], **pipes, cwd=ROOT, env=unbuffered) as process:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        for stream in (process.stdout, process.stderr):
            ready, _, _ = select.select([stream], [], [], PATIENCE)
            told = os.read(stream.fileno(), 100) if ready else b"nothing"
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert told == b"half a line"
    assert process.returncode == 0


COUNTING = """
import signal, sys
from streamtrain.cli.pipes import survive_closed_pipes

def interrupt(*_):
    global printing
    if printing:
        printing = False  # once: the next may come before the loop has gone on
        raise KeyboardInterrupt

printing = False
survive_closed_pipes()
signal.signal(signal.SIGINT, interrupt)
for number in range(3000):
    try:
        printing = True
        print(f"<{number}>", flush=True)
        printing = False
    except KeyboardInterrupt:
        pass
signal.signal(signal.SIGINT, signal.SIG_IGN)  # the end of the process is not what is tested
"""


def test_a_line_whose_printing_is_interrupted_is_printed_once() -> None:
    """Who reads it sends Ctrl-C, which may come before the write has returned."""
    process = subprocess.Popen([sys.executable, "-c", COUNTING], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert process.stdout is not None
    lines = list[str]()
    for line in process.stdout:
        lines.append(line)
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
    assert process.wait() == 0
    printed = "".join(lines).split("<")[1:]  # an interrupt before a line's end leaves two numbers on one
    assert len(printed) > 100 and len({each.strip() for each in printed}) == len(printed)
