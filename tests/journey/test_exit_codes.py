"""The README's table of exit codes, line by line, each by real processes as a user's shell runs them.

Inline where other files hold the same code over Ray: 0 (test_command_line) and 6 (test_leaving).
"""

import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from tests.support.command import ROOT, streamtrain, streamtrain_forked
from tests.support.datasets import digits, save_digits
from tests.support.foreign import write_digits, write_tar
from tests.support.servers import free_port

TABLE = {
    0: "done",
    2: "a wrong flag, setting or job file; nothing began",
    3: "bad data, or a store that does not give it; also what `inspect --audit` and `--lint` found",
    4: "a run that began and could not go on, or a cluster that refused",
    5: "MLflow has not taken everything: `streamtrain sync` later",
    6: "stopped by SIGTERM: `--resume` goes on",
    130: "Ctrl-C",
}
"""As tested below: who changes a line of the README's looks at its test too."""
JOB = """
import torch
import streamtrain as st

def model():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float() / 255}

job = st.Job(
    st.Data("packed", transform=scaled), model, mode=st.Epochs(max_passes=2), batch_size=32,
    tracking=st.Tracking(uri="sqlite:///mlflow.db", log_model=False),
)
"""
SQUARES = """
def squares(output, target):
    return 1e12 * output.square().sum(1)

job = st.Job("""
DIVERGING = JOB.replace("job = st.Job(", SQUARES).replace("batch_size=32,", "batch_size=32, loss=squares,")
BROKEN = JOB.replace("Linear(64, 10)", "Linear(64, 3)")
SECONDS = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """What a user has: data, packed and damaged; jobs that work, fail and last."""
    folder = tmp_path_factory.mktemp("user")
    save_digits(folder / "digits.npz", 600)
    for name in ("mlflow.db", "later.db"):
        shutil.copy(empty_store, folder / name)
    for name in ("packed", "damaged"):
        assert streamtrain("pack", "digits.npz", name, "--seed", "5", folder=folder).returncode == 0
    shard = next((folder / "damaged" / "train").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-2000] + bytes(2000))
    (folder / "job.py").write_text(JOB)
    (folder / "broken.py").write_text(BROKEN)
    (folder / "diverging.py").write_text(DIVERGING)
    (folder / "of_damaged.py").write_text(JOB.replace('"packed"', '"damaged"'))
    return folder


def said_in_one_line(done: "subprocess.CompletedProcess[str]", command: str) -> str:
    """What the command ended with."""
    assert "Traceback" not in done.stderr, done.stderr
    *_, last = done.stderr.splitlines()
    assert last.startswith(f"streamtrain {command}: "), done.stderr
    return last


def runs(folder: Path) -> set[str]:
    return {each.name for each in (folder / "runs").iterdir()} if (folder / "runs").exists() else set()


