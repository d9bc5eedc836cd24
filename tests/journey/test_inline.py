"""`inline`: the whole run in one process. The same bits as over Ray, nothing of Ray, nothing that is Linux's own."""

import dataclasses
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import streamtrain as st
from streamtrain.errors import ConfigError, Interrupted
from streamtrain.model.machine.fingerprint import take_fingerprint
from tests.support.datasets import pack_digits, save_digits
from tests.support.portable_bits import REFUSAL, has_portable_bits

JOB = """
import torch, streamtrain as st

def model():
    return torch.nn.Sequential(
        torch.nn.Flatten(), torch.nn.Linear(64, 32), torch.nn.BatchNorm1d(32), torch.nn.ReLU(),
        torch.nn.Dropout(0.2), torch.nn.Linear(32, 10))

def scaled(batch):
    return {**batch, "image": batch["image"].float() / 255}

job = st.Job(
    st.Data("DATA", transform=scaled), model, mode=st.Epochs(max_passes=PASSES, patience=PASSES),
    optimizer=OPTIMIZER, batch_size=48, workers=2, lanes=4, tracking=st.Tracking(enabled=False))
"""
WITHOUT_LINUX = """
import builtins, io, os, sys
for name in ("memfd_create", "pidfd_open", "posix_fadvise", *(n for n in dir(os) if n.startswith("sched_"))):
    if hasattr(os, name):
        delattr(os, name)
def of_psutil():  # which asks macOS in its own way
    frame = sys._getframe()
    while frame is not None and not frame.f_globals["__name__"].startswith("psutil"):
        frame = frame.f_back
    return frame is not None
def guarded(opened):
    def without(path=".", *args, **kwargs):
        named = isinstance(path, (str, os.PathLike))
        if named and os.fspath(path).startswith(("/proc", "/dev/shm", "/sys")) and not of_psutil():
            raise FileNotFoundError(2, "no such place on this system", path)
        return opened(path, *args, **kwargs)
    return without
import torch
builtins.open, os.open = guarded(builtins.open), guarded(os.open)
io.open, os.listdir, os.scandir = builtins.open, guarded(os.listdir), guarded(os.scandir)  # as pathlib calls them
os.stat = guarded(os.stat)
from streamtrain.cli.command import main
sys.argv = ["streamtrain", *sys.argv[1:]]
main()
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits") / "digits"
    pack_digits(folder, examples=480)
    return folder


def written(folder: Path, data: Path, passes: int = 2, optimizer: str = "st.SGD()") -> Path:
    file = folder / "job.py"
    file.write_text(JOB.replace("DATA", str(data)).replace("PASSES", str(passes)).replace("OPTIMIZER", optimizer))
    return file


def digest(parameters: dict[str, torch.Tensor]) -> str:
    return hashlib.sha256(b"".join(parameters[name].numpy().tobytes() for name in sorted(parameters))).hexdigest()


def test_inline_gives_the_bits_of_two_workers_over_ray(tmp_path: Path, data: Path, local_ray: None) -> None:
    from streamtrain.prepare.jobfile import load_job

    job = load_job(str(written(tmp_path, data)))
    threads = torch.get_num_threads()
    before = torch.get_rng_state()
    inline = st.train(job, inline=True, quiet=True)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), before)
    over_ray = st.train(job, quiet=True)
    assert digest(inline.parameters) == digest(over_ray.parameters)
    assert [each.generalization.loss.mean for each in inline.evaluations] == [
        each.generalization.loss.mean for each in over_ray.evaluations
    ]


def test_inline_starts_no_process_and_imports_no_ray(tmp_path: Path, data: Path) -> None:
    file = written(tmp_path, data)
    script = (
        "import sys, psutil, streamtrain as st\n"
        "from streamtrain.prepare.jobfile import load_job\n"
        f"st.train(load_job({str(file)!r}), inline=True, quiet=True)\n"
        "print('ray' in sys.modules, len(psutil.Process().children(recursive=True)))\n"
    )
    found = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["False", "0"], found.stderr


def test_inline_needs_nothing_that_only_linux_has(tmp_path: Path, data: Path) -> None:
    """What macOS lacks is taken away: memfd_create, sched_*, pidfd_open, /proc and /dev/shm."""
    words = ["train", str(written(tmp_path, data)), "--inline", "--json"]
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_LINUX, *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["passes"] == 2


def test_pack_and_inspect_need_nothing_that_only_linux_has(tmp_path: Path) -> None:
    save_digits(tmp_path / "digits.npz", 200)
    for words in (["pack", "digits.npz", "packed", "--json"], ["inspect", "packed", "--audit", "--json"]):
        found = subprocess.run(
            [sys.executable, "-c", WITHOUT_LINUX, *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert found.returncode == 0, found.stderr
        assert json.loads(found.stdout)
    opened = WITHOUT_LINUX.split("from streamtrain.cli")[0] + (
        "import streamtrain as st\nprint(sum(len(b['label']) for b in st.open('packed').batches(32, ahead=2)))"
    )
    found = subprocess.run([sys.executable, "-c", opened], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert found.returncode == 0 and found.stdout.strip() == "160", found.stderr


@pytest.mark.parametrize("optimizer", ["st.SGD()", "st.Torch(lambda p: torch.optim.NAdam(p, lr=0.002))"])
def test_sigterm_leaves_a_checkpoint_and_resume_gives_the_same_bits(tmp_path: Path, data: Path, optimizer: str) -> None:
    passes = 25 if "Torch" in optimizer else 60  # its steps take longer, and the run has to last until it is stopped
    whole = tmp_path / "whole"
    whole.mkdir()
    command = [sys.executable, "-m", "streamtrain", "train", "--inline"]

    def run(folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
        words = [*command[:4], str(written(folder, data, passes, optimizer)), *command[4:], *flags]
        return subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False)

    undisturbed = run(whole)
    assert undisturbed.returncode == 0, undisturbed.stderr
    words = [*command[:4], str(written(tmp_path, data, passes, optimizer)), *command[4:]]
    stopped = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert stopped.stderr is not None
    for line in stopped.stderr:
        if line.startswith("pass "):
            stopped.send_signal(signal.SIGTERM)
            break
    stopped.stderr.read()
    assert stopped.wait() == Interrupted.exit_code
    refused = run(tmp_path, "--resume", "--optimizer", "adamw")
    name = "torch" if "Torch" in optimizer else "sgd"
    line = f"train: --resume, optimizer: expected {name}, as the run began, found adamw; set it back"
    assert refused.returncode == ConfigError.exit_code and line in refused.stderr.splitlines()[-1], refused.stderr
    resumed = run(tmp_path, "--resume")
    assert resumed.returncode == 0 and "step" in resumed.stderr, resumed.stderr
    assert parameters_of(whole) == parameters_of(tmp_path)


def parameters_of(folder: Path) -> str:
    (file,) = (folder / "runs").glob("*/parameters.safetensors")
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("settings", "names"),
    [({"aggregation": st.Stale(2)}, "aggregation"), ({"audit_every": 10}, "audit_every")],
)
def test_settings_that_need_several_processes_are_refused(
    tmp_path: Path, data: Path, settings: dict[str, object], names: str
) -> None:
    from streamtrain.prepare.jobfile import load_job

    job = dataclasses.replace(load_job(str(written(tmp_path, data))), **settings)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=f"--inline, {names}: expected"):
        st.train(job, inline=True, quiet=True)
    assert not os.listdir(tmp_path) or not (tmp_path / "runs").exists()


def test_portable_bits_begin_the_command_anew_with_the_libraries_switches(tmp_path: Path, data: Path) -> None:
    words = [sys.executable, "-m", "streamtrain", "train", str(written(tmp_path, data)), "--inline", "--bits"]
    found = subprocess.run([*words, "portable"], cwd=tmp_path, capture_output=True, text=True, check=False)
    if has_portable_bits():
        assert found.returncode == 0, found.stderr
    else:
        assert found.returncode == 2 and REFUSAL in found.stderr.splitlines()[-1], found.stderr


def test_a_process_is_given_back_as_it_was_where_its_fleet_cannot_begin(tmp_path: Path, data: Path) -> None:
    """Its bits would differ from those of the run that goes on."""
    from streamtrain.prepare.jobfile import load_job
    from streamtrain.prepare.plan import plan
    from streamtrain.run.fleet.inline import InlineFleet, alone

    plans = plan(alone(load_job(str(written(tmp_path, data)))))
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        mine = take_fingerprint(plans.job)
        other = dataclasses.replace(mine, facts={**mine.facts, "kernels": "of another machine"})
        before = torch.get_rng_state()
        with pytest.raises(ConfigError, match="bits: expected what the run began with"):
            InlineFleet(plans, began=other)
        assert torch.get_num_threads() == threads + 1 and torch.equal(torch.get_rng_state(), before)
        assert not torch.are_deterministic_algorithms_enabled()
    finally:
        torch.set_num_threads(threads)
