"""The command from its first moment to its exit code: what the README's table says of it."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import streamtrain
from streamtrain import errors
from streamtrain.cli import command as cli
from tests.support.command import ROOT

INTERRUPTED = """
import os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell runs in its background ignores it

class Finder:
    def find_spec(self, name, *_):
        if name == sys.argv[-1]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder())
import runpy
runpy.run_module("streamtrain", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("name", ["streamtrain.cli.command", "streamtrain.errors", "streamtrain.cli.flags", "tyro"])
def test_ctrl_c_is_no_traceback_however_early(name: str, tmp_path: Path) -> None:
    """While this module is loaded."""
    command = [sys.executable, "-c", INTERRUPTED, "inspect", name]
    done = subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode in (130, -signal.SIGINT), "which shells call 130"
    assert done.stderr in ("", "streamtrain inspect: interrupted; nothing was changed\n")


def codes_of(text: str) -> set[int]:
    return {int(code) for code in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}


def test_the_readme_has_every_exit_code(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    raised = {kind.exit_code: kind for kind in kinds if kind is not errors.StreamtrainError}  # type: ignore[attr-defined]
    table = codes_of((ROOT / "README.md").read_text())
    assert table == {0, *raised, 130}
    assert {int(code) for code in re.findall(r"(?:^|; |: )(\d+) ", str(cli.__doc__), re.MULTILINE)} == table
    for code, kind in raised.items():

        def fails(_: object, kind: type[Exception] = kind) -> None:
            raise kind(*(0, 1.0, 1.0, 1.0) if kind is errors.NonFiniteError else ("said in one line",))

        monkeypatch.setattr(cli, "command_named", lambda _, fails=fails: fails)
        with pytest.raises(SystemExit) as ended:
            cli.main(["train"])
        assert ended.value.code == code and len(capsys.readouterr().err.splitlines()) == 1


def test_the_states_that_the_readme_names_are_those_of_runs_and_jobs() -> None:
    from ray.job_submission import JobStatus

    (line,) = re.findall(r"`streamtrain status` calls a run .*", (ROOT / "README.md").read_text())
    assert {each.value for each in JobStatus} == set(re.findall("`([A-Z]+)`", line))
    assert set(re.findall("`([a-z]+)`", line)) == {"running", "finished", "stopped"}


def test_public_names_are_there_when_they_are_asked_for() -> None:
    asked = (
        "import sys, streamtrain; assert 'streamtrain.job' not in sys.modules; streamtrain.Job; streamtrain.DataError"
    )
    assert subprocess.run([sys.executable, "-c", asked], cwd=ROOT).returncode == 0
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        streamtrain.nothing  # noqa: B018


@pytest.mark.parametrize(
    "words",
    ["pack LONG d", "inspect LONG", "train LONG.py", "probe LONG", "evaluate LONG d", "compare LONG LONG", "sync LONG"],
)
def test_a_path_that_cannot_be_is_one_line(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Longer than any system takes; the system's other refusals of a path go the same way."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        cli.main(words.replace("LONG", "x" * 300).split())
    said = capsys.readouterr().err
    assert ended.value.code == 2 and len(said.splitlines()) == 1
    assert "xxx" in said and "found File name too long; check the path" in said