def test_the_table_is_the_readmes() -> None:
    rows = re.findall(r"^\| (\d+) \| (.+) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert {int(code): means for code, means in rows} == TABLE


def test_0_done(folder: Path, tmp_path: Path) -> None:
    commands = [
        ("--help",),
        ("--version",),
        ("pack", "digits.npz", str(tmp_path / "packed"), "--splits", "0.9", "0.1", "0"),
        ("inspect", "packed", "--verify", "--audit"),
        ("inspect", "packed", "--lint"),
        ("train", "job.py", "--inline", "--tracking.run-name", "done"),
        ("status",),
        ("sync",),
    ]
    for words in commands:
        done = streamtrain(*words, folder=folder)
        assert done.returncode == 0, (words, done.stderr)
    (run,) = (name for name in runs(folder) if name.startswith("done"))
    assert (folder / "runs" / run / "result.json").exists()


@pytest.mark.parametrize(
    ("words", "command", "says"),
    [
        (("trian",), "", "streamtrain: expected one of pack, "),
        (("pack", "digits.npz", "out", "--nonsense", "1"), "pack", "--nonsense"),
        (("inspect", "packed", "--audit", "--audit-examples", "0"), "inspect", "--audit-examples: expected at least 1"),
        (("train", "job.py", "--batch-size", "0"), "train", "batch_size: expected "),
        (("train", "job.py", "--batch-size", "many"), "train", "many"),
        (("train", "job.py", "--data.target", "colour"), "train", "expected a field 'colour'"),
        (("train", "job.py", "--tracking.uri", "ftp://nowhere"), "train", "ftp"),
        (("train", "no_such_job.py"), "train", "no_such_job.py: expected a job file, found no such file"),
        (("train", "broken.py"), "train", "expected labels from 0 to 2, the model's 3 outputs, found 0 to 9"),
        (("train", "job.py", "--resume=runs/none"), "train", "runs/none"),
        (("compare", "runs/none", "runs/neither", "--uri", "sqlite:///mlflow.db"), "compare", "runs/none"),
        (("submit", "job.py", "--address", "http://127.0.0.1:9"), "submit", "a Ray cluster's job API"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, tuple) else "",
)
def test_2_a_wrong_flag_setting_or_job_file_and_nothing_began(
    folder: Path, words: tuple[str, ...], command: str, says: str
) -> None:
    before = runs(folder)
    done = streamtrain_forked(*words, folder=folder)
    assert done.returncode == 2 and says in done.stderr and "Traceback" not in done.stderr, done.stderr
    if command:
        assert f"streamtrain {command}" in done.stderr, done.stderr
    assert runs(folder) == before and not (folder / "out").exists() and "Ray" not in done.stdout


def test_3_bad_data(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "holes.npz", x=np.array([1.0, np.nan], np.float32))
    done = streamtrain("pack", str(tmp_path / "holes.npz"), str(tmp_path / "out"), folder=folder)
    assert done.returncode == 3 and "expected finite numbers" in said_in_one_line(done, "pack")
    assert not (tmp_path / "out").exists()
    done = streamtrain("inspect", "damaged", "--verify", folder=folder)
    assert done.returncode == 3 and "damaged/train/000000.tar" in said_in_one_line(done, "inspect")
    done = streamtrain("train", "of_damaged.py", folder=folder)
    assert done.returncode == 3 and "000000.tar" in said_in_one_line(done, "train")


def test_3_a_store_that_does_not_give_it(folder: Path) -> None:
    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with served(Empty) as address:
        done = streamtrain("inspect", f"{address}/data", folder=folder)
    assert done.returncode == 3 and f"{address}/data" in said_in_one_line(done, "inspect")
    nobody = f"http://127.0.0.1:{free_port()}/data"
    done = streamtrain("inspect", nobody, folder=folder)
    assert done.returncode == 3 and nobody in said_in_one_line(done, "inspect")


def test_3_what_audit_and_lint_found(folder: Path, tmp_path: Path) -> None:
    write_digits(tmp_path / "sorted", np.argsort(digits(600)[1], kind="stable").tolist())
    done = streamtrain("inspect", str(tmp_path / "sorted"), "--audit", folder=folder)
    assert done.returncode == 3 and "audit: " in done.stdout and not done.stderr
    write_tar(tmp_path / "mixed" / "train" / "0.tar", [(name, b"1") for name in ("a.cls", "b.cls", "a.txt", "b.txt")])
    done = streamtrain("inspect", str(tmp_path / "mixed"), "--lint", folder=folder)
    assert done.returncode == 3 and "0.tar" in done.stdout and not done.stderr


def test_4_a_run_that_began_and_could_not_go_on(folder: Path) -> None:
    done = streamtrain("train", "diverging.py", "--tracking.run-name", "diverged", folder=folder)
    assert done.returncode == 4, done.stderr
    assert "expected a finite loss and gradient" in said_in_one_line(done, "train")
    (run,) = (name for name in runs(folder) if name.startswith("diverged"))
    assert (folder / "runs" / run / "last_good.safetensors").exists()


def test_4_a_cluster_that_refused(folder: Path) -> None:
    """One whose job API answers, and takes nothing."""

    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = self.path == "/api/version"
            self.send_response(200 if known else 500)
            self.end_headers()
            said = b'{"version": "4", "ray_version": "2.60.0", "ray_commit": "", "session_name": "s"}'
            self.wfile.write(said if known else b"no room for jobs")

        do_POST = do_PUT = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with served(Refusing) as address:
        for words in (("submit", "job.py"), ("status",), ("stop", "raysubmit_1"), ("logs", "raysubmit_1")):
            done = streamtrain(*words, "--address", address, folder=folder)
            assert done.returncode == 4, (words, done.stderr)
            assert "no room for jobs" in said_in_one_line(done, words[0])


def test_5_mlflow_has_not_taken_everything(folder: Path) -> None:
    """A server that is not there: its run is journalled, `sync` says that nothing came through, and later delivers."""
    uri = f"http://127.0.0.1:{free_port()}"
    words = ("--tracking.uri", uri, "--tracking.run-name", "unheard", "--tracking.no-log-model")
    done = streamtrain("train", "job.py", "--inline", *words, folder=folder)
    (run,) = (name for name in runs(folder) if name.startswith("unheard"))
    assert re.search(rf"deliver it with streamtrain sync \S+/runs/{run}\n", done.stderr), done.stderr
    assert done.returncode == 5 and "Traceback" not in done.stderr
    assert (folder / "runs" / run / "result.json").exists(), "the run is whole"
    done = streamtrain("sync", f"runs/{run}", folder=folder)
    assert done.returncode == 5 and "1 of 1 journals are not delivered whole" in said_in_one_line(done, "sync")
    done = streamtrain("sync", f"runs/{run}", "--uri", "sqlite:///later.db", folder=folder)
    assert done.returncode == 0, done.stderr


def started(folder: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "streamtrain", *words],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a test run in the background ignores it
    )


def signalled(
    process: "subprocess.Popen[str]", number: signal.Signals, at: tuple[str, ...] = ("first steps after",)
) -> tuple[int, list[str]]:
    """A run that gets a signal once it trains, or at every line that begins so; its exit code and what it said."""
    assert process.stderr is not None
    said = []
    try:
        for line in process.stderr:
            said.append(line)
            if line.startswith(at):
                process.send_signal(number)
        return process.wait(SECONDS), said
    finally:
        process.kill()
        process.communicate()


ENDLESS = ("--mode.max-passes", "1000000", "--mode.patience", "1000000", "--tracking.no-enabled")


def test_6_stopped_by_sigterm_and_resume_goes_on(folder: Path) -> None:
    words = ("train", "job.py", "--inline", "--tracking.run-name", "stopped", *ENDLESS)
    code, said = signalled(started(folder, *words), signal.SIGTERM)
    assert code == 6, said
    assert re.match(r"streamtrain train: stopped by SIGTERM after step [\d,]+; a checkpoint is written", said[-1])
    (run,) = (name for name in runs(folder) if name.startswith("stopped"))
    last = max(int(each.stem) for each in (folder / "runs" / run / "checkpoints").glob("0*.json"))
    passes = str(last // 15 + 2)  # 480 examples in minibatches of 32
    done = streamtrain(*words, "--mode.max-passes", passes, "--resume", folder=folder)
    assert done.returncode == 0 and f"{run}: step {last:,}" in done.stderr, done.stderr


def test_130_ctrl_c(folder: Path) -> None:
    code, said = signalled(
        started(folder, "train", "job.py", "--tracking.run-name", "interrupted", *ENDLESS), signal.SIGINT
    )
    assert code == 130, said
    assert said[-1].startswith("streamtrain train: interrupted; ") and "Traceback" not in "".join(said)


def test_130_ctrl_c_again_while_it_ends(folder: Path) -> None:
    """The second ends the process at once, as a shell's 130, and still without a traceback."""
    words = ("train", "job.py", "--inline", "--tracking.run-name", "interrupted", *ENDLESS)
    at = ("first steps after", "interrupted: ", "streamtrain train: interrupted; ")
    code, said = signalled(started(folder, *words), signal.SIGINT, at)
    assert code in (130, -signal.SIGINT) and "Traceback" not in "".join(said), said


class served:  # noqa: N801 - used like a function
    """An HTTP server on loopback; its address."""

    def __init__(self, handler: type[http.server.BaseHTTPRequestHandler]) -> None:
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)

    def __enter__(self) -> str:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._server.server_port}"

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
